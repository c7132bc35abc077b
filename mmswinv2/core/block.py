"""The res-post-norm transformer block (paper, section 3.2, figure 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import WindowAttention
from .patches import LayerNorm
from .windows import cut, join, window_grid

__all__ = ['MLP', 'Block', 'DropPath']


class DropPath(nn.Module):
    """Stochastic depth: drop a whole branch per sample, and scale up what is kept."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``(B, ...) -> (B, ...)``."""
        if not (self.training and self.rate):
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """Show the rate in the module's printout."""
        return f'rate={self.rate:.3f}'


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
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
        grid = window_grid(len(x), tuple(size), self.window, self.shift, x.device)
        attended = join(self.attn(cut(x, grid), grid), grid, size)
        x = x + self.drop_path(self.norm1(attended))
        x = x + self.drop_path(self.norm2(self.mlp(x)))
        return self.enorm(x)

    @torch.no_grad()
    def init_res_post_norm(self) -> None:
        """Start as the identity: both norms of the branches at zero, as in the authors' code."""
        for norm in (self.norm1, self.norm2):
            norm.weight.zero_()
            norm.bias.zero_()
