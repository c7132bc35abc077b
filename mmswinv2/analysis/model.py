"""A config's model with a backbone that costs nothing to run.

The backbone runs on fake tensors, which have shapes and no memory, and the rest of the model for
real, as losses and proposals depend on values. So a network of 3 billion parameters can be looked
at on a laptop.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..core import SwinV2
from ..core.windows import forget_grids
from ..errors import UserError

__all__ = [
    'StandIn',
    'batch_of',
    'build',
    'count_parameters',
    'frozen_batch_norms',
    'input_size',
    'ready',
]


class StandIn(nn.Module):
    """Takes the place of a backbone: runs it on fake tensors, and hands on real ones.

    Args:
        backbone: the network, on the meta device.
        observers: modes that are to see what runs on fake tensors.
        dtype: of autocast; ``None``: off.
    """

    def __init__(
        self,
        backbone: SwinV2,
        observers: Sequence[TorchDispatchMode] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._observers, self._dtype = observers, dtype
        with self._fake:
            backbone.to_empty(device='cpu')
        self._hidden = [backbone]  # in a list, so that its parameters are not this module's
        self._graph: list[tuple[Tensor, Tensor]] = []

    @property
    def backbone(self) -> SwinV2:
        """The network on fake tensors."""
        return self._hidden[0]

    @contextmanager
    def _observed(self) -> Iterator[None]:
        forget_grids()  # fake ones must not stay, nor real ones be used
        try:
            with ExitStack() as stack:
                for mode in (self._fake, *self._observers):
                    stack.enter_context(mode)
                yield
        finally:
            forget_grids()

    def forward(self, x: Tensor) -> Any:
        """``(B, C, *pixels)`` to maps of random numbers, of the backbone's shapes."""
        with self._fake:
            inputs = torch.empty(x.shape)
        with self._observed(), torch.autocast('cpu', self._dtype, self._dtype is not None):
            outs = self.backbone(inputs)
        single = isinstance(outs, Tensor)
        with _unobserved(self._observers):
            real = [torch.rand(o.shape).requires_grad_() for o in ([outs] if single else outs)]
        if torch.is_grad_enabled():
            self._graph = list(zip([outs] if single else outs, real, strict=True))
        return real[0] if single else tuple(real)

    def backward(self) -> None:
        """Go back through the backbone from where the real part has come to."""
        fakes = [fake for fake, real in self._graph if real.grad is not None]
        with self._fake:
            grads = [torch.empty(fake.shape) for fake in fakes]
        with self._observed():
            torch.autograd.backward(fakes, grads)
        self._graph = []


@contextmanager
def _unobserved(modes: Sequence[Any]) -> Iterator[None]:
    for mode in modes:
        mode.paused = True
    try:
        yield
    finally:
        for mode in modes:
            mode.paused = False


def build(
    cfg: Any, observers: Sequence[TorchDispatchMode] = (), dtype: torch.dtype | None = None
) -> tuple[nn.Module, StandIn]:
    """Build a config's model with a `StandIn` for its backbone.

    Raises:
        UserError: if its backbone is none of ours.
    """
    model_cfg = ready(cfg)
    if not str(model_cfg.get('backbone', {}).get('type')).startswith('mmswinv2.'):
        raise UserError('the model of this config has no backbone of mmswinv2')
    backbone_cfg = model_cfg.pop('backbone')
    with torch.device('meta'):
        stand_in = StandIn(MODELS.build(backbone_cfg), observers, dtype)
    model_cfg.backbone = dict(type=_Given, module=stand_in)
    return MODELS.build(model_cfg), stand_in


def ready(cfg: Any) -> Any:
    """The config of the model with no weights to fetch, and as many boxes as training may have.

    In the course of training more and more proposals match an object; RoI heads are looked at
    when these are as many as their samplers take.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = copy.deepcopy(cfg.model)
    if 'backbone' in model_cfg:
        model_cfg.backbone.init_cfg = None
    stages = (model_cfg.get('train_cfg') or {}).get('rcnn') or []
    for stage in stages if isinstance(stages, (list, tuple)) else [stages]:
        stage.assigner.update(pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0.1)
    return model_cfg


def _Given(module: nn.Module) -> nn.Module:
    return module


def count_parameters(cfg: Any) -> int:
    """Number of parameters of a config's model."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.device('meta'):
        return sum(p.numel() for p in MODELS.build(copy.deepcopy(cfg.model)).parameters())


def heads_autocast(cfg: Any) -> bool:
    """Whether the heads run under autocast on a CPU; box operators and accuracies cannot."""
    return cfg.default_scope == 'mmseg'


def frozen_batch_norms(model: nn.Module) -> None:
    """Let batch norms use their statistics, as one sample gives nothing to average over."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


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
    pipeline = _pipeline(cfg.train_dataloader.dataset)
    frames = [t['clip_len'] for t in pipeline if 'clip_len' in t]
    height, width = _last_size(pipeline)
    if not frames:
        divisor = pre.get('pad_size_divisor', 1)
        height, width = (-(-n // divisor) * divisor for n in (height, width))
    return (*frames, height, width)


def _pipeline(dataset: Any) -> list[Any]:
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset.pipeline


def _last_size(pipeline: Sequence[Any]) -> tuple[int, int]:
    for transform in reversed(pipeline):
        for branch in transform.get('transforms', ()):
            if isinstance(branch, (list, tuple)):
                return max((_last_size(b) for b in transform['transforms']), key=_area)
        if 'crop_size' in transform and 'Crop' in transform['type']:
            size = transform['crop_size']
            return (size, size) if isinstance(size, int) else tuple(size)
        scale = transform.get('scale') or max(transform.get('scales', ()), default=None, key=_area)
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
    from mmaction.structures import ActionDataSample

    samples = [ActionDataSample().set_gt_label(0) for _ in inputs]
    return dict(inputs=[clip[None] for clip in inputs], data_samples=samples)


def _boxes(cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
    from mmdet.testing import demo_mm_inputs

    loading = next(
        (t for t in _pipeline(cfg.train_dataloader.dataset) if 'LoadAnnotations' in t['type']), {}
    )
    return demo_mm_inputs(
        count,
        [(3, *size)] * count,
        num_items=[32] * count,  # so that masks are sampled, too
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
