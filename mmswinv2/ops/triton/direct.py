"""The short way to the kernels in eager mode.

A registered operator costs the host more than a kernel costs the GPU on small maps. So an operator
is registered for whoever looks (graphs, dispatch modes, fake tensors), and everybody else gets an
autograd function around the same code.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._library.triton import set_wrap_triton_enabled
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable


def is_watched(x: Tensor) -> bool:
    """Whether a graph, a dispatch mode or a fake tensor needs the registered operator."""
    return (
        torch.compiler.is_compiling()
        or type(x) is FakeTensor
        or torch._C._len_torch_dispatch_stack() > 0
    )


def with_gradient(
    operators: tuple[Any, Any],
    functions: tuple[Callable[..., Any], Callable[..., Any]],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Any]:
    """Register the gradient of an operator, and make the function that calls it or goes around it.

    Args:
        operators: the operator and that of its backward pass, made with `torch.library.triton_op`.
        functions: what they were made of.
        setup_context: see `torch.autograd.Function`.
        gradients: ``gradients(backward, ctx, *grads)`` of all arguments, where `backward` is the
            operator of the backward pass, or its function.

    Returns:
        a function of the operator's arguments, the first of which is a tensor. Around the operator
        it has no second derivative.
    """
    operator, backward_operator = operators
    forward_function, backward_function = functions

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            with set_wrap_triton_enabled(False):
                outputs = forward_function(*args)
            setup_context(ctx, args, outputs)
            return outputs

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *grads: Tensor) -> Any:
            with set_wrap_triton_enabled(False):
                return gradients(backward_function, ctx, *grads)

    operator.register_autograd(
        partial(gradients, backward_operator._opoverload), setup_context=setup_context
    )

    def call(*args: Any) -> Any:
        return operator._opoverload(*args) if is_watched(args[0]) else Direct.apply(*args)

    return call
