"""The weights of a model that a strategy has wrapped or split up."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

__all__ = ['REVISE_KEYS', 'bare', 'revised', 'whole_weights']

REVISE_KEYS = ((r'^module\.', ''),)  # mmengine's default


def revised(state: dict[str, Any], revise_keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A state dict with patterns in its keys replaced, as mmengine does it."""
    new = OrderedDict(state)
    for pattern, replacement in revise_keys:
        new = OrderedDict((re.sub(pattern, replacement, key), v) for key, v in new.items())
    new._metadata = getattr(state, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    return new


def bare(model: Any) -> nn.Module:
    """The model without the wrapper of a distributed run."""
    return model.module if is_model_wrapper(model) else model


@contextmanager
def whole_weights(model: Any) -> Iterator[nn.Module]:
    """The bare model, to load weights into, with whatever the strategy has split up put together.

    Every process must come by, and load the same.
    """
    optimizer = getattr(model, 'optimizer', None)
    module = bare(model)
    if not hasattr(optimizer, 'refresh_fp32_params'):
        yield module
        return
    import deepspeed

    parameters = [p for p in module.parameters() if hasattr(p, 'ds_id')]  # ZeRO stage 3
    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        yield module
    optimizer.refresh_fp32_params()
