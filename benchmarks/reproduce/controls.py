"""What SwinV2 is compared with: the block of Swin V1, and other position biases."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmswinv2.core.attention import ContinuousPositionBias, WindowAttention
from mmswinv2.core.block import Block
from mmswinv2.ops import WindowGrid
from mmswinv2.ops.reference import expand, split_heads
from mmswinv2.ops.windows import cut, join


class LearntTable(nn.Module):
    """A learnt bias for each offset, as in Swin V1; for another window by bicubic interpolation."""

    scale = 1.0  # bias over parameter

    def __init__(self, num_heads: int, window: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(num_heads, *(2 * m - 1 for m in window)))
        nn.init.trunc_normal_(self.table, std=0.02 / self.scale)

    def forward(self, window: tuple[int, ...], like: Tensor | None = None) -> Tensor:
        """``(h, 2 M1 - 1, 2 M2 - 1)``."""
        size = tuple(2 * m - 1 for m in window)
        table = self.table * self.scale
        if size == table.shape[1:]:
            return table
        return F.interpolate(table[None], size, mode='bicubic')[0]


class FastTable(LearntTable):
    """The same at ten times the learning rate: AdamW moves a parameter by no more than its rate."""

    scale = 10.0


class LinearBias(ContinuousPositionBias):
    """SwinV2's, of the offsets themselves: -1 to 1 at the window of the pre-training."""

    def forward(self, window: tuple[int, ...], like: Tensor | None = None) -> Tensor:
        """``(h, 2 M1 - 1, 2 M2 - 1)``."""
        device = self[0].weight.device
        axes = [
            torch.arange(1 - m, m, device=device) / (w - 1)
            for m, w in zip(window, self.pretrained_window, strict=True)
        ]
        x = torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1)
        return 16 * torch.sigmoid(nn.Sequential.forward(self, x)).movedim(-1, 0)


class NoBias(nn.Module):
    """Zero for every offset: attention that does not know where a token is."""

    def __init__(self, num_heads: int, window: tuple[int, ...]) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, window: tuple[int, ...], like: Tensor) -> Tensor:
        """``(h, 2 M1 - 1, 2 M2 - 1)``."""
        return like.new_zeros(self.num_heads, *(2 * m - 1 for m in window))


def block_with(bias: type[nn.Module]) -> type[Block]:
    """SwinV2's block with another position bias."""

    class Attention(WindowAttention):
        def __init__(
            self, dim: int, num_heads: int, pretrained_window: tuple[int, ...], *args: Any
        ) -> None:
            super().__init__(dim, num_heads, pretrained_window, *args)
            self.cpb_mlp = bias(num_heads, pretrained_window)

    class OtherBias(Block):
        attention = Attention

    return OtherBias


def dot_product(
    qkv: Tensor, grid: WindowGrid, table: Tensor, scale: Tensor, *unused: Any
) -> Tensor:
    """``softmax(q k / sqrt(d) + B) v`` in the windows of a grid; `scale` gives the heads alone."""
    outs = []
    for windows, shape in cut(qkv, grid):
        q, k, v = split_heads(windows, len(scale))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + expand(table, shape)
        outs.append((scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2))
    return join(outs, grid)


class PreNormBlock(block_with(LearntTable)):  # type: ignore[misc]
    """Swin V1's: ``x + attention(LN(x))``, then ``x + MLP(LN(x))``; dot products, a learnt table.

    The key has no bias; in V1 it has one, which cancels in the softmax.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attn.attend = dot_product

    def compute(
        self, x: Tensor, grid: WindowGrid, table: Tensor | None = None, scales: Any = None
    ) -> Tensor:
        """Both branches."""
        x = x + self.attn(self.norm1(x), grid, table)
        return x + self.mlp(self.norm2(x))

    def init_res_post_norm(self) -> None:
        """Norms start at one: there is nothing to do."""
