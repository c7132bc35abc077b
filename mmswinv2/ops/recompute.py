"""An autograd function around torch's fused attention kernels.

Those kernels have no gradient for a bias. The function keeps the unnormalized queries, keys and
values, and its backward pass recomputes their directions and the probabilities.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .modes import is_batched, is_transformed, without_autocast
from .windows import WindowGrid


def can_recompute(dropout: float) -> bool:
    """Whether backward can recompute the attention: not with dropout, whose mask is not kept.

    Also not under `torch.jit.trace`, whose graph would lack the gradients, nor under `torch.func`,
    which calls torch's kernel once for each sample.
    """
    return not dropout and not is_transformed()


def attention(
    forward: Callable[..., Tensor], backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> Callable[..., Tensor]:
    """Make an `attend` from `forward`, and from `backward`, which takes the gradient first."""

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
        with without_autocast(qkv.device):  # autocast would round what is in float32
            out: Tensor = _Attend.apply(forward, backward, *inputs)
            return out

    return attend


class _Attend(torch.autograd.Function):
    """Attention that keeps only its inputs for backward."""

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *inputs: Any) -> Tensor:
        *tensors, ctx.grid, ctx.at_once = inputs
        ctx.forward_pass, ctx.backward_pass = forward, backward
        ctx.save_for_backward(*tensors)
        return forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(grad.device):  # backward may be called under autocast
            if is_batched(grad):
                gradients = _batched_gradients(ctx, grad)
            else:
                gradients = ctx.backward_pass(grad, *ctx.saved_tensors, ctx.grid, ctx.at_once)
        return (None, None, *gradients, None, None)


def _batched_gradients(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of qkv, table and scale by autograd, which takes torch's operators one by one."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = [t.view_as(t) for t in ctx.saved_tensors]  # whose hooks run once, outside
        out = ctx.forward_pass(*inputs, ctx.grid, ctx.at_once)
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grads, create_graph=create_graph))
    return tuple(next(found) if t.requires_grad else None for t in inputs)
