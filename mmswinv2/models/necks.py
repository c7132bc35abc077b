"""Necks."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..checks import is_count, want
from ..core.arguments import want_mlp, want_rate
from ..core.block import MLP, DropPath
from ..core.layers import LayerNorm
from ..errors import UserError
from ..registry import MODELS


@MODELS.register_module()
class GlobalSelfAttention(BaseModule):
    """One transformer block over all positions of the last level; the others pass unchanged.

    HTC++ appends "an extra global self-attention layer" to the backbone (Swin Transformer, arXiv
    2103.14030, appendix A2.2). Its code was not released; attention and MLP, each after a
    LayerNorm, give the detector the parameter count that the authors report. To be put before the
    FPN::

        neck=[dict(type='mmswinv2.GlobalSelfAttention', in_channels=1024), dict(type='FPN', ...)]

    Args:
        in_channels: channels C of the last level.
        num_heads: heads; ``None`` means heads of width 32, as in the backbone.
        mlp_ratio: hidden width of the MLP over C.
        drop_path_rate: stochastic depth.
        init_cfg: mmengine's.

    Raises:
        UserError: if a number is invalid, C is not divisible by the heads, or the last level does
            not have C channels.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        want('in_channels', in_channels, 'an int of at least 1', is_count(in_channels))
        heads = num_heads is None or is_count(num_heads)
        want('num_heads', num_heads, 'an int of at least 1, or None', heads)
        want_mlp(mlp_ratio, in_channels)
        want_rate('drop_path_rate', drop_path_rate)
        self.num_heads = max(in_channels // 32, 1) if num_heads is None else num_heads
        if in_channels % self.num_heads:
            raise UserError(
                f'in_channels must be divisible by num_heads, got {in_channels} and '
                f'{self.num_heads}; set num_heads'
            )
        self.norm1 = LayerNorm(in_channels)
        self.qkv = nn.Linear(in_channels, 3 * in_channels)
        self.proj = nn.Linear(in_channels, in_channels)
        self.norm2 = LayerNorm(in_channels)
        self.mlp = MLP(in_channels, int(in_channels * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map the levels ``(B, C_i, H_i, W_i)`` to levels of the same shapes."""
        *others, last = inputs
        channels = self.proj.in_features
        if last.shape[1] != channels:
            raise UserError(
                f'the last level has {last.shape[1]} channels and in_channels={channels}; '
                'in_channels must be that of the last output of the backbone'
            )
        x = last.flatten(2).transpose(1, 2)  # [B, N, C]
        x = x + self.drop_path(self._attention(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return *others, x.transpose(1, 2).reshape(last.shape)

    def _attention(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, N, 3, h, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x [B, h, N, d]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))
