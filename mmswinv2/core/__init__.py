"""SwinV2 in pure torch: the same code for images (2 axes) and video (3 axes)."""

from .swin_v2 import SwinV2
from .variants import VARIANTS, get_variant

__all__ = ['VARIANTS', 'SwinV2', 'get_variant']
