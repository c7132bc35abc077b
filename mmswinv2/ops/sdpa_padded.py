"""Window attention as one call of torch's fused attention, for GPUs without Triton.

On a GPU a launch costs more than the work on a few windows, so here all windows have one size: the
map is padded with zeros, and keys in the padding are masked. A mask for every window would be as
large as the scores. Instead, queries get a channel of ones, and keys get a channel that is 0 on the
map and -1e4 in the padding, so that no query attends to the padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .recompute import attention, can_recompute
from .reference import cosine_directions, expand, fold, window_gradients
from .windows import Runs, WindowGrid, cover, from_windows, to_windows

_HIDDEN = -1e4  # representable in half precision
_MARKS = 8  # channels added; the fused kernels need a multiple of 8
_MOST = 2**16 - 1  # windows in a call: limit of CUDA's grid in the memory-efficient kernel
_BYTES_PER_SCORE = 20  # peak memory of backward
_SHARE_OF_FREE_MEMORY = 0.25


def fits_attend(qkv: Tensor, table: Tensor, scale: Tensor, dropout: float) -> bool:
    """Tensors on a GPU; see `recompute.can_recompute`."""
    on_gpu = qkv.device.type not in ('cpu', 'meta')
    return on_gpu and qkv.numel() > 0 and can_recompute(dropout)


class _Padding:
    """The whole windows that cover a grid."""

    def __init__(self, grid: WindowGrid) -> None:
        self.size, self.window = grid.size, grid.extent
        self.before, runs, pads = [], [], []
        for n, m, s in zip(grid.size, grid.extent, grid.shift, strict=True):
            before, count = cover(n, m, s)
            self.before.append(before)
            runs.append((m, count))
            pads.append((before, count * m - n - before))
        self.runs: Runs = tuple(runs)
        # F.pad counts axes from the last one backwards
        self.pads = [0, 0, *(p for pair in reversed(pads) for p in pair)]

    def cut(self, x: Tensor, value: float = 0.0) -> Tensor:
        """``(B, *S, C)`` to ``(W, N, C)``."""
        return to_windows(F.pad(x, self.pads, value=value) if any(self.pads) else x, self.runs)

    def join(self, windows: Tensor) -> Tensor:
        """Undo `cut`."""
        x = from_windows(windows, self.runs)
        for axis, (n, before) in enumerate(zip(self.size, self.before, strict=True), start=1):
            x = x.narrow(axis, before, n)
        return x.contiguous()

    def hidden(self, like: Tensor, batch: int) -> Tensor:
        """The mask that is added to the scores of the keys of all windows, ``(W, N)``."""
        return self.cut(like.new_zeros(1, *self.size, 1), _HIDDEN)[..., 0].repeat(batch, 1)


def _forward(
    qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
) -> Tensor:
    padding = _Padding(grid)
    windows = padding.cut(qkv).unflatten(-1, (3, len(scale), -1)).permute(2, 0, 3, 1, 4)
    q, k = cosine_directions(windows[:2])  # [W, h, N, d]
    q, k, v = (q * scale).to(qkv.dtype), k.to(qkv.dtype), windows[2]
    if any(padding.pads):
        hidden = padding.hidden(qkv, len(qkv))[:, None, :, None]
        marks = F.pad(hidden, (0, _MARKS - 1)).expand(*k.shape[:-1], -1)
        q, k = F.pad(q, (0, _MARKS), value=1.0), torch.cat([k, marks], -1)
    bias = expand(table, padding.window).to(qkv.dtype)[None]
    step = min(at_once or len(v), _MOST)
    parts = [
        F.scaled_dot_product_attention(*chunk, attn_mask=bias, scale=1.0)
        for chunk in zip(q.split(step), k.split(step), v.split(step), strict=True)
    ]
    out = torch.cat(parts) if len(parts) > 1 else parts[0]
    return padding.join(out.transpose(1, 2).flatten(2))


def _backward(
    grad: Tensor, qkv: Tensor, table: Tensor, scale: Tensor, grid: WindowGrid, at_once: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, table and scale."""
    padding = _Padding(grid)
    windows, d_out = padding.cut(qkv), padding.cut(grad)
    bias = expand(table, padding.window)
    hidden = None
    if any(padding.pads):
        hidden = padding.hidden(bias, len(qkv))[:, None, None]
    step = min(_windows_at_once(bias), at_once or len(windows))
    parts = []
    for i in range(0, len(windows), step):
        chunk = slice(i, i + step)
        marks = None if hidden is None else hidden[chunk]
        parts.append(window_gradients(windows[chunk], d_out[chunk], scale, bias, marks))
    d_windows = torch.cat([part[0] for part in parts]) if len(parts) > 1 else parts[0][0]
    d_bias, d_scale = (torch.stack([part[i] for part in parts]).sum(0) for i in (1, 2))
    d_table = fold(d_bias, table, padding.window)
    return padding.join(d_windows), d_table, d_scale


def _windows_at_once(bias: Tensor) -> int:
    """How many windows backward may take in a step, given the free memory of the device."""
    free = 2**32
    if bias.is_cuda and torch.cuda.is_available():
        free = torch.cuda.mem_get_info(bias.device)[0]
        free += torch.cuda.memory_reserved(bias.device) - torch.cuda.memory_allocated(bias.device)
    return max(1, int(free * _SHARE_OF_FREE_MEMORY) // (_BYTES_PER_SCORE * bias.numel()))


attend = attention(_forward, _backward)
