"""Where a view of test-time augmentation lies in its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ['View', 'in_range']


@dataclass(frozen=True)
class View:
    """How a view came from its image: scaled, then flipped.

    Attributes:
        scale: x and y factor.
        size: height and width of the view.
        axes: axes of an ``(..., H, W)`` map along which it is flipped.
    """

    scale: tuple[float, float]
    size: tuple[int, int]
    axes: tuple[int, ...]

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> View:
        """Read it from the meta information that mmdet's transforms leave."""
        if missing := {'flip', 'scale_factor', 'img_shape'} - set(meta):
            raise ValueError(
                f'the views lack {sorted(missing)} in their meta information; add them to '
                'meta_keys of PackDetInputs in tta_pipeline'
            )
        direction = meta.get('flip_direction') if meta['flip'] else None
        axes = {None: (), 'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-1, -2)}[direction]
        return cls(tuple(meta['scale_factor']), tuple(meta['img_shape'][:2]), axes)

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
