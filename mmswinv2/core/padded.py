"""Attention in windows that are all of one size, for `torch.export` and ONNX.

The ragged grid of `windows.py` depends on the size of the map, so that a graph made with it serves
one size. Here every axis is filled up to whole windows with copies of its last tokens, which no
token may attend to: the same numbers at any size, with more work at the borders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .attention import WindowAttention, cosine_directions
from .position_bias import expand

__all__ = ['any_size', 'exporting', 'padded_window_attention']

_exporting = [False]


@contextmanager
def any_size() -> Iterator[None]:
    """What `torch.export` traces in here serves maps of any size; in evaluation only."""
    before, _exporting[0] = _exporting[0], True
    try:
        yield
    finally:
        _exporting[0] = before


def exporting() -> bool:
    """Whether `any_size` is active."""
    return _exporting[0]


def padded_window_attention(
    attn: WindowAttention, x: Tensor, window: tuple[int, ...], shift: tuple[int, ...]
) -> Tensor:
    """What cutting, `attn` and joining do, in evaluation.

    Args:
        attn: the layer.
        x: ``(B, *S, C)``; sizes S may be symbols.
        window: window M along each axis.
        shift: shift along each axis.

    Returns:
        ``(B, *S, C)``.
    """
    batch, *size, channels = x.shape
    ndim, heads = len(window), attn.num_heads
    places, lefts, counts, valid = [], [], [], []
    for n, m, s in zip(size, window, shift, strict=True):
        # as the ragged grid: no shift where the axis is not longer than the window
        left = (m - s) * torch.sym_min(1, n // (m + 1)) if s else 0
        count = (n + left + m - 1) // m
        place = torch.arange(count * m, device=x.device) - left
        places.append(place.clamp(0, n - 1))
        valid.append((place >= 0) & (place < n))
        lefts.append(left)
        counts.append(count)
    for axis, place in enumerate(places, start=1):
        x = x.index_select(axis, place)
    split = [part for count, m in zip(counts, window, strict=True) for part in (count, m)]
    # (B, w1, m1, w2, m2, ...) -> (B, w1, w2, ..., m1, m2, ...)
    windows_first = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
    x = x.view(batch, *split, channels).permute(windows_first)
    windows = x.flatten(1 + ndim, 2 * ndim).flatten(1, ndim)  # (B, W, N, C)

    qkv = attn.project(windows)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
    q = (cosine_directions(q) * attn.scale()).to(v.dtype)  # (B, W, h, N, d)
    bias = expand(attn.cpb_mlp(window), window)
    real = _outer(valid, counts, window)
    hidden = torch.zeros_like(real, dtype=bias.dtype).masked_fill(~real, -torch.inf)
    scores = q @ cosine_directions(k).to(v.dtype).transpose(-2, -1)
    scores = scores + bias + hidden[:, None, None]
    out = (torch.softmax(scores, dim=-1).to(v.dtype) @ v).transpose(2, 3).flatten(3)
    out = attn.proj(out)

    places_first = [0]
    for axis in range(1, ndim + 1):
        places_first += [axis, axis + ndim]
    out = out.view(batch, *counts, *window, channels).permute(*places_first, 2 * ndim + 1)
    out = out.reshape(batch, *(c * m for c, m in zip(counts, window, strict=True)), channels)
    for axis, (n, left) in enumerate(zip(size, lefts, strict=True), start=1):
        out = out.index_select(axis, torch.arange(n, device=x.device) + left)
    return out


def _outer(valid: list[Tensor], counts: list[int], window: tuple[int, ...]) -> Tensor:
    """``(W, N)``: which tokens of each window are real, from those along each axis."""
    ndim = len(window)
    out = torch.ones((1,) * (2 * ndim), dtype=torch.bool, device=valid[0].device)
    for axis, (real, count, m) in enumerate(zip(valid, counts, window, strict=True)):
        shape = [1] * (2 * ndim)
        shape[axis], shape[axis + ndim] = count, m
        out = out & real.view(shape)
    return out.flatten(ndim).flatten(0, ndim - 1)
