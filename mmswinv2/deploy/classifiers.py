"""Graphs of models that classify pictures, videos or pixels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import class_names
from ..errors import UserError
from .graph import Graph, total_stride


class Classifier(Graph):
    """mmpretrain's `ImageClassifier`: ``(B, 3, H, W)`` to scores ``(B, classes)``."""

    task = 'classification'
    outputs = ('scores',)

    def __init__(self, model: Any, normalized: bool = False) -> None:
        from mmpretrain.models.heads import ClsHead, MultiLabelClsHead

        super().__init__(model, normalized)
        kind = type(model.head)
        self.several = issubclass(kind, MultiLabelClsHead)  # multi-label
        known: Any = MultiLabelClsHead if self.several else ClsHead
        if not issubclass(kind, known) or any(
            getattr(kind, name) is not getattr(known, name)
            for name in ('predict', '_get_predictions')
        ):
            raise UserError(
                f'the head {kind.__name__} has no export rule; those have that predict as '
                "mmpretrain's ClsHead or MultiLabelClsHead do"
            )

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        logits = self.model.head(self.model.extract_feat(self.pixels(image)))
        return logits.sigmoid() if self.several else logits.softmax(-1)


class Recognizer(Graph):
    """mmaction2's `Recognizer3D`: views ``(B, V, 3, T, H, W)`` to scores ``(B, classes)``."""

    task = 'video classification'
    outputs = ('scores',)
    axes = {0: 'B', 1: 'V', 3: 'T', 4: 'H', 5: 'W'}  # noqa: RUF012

    def __init__(self, model: Any, normalized: bool = False) -> None:
        super().__init__(model, normalized)
        self.average = model.cls_head.average_clips
        if self.average not in ('prob', 'score'):
            raise UserError(
                f'average_clips={self.average!r} of the head gives no score for a video; set '
                "model.cls_head.average_clips='prob'"
            )

    def example(self) -> dict[str, Tensor]:
        """See `Graph`."""
        image = super().example()['image']
        return dict(image=image[:, None].expand(-1, 3, *image.shape[1:]))

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        feats = self.model.backbone(self.pixels(image.flatten(0, 1)))
        if self.model.with_neck:
            feats, _ = self.model.neck(feats)
        logits = self.model.cls_head(feats).unflatten(0, image.shape[:2])
        return (logits.softmax(-1) if self.average == 'prob' else logits).mean(1)


# heads of mmseg that wrap mmdet's (they need data samples), need operators that ONNX lacks, or
# that pool by a function, whose graph would fit no size but that of the example
_WITHOUT_RULE = (
    *('Mask2FormerHead', 'MaskFormerHead', 'SAMHead', 'SideAdapterCLIPHead'),
    *('APCHead', 'DMHead'),
)


class Segmentor(Graph):
    """mmseg's `EncoderDecoder`: ``(B, 3, H, W)`` to a label for each pixel ``(B, *size)``.

    A second input is the output size, height and width; logits are resized to it before the argmax.
    """

    task = 'segmentation'
    outputs = ('labels',)

    def __init__(self, model: Any, normalized: bool = False) -> None:
        super().__init__(model, normalized)
        head = type(model.decode_head)
        if not class_names(model.decode_head).isdisjoint(_WITHOUT_RULE):
            raise UserError(f'the decode head {head.__name__} has no export rule')
        self.mode = model.test_cfg.get('mode', 'whole')

    def example(self) -> dict[str, Tensor]:
        """See `Graph`."""
        image = super().example()['image']
        return dict(image=image, size=torch.tensor([s // 2 for s in image.shape[2:]]))

    def sizes(self) -> dict[str, Any]:
        """See `Graph`."""
        image = super().sizes()['image']
        if self.model.align_corners:  # maps of one token have no distance between corners
            steps = total_stride(self.model.backbone)
            least = {place: step + 1 for place, step in zip((2, 3), steps, strict=True)}
            image |= {i: torch.export.Dim(image[i].__name__, min=n) for i, n in least.items()}
        return dict(image=image, size=None)

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """See the class."""
        x = self.pixels(image)
        logits = self._slide(x) if self.mode == 'slide' else self._logits(x)
        logits = logits[..., : image.shape[2], : image.shape[3]]  # without the padding
        height, width = size.tolist()
        for side in (height, width):
            torch._check(side > 1)  # align_corners has other formulas for 1
        logits = F.interpolate(
            logits, (height, width), mode='bilinear', align_corners=self.model.align_corners
        )
        if logits.shape[1] > 1:
            return logits.argmax(1)
        return (logits.sigmoid() > self.model.decode_head.threshold).long().squeeze(1)

    def _logits(self, x: Tensor) -> Tensor:
        from mmseg.models.utils import resize

        # with align_corners it compares sizes as numbers for a warning, which would fix them
        *others, warning = before = resize.__defaults__
        assert warning is True
        resize.__defaults__ = (*others, False)
        try:
            return self.model.encode_decode(x, [dict(img_shape=x.shape[2:])])
        finally:
            resize.__defaults__ = before

    def _slide(self, x: Tensor) -> Tensor:
        """Mean logits over overlapping windows; all windows go through the network together."""
        crops, strides = self.model.test_cfg.crop_size, self.model.test_cfg.stride
        axes = [
            _Windows(n, crop, stride, x)
            for n, crop, stride in zip(x.shape[2:], crops, strides, strict=True)
        ]
        for axis, windows in enumerate(axes, start=2):
            x = windows.cut(x, axis)
        # [B, C, r * h, c * w] to [B * r * c, C, h, w]
        (r, h), (c, w) = ((windows.count, windows.length) for windows in axes)
        parts = x.reshape(x.shape[0], x.shape[1], r, h, c, w).permute(0, 2, 4, 1, 3, 5)
        logits = self._logits(parts.flatten(0, 2))
        logits = logits.reshape(x.shape[0], r, c, -1, h, w).permute(0, 3, 1, 4, 2, 5)
        logits = logits.flatten(4, 5).flatten(2, 3)
        for axis, windows in enumerate(axes, start=2):
            logits = windows.mean(logits, axis)
        return logits


class _Windows:
    """Windows along one axis, one every `stride` pixels; the last ends where the axis ends."""

    def __init__(self, n: int, crop: int, stride: int, like: Tensor) -> None:
        self.n, self.stride, self.device = n, stride, like.device
        self.length = torch.sym_min(crop, n)
        self.count = (n - self.length + stride - 1) // stride + 1
        self.most = (crop - 1) // stride + 3  # upper bound of windows that cover one pixel

    def _starts(self, numbers: Tensor) -> Tensor:
        return torch.minimum(numbers * self.stride, torch.full_like(numbers, self.n - self.length))

    def cut(self, x: Tensor, axis: int) -> Tensor:
        starts = self._starts(torch.arange(self.count, device=self.device))
        places = starts[:, None] + torch.arange(self.length, device=self.device)
        return x.index_select(axis, places.flatten())

    def mean(self, x: Tensor, axis: int) -> Tensor:
        """Concatenated windows to the mean, at each pixel, of the windows that cover it."""
        place = torch.arange(self.n, device=self.device)
        zero = torch.zeros_like(place)  # TensorRT has Clip for floats only
        first = torch.maximum(place - self.length + self.stride, zero) // self.stride
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        total: Any = 0
        count: Any = 0
        for i in range(self.most):
            number = first + i
            own = number < self.count
            number = torch.minimum(number, torch.full_like(number, self.count - 1))
            inside = place - self._starts(number)
            own = own & (inside >= 0) & (inside < self.length)
            inside = torch.maximum(inside, zero)
            inside = torch.minimum(inside, torch.full_like(inside, self.length - 1))
            part = x.index_select(axis, number * self.length + inside)
            weight = own.to(x.dtype).view(shape)
            total, count = total + part * weight, count + weight
        return total / count
