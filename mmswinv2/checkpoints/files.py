"""Checkpoint files: read without running code from them.

A checkpoint is one file, or a folder as DeepSpeed's ZeRO writes it, in which every rank has put its
part of the float32 weights and of the optimizer's state.
"""

import functools
import json
import os
import reprlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import StrPath, find, write_atomically
from .pickles import harmless_globals, load_without_code
from .published import PUBLISHED
from .unreadable import unreadable

_DEEPSPEED_MODEL = '*model_states.pt'
# What DeepSpeed's hold besides tensors: plain records.
_HARMLESS_DEEPSPEED = (
    'deepspeed.runtime.zero.config.ZeroStageEnum',
    'deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler',
    'deepspeed.runtime.fp16.loss_scaler.LossScaler',
    'deepspeed.utils.tensor_fragment.fragment_address',
)

# Names of weights in folders that transformers, timm and others write, in the order of preference.
_IN_FOLDERS = (
    'model.safetensors', 'model.safetensors.index.json',
    'pytorch_model.bin', 'pytorch_model.bin.index.json',
)  # fmt: skip


Forms = Mapping[str, tuple[Callable[[Any], bool], str]]  # entry: its check, and its form in words


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: value is None or isinstance(value, kinds)


def _are_rows(value: Any) -> bool:
    if value is None or getattr(value, 'shape', ())[1:] == (3,):
        return True
    return isinstance(value, (list, tuple)) and all(
        isinstance(row, (list, tuple)) and len(row) == 3 for row in value
    )


def are_windows(value: Any) -> bool:
    """Whether an entry of a file has windows, by stage and axis; ``None`` is right, too."""
    return _is_a(Mapping)(value) and all(
        str(stage).isdecimal()
        and isinstance(window, (list, tuple))
        and all(type(size) is int and size > 0 for size in window)
        for stage, window in (value or {}).items()
    )


# Entries that a checkpoint may lack; if there, they must be of these forms.
_FORMS: Forms = {
    'meta': (_is_a(Mapping), 'a dict'),
    'meta.dataset_meta': (_is_a(Mapping, list, tuple), 'a dict, or several'),
    'meta.dataset_meta.classes': (_is_a(list, tuple), 'a list of names'),
    'meta.dataset_meta.palette': (_are_rows, 'a list of colors (R, G, B)'),
    'meta.pretrained_window_sizes': (are_windows, 'a dict of stages and their windows'),
}


def check_forms(found: Any, forms: Forms, words: str) -> None:
    """Raise `CheckpointError` if an entry of what was read is of another form.

    Names in `forms` have dots for nested dicts.
    """
    for name, (is_right, form) in forms.items():
        value = found
        for part in name.split('.'):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not is_right(value):
            got = 'there is none' if value is None else f'got {reprlib.repr(value)}'
            raise CheckpointError(f'{words} {name} must be {form}, {got}')


def read_checkpoint(path: StrPath, mmap: bool = False) -> Any:
    """Read a checkpoint to the CPU, running no code from it.

    Args:
        path: a ``.safetensors`` file, one written by `torch.save`, an ``.index.json`` beside the
            files of weights in several parts, as transformers writes them, a folder of its
            ``save_pretrained``, or one of DeepSpeed's (see `read_deepspeed_folder`).
        mmap: leave tensors on the disk until they are used, where the file allows it.

    Raises:
        CheckpointError: if the file is missing, truncated, no dict, or holds objects that only code
            could restore.
    """
    path = Path(path)
    found = _read(path, mmap)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f'{path}: no weights found; it holds one {type(found).__name__}, and a checkpoint is a '
            'dict, of tensors or with a dict of tensors in it, as torch.save(model.state_dict(), '
            'FILE) writes it'
        )
    check_forms(found, _FORMS, f'{path}:')
    return found


def _read(path: Path, mmap: bool) -> Any:
    """Read a file or folder by its kind; see `read_checkpoint`."""
    if not path.exists():
        known = path.stem in PUBLISHED
        hint = f'; the name {path.stem} alone, as published, is downloaded' if known else ''
        raise CheckpointError(f'checkpoint {path} does not exist{hint}')
    if path.is_dir():
        files = [] if is_deepspeed_folder(path) else [path / name for name in _IN_FOLDERS]
        file = next((file for file in files if file.exists()), None)
        return read_deepspeed_folder(path) if file is None else _read(file, mmap)
    if not path.is_file():  # reading a pipe would wait for ever
        raise CheckpointError(f'checkpoint {path} is no regular file; copy it to one')
    if path.name == 'last_checkpoint' and not is_zipfile(path):
        named = path.read_bytes()[:500].decode(errors='replace').strip()
        raise CheckpointError(f'{path} is a text that names the last checkpoint; use {named}')
    if path.suffix.lower() == '.safetensors':
        return _read_safetensors(path)
    if path.name.endswith('.index.json'):
        return _read_parts(path, mmap)
    try:
        stat = path.stat()
        _check_sums(path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return load_without_code(path, 'cpu', mmap=mmap and is_zipfile(path))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle may raise any exception
        raise unreadable(path, error) from error


@functools.lru_cache(maxsize=256)
def _check_sums(path: Path, *state: int) -> None:
    """Raise `BadZipFile` if a member of an archive does not match its check sum.

    torch does not verify check sums; where none was written, it is zero. The result is cached, so
    that a file is checked again only if its `state` has changed. A compressed member raises
    `CheckpointError`: torch never writes one, and a small one may fill the memory when unpacked.
    """
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        if any(name.partition('/')[2] == 'constants.pkl' for name in archive.namelist()):
            return  # a program of TorchScript, of which torch reads nothing more
        for member in archive.infolist():
            if member.compress_type != ZIP_STORED:
                raise CheckpointError(
                    f'{path} is an archive whose member {member.filename} is compressed, which '
                    'torch never writes; unpack it, or pack it anew without compression (zip -0)'
                )
            if member.CRC:
                with archive.open(member) as file:
                    while file.read(2**20):
                        pass


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f'{path} needs `pip install safetensors`') from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise unreadable(path, error) from error


def _read_parts(index: Path, mmap: bool) -> dict[str, Any]:
    """Read weights from the files in which an index says that they are."""
    try:
        places: dict[str, str] = json.loads(index.read_bytes())['weight_map']
        names = {Path(name).name for name in places.values()}  # no paths to other folders
        if not names or any(name in ('', '..') or name.endswith('.index.json') for name in names):
            raise ValueError('it names no file')
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f'{index} must list the file of each weight, as in {{"weight_map": {{"a.weight": '
            f'"model-00001-of-00002.safetensors"}}}} ({error!r})'
        ) from error
    found: dict[str, Any] = {}
    for name in sorted(names):
        found.update(read_checkpoint(index.with_name(name), mmap))
    if lacking := [key for key in places if key not in found]:
        raise CheckpointError(
            f'{index}: {len(lacking)} weights are not in the files that it names, such as '
            f'{lacking[0]}; fetch {places[lacking[0]]} again'
        )
    return found


def is_deepspeed_folder(path: StrPath) -> bool:
    """Whether `path` is a checkpoint folder of DeepSpeed's."""
    return Path(path).is_dir() and find(path, _DEEPSPEED_MODEL) != []


def read_deepspeed_folder(path: StrPath) -> dict[str, Any]:
    """Read a checkpoint folder of DeepSpeed's, with the float32 weights of all ranks joined.

    Returns:
        ``state_dict`` and what mmengine keeps beside it (``meta``, ``message_hub``), without the
        optimizer's state.

    Raises:
        CheckpointError: if a part is missing, if a file holds more than tensors, or if DeepSpeed is
            not installed.
    """
    path = Path(path)
    saved = check_deepspeed_folder(path)
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with tempfile.TemporaryDirectory() as folder:
            # DeepSpeed uses the folder's name as a glob pattern, which may match other folders,
            # and reads what macOS has written beside the files
            os.mkdir(Path(folder, 'checkpoint'))
            for file in find(path, '*'):
                os.symlink(file.resolve(), Path(folder, 'checkpoint', file.name))
            state = get_fp32_state_dict_from_zero_checkpoint(folder, 'checkpoint')
    except ImportError as error:
        raise CheckpointError(
            f'{path} was written by DeepSpeed: `pip install deepspeed`'
        ) from error
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise CheckpointError(f'{path} is not whole: {error}') from error
    # stage 1 keeps no float32 copies of frozen weights; in stage 3 they are empty in `module`
    module: dict[str, Any] = saved.get('module') or {}
    frozen = {k: v for k, v in module.items() if k not in state and isinstance(v, Tensor)}
    frozen = {key: value for key, value in frozen.items() if value.numel()}
    whole: Any = OrderedDict({**state, **frozen})
    whole._metadata = getattr(module, '_metadata', {})  # of whole models, as torch keeps it
    return {'state_dict': whole, **{k: saved[k] for k in ('meta', 'message_hub') if k in saved}}


def check_deepspeed_folder(path: Path) -> dict[str, Any]:
    """Check that every file of a folder can be read without running code; DeepSpeed would run it.

    Returns:
        the contents of the model file of rank 0.

    Raises:
        CheckpointError: if the folder is not one of DeepSpeed's, and see `read_checkpoint`.
    """
    if not path.is_dir():
        what = 'is one file already, and no folder' if path.exists() else 'does not exist'
        raise CheckpointError(f'checkpoint {path} {what}')
    models = find(path, _DEEPSPEED_MODEL)
    if not models and any(path.glob('*.distcp')):
        raise CheckpointError(
            f'{path} is a distributed checkpoint of torch; write it as one file: python -m '
            f'torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth'
        )
    if not models:
        raise CheckpointError(
            f'{path} is a folder; name the file in it, e.g. model.safetensors, or a folder that '
            f'DeepSpeed wrote, which has {_DEEPSPEED_MODEL} in it'
        )
    with torch.serialization.safe_globals(harmless_globals(_HARMLESS_DEEPSPEED)):
        for file in find(path, '*.pt'):
            read_checkpoint(file, mmap=True)
        return read_checkpoint(models[0], mmap=True)


def write_checkpoint(checkpoint: Any, path: StrPath) -> None:
    """Write with `torch.save`; `path` keeps its old content until the new one is whole.

    Raises:
        CheckpointError: if it cannot be written, or its name is that of another format.
    """
    if Path(path).suffix.lower() == '.safetensors':
        raise CheckpointError(f'{path}: what is written is not safetensors; name a .pth file')
    try:
        write_atomically(path, lambda file: torch.save(checkpoint, file))
    except OSError as error:
        raise CheckpointError(f'cannot write {path}: {error}') from error
