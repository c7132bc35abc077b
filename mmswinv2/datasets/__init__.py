"""Transforms that the host packages lack, and video files.

The data sets, `video_dataset` and `imagenet_v2`, import mmaction2 and mmpretrain; the registry
imports each when it is looked up.
"""

from .. import hosts  # noqa: F401, applies the patches that every use needs
from .images import LoadImage
from .transforms import FiveCrop, InstaBoost, ShuffleFrames, VideoDecode, VideoInit
from .video_files import UnreadableVideo, open_video, write_video

__all__ = [
    'FiveCrop',
    'InstaBoost',
    'LoadImage',
    'ShuffleFrames',
    'UnreadableVideo',
    'VideoDecode',
    'VideoInit',
    'open_video',
    'write_video',
]
