"""Checkpoint files: read without running code from them.

A checkpoint is one file, or a folder as DeepSpeed's ZeRO writes it, in which every rank has put its
part of the float32 weights and of the optimizer's state.
"""

import functools
import json
import os
import pickle
import re
import reprlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor

from ..errors import CheckpointError, is_out_of_memory
from ..files import StrPath, find, write_atomically
from .pickles import first_line, harmless_globals, load_without_code
from .published import PUBLISHED

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

# How archives begin: gzip, bzip2, xz, 7z, rar, zstd.
_PACKED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'7z\xbc\xaf', b'Rar!', b'\x28\xb5\x2f\xfd')

Forms = Mapping[str, tuple[Callable[[Any], bool], str]]  # entry: its check, and its form in words


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: value is None or isinstance(value, kinds)


def _are_rows(value: Any) -> bool:
    if value is None or getattr(value, 'shape', ())[1:] == (3,):
        return True
    return isinstance(value, (list, tuple)) and all(
        isinstance(row, (list, tuple)) and len(row) == 3 for row in value
    )


def _are_windows(value: Any) -> bool:
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
    'meta.dataset_meta.palette': (_are_rows, 'a list of colours (R, G, B)'),
    'meta.pretrained_window_sizes': (_are_windows, 'a dict of stages and their windows'),
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
    except pickle.UnpicklingError as error:
        if 'operand 149' in str(error) and _is_of_torch_save(path):  # a frame of protocol 4 or 5
            what = 'has pickle_protocol=4 or 5, which torch cannot read without running code'
        elif 'torch.storage._load_from_bytes' in str(error):  # a tensor in a pickle of Python's
            raise _unreadable(path, error) from error
        elif re.search('global|class', str(error), re.IGNORECASE):
            what = 'holds more than tensors, and restoring the rest would run code from the file'
        else:
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f'{path} {what}. If you trust where it comes from, keep its weights alone, where the '
            f'packages that it asks for are installed: `f = torch.load({str(path)!r}, '
            'weights_only=False); '
            "w = next((f[k] for k in ('state_dict', 'model') if k in f), f) if isinstance(f, dict) "
            "else f; torch.save(w.state_dict() if hasattr(w, 'state_dict') else w, 'weights.pth')` "
            f'(it takes whole modules too). torch says: {first_line(error)}'
        ) from error
    except Exception as error:  # a damaged pickle may raise any exception
        if 'TorchScript' in str(error):
            raise CheckpointError(
                f'{path} is a program of TorchScript. If you trust where it comes from, keep its '
                f"weights alone: `torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), "
                "'weights.pth')`"
            ) from error
        raise _unreadable(path, error) from error


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
        raise _unreadable(path, error) from error


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


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    with path.open('rb') as file:
        start = file.read(2**16)
    if start.startswith(b'version https://git-lfs'):
        return CheckpointError(f'{path} stands for a file in Git LFS; fetch that with git lfs pull')
    is_safetensors, named_so = start[8:10] == b'{"', path.suffix.lower() == '.safetensors'
    if is_safetensors and not named_so:
        return CheckpointError(f'{path} is a file of safetensors; rename it to .safetensors')
    if named_so and not is_safetensors and start.startswith((b'PK', b'\x80')):
        return CheckpointError(f'{path} is a file of torch.save; rename it to .pth')
    holds_arrays = b'numpy' in start or b'torch._utils' in start
    if start.startswith(b'\x80') and holds_arrays and not _is_of_torch_save(path):
        return CheckpointError(
            f'{path} is a pickle of arrays, as Detectron2 and Caffe2 write them, and no file of '
            'torch.save. If you trust where it comes from, keep its weights alone: `import '
            f'pathlib, pickle, torch; f = pickle.loads(pathlib.Path({str(path)!r}).read_bytes(), '
            "encoding='latin1'); w = next((f[k] for k in ('state_dict', 'model', 'blobs') if k in "
            "f), f); torch.save({k: torch.as_tensor(w[k]) for k in w}, 'weights.pth')`"
        )
    if start.startswith(b'PK') and b'.npy' in start[:256]:  # the name of the first entry
        return CheckpointError(
            f'{path} has arrays of NumPy; keep them as weights by `import numpy, torch; f = '
            f'numpy.load({str(path)!r}); '
            "torch.save({k: torch.as_tensor(f[k]) for k in f}, 'weights.pth')`"
        )
    of_zip = re.search('not in a subdirectory|hasRecord|file data.pkl', str(error))
    is_zip = of_zip and path.suffix != '.pt2'  # of torch.export
    if is_zip or start.startswith(_PACKED) or start[257:262] == b'ustar':
        return CheckpointError(f'{path} is an archive; unpack it, and name the file in it')
    if is_out_of_memory(error):
        return CheckpointError(
            f'{path} ({path.stat().st_size} bytes) needs more memory than is free, or is '
            f'damaged: {first_line(error)}'
        )
    page = is_page(start)
    what = 'a web page, not a checkpoint' if page else 'truncated, damaged or no checkpoint'
    kept = path.parent.parent == Path(torch.hub.get_dir(), 'checkpoints')  # see cache_path
    way = 'delete it, and it is downloaded again' if kept else 'fetch or write it again'
    return CheckpointError(
        f'{path} ({path.stat().st_size} bytes) is {what}; {way}. torch says: {first_line(error)}'
    )


def _is_of_torch_save(path: Path) -> bool:
    """Whether a file is one of torch.save, an archive or of the form before torch 1.6."""
    magic = torch.serialization.MAGIC_NUMBER.to_bytes(10, 'little')
    with path.open('rb') as file:
        return is_zipfile(path) or magic in file.read(30)  # a pickle of tensors has it later


def is_page(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return start.lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml'))


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
    state = {**state, **{key: value for key, value in frozen.items() if value.numel()}}
    return {'state_dict': state, **{k: saved[k] for k in ('meta', 'message_hub') if k in saved}}


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
