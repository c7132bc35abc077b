"""Variants above the block: the same parameters, keys and numbers, computed another way."""

from torch import Tensor

from ..core.attention import WindowAttention
from ..core.block import Block
from ..ops import WindowGrid, padded
from .chunked import AutoBlock, ChunkedBlock

__all__ = ['PATHS', 'AutoBlock', 'ChunkedBlock', 'PaddedBlock']


class PaddedAttention(WindowAttention):
    """`WindowAttention` in windows of one size."""

    def attend(self, qkv: Tensor, grid: WindowGrid, table: Tensor, scale: Tensor) -> Tensor:
        """``(B, *S, 3 C) -> (B, *S, C)``; see `mmswinv2.ops.padded`."""
        dropout = self.attn_drop if self.training else 0.0
        return padded.attend(qkv, grid, table, scale, dropout)


class PaddedBlock(Block):
    """A block in windows of one size."""

    attention = PaddedAttention


PATHS: dict[str, type[Block]] = {
    'auto': AutoBlock,
    'plain': Block,
    'chunked': ChunkedBlock,
    'padded': PaddedBlock,
}
