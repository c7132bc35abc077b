"""Scaled cosine attention in windows, with a log-spaced continuous position bias.

Paper, section 3.3: ``softmax(cos(q, k) / tau + B) v`` with tau learnt per head (equation 2). A
small MLP maps the offset between two tokens to the bias B per head (equations 3 and 4), so that the
window may differ from the one the weights were trained with. The biases of all offsets in a window
form a table ``(h, 2 M1 - 1, 2 M2 - 1, ...)``.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..ops import WindowGrid
from ..ops.modes import without_autocast
from .layers import is_plain, linear

_HIDDEN = 512
_LAYERS = (nn.Linear, nn.ReLU, nn.Linear)


class WindowAttention(nn.Module):
    """Multi-head scaled cosine attention inside the windows of a grid.

    q and v have a bias, k has none. State-dict keys are those of the authors' code.

    Args:
        dim: channels C.
        num_heads: heads h; C must be divisible by it.
        pretrained_window: see `ContinuousPositionBias`.
        attn_drop: dropout of the probabilities.
        proj_drop: dropout of the output.
        windows_at_once: maximum number of windows that attend at a time, which bounds the memory
            of their scores where no fused kernel is used; ``None``: no bound.
    """

    attend = staticmethod(ops.attend)

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
        self.q_bias = nn.Parameter(torch.empty(dim))
        self.v_bias = nn.Parameter(torch.empty(dim))
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.cpb_mlp = ContinuousPositionBias(num_heads, pretrained_window)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the biases with 0 and tau with 1 / 10; the layers initialise themselves."""
        nn.init.zeros_(self.q_bias)
        nn.init.zeros_(self.v_bias)
        nn.init.constant_(self.logit_scale, math.log(10))

    def forward(self, x: Tensor, grid: WindowGrid, table: Tensor | None = None) -> Tensor:
        """Attend inside each window.

        Args:
            x: ``(B, *S, C)``.
            grid: how the map is cut into windows.
            table: the position bias if already computed, see `table`; ``None``: compute it.

        Returns:
            ``(B, *S, C)``.
        """
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = linear(x, self.qkv, bias)
        # 1 / tau, with tau > 0.01; no constant of the module, as torch 2.13 does not compile those
        # for any size under activation checkpointing
        scale = self.logit_scale.clamp(max=math.log(1 / 0.01)).exp()
        table = self.table(grid) if table is None else table
        dropout = self.attn_drop if self.training else 0.0
        out = self.attend(qkv, grid, table, scale, dropout, self.windows_at_once)
        return self.proj_drop(linear(out, self.proj))

    def table(self, grid: WindowGrid) -> Tensor:
        """The position bias of all offsets in the windows of a grid, ``(h, 2 E1 - 1, ...)``."""
        return self.cpb_mlp(grid.extent, self.logit_scale.detach())


class ContinuousPositionBias(nn.Sequential):
    """The MLP of the position bias: Linear(ndim, 512), ReLU, Linear(512, heads), 16 sigmoid.

    Computed in float32 or better, regardless of autocast.

    Args:
        num_heads: heads h.
        pretrained_window: the window the weights were (or will be) trained with, per axis.
    """

    def __init__(self, num_heads: int, pretrained_window: tuple[int, ...]) -> None:
        super().__init__(
            nn.Linear(len(pretrained_window), _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, num_heads, bias=False),
        )
        self.pretrained_window = pretrained_window

    def forward(self, window: tuple[int, ...], like: Tensor | None = None) -> Tensor:
        """Make the table of a window.

        Args:
            window: ``(M1, ...)``.
            like: a tensor with the device and dtype to use if the weights are quantized;
                ``None``: take them from the weights.

        Returns:
            ``(h, 2 M1 - 1, ...)``.
        """
        weights: tuple[Tensor, ...] = ()
        if all(is_plain(m, kind) for m, kind in zip(self, _LAYERS, strict=False)):
            first, last = cast(nn.Linear, self[0]), cast(nn.Linear, self[2])
            weights = first.weight, first.bias, last.weight
            table = ops.position_bias(*weights, window, self.pretrained_window)
            if table is not None:
                return table
        like = next(self.parameters()) if like is None else like
        dtype = torch.promote_types(like.dtype, torch.float32)
        x = log_coordinates(window, self.pretrained_window, dtype, like.device)
        with without_autocast(like.device):
            if weights:  # cast, as they may be in half precision
                weight, shift, last_weight = (w.to(dtype) for w in weights)
                x = F.linear(F.relu(F.linear(x, weight, shift)), last_weight)
            else:
                x = super().forward(x.to(like.dtype))
        # not movedim(-1, 0): torch's older exporter to ONNX writes the -1 into the file
        return 16 * torch.sigmoid(x.to(dtype)).movedim(x.ndim - 1, 0)


def log_coordinates(
    window: tuple[int, ...],
    pretrained: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Log-spaced coordinates of all offsets in a window (equation 4, with the authors' scaling).

    ``sign(u) log2(1 + |u|) / log2(8)`` with ``u = 8 d / (w_p - 1)`` for offsets d from -(M-1) to
    M-1. The divisor is the window of the *pre-training*, whatever the present window is.

    Args:
        window: M along each axis.
        pretrained: w_p along each axis.
        dtype: dtype of the table.
        device: where to make the table.

    Returns:
        ``(2 M1 - 1, 2 M2 - 1, ..., ndim)``.
    """
    axes: dict[tuple[int, int], Tensor] = {}
    for m, w in zip(window, pretrained, strict=True):
        if (m, w) not in axes:
            distance = torch.arange(1 - m, m, dtype=dtype, device=device)
            size = torch.log1p(distance.abs() * (8 / max(w - 1, 1))) / math.log(8)
            axes[m, w] = size * distance.sign()
    grids = torch.meshgrid(*(axes[a] for a in zip(window, pretrained, strict=True)), indexing='ij')
    return torch.stack(grids, dim=-1)
