"""Checkpoints that several processes wrote together, made whole again.

DeepSpeed's ZeRO leaves a folder: each process writes its part of the float32 weights and of the
optimizer's state.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import CheckpointError
from .files import harmless_globals, read_checkpoint

__all__ = ['check_shards', 'gathered', 'is_sharded', 'read_sharded', 'spread']

_MODEL = '*model_states.pt'
# what DeepSpeed keeps beside tensors: records that do nothing
_HARMLESS = (
    'deepspeed.runtime.zero.config.ZeroStageEnum',
    'deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler',
    'deepspeed.runtime.fp16.loss_scaler.LossScaler',
    'deepspeed.utils.tensor_fragment.fragment_address',
)


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder that DeepSpeed wrote."""
    return Path(path).is_dir() and any(Path(path).glob(_MODEL))


def read_sharded(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a folder of DeepSpeed's as one plain checkpoint with float32 weights.

    Returns:
        ``state_dict`` and what mmengine keeps beside it (``meta``, ``message_hub``); the
        optimizer's state is left out.

    Raises:
        CheckpointError: if DeepSpeed is missing, a part is, or a file holds more than tensors.
    """
    path = Path(path)
    saved = check_shards(path)
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise CheckpointError(
            f'{path} was written by DeepSpeed: `pip install deepspeed`'
        ) from error
    try:
        state = get_fp32_state_dict_from_zero_checkpoint(str(path.parent), path.name)
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise CheckpointError(f'{path} is not whole: {error}') from error
    others: dict[str, Any] = {key: saved[key] for key in ('meta', 'message_hub') if key in saved}
    return {'state_dict': state, **others}


def check_shards(path: Path) -> dict[str, Any]:
    """Read every file of a folder without running code from it, as DeepSpeed itself would.

    Returns:
        what the first process wrote of the model.

    Raises:
        CheckpointError: see `read_checkpoint`.
    """
    models = sorted(path.glob(_MODEL))
    if not models:
        raise CheckpointError(
            f'{path} is a folder; name the file in it, e.g. model.safetensors, or a folder that '
            f'DeepSpeed wrote, which has {_MODEL} in it'
        )
    with torch.serialization.safe_globals(harmless_globals(_HARMLESS)):
        for file in path.glob('*.pt'):
            read_checkpoint(file, mmap=True)
        return read_checkpoint(models[0], mmap=True)


def gathered(value: Any, keep: bool = True) -> Any:
    """The whole of a tensor of which each process has a part, on the CPU; all must call this.

    Who does not `keep` it gets an empty one.
    """
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if keep else torch.empty(0)


def spread(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of `value`, which every process has, if `like` is in parts."""
    if not isinstance(like, DTensor):
        return value
    device = like.to_local().device
    mesh, places = like.device_mesh, like.placements
    return distribute_tensor(value.to(device), mesh, places, src_data_rank=None)
