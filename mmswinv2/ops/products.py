"""Linear layers in training on GPUs.

Two things are slow or large with plain autograd. The gradient of a bias is a sum over all tokens,
for which torch's column reduction takes two to four times as long as a product with ones
(docs/gpu.md). Autograd also keeps the inputs of both GELU and the layer after it, the two largest
tensors of a block; here the second is recomputed from the first, in one pass over memory.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import PLAIN, is_eager

_MANY = 2**14  # rows; below, the sum is short and autograd's own functions have less overhead


def fits_gelu_linear(x: Tensor, weight: Tensor) -> bool:
    """Training in eager mode on a GPU; a compiler decides by itself what to recompute."""
    return (
        x.device.type == 'cuda'
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and x.numel() > 0
        and is_eager()
    )


def fits_linear(x: Tensor, weight: Tensor) -> bool:
    """Tensors that `fits_gelu_linear` accepts, with many rows."""
    return fits_gelu_linear(x, weight) and x.shape[:-1].numel() >= _MANY


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.linear`."""
    if bias is None or not bias.requires_grad:
        return F.linear(x, weight, bias)
    return _product(x, weight, bias, activated=False)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.gelu_linear`."""
    return _product(x, weight, bias, activated=True)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast computes a linear layer; ``None`` if it does not cast `x`."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, activated: bool) -> Tensor:
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    out: Tensor = _Product.apply(x, weight, bias, activated)
    return out


class _Product(torch.autograd.Function):
    """``linear(x)`` or ``linear(gelu(x))``; keeps x for backward, not ``gelu(x)``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activated: bool
    ) -> Tensor:
        needs = ctx.needs_input_grad
        keeps_x = activated or needs[1]
        ctx.save_for_backward(x if keeps_x else None, weight if needs[0] else None)
        ctx.activated = activated
        return F.linear(F.gelu(x) if activated else x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        rows = grad.reshape(-1, grad.shape[-1])
        if ctx.needs_input_grad[0]:
            d_x = grad @ weight
            d_x = torch.ops.aten.gelu_backward(d_x, x) if ctx.activated else d_x
        if ctx.needs_input_grad[1]:
            inputs = F.gelu(x) if ctx.activated else x
            d_weight = rows.t() @ inputs.reshape(-1, inputs.shape[-1])
        if ctx.needs_input_grad[2]:
            d_bias = rows.t() @ rows.new_ones(len(rows))
        return d_x, d_weight, d_bias, None
