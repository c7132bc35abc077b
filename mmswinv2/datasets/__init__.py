"""Transforms that the host packages lack, and checks of their data.

`of_hosts` has the data sets; they import mmaction2 and mmpretrain, and are not imported here.
"""

from .instaboost import InstaBoost
from .labels import check_image_labels, check_video_labels
from .seg_maps import SegMapGuard, guard_seg_maps, has_seg_maps, want_seg_maps
from .video_files import UnreadableVideo, open_video, write_video
from .video_transforms import FiveCrop, ShuffleFrames, VideoDecode, VideoInit

__all__ = [
    'FiveCrop',
    'InstaBoost',
    'SegMapGuard',
    'ShuffleFrames',
    'UnreadableVideo',
    'VideoDecode',
    'VideoInit',
    'check_image_labels',
    'check_video_labels',
    'guard_seg_maps',
    'has_seg_maps',
    'open_video',
    'want_seg_maps',
    'write_video',
]
