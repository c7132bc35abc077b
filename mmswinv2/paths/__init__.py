"""Variants above the block: the same parameters, keys and numbers, computed another way."""

from ..core.block import Block
from .chunked import AutoBlock, ChunkedBlock
from .padded import PaddedBlock

__all__ = ['PATHS', 'AutoBlock', 'ChunkedBlock', 'PaddedBlock']

PATHS: dict[str, type[Block]] = {
    'auto': AutoBlock,
    'plain': Block,
    'chunked': ChunkedBlock,
    'padded': PaddedBlock,
}
