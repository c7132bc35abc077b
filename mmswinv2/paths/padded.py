"""Windows of one size in every mode of torch, as graphs for any size of map have them."""

from __future__ import annotations

from torch import Tensor

from ..core.attention import WindowAttention
from ..core.block import Block
from ..ops import WindowGrid, padded


class PaddedAttention(WindowAttention):
    """`WindowAttention` in windows of one size."""

    def attend(self, qkv: Tensor, grid: WindowGrid, table: Tensor, scale: Tensor) -> Tensor:
        """``(B, *S, 3 C) -> (B, *S, C)``; see `mmswinv2.ops.padded`."""
        dropout = self.attn_drop if self.training else 0.0
        return padded.attend(qkv, grid, table, scale, dropout)


class PaddedBlock(Block):
    """A block in windows of one size."""

    attention = PaddedAttention
