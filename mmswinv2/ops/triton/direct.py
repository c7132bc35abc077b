"""A direct call of the kernels in eager mode, without the dispatch of a registered operator.

On small maps, that dispatch takes the host longer than a kernel takes the GPU. So the registered
operator is called only where it is needed (graphs, dispatch modes, fake tensors). All other calls
use an autograd function around the same code, or the code alone where no gradient is wanted.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._library.triton import set_wrap_triton_enabled
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import triton_op
from torch.utils import flop_counter
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from ..modes import is_batched


def digest(folder: Path) -> str:
    """SHA-256 of the contents of a folder's files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()


# torch.compile caches compiled graphs on disk, under a key made of the operators of a graph and
# their arguments. As an argument, this digest makes another version of the kernels recompile.
SOURCES = digest(Path(__file__).parent)


def is_watched(x: Tensor) -> bool:
    """Whether a graph, a dispatch mode or a fake tensor needs the registered operator."""
    return (
        torch.compiler.is_compiling()
        or type(x) is FakeTensor
        or torch._C._len_torch_dispatch_stack() > 0
    )


def register_flop_formula(operator: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register the FLOP formula of an operator, as torch's function of this name does.

    Operators are registered at their first call. Counters that are counting by then have copied
    torch's formulas, so they are given this one.
    """

    def register(formula: Callable[..., int]) -> Callable[..., int]:
        flop_counter.register_flop_formula(operator)(formula)
        for mode in _get_current_dispatch_mode_stack():
            counter = getattr(mode, 'counter', None)
            if isinstance(counter, flop_counter.FlopCounterMode):
                counter.flop_registry[operator] = flop_counter.flop_registry[operator]
        return formula

    return register


def with_gradient(
    name: str,
    forward: tuple[Callable[..., Any], Callable[..., Any]],
    backward: tuple[Callable[..., Any], Callable[..., Any]],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Any]:
    """Register an operator and its gradient, and make the function that calls or bypasses it.

    Args:
        name: of the operator ``mmswinv2::name``; that of the backward pass is ``name_backward``.
        forward: the function that launches the kernels, and the one that gives fake tensors. The
            last argument of the first is ``sources: str = ''``, which it ignores.
        backward: the same two of the backward pass, without `sources`.
        setup_context: see `torch.autograd.Function`.
        gradients: ``gradients(backward, ctx, *grads)`` returns those of all arguments but
            `sources`; `backward` is the operator of the backward pass, or its function.

    Returns:
        a function of the operator's arguments but `sources`, the first of which is a tensor. Where
        it bypasses the operator, it has no second derivative.
    """
    forward_function, fake_forward = forward
    backward_function, fake_backward = backward
    operator: Any = triton_op(f'mmswinv2::{name}', forward_function, mutates_args=())
    operator.register_fake(fake_forward)
    backward_operator: Any = triton_op(
        f'mmswinv2::{name}_backward', backward_function, mutates_args=()
    )
    backward_operator.register_fake(fake_backward)

    def run(*args: Any) -> Any:
        with set_wrap_triton_enabled(False):
            return forward_function(*args)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            outputs = run(*args)
            setup_context(ctx, args, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    'the Triton kernels have no second derivatives, for which create_graph=True '
                    'asks; torch.func.grad does not use the kernels'
                )
            if is_batched(grads[0]):  # its vmap calls the operator for each gradient
                return gradients(backward_operator._opoverload, ctx, *grads)
            with set_wrap_triton_enabled(False):
                return gradients(backward_function, ctx, *grads)

    def set_up(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs[:-1], output)

    def differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(backward_operator._opoverload, ctx, *grads), None

    operator.register_autograd(differentiate, setup_context=set_up)

    def call(*args: Any) -> Any:
        if is_watched(args[0]):
            return operator._opoverload(*args, SOURCES)
        return Direct.apply(*args) if torch.is_grad_enabled() else run(*args)

    return call
