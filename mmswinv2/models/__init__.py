"""Modules for the registries of the host packages."""

from .backbones import SwinTransformerV2, VideoSwinTransformerV2
from .necks import GlobalSelfAttention
from .test_time_aug import InstanceSegTTAModel

__all__ = [
    'GlobalSelfAttention',
    'InstanceSegTTAModel',
    'SwinTransformerV2',
    'VideoSwinTransformerV2',
]
