"""Where the weights are in what was read from a file, and their keys without those of wrappers."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import StrPath
from .formats import State, unwrapped

# Entries under which files keep weights: the trained weights first, then their moving averages.
_ENTRIES = (
    'state_dict', 'model', 'module', 'net', 'model_state_dict', 'params',
    'ema_state_dict', 'state_dict_ema', 'model_ema', 'params_ema', 'ema', 'teacher', 'student',
)  # fmt: skip
_LONE_ENTRIES = ('ema_model', 'network', 'weights', 'backbone', 'encoder', 'model_state')
_COUNTERS = ('n_averaged', 'steps')  # of torch's and mmengine's averages
_PEFT = re.compile(r'.*\.lora_(embedding_)?[AB]\b')


@contextmanager
def of_file(path: StrPath) -> Iterator[None]:
    """Put the file's name before the message of a `CheckpointError`."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error


def plain_keys(state: State, own: Container[str] = ()) -> State:
    """Weights under the keys that they had before torch wrapped their modules, but for `own` keys.

    Raises `CheckpointError` if the weights have adapters of peft beside them.
    """
    if odd := [key for key in state if key not in own and _PEFT.match(key)]:
        raise CheckpointError(
            f'the weights have adapters of peft beside them ({odd[0]}); merge them there first: '
            "torch.save(model.merge_and_unload().state_dict(), 'merged.pth')"
        )
    return {
        key if key in own else unwrapped(key): value
        for key, value in state.items()
        if key in own or key not in _COUNTERS
    }


def unwrap(checkpoint: Any, key: str | None = None, kinds: Iterable[type] = ()) -> State:
    """Find the weights in a checkpoint: the dict itself, or one under a usual key.

    Args:
        checkpoint: what `read_checkpoint` returned.
        key: the entry that holds them, where there are several, such as ``'model_ema'``. ``None``:
            the first of `weight_entries`.
        kinds: types of tensors that are right besides torch's own, such as the model's `DTensor`.

    Raises:
        CheckpointError: if there are none.
    """
    inner = open_entry(checkpoint, key)
    if isinstance(inner, Mapping):
        tensors = {k: v for k, v in inner.items() if isinstance(v, Tensor)}
        for name, tensor in tensors.items():
            plain = type(tensor) in (Tensor, torch.nn.Parameter, *kinds) and not tensor.is_nested
            if not plain or tensor.is_meta or tensor.layout != torch.strided:
                raise CheckpointError(
                    f'{name} is a nested or sparse tensor, a part of one (DTensor, as FSDP has '
                    'them), or one without numbers (of the device meta); write the file with '
                    'plain ones, as tensor.to_dense() or, on every rank, tensor.full_tensor() is'
                )
        if tensors:
            return tensors
    seen = list(inner)[:4] if isinstance(inner, Mapping) else type(inner).__name__
    raise CheckpointError(
        f'no weights found; expected tensors or one of {(*_ENTRIES, *_LONE_ENTRIES)}, got {seen}; '
        'if they have another entry, name it as the key'
    )


def open_entry(checkpoint: Any, key: str | None = None) -> Any:
    """The innermost dict of a checkpoint that holds its weights; see `unwrap`.

    Raises `CheckpointError` if there is no such entry, or its keys are not strings.
    """
    if key is not None:
        if not isinstance(checkpoint, Mapping) or not holds_weights(checkpoint.get(key)):
            raise CheckpointError(
                f'key={key!r} names no weights; those of the file are {weight_entries(checkpoint)}'
            )
        checkpoint = checkpoint[key]
    for _ in range(3):
        if names := weight_entries(checkpoint):
            checkpoint = checkpoint[names[0]]
    if isinstance(checkpoint, Mapping):
        for name in checkpoint:
            if not isinstance(name, str):
                raise CheckpointError(
                    f'keys of weights must be text, as in a state_dict, got {name!r}'
                )
    return checkpoint


def weight_entries(checkpoint: Any, depth: int = 3) -> list[str]:
    """The usual entries that hold weights, nested up to `depth` dicts deep; the first is used.

    Names in `_LONE_ENTRIES` count only if no other entry of the dict holds weights.
    """
    if not isinstance(checkpoint, Mapping) or not depth:
        return []
    if names := [key for key in _ENTRIES if holds_weights(checkpoint.get(key), depth)]:
        return names
    names = [key for key, value in checkpoint.items() if holds_weights(value, depth)]
    return names if len(names) == 1 and names[0] in _LONE_ENTRIES else []


def holds_weights(value: Any, depth: int = 3) -> bool:
    """Whether a value is a dict with tensors, or with a usual entry that holds weights."""
    return isinstance(value, Mapping) and (
        any(isinstance(v, Tensor) for v in value.values()) or weight_entries(value, depth - 1) != []
    )


def entries_note(checkpoint: Any, key: str | None = None) -> str:
    """Which weights were taken, where a file holds several."""
    if not (taken := key or next(iter(weight_entries(checkpoint)), '')):
        return ''
    names = [n for n in (*_ENTRIES, *_LONE_ENTRIES) if holds_weights(checkpoint.get(n))]
    others = [name for name in names if name != taken]
    return f'took {taken!r}; the file also has {others}, see key=' if others else ''
