"""An autograd function around torch's fused attention kernels.

Those kernels have no gradient for a bias. The function keeps the unnormalized queries, keys and
values, and its backward pass recomputes their directions and the probabilities.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import is_transformed, without_autocast
from .reference import inverse_lengths
from .windows import WindowGrid

Forward = Callable[[Tensor, Tensor, Tensor, WindowGrid, int | None], Tensor]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, WindowGrid, int | None], tuple[Tensor, Tensor, Tensor]
]


def can_recompute(dropout: float) -> bool:
    """Whether backward can recompute the attention: not with dropout, whose mask is not kept.

    Also not under `torch.jit.trace`, whose graph would lack the gradients, nor under `torch.func`,
    which calls torch's kernel once for each sample.
    """
    return not dropout and not is_transformed()


def attention(forward: Forward, backward: Backward) -> Callable[..., Tensor]:
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
            if torch.is_grad_enabled() and any(t.requires_grad for t in (qkv, table, scale)):
                return _Attend.apply(forward, backward, *inputs)
            return forward(*inputs)

    return attend


class _Attend(torch.autograd.Function):
    """Attention that keeps only its inputs for backward."""

    @staticmethod
    def forward(ctx: Any, forward: Forward, backward: Backward, *inputs: Any) -> Tensor:
        *tensors, ctx.grid, ctx.at_once = inputs
        ctx.backward_pass = backward
        ctx.save_for_backward(*tensors)
        return forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with without_autocast(grad.device):  # backward may be called under autocast
            gradients = ctx.backward_pass(grad, *ctx.saved_tensors, ctx.grid, ctx.at_once)
        return (None, None, *gradients, None, None)


def window_gradients(
    windows: Tensor, d_out: Tensor, scale: Tensor, bias: Tensor, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `reference.softmax_attention`; the probabilities are recomputed.

    Args:
        windows: ``(W, N, 3 C)``.
        d_out: ``(W, N, C)``.
        scale: ``(h, 1, 1)``.
        bias: ``(h, N, N)``.
        hidden: mask that is added to the scores of the keys, ``(W, 1, 1, N)``; ``None``: no mask.

    Returns:
        Gradients of windows, bias and scale.
    """
    qkv = windows.unflatten(-1, (3, len(scale), -1)).permute(2, 0, 3, 1, 4)
    qkv = qkv.contiguous()  # [3, W, h, N, d], read many times
    v, wide = qkv[2], qkv[:2].to(bias.dtype)
    inverse_q, inverse_k = inverses = inverse_lengths(wide)
    unit_q, unit_k = wide * inverses
    d_out = d_out.unflatten(-1, (len(scale), -1)).transpose(1, 2).contiguous()  # [W, h, N, d]
    q, k = (unit_q * scale).to(v.dtype), unit_k.to(v.dtype)  # rounded as in the forward pass
    scores = q.to(bias.dtype) @ k.to(bias.dtype).transpose(-2, -1) + bias
    p = torch.softmax(scores if hidden is None else scores + hidden, dim=-1)
    d_v = p.to(v.dtype).transpose(-2, -1) @ d_out
    d_p = (d_out @ v.transpose(-2, -1)).to(p.dtype)
    d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)  # (d_p - sum(d_p p)) p
    d_bias = d_scores.sum(0)
    d_scores = d_scores.to(v.dtype)
    d_unit_q = (d_scores @ k).to(unit_q.dtype)  # not yet times the scale
    d_unit_k = (d_scores.transpose(-2, -1) @ q).to(unit_k.dtype)
    # a direction does not change with the length, so the part along the vector has no gradient
    along_q = (d_unit_q * unit_q).sum(-1, keepdim=True)
    along_k = (d_unit_k * unit_k).sum(-1, keepdim=True)
    d_q = torch.addcmul(d_unit_q, unit_q, along_q, value=-1) * (inverse_q * scale)
    d_k = torch.addcmul(d_unit_k, unit_k, along_k, value=-1) * inverse_k
    d_qkv = torch.stack([d.to(windows.dtype).transpose(1, 2) for d in (d_q, d_k, d_v)], 2)
    return d_qkv.flatten(2), d_bias, along_q.sum((0, 2, 3))[:, None, None]


def fold(d_bias: Tensor, table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of `table`, given that of ``reference.expand(table, shape)``.

    Along an axis, the pair (i, j) belongs to the offset i - j: the key's position is reversed,
    each row shifted by its number, and the rows summed.
    """
    ndim = len(shape)
    pairs = d_bias.unflatten(2, shape).unflatten(1, shape)  # [h, m1, m2, ..., m1, m2, ...]
    pairs = pairs.flip(tuple(range(1 + ndim, 1 + 2 * ndim)))
    for axis, m in enumerate(shape):
        # (h, offsets so far, i, ..., j, ...) to (..., i, j)
        rows = pairs.movedim((1 + axis, 1 + ndim), (-2, -1))
        sheared = F.pad(rows, (0, m)).flatten(-2)[..., : m * (2 * m - 1)]
        offsets = sheared.unflatten(-1, (m, 2 * m - 1)).sum(-2)
        pairs = offsets.movedim(-1, 1 + axis)
    missing = [(e - n) // 2 for e, n in zip(table.shape[1:], pairs.shape[1:], strict=True)]
    return F.pad(pairs, [n for missed in reversed(missing) for n in (missed, missed)])
