"""Files are written beside their destination and moved there once they are whole."""

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import CheckpointError, UserError

HALF_WRITTEN = '.part-'  # stands in the names of files that are being written


def check_writable(folder: str | os.PathLike[str], name: str, option: str = '') -> None:
    """Make a folder if it is not there, and raise `UserError` if nothing can be written into it.

    Args:
        folder: its path.
        name: what it is.
        option: of the command line, by which another can be named.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        way = f'; name another with {option}' if option else ''
        raise UserError(f'the {name} {folder} cannot be written ({error.strerror}){way}') from error


def write_checkpoint(checkpoint: Any, path: str | os.PathLike[str]) -> None:
    """Write with `torch.save`; `path` keeps its old content until the new one is whole.

    Raises:
        CheckpointError: if it cannot be written, or its name is that of another format.
    """
    if Path(path).suffix == '.safetensors':
        raise CheckpointError(f'{path}: what is written is not safetensors; name a .pth file')
    try:
        write_atomically(path, lambda file: torch.save(checkpoint, file))
    except OSError as error:
        raise CheckpointError(f'cannot write {path}: {error}') from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a new file beside `path` and move it there once it is on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}{HALF_WRITTEN}{secrets.token_hex(4)}')
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
