"""Data parallel training: every process has the whole model and a part of the batch."""

from __future__ import annotations

from typing import Any

import torch
from mmengine._strategy import DDPStrategy as _DDPStrategy
from mmengine.runner.checkpoint import weights_to_cpu

from ..registry import STRATEGIES
from .weights import bare

__all__ = ['DDPStrategy']


@STRATEGIES.register_module()
class DDPStrategy(_DDPStrategy):
    """mmengine's DDPStrategy, also on CPUs, with checkpoints that any program can read.

    mmengine's writes every key with ``module.`` in front.

    Args:
        find_unused_parameters: see `torch.nn.parallel.DistributedDataParallel`.
        **kwargs: of mmengine's.
    """

    def __init__(self, *, find_unused_parameters: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=find_unused_parameters,
        )
        if not torch.cuda.is_available():
            wrapper['device_ids'] = None
        self.model_wrapper = {**wrapper, **(self.model_wrapper or {})}

    def model_state_dict(self) -> dict[str, Any]:
        """The weights, under the names of the bare model."""
        return weights_to_cpu(bare(self.model).state_dict())
