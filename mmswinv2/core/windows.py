"""The ragged window grid: where windows start and end along each axis, and how to cut and join.

Swin shifts its windows by rolling the map, and hides with a mask what the roll brought together.
Cutting each axis at the shifted boundaries gives the same windows with nothing to roll, pad or
mask: a border window is just smaller. Along an axis of n tokens, window M, shift s:

    n <= M          one window of n, no shift
    n > M, s = 0    M, M, ..., rest
    n > M, s > 0    s, M, M, ..., rest

So an axis has at most three sizes of window, and windows of one shape form one *group* that is
computed in one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product
from typing import Any

import torch
from torch import Tensor

__all__ = ['WindowGrid', 'cut', 'forget_grids', 'join', 'window_grid', 'window_sizes']


@dataclass(frozen=True, eq=False)
class WindowGrid:
    """How B maps of one size are cut into windows.

    Attributes:
        groups: ``(window shape, number of windows)``, one entry per distinct shape.
        order: ``(B * T,)`` the token (index into the flattened maps) at each place after the cut:
            group by group, window by window, row-major inside a window.
        inverse: ``(B * T,)`` the inverse permutation.
    """

    groups: tuple[tuple[tuple[int, ...], int], ...]
    order: Tensor
    inverse: Tensor

    @property
    def extent(self) -> tuple[int, ...]:
        """The largest window along each axis."""
        return tuple(max(sizes) for sizes in zip(*(shape for shape, _ in self.groups), strict=True))

    @property
    def tokens_per_group(self) -> list[int]:
        """Number of tokens (windows x tokens in a window) of each group."""
        return [count * math.prod(shape) for shape, count in self.groups]


def window_sizes(length: int, window: int, shift: int) -> list[int]:
    """Sizes of the windows along one axis, in order; they sum to `length`."""
    if length <= window:
        return [length]
    head = [shift] if shift else []
    full, rest = divmod(length - shift, window)
    return head + [window] * full + ([rest] if rest else [])


def window_grid(
    batch: int,
    size: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    device: torch.device,
) -> WindowGrid:
    """Lay the window grid over `batch` maps.

    Args:
        batch: number of maps B.
        size: tokens along each axis, ``(H, W)`` or ``(T, H, W)``.
        window: window M along each axis.
        shift: shift s along each axis, ``0 <= s < M``; unused along an axis with n <= M.
        device: where the permutations live.
    """
    if torch.compiler.is_compiling():
        return _window_grid(batch, size, window, shift, device)
    return _cached_window_grid(batch, size, window, shift, device)


def cut(x: Tensor, grid: WindowGrid) -> Tensor:
    """Order the tokens of ``(B, *S, C)`` by window: ``(B * T, C)``."""
    return _Permute.apply(x.flatten(0, -2), grid.order, grid.inverse)


def join(x: Tensor, grid: WindowGrid, size: tuple[int, ...]) -> Tensor:
    """Undo `cut`: ``(B * T, C)`` to ``(B, *S, C)`` where ``*S`` is `size`."""
    return _Permute.apply(x, grid.inverse, grid.order).unflatten(0, (-1, *size))


class _Permute(torch.autograd.Function):
    """``x[order]`` for a permutation: its gradient is a gather too, not a scatter with sums."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Permute.apply(grad, inverse, order), None, None


def _window_grid(
    batch: int,
    size: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    device: torch.device,
) -> WindowGrid:
    axes: list[dict[int, Tensor]] = []  # per axis: window size -> positions (windows, size)
    for length, m, s in zip(size, window, shift, strict=True):
        sizes = window_sizes(length, m, s)
        starts = list(accumulate(sizes, initial=0))
        axis = {}
        for n in set(sizes):
            first = [starts[i] for i, piece in enumerate(sizes) if piece == n]
            axis[n] = torch.tensor(first)[:, None] + torch.arange(n)
        axes.append(axis)
    ndim = len(size)
    # (B, w1, n1, w2, n2, ...) -> (B, w1, w2, ..., n1, n2, ...)
    windows_first = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2)]
    groups, order = [], []
    for shape in product(*(sorted(axis, reverse=True) for axis in axes)):
        index = torch.arange(batch * math.prod(size)).view(batch, *size)
        for i, n in enumerate(shape):  # (..., n_i, ...) -> (..., w, n, ...)
            index = index.index_select(1 + 2 * i, axes[i][n].flatten())
            index = index.unflatten(1 + 2 * i, (-1, n))
        groups.append((shape, index.numel() // math.prod(shape)))
        order.append(index.permute(windows_first).flatten())
    permutation = torch.cat(order)
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation))
    return WindowGrid(tuple(groups), permutation.to(device), inverse.to(device))


@lru_cache(maxsize=64)
def _cached_window_grid(*key: Any) -> WindowGrid:
    # A tensor made in inference mode could not take part in training later on.
    with torch.inference_mode(False):
        return _window_grid(*key)


def forget_grids() -> None:
    """Drop the grids that are kept, for who runs the network on tensors of another kind."""
    _cached_window_grid.cache_clear()
