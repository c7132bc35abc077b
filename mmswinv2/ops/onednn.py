"""Products of float32 matrices by oneDNN on CPUs.

torch multiplies float32 matrices with MKL. On AMD processors with AVX-512, oneDNN, which is part of
torch too, is up to twice as fast (docs/benchmarks.md).
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter

from .modes import PLAIN, is_eager

# Where oneDNN is faster than MKL, by vendor and torch.backends.cpu.get_cpu_capability(). Measured
# by python -m benchmarks.paths, "linear layers by torch's MKL".
_FASTER = {('AuthenticAMD', 'AVX512')}

_COLUMNS = 2**12  # of a transpose, copied at a time


def fits_linear(x: Tensor, weight: Tensor) -> bool:
    """Plain float32 tensors on a CPU on which oneDNN is the faster library."""
    return (
        x.device.type == weight.device.type == 'cpu'
        and type(x) in PLAIN
        and type(weight) in PLAIN
        and x.dtype == weight.dtype == torch.float32
        and x.ndim > 1
        and x.numel() > 0
        and is_eager()
        and not torch.is_autocast_enabled('cpu')
        and bool(torch.backends.mkldnn.enabled)
        and is_faster()
    )


@cache
def is_faster() -> bool:
    """Whether oneDNN multiplies faster than MKL on this processor, and torch has it."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
        and (cpu_vendor(), torch.backends.cpu.get_cpu_capability()) in _FASTER
    )


def cpu_vendor() -> str:
    """``'AuthenticAMD'``, ``'GenuineIntel'``, or another name that the system reports."""
    return cpu_info('vendor_id') or platform.processor()


def cpu_info(field: str) -> str:
    """What Linux reports of the processor, such as its ``'vendor_id'``; empty elsewhere."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(':')[2].strip() for line in lines if line.startswith(field)), '')


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.linear`."""
    out = torch.ops.mmswinv2.linear(x.flatten(0, -2), weight, bias)
    return out.unflatten(0, x.shape[:-1])


torch.library.define('mmswinv2::linear', '(Tensor x, Tensor weight, Tensor? bias) -> Tensor')


@torch.library.impl('mmswinv2::linear', 'CPU')
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # oneDNN ignores the strides of a bias
    x = x if x.is_contiguous() else _contiguous(x)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


def _contiguous(x: Tensor) -> Tensor:
    """A contiguous copy of ``(T, C)``, made in parts: torch transposes a matrix on one thread."""
    out = x.new_empty(x.shape)
    for part, target in zip(x.split(_COLUMNS, 1), out.split(_COLUMNS, 1), strict=True):
        target.copy_(part)
    return out


@torch.library.register_fake('mmswinv2::linear')
def _fake_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad
    product, d_x, d_weight = torch.ops.mmswinv2.linear, None, None
    grad = grad.contiguous()
    if wants_x:
        d_x = product(grad, weight.t(), None)
    if wants_weight:  # the wider matrix as second factor: up to 1.6 times as fast
        if weight.shape[0] > weight.shape[1]:
            d_weight = product(x.t(), grad.t(), None).t()
        else:
            d_weight = product(grad.t(), x.t(), None)
    return d_x, d_weight, grad.sum(0) if wants_bias else None


torch.library.register_autograd('mmswinv2::linear', _backward, setup_context=_setup_context)


@flop_counter.register_flop_formula(torch.ops.mmswinv2.linear)
def _linear_flop(
    x: tuple[int, ...], weight: tuple[int, ...], *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return 2 * x[0] * x[1] * weight[0]
