"""Modules for the registries of the host packages."""

from .. import hosts  # noqa: F401, applies the patches that every use needs
from .backbones import SwinTransformerV2, VideoSwinTransformerV2
from .necks import GlobalSelfAttention
from .simmim import NormalizedPixelLoss, SimMIMSwinTransformerV2
from .test_time_aug import InstanceSegTTAModel

__all__ = [
    'GlobalSelfAttention',
    'InstanceSegTTAModel',
    'NormalizedPixelLoss',
    'SimMIMSwinTransformerV2',
    'SwinTransformerV2',
    'VideoSwinTransformerV2',
]
