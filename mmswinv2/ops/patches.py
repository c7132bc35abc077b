"""Patches as rows of a matrix, on GPUs: one product in place of a convolution.

Patches that do not overlap are arranged in a matrix by one copy. cuDNN's convolution kernels, which
are made for overlapping patches, take several times as long, above all for the gradient of the
weight (docs/gpu.md).
"""

import torch.nn.functional as F
from torch import Tensor

from .products import autocast_dtype


def fits_embed(x: Tensor, weight: Tensor) -> bool:
    """Whole patches on an NVIDIA or AMD GPU."""
    return x.device.type == 'cuda' and x.numel() > 0


def embed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.embed`."""
    patch = weight.shape[2:]
    dtype = autocast_dtype(x)
    if dtype is not None:
        x = x.to(dtype)  # before the copy, which then moves half as many bytes
    axes = len(patch)
    for axis in reversed(range(axes)):  # to [B, K, s1, p1, s2, p2, ...]
        x = x.unflatten(2 + axis, (-1, patch[axis]))
    places = range(2, 2 + 2 * axes, 2)
    x = x.permute(0, *places, 1, *(i + 1 for i in places))
    return F.linear(x.flatten(1 + axes), weight.flatten(1), bias)
