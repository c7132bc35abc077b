"""The operators below a block: functions of tensors, each with interchangeable implementations.

`reference` is the slow, simple implementation. Another implementation is a module with some of the
same functions and, for each, a ``fits_...`` function that says which tensors it supports. The first
that fits is used, or else the reference; the tuples below list the implementations of an operator
that has several.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import onednn, padded, patches, products, reference, sdpa, sdpa_padded, triton
from .reference import layer_norm
from .windows import WindowGrid

__all__ = [
    'WindowGrid',
    'add_norm',
    'attend',
    'embed',
    'gelu_linear',
    'implementation_of_attend',
    'layer_norm',
    'linear',
    'position_bias',
]

_ATTEND = (triton, padded, sdpa_padded, sdpa)
_LINEAR = (onednn, products)


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """Scaled cosine attention inside the windows of a grid (paper, section 3.3, equation 2).

    ``softmax(cos(q, k) / tau + B) v``, with cosines, scores and softmax in float32 or better.

    Args:
        qkv: ``(B, *S, 3 C)`` queries, keys and values of all tokens, in the order of the map.
        grid: how the map is cut into windows.
        table: ``(h, 2 E1 - 1, ...)`` position bias of every offset, for an extent E of at least
            the largest window; float32, or float64.
        scale: ``(h, 1, 1)`` 1 / tau.
        dropout: share of the probabilities to drop.
        windows_at_once: maximum number of windows that attend at a time; ``None``: no bound.

    Returns:
        ``(B, *S, C)`` in the order of the map, in the dtype of `qkv`. Gradients: `qkv`, `table`
        and `scale`.
    """
    taken = implementation_of_attend(qkv, table, scale, dropout)
    return taken.attend(qkv, grid, table, scale, dropout, windows_at_once)


def implementation_of_attend(
    qkv: Tensor, table: Tensor, scale: Tensor, dropout: float = 0.0
) -> Any:
    """The module whose `attend` is used for these tensors."""
    for implementation in _ATTEND:
        if implementation.fits_attend(qkv, table, scale, dropout):
            return implementation
    return reference


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `torch.nn.functional.linear`.

    Args:
        x: ``(..., C)``.
        weight: ``(D, C)``.
        bias: ``(D,)``.

    Returns:
        ``(..., D)``.
    """
    for implementation in _LINEAR:
        if implementation.fits_linear(x, weight):
            return implementation.linear(x, weight, bias)
    return reference.linear(x, weight, bias)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear(gelu(x), weight, bias)``, the second half of an MLP; shapes as for `linear`."""
    if products.fits_gelu_linear(x, weight):
        return products.gelu_linear(x, weight, bias)
    return linear(F.gelu(x), weight, bias)


def embed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Project patches that do not overlap: a convolution whose stride is its kernel size.

    Args:
        x: ``(B, K, *pixels)``, whole patches along each axis.
        weight: ``(C, K, *patch)``.
        bias: ``(C,)``.

    Returns:
        ``(B, *S, C)``.
    """
    if patches.fits_embed(x, weight):
        return patches.embed(x, weight, bias)
    return reference.embed(x, weight, bias)


def add_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """``x + scale * LayerNorm(y)``: a branch joins the residual stream (paper, section 3.2).

    Args:
        x: ``(B, *S, C)`` the residual stream.
        y: ``(B, *S, C)`` the output of the branch.
        weight: ``(C,)`` of the norm.
        bias: ``(C,)`` of the norm.
        eps: of the norm.
        scale: ``(B, 1, ..., 1)`` factors of stochastic depth, without gradient; ``None``: 1.
        dtype: of the second output, for a next layer under autocast; ``None``: that of the first.

    Returns:
        The sum ``(B, *S, C)`` twice, the second time in `dtype`. The norm is computed in float32
        or better.
    """
    if triton.fits_add_norm(x, y, weight):
        return triton.add_norm(x, y, weight, bias, eps, scale, dtype)
    return reference.add_norm(x, y, weight, bias, eps, scale, dtype)


def position_bias(
    w1: Tensor, b1: Tensor, w2: Tensor, window: tuple[int, ...], pretrained: tuple[int, ...]
) -> Tensor | None:
    """Compute the table of `core.attention.ContinuousPositionBias`, which defines the formula.

    Args:
        w1: ``(K, ndim)`` of the first layer.
        b1: ``(K,)`` of the first layer.
        w2: ``(h, K)`` of the last layer.
        window: ``(M1, ...)``.
        pretrained: the window of the pre-training.

    Returns:
        ``(h, 2 M1 - 1, ...)``, float32; ``None`` where no implementation fits.
    """
    if triton.fits_position_bias(w1, b1, w2):
        return triton.position_bias(w1, b1, w2, window, pretrained)
    return None
