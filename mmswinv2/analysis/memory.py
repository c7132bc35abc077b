"""Predict the memory of a training step on each GPU without running it there.

A forward and a backward pass track each allocation and release of a tensor; the backbone runs on
fake tensors, the rest for real (see `mmswinv2.analysis.model`). Memory of weights, gradients and
optimizer state follows from the number of parameters and how the strategy shards them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .. import hosts
from ..checks import is_number
from ..core.attention import WindowAttention
from ..core.block import Block
from ..errors import UserError
from ..files import read_json
from ..options import STRATEGIES
from .model import Observer, build, frozen_batch_norms

_LIVE_PARAMETERS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
BUCKET = 50_000_000  # reduce_bucket_size of configs/_base_/strategies, in elements


@dataclass
class Estimate:
    """Bytes on one GPU at the memory peak of a training step."""

    parameters: int  #: weights that stay on the GPU, and their averages
    gradients: int  #: gradients at the peak
    optimizer: int  #: its state, and DeepSpeed's own copy of the weights
    buffers: int  #: communication buffers of the strategy, and weights gathered temporarily
    activations: int  #: all other memory at the peak
    #: bytes that each part keeps for backward, at the end of its forward pass
    saved: dict[str, int] = field(default_factory=dict)
    attention: int = 0  #: peak of one attention layer without its input, in a forward pass
    count: int = 0  #: number of parameters

    @property
    def total(self) -> int:
        """Bytes of all parts together."""
        return self.parameters + self.gradients + self.optimizer + self.buffers + self.activations


@dataclass
class TrainingStep:
    """Memory of one training step over time, in bytes, and numbers of parameters."""

    gradients: list[int]  #: bytes of gradients over time
    #: bytes of all else over time, without weights and the optimizer's state
    others: list[int]
    saved: dict[str, int]  #: see `Estimate`
    attention: int  #: see `Estimate`
    trained: int  #: number of parameters that are trained
    frozen: int  #: number of frozen parameters
    largest: int  #: number of parameters of the largest block
    outside: int  #: number of parameters outside the blocks
    half: bool = False  #: whether it ran under autocast
    states: float = 2  #: number of values that the optimizer keeps for each weight, 2 for AdamW
    averages: bool = False  #: whether averages of all weights are kept, as by EMAHook
    #: whether gradients are kept from step to step (``accumulative_counts``)
    accumulates: bool = False

    def estimate(
        self, strategy: str = 'ddp', gpus: int = 1, bucket: int = BUCKET, foreach: bool = True
    ) -> Estimate:
        """Estimate the memory on one of several GPUs.

        Args:
            strategy: one of `STRATEGIES`.
            gpus: number of GPUs.
            bucket: DeepSpeed's ``reduce_bucket_size``, in elements.
            foreach: whether the optimizer updates all parameters at once, as it does on GPUs.

        Raises:
            UserError: if the strategy is unknown.
        """
        if strategy not in STRATEGIES:
            raise UserError(
                f'strategy {strategy!r} is unknown; choose from {", ".join(STRATEGIES)}'
            )
        weights, trained = 4 * (self.trained + self.frozen), 4 * self.trained
        share = 1 if strategy == 'ddp' else gpus
        optimizer = int(self.states * trained) // share
        parameters, buffers, whole = weights, 0, 1.0  # `whole`: share of gradients on each GPU
        if strategy == 'ddp':
            buffers = trained if gpus > 1 else 0  # DDP's buckets
        elif strategy == 'fsdp':
            parameters, whole = weights // gpus, 1 / gpus
            # weights of the running and the next block, gradients of one; both outside the blocks
            buffers = 4 * (3 * self.largest + 2 * self.outside) if gpus > 1 else 0
        else:
            optimizer += trained // share  # DeepSpeed's own copy of the weights
            buffers = bucket * (4 + 2 * self.half)  # one bucket for each dtype
            if strategy != 'zero1':
                whole = 1 / gpus
            if strategy == 'zero3':
                parameters = weights // gpus
                buffers = 2 * buffers + min(weights, 4 * _LIVE_PARAMETERS)  # two, to overlap
        kept = [trained] * len(self.others) if self.accumulates else self.gradients
        totals = [int(g * whole) + o for g, o in zip(kept, self.others, strict=True)]
        top = max(range(len(totals)), key=totals.__getitem__)
        gradients, activations = int(kept[top] * whole), self.others[top]
        # in the optimizer's step, activations are freed
        temporary = trained // share if foreach else 0
        if strategy.startswith('zero'):
            temporary += trained // share  # a flat copy of this process's gradients
        if int(trained * whole) + temporary > gradients + activations:
            gradients, activations = int(trained * whole), temporary
        parameters += weights * self.averages
        return Estimate(
            parameters, gradients, optimizer, buffers, activations, self.saved, self.attention,
            self.trained + self.frozen,
        )  # fmt: skip


def follow_step(
    cfg: Any, size: Sequence[int], batch_size: int, dtype: torch.dtype | None = None
) -> TrainingStep:
    """Track the memory of one training step.

    Args:
        cfg: the config.
        size: ``(H, W)`` or ``(T, H, W)``.
        batch_size: samples on a GPU.
        dtype: dtype of autocast; ``None``: off. Only segmentors run their heads under it too.

    Raises:
        UserError: if the config has no backbone of this package.
    """
    from ..engine.config_checks import all_hooks

    torch.manual_seed(0)
    tracker = MemoryTracker()
    model, stand_in = build(cfg, [tracker], dtype)
    model.train()
    frozen_batch_norms(model)
    backbone = stand_in.backbone.train()
    saved: dict[str, int] = {}
    attention = [0]
    _watch(backbone, tracker, saved, attention)
    batch = hosts.sample_batch(cfg, size, batch_size)
    heads_dtype = dtype if hosts.of(cfg).heads_autocast else None
    with tracker:
        data = model.data_preprocessor(batch, True)
        with torch.autocast('cpu', heads_dtype, heads_dtype is not None):
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        saved['neck and heads'] = tracker.live - sum(saved.values())
        loss.backward()
    del data, loss
    stand_in.backward()
    everything = [*model.parameters(), *backbone.parameters()]
    trained = [p for p in everything if p.requires_grad]
    numbers = {tracker.number(p.grad) for p in trained if p.grad is not None}
    gradients, others = [0], [0]
    for change, number in tracker.events:
        is_gradient = number in numbers
        gradients.append(gradients[-1] + change * is_gradient)
        others.append(others[-1] + change * (not is_gradient))
    blocks = [
        sum(p.numel() for p in m.parameters()) for m in backbone.modules() if isinstance(m, Block)
    ]
    total, count = (sum(p.numel() for p in parameters) for parameters in (everything, trained))
    averages = any(hosts.type_name(hook) == 'EMAHook' for hook in all_hooks(cfg))
    accumulates = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1) > 1
    return TrainingStep(
        gradients, others, saved, attention[0], count, total - count, max(blocks),
        total - sum(blocks), dtype is not None, _states_of(cfg), averages, accumulates,
    )  # fmt: skip


def _watch(
    backbone: Any, tracker: MemoryTracker, saved: dict[str, int], attention: list[int]
) -> None:
    """Record the bytes that stages keep for backward, and the peak of one attention layer."""

    def on_entry(module: nn.Module, args: Any) -> None:
        entered[module] = (tracker.live, len(tracker.events))

    def stage_left(name: str, module: nn.Module, args: Any, out: Any) -> None:
        saved[name] = tracker.live - entered[module][0]

    def attention_left(module: nn.Module, args: Any, out: Any) -> None:
        sizes = (size for size, _ in tracker.events[entered[module][1] :])
        attention[0] = max(attention[0], max(accumulate(sizes), default=0))

    entered: dict[nn.Module, tuple[int, int]] = {}
    for i, stage in enumerate(backbone.layers):
        stage.register_forward_pre_hook(on_entry)
        stage.register_forward_hook(partial(stage_left, f'stage {i}'))
    for module in backbone.modules():
        if isinstance(module, WindowAttention):
            module.register_forward_pre_hook(on_entry)
            module.register_forward_hook(attention_left)


class MemoryTracker(Observer):
    """Tracks the memory of all tensors that are created while it is active.

    Attributes:
        live: bytes in use.
        events: ``(bytes, storage)`` in order of time; bytes are negative when memory is freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.events: list[tuple[int, int]] = []
        self._known: dict[int, tuple[int, int]] = {}  # events of live storages, by address

    def observe(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Record new memory; views share memory of an input and are skipped."""
        given = {s._cdata for s in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in given:
                self._note(storage)

    def number(self, tensor: Tensor) -> int | None:
        """The number in `events` of the storage of `tensor`."""
        _, number = self._known.get(tensor.untyped_storage()._cdata, (0, None))
        return number

    def _note(self, storage: torch.UntypedStorage) -> None:
        """Note that a storage was allocated, and again when it is freed."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        self._known[key] = size, len(self.events)
        self.events.append(self._known[key])
        self.live += size
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        size, number = self._known.pop(key)
        self.events.append((-size, number))
        self.live -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [v.untyped_storage() for v in tree_leaves(values) if isinstance(v, Tensor)]


def strategy_of(cfg: Config) -> tuple[str, int]:
    """The strategy of a config: one of `STRATEGIES`, and its bucket size in numbers."""
    strategy = cfg.get('strategy') or {}
    kind = hosts.type_name(strategy)
    if kind != 'DeepSpeedStrategy':
        return 'fsdp' if kind == 'FSDPStrategy' else 'ddp', BUCKET
    section = strategy.get('zero_optimization')
    if section is None:
        config = strategy.get('config') or {}
        if isinstance(config, str):
            try:
                config = read_json(config)
            except UserError as error:
                raise UserError(f'strategy.config: {error}') from error
        if not isinstance(config, Mapping):
            raise UserError(f'{strategy["config"]} (strategy.config) must be a JSON object')
        section = config.get('zero_optimization') or {}
    stage = section.get('stage', 0)
    bucket = section.get('reduce_bucket_size', 500_000_000)  # DeepSpeed's default
    if not is_number(bucket):
        raise UserError(
            f'zero_optimization.reduce_bucket_size={bucket!r} must be a number, such as 5e8'
        )
    return f'zero{stage}' if stage else 'ddp', int(bucket)


def dtype_of(cfg: Config) -> str:
    """The name of the dtype of a config's mixed precision, ``'float32'`` without it."""
    wrapper = cfg.get('optim_wrapper') or {}
    if hosts.type_name(wrapper) != 'AmpOptimWrapper':
        return 'float32'
    name = hosts.dtype_name(wrapper)
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise UserError(f'optim_wrapper.dtype={name!r} is no type of torch; write float16')
    return name


def _states_of(cfg: Config) -> float:
    """The number of values that a config's optimizer keeps for each weight: AdamW 2, SGD 0 or 1."""
    options = (cfg.get('optim_wrapper') or {}).get('optimizer') or dict(type='AdamW')
    weight = nn.Parameter(torch.ones(64, 64))  # of a matrix, which some do not keep as a whole
    weight.grad = torch.ones_like(weight)
    try:
        optimizer = OPTIMIZERS.build(dict(options, params=[weight]))
        optimizer.step()
    except (ImportError, KeyError, RuntimeError, TypeError):  # compiled ones, or with a closure
        return 2
    kept = [v for v in optimizer.state[weight].values() if isinstance(v, Tensor) and v.ndim]
    return sum(v.nbytes for v in kept) / weight.nbytes
