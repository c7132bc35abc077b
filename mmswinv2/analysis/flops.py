"""Multiply-adds of a config's model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from .. import hosts
from .model import Observer, StandIn, build


class FlopCounter(Observer):
    """Counts the multiply-adds of products and convolutions by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def saw(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Add what torch's formula says, if there is one."""
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out) // 2


def count_flops(cfg: Any, size: Sequence[int], seed: int = 0) -> dict[str, int]:
    """Count the multiply-adds of one forward pass, by part of the model.

    A multiply-add counts as one, as in the published tables; norms, activations and pooling are
    left out. Detectors run as with ``mode='tensor'``: RoI heads on as many proposals as the RPN
    hands over, masks on 100 of them; SimMIM without its decoder.

    Args:
        cfg: the config.
        size: ``(H, W)`` or ``(T, H, W)``.
        seed: of the random weights and inputs.

    Returns:
        part of the model to multiply-adds, `total` last.
    """
    torch.manual_seed(seed)
    counter = FlopCounter()
    model, _ = build(cfg, [counter])
    model.eval()
    counts: dict[str, int] = defaultdict(int)
    for name, module in model.named_children():
        if name != 'data_preprocessor':
            _count_into(counts, name, module, counter)
    data = model.data_preprocessor(hosts.of(cfg).sample_batch(cfg, size, 1), False)
    with torch.no_grad(), counter:
        outs = model(**data, mode='tensor')
        hosts.of(cfg).run_head(model, outs)
    return {**counts, 'total': counter.total}


def _count_into(counts: dict[str, int], name: str, module: nn.Module, counter: Any) -> None:
    """Add up what a part of the model does, in whichever of its methods."""
    for method in ('forward', 'predict', 'forward_transformer'):
        if hasattr(module, method) and not (method != 'forward' and isinstance(module, StandIn)):
            setattr(module, method, _counted(getattr(module, method), counts, name, counter))


def _counted(function: Any, counts: dict[str, int], name: str, counter: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        before, nested = counter.total, counts[name]
        out = function(*args, **kwargs)
        counts[name] = nested + counter.total - before
        return out

    return call
