"""Graphs of detectors: the model's own modules, with post-processing as tensor operations.

A batch is computed together. Proposals are padded to the same number for each picture. Detections
are not padded: each comes with the index of its picture.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import class_names
from ..errors import UserError
from .graph import Graph
from .operators import nms, roi_features, soft_nms

# options of non-maximum suppression with an export rule
_NMS = (
    *('type', 'iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr'),
    *('sigma', 'min_score', 'method'),
)
_LEFT_OUT = -1.0  # score of padding, and of boxes that are too small or score too low


class Detector(Graph):
    """Base of detectors: ``(B, 3, H, W)`` to boxes ``(K, 4)``, scores, labels, picture indices.

    Boxes are x1, y1, x2, y2 in pixels of the input. Masks ``(K, h, w)`` are probabilities on a
    grid over their box.
    """

    task = 'detection'
    outputs: tuple[str, ...] = ('boxes', 'scores', 'labels', 'picture')

    def found(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class-wise non-maximum suppression of boxes ``(B, N, 4)``, as set in `cfg`."""
        kept, values = suppress(boxes, scores, labels, cfg, cfg['score_thr'])
        image, number = kept.unbind(1)
        return boxes[image, number], values, labels[image, number], image


class SingleStage(Detector):
    """mmdet's `RetinaNet`."""

    def __init__(self, model: Any, normalized: bool = False) -> None:
        super().__init__(model, normalized)
        check_heads(model.bbox_head, 'RetinaHead')
        check_limit(model.bbox_head)
        cfg = model.bbox_head.test_cfg
        check_nms(cfg.nms)
        if (least := cfg.get('min_bbox_size', 0)) > 0:  # mmdet's is of boxes that are scaled back
            raise UserError(
                f'min_bbox_size={least} of RetinaHead has no export rule, as the file is not told '
                'how pictures were resized; leave it out, and drop small boxes from the results'
            )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        head = self.model.bbox_head
        logits, deltas = head(self.model.extract_feat(self.pixels(image)))
        boxes, scores, labels = candidates(head, logits, deltas, image, head.test_cfg)
        return self.found(boxes, scores, labels, head.test_cfg)


class TwoStage(Detector):
    """mmdet's Faster, Mask, Cascade R-CNN and HTC."""

    def __init__(self, model: Any, normalized: bool = False) -> None:
        super().__init__(model, normalized)
        roi = self.model.roi_head
        check_heads(self.model.rpn_head, 'RPNHead')
        check_limit(self.model.rpn_head)
        check_heads(roi, 'StandardRoIHead', 'CascadeRoIHead', 'HybridTaskCascadeRoIHead')
        for cfg in (self.model.rpn_head.test_cfg, roi.test_cfg):
            check_nms(cfg.nms)
        for module in self.model.modules():
            if 'BaseRoIExtractor' in class_names(module):
                check_heads(module, 'SingleRoIExtractor')
                module.forward = extractor(module)
        self.cascade = type(roi).__name__ != 'StandardRoIHead'
        self.heads = list(roi.bbox_head) if self.cascade else [roi.bbox_head]
        for head in self.heads:
            check_coder(head)
            if head.custom_cls_channels or head.custom_activation:
                raise UserError(f'{type(head.loss_cls).__name__} has no export rule')
        if roi.with_mask:
            self.outputs = (*self.outputs, 'masks')

    def about(self) -> dict[str, Any]:
        """See `Graph`."""
        masks = self.model.roi_head.with_mask
        threshold = self.model.roi_head.test_cfg.mask_thr_binary if masks else None
        return dict(super().about(), mask_threshold=threshold)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        roi = self.model.roi_head
        maps = self.model.extract_feat(self.pixels(image))
        more = {}
        if getattr(roi, 'with_semantic', False):
            more['semantic_feat'] = roi.semantic_head(maps)[1]
        boxes, exists = self._proposals(maps, image)
        boxes, scores = self._refined(maps, boxes, image, more)
        classes = scores.shape[-1]
        scores = torch.where(exists[..., None], scores, _LEFT_OUT)
        labels = torch.arange(classes, device=image.device).expand(scores.shape)
        found = self.found(boxes.flatten(1, 2), scores.flatten(1), labels.flatten(1), roi.test_cfg)
        if not roi.with_mask:
            return found
        return *found, self._masks(maps, found, more)

    def _proposals(self, maps: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(B, P, 4)``, and a mask ``(B, P)`` that is false for padding."""
        head = self.model.rpn_head
        logits, deltas = head(maps)
        boxes, scores, levels = candidates(head, logits, deltas, image, head.test_cfg)
        kept, scores = suppress(boxes, scores, levels, head.test_cfg, _LEFT_OUT / 2)
        picture, number = kept.unbind(1)
        count = boxes.shape[0]
        own = picture[:, None] == torch.arange(count, device=image.device)  # [K, B]
        # in float32: TensorRT has CumSum for floats only, and ScatterND for no booleans
        rank = own.float().cumsum(0).gather(1, picture[:, None]).squeeze(1).long() - 1
        most = int(head.test_cfg.max_per_img)
        place = picture * most + rank
        filled = boxes.new_zeros(count * most, 4).index_put((place,), boxes[picture, number])
        exists = boxes.new_zeros(count * most).index_put((place,), torch.ones_like(scores)) > 0
        return filled.view(count, most, 4), exists.view(count, most)

    def _refined(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, more: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Boxes of every class ``(B, P, C, 4)`` and their scores ``(B, P, C)``."""
        roi = self.model.roi_head
        count, most = boxes.shape[:2]
        picture = torch.arange(count, device=image.device)[:, None].expand(count, most)
        total: Any = 0
        for stage, head in enumerate(self.heads):
            rois = torch.cat([picture[..., None].to(boxes), boxes], -1).flatten(0, 1)
            first = (stage,) if self.cascade else ()
            out = roi._bbox_forward(*first, maps, rois, **more)
            logits, deltas = out['cls_score'], out['bbox_pred']
            total = total + logits
            classes = 1 if head.reg_class_agnostic else head.num_classes
            deltas = deltas.view(count, most, classes, 4)
            if stage < len(self.heads) - 1:
                if classes > 1:
                    best = logits[:, :-1].argmax(1).view(count, most, 1, 1)
                    deltas = deltas.gather(2, best.expand(count, most, 1, 4))
                boxes = decode(head.bbox_coder, boxes, deltas.squeeze(2), image)
        scores = (total / len(self.heads)).softmax(-1)[:, :-1].unflatten(0, (count, most))
        boxes = decode(head.bbox_coder, boxes[:, :, None], deltas, image)
        return boxes.expand(*scores.shape, 4), scores

    def _masks(
        self, maps: Sequence[Tensor], found: tuple[Tensor, ...], more: dict[str, Tensor]
    ) -> Tensor:
        """Probabilities of masks ``(K, h, w)``, of the class of each box found."""
        roi = self.model.roi_head
        boxes, _, labels, picture = found
        rois = torch.cat([picture[:, None].to(boxes), boxes], 1)
        if not self.cascade:
            masks, head = roi._mask_forward(maps, rois=rois)['mask_preds'].sigmoid(), roi.mask_head
        elif hasattr(roi, 'mask_info_flow'):
            out = roi._mask_forward(-1, maps, rois, training=False, **more)
            (masks,), head = (m.sigmoid() for m in out['mask_preds']), roi.mask_head[-1]
        else:
            stages = range(len(self.heads))
            parts = [roi._mask_forward(stage, maps, rois)['mask_preds'] for stage in stages]
            masks = torch.stack([part.sigmoid() for part in parts]).mean(0)
            head = roi.mask_head[-1]
        if head.class_agnostic:
            return masks.squeeze(1)
        own = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return masks.gather(1, own).squeeze(1)


def extractor(module: Any) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """`roi_features` with the settings of mmdet's `SingleRoIExtractor`."""
    layers, layer = module.roi_layers, module.roi_layers[0]
    kinds = {type(layer).__name__ for layer in layers}
    if kinds != {'RoIAlign'} or layer.pool_mode != 'avg':
        raise UserError(f'{", ".join(kinds)} has no export rule; RoIAlign with averages has')
    scales = [layer.spatial_scale for layer in layers]
    return lambda maps, rois: roi_features(
        list(maps), rois, scales, list(layer.output_size), layer.sampling_ratio, layer.aligned,
        float(module.finest_scale),
    )  # fmt: skip


def candidates(
    head: Any, logits: Sequence[Tensor], deltas: Sequence[Tensor], image: Tensor, cfg: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Best boxes of each level ``(B, N, 4)``, scores ``(B, N)``, and classes (RPN: levels).

    With ``nms_pre``, every level is padded with boxes of a score below all others, so that N is the
    same for all sizes of pictures.
    """
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in logits], device=image.device
    )
    of_regions = type(head).__name__ == 'RPNHead'
    classes = head.cls_out_channels
    boxes, scores, groups = [], [], []
    for number, (score, delta, prior) in enumerate(zip(logits, deltas, priors, strict=True)):
        score = score.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, classes))
        score = score.sigmoid() if head.use_sigmoid_cls else score.softmax(-1)[..., :-1]
        shown = score.shape[-1]
        score = score.flatten(1)
        if not of_regions:
            score = torch.where(score > cfg.get('score_thr', 0), score, _LEFT_OUT)
        most = int(cfg.get('nms_pre', -1))
        if most > 0:
            score = torch.cat([score, score.new_full((score.shape[0], most), _LEFT_OUT)], 1)
            score, place = score.topk(most)
        else:
            place = torch.arange(score.shape[1], device=image.device).expand(score.shape)
        row = torch.where(score > _LEFT_OUT / 2, place // shown, 0)
        delta = delta.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        delta = delta.gather(1, row[..., None].expand(*row.shape, 4))
        own = decode(head.bbox_coder, prior[row], delta, image)
        if cfg.get('min_bbox_size', -1) >= 0:
            large = (own[..., 2:] - own[..., :2] > cfg.min_bbox_size).all(-1)
            score = torch.where(large, score, _LEFT_OUT)
        boxes.append(own)
        scores.append(score)
        groups.append(torch.full_like(place, number) if of_regions else place % shown)
    return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(groups, 1)


def decode(coder: Any, boxes: Tensor, deltas: Tensor, image: Tensor) -> Tensor:
    """Mmdet's `DeltaXYWHBBoxCoder.decode` for boxes ``(..., 4)``, clipped to the picture."""
    low, high = boxes[..., :2], boxes[..., 2:]
    center, size = (low + high) * 0.5, high - low
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    bound = 4.135166556742356  # -log(16 / 1000)
    center = center + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-bound, bound).exp() * 0.5
    out = torch.cat([center - half, center + half], -1)
    if not coder.clip_border:
        return out
    height, width = image.shape[-2:]
    columns, rows = (
        torch.minimum(out[..., i::2].clamp(min=0), torch.full_like(out[..., i::2], n))
        for i, n in ((0, width), (1, height))
    )
    return torch.stack([columns, rows], -1).flatten(-2)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Mapping[str, Any], threshold: float
) -> tuple[Tensor, Tensor]:
    """Mmcv's `batched_nms`: indices of picture and box ``(K, 2)``, and scores ``(K,)``."""
    options = dict(cfg['nms'])
    if not options.get('class_agnostic', False):  # offsets keep groups from overlapping, as in mmcv
        valid = (scores > threshold)[..., None]
        far = torch.where(valid, boxes, 0).amax((1, 2), keepdim=True) + 1
        boxes = boxes + groups[..., None].to(boxes) * far
    most = int(cfg['max_per_img'])
    if most < 1:
        most = int(boxes.shape[1])
    overlap = float(next((options[k] for k in ('iou_threshold', 'iou_thr') if k in options), 0.3))
    if options.get('type', 'nms') == 'nms':
        kept = nms(boxes, scores, overlap, float(threshold), most)
        image, number = kept.unbind(1)
        return kept, scores[image, number]
    sigma, least = float(options.get('sigma', 0.5)), float(options.get('min_score', 1e-3))
    scores = torch.where(scores > threshold, scores, _LEFT_OUT)
    return soft_nms(boxes, scores, overlap, sigma, least, options.get('method', 'linear'), most)


def check_nms(options: Mapping[str, Any] | None) -> None:
    """Raise `UserError` for a kind of non-maximum suppression without an export rule."""
    options = dict(type=None) if options is None else options  # None: no suppression
    kind = options.get('type', 'nms')
    others = [k for k, value in options.items() if k not in _NMS and value and value != -1]
    if kind not in ('nms', 'soft_nms') or others:
        without = f' without {", ".join(others)}' if others else ''
        raise UserError(f'nms={dict(options)} has no export rule; nms and soft_nms{without} have')


def check_heads(head: Any, *known: str) -> None:
    """Raise `UserError` for a head without an export rule."""
    name = type(head).__name__
    if name not in known:
        raise UserError(f'{name} has no export rule; {", ".join(known)} have')
    if hasattr(head, 'bbox_coder'):
        check_coder(head)


def check_limit(head: Any) -> None:
    """Raise `UserError` for a dense head without a limit: with -1 mmdet drops its last box."""
    if (most := int(head.test_cfg.max_per_img)) < 1:
        raise UserError(
            f'max_per_img={most} of {type(head).__name__} has no export rule; set the number of '
            'boxes to keep of a picture'
        )


def check_coder(head: Any) -> None:
    """Raise `UserError` for a box coder without an export rule."""
    name = type(head.bbox_coder).__name__
    if name != 'DeltaXYWHBBoxCoder' or head.bbox_coder.add_ctr_clamp:
        raise UserError(f'{name} has no export rule; DeltaXYWHBBoxCoder without add_ctr_clamp has')
