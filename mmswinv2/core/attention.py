"""Scaled cosine attention in windows (paper, section 3.3, equation 2).

``softmax(cos(q, k) / tau + B) v`` with tau learnt per head. Cosines are taken in float32, where
nothing underflows; the scores go through torch's fused attention. Training needs the gradient of
the bias, which the fused kernels lack, so there `_RecomputedAttention` runs the windows a few at a
time and recomputes their probabilities in backward (the paper's sequential self-attention,
section 3.5).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .position_bias import ContinuousPositionBias, expand
from .windows import WindowGrid

__all__ = ['WindowAttention', 'cosine_directions', 'window_attention', 'window_attention_reference']

MAX_LOGIT_SCALE = math.log(1 / 0.01)  # tau > 0.01
_TINY = 1e-5  # a vector shorter than this has no direction
_SCORES_AT_ONCE = 2**21  # scores (windows x heads x N x N) of one step of `_RecomputedAttention`


def cosine_directions(x: Tensor) -> Tensor:
    """Scale vectors ``(..., d)`` to length 1, in float32 (float64 stays).

    A vector of zeros has no direction: it stays zero, and so does its gradient. The usual division
    by ``max(length, 1e-12)`` multiplies that gradient by 1e12, which overflows in half precision.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    square = (x * x).sum(-1, keepdim=True)
    tiny = square < _TINY**2
    return x * torch.rsqrt(square.masked_fill(tiny, 1.0)).masked_fill(tiny, 0.0)


def window_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float = 0.0
) -> Tensor:
    """``dropout(softmax(q k^T + bias)) v``, written out; scores and softmax in float32.

    Args:
        q: ``(W, h, N, d)`` unit queries times the learnt scale.
        k: ``(W, h, N, d)`` unit keys.
        v: ``(W, h, N, d)`` values.
        bias: ``(h, N, N)``.
        dropout: share of the probabilities to drop.

    Returns:
        ``(W, h, N, d)``.
    """
    return F.dropout(_probabilities(q, k, bias).to(v.dtype), dropout) @ v


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float = 0.0) -> Tensor:
    """The same as `window_attention_reference`, on the fastest exact path."""
    if dropout:
        return window_attention_reference(q, k, v, bias, dropout)
    if torch.is_grad_enabled() and bias.requires_grad:
        return _RecomputedAttention.apply(q, k, v, bias)
    return _fused(q, k, v, bias)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    # torch takes no fused kernel where the mask requires a gradient, not even under no_grad
    mask = bias.detach().to(q.dtype)[None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    scores = q.to(bias.dtype) @ k.to(bias.dtype).transpose(-2, -1)
    return torch.softmax(scores + bias, dim=-1)


class _RecomputedAttention(torch.autograd.Function):
    """Attention that keeps q, k, v and the bias, but no probabilities, for backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        return _fused(q, k, v, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, bias = ctx.saved_tensors
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        d_bias = torch.zeros_like(bias)
        step = max(1, _SCORES_AT_ONCE // bias.numel())
        for start in range(0, len(q), step):
            some = slice(start, start + step)
            p = _probabilities(q[some], k[some], bias)
            d_out = grad[some]
            d_v[some] = p.to(v.dtype).transpose(-2, -1) @ d_out
            d_p = (d_out @ v[some].transpose(-2, -1)).to(p.dtype)
            d_p -= (d_p * p).sum(-1, keepdim=True)
            d_scores = d_p.mul_(p)
            d_bias += d_scores.sum(0)
            d_scores = d_scores.to(q.dtype)
            d_q[some] = d_scores @ k[some]
            d_k[some] = d_scores.transpose(-2, -1) @ q[some]
        return d_q, d_k, d_v, d_bias


class WindowAttention(nn.Module):
    """Multi-head scaled cosine attention inside the windows of a grid.

    q and v have a bias, k has none. State-dict keys are those of the authors' code.

    Args:
        dim: channels C.
        num_heads: heads h; C must be divisible by it.
        pretrained_window: see `ContinuousPositionBias`.
        attn_drop: dropout of the probabilities.
        proj_drop: dropout of the output.
        windows_at_once: at most so many windows attend at a time, which bounds the memory of their
            scores where no fused kernel fits; ``None``: all windows of one shape.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        pretrained_window: tuple[int, ...],
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        windows_at_once: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.windows_at_once = windows_at_once
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = ContinuousPositionBias(num_heads, pretrained_window)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """Attend inside each window.

        Args:
            x: ``(B * T, C)`` tokens ordered by `cut`.
            grid: the grid they were cut by.

        Returns:
            ``(B * T, C)``, in the same order.
        """
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias)
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()  # (h, 1, 1)
        table = self.cpb_mlp(grid.extent)
        dropout = self.attn_drop if self.training else 0.0
        out = []
        chunks = qkv.split(grid.tokens_per_group)
        for chunk, (shape, count) in zip(chunks, grid.groups, strict=True):
            bias = expand(table, shape)
            windows = chunk.view(count, math.prod(shape), 3, self.num_heads, -1)
            for some in windows.split(self.windows_at_once or count):
                q, k, v = some.permute(2, 0, 3, 1, 4).unbind(0)  # (W, h, N, d)
                q = (cosine_directions(q) * scale).to(v.dtype)
                k = cosine_directions(k).to(v.dtype)
                attended = window_attention(q, k, v, bias, dropout)
                out.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))  # (W * N, C)
        return self.proj_drop(self.proj(torch.cat(out)))
