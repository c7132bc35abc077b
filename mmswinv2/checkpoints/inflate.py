"""2D weights for a video network, so that a still clip gives what the frame gives."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError

__all__ = ['inflate', 'is_2d']

_PATCHES = 'patch_embed.proj.weight'
_BIAS = '.attn.cpb_mlp.0.weight'


def is_2d(state: Mapping[str, Tensor]) -> bool:
    """Whether weights under our keys are those of an image network."""
    return _PATCHES in state and state[_PATCHES].ndim == 4


def inflate(state: Mapping[str, Tensor], frames: int) -> dict[str, Tensor]:
    """Turn the weights of an image network into those of a video network.

    The kernel of the patches is repeated over time and divided, as Video Swin and I3D do. The
    position bias gets a time coordinate with zero weights, so that it starts out constant over time
    (Video Swin repeats its table of offsets, which is the same). All else has no time axis.

    Args:
        state: weights under our keys; patches ``(C, in, ph, pw)``, bias MLPs ``(512, 2)``.
        frames: frames of a patch.

    Returns:
        patches ``(C, in, frames, ph, pw)``, bias MLPs ``(512, 3)`` for (time, height, width), and
        the rest as it is.

    Raises:
        CheckpointError: if the weights have a time axis already.
    """
    if not is_2d(state):
        raise CheckpointError(
            'the weights are those of a video network; there is nothing to inflate'
        )
    inflated = dict(state)
    inflated[_PATCHES] = state[_PATCHES].unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    for key, value in state.items():
        if key.endswith(_BIAS):
            inflated[key] = value.new_zeros(len(value), 3)
            inflated[key][:, 1:] = value
    return inflated
