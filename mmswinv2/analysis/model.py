"""Run a config's model with its backbone on fake tensors, and count multiply-adds.

Fake tensors have shapes but no memory, so that a network of 3 billion parameters can be analyzed on
a laptop. The rest of the model runs for real, because losses and proposals depend on values.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

from .. import hosts
from ..core import SwinV2
from ..errors import UserError
from ..hosts.configs import built, init_weights, without_weights


class Observer(TorchDispatchMode):
    """Calls `observe` after every operator."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._busy:  # operators inside a fake tensor's dispatch do not count
            return func(*args, **kwargs)
        self._busy = True
        try:
            out = func(*args, **kwargs)
        finally:
            self._busy = False
        self.observe(func, args, kwargs, out)
        return out

    def observe(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Observe a call of an operator, with its arguments and output."""
        raise NotImplementedError


class StandIn(nn.Module):
    """Replaces a backbone: runs it on fake tensors and returns random real ones of the same shapes.

    Args:
        backbone: the network, on the meta device.
        observers: modes that observe the operators on fake tensors.
        dtype: dtype of autocast; ``None``: off.
    """

    def __init__(
        self, backbone: SwinV2, observers: Sequence[Observer] = (), dtype: torch.dtype | None = None
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
        with ExitStack() as stack:
            for mode in (self._fake, *self._observers):
                stack.enter_context(mode)
            yield

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """``(B, C, *pixels)`` to random maps of the shapes that the backbone returns."""
        with self._fake:
            inputs = [torch.empty(given.shape) for given in (x, mask) if given is not None]
        with self._observed(), torch.autocast('cpu', self._dtype, self._dtype is not None):
            outs = self.backbone(*inputs)
        fakes = [outs] if isinstance(outs, Tensor) else outs
        with _disable_current_modes():
            real = [torch.rand(f.shape).requires_grad_(f.requires_grad) for f in fakes]
        if torch.is_grad_enabled():
            self._graph = list(zip(fakes, real, strict=True))
        return real[0] if isinstance(outs, Tensor) else tuple(real)

    def backward(self) -> None:
        """Backward pass through the backbone, after that of the real part of the model."""
        fakes = [fake for fake, real in self._graph if real.grad is not None]
        if not fakes:  # a frozen backbone
            return
        with self._fake:
            grads = [torch.empty(fake.shape) for fake in fakes]
        with self._observed():
            torch.autograd.backward(fakes, grads)
        self._graph = []


def build(
    cfg: Any, observers: Sequence[Observer] = (), dtype: torch.dtype | None = None
) -> tuple[Any, StandIn]:
    """Build a config's model with a `StandIn` for its backbone; returns both.

    Args:
        cfg: the config.
        observers: modes that observe the operators of the backbone.
        dtype: dtype of autocast in the backbone; ``None``: off.

    Raises:
        UserError: if its backbone is not of this package.
    """
    begin_counters()
    model_cfg = ready(cfg)
    if hosts.own_backbone(model_cfg) is None:
        raise UserError('the model of this config has no backbone of mmswinv2')
    backbone_cfg = model_cfg.pop('backbone')
    with torch.device('meta'):
        stand_in = StandIn(MODELS.build(backbone_cfg), observers, dtype)
    model_cfg.backbone = built(stand_in)
    model = MODELS.build(model_cfg)
    init_weights(model)  # Sparse R-CNN and QueryInst need it for their proposal boxes
    return model, stand_in


def ready(cfg: Any) -> Any:
    """Config of the model without pre-trained weights, and with the largest number of positives.

    During training, more and more proposals match an object. RoI heads are analyzed with as many
    positive proposals as their samplers take.
    """
    hosts.use_registries(cfg)
    model_cfg = without_weights(cfg.model)
    if (backbone := hosts.own_backbone(model_cfg)) is not None:
        backbone.path = 'plain'  # the implementation for GPUs, which are analyzed here
    stages = (model_cfg.get('train_cfg') or {}).get('rcnn') or []
    for stage in hosts.as_list(stages):
        if 'pos_iou_thr' not in stage.get('assigner', {}):  # such as in Sparse R-CNN
            continue
        stage.assigner.update(pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0.1)
    return model_cfg


def begin_counters() -> None:
    """Begin the counts of epochs and iterations, for which some heads ask, where none runs."""
    hub = MessageHub.get_current_instance()
    for counter in {'epoch', 'iter'} - hub.runtime_info.keys():
        hub.update_info(counter, 0)


def count_parameters(cfg: Any) -> int:
    """Number of parameters of a config's model, with any backbone."""
    if hosts.own_backbone(cfg.model) is None:
        return sum(p.numel() for p in MODELS.build(ready(cfg)).parameters())
    model, stand_in = build(cfg)  # parts of hosts compute values when they are built
    return sum(p.numel() for part in (model, stand_in.backbone) for p in part.parameters())


def frozen_batch_norms(model: nn.Module) -> None:
    """Set batch norms to evaluation mode, because one sample may have no batch statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class FlopCounter(Observer):
    """Counts the multiply-adds of matrix products and convolutions by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def observe(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Add the multiply-adds of an operator, if torch has a formula for it."""
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out) // 2


def count_flops(cfg: Any, size: Sequence[int]) -> dict[str, int]:
    """Count the multiply-adds of one forward pass, by part of the model.

    A multiply-add counts as one, as in the published tables; norms, activations and pooling are
    left out. Detectors run in ``mode='tensor'``: RoI heads on all proposals of the RPN, mask heads
    on 100 of them. SimMIM runs without its decoder.

    Args:
        cfg: the config.
        size: ``(H, W)`` or ``(T, H, W)``.

    Returns:
        multiply-adds by part of the model, ``'total'`` last.
    """
    torch.manual_seed(0)
    counter = FlopCounter()
    model, _ = build(cfg, [counter])
    model.eval()
    counts: dict[str, int] = defaultdict(int)
    for name, module in model.named_children():
        for method in ('forward', 'predict', 'forward_transformer'):  # which may run a part
            if name != 'data_preprocessor' and hasattr(module, method):
                setattr(module, method, _counted(getattr(module, method), counts, name, counter))
    data = model.data_preprocessor(hosts.sample_batch(cfg, size, 1), False)
    with torch.no_grad(), counter:
        outs = model(**data, mode='tensor')
        hosts.of(cfg).run_head(model, outs)
    return {**counts, 'total': counter.total}


def _counted(function: Any, counts: dict[str, int], name: str, counter: Any) -> Any:
    """A function whose multiply-adds are counted under a name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        before, nested = counter.total, counts[name]
        out = function(*args, **kwargs)
        counts[name] = nested + counter.total - before
        return out

    return call
