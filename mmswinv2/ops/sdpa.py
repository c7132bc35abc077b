"""Window attention through torch's fused attention, on any device.

Each group of windows of one size is one call; backward (see `recompute`) takes a few at a time.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import flop_counter

from .recompute import attention, can_recompute
from .reference import cosine_directions, expand, fold, window_gradients
from .windows import WindowGrid, cut, join, split_runs, windows_first

# scores (windows x heads x N x N) of one step of backward, which should fit a CPU's caches
_SCORES_AT_ONCE = 2**20

_CPU_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if _CPU_KERNEL not in flop_counter.flop_registry:  # torch counts only its GPU kernels

    @flop_counter.register_flop_formula(_CPU_KERNEL)
    def _cpu_kernel_flop(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(q, k, v)


def fits_attend(qkv: Tensor, table: Tensor, scale: Tensor, dropout: float) -> bool:
    """Any tensors; see `recompute.can_recompute`."""
    return can_recompute(dropout)


def _forward(
    qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
) -> Tensor:
    outs = []
    for windows, shape in cut(qkv, grid):
        bias = expand(table, shape)
        # torch's CPU kernel takes a float32 mask with half precision, where a cast would round it,
        # but with float64 tensors it reads such a mask as float64
        as_is = windows.device.type == 'cpu' and windows.dtype != torch.float64
        mask = (bias if as_is else bias.to(windows.dtype))[None]
        outs.append(
            [_fused(chunk, scale, mask) for chunk in windows.split(at_once or len(windows))]
        )
    return _join(outs, grid)


def _fused(windows: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    """``(W, N, 3 C)`` to ``(W, N, C)``."""
    qkv = windows.unflatten(-1, (3, len(scale), -1))  # [W, N, 3, h, d]
    scales = torch.stack([scale, torch.ones_like(scale)]).flatten(2)  # [2, h, 1]
    directions = cosine_directions(qkv[:, :, :2], scales).to(qkv.dtype)  # q and k in one pass
    q, k, v = (t.transpose(1, 2) for t in (*directions.unbind(2), qkv[:, :, 2]))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return out.transpose(1, 2).flatten(2)


def _join(outs: list[list[Tensor]], grid: WindowGrid) -> Tensor:
    """Windows ``(W, N, C)`` of each box, in parts, to a map ``(B, *S, C)``."""
    boxes = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in outs]
    if torch.is_grad_enabled():  # differentiable, for second derivatives
        return join(boxes, grid)
    all_runs = list(product(*grid.runs))
    count = torch.Size(n for _, n in all_runs[0]).numel()
    out = boxes[0].new_empty(len(boxes[0]) // count, *grid.size, boxes[0].shape[-1])
    for windows, box, runs in zip(boxes, split_runs(out, grid), all_runs, strict=True):
        view = windows_first(box, runs)
        view.copy_(windows.view(view.shape))  # one copy; `join` makes one for each axis
    return out


def _backward(
    grad: Tensor, qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, table and scale."""
    d_qkv: list[list[Tensor]] = []
    d_table, d_scale = torch.zeros_like(table), torch.zeros_like(scale)
    for (windows, shape), (d_out, _) in zip(cut(qkv, grid), cut(grad, grid), strict=True):
        bias = expand(table, shape)
        step = min(max(1, _SCORES_AT_ONCE // bias.numel()), at_once or len(windows))
        d_bias = torch.zeros_like(bias)
        d_qkv.append([])
        for chunk, d_chunk in zip(windows.split(step), d_out.split(step), strict=True):
            d_windows, d_bias_part, d_scale_part = window_gradients(chunk, d_chunk, scale, bias)
            d_bias, d_scale = d_bias + d_bias_part, d_scale + d_scale_part
            d_qkv[-1].append(d_windows)
        d_table = d_table + fold(d_bias, table, shape)
    return _join(d_qkv, grid), d_table, d_scale


attend = attention(_forward, _backward)
