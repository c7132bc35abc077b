"""Giving a config of mmdet or mmseg a SwinV2 backbone."""

from .source import find_config, read_config
from .swap import Options, swap_backbone, write_config
from .weights import default_window

__all__ = [
    'Options',
    'default_window',
    'find_config',
    'read_config',
    'swap_backbone',
    'write_config',
]
