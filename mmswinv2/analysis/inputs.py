"""What a config feeds its model with: sizes, and random samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UserError, leaves

__all__ = ['batch_of', 'input_size']


def input_size(cfg: Any, given: Sequence[int] | None = None) -> tuple[int, ...]:
    """The size that a config trains at: ``(H, W)``, or frames too for video: ``(T, H, W)``.

    Of several scales, the largest; padded as the model pads it.

    Args:
        cfg: the config.
        given: a size to take in its place.

    Raises:
        UserError: if the pipeline names no size, or `given` has another number of axes.
    """
    if given is not None:
        axes = 3 if cfg.default_scope == 'mmaction' else 2
        if len(given) != axes or min(given) < 1:
            raise UserError(f'--shape must be {axes} sizes for this config, got {list(given)}')
        return tuple(given)
    pre = cfg.model.get('data_preprocessor') or {}
    for augment in pre.get('batch_augments') or ():
        if 'size' in augment:
            return tuple(augment['size'])
    if pre.get('size'):
        return tuple(pre['size'])
    pipeline = _pipeline(cfg)
    frames = [t['clip_len'] for t in pipeline if 'clip_len' in t]
    height, width = _last_size(pipeline)
    if not frames:
        divisor = pre.get('pad_size_divisor', 1)
        height, width = (-(-n // divisor) * divisor for n in (height, width))
    return (*frames, height, width)


def _pipeline(cfg: Any) -> list[Any]:
    """Of the training set; of several, the first's."""
    loader = cfg.get('train_dataloader') or {}
    for dataset in leaves(loader.get('dataset') or {}):
        if pipeline := dataset.get('pipeline'):
            return pipeline
    raise UserError('this config has no train_dataloader with a pipeline to take inputs from')


def _last_size(pipeline: Sequence[Any]) -> tuple[int, int]:
    for transform in reversed(pipeline):
        for branch in transform.get('transforms', ()):
            if isinstance(branch, (list, tuple)):
                return max((_last_size(b) for b in transform['transforms']), key=_area)
        if 'crop_size' in transform and 'Crop' in transform['type']:
            size = transform['crop_size']
            return (size, size) if isinstance(size, int) else tuple(size)
        scale = transform.get('scale') or max(transform.get('scales', ()), default=None, key=_area)
        if isinstance(scale, int):  # mmpretrain's for squares
            return scale, scale
        if scale and min(scale) > 0:
            return min(scale), max(scale)  # whichever way round a picture is
    raise UserError('the pipeline of this config says no size; give --shape')


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]


def batch_of(cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
    """Random inputs and annotations for a training step, as a data loader hands them over.

    Args:
        cfg: the config.
        size: ``(H, W)`` or ``(T, H, W)``.
        count: samples.
    """
    scope = cfg.default_scope
    if scope == 'mmdet':
        return _boxes(cfg, size, count)
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(count)]
    if scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        head = cfg.model.decode_head
        head = head[-1] if isinstance(head, (list, tuple)) else head
        meta = dict(img_shape=tuple(size), ori_shape=tuple(size), pad_shape=tuple(size))
        labels = [torch.randint(head.num_classes, (1, *size)) for _ in inputs]
        samples = [
            SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)) for label in labels
        ]
        return dict(inputs=inputs, data_samples=samples)
    if scope == 'mmpretrain':
        samples = _labels_and_masks(cfg, size, count)
        masked = 'mask' in samples[0]  # SimMIM's preprocessor takes a batch, a classifier's a list
        return dict(inputs=torch.stack(inputs) if masked else inputs, data_samples=samples)
    from mmaction.structures import ActionDataSample

    samples = [ActionDataSample().set_gt_label(0) for _ in inputs]
    return dict(inputs=[clip[None] for clip in inputs], data_samples=samples)


def _labels_and_masks(cfg: Any, size: Sequence[int], count: int) -> list[Any]:
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(0) for _ in range(count)]
    for transform in _pipeline(cfg):
        if 'MaskGenerator' in transform['type']:
            patch = transform.get('model_patch_size', 4)
            for sample in samples:
                sample.mask = torch.zeros([n // patch for n in size], dtype=torch.long)
    return samples


def _boxes(cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
    from mmdet.testing import demo_mm_inputs

    loading = next((t for t in _pipeline(cfg) if 'LoadAnnotations' in t['type']), {})
    return demo_mm_inputs(
        count,
        [(3, *size)] * count,
        num_items=[64] * count,  # so that samplers find as many matches as they take
        num_classes=_num_classes(cfg.model),
        with_mask=loading.get('with_mask', False),
        with_semantic=loading.get('with_seg', False),
        sem_seg_output_strides=8 if 'semantic_head' in cfg.model.get('roi_head', {}) else 1,
    )


def _num_classes(node: Any) -> int:
    """The smallest number of classes of any head."""
    if isinstance(node, dict):
        found = [node[k] for k in ('num_classes', 'num_things_classes') if k in node]
        node = list(node.values())
    else:
        found = []
    children = [_num_classes(child) for child in node if isinstance(child, (dict, list))]
    return min([n for n in (*found, *children) if n], default=0)
