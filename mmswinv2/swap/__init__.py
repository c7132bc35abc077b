"""Giving a config of mmdet or mmseg a SwinV2 backbone."""

from .config import read_config, write_config
from .swap import Options, default_window, swap_backbone

__all__ = ['Options', 'default_window', 'read_config', 'swap_backbone', 'write_config']
