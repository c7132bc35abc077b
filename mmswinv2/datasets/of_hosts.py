"""Data sets that build on host packages, of those that are installed."""

import importlib
import importlib.util
import logging

from mmengine.logging import print_log

for host, module in (('mmaction', 'video_dataset'), ('mmpretrain', 'imagenet_v2')):
    if importlib.util.find_spec(host) is None:
        continue
    try:
        importlib.import_module(f'.{module}', __package__)
    except Exception as error:  # somebody else's config may do without it
        print_log(
            f'mmswinv2.datasets.{module} is left out, as {host} cannot be imported: {error}',
            logger='current',
            level=logging.WARNING,
        )
