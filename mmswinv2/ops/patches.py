"""Patches as rows of a matrix, on GPUs: one product in place of a convolution.

Patches that do not overlap are arranged in a matrix by one copy. cuDNN's convolution kernels, which
are made for overlapping patches, take several times as long, above all for the gradient of the
weight (docs/gpu.md).
"""

import torch.nn.functional as F
from torch import Tensor

from .modes import autocast_dtype
from .windows import windows_first


def fits_embed(x: Tensor, weight: Tensor) -> bool:
    """Whole patches on an NVIDIA or AMD GPU."""
    return x.device.type == 'cuda'


def embed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.embed`."""
    patch = weight.shape[2:]
    dtype = autocast_dtype(x)
    if dtype is not None:
        x = x.to(dtype)  # before the copy, which then moves half as many bytes
    x = windows_first(x.movedim(1, -1), tuple((p, -1) for p in patch))  # [B, *S, *patch, K]
    x = x.movedim(-1, 1 + len(patch)).flatten(1 + len(patch))
    return F.linear(x, weight.flatten(1), bias)
