import os
import signal
import subprocess
import sys

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmswinv2.checkpoints import CheckpointError
from mmswinv2.engine.start import last_good_checkpoint
from mmswinv2.engine.storage import AtomicLocalBackend, lock, remove_half_written, use_whole_files
from mmswinv2.errors import UserError
from tests.test_checkpoints.conftest import Evil

# the system ends a process whose file grows beyond the limit, in the middle of the file
KILLED_WHILE_WRITING = """
import resource, signal, sys
from mmswinv2.engine.storage import AtomicLocalBackend

backend = AtomicLocalBackend()
backend.remove(sys.argv[1] + '/iter_1.pth')  # as mmengine's hook does with max_keep_ckpts=1
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
backend.put(b'x' * 1000, sys.argv[1] + '/' + sys.argv[2])
"""


def save(path):
    torch.save({'value': 1}, path)
    return path


@pytest.mark.parametrize('target', ['iter_1.pth', 'iter_2.pth'])
def test_a_process_killed_while_writing_takes_nothing_along(tmp_path, target):
    good = save(tmp_path / 'iter_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(good))
    run = subprocess.run([sys.executable, '-c', KILLED_WHILE_WRITING, str(tmp_path), target])
    assert run.returncode == -signal.SIGXFSZ
    assert last_good_checkpoint(tmp_path) == good
    assert torch.load(good) == {'value': 1}
    assert not (tmp_path / 'iter_2.pth').exists()


def test_outdated_checkpoints_go_once_the_next_is_whole(tmp_path):
    backend = AtomicLocalBackend()
    old = save(tmp_path / 'iter_1.pth')
    backend.remove(old)
    assert old.exists()
    backend.put(b'new', tmp_path / 'iter_2.pth')
    assert not old.exists()
    assert (tmp_path / 'iter_2.pth').read_bytes() == b'new'
    backend.put(b'text', tmp_path / 'log.txt')
    backend.remove(tmp_path / 'log.txt')
    assert not (tmp_path / 'log.txt').exists()


def test_other_files_are_removed_as_by_mmengine(tmp_path):
    backend = AtomicLocalBackend()
    with pytest.raises(FileNotFoundError):
        backend.remove(tmp_path / 'none.json')
    (tmp_path / 'folder').mkdir()
    with pytest.raises(IsADirectoryError):
        backend.remove(tmp_path / 'folder')
    backend.rmtree(dir_path=tmp_path / 'folder')
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_removes_nothing(tmp_path, monkeypatch):
    backend = AtomicLocalBackend()
    old = save(tmp_path / 'iter_1.pth')
    backend.remove(old)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'disk full')))
        with pytest.raises(OSError, match='disk full'):
            backend.put(b'new', tmp_path / 'iter_2.pth')
    assert [p.name for p in tmp_path.iterdir()] == ['iter_1.pth']
    backend.put(b'new', old)  # rewritten under the name to be removed
    assert old.read_bytes() == b'new'


def test_what_a_killed_process_left_behind(tmp_path):
    KILLED = [sys.executable, '-c', KILLED_WHILE_WRITING, str(tmp_path), 'iter_2.pth']
    save(tmp_path / 'iter_1.pth')
    subprocess.run(KILLED)
    assert len(list(tmp_path.iterdir())) == 2
    remove_half_written(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['iter_1.pth']


def test_an_address_runs_no_code(tmp_path, address, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    evil = Evil(os.system, f'touch {tmp_path}/ran')
    torch.save({'state_dict': evil}, tmp_path / 'evil.pth')
    save(tmp_path / 'good.pth')
    use_whole_files()
    assert CheckpointLoader.load_checkpoint(f'{address}/good.pth', 'cpu')['value'] == 1
    with pytest.raises(CheckpointError, match='would run code from the file'):
        CheckpointLoader.load_checkpoint(f'{address}/evil.pth', 'cpu')
    assert not (tmp_path / 'ran').exists()


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / 'other.txt').write_text('kept')
    (tmp_path / '.lock').symlink_to(tmp_path / 'other.txt')
    with pytest.raises(UserError, match=r'\.lock is a link; delete it'):
        lock(tmp_path)
    assert (tmp_path / 'other.txt').read_text() == 'kept'
