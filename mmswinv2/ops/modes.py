"""Modes of torch that an implementation checks before it replaces torch's own operators."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN = (Tensor, nn.Parameter)  # quantized, fake and distributed tensors need torch's operators


def is_transformed() -> bool:
    """Whether `torch.jit.trace`, a function of `torch.func` or forward-mode AD is active."""
    functions = torch._C._are_functorch_transforms_active()
    return torch.jit.is_tracing() or functions or forward_ad._current_level >= 0


def is_batched(grad: Tensor) -> bool:
    """Whether ``is_grads_batched=True`` is set, whose vmap lacks many of torch's operators."""
    # compiled autograd cannot follow the question, and has no such tensors
    return not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context with autocast disabled, in which products keep the dtypes of their tensors."""
    if not torch.amp.is_autocast_available(device.type):  # e.g. on the meta device
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast computes a linear layer; ``None`` if it does not cast `x`."""
    device = x.device.type
    available = torch.amp.is_autocast_available(device)  # not on the meta device
    if available and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return None


def is_eager() -> bool:
    """Whether the call runs in plain eager mode: neither compiled nor transformed."""
    return not torch.compiler.is_compiling() and not is_transformed()
