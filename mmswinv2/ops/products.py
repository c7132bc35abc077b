"""Linear layers in training.

Two things are slow or large with plain autograd. It keeps the inputs of both GELU and the layer
after it, the two largest tensors of a block. Here the second is recomputed from the first: on GPUs
in one pass over memory, on CPUs for some rows at a time, which stay in the caches. The gradient of
a bias is a sum over all tokens, for which torch's column reduction on GPUs takes two to four times
as long as a product with ones (docs/gpu.md).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import onednn
from .modes import PLAIN, is_batched, is_eager

# values of GELU for each thread of a CPU; measured by python -m benchmarks.paths
_VALUES_PER_THREAD = 2**20
_MANY = 2**14  # rows; below, the sum is short and autograd's own functions have less overhead


def fits_gelu_linear(x: Tensor, weight: Tensor) -> bool:
    """Training in eager mode; a compiler decides by itself what to recompute."""
    return (
        x.device.type in ('cpu', 'cuda')
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and type(x) in (*PLAIN, FakeTensor)
        and type(weight) in (*PLAIN, FakeTensor)
        and x.numel() > 0
        and is_eager()
    )


def fits_linear(x: Tensor, weight: Tensor) -> bool:
    """Tensors on a GPU that `fits_gelu_linear` accepts, with many rows."""
    on_gpu = x.device.type == 'cuda'
    return on_gpu and fits_gelu_linear(x, weight) and x.shape[:-1].numel() >= _MANY


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
        if not activated:
            return F.linear(x, weight, bias)
        product = _product_of(x, weight)
        outs = [product(F.gelu(part), weight, bias) for part in _parts(x, weight.shape[0])]
        return (outs[0] if len(outs) == 1 else torch.cat(outs)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        needs = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        on_gpu, differentiable = grad.device.type == 'cuda', torch.is_grad_enabled()
        if ctx.activated and not (on_gpu or differentiable or is_batched(grad)):
            d_x, d_weight = _gradients_in_parts(rows, x, weight, needs[1])
        else:
            if needs[0]:
                d_x = grad @ weight
                d_x = torch.ops.aten.gelu_backward(d_x, x) if ctx.activated else d_x
            if needs[1]:
                inputs = F.gelu(x) if ctx.activated else x
                d_weight = rows.t() @ inputs.reshape(-1, inputs.shape[-1])
        if needs[2]:
            d_bias = rows.t() @ rows.new_ones(len(rows)) if on_gpu else rows.sum(0)
        return d_x, d_weight, d_bias, None


def _gradients_in_parts(
    grad: Tensor, x: Tensor, weight: Tensor | None, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and weight in ``linear(gelu(x), weight)``, some rows at a time.

    Args:
        grad: ``(rows, D)``.
        x: ``(..., C)``.
        weight: ``(D, C)``; ``None``: x needs no gradient.
        needs_weight: whether the weight needs one.
    """
    # contiguous, as its parts are written to
    d_x = None if weight is None else x.new_empty(x.shape)
    d_weight = None
    parts = _parts(x, grad.shape[1])
    grads = grad.split([len(part) for part in parts])
    targets = [None] * len(parts) if d_x is None else _parts(d_x, grad.shape[1])
    for part, d_out, target in zip(parts, grads, targets, strict=True):
        product = _product_of(d_out, part)
        if target is not None and weight is not None:
            d_part = product(d_out, weight.t())
            torch.ops.aten.gelu_backward.grad_input(d_part, part, grad_input=target)
        if needs_weight:
            more = product(d_out.t(), F.gelu(part).t())
            d_weight = more if d_weight is None else d_weight.add_(more)
    return d_x, d_weight


def _parts(x: Tensor, least: int) -> tuple[Tensor, ...]:
    """Rows ``(..., C)`` in parts ``(rows, C)``: as many as fit a CPU's caches; all on a GPU.

    Not fewer than `least`, so that the sum of weight gradients takes no time beside the products.
    """
    rows = x.reshape(-1, x.shape[-1])
    if x.device.type != 'cpu':
        return (rows,)
    values = _VALUES_PER_THREAD * torch.get_num_threads()
    return rows.split(max(least, values // x.shape[-1]))


def _product_of(x: Tensor, weight: Tensor) -> Callable[..., Tensor]:
    return onednn.linear if onednn.fits_linear(x, weight) else F.linear
