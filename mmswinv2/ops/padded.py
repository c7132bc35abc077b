"""Window attention in windows of one size, for graphs that serve maps of any size.

The ragged grid depends on the size of the map, so a graph made with it is valid for few sizes. Here
every axis is padded to whole windows, and the padding is masked as keys. The results are the same
at any size, with more work at the borders.

Tokens are taken by indices that are computed from their numbers, and no tensor has an axis for the
windows along an axis of the map. torch compiles a graph of its own for an axis of length one, and
maps of one window along an axis are common.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .reference import expand, softmax_attention
from .windows import WindowGrid, cover, is_known


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
    window = grid.extent
    lefts, counts = zip(*map(cover, grid.size, window, grid.shift), strict=True)
    every, tokens, count = (math.prod(sizes) for sizes in (grid.size, window, counts))
    total = count
    if not is_known(count == 1):
        total = torch.sym_max(count, 2)  # one window gets a second one beside it, which is dropped
    number = torch.arange(every, device=qkv.device)
    target: Any = 0  # number in windows of each token in the map, [S1 S2 ...]
    rest, of_windows, in_window = number, tokens, 1
    for n, m, left, along in reversed([*zip(grid.size, window, lefts, counts, strict=True)]):
        place = remainder(rest, n) + left
        target = target + place // m * of_windows + place % m * in_window
        rest, of_windows, in_window = rest // n, of_windows * along, in_window * m
    # A scatter, for which compilers compute the indices once, and not again for each channel. The
    # padding has copies of all tokens, as gradients of copies of one would be added one by one.
    place = torch.arange(total * tokens, device=qkv.device)
    padding = remainder(place, every) - every
    source = padding.scatter(0, target, number)  # number in the map, [W N]
    hidden = (source < 0) & (place < count * tokens)
    source = torch.where(source < 0, source + every, source)
    windows = qkv.flatten(1, -2).index_select(1, source).unflatten(1, (total, tokens))
    bias = expand(table, window)
    out = softmax_attention(windows, scale, bias, dropout, hidden.unflatten(0, (total, tokens)))
    return out.flatten(1, 2).index_select(1, target).unflatten(1, grid.size)


def remainder(x: Tensor, divisor: Any) -> Tensor:
    """``x % divisor``, which torch's exporter to ONNX takes for tensors and constants alone.

    Not ``x - x // divisor * divisor``, which torch 2.13 compiles to x for constant divisors.
    """
    return x % torch.full((), divisor, dtype=x.dtype, device=x.device)
