"""Transforms that the host packages lack, and checks of their data.

`video_dataset` imports mmaction2 and is therefore not imported here.
"""

from .instaboost import InstaBoost
from .labels import check_video_labels, leaves
from .seg_maps import SegMapGuard, guard_seg_maps, has_seg_maps, want_seg_maps
from .video_transforms import (
    FiveCrop,
    ShuffleFrames,
    UnreadableVideo,
    VideoDecode,
    VideoInit,
    open_video,
    read_frames,
)

__all__ = [
    'FiveCrop',
    'InstaBoost',
    'SegMapGuard',
    'ShuffleFrames',
    'UnreadableVideo',
    'VideoDecode',
    'VideoInit',
    'check_video_labels',
    'guard_seg_maps',
    'has_seg_maps',
    'leaves',
    'open_video',
    'read_frames',
    'want_seg_maps',
]
