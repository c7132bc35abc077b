import os
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from mmswinv2.checkpoints import CheckpointError
from mmswinv2.engine import storage
from mmswinv2.engine.storage import (
    AtomicLocalBackend,
    last_good_checkpoint,
    lock,
    remove_half_written,
    set_resume,
    use_whole_files,
)
from mmswinv2.errors import UserError

KILLED_WHILE_WRITING = """
import os, signal, sys
from mmswinv2.engine.storage import AtomicLocalBackend

write = os.fdopen
def half_open(handle, mode):
    file = write(handle, mode)
    class Half:
        def __enter__(self): return self
        def __exit__(self, *a): file.close()
        def write(self, data):
            file.write(data[:len(data) // 2]); file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    return Half()
os.fdopen = half_open
backend = AtomicLocalBackend()
backend.remove(sys.argv[1] + '/iter_1.pth')  # as mmengine's hook does with max_keep_ckpts=1
backend.put(b'x' * 1000, sys.argv[1] + '/' + sys.argv[2])
"""


def save(path, value=1):
    torch.save({'value': value}, path)
    return path


@pytest.mark.parametrize('target', ['iter_1.pth', 'iter_2.pth'])
def test_a_process_killed_while_writing_takes_nothing_along(tmp_path, target):
    good = save(tmp_path / 'iter_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(good))
    run = subprocess.run([sys.executable, '-c', KILLED_WHILE_WRITING, str(tmp_path), target])
    assert run.returncode == -signal.SIGKILL
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


def test_last_good_checkpoint(tmp_path):
    assert last_good_checkpoint(tmp_path) is None
    for i, name in enumerate(['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']):
        save(tmp_path / name)
        os.utime(tmp_path / name, (i, i))
    (tmp_path / 'last_checkpoint').write_text('')  # as if killed while writing it
    assert last_good_checkpoint(tmp_path).name == 'epoch_3.pth'
    whole = (tmp_path / 'epoch_3.pth').read_bytes()
    (tmp_path / 'epoch_3.pth').write_bytes(whole[:-50])
    assert last_good_checkpoint(tmp_path).name == 'epoch_2.pth'
    (tmp_path / 'last_checkpoint').write_text('/gone/with/the/old/disk/epoch_1.pth')
    assert last_good_checkpoint(tmp_path).name == 'epoch_1.pth'


@pytest.mark.parametrize('other', [{'meta': 5}, {'log': partial(print)}], ids=['meta', 'code'])
@pytest.mark.parametrize('resume', ['auto', None])
def test_a_whole_checkpoint_that_is_refused_lets_no_run_start_anew(tmp_path, other, resume):
    torch.save({'meta': {'iter': 1}}, tmp_path / 'iter_1.pth')
    torch.save(other, tmp_path / 'iter_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    set_resume(cfg, resume)
    with pytest.raises(CheckpointError, match=r'iter_2.pth.* (meta must be|more than tensors)'):
        storage.look_at_checkpoint(cfg, Path(cfg.load_from))


def test_copies_are_as_old_as_what_they_are_copied_from(tmp_path):
    """Copies of a work dir have other times, and the last of them need not be the newest."""
    times = {'epoch_1.pth': (1, 100), 'epoch_2.pth': (2, 200), 'epoch_10.pth': (2, 1000)}
    times['iter_9000.pth'] = (0, 9000)  # of an earlier and longer training
    for i, (name, (day, number)) in enumerate(times.items()):
        torch.save({'meta': {'time': f'2026010{day}_000000', 'iter': number}}, tmp_path / name)
        os.utime(tmp_path / name, (100 - i, 100 - i))
    # as mmcv 1 writes it
    torch.save({'meta': {'time': 'Mon Nov 24 12:00:00 2025'}}, tmp_path / 'epoch_99.pth')
    os.utime(tmp_path / 'epoch_99.pth', (1, 1))
    assert last_good_checkpoint(tmp_path).name == 'epoch_10.pth'
    (tmp_path / 'epoch_10.pth').write_bytes((tmp_path / 'epoch_2.pth').read_bytes()[:-50])
    assert last_good_checkpoint(tmp_path).name == 'epoch_2.pth'


def test_a_folder_to_resume_from_stands_for_its_latest_checkpoint(tmp_path, monkeypatch):
    cfg = Config(dict(work_dir=str(tmp_path / 'new')))
    with pytest.raises(UserError, match=rf'--resume: {tmp_path} has no checkpoint to resume from'):
        set_resume(cfg, str(tmp_path))
    good = save(tmp_path / 'epoch_1.pth')
    set_resume(cfg, str(tmp_path))
    assert cfg.resume is True and cfg.load_from == str(good)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'auto').mkdir()  # the word stands for the work dir all the same
    with pytest.raises(UserError, match='new has no checkpoint'):
        set_resume(cfg, 'auto')


def test_a_file_to_resume_from_that_is_not_there(tmp_path):
    save(tmp_path / 'iter_2.pth')
    for name in ('iter_2.pth', 'latest'):
        with pytest.raises(UserError, match=f'--resume: {name} does not .* work dir.*iter_2.pth'):
            set_resume(Config(dict(work_dir=str(tmp_path))), name)


NOTES = {
    'UTF-16': 'epoch_1.pth'.encode('utf-16'),
    'bytes': b'\xff\xfe\x80',
    'zero': b'epoch_1.pth\0x',
    'too long': b'a' * 5000,
    'address': b'http://127.0.0.1:9/x.pth',
    'lines': b'epoch_1.pth\nepoch_2.pth',
    'pipe': None,
}


@pytest.mark.parametrize('note', NOTES.values(), ids=NOTES)
def test_a_last_checkpoint_that_names_none(note, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(storage, 'print_log', lambda text, **_: said.append(text))
    good = save(tmp_path / 'epoch_1.pth')
    (tmp_path / 'epoch_2.pth').symlink_to('/nowhere')
    if note is None:
        os.mkfifo(tmp_path / 'last_checkpoint')
    else:
        (tmp_path / 'last_checkpoint').write_bytes(note)
    for options, path in ((dict(), 'auto'), (dict(resume=True), None)):
        cfg = Config(dict(work_dir=str(tmp_path), **options))
        set_resume(cfg, path)
        assert cfg.resume is True and cfg.load_from == str(good)
    assert 'last_checkpoint names no checkpoint that is there' in said[0]
    good.unlink()
    set_resume(cfg := Config(dict(work_dir=str(tmp_path), resume=True)), None)
    assert cfg.load_from is None and cfg.resume is False  # starts from scratch, as mmengine does


class Touch:
    """Pickled as a call of a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_an_address_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    (tmp_path / 'files').mkdir()
    torch.save({'state_dict': Touch(tmp_path / 'ran')}, tmp_path / 'files/evil.pth')
    save(tmp_path / 'files/good.pth')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / 'files'))
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_whole_files()
    try:
        url = f'http://127.0.0.1:{server.server_port}'
        assert CheckpointLoader.load_checkpoint(f'{url}/good.pth', 'cpu')['value'] == 1
        with pytest.raises(CheckpointError, match='would run code from the file'):
            CheckpointLoader.load_checkpoint(f'{url}/evil.pth', 'cpu')
    finally:
        server.shutdown()
        server.server_close()
    assert not (tmp_path / 'ran').exists()


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / 'other.txt').write_text('kept')
    (tmp_path / '.lock').symlink_to(tmp_path / 'other.txt')
    with pytest.raises(UserError, match=r'\.lock is a link; delete it'):
        lock(tmp_path)
    assert (tmp_path / 'other.txt').read_text() == 'kept'
