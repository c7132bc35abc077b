"""Pickles, and files of torch.save, which hold pickles: read without running code from them."""

import importlib
import io
import pathlib
import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, UserError, is_out_of_memory
from ..files import StrPath

# What checkpoints hold besides tensors: mmengine's logged scalars, as numpy arrays, the arguments
# of a training by timm, torchvision or DETR, and what data sets and hooks note down.
_HARMLESS = (
    'argparse.Namespace',
    *(
        f'builtins.{name}'
        for name in ('bytes', 'dict', 'float', 'frozenset', 'int', 'list', 'range', 'slice')
    ),
    *(f'datetime.{name}' for name in ('date', 'datetime', 'time', 'timedelta', 'timezone')),
    'decimal.Decimal',
    'mmengine.config.config.ConfigDict',
    'mmengine.logging.history_buffer.HistoryBuffer',
    'mmengine.structures.base_data_element.BaseDataElement',
    'mmengine.structures.instance_data.InstanceData',
    'mmengine.structures.label_data.LabelData',
    'mmengine.structures.pixel_data.PixelData',
    'torch.torch_version.TorchVersion',
    'types.SimpleNamespace',
)
# Dicts of other kinds, read as plain ones: torch fills no others, and their packages, as yacs for
# the configs in checkpoints of the authors' code, need not be installed.
_DICTS = (
    'addict.addict.Dict', 'collections.defaultdict', 'detectron2.config.config.CfgNode',
    'easydict.EasyDict', 'fvcore.common.config.CfgNode', 'mmcv.utils.config.ConfigDict',
    'yacs.config.CfgNode',
)  # fmt: skip
# What pickles of annotations, proposals and predictions hold besides.
_HARMLESS_PICKLED = (
    'builtins.set',
    'collections.OrderedDict',
    'torch._utils._rebuild_tensor_v2',
    'torch.Size',
)
_LEAVES = frozenset((type(None), bool, int, float, str, bytes, Tensor))
_LOCK = threading.RLock()  # torch has one list of safe globals for all threads


def load_without_code(file: Any, map_location: Any, mmap: bool = False) -> Any:
    """`torch.load` for tensors, and for the other types in mmengine's checkpoints.

    Raises `pickle.UnpicklingError` for anything else, and for arrays of objects.
    """
    own, torch_list = harmless_globals(), torch.serialization
    names = {name for _, name in own}
    with _LOCK:
        before = torch_list.get_safe_globals()
        torch_list.clear_safe_globals()  # of two entries of one name torch takes any
        torch_list.add_safe_globals([*(it for it in before if _name(it) not in names), *own])
        try:
            found = torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
        finally:
            torch_list.clear_safe_globals()
            torch_list.add_safe_globals(before)
    return _finished(found, {})


def check_restorable(value: Any, name: str) -> None:
    """Raise `UserError` if a checkpoint with this value could not be written, or not read again."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        load_without_code(file, 'cpu')
    except (pickle.PickleError, TypeError, AttributeError) as error:
        raise UserError(
            f'{name} cannot be saved in checkpoints, or not restored without running code: take '
            f'numbers, text, lists and dicts alone. torch says: {first_line(error)}'
        ) from error


def _name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'


class _Dtype:
    """Stands for a numpy dtype while a file is read.

    A file can give a real one a state with fields of objects, which are addresses in memory, or
    make its items longer than those of an array that has it.
    """

    def __init__(self, name: Any, *_: Any) -> None:
        name = name.decode('latin1') if isinstance(name, bytes) else name  # of Python 2
        # numbers and text: no objects, and no records, which may hold objects
        if not (isinstance(name, str) and re.fullmatch(r'[biufcSU]\d+', name)):
            raise pickle.UnpicklingError(f'numpy class of {name} is not allowed')
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        _, given, *parts = state
        order: Any = given.decode() if isinstance(given, bytes) else given
        if any(part is not None for part in parts[:3]):  # subarray, names, fields
            raise pickle.UnpicklingError(f'numpy class of {state} is not allowed')
        self.value = self.value.newbyteorder(order)


class _Array:
    """Stands for a numpy array while a file is read."""

    value: Any = None

    def __init__(self, *_: Any) -> None:
        """Called as `numpy._core.multiarray._reconstruct`."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        self.value = np.empty(0)
        self.value.__setstate__((1, shape, _dtype(dtype), by_columns, data))


def _dtype(found: Any) -> np.dtype:
    """The dtype that a `_Dtype` stands for; other objects might have a `value` of pointers."""
    if type(found) is not _Dtype:
        raise pickle.UnpicklingError(f'numpy class of {found} is not allowed')
    return found.value


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """Replaces numpy's `_frombuffer`, which protocol 5 of pickle calls; numpy 2.4 gives `axes`."""
    array: Any = np.frombuffer(data, _dtype(dtype))
    if axes is not None:
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order=order)


def _scalar(dtype: Any, data: bytes) -> Any:
    """Replaces numpy's `scalar`."""
    return np.ndarray((), _dtype(dtype), data)[()]


def _finished(value: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
    """`value` with numpy's arrays and dtypes in the places of what stands for them.

    Args:
        value: what was read; it is changed, except for tuples, which are made anew.
        seen: `id` of a value to the value and what has become of it.
    """
    kind = type(value)
    if kind in _LEAVES or isinstance(value, type):
        return value
    if kind is _Array or kind is _Dtype:
        return value.value
    if id(value) in seen:
        return seen[id(value)][1]
    seen[id(value)] = value, value
    if isinstance(value, tuple):
        items = [_finished(item, seen) for item in value]
        if any(new is not old for new, old in zip(items, value, strict=True)):
            seen[id(value)] = value, tuple(items)
        return seen[id(value)][1]
    if isinstance(value, list):
        _finish_entries(value, enumerate(value), seen)
    elif isinstance(value, (dict, set, frozenset)) and any(
        _finished(key, seen) is not key for key in value
    ):
        raise pickle.UnpicklingError('numpy class of a key is not allowed')
    for entries in (value, getattr(value, '__dict__', None)):
        if isinstance(entries, dict):
            _finish_entries(entries, entries.items(), seen)
    return value


def _finish_entries(entries: Any, items: Iterable[tuple[Any, Any]], seen: dict) -> None:
    """`_finished` for the entries of a list or dict, in place."""
    for place, item in items:
        if type(item) not in _LEAVES:
            entries[place] = _finished(item, seen)


def read_pickle(path: StrPath) -> Any:
    """Read predictions that a tool has pickled: numbers, text, arrays and tensors.

    Raises:
        CheckpointError: if the file is missing, cut short, or holds more, as that may run code.
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
        found = _finished(_Unpickler(file, encoding=encoding).load(), {})
    except Exception as error:  # a damaged pickle may raise any exception
        if is_out_of_memory(error):
            raise CheckpointError(
                f'{name} needs more memory than is free, or is damaged ({first_line(error)})'
            ) from error
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


_OF_CLASSES = ('__bases__', '__name__', '__qualname__')  # not in vars(), and a file may set them


class _Unpickler(pickle.Unpickler):
    """Finds only the classes of plain data."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        entries = harmless_globals((*_HARMLESS, *_HARMLESS_PICKLED))
        self.allowed = {name: target for target, name in entries}
        self.allowed['torch.storage._load_from_bytes'] = lambda data: load_without_code(
            io.BytesIO(data), 'cpu'
        )
        self.allowed['_codecs.encode'] = _encode
        del self.allowed['builtins.getattr']  # it gives functions, whose defaults a file may set
        self.given: dict[type, dict[str, Any]] = {}  # classes given to the file: their attributes

    def find_class(self, module: str, name: str) -> Any:
        full = f'{module.replace("__builtin__", "builtins")}.{name}'  # as in old protocols
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in self.allowed:
            raise pickle.UnpicklingError(f'class {full} is not allowed')
        found = self.allowed[full]
        if not isinstance(found, type):
            return lambda *args: found(*args)  # not the function, whose defaults a file may set
        if found not in self.given:
            self.given[found] = _attributes(found)
        return found

    def load(self) -> Any:
        """Read the pickle, and put back what it may have set in classes."""
        try:
            return super().load()
        finally:
            for kind, before in self.given.items():
                now = _attributes(kind)
                for name in now.keys() - before.keys():
                    delattr(kind, name)
                for name, value in before.items():
                    # `type` makes each of _OF_CLASSES anew; `==` of others may be of any kind
                    same = now[name] == value if name in _OF_CLASSES else now[name] is value
                    if not same:
                        setattr(kind, name, value)


def _attributes(kind: type) -> dict[str, Any]:
    return {**vars(kind), **{name: getattr(kind, name) for name in _OF_CLASSES}}


def _encode(text: str, encoding: str) -> bytes:
    """Replaces `codecs.encode`, which old protocols of pickle call to restore bytes."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'an encoding by {encoding!r} is not allowed')
    return text.encode('latin1')


def harmless_globals(names: Iterable[str] = _HARMLESS) -> list[Any]:
    """The globals that `torch.serialization` has to allow for mmengine's checkpoints.

    Args:
        names: classes and functions with their modules; those not installed are left out.

    Returns:
        pairs of an object and the name that files have for it.
    """
    found: list[tuple[Any, str]] = [
        (_attribute, 'builtins.getattr'),
        (_OneCycle, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
        (_Array, 'numpy.ndarray'),
        (_Dtype, 'numpy.dtype'),
        (lambda *_: [], 'collections.deque'),  # torch fills lists alone
        *((_Dict, name) for name in _DICTS),
    ]
    for name in ('PosixPath', 'WindowsPath'):  # the one of the other system cannot be made
        kind = Path if type(Path()).__name__ == name else getattr(pathlib, f'Pure{name}')
        found += [(kind, f'{module}.{name}') for module in ('pathlib', 'pathlib._local')]
    for core in ('numpy._core', 'numpy.core'):  # of numpy 2 and numpy 1
        found += [
            (_Array, f'{core}.multiarray._reconstruct'),
            (_scalar, f'{core}.multiarray.scalar'),
            (_from_buffer, f'{core}.numeric._frombuffer'),
        ]
    for name in names:
        module, _, attribute = name.rpartition('.')
        with suppress(ImportError, AttributeError):
            found.append((getattr(importlib.import_module(module), attribute), name))
    return found


class _OneCycle:
    """Stands for `OneCycleParamScheduler` of mmengine, which keeps one of its functions."""


def _attribute(cls: type, name: str) -> Any:
    """Replaces `getattr`, which restores functions in mmengine's logs and schedulers."""
    if cls is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

        return getattr(OneCycleParamScheduler, name)
    if cls.__name__ == 'HistoryBuffer' and name in ('min', 'max', 'current', 'mean'):
        return getattr(cls, name)
    raise pickle.UnpicklingError(f'global getattr({cls}, {name!r}) is not allowed')


class _Dict:
    """Stands for classes of dicts."""

    def __new__(cls, *_: Any) -> Any:
        """An empty dict to be filled; torch sets attributes of no dict but an `OrderedDict`."""
        return OrderedDict()


def first_line(error: Exception) -> str:
    """What torch found, without its advice to run the file's code."""
    text = str(error).strip() or repr(error)
    if found := re.search(r'Unpickler error:\s*(\S.*)', text):
        text = found[1]
    return re.split(r' Please use | please file | This file can still', text.splitlines()[0])[0]
