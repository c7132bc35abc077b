"""Scaled cosine attention in windows (paper, section 3.3, equation 2).

``softmax(cos(q, k) / tau + B) v`` with tau learnt per head. Cosines are taken in float32, where
nothing underflows; the scores go through torch's fused attention. That has no gradient for the
bias, so in training `_Attention` stands around it: it keeps queries, keys and values as they came,
and in backward computes directions and probabilities again, a few windows at a time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .linear import Linear, linear, untouched
from .position_bias import ContinuousPositionBias, expand
from .windows import WindowGrid

__all__ = ['WindowAttention', 'attention', 'attention_reference', 'cosine_directions']

MAX_LOGIT_SCALE = math.log(1 / 0.01)  # tau > 0.01
_TINY = 1e-5  # a vector shorter than this has no direction
_SCORES_AT_ONCE = 2**21  # scores (windows x heads x N x N) of one step of backward


def cosine_directions(x: Tensor) -> Tensor:
    """Scale vectors ``(..., d)`` to length 1, in float32 (float64 stays).

    A vector of zeros has no direction: it stays zero, and so does its gradient. The usual division
    by ``max(length, 1e-12)`` multiplies that gradient by 1e12, which overflows in half precision.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * _inverse_lengths(x)


def _inverse_lengths(x: Tensor) -> Tensor:
    square = x.square().sum(-1, keepdim=True)
    return square.masked_fill(square < _TINY**2, torch.inf).rsqrt()


def attention_reference(qkv: Tensor, scale: Tensor, bias: Tensor, dropout: float = 0.0) -> Tensor:
    """The same as `attention`, written out; scores and softmax in float32.

    Args:
        qkv: ``(W * N, 3 C)`` queries, keys and values, window by window.
        scale: ``(h, 1, 1)`` 1 / tau.
        bias: ``(h, N, N)``.
        dropout: share of the probabilities to drop.

    Returns:
        ``(W * N, C)``.
    """
    q, k, v = _heads(qkv, bias)
    q, k = cosine_directions(q) * scale, cosine_directions(k)
    probabilities = _probabilities(q.to(v.dtype), k.to(v.dtype), bias)
    return _tokens(F.dropout(probabilities.to(v.dtype), dropout) @ v)


def attention(qkv: Tensor, scale: Tensor, bias: Tensor, dropout: float = 0.0) -> Tensor:
    """Scaled cosine attention inside windows of one shape, on the fastest exact path.

    Arguments and result are those of `attention_reference`.
    """
    if dropout:
        return attention_reference(qkv, scale, bias, dropout)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (qkv, scale, bias)):
        return _Attention.apply(qkv, scale, bias)
    return _fused(qkv, scale, bias)


def _fused(qkv: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    q, k, v = _heads(qkv, bias)
    q = (cosine_directions(q) * scale).to(v.dtype)
    k = cosine_directions(k).to(v.dtype)
    # torch takes no fused kernel where the mask requires a gradient, not even under no_grad
    mask = bias.detach().to(v.dtype)[None]
    return _tokens(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0))


def _heads(qkv: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """``(W * N, 3 C)`` to q, k, v: views of ``(W, h, N, d)``."""
    heads, n, _ = bias.shape
    return qkv.view(-1, n, 3, heads, qkv.shape[-1] // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def _tokens(x: Tensor) -> Tensor:
    """``(W, h, N, d)`` to ``(W * N, C)``."""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    scores = q.to(bias.dtype) @ k.to(bias.dtype).transpose(-2, -1)
    return torch.softmax(scores + bias, dim=-1)


class _Attention(torch.autograd.Function):
    """Attention that keeps its inputs alone for backward."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(qkv, scale, bias)
        return _fused(qkv, scale, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv, scale, bias = ctx.saved_tensors
        d_qkv, d_bias = torch.empty_like(qkv), torch.zeros_like(bias)
        d_scale = torch.zeros_like(scale, dtype=bias.dtype)
        step = max(1, _SCORES_AT_ONCE // bias.numel()) * bias.shape[-1]
        for start in range(0, len(qkv), step):
            some = slice(start, start + step)
            q, k, v = _heads(qkv[some], bias)
            d_q, d_k, d_v = _heads(d_qkv[some], bias)
            d_out = grad[some].unflatten(0, (q.shape[0], -1)).unflatten(2, (q.shape[1], -1))
            d_out = d_out.transpose(1, 2)
            unit_q, unit_k = cosine_directions(q), cosine_directions(k)
            scaled_q, half_k = (unit_q * scale).to(v.dtype), unit_k.to(v.dtype)
            p = _probabilities(scaled_q, half_k, bias)
            d_v.copy_(p.to(v.dtype).transpose(-2, -1) @ d_out)
            d_p = (d_out @ v.transpose(-2, -1)).to(p.dtype)
            d_p -= (d_p * p).sum(-1, keepdim=True)
            d_scores = d_p.mul_(p)
            d_bias += d_scores.sum(0)
            d_scores = d_scores.to(v.dtype)
            d_unit_q = (d_scores @ half_k).to(unit_q.dtype)
            d_unit_k = (d_scores.transpose(-2, -1) @ scaled_q).to(unit_k.dtype)
            d_scale += (d_unit_q * unit_q).sum((0, 2, 3))[:, None, None]
            d_q.copy_(_through_direction(d_unit_q * scale, q, unit_q))
            d_k.copy_(_through_direction(d_unit_k, k, unit_k))
        return d_qkv, d_scale.to(scale.dtype), d_bias


def _through_direction(d_unit: Tensor, x: Tensor, unit: Tensor) -> Tensor:
    """Gradient of x, given that of its direction."""
    across = d_unit - unit * (d_unit * unit).sum(-1, keepdim=True)
    return across * _inverse_lengths(x.to(unit.dtype))


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
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = ContinuousPositionBias(num_heads, pretrained_window)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """Attend inside each window.

        Args:
            x: ``(B * T, C)`` tokens ordered by `cut`.
            grid: the grid they were cut by.

        Returns:
            ``(B * T, C)``, in the same order.
        """
        qkv = self.project(x)
        scale = self.scale()
        dropout = self.attn_drop if self.training else 0.0
        out = []
        chunks = qkv.split(grid.tokens_per_group)
        for chunk, (shape, count), bias in zip(chunks, grid.groups, self.biases(grid), strict=True):
            for some in chunk.split((self.windows_at_once or count) * math.prod(shape)):
                out.append(attention(some, scale, bias, dropout))
        return self.proj_drop(self.proj(torch.cat(out)))

    def project(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., 3 C)``; a layer in the place of `qkv` is called."""
        if untouched(self.qkv, Linear):
            return linear(x, self.qkv.weight, self.qkv_bias())
        qkv = self.qkv(x)
        return qkv + self.qkv_bias().to(qkv.dtype)

    def qkv_bias(self) -> Tensor:
        """``(3 C,)``; k has none."""
        return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])

    def scale(self) -> Tensor:
        """1 / tau of each head, ``(h, 1, 1)``."""
        return self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()

    def biases(self, grid: WindowGrid) -> list[Tensor]:
        """The position bias ``(h, N, N)`` of each group of windows."""
        table = self.cpb_mlp(grid.extent)
        return [expand(table, shape) for shape, _ in grid.groups]
