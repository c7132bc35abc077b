"""Operators that detectors need and torch lacks, for `torch.export` and for ONNX.

Each is registered as a custom operator of torch, so that a graph holds it as one node of known
shape, and has a translation to standard ONNX operators in `translations`.
"""

from __future__ import annotations  # custom_op of torch 2.6 reads Sequence only as a string

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op('mmswinv2::nms', mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_boxes: int
) -> Tensor:
    """Non-maximum suppression in each image of a batch, with mmcv's operator.

    Args:
        boxes: ``(B, N, 4)``, as x1, y1, x2, y2.
        scores: ``(B, N)``.
        iou_threshold: a box is removed if its IoU with a better one is larger than this.
        score_threshold: boxes with this score or less are removed.
        max_boxes: most boxes kept for each image.

    Returns:
        ``(K, 2)``: index of the image and of the box, sorted by image and descending score.
    """
    from mmcv.ops import nms as of_mmcv

    found = []
    for image, (own, score) in enumerate(zip(boxes, scores, strict=True)):
        (valid,) = (score > score_threshold).nonzero(as_tuple=True)
        keep = valid
        if len(valid):
            keep = valid[of_mmcv(own[valid], score[valid], iou_threshold)[1]][:max_boxes]
        found.append(torch.stack((torch.full_like(keep, image), keep), 1))
    return torch.cat(found)


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    found = torch.library.get_ctx().new_dynamic_size()
    return scores.new_empty((found, 2), dtype=torch.int64)


@torch.library.custom_op('mmswinv2::soft_nms', mutates_args=())
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    max_boxes: int,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS in each image of a batch: the first `max_boxes` that mmcv's would return.

    Args:
        boxes: ``(B, N, 4)``, as x1, y1, x2, y2.
        scores: ``(B, N)``.
        iou_threshold: IoU with a better box from which a score is reduced; not for ``'gaussian'``.
        sigma: width of ``'gaussian'``.
        min_score: boxes with a reduced score below this are dropped.
        method: ``'naive'``, ``'linear'`` or ``'gaussian'``.
        max_boxes: most boxes kept for each image.

    Returns:
        indices ``(K, 2)`` as from `nms`, and their reduced scores ``(K,)``.
    """
    from mmcv.ops import soft_nms as of_mmcv

    found, values = [], []
    for image, (own, score) in enumerate(zip(boxes, scores, strict=True)):
        (valid,) = (score >= 0).nonzero(as_tuple=True)  # lower ones are padding
        options = dict(sigma=sigma, min_score=min_score, method=method)
        dets, order = of_mmcv(own[valid].float(), score[valid].float(), iou_threshold, **options)
        keep = valid[order[:max_boxes]]
        found.append(torch.stack((torch.full_like(keep, image), keep), 1))
        values.append(dets[:max_boxes, 4].to(scores.dtype))
    return torch.cat(found), torch.cat(values)


@soft_nms.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    return scores.new_empty((found, 2), dtype=torch.int64), scores.new_empty((found,))


@torch.library.custom_op('mmswinv2::roi_features', mutates_args=())
def roi_features(
    maps: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
    finest_scale: float,
) -> Tensor:
    """RoIAlign features of regions, each from the pyramid level that fits its size.

    Args:
        maps: feature maps of the levels, ``(B, C, H_i, W_i)``.
        rois: ``(K, 5)``, as image, x1, y1, x2, y2.
        scales: size of each level relative to the image.
        size: height h and width w of the output.
        sampling_ratio: samples per cell and axis; 0: as many as there are pixels.
        aligned: whether pixel centers are at half-integers.
        finest_scale: regions with sqrt(area) below twice this belong to level 0.

    Returns:
        ``(K, C, h, w)``.
    """
    from mmcv.ops import roi_align

    out = rois.new_zeros((len(rois), maps[0].shape[1], *size))
    relative = (rois[:, 3:] - rois[:, 1:3]).prod(1).sqrt() / finest_scale + 1e-6
    levels = sum(((relative >= 2.0**i).long() for i in range(1, len(maps))), relative.long() * 0)
    for i, (level, scale) in enumerate(zip(maps, scales, strict=True)):
        (own,) = (levels == i).nonzero(as_tuple=True)
        if len(own):
            out[own] = roi_align(
                level, rois[own], tuple(size), scale, sampling_ratio, 'avg', aligned
            )
    return out


@roi_features.register_fake
def _(
    maps: Sequence[Tensor], rois: Tensor, scales: Sequence[float], size: Sequence[int], *_: Any
) -> Tensor:
    return rois.new_empty((rois.shape[0], maps[0].shape[1], *size))
