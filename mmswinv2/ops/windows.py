"""The ragged window grid: where windows start and end along each axis, and how to cut and join.

Swin shifts its windows by rolling the map, and masks pairs of tokens that only the roll joined.
Cutting each axis at the shifted boundaries gives the same windows with nothing to roll, pad or
mask: a border window is just smaller. Along an axis of n tokens, window M, shift s:

    n <= M          one window of n, no shift
    n > M, s = 0    M, M, ..., rest
    n > M, s > 0    s, M, M, ..., rest

Neighbouring windows of one size form a *run*; an axis has three at most. One run per axis makes a
*box*, whose windows are all cut with views and one copy; there is no index of tokens.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

Runs = tuple[tuple[int, int], ...]  # (tokens in a window, number of windows), ...


class WindowGrid(NamedTuple):
    """How a map is cut into windows; the same for every map of a batch."""

    size: tuple[int, ...]  #: tokens along each axis, ``(H, W)`` or ``(T, H, W)``
    window: tuple[int, ...]  #: window M along each axis
    shift: tuple[int, ...]  #: s along each axis, ``0 <= s < M``; unused along an axis with n <= M

    @property
    def runs(self) -> tuple[Runs, ...]:
        """Runs of windows along each axis, in order."""
        return tuple(axis_runs(*axis) for axis in zip(*self, strict=True))

    @property
    def extent(self) -> tuple[int, ...]:
        """Size of the largest window along each axis; in graphs its constant upper bound."""
        least = bound if torch.compiler.is_compiling() else min
        return tuple(least(n, m) for n, m in zip(self.size, self.window, strict=True))


def bound(length: Any, window: int) -> int:
    """Upper bound of a window's size: the least power of two not below the length, at most M.

    It is a constant in graphs, where the length may be symbolic and only a bound of it is known.
    Powers of two limit the number of sizes, as kernels are compiled for each size of a window.
    """
    size = 1
    while size < window and not is_known(length <= size):
        size *= 2
    return min(size, window)


def is_known(condition: Any) -> bool:
    """Whether a condition holds; in graphs, whether it holds for all sizes that they serve."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    return statically_known_true(condition)


def axis_runs(length: int, window: int, shift: int) -> Runs:
    """Runs of neighbouring windows of one size along an axis, as ``(size, count)``, in order."""
    if length <= window:
        return ((length, 1),)
    full, rest = divmod(length - shift, window)
    runs = ((shift, 1), (window, full), (rest, 1))
    return tuple((size, count) for size, count in runs if size and count)


def cover(length: Any, window: int, shift: int) -> tuple[Any, Any]:
    """Number of padding tokens before an axis, and number of whole windows that then cover it.

    Args:
        length: tokens along the axis; may be a symbolic size of a graph.
        window: tokens of a window.
        shift: see `WindowGrid`.
    """
    # no shift where the axis is not longer than the window
    before = (window - shift) * torch.sym_min(1, length // (window + 1)) if shift else 0
    return before, (length + before + window - 1) // window


def cut(x: Tensor, grid: WindowGrid) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Windows ``(W, N, C)`` of each box of a map ``(B, *S, C)``, and their shape ``(m1, ...)``."""
    for box, runs in zip(split_runs(x, grid), product(*grid.runs), strict=True):
        yield to_windows(box, runs), tuple(size for size, _ in runs)


def join(windows: list[Tensor], grid: WindowGrid) -> Tensor:
    """Undo `cut`, given the windows of all boxes."""
    pairs = zip(windows, product(*grid.runs), strict=True)
    return join_runs([from_windows(part, runs) for part, runs in pairs], grid)


def split_runs(x: Tensor, grid: WindowGrid) -> list[Tensor]:
    """``(B, *S, C)`` to views, one for each combination of the axes' runs, row-major."""
    boxes = [x]
    for axis, runs in enumerate(grid.runs, start=1):
        if len(runs) > 1:
            lengths = [size * count for size, count in runs]
            boxes = [part for box in boxes for part in box.split(lengths, axis)]
    return boxes


def join_runs(boxes: list[Tensor], grid: WindowGrid) -> Tensor:
    """Undo `split_runs`."""
    for axis, runs in reversed(list(enumerate(grid.runs, start=1))):
        if (n := len(runs)) > 1:
            boxes = [torch.cat(boxes[i : i + n], axis) for i in range(0, len(boxes), n)]
    return boxes[0]


def to_windows(box: Tensor, runs: Runs) -> Tensor:
    """``(B, c1 m1, c2 m2, ..., C)`` to ``(B c1 c2 ..., N, C)`` for runs ``((m1, c1), ...)``."""
    ndim = len(runs)
    return windows_first(box, runs).flatten(1 + ndim, 2 * ndim).flatten(0, ndim)


def from_windows(windows: Tensor, runs: Runs) -> Tensor:
    """Undo `to_windows`."""
    ndim, (sizes, counts) = len(runs), zip(*runs, strict=True)
    windows = windows.reshape(-1, *counts, *sizes, windows.shape[-1])
    pairs = [place for axis in range(1, ndim + 1) for place in (axis, axis + ndim)]
    box = windows.permute(0, *pairs, 2 * ndim + 1)  # [B, c1, m1, c2, m2, ..., C]
    return box.reshape(len(box), *(m * c for m, c in runs), box.shape[-1])


def windows_first(box: Tensor, runs: Runs) -> Tensor:
    """A view of ``(B, c1 m1, c2 m2, ..., C)`` as ``(B, c1, c2, ..., m1, m2, ..., C)``.

    A count c of -1 stands for as many as there are.
    """
    ndim = len(runs)
    for axis, (size, count) in reversed(list(enumerate(runs, start=1))):
        box = box.unflatten(axis, (count, size))
    return box.permute(0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1)
