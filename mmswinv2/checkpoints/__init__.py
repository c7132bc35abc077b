"""Reading SwinV2 weights of every published format; pure torch."""

from ..errors import CheckpointError
from .convert import convert
from .files import fetch, fetch_together, read_checkpoint, write_checkpoint
from .formats import FORMATS
from .inflate import inflate
from .load import LoadReport, load_pretrained
from .whole import TransferReport, load_but, read_class_map

__all__ = [
    'FORMATS',
    'CheckpointError',
    'LoadReport',
    'TransferReport',
    'convert',
    'fetch',
    'fetch_together',
    'inflate',
    'load_but',
    'load_pretrained',
    'read_checkpoint',
    'read_class_map',
    'write_checkpoint',
]
