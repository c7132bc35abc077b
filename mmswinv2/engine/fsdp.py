"""Fully sharded data parallel training, with torch's `fully_shard`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ..checkpoints.load import shard_like, unshard
from ..core.block import Block
from ..registry import STRATEGIES
from .ddp import DDPStrategy
from .weights import REVISE_KEYS, revised

__all__ = ['FSDPStrategy']


@STRATEGIES.register_module()
class FSDPStrategy(DDPStrategy):
    """Each process keeps its part of every parameter, gradient and state of the optimizer.

    The blocks of the backbone are gathered one after the other, and what remains of the model
    together. Checkpoints are plain files, as without a strategy, and each strategy reads them;
    mmengine's FSDPStrategy needs a GPU and torch's older implementation.

    Args:
        reshard_after_forward: drop the gathered parameters of a block after its forward pass
            (as ZeRO stage 3), or only after backward (as stage 2).
        **kwargs: of mmengine's DDPStrategy.
    """

    def __init__(self, *, reshard_after_forward: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reshard_after_forward = reshard_after_forward

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        model = self.convert_model(model.to(get_device()))
        mesh = init_device_mesh(torch.device(get_device()).type, (get_world_size(),))
        for module in [*(m for m in model.modules() if isinstance(m, Block)), model]:
            fully_shard(module, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        return model

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Gather everything and let the first process write it; see mmengine's."""
        own = self.model.state_dict()
        self._whole = (
            OrderedDict((key, unshard(value, is_main_process())) for key, value in own.items()),
            _map_state(
                super().optim_state_dict(), lambda value, _: unshard(value, is_main_process())
            ),
        )
        self._whole[0]._metadata = own._metadata  # the versions of layers
        super().save_checkpoint(filename, **kwargs)
        del self._whole

    def resume(self, filename: str, **kwargs: Any) -> dict:
        """Go on from a plain checkpoint; see mmengine's."""
        return super().resume(filename, **{**kwargs, 'map_location': 'cpu'})  # too large for a GPU

    def model_state_dict(self) -> dict:
        """The whole weights."""
        return self._whole[0]

    def optim_state_dict(self) -> dict:
        """The whole state of the optimizer, numbered as without a strategy."""
        return self._whole[1]

    def load_model_state_dict(
        self,
        state_dict: dict,
        *,
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = REVISE_KEYS,
    ) -> None:
        """Load whole weights; see mmengine's."""
        state, own = revised(state_dict, revise_keys), self.model.state_dict()
        for key, value in state.items():
            if key in own and own[key].shape == value.shape:
                state[key] = shard_like(value, own[key])
        load_state_dict(self.model, state, strict, self.logger)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load a whole state of the optimizer."""
        groups = self.optim_wrapper.optimizer.param_groups
        parameters = [p for group in groups for p in group['params']]

        def part(value: Tensor, number: int) -> Tensor:
            like = parameters[number]
            return shard_like(value, like) if value.shape == like.shape else value

        self.optim_wrapper.load_state_dict(_map_state(state_dict, part))


def _map_state(state_dict: dict, function: Any) -> dict:
    """Apply ``function(tensor, number of its parameter)`` to the state of an optimizer."""
    state = {
        number: {
            key: function(value, number) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for number, values in state_dict['state'].items()
    }
    return {**state_dict, 'state': state}
