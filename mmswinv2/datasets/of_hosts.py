"""Data sets that build on host packages, of those that are installed."""

import importlib.util

if importlib.util.find_spec('mmaction'):
    from . import video_dataset  # noqa: F401
if importlib.util.find_spec('mmpretrain'):
    from . import imagenet_v2  # noqa: F401
