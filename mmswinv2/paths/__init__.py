"""Other classes of block: the same parameters, keys and numbers, computed another way."""

from ..core.attention import WindowAttention
from ..core.block import Block
from ..ops import padded
from .chunked import AutoBlock, ChunkedBlock

__all__ = ['PATHS', 'AutoBlock', 'ChunkedBlock', 'PaddedBlock']


class PaddedAttention(WindowAttention):
    """`WindowAttention` in windows of one size."""

    attend = staticmethod(padded.attend)


class PaddedBlock(Block):
    """A block in windows of one size."""

    attention = PaddedAttention


PATHS: dict[str, type[Block]] = {
    'auto': AutoBlock,
    'plain': Block,
    'chunked': ChunkedBlock,
    'padded': PaddedBlock,
}
