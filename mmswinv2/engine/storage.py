"""Writing checkpoints so that a process that dies never takes the last good one with it."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local

from ..checkpoints.files import (
    HALF_WRITTEN,
    is_deepspeed_folder,
    read_deepspeed_folder,
    write_atomically,
)

__all__ = [
    'AtomicLocalBackend',
    'last_good_checkpoint',
    'read_folders',
    'remove_half_written',
    'write_files_whole',
]


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
        """Remove the checkpoints that waited for `but` to be written."""
        while cls._outdated:
            if (path := cls._outdated.pop()) != Path(but):
                _remove(path)

    def rmtree(self, dir_path: str | Path) -> None:
        """Remove a folder; a checkpoint waits until the next one is written."""
        if Path(dir_path).suffix == '.pth':
            self._outdated.append(Path(dir_path))
        else:
            super().rmtree(dir_path)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file; a checkpoint waits until the next one is written."""
        if Path(filepath).suffix == '.pth':
            self._outdated.append(Path(filepath))
        else:
            super().remove(filepath)


def write_files_whole() -> None:
    """Make `AtomicLocalBackend` the backend of local paths in this process."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def read_folders() -> None:
    """Let mmengine read the folders that DeepSpeed wrote like files."""
    CheckpointLoader.register_scheme(prefixes='', loader=_read, force=True)


def _read(filename: str, map_location: Any = None) -> Any:
    if is_deepspeed_folder(filename):
        return read_deepspeed_folder(filename)
    return load_from_local(filename, map_location)


def remove_half_written(work_dir: str | os.PathLike[str]) -> None:
    """Remove what processes killed while they wrote a checkpoint have left behind."""
    for path in Path(work_dir).glob(f'.*.pth{HALF_WRITTEN}*'):
        _remove(path)


def last_good_checkpoint(work_dir: str | os.PathLike[str]) -> Path | None:
    """The checkpoint to resume from: the one in ``last_checkpoint``, else the newest whole one.

    Returns:
        its path, or ``None`` if the folder has none.
    """
    folder = Path(work_dir)
    candidates = sorted(
        [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')],
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    note = folder / 'last_checkpoint'
    if note.exists() and (noted := note.read_text().strip()):
        here = folder / Path(noted).name  # the folder may have been moved since
        candidates.insert(0, here if here.exists() else Path(noted))
    for path in candidates:
        if _is_whole(path):
            return path
        print_log(f'{path} is missing or cut short; trying an older one', logger='current')
    return None


def _is_whole(path: Path) -> bool:
    """Whether torch's archives have their ends; a folder of DeepSpeed's has several."""
    files = sorted(path.glob('*.pt')) if path.is_dir() else [path]
    return bool(files) and all(file.exists() and zipfile.is_zipfile(file) for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
