"""What attention by torch's fused kernels needs in training.

Those kernels have no gradient for a bias. So a function stands around them: it keeps queries, keys
and values as they came, and its backward pass computes directions and probabilities again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .modes import is_transformed, without_autocast
from .windows import WindowGrid

Forward = Callable[[Tensor, Tensor, Tensor, WindowGrid, int | None], Tensor]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, WindowGrid, int | None], tuple[Tensor, Tensor, Tensor]
]


def can_recompute(dropout: float) -> bool:
    """Not with dropout of probabilities, which could not be computed again.

    Nor under `torch.jit.trace`, whose graph would lack the gradients, nor under `torch.func`, which
    goes through torch's kernel sample by sample.
    """
    return not dropout and not is_transformed()


def attention(forward: Forward, backward: Backward) -> Callable[..., Tensor]:
    """An `attend` that calls `forward`, and `backward` with the gradient in front."""

    def attend(
        qkv: Tensor,
        grid: WindowGrid,
        table: Tensor,
        scale: Tensor,
        dropout: float = 0.0,
        windows_at_once: int | None = None,
    ) -> Tensor:
        """See `mmswinv2.ops.attend`."""
        inputs = qkv, table, scale, grid, windows_at_once
        if torch.is_grad_enabled() and any(t.requires_grad for t in (qkv, table, scale)):
            return _Attend.apply(forward, backward, *inputs)
        return forward(*inputs)

    return attend


class _Attend(torch.autograd.Function):
    """Attention that keeps its inputs alone for backward."""

    @staticmethod
    def forward(forward: Forward, backward: Backward, *inputs: Any) -> Tensor:
        return forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.backward_pass, *tensors, ctx.grid, ctx.at_once = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(grad.device):  # backward may be called inside of it
            gradients = ctx.backward_pass(grad, *ctx.saved_tensors, ctx.grid, ctx.at_once)
        return (None, None, *gradients, None, None)
