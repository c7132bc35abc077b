"""Test-time augmentation of two-stage detectors with masks, which mmdet does not support."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..checks import is_count, is_number, want
from ..errors import UserError
from ..registry import MODELS

# what the meta information of a view must have, and which transform sets it
_SET_BY = {'flip': 'RandomFlip', 'ori_shape': 'LoadImageFromFile', 'scale_factor': 'Resize'}


@MODELS.register_module()
class InstanceSegTTAModel(BaseTTAModel):
    """Multi-scale and flip testing of boxes and masks, for two-stage detectors of mmdet.

    Every view proposes boxes of its own; their boxes before NMS are brought into the frame of the
    image and merged by one (Soft-)NMS. Then every view predicts masks for the merged boxes, which
    are flipped back and averaged. Pasting a mask into the image is linear and the boxes are the
    same for all views, so this is the average of the pasted masks.

    A view's features are needed twice, for boxes and for masks. Those of `cached_views` views are
    kept and the others computed again, so memory does not grow with the number of views.

    Args:
        module: the detector, or its config.
        tta_cfg: ``nms``, ``max_per_img``, ``score_thr`` (each the detector's
            ``test_cfg.rcnn`` where not given) and ``size_ranges``: for each scale, in the order of
            ``tta_pipeline``, the minimum and maximum size of the boxes that are taken from it,
            where size is the square root of the area in pixels of the image.
        cached_views: views whose features are kept between boxes and masks.
        data_preprocessor: see `BaseTTAModel`.

    Raises:
        UserError: if the detector has no masks, or is not a two-stage detector with RoI heads,
            or an option is unknown.

    Example::

        tta_model = dict(
            type='mmswinv2.InstanceSegTTAModel',
            tta_cfg=dict(nms=dict(type='soft_nms', iou_threshold=0.5), max_per_img=100),
        )
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: Mapping[str, Any] | None = None,
        cached_views: int = 1,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        _check_detector(self.module)
        self.tta_cfg = _options(self.module, tta_cfg)
        want('cached_views', cached_views, '1 or more', is_count(cached_views))
        self.cached_views = cached_views

    def _head(self, name: str) -> Any:
        """A head of the detector, or the last of a cascade."""
        heads = getattr(self.module.roi_head, name)
        return heads[-1] if isinstance(heads, nn.ModuleList) else heads

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch of images from their views, as `mmcv.transforms.TestTimeAug` gives them.

        ``inputs`` and ``data_samples`` are lists over views of lists over images. Returns the first
        view's data samples, with ``pred_instances`` of the image.
        """
        views = [
            {'inputs': inputs, 'data_samples': samples}
            for inputs, samples in zip(data['inputs'], data['data_samples'], strict=True)
        ]
        ranges = self._ranges(views)
        cache: dict[int, tuple] = {}
        candidates: list[list[tuple[Tensor, Tensor]]] = [[] for _ in views[0]['inputs']]
        for i, view in enumerate(views):
            cache.pop(i - self.cached_views, None)
            cache[i] = self._features(view)
            for found, (boxes, scores) in zip(candidates, self._boxes(*cache[i]), strict=True):
                found.append((boxes, in_range(boxes, scores, ranges[i])))
        merged = [self._merge(found) for found in candidates]
        if any(len(results) for results in merged):
            masks = self._average_masks(views, cache, merged)
        else:
            masks = [results.bboxes.new_zeros(0, 1, 1, 1) for results in merged]
        samples = data['data_samples'][0]
        for sample, results, mask in zip(samples, merged, masks, strict=True):
            sample.pred_instances = self._paste(results, mask, sample.metainfo)
        return samples

    def merge_preds(self, data_samples_list: list) -> list:
        """Raise `TypeError`, as masks cannot be merged after each view's NMS."""
        raise TypeError('InstanceSegTTAModel merges within test_step; call that')

    def _features(self, view: dict) -> tuple[tuple[Tensor, ...], list, list[View]]:
        """Maps of a view, its data samples, and how each was resized and flipped."""
        data = self.module.data_preprocessor(view, False)
        samples = [sample.clone() for sample in data['data_samples']]
        frames = [View.of(sample.metainfo) for sample in samples]
        for sample in samples:
            # results are flipped back in this class, as HTC's own code for it fails
            sample.set_metainfo({'flip': False, 'flip_direction': None})
        return self.module.extract_feat(data['inputs']), samples, frames

    def _boxes(
        self, features: tuple[Tensor, ...], samples: list, frames: list[View]
    ) -> list[tuple[Tensor, Tensor]]:
        """A view's boxes before NMS, in the image, and their scores, for each image.

        They are ``(n, k, 4)``, k = 1 or the number of classes, and ``(n, classes + 1)``.
        """
        found: list[InstanceData] = []
        predict = self._head('bbox_head').predict_by_feat

        def capture(**kwargs: Any) -> list[InstanceData]:
            found.extend(predict(**{**kwargs, 'rcnn_test_cfg': None, 'rescale': False}))
            return [_instances(features[0].new_zeros(0, 4)) for _ in samples]

        if samples[0].get('proposals') is None:
            proposals = self.module.rpn_head.predict(features, samples, rescale=False)
        else:
            proposals = [sample.proposals for sample in samples]
        with _replaced(self._head('bbox_head'), capture):
            self.module.roi_head.predict(features, proposals, samples, rescale=False)
        return [
            (frame.to_image(raw.bboxes.unflatten(-1, (-1, 4))), raw.scores)
            for raw, frame in zip(found, frames, strict=bool(found))
        ] or [(features[0].new_zeros(0, 1, 4), features[0].new_zeros(0, 2)) for _ in samples]

    def _ranges(self, views: list[dict]) -> list[tuple[float, float] | None]:
        """The range of sizes of the boxes that are taken from each view; ``None``: all sizes."""
        ranges = self.tta_cfg['size_ranges']
        if ranges is None:
            return [None] * len(views)
        factors = [tuple(view['data_samples'][0].metainfo['scale_factor']) for view in views]
        each = len(views) // len(ranges) if ranges and len(views) % len(ranges) == 0 else 0
        if not each or any(f != factors[i // each * each] for i, f in enumerate(factors)):
            raise UserError(
                f'size_ranges has {len(ranges)} entries and tta_pipeline {len(views)} views; it '
                'needs one entry for each scale, and the scales stand before the flips'
            )
        return [ranges[i // each] for i in range(len(views))]

    def _merge(self, found: list[tuple[Tensor, Tensor]]) -> InstanceData:
        """Boxes ``(n, k, 4)`` and scores ``(n, classes + 1)`` of each view, merged by one NMS."""
        from mmdet.models.layers import multiclass_nms

        found = [pair for pair in found if len(pair[0])] or found[:1]
        boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        dets, labels = multiclass_nms(
            boxes.flatten(1),
            scores,
            self.tta_cfg['score_thr'],
            self.tta_cfg['nms'],
            self.tta_cfg['max_per_img'],
        )
        return _instances(dets[:, :4], dets[:, 4], labels)

    def _average_masks(
        self, views: list[dict], cache: dict[int, tuple], merged: list[InstanceData]
    ) -> list[Tensor]:
        """Average probabilities ``(n, 1, h, w)`` in the merged boxes, and the results' scores."""
        sums: list[Tensor] = []
        scores = [torch.zeros_like(results.scores) for results in merged]
        for i in reversed(range(len(views))):  # the last ones are in the cache
            features, samples, frames = cache.pop(i, None) or self._features(views[i])
            masks, results = self._masks(features, samples, frames, merged)
            del features  # free them before the next view's are computed
            for total, result in zip(scores, results, strict=True):
                total += result.scores / len(views)
            masks = [m.flip(f.axes) / len(views) for m, f in zip(masks, frames, strict=True)]
            sums = [a + b for a, b in zip(sums, masks, strict=True)] if sums else masks
        for result, total in zip(merged, scores, strict=True):
            result.scores = total
        return sums

    def _masks(
        self,
        features: tuple[Tensor, ...],
        samples: list,
        frames: list[View],
        merged: list[InstanceData],
    ) -> tuple[list[Tensor], list[InstanceData]]:
        """A view's probabilities for the merged boxes, still flipped, and mmdet's results."""
        found: list[Tensor] = []

        def give(**kwargs: Any) -> list[InstanceData]:
            return [
                _instances(frame.from_image(results.bboxes), results.scores, results.labels)
                for results, frame in zip(merged, frames, strict=True)
            ]

        def capture(
            mask_preds: Sequence[Tensor],
            results_list: list[InstanceData],
            activate_map: bool = False,
            **kwargs: Any,
        ) -> list[InstanceData]:
            for preds, results in zip(mask_preds, results_list, strict=True):
                if not self._head('mask_head').class_agnostic:
                    preds = preds[range(len(preds)), results.labels][:, None]
                found.append(preds if activate_map else preds.sigmoid())
            return results_list

        # boxes are given, so the box heads need not look at more than one proposal
        proposals = [
            _instances(features[0].new_tensor([[0, 0, frame.size[1], frame.size[0]]]))
            for frame in frames
        ]
        with _replaced(self._head('bbox_head'), give), _replaced(self._head('mask_head'), capture):
            results = self.module.roi_head.predict(features, proposals, samples, rescale=False)
        return found, results

    def _paste(self, results: InstanceData, masks: Tensor, meta: Mapping[str, Any]) -> InstanceData:
        """Instances with their masks, from probabilities in boxes to pixels of the image."""
        labels = results.labels
        results.labels = torch.zeros_like(labels)  # `masks` holds each box's own class alone
        (results,) = self._head('mask_head').predict_by_feat(
            mask_preds=[masks],
            results_list=[results],
            batch_img_metas=[{**meta, 'scale_factor': (1.0, 1.0)}],
            rcnn_test_cfg=self.module.roi_head.test_cfg,
            rescale=True,
            activate_map=True,
        )
        results.labels = labels
        return results


def _check_detector(detector: nn.Module) -> None:
    """Raise `UserError` for a detector whose masks are not predicted from boxes."""
    from mmdet.models.detectors import TwoStageDetector
    from mmdet.models.detectors.panoptic_two_stage_segmentor import TwoStagePanopticSegmentor
    from mmdet.models.roi_heads import SparseRoIHead

    name = type(detector).__name__
    if isinstance(detector, TwoStageDetector) and not detector.roi_head.with_mask:
        raise UserError(
            f'InstanceSegTTAModel merges masks, and {name} has no mask head here; for boxes alone '
            "use tta_model=dict(type='DetTTAModel', ...)"
        )
    if (
        not isinstance(detector, TwoStageDetector)
        or isinstance(detector, TwoStagePanopticSegmentor)
        or isinstance(detector.roi_head, SparseRoIHead)
    ):
        raise UserError(
            f'InstanceSegTTAModel needs a two-stage detector whose masks are predicted from boxes, '
            f'as Mask R-CNN or HTC, and {name} is none; test it without --tta, or, if it has boxes '
            "alone, use tta_model=dict(type='DetTTAModel', ...)"
        )


def _options(detector: Any, tta_cfg: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of merging: those of `tta_cfg`, and of the detector for the rest."""
    own = detector.roi_head.test_cfg
    options = {key: own.get(key) for key in ('nms', 'max_per_img', 'score_thr')}
    options['size_ranges'] = None
    if unknown := sorted(set(tta_cfg or {}) - set(options)):
        raise UserError(f'tta_cfg has {unknown}; it may have {sorted(options)}')
    options.update(tta_cfg or {})
    ranges = options['size_ranges']
    rule = 'a list of (minimum, maximum) in pixels, or None for all sizes, one for each scale'
    listed = isinstance(ranges, (list, tuple)) and all(map(_is_range, ranges))
    want('size_ranges', ranges, rule, ranges is None or listed)
    return options


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))
    return pair and 0 <= value[0] < value[1]


def _instances(
    boxes: Tensor, scores: Tensor | None = None, labels: Tensor | None = None
) -> InstanceData:
    scores = boxes.new_zeros(len(boxes)) if scores is None else scores
    labels = boxes.new_zeros(len(boxes), dtype=torch.long) if labels is None else labels
    return InstanceData(bboxes=boxes, scores=scores.clone(), labels=labels.clone())


@contextmanager
def _replaced(head: Any, predict_by_feat: Callable) -> Iterator[None]:
    """Temporarily replace a head's last step, in which mmdet turns raw output into results."""
    head.predict_by_feat = predict_by_feat
    try:
        yield
    finally:
        del head.predict_by_feat


@dataclass(frozen=True)
class View:
    """How a view came from its image: scaled, then flipped, then padded."""

    scale: tuple[float, float]  #: x and y factor
    size: tuple[int, int]  #: height and width of the scaled image, without padding
    axes: tuple[int, ...]  #: axes of an ``(..., H, W)`` map along which it is flipped

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> View:
        """Read a view from the meta information that mmdet's transforms record."""
        if missing := sorted(set(_SET_BY) - set(meta)):
            transforms = ' or '.join(_SET_BY[key] for key in missing)
            raise UserError(
                f'the views lack {missing} in their meta information: tta_pipeline has no '
                f'{transforms}, or meta_keys of its PackDetInputs leave it out. Scales alone need '
                "dict(type='RandomFlip', prob=0.0) too"
            )
        direction = meta.get('flip_direction') if meta['flip'] else None
        axes = {None: (), 'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-1, -2)}[direction]
        (x, y), (height, width) = meta['scale_factor'], meta['ori_shape'][:2]
        return cls((x, y), (round(height * y), round(width * x)), axes)

    def flip_boxes(self, boxes: Tensor) -> Tensor:
        """Mirror ``(..., 4)`` boxes of the view."""
        for axis in self.axes:
            low, high = (0, 2) if axis == -1 else (1, 3)
            boxes = boxes.clone()
            boxes[..., [low, high]] = self.size[axis] - boxes[..., [high, low]]
        return boxes

    def to_image(self, boxes: Tensor) -> Tensor:
        """``(..., 4)`` boxes of the view in the frame of the image."""
        return self.flip_boxes(boxes) / boxes.new_tensor(self.scale * 2)

    def from_image(self, boxes: Tensor) -> Tensor:
        """``(..., 4)`` boxes of the image in the frame of the view."""
        return self.flip_boxes(boxes * boxes.new_tensor(self.scale * 2))


def in_range(boxes: Tensor, scores: Tensor, range_: tuple[float, float] | None) -> Tensor:
    """Scores ``(n, classes + 1)``, zero where a box ``(n, k, 4)`` is not of a size in the range."""
    if range_ is None:
        return scores
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    size = (width * height).sqrt()  # [n, k]
    inside = (size >= range_[0]) & (size <= range_[1])
    return torch.cat([scores[:, :-1] * inside, scores[:, -1:]], dim=1)
