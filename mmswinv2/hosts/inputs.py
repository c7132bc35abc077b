"""Inputs of a training: their size, and random ones."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UserError
from .configs import dicts_in, training_pipeline, type_name
from .lookup import of


def input_size(cfg: Any, given: Sequence[int] | None = None) -> tuple[int, ...]:
    """The size that a config trains at, or `given`: ``(H, W)``, or ``(T, H, W)`` for video.

    This is the largest of several scales, padded as the model pads it.

    Raises:
        UserError: if there is no model, the pipeline names no size, or `given` has another number
            of axes.
    """
    if cfg.get('model') is None:
        raise UserError(f'{cfg.filename} has no model; name the config of a training')
    if given is not None:
        axes = of(cfg).input_axes
        if len(given) != axes or min(given) < 1:
            raise UserError(f'--shape must be {axes} sizes for this config, got {list(given)}')
        return tuple(given)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    # a list, or of mmpretrain a dict with one
    augments = [part for _, part in dicts_in(preprocessor.get('batch_augments'))]
    for augment in augments:
        if 'size' in augment:
            return tuple(augment['size'])
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    pipeline = training_pipeline(cfg)
    frames = [of(cfg).frames(cfg, t) for t in pipeline if 'clip_len' in t]
    height, width = _last_size(pipeline)
    for augment in augments:  # draw heights of a range, for the shape of the images
        if heights := augment.get('random_size_range'):
            height, width = heights[1], heights[1] * width // height
    if not frames:
        divisor = preprocessor.get('pad_size_divisor', 1)
        height, width = (-(-n // divisor) * divisor for n in (height, width))
    return (*frames, height, width)


def sample_batch(cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
    """`Host.sample_batch` with as many channels as the backbone takes."""
    batch = of(cfg).sample_batch(cfg, size, count)
    channels = cfg.model.backbone.get('in_channels', 3)
    if channels != 3:
        order = torch.arange(channels) % 3
        images = [image.index_select(-1 - len(size), order) for image in batch['inputs']]
        batch['inputs'] = images if isinstance(batch['inputs'], list) else torch.stack(images)
    return batch


def _last_size(pipeline: Sequence[Any]) -> tuple[int, int]:
    """The size (H, W) that the last transform that names one gives, the largest of several."""
    for transform in reversed(pipeline):
        for branch in transform.get('transforms', ()):
            if isinstance(branch, (list, tuple)):
                return max((_last_size(b) for b in transform['transforms']), key=_area)
        relative = 'relative' in transform.get('crop_type', '')  # shares of the image
        size = transform.get('crop_size') or transform.get('size')  # of mmaction2's RandomCrop
        if size and 'Crop' in type_name(transform) and not relative:
            height, width, *_ = (size, size) if isinstance(size, int) else (*size, *size)
            return height, width
        scale = transform.get('scale')
        if isinstance(scale, int):  # the side of a square, in mmpretrain
            return scale, scale
        several = scale or transform.get('scales') or ()
        several = [pair for pair in several if isinstance(pair, (list, tuple))]
        scale = max(several, key=_area, default=scale)
        if scale and min(scale) >= 1:  # else shares of the image, or -1 for any size
            most = (transform.get('ratio_range') or (1, 1))[1]
            return round(min(scale) * most), round(max(scale) * most)  # a landscape image
    raise UserError(
        'the pipeline takes images at the sizes of their files; give --shape H W (videos: T H W)'
    )


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]
