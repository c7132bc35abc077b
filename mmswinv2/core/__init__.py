"""SwinV2 in pure torch: the same code for images (2 axes) and video (3 axes)."""

from .arguments import VARIANTS, get_variant
from .swin_v2 import SwinV2, layer_id

__all__ = ['VARIANTS', 'SwinV2', 'get_variant', 'layer_id']
