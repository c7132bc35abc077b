"""Folders that are walked through, and files that are written whole or not at all."""

import errno
import os
import sys
import tempfile

import pytest

from mmswinv2.errors import UserError
from mmswinv2.files import atomic_file, find, walk, write_atomically
from tests.tool_server import run_program


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_told_with_the_file(number, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    (tmp_path / 'a.txt').write_text('old')
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match=f"{os.strerror(number)}: '{tmp_path}/a.txt'$"):
        write_atomically(tmp_path / 'a.txt', lambda file: file.write(b'new'))
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_text() == 'old'


AS_NOBODY = """
import os, sys
from mmswinv2.files import write_atomically
os.setuid(65534)
try:
    write_atomically(sys.argv[1] + '/a.txt', lambda file: None)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() != 0, reason='needs another user')
def test_a_folder_of_another_user_is_told_with_the_file():
    with tempfile.TemporaryDirectory() as folder:  # all may enter the one above, unlike tmp_path's
        os.chmod(folder, 0o755)
        run = run_program([sys.executable, '-c', AS_NOBODY, folder])
    assert run.stdout == f"[Errno 13] Permission denied: '{folder}/a.txt'\n", run.stderr


def test_an_error_of_what_writes_is_left_as_it_is(tmp_path):
    def fail(_):
        raise OSError('the connection ended')

    with pytest.raises(OSError, match='^the connection ended$'):
        write_atomically(tmp_path / 'a.txt', fail)


def test_a_file_is_replaced_at_the_end_of_the_block_alone(tmp_path):
    target, link = tmp_path / 'target.mp4', tmp_path / 'link.mp4'
    target.write_bytes(b'old')
    target.chmod(0o640)
    link.symlink_to(target)
    with pytest.raises(ZeroDivisionError), atomic_file(link, keep_suffix=True) as part:
        part.write_bytes(b'half')
        raise ZeroDivisionError
    assert {path.name for path in tmp_path.iterdir()} == {'target.mp4', 'link.mp4'}
    with atomic_file(link, keep_suffix=True) as part:
        part.write_bytes(b'new')
        assert part.suffix == '.mp4' and target.read_bytes() == b'old'
    assert {path.name for path in tmp_path.iterdir()} == {'target.mp4', 'link.mp4'}
    assert link.is_symlink() and target.read_bytes() == b'new'
    assert target.stat().st_mode & 0o777 == 0o640


def test_the_suffix_is_that_of_the_name_and_not_of_what_a_link_leads_to(tmp_path):
    (tmp_path / 'a.mp4').symlink_to(tmp_path / 'object-0123')
    with atomic_file(tmp_path / 'a.mp4', keep_suffix=True) as part:
        part.write_bytes(b'new')
        assert part.suffix == '.mp4'
    assert (tmp_path / 'object-0123').read_bytes() == b'new' and (tmp_path / 'a.mp4').is_symlink()


def test_files_that_systems_write_are_left_out(tmp_path):
    names = ('a.py', 'b/c.py', '.hidden/d.py', '._a.py', 'b/._c.py', '__MACOSX/._a.py')
    names += ('@eaDir/a.py/THUMB.py', '.AppleDouble/a.py', 'b/.ipynb_checkpoints/c.py')
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {str(path.relative_to(tmp_path)) for path in walk(tmp_path)}
    assert found == {'a.py', 'b/c.py', '.hidden/d.py'}
    assert find(tmp_path, '*.py') == [tmp_path / 'a.py']
    assert [path.name for path in walk(tmp_path / '@eaDir')] == ['THUMB.py']  # named by the user


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    of_disks = ('lost+found', '.Trash-1001', '.Trashes', '.Spotlight-V100', '$RECYCLE.BIN')
    of_disks += ('System Volume Information', '.fseventsd', '.DocumentRevisions-V100')
    for name in ('a', 'secret', *of_disks):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'x.jpg').touch()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) in ('secret', *of_disks):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(UserError, match=f'{tmp_path}/secret cannot be read .Permission denied.'):
        list(walk(tmp_path))
    (tmp_path / 'secret').rename(tmp_path.parent / 'secret')
    assert list(walk(tmp_path)) == [tmp_path / 'a/x.jpg']
