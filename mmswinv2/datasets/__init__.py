"""Transforms that the host packages lack, and checks of their data."""

from .instaboost import InstaBoost
from .seg_maps import SegMapGuard, guard_seg_maps, has_seg_maps, want_seg_maps

__all__ = ['InstaBoost', 'SegMapGuard', 'guard_seg_maps', 'has_seg_maps', 'want_seg_maps']
