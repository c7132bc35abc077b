"""The work dir of a training: for one process at a time, with files that are written whole."""

import errno
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend

from ..errors import UserError
from ..files import HALF_WRITTEN, StrPath, write_atomically

_LOCK = '.lock'


class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written under another name first and then moved into place.

    mmengine's checkpoint hook removes the oldest checkpoint before it writes the next; here a
    checkpoint goes only after the next one is whole.
    """

    _outdated: list[Path] = []  # noqa: RUF012  shared by all instances, as is the disk

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write `obj`; `filepath` is the old file or the whole new one, never a part of it."""
        write_atomically(filepath, lambda file: file.write(obj))
        if Path(filepath).suffix == '.pth':
            self.remove_outdated(but=filepath)

    @classmethod
    def remove_outdated(cls, but: str | Path) -> None:
        """Remove the checkpoints whose removal waited until `but` was written."""
        while cls._outdated:
            if (path := cls._outdated.pop()) != Path(but):
                _remove(path)

    def rmtree(self, dir_path: str | Path) -> None:
        """Remove a folder; a checkpoint stays until the next one is written."""
        if Path(dir_path).suffix == '.pth':
            self._outdated.append(Path(dir_path))
        else:
            super().rmtree(dir_path)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file; a checkpoint stays until the next one is written."""
        if Path(filepath).suffix == '.pth':
            self._outdated.append(Path(filepath))
        else:
            super().remove(filepath)


def use_whole_files() -> None:
    """Make mmengine write local files atomically."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def lock(work_dir: StrPath) -> Any:
    """Keep a second training out of a work dir.

    Returns:
        the open file that holds the lock until it is closed or this process ends, in whatever way;
        ``None`` where there are no locks (Windows, some network file systems).

    Raises:
        UserError: if another process trains in it.
    """
    if os.name != 'posix':
        return None
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # a link may point to any file
    try:
        file = os.fdopen(os.open(Path(work_dir, _LOCK), flags, 0o666), 'a+')
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f'{Path(work_dir, _LOCK)} is a link; delete it') from error
        raise
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        raise UserError(
            f'another training, {file.read().strip()}, writes into {work_dir}; wait until it has '
            'ended, or name another folder with --work-dir'
        ) from error
    except OSError:
        return None
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}')
    file.flush()
    return file


def remove_half_written(work_dir: StrPath) -> None:
    """Remove the partial checkpoints of processes that were killed while writing."""
    for path in Path(work_dir).glob(f'.*.pth{HALF_WRITTEN}*'):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
