"""Reading SwinV2 weights of every published format; pure torch."""

from ..errors import CheckpointError
from .class_map import read_class_map
from .convert import convert, convert_file, describe
from .download import fetch, fetch_together
from .files import read_checkpoint, write_checkpoint
from .formats import FORMATS
from .inputs import adapt_channels, inflate
from .load import load_pretrained, load_whole_model
from .pickles import read_pickle
from .published import PUBLISHED
from .report import LoadReport, compare_keys

__all__ = [
    'FORMATS', 'PUBLISHED', 'CheckpointError', 'LoadReport', 'adapt_channels', 'compare_keys',
    'convert', 'convert_file', 'describe', 'fetch', 'fetch_together', 'inflate', 'load_pretrained',
    'load_whole_model', 'read_checkpoint', 'read_class_map', 'read_pickle', 'write_checkpoint',
]  # fmt: skip
