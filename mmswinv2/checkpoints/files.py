"""Checkpoint files: fetch, read without running code, write without half-written results."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse
from urllib.request import urlopen
from zipfile import is_zipfile

import torch
from torch import Tensor

from ..errors import CheckpointError

__all__ = [
    'HALF_WRITTEN',
    'fetch',
    'fetch_together',
    'harmless_globals',
    'read_checkpoint',
    'write_checkpoint',
    'write_whole',
]

HALF_WRITTEN = '.part-'  # stands in the names of files that are being written

# What mmengine's own checkpoints hold besides tensors: logged scalars, as numpy arrays.
_DTYPES = ('Bool', 'Int8', 'Int16', 'Int32', 'Int64', 'UInt8', 'Float16', 'Float32', 'Float64')
_HARMLESS = (
    'collections.defaultdict',
    'collections.deque',
    'mmengine.logging.history_buffer.HistoryBuffer',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy.ndarray',
    'numpy.dtype',
    *(f'numpy.dtypes.{name}DType' for name in (*_DTYPES, 'Str')),
)


def fetch(source: str | os.PathLike[str]) -> Path:
    """Return the local path of `source`, downloading an ``http(s)://`` address once.

    Downloads go to torch's hub folder (``$TORCH_HOME/hub/checkpoints``), to a folder of their own
    for each address, and appear there whole.

    Raises:
        CheckpointError: if the address cannot be read, or is of another kind.
    """
    text = os.fspath(source)
    if '://' not in text:
        return Path(text).expanduser()
    if not text.startswith(('http://', 'https://')):
        raise CheckpointError(f'{text}: only files and http(s) addresses can be read')
    folder = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = Path(torch.hub.get_dir(), 'checkpoints', folder, Path(urlparse(text).path).name)
    if not path.exists():
        try:
            with urlopen(text, timeout=60) as response:
                write_whole(path, lambda file: _copy(response, file))
        except (OSError, HTTPException) as error:
            raise CheckpointError(
                f'cannot download {text} ({error}); download it by other means and put it at {path}'
            ) from error
    return path


def fetch_together(source: str | os.PathLike[str]) -> Path:
    """As `fetch`, called by all processes of a run: one of each machine downloads.

    Raises:
        CheckpointError: see `fetch`.
    """
    if int(os.environ.get('LOCAL_RANK', 0)) == 0:
        fetch(source)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    return fetch(source)


def _copy(response: Any, file: IO[bytes]) -> None:
    shutil.copyfileobj(response, file)
    expected = response.headers.get('Content-Length')
    if expected is not None and file.tell() != int(expected):
        raise OSError(f'the connection ended after {file.tell()} of {expected} bytes')


def read_checkpoint(path: str | os.PathLike[str], mmap: bool = False) -> Any:
    """Read a ``.safetensors`` file or one written by `torch.save`, running no code from it.

    A folder that DeepSpeed wrote is read by `sharded.read_sharded`.

    Args:
        path: the file.
        mmap: leave tensors on the disk until they are used, where the file allows it.

    Raises:
        CheckpointError: if the file is missing, truncated, or holds objects that only code could
            restore.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f'checkpoint {path} does not exist')
    if path.is_dir():
        from .sharded import read_sharded

        return read_sharded(path)
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    known = torch.serialization.get_safe_globals()  # leaving the context would forget them
    try:
        with torch.serialization.safe_globals([g for g in harmless_globals() if g not in known]):
            return torch.load(
                path, map_location='cpu', weights_only=True, mmap=mmap and is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        if 'global' not in str(error).lower():
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f'{path} holds more than tensors, and restoring the rest would run code from the file. '
            'If you trust where it comes from, keep its weights alone: '
            f"`ckpt = torch.load('{path.name}', weights_only=False); "
            "torch.save({'model': ckpt['model']}, 'weights.pth')` "
            f'(or `state_dict` in place of `model`). torch says: {_first_line(error)}'
        ) from error
    except Exception as error:  # a damaged pickle may end in any
        raise _unreadable(path, error) from error


def harmless_globals(
    names: Iterable[str] = _HARMLESS,
) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What restoring mmengine's own checkpoints needs, as far as it is installed.

    Args:
        names: of classes and functions, with their modules.

    Returns:
        objects and the names under which files ask for them, for `torch.serialization`.
    """
    found: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_statistic, 'builtins.getattr')
    ]
    for name in names:
        module, _, attribute = name.rpartition('.')
        try:
            target = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
        found += [(target, name), (target, name.replace('numpy._core', 'numpy.core'))]
    return list(dict.fromkeys(found))


def _statistic(cls: type, name: str) -> Any:
    """Stands in for `getattr`, with which a `HistoryBuffer` names its statistics."""
    if cls.__name__ == 'HistoryBuffer' and name in ('min', 'max', 'current', 'mean'):
        return getattr(cls, name)
    raise pickle.UnpicklingError(f'global getattr({cls}, {name!r}) is not allowed')


def write_checkpoint(checkpoint: Any, path: str | os.PathLike[str]) -> None:
    """Write with `torch.save`; `path` keeps its old content until the new one is whole."""
    try:
        write_whole(path, lambda file: torch.save(checkpoint, file))
    except OSError as error:
        raise CheckpointError(f'cannot write {path}: {error}') from error


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a new file beside `path` and move it there once it is on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}{HALF_WRITTEN}')
    try:
        with os.fdopen(handle, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f'{path} needs `pip install safetensors`') from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f'{path} ({path.stat().st_size} bytes) is truncated or no checkpoint; fetch or write it '
        f'again. torch says: {_first_line(error)}'
    )


def _first_line(error: Exception) -> str:
    """What torch found, without its advice to run the file's code."""
    lines = (str(error).strip() or repr(error)).splitlines()
    found = [line for line in lines if 'Unpickler error:' in line] or lines
    return found[0].strip().split(' Please use ')[0].split(' This file can still')[0]
