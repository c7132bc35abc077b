"""What an implementation asks of a call before it leaves torch's own operators."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PLAIN = (Tensor, nn.Parameter)  # quantised, fake and distributed tensors take torch's way


def is_transformed() -> bool:
    """Whether `torch.jit.trace`, a function of `torch.func` or forward-mode AD follows the call."""
    functions = torch._C._are_functorch_transforms_active()
    return torch.jit.is_tracing() or functions or forward_ad._current_level >= 0


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which products keep the dtypes of their tensors."""
    if not torch.amp.is_autocast_available(device.type):  # as on meta
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_eager() -> bool:
    """Whether the call is computed as it comes: not compiled, and not transformed."""
    return not torch.compiler.is_compiling() and not is_transformed()
