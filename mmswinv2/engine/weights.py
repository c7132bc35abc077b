"""The weights of a model that a strategy has wrapped or split up."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

REVISE_KEYS = ((r'^module\.', ''),)  # mmengine's default


def revised(state: dict[str, Any], revise_keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A state dict with patterns in its keys replaced, as mmengine does it."""
    new = OrderedDict(state)
    for pattern, replacement in revise_keys:
        new = OrderedDict((re.sub(pattern, replacement, key), v) for key, v in new.items())
    new._metadata = getattr(state, '_metadata', OrderedDict())  # type: ignore[attr-defined]
    return new


def unwrap_model(model: Any) -> nn.Module:
    """The model without the wrapper of a distributed run."""
    return model.module if is_model_wrapper(model) else model


@contextmanager
def whole_weights(model: Any) -> Iterator[nn.Module]:
    """The unwrapped model, to load weights into, with the parts that the strategy split up joined.

    Collective: call on every rank with identical weights.
    """
    optimizer: Any = getattr(model, 'optimizer', None)
    module = unwrap_model(model)
    if not hasattr(optimizer, 'refresh_fp32_params'):
        yield module
        return
    import deepspeed

    parameters = [p for p in module.parameters() if hasattr(p, 'ds_id')]  # ZeRO stage 3
    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        yield module
    optimizer.refresh_fp32_params()
