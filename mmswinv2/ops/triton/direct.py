"""The short way to the kernels in eager mode.

A registered operator costs the host more than a kernel costs the GPU on small maps. So an operator
is registered for whoever looks (graphs, dispatch modes, fake tensors), and everybody else gets an
autograd function around the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.triton import set_wrap_triton_enabled
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable


def is_watched(x: Tensor) -> bool:
    """Whether somebody has to see an operator."""
    return (
        torch.compiler.is_compiling()
        or type(x) is FakeTensor
        or torch._C._len_torch_dispatch_stack() > 0
    )


def direct(
    forward: Callable[..., Any],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., Any],
) -> Callable[..., Any]:
    """A function that runs kernels unregistered, with a gradient and no second one.

    Args:
        forward: computes the outputs.
        setup_context: see `torch.autograd.Function`.
        backward: computes the gradients of all arguments from the context and those of the outputs.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            with set_wrap_triton_enabled(False):
                outputs = forward(*args)
            setup_context(ctx, args, outputs)
            return outputs

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *grads: Tensor) -> Any:
            with set_wrap_triton_enabled(False):
                return backward(ctx, *grads)

    apply: Callable[..., Any] = Direct.apply
    return apply
