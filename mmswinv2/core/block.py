"""The res-post-norm transformer block (paper, section 3.2, figure 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops import WindowGrid
from ..ops.modes import autocast_dtype
from .attention import WindowAttention
from .layers import LayerNorm, is_plain, linear

Scales = tuple[Tensor | None, Tensor | None]  # factors of stochastic depth of the two branches


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
        extra_norm: whether a LayerNorm follows on the main branch (state-dict key `enorm`).
        windows_at_once: see `WindowAttention`.
    """

    attention: type[WindowAttention] = WindowAttention

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
        self.window, self.shifted = window, shifted
        self.attn = self.attention(
            dim, num_heads, pretrained_window, attn_drop, drop, windows_at_once
        )
        self.norm1 = LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)
        self.norm2 = LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.enorm = LayerNorm(dim) if extra_norm else nn.Identity()

    @property
    def shift(self) -> tuple[int, ...]:
        """Shift s along each axis, half a window or none."""
        return tuple(m // 2 if self.shifted else 0 for m in self.window)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *S, C) -> (B, *S, C)``."""
        return self.compute(x, self.grid(x))

    def grid(self, x: Tensor) -> WindowGrid:
        """The window grid of maps ``(B, *S, C)``.

        `torch.jit.trace` warns here that the traced graph is valid only for maps of this size.
        """
        size = tuple(x.shape[1:-1])
        if torch.jit.is_tracing():
            size = tuple(int(n) for n in size)
        return WindowGrid(size, self.window, self.shift)

    def compute(
        self, x: Tensor, grid: WindowGrid, table: Tensor | None = None, scales: Scales | None = None
    ) -> Tensor:
        """Compute both branches, ``(B, *S, C) -> (B, *S, C)``.

        Args:
            x: the map.
            grid: how it is cut into windows.
            table: see `WindowAttention.forward`.
            scales: see `draw_scales`; ``None``: draw them here.
        """
        first, second = self.draw_scales(x) if scales is None else scales
        x, cast = self._add(x, self.attn(x, grid, table), self.norm1, first, self._dtype_of_mlp(x))
        x, _ = self._add(x, self.mlp(cast), self.norm2, second)
        return self.enorm(x)

    def draw_scales(self, x: Tensor) -> Scales:
        """Draw the factors of stochastic depth of both branches, see `DropPath.draw`."""
        if not is_plain(self.drop_path, DropPath):  # `_add` calls it, and it draws by itself
            return None, None
        both = x.new_empty(2 * x.shape[0], *[1] * (x.ndim - 1))  # one draw in place of two
        drawn = self.drop_path.draw(both)
        if drawn is None:
            return None, None
        first, second = drawn.chunk(2)
        return first, second

    def _dtype_of_mlp(self, x: Tensor) -> torch.dtype | None:
        """The dtype to which autocast casts the input of the MLP first of all, if it does."""
        if is_plain(self.mlp, MLP) and is_plain(self.mlp.fc1, nn.Linear):
            return autocast_dtype(x)
        return None

    def _add(
        self,
        x: Tensor,
        y: Tensor,
        norm: LayerNorm,
        scale: Tensor | None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``x + drop_path(norm(y))``, see `ops.add_norm`."""
        drop_path = self.drop_path
        plain = is_plain(drop_path, DropPath)
        if plain and is_plain(norm, LayerNorm):
            return ops.add_norm(x, y, norm.weight, norm.bias, norm.eps, scale, dtype)
        x = x + (drop_path(norm(y), scale) if plain else drop_path(norm(y)))
        return x, x

    @torch.no_grad()
    def init_res_post_norm(self) -> None:
        """Start as the identity: both norms of the branches at zero, as in the authors' code."""
        for norm in (self.norm1, self.norm2):
            norm.weight.zero_()
            norm.bias.zero_()


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        x = linear(x, self.fc1)
        drops = self.drop.training and self.drop.p
        if is_plain(self.fc2, nn.Linear) and is_plain(self.drop, nn.Dropout) and not drops:
            return ops.gelu_linear(x, self.fc2.weight, self.fc2.bias)
        return self.drop(linear(self.drop(F.gelu(x)), self.fc2))


class DropPath(nn.Module):
    """Stochastic depth: drop a branch for whole samples, and scale it up for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """``(B, ...) -> (B, ...)``; `scale` are the factors of `draw`, if already drawn."""
        scale = self.draw(x) if scale is None else scale
        return x if scale is None else x * scale

    def draw(self, x: Tensor) -> Tensor | None:
        """Draw the factors ``(B, 1, ...)`` of the branch for each sample; ``None``: all are 1."""
        if not (self.training and self.rate):
            return None
        keep = 1 - self.rate
        return x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep) / keep

    def extra_repr(self) -> str:
        """Show the rate in the module's printout."""
        return f'rate={self.rate:.3f}'
