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
from .modes import PLAIN, autocast_dtype, is_batched, is_eager

# values of GELU for each thread of a CPU; measured by python -m benchmarks.paths
_VALUES_PER_THREAD = 2**20
_MANY = 2**14  # rows; below, the sum is short and autograd's own functions have less overhead


def fits_gelu_linear(x: Tensor, weight: Tensor) -> bool:
    """Training in eager mode on a CPU or a GPU; a compiler decides itself what to recompute.

    Fake tensors too, from which the memory of a training is predicted.
    """
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
        if not (activated and _has_parts(x)):
            return F.linear(F.gelu(x) if activated else x, weight, bias)
        product = _product_of(x, weight)
        out = x.new_empty(*x.shape[:-1], weight.shape[0])
        for part, target in zip(*_parts(len(weight), x, out), strict=True):
            target.copy_(product(F.gelu(part), weight, bias))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        needs = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        differentiable = torch.is_grad_enabled() or is_batched(grad)
        if ctx.activated and _has_parts(x) and not differentiable:
            d_x, d_weight = _gradients_in_parts(rows, x, weight, needs[1])
        else:
            if needs[0]:
                d_x = grad @ weight
                d_x = torch.ops.aten.gelu_backward(d_x, x) if ctx.activated else d_x
            if needs[1]:
                inputs = F.gelu(x) if ctx.activated else x
                d_weight = rows.t() @ inputs.reshape(-1, inputs.shape[-1])
        if needs[2]:
            on_gpu = grad.device.type == 'cuda'
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
    width = grad.shape[1]
    d_x = None if weight is None else x.new_empty(x.shape)
    d_weight = None
    parts, grads = _parts(width, x, grad)
    targets = [None] * len(parts) if d_x is None else _parts(width, d_x)[0]
    for part, d_out, target in zip(parts, grads, targets, strict=True):
        product = _product_of(d_out, part)
        if weight is not None:
            torch.ops.aten.gelu_backward.grad_input(
                product(d_out, weight.t()), part, grad_input=target
            )
        if needs_weight:
            more = product(d_out.t(), F.gelu(part).t())
            more = more.to(torch.promote_types(more.dtype, torch.float32))  # is summed
            d_weight = more if d_weight is None else d_weight.add_(more)
    return d_x, None if d_weight is None else d_weight.to(x.dtype)


def _has_parts(x: Tensor) -> bool:
    """Whether rows are taken in parts: plain tensors on a CPU, in eager mode."""
    return x.device.type == 'cpu' and type(x) in PLAIN and is_eager()


def _parts(least: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Rows ``(..., C)`` of each tensor in parts, which for the first one fit a CPU's caches.

    Parts have `least` rows or more, so that the sum of weight gradients takes no time beside the
    products.
    """
    values = _VALUES_PER_THREAD * torch.get_num_threads()
    at_once = max(least, values // tensors[0].shape[-1])
    return [t.reshape(-1, t.shape[-1]).split(at_once) for t in tensors]


def _product_of(x: Tensor, weight: Tensor) -> Callable[..., Tensor]:
    return onednn.linear if onednn.fits_linear(x, weight) else F.linear
