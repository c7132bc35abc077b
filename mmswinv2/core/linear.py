"""Linear layers, on CPUs through oneDNN.

torch multiplies float32 matrices with MKL, which leaves half of what AMD's processors can do unused
(docs/benchmarks.md). oneDNN, which torch brings along, does not.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ['Linear', 'is_plain_on_cpu', 'linear', 'untouched']

_PLAIN = (Tensor, nn.Parameter)  # fake and distributed tensors take torch's way


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `torch.nn.functional.linear`, by the faster library.

    Args:
        x: ``(..., C)``.
        weight: ``(D, C)``.
        bias: ``(D,)``.

    Returns:
        ``(..., D)``.
    """
    if not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled():
        return _Linear.apply(rows, weight, bias).unflatten(0, x.shape[:-1])
    return _product(rows, weight, bias).unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """`torch.nn.Linear` by the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., D)``."""
        return linear(x, self.weight, self.bias)


def is_plain_on_cpu(*tensors: Tensor) -> bool:
    """Whether these are plain tensors on a CPU, and nobody follows every operator on them."""
    return (
        all(t.device.type == 'cpu' and type(t) in _PLAIN for t in tensors)
        and not torch.compiler.is_compiling()
    )


def untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of this very class and has no hooks: its weights say what it does."""
    return (
        type(module) is kind
        and 'forward' not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
    )


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        is_plain_on_cpu(x, weight)
        and x.dtype == weight.dtype == torch.float32
        and x.ndim > 1
        and x.numel() > 0
        and not torch.is_autocast_enabled('cpu')
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        d_x = d_weight = d_bias = None
        grad = grad.contiguous()
        if wants_x:
            d_x = _product(grad, weight.t(), None)
        if wants_weight:  # the wider one second: up to 1.6 times as fast
            if weight.shape[0] > weight.shape[1]:
                d_weight = _product(x.t(), grad.t(), None).t()
            else:
                d_weight = _product(grad.t(), x.t(), None)
        if wants_bias:
            d_bias = grad.sum(0)
        return d_x, d_weight, d_bias
