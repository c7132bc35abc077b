"""The res-post-norm transformer block (paper, section 3.2, figure 1)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import WindowAttention, attention
from .chunks import Chunks, in_chunks, rows_at_once, suits_chunks
from .linear import Linear, linear, untouched
from .padded import exporting, padded_window_attention
from .patches import LayerNorm, layer_norm
from .windows import WindowGrid, cut, join, window_grid

__all__ = ['MLP', 'Block', 'DropPath']


class DropPath(nn.Module):
    """Stochastic depth: drop a whole branch per sample, and scale up what is kept."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ...) -> (B, ...)``."""
        scale = self.scale(x)
        return x if scale is None else x * scale

    def scale(self, x: Tensor) -> Tensor | None:
        """Draw what the branch of each sample is multiplied by, ``(B, 1, ...)``; ``None``: 1."""
        if not (self.training and self.rate):
            return None
        keep = 1 - self.rate
        return x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        """Show the rate in the module's printout."""
        return f'rate={self.rate:.3f}'


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """``x = x + LN(attention(x))``, then ``x = x + LN(MLP(x))``.

    Args:
        dim: channels C.
        num_heads: heads h.
        window: window M along each axis.
        pretrained_window: see `ContinuousPositionBias`.
        shifted: whether windows are shifted by half.
        mlp_ratio: hidden width of the MLP over C.
        drop: dropout of the projections.
        attn_drop: dropout of the attention probabilities.
        drop_path: rate of stochastic depth.
        extra_norm: whether a LayerNorm on the main branch follows (key `enorm`).
        windows_at_once: see `WindowAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: tuple[int, ...],
        pretrained_window: tuple[int, ...],
        shifted: bool,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        extra_norm: bool = False,
        windows_at_once: int | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = tuple(m // 2 if shifted else 0 for m in window)
        self.attn = WindowAttention(
            dim, num_heads, pretrained_window, attn_drop, drop, windows_at_once
        )
        self.norm1 = LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)
        self.norm2 = LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.enorm = LayerNorm(dim) if extra_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *S, C) -> (B, *S, C)``."""
        size = x.shape[1:-1]
        if exporting():
            if self.training:
                raise RuntimeError('a network in training cannot be exported; call eval() first')
            attended = padded_window_attention(self.attn, x, self.window, self.shift)
            x = x + self.norm1(attended)
            return self.enorm(x + self.norm2(self.mlp(x)))
        if torch.jit.is_tracing():
            raise RuntimeError(
                'torch.jit.trace would fix the size of the image; use torch.export inside '
                'mmswinv2.core.padded.any_size()'
            )
        grid = window_grid(len(x), tuple(size), self.window, self.shift, x.device)
        if suits_chunks(x) and self._is_plain():
            return self.enorm(self._in_chunks(x, grid))
        attended = join(self.attn(cut(x, grid), grid), grid, size)
        x = x + self.drop_path(self.norm1(attended))
        x = x + self.drop_path(self.norm2(self.mlp(x)))
        return self.enorm(x)

    def _is_plain(self) -> bool:
        """Whether the branches are what their weights say: no dropout, hook or other layer."""
        attn, mlp = self.attn, self.mlp
        return (
            untouched(attn, WindowAttention)
            and untouched(mlp, MLP)
            and all(untouched(norm, LayerNorm) for norm in (self.norm1, self.norm2))
            and untouched(self.drop_path, DropPath)
            and all(untouched(m, Linear) for m in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2))
            and all(untouched(m, nn.Dropout) for m in (attn.proj_drop, mlp.drop))
            and not any(m.training and m.p for m in (attn.proj_drop, mlp.drop))
            and not (attn.training and attn.attn_drop)
        )

    def _in_chunks(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """Both branches, chunk by chunk; the same numbers to rounding."""
        attn, mlp = self.attn, self.mlp
        shape, tokens = x.shape, x.flatten(0, -2)
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None
        weights = [attn.qkv.weight, attn.qkv_bias(), attn.proj.weight, attn.proj.bias]
        tensors = [*_cast(weights, dtype), attn.scale(), self.norm1.weight, self.norm1.bias]
        tokens = in_chunks(
            partial(_attention_branch, eps=self.norm1.eps),
            tokens,
            self._scale_of_tokens(x),
            _chunks_of_windows(grid, attn.windows_at_once, len(tensors)),
            [*tensors, *attn.biases(grid)],
        )
        weights = [mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias]
        tensors = [*_cast(weights, dtype), self.norm2.weight, self.norm2.bias]
        step = rows_at_once()
        tokens = in_chunks(
            partial(_mlp_branch, eps=self.norm2.eps),
            tokens,
            self._scale_of_tokens(x),
            [(slice(i, i + step), range(len(tensors))) for i in range(0, len(tokens), step)],
            tensors,
        )
        return tokens.view(shape)

    def _scale_of_tokens(self, x: Tensor) -> Tensor | None:
        scale = self.drop_path.scale(x)
        return None if scale is None else scale.expand(*x.shape[:-1], 1).reshape(-1, 1)

    @torch.no_grad()
    def init_res_post_norm(self) -> None:
        """Start as the identity: both norms of the branches at zero, as in the authors' code."""
        for norm in (self.norm1, self.norm2):
            norm.weight.zero_()
            norm.bias.zero_()


def _attention_branch(
    x: Tensor, branch_scale: Tensor | None, qkv_weight: Tensor, qkv_bias: Tensor,
    proj_weight: Tensor, proj_bias: Tensor, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor,
    bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    qkv = linear(x.to(qkv_weight.dtype), qkv_weight, qkv_bias)
    y = linear(attention(qkv, scale, bias), proj_weight, proj_bias)
    y = layer_norm(y, norm_weight, norm_bias, eps)
    return x + (y if branch_scale is None else y * branch_scale)


def _mlp_branch(
    x: Tensor, branch_scale: Tensor | None, weight1: Tensor, bias1: Tensor, weight2: Tensor,
    bias2: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    y = F.gelu(linear(x.to(weight1.dtype), weight1, bias1))
    y = layer_norm(linear(y, weight2, bias2), norm_weight, norm_bias, eps)
    return x + (y if branch_scale is None else y * branch_scale)


def _cast(tensors: list[Tensor], dtype: torch.dtype | None) -> list[Tensor]:
    """As autocast would: all but float64."""
    if dtype is None:
        return tensors
    return [t if t.dtype == torch.float64 else t.to(dtype) for t in tensors]


def _chunks_of_windows(grid: WindowGrid, windows_at_once: int | None, first: int) -> Chunks:
    """Chunks of whole windows of one shape, and their tensors: the `first` ones and its bias."""
    chunks: list[Any] = []
    start = 0
    for group, (shape, count) in enumerate(grid.groups):
        n = math.prod(shape)
        windows = max(1, rows_at_once() // n)
        step = n * min(windows, windows_at_once or windows)
        end = start + n * count
        numbers = (*range(first), first + group)
        chunks += [(grid.order[i : min(i + step, end)], numbers) for i in range(start, end, step)]
        start = end
    return chunks
