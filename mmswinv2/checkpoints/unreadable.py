"""What is wrong with a checkpoint file that cannot be read, and what to do about it."""

import pickle
import re
from pathlib import Path
from zipfile import is_zipfile

import torch

from ..errors import CheckpointError, is_out_of_memory
from .pickles import first_line

# How archives begin: gzip, bzip2, xz, 7z, rar, zstd.
_PACKED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'7z\xbc\xaf', b'Rar!', b'\x28\xb5\x2f\xfd')


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file, from the `error` that torch or safetensors raised for it."""
    if isinstance(error, pickle.UnpicklingError):
        if 'operand 149' in str(error) and _is_of_torch_save(path):  # a frame of protocol 4 or 5
            return _needs_code(
                path,
                error,
                'has pickle_protocol=4 or 5, which torch cannot read without running code',
            )
        is_tensor = 'torch.storage._load_from_bytes' in str(error)  # in a pickle of Python's
        if not is_tensor and re.search('global|class', str(error), re.IGNORECASE):
            return _needs_code(
                path,
                error,
                'holds more than tensors, and restoring the rest would run code from the file',
            )
    elif 'TorchScript' in str(error):
        return CheckpointError(
            f'{path} is a program of TorchScript. If you trust where it comes from, keep its '
            f"weights alone: `torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), "
            "'weights.pth')`"
        )
    return _of_other_content(path, error)


def _needs_code(path: Path, error: Exception, what: str) -> CheckpointError:
    """The error for a file that only running code from it would restore."""
    return CheckpointError(
        f'{path} {what}. If you trust where it comes from, keep its weights alone, where the '
        f'packages that it asks for are installed: `f = torch.load({str(path)!r}, '
        'weights_only=False); '
        "w = next((f[k] for k in ('state_dict', 'model') if k in f), f) if isinstance(f, dict) "
        "else f; torch.save(w.state_dict() if hasattr(w, 'state_dict') else w, 'weights.pth')` "
        f'(it takes whole modules too). torch says: {first_line(error)}'
    )


def _of_other_content(path: Path, error: Exception) -> CheckpointError:
    """By what the file begins with."""
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
    of_zip = re.search('not in a subdirectory|hasRecord|file data.pkl', str(error))
    kind = ''
    if start.startswith(b'\x80') and holds_arrays and not _is_of_torch_save(path):
        kind = 'a pickle of arrays, as Detectron2 and Caffe2 write them'
    elif start.startswith(b'PK') and b'.npy' in start[:256]:  # the name of the first entry
        kind = 'an archive of arrays of NumPy'
    elif of_zip and path.suffix == '.pt2':
        kind = 'a program of torch.export'
    if kind:
        return CheckpointError(
            f'{path} is {kind}. If you trust where it comes from, read it with what wrote it, and '
            "keep its weights alone: torch.save({name: tensor, ...}, 'weights.pth')"
        )
    if of_zip or start.startswith(_PACKED) or start[257:262] == b'ustar':
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
