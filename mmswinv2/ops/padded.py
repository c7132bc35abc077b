"""Window attention in windows of one size, for graphs that serve maps of any size.

The ragged grid depends on the size of the map, so a graph made with it is valid for few sizes. Here
every axis is padded to whole windows with copies of its border tokens, and the copies are masked as
keys. The results are the same at any size, with more work at the borders.

Axes are joined only after a `clone`. Without it torch asks whether a view is possible, which
depends on whether there is one window along an axis, and a graph of `torch.export` would keep the
answer.
"""

from typing import Any

import torch
from torch import Tensor

from .reference import expand, softmax_attention
from .windows import WindowGrid, axes_paired, cover, windows_first


def fits_attend(qkv: Tensor, table: Tensor, scale: Tensor, dropout: float) -> bool:
    """Graphs of `torch.compile` and `torch.export`."""
    return torch.compiler.is_compiling()


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """See `mmswinv2.ops.attend`; sizes of maps may be symbolic; `windows_at_once` is ignored."""
    ndim = len(grid.size)
    runs, lefts = [], []
    outside: Any = None  # (c1 m1, c2 m2, ...)
    axes = zip(grid.size, grid.extent, grid.shift, strict=True)
    for axis, (n, m, s) in enumerate(axes, start=1):
        left, count = cover(n, m, s)
        place = torch.arange(count * m, device=qkv.device) - left
        qkv = qkv.index_select(axis, place.clamp(0, n - 1))
        runs.append((m, count))
        lefts.append(left)
        mark = ((place < 0) | (place >= n)).view(-1, *[1] * (ndim - axis))
        outside = mark if outside is None else outside | mark
    contiguous = torch.contiguous_format
    windows, hidden = (  # [B, c1, c2, ..., N, 3 C], [1, c1, c2, ..., N, 1]
        windows_first(x, tuple(runs)).clone(memory_format=contiguous).flatten(1 + ndim, 2 * ndim)
        for x in (qkv, outside[None, ..., None])
    )
    windows, hidden = windows.flatten(1, ndim), hidden.flatten(0, ndim)[..., 0]  # [W, N]
    bias = expand(table, tuple(m for m, _ in runs))
    out = softmax_attention(windows, scale, bias, dropout, hidden)  # [B, W, N, C]
    sizes, counts = zip(*runs, strict=True)
    out = out.unflatten(2, sizes).unflatten(1, counts)
    out = axes_paired(out, ndim).clone(memory_format=contiguous)
    for axis in range(1, ndim + 1):
        out = out.flatten(axis, axis + 1)
    for axis, (n, left) in enumerate(zip(grid.size, lefts, strict=True), start=1):
        out = out.index_select(axis, torch.arange(n, device=qkv.device) + left)
    return out
