"""Weights for other inputs: videos in place of images, and any number of channels."""

from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError
from .formats import PATCHES, State

_BIAS = '.attn.cpb_mlp.0.weight'


def is_2d(state: Mapping[str, Tensor]) -> bool:
    """Whether weights under our keys are those of an image network."""
    return PATCHES in state and state[PATCHES].ndim == 4


def inflate(state: Mapping[str, Tensor], frames: int) -> State:
    """Turn the weights of an image network into those of a video network.

    A clip of equal frames then gives the same output as one frame did. The kernel of the patches is
    repeated over time and divided by the number of frames, as in Video Swin and I3D. The position
    bias gets a time coordinate with zero weights, so that it is constant over time, which is
    equivalent to Video Swin's repeated table of offsets. No other weight has a time axis.

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
    inflated[PATCHES] = state[PATCHES].unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    for key, value in state.items():
        if key.endswith(_BIAS):
            inflated[key] = value.new_zeros(len(value), 3)
            inflated[key][:, 1:] = value
    return inflated


def adapt_channels(state: State, channels: int) -> State:
    """Turn the weights of a network for RGB into those of one for any number of channels.

    One channel gets the sum of the three kernels, so that a gray image gives the same output as it
    did with three equal channels. n channels get the kernels of R, G, B, R, ... in turn, times
    3 / n. This keeps the scale of the response, and for multiples of 3 the exact response to a gray
    image.

    Args:
        state: weights under our keys; patches ``(C, 3, *patch)``.
        channels: channels n of the input.

    Returns:
        patches ``(C, n, *patch)``, and the rest as it is; `state` itself if n is 3, or if the
        patches do not have 3 channels.
    """
    kernel = state.get(PATCHES)
    known = kernel is not None and kernel.is_floating_point() and kernel.shape[1:2] == (3,)
    if kernel is None or not known or channels == 3:
        return state
    if channels == 1:
        return {**state, PATCHES: kernel.sum(1, keepdim=True)}
    order = [channel % 3 for channel in range(channels)]
    return {**state, PATCHES: kernel[:, order] * (3 / channels)}
