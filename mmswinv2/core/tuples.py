"""The one place where an int or a sequence becomes a tuple."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ['IntOrInts', 'one_each', 'per_axis', 'per_stage']

IntOrInts = int | Sequence[int]
T = TypeVar('T')


def per_axis(value: IntOrInts, ndim: int, name: str, minimum: int = 1) -> tuple[int, ...]:
    """Return `value` as one int per axis: ``8, 2 -> (8, 8)``, ``(8, 7, 7), 3 -> (8, 7, 7)``.

    Raises:
        ValueError: if a sequence has another length than `ndim`, or an entry is below `minimum`.
    """
    axes = tuple(value) if isinstance(value, Sequence) else (value,) * ndim
    if len(axes) != ndim or not all(isinstance(n, int) and n >= minimum for n in axes):
        raise ValueError(
            f'{name} must be an int >= {minimum} or {ndim} of them (one per axis), got {value!r}'
        )
    return axes


def per_stage(
    value: int | Sequence[IntOrInts], num_stages: int, ndim: int, name: str
) -> tuple[tuple[int, ...], ...]:
    """Return `value` as one tuple of `ndim` ints per stage.

    An int holds for all stages and axes. A flat sequence is read per stage when it has `num_stages`
    entries, else per axis when it has `ndim`; nested sequences are per stage and then per axis.

    Raises:
        ValueError: if the lengths fit neither reading.
    """
    message = (
        f'{name} must be an int, {num_stages} values (one per stage) or {ndim} ints '
        f'(one per axis), got {value!r}'
    )
    stages: Sequence[IntOrInts]
    if isinstance(value, int):
        stages = [value] * num_stages
    elif not isinstance(value, Sequence):
        raise ValueError(message)
    elif len(value) == num_stages:
        stages = value
    elif len(value) == ndim and all(isinstance(n, int) for n in value):
        stages = [value] * num_stages  # type: ignore[list-item]
    else:
        raise ValueError(message)
    return tuple(per_axis(v, ndim, f'{name}[{i}]') for i, v in enumerate(stages))


def one_each(value: T | Sequence[T], num_stages: int, name: str) -> tuple[T, ...]:
    """Return `value` as one entry per stage: ``True, 4 -> (True, True, True, True)``.

    Raises:
        ValueError: if a sequence has another length than `num_stages`.
    """
    if not isinstance(value, Sequence):
        return (value,) * num_stages
    if len(value) != num_stages:
        raise ValueError(f'{name} must be one value or {num_stages} (one per stage), got {value!r}')
    return tuple(value)
