"""Pickles, and files of torch.save, which hold pickles: read without running code from them."""

import importlib
import io
import os
import pickle
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import CheckpointError

_Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]
# What mmengine's own checkpoints hold besides tensors: logged scalars, as numpy arrays.
_DTYPES = (
    'Bool', 'Int8', 'Int16', 'Int32', 'Int64', 'UInt8', 'Float16', 'Float32', 'Float64',
)  # fmt: skip
_HARMLESS = (
    'builtins.slice',
    'collections.defaultdict',
    'collections.deque',
    'mmengine.logging.history_buffer.HistoryBuffer',
    'numpy._core.multiarray._reconstruct',
    'numpy.ndarray',
    'numpy.dtype',
    *(f'numpy.dtypes.{name}DType' for name in _DTYPES),
)
# What pickles of annotations, proposals and predictions hold besides.
_HARMLESS_PICKLED = (
    'builtins.set',
    'collections.OrderedDict',
    'mmengine.structures.instance_data.InstanceData',
    'torch._utils._rebuild_tensor_v2',
    'torch.Size',
)
# Kinds of numpy's dtypes that are allowed: no objects, no records, which may hold objects, and no
# strings, as a file may change the length of their dtype once an array of it exists.
_PLAIN_KINDS = 'biuf'


def load_without_code(file: Any, map_location: Any, mmap: bool = False) -> Any:
    """`torch.load` for tensors, and for the other types in mmengine's checkpoints.

    Args:
        file: path or open file.
        map_location: see `torch.load`.
        mmap: see `torch.load`.

    Raises:
        pickle.UnpicklingError: if the file asks for anything else, or holds arrays of objects.
    """
    # Only what is not allowed yet, as the context disallows all of its items at its end.
    allowed = torch.serialization.get_safe_globals()
    new = [item for item in harmless_globals() if item not in allowed]
    with torch.serialization.safe_globals(new):
        found = torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    _check_arrays(found)
    return found


def _check_arrays(found: Any) -> None:
    """Raise an error for arrays in which a file could place pointers to other memory.

    The pickled state of a numpy dtype may add a field of objects, which are pointers.
    """
    todo, seen = [found], set()
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, Tensor)):
            continue
        seen.add(id(value))
        dtype = value if type(value).__name__.endswith('DType') else getattr(value, 'dtype', None)
        if type(value).__module__.partition('.')[0] == 'numpy' and not _is_plain(dtype):
            raise pickle.UnpicklingError(f'numpy class of {dtype} is not allowed')
        if isinstance(value, Mapping):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            todo += value
        else:
            todo += list(getattr(value, '__dict__', {}).values())


def _is_plain(dtype: Any) -> bool:
    return dtype is None or (dtype.kind in _PLAIN_KINDS and dtype.fields is None)


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read predictions that a tool has pickled: numbers, text, arrays and tensors.

    Args:
        path: the file.

    Raises:
        CheckpointError: if the file is missing, cut short, or holds anything else, as that may run
            code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path} does not exist')
    with path.open('rb') as file:
        return unpickle(file, path)


def unpickle(file: IO[bytes], name: str | Path = 'a pickle', encoding: str = 'ASCII') -> Any:
    """Read a pickle of numbers, text, arrays, tensors and mmengine's ``InstanceData``.

    Args:
        file: open, for bytes.
        name: of the file, for messages.
        encoding: encoding of strings that Python 2 pickled.

    Raises:
        CheckpointError: see `read_pickle`.
    """
    try:
        found = _Unpickler(file, encoding=encoding).load()
        _check_arrays(found)
    except Exception as error:  # a damaged pickle may raise any exception
        raise CheckpointError(
            f'{name} cannot be read without running code from it, or is cut short '
            f'({first_line(error)}); it must hold numbers, text, arrays and tensors alone'
        ) from error
    return found


class PlainPickle:
    """Replaces the module `pickle` in packages that read users' files with it."""

    dump, dumps = staticmethod(pickle.dump), staticmethod(pickle.dumps)

    @staticmethod
    def load(file: IO[bytes], *, encoding: str = 'ASCII', **_: Any) -> Any:
        """See `unpickle`."""
        return unpickle(file, getattr(file, 'name', 'a pickle'), encoding)

    @staticmethod
    def loads(data: bytes, *, encoding: str = 'ASCII', **_: Any) -> Any:
        """See `unpickle`."""
        return unpickle(io.BytesIO(data), encoding=encoding)


class _Unpickler(pickle.Unpickler):
    """Finds only the classes of plain data."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        entries = harmless_globals((*_HARMLESS, *_HARMLESS_PICKLED))
        self.allowed: dict[str, Any] = {e[1]: e[0] for e in entries if isinstance(e, tuple)}
        self.allowed['torch.storage._load_from_bytes'] = lambda data: load_without_code(
            io.BytesIO(data), 'cpu'
        )
        self.allowed['_codecs.encode'] = _encode
        self.allowed['builtins.bytes'] = lambda: b''  # old protocols call it for empty bytes

    def find_class(self, module: str, name: str) -> Any:
        full = f'{module.replace("__builtin__", "builtins")}.{name}'  # as in old protocols
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in self.allowed:
            raise pickle.UnpicklingError(f'class {full} is not allowed')
        return self.allowed[full]


def _encode(text: str, encoding: str) -> bytes:
    """Replaces `codecs.encode`, which old protocols of pickle call to restore bytes."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'an encoding by {encoding!r} is not allowed')
    return text.encode('latin1')


def harmless_globals(names: Iterable[str] = _HARMLESS) -> list[_Allowed]:
    """The globals that `torch.serialization` has to allow for mmengine's checkpoints.

    Args:
        names: classes and functions with their modules; those not installed are left out.

    Returns:
        pairs of an object and the name that files have for it.
    """
    found: list[_Allowed] = [
        (_statistic, 'builtins.getattr'),
        (_scalar, 'numpy._core.multiarray.scalar'),
        (_scalar, 'numpy.core.multiarray.scalar'),
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
    """Replaces `getattr`, which a pickled `HistoryBuffer` calls to get its statistics."""
    if cls.__name__ == 'HistoryBuffer' and name in ('min', 'max', 'current', 'mean'):
        return getattr(cls, name)
    raise pickle.UnpicklingError(f'global getattr({cls}, {name!r}) is not allowed')


def _scalar(dtype: Any, data: Any) -> Any:
    """Replaces numpy's `scalar`, which for a dtype of objects uses bytes of the file as pointer."""
    if not _is_plain(dtype):
        raise pickle.UnpicklingError(f'numpy class of {dtype} is not allowed')
    import numpy

    return numpy.frombuffer(data, dtype)[0]


def first_line(error: Exception) -> str:
    """What torch found, without its advice to run the file's code."""
    text = str(error).strip() or repr(error)
    if found := re.search(r'Unpickler error:\s*(\S.*)', text):
        text = found[1]
    return re.split(r' Please use | please file | This file can still', text.splitlines()[0])[0]
