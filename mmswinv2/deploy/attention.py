"""Window attention as one operator of a graph, translated to ONNX with sizes known at run time.

Traced as plain operators, torch would propagate symbolic sizes through every operator of every
block, which takes a minute for a small network; here the runtime computes the sizes.
"""

from __future__ import annotations  # custom_op of torch 2.6 reads Sequence only as a string

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.attention import WindowAttention
from ..ops import WindowGrid, padded
from ..ops.reference import expand


@torch.library.custom_op('mmswinv2::window_attention', mutates_args=())
def window_attention(
    qkv: Tensor,
    table: Tensor,
    bias: Tensor,
    scale: Tensor,
    window: Sequence[int],
    shift: Sequence[int],
) -> Tensor:
    """`mmswinv2.ops.attend`; `bias` is `table` expanded to ``(h, N, N)``, used only in ONNX."""
    grid = WindowGrid(tuple(qkv.shape[1:-1]), tuple(window), tuple(shift))
    return padded.attend(qkv, grid, table, scale).contiguous()


@window_attention.register_fake
def _(qkv: Tensor, *_: Any) -> Tensor:
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """See `mmswinv2.ops.attend`."""
    extent = ((n + 1) // 2 for n in table.shape[1:])
    window = [min(m, e) for m, e in zip(grid.window, extent, strict=True)]
    bias = expand(table, tuple(window))
    return window_attention(qkv, table, bias, scale, window, list(grid.shift))


def use_operator(model: Any) -> None:
    """Replace attention by `attend` in all blocks."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.attend = attend


def translate(
    qkv: Any, table: Any, bias: Any, scale: Any, window: Sequence[int], shift: Sequence[int]
) -> Any:
    """Translate `window_attention` to standard ONNX operators."""
    import onnxscript

    op: Any = onnxscript.opset18

    def integers(*values: int) -> Any:
        return op.Constant(value_ints=values)

    ndim = len(window)
    heads, tokens = int(bias.shape[0]), int(bias.shape[1])
    width = int(qkv.shape[-1]) // (3 * heads)
    shape = op.Shape(qkv)
    batch = op.Gather(shape, integers(0))
    x, hidden = qkv, None
    sizes, lefts, counts, totals = [], [], [], []
    for axis, (m, s) in enumerate(zip(window, shift, strict=True), start=1):
        n = op.Gather(shape, integers(axis))
        # no shift where the axis is not longer than the window
        left = integers(0)
        if s:
            left = op.Mul(op.Min(op.Div(n, integers(m + 1)), integers(1)), integers(m - s))
        count = op.Div(op.Add(op.Add(n, left), integers(m - 1)), integers(m))
        total = op.Mul(count, integers(m))
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        place = op.Sub(op.Range(zero, op.Squeeze(total, integers(0)), one), left)
        inside = op.Max(op.Min(place, op.Sub(n, integers(1))), integers(0))
        x = op.Gather(x, inside, axis=axis)
        outside = op.Or(op.Less(place, integers(0)), op.GreaterOrEqual(place, n))
        form = (
            [integers(1, 1)] * (axis - 1) + [count, integers(m)] + [integers(1, 1)] * (ndim - axis)
        )
        outside = op.Reshape(outside, op.Concat(*form, axis=0))
        hidden = outside if hidden is None else op.Or(hidden, outside)
        sizes.append(n)
        lefts.append(left)
        counts.append(count)
        totals.append(total)
    pairs = [part for pair in zip(counts, map(integers, window), strict=True) for part in pair]
    of_counts, of_sizes = list(range(0, 2 * ndim, 2)), list(range(1, 2 * ndim, 2))
    # [B, c1, m1, ..., 3 C] to [3, B, W, h, N, d]
    x = op.Reshape(x, op.Concat(batch, *pairs, integers(3 * heads * width), axis=0))
    x = op.Transpose(x, perm=[0, *(1 + i for i in of_counts + of_sizes), 2 * ndim + 1])
    x = op.Reshape(x, op.Concat(batch, integers(-1, tokens, 3, heads, width), axis=0))
    x = op.Transpose(x, perm=[3, 0, 1, 4, 2, 5])
    q, k, v = (op.Gather(x, op.Constant(value_int=i), axis=0) for i in range(3))

    def direction(x: Any) -> Any:
        square = op.ReduceSumSquare(x, integers(-1), keepdims=1)
        tiny = op.Less(square, op.Constant(value_float=1e-10))
        inverse = op.Reciprocal(op.Sqrt(square))
        return op.Mul(x, op.Where(tiny, op.Constant(value_float=0.0), inverse))

    keys = op.Transpose(direction(k), perm=[0, 1, 2, 4, 3])
    scores = op.Add(op.MatMul(op.Mul(direction(q), scale), keys), bias)
    hidden = op.Transpose(hidden, perm=of_counts + of_sizes)
    hidden = op.Reshape(hidden, integers(-1, 1, 1, tokens))  # [W, 1, 1, N]
    scores = op.Where(hidden, op.Constant(value_float=float('-inf')), scores)
    out = op.MatMul(op.Softmax(scores, axis=-1), v)
    # [B, W, h, N, d] to [B, c1, c2, ..., m1, m2, ..., C] to the map
    out = op.Transpose(out, perm=[0, 1, 3, 2, 4])
    form = [batch, *counts, *(integers(m) for m in window), integers(heads * width)]
    out = op.Reshape(out, op.Concat(*form, axis=0))
    mixed = [place for axis in range(1, ndim + 1) for place in (axis, axis + ndim)]
    out = op.Transpose(out, perm=[0, *mixed, 2 * ndim + 1])
    out = op.Reshape(out, op.Concat(batch, *totals, integers(heads * width), axis=0))
    begins = op.Concat(*lefts, axis=0)
    ends = op.Add(begins, op.Concat(*sizes, axis=0))
    return op.Slice(out, begins, ends, integers(*range(1, ndim + 1)))
