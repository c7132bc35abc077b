import os
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmswinv2.checkpoints import CheckpointError
from mmswinv2.engine import start
from mmswinv2.engine.start import last_good_checkpoint, set_resume
from mmswinv2.errors import UserError
from tests.test_engine.test_storage import save


def test_last_good_checkpoint(tmp_path, log):
    assert last_good_checkpoint(tmp_path) is None
    for i, name in enumerate(['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']):
        save(tmp_path / name)
        os.utime(tmp_path / name, (i, i))
    (tmp_path / 'last_checkpoint').write_text('')  # as if killed while writing it
    assert last_good_checkpoint(tmp_path).name == 'epoch_3.pth'
    whole = (tmp_path / 'epoch_3.pth').read_bytes()
    (tmp_path / 'epoch_3.pth').write_bytes(whole[:-50])
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    assert last_good_checkpoint(tmp_path).name == 'epoch_2.pth'
    assert 'epoch_3.pth is missing or cut short; trying an older one' in log()
    (tmp_path / 'last_checkpoint').write_text('/gone/with/the/old/disk/epoch_1.pth')
    assert last_good_checkpoint(tmp_path).name == 'epoch_1.pth'
    (tmp_path / 'iter_7.pth').mkdir()  # of DeepSpeed, which was killed before it wrote into it
    (tmp_path / 'last_checkpoint').write_text('iter_7.pth')
    assert last_good_checkpoint(tmp_path).name == 'epoch_2.pth'


@pytest.mark.parametrize('other', [{'meta': 5}, {'log': partial(print)}], ids=['meta', 'code'])
@pytest.mark.parametrize('resume', ['auto', None])
def test_a_whole_checkpoint_that_is_refused_lets_no_run_start_anew(tmp_path, other, resume):
    torch.save({'meta': {'iter': 1}}, tmp_path / 'iter_1.pth')
    torch.save(other, tmp_path / 'iter_2.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    set_resume(cfg, resume)
    with pytest.raises(CheckpointError, match=r'iter_2.pth.* (meta must be|more than tensors)'):
        start.look_at_checkpoint(cfg, Path(cfg.load_from))


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
    for name in (str(tmp_path / 'iter_2.pth'), 'https://example.org/iter_2.pth'):
        set_resume(cfg := Config(dict(work_dir=str(tmp_path))), name)
        assert cfg.resume is True and cfg.load_from == name


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
    monkeypatch.setattr(start, 'print_log', lambda text, **_: said.append(text))
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
