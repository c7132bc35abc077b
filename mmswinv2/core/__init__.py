"""SwinV2 in pure torch: the same code for images (2 axes) and video (3 axes)."""

from .arguments import VARIANTS, get_variant
from .lora import LoRA, add_lora, find_lora, merge_lora
from .swin_v2 import SwinV2, layer_id

__all__ = [
    'VARIANTS',
    'LoRA',
    'SwinV2',
    'add_lora',
    'find_lora',
    'get_variant',
    'layer_id',
    'merge_lora',
]
