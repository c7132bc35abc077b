"""Window attention through torch's fused attention, on any device.

Torch's kernels have no gradient for a bias, so in training a function stands around them: it keeps
queries, keys and values as they came, and its backward pass computes directions and probabilities
again, a few windows at a time.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import flop_counter

from .reference import cosine_directions, expand, inverse_lengths, split_heads
from .windows import WindowGrid, from_windows, join_runs, split_runs, to_windows, windows_first

# scores (windows x heads x N x N) of one step of backward, which should fit a CPU's caches
_SCORES_AT_ONCE, _SCORES_AT_ONCE_ELSEWHERE = 2**21, 2**26

_CPU_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if _CPU_KERNEL not in flop_counter.flop_registry:  # torch counts its kernels of GPUs alone

    @flop_counter.register_flop_formula(_CPU_KERNEL)
    def _cpu_kernel_flop(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(q, k, v)


def fits_attend(qkv: Tensor, table: Tensor, scale: Tensor, dropout: float) -> bool:
    """Any tensors, but dropped probabilities could not be computed again.

    Nor under `torch.jit.trace`, whose graph would lack the gradients, nor under `torch.func`, which
    goes through torch's kernel sample by sample.
    """
    watched = torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return not dropout and not watched


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """See `mmswinv2.ops.attend`."""
    if _wants_gradient(qkv, table, scale):
        out: Tensor = _Attend.apply(qkv, table, scale, grid, windows_at_once)
        return out
    return _forward(qkv, table, scale, grid, windows_at_once)


def _wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _forward(
    qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
) -> Tensor:
    outs = []
    for box, runs in zip(split_runs(qkv, grid), product(*grid.runs), strict=True):
        windows, bias = to_windows(box, runs), expand(table, tuple(size for size, _ in runs))
        # torch takes no fused kernel where the mask requires a gradient, not even under no_grad
        mask = bias.detach().to(windows.dtype)[None]
        outs.append([_fused(some, scale, mask) for some in windows.split(at_once or len(windows))])
    return _join(outs, grid)


def _fused(windows: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    """``(W, N, 3 C)`` to ``(W, N, C)``."""
    q, k, v = split_heads(windows, len(scale))
    q = (cosine_directions(q) * scale).to(v.dtype)
    k = cosine_directions(k).to(v.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return out.transpose(1, 2).flatten(2)


def _join(outs: list[list[Tensor]], grid: WindowGrid) -> Tensor:
    """Windows ``(W, N, C)`` of each box, in parts, to a map ``(B, *S, C)``."""
    boxes = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in outs]
    all_runs = list(product(*grid.runs))
    if torch.is_grad_enabled():  # for second derivatives
        return join_runs(
            [from_windows(w, runs) for w, runs in zip(boxes, all_runs, strict=True)], grid
        )
    count = torch.Size(n for _, n in all_runs[0]).numel()
    out = boxes[0].new_empty(len(boxes[0]) // count, *grid.size, boxes[0].shape[-1])
    for windows, box, runs in zip(boxes, split_runs(out, grid), all_runs, strict=True):
        view = windows_first(box, runs)
        view.copy_(windows.view(view.shape))  # one copy, where joining makes one for each axis
    return out


class _Attend(torch.autograd.Function):
    """Attention that keeps its inputs alone for backward."""

    @staticmethod
    def forward(
        qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
    ) -> Tensor:
        return _forward(qkv, table, scale, grid, at_once)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.grid, ctx.at_once = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, table, scale = ctx.saved_tensors
        return (*_backward(grad, qkv, table, scale, ctx.grid, ctx.at_once), None, None)


def _backward(
    grad: Tensor, qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, table and scale."""
    d_qkv: list[list[Tensor]] = []
    d_table, d_scale = torch.zeros_like(table), torch.zeros_like(scale, dtype=table.dtype)
    limit = _SCORES_AT_ONCE if qkv.device.type == 'cpu' else _SCORES_AT_ONCE_ELSEWHERE
    boxes = (split_runs(t, grid) for t in (qkv, grad))
    for box, d_out_box, runs in zip(*boxes, product(*grid.runs), strict=True):
        windows, d_out = to_windows(box, runs), to_windows(d_out_box, runs)
        bias = expand(table, tuple(size for size, _ in runs))
        step = min(max(1, limit // bias.numel()), at_once or len(windows))
        d_bias = torch.zeros_like(bias)
        d_qkv.append([])
        for some, d_some in zip(windows.split(step), d_out.split(step), strict=True):
            d_windows, d_bias_part, d_scale_part = _window_gradients(some, d_some, scale, bias)
            d_bias, d_scale = d_bias + d_bias_part, d_scale + d_scale_part
            d_qkv[-1].append(d_windows)
        d_table = d_table + _fold(d_bias, table, tuple(size for size, _ in runs))
    return _join(d_qkv, grid), d_table, d_scale.to(scale.dtype)


def _window_gradients(
    windows: Tensor, d_out: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``(W, N, 3 C)`` windows, of the bias ``(h, N, N)`` and the scale."""
    q, k, v = split_heads(windows, len(scale))
    d_out = d_out.unflatten(-1, (len(scale), -1)).transpose(1, 2)  # [W, h, N, d]
    unit_q, unit_k = cosine_directions(q), cosine_directions(k)
    scaled_q, half_k = (unit_q * scale).to(v.dtype), unit_k.to(v.dtype)
    scores = scaled_q.to(bias.dtype) @ half_k.to(bias.dtype).transpose(-2, -1)
    p = torch.softmax(scores + bias, dim=-1)
    d_v = p.to(v.dtype).transpose(-2, -1) @ d_out
    d_p = (d_out @ v.transpose(-2, -1)).to(p.dtype)
    d_scores = (d_p - (d_p * p).sum(-1, keepdim=True)) * p
    d_bias = d_scores.sum(0)
    d_scores = d_scores.to(v.dtype)
    d_unit_q = (d_scores @ half_k).to(unit_q.dtype)
    d_unit_k = (d_scores.transpose(-2, -1) @ scaled_q).to(unit_k.dtype)
    d_scale = (d_unit_q * unit_q).sum((0, 2, 3))[:, None, None]
    d_q = _through_direction(d_unit_q * scale, q, unit_q)
    d_k = _through_direction(d_unit_k, k, unit_k)
    heads = torch.stack([d.to(windows.dtype).transpose(1, 2) for d in (d_q, d_k, d_v)], dim=2)
    return heads.flatten(2), d_bias, d_scale  # [W, N, 3, h, d]


def _through_direction(d_unit: Tensor, x: Tensor, unit: Tensor) -> Tensor:
    """Gradient of x, given that of its direction."""
    across = d_unit - unit * (d_unit * unit).sum(-1, keepdim=True)
    return across * inverse_lengths(x.to(unit.dtype))


def _fold(d_bias: Tensor, table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The gradient of `table`, given that of ``expand(table, shape)``.

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
