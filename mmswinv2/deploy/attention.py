"""Window attention as one operator of a graph, whose sizes the runtime computes.

Traced as plain operators, torch would propagate symbolic sizes through every operator of every
block, which takes a minute for a small network.
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
