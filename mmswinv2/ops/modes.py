"""What an implementation asks of a call before it leaves torch's own operators."""

import torch
from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)  # quantised, fake and distributed tensors take torch's way


def is_transformed() -> bool:
    """Whether `torch.jit.trace` or a function of `torch.func` follows the call."""
    return torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()


def is_eager() -> bool:
    """Whether the call is computed as it comes: not compiled, and not transformed."""
    return not torch.compiler.is_compiling() and not is_transformed()
