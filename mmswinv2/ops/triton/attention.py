"""Window attention by Triton kernels: an operator of torch, and how its kernels are launched."""

from __future__ import annotations  # torch 2.6 knows Sequence only as a string annotation

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton

from ..windows import WindowGrid, bound, cover
from . import attention_kernels as kernels
from .blocks import Blocks, choose_blocks
from .direct import register_flop_formula, with_gradient

# For the gradient of the table: programs that share the windows, and numbers in memory at a time
_PROGRAMS, _PAIRS = 1056, 2**26
_ALIGNED = 512  # numbers of the aligned table that a program computes
_RUN = 4  # biases that are read at once
_FOLDED = 4096  # numbers that a program folds at a time, for at most _OFFSETS offsets
_OFFSETS = 64


def _three(numbers: Sequence[Any], missing: int) -> list[Any]:
    return [missing] * (3 - len(numbers)) + list(numbers)


def _takes_tf32() -> bool:
    """Torch's switch for products of float32, under its newer or its older name."""
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, 'fp32_precision', None)
    return bool(matmul.allow_tf32) if newer is None else newer == 'tf32'


class _Call:
    """The arguments that all kernels of one call share."""

    def __init__(
        self,
        qkv: Tensor,
        table: Tensor,
        dropout: float,
        window: Sequence[int],
        shift: Sequence[int],
    ) -> None:
        batch, *size, channels = qkv.shape
        axes = list(zip(size, window, shift, strict=True))
        lacks, counts = zip(*(cover(*axis) for axis in axes), strict=True)
        self.heads = table.shape[0]
        self.windows = batch * math.prod(counts)
        *outer, last = _three(window, 1)
        self.window = *outer, _blocks(last, _RUN) * _RUN  # rows of tokens are numbered up to this
        tokens = batch * math.prod(size)
        self.numbers = dropout, *_three(size, 1), *_three(lacks, 0), self.heads, tokens
        head = channels // 3 // self.heads
        self.width = max(16, triton.next_power_of_2(head))
        self.options = dict(
            M0=self.window[0],
            M1=self.window[1],
            M2=self.window[2],
            LAST=last,
            RUN=_RUN,
            HEAD=head,
            WIDTH=self.width,
            PRECISION='tf32' if _takes_tf32() else 'ieee',
            DROP=dropout > 0,
        )
        self.blocks_for = (qkv.device, math.prod(window), self.width, qkv.itemsize)
        self.in_window = self.numbered(torch.sym_min(n, m) for n, m, _ in axes)

    def numbered(self, size: Iterable[Any]) -> Any:
        """Upper bound of the token numbers in a window of a size, see `kernels._numbered`."""
        s0, s1, _ = _three(list(size), 1)
        return ((s0 - 1) * self.window[1] + s1) * self.window[2]

    def blocks(self, kernel: str) -> Blocks:
        """The block sizes of a kernel for this call."""
        return choose_blocks(kernel, *self.blocks_for)

    def outputs(self, qkv: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Empty tensors for what `_attend` returns."""
        m0, m1, m2 = self.window
        row = _blocks(2 * m2 - 2 + _RUN, _RUN) * _RUN  # as `kernels._row_size`
        return (
            qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3)),
            table.new_empty((self.heads, self.numbers[-1])),
            table.new_empty((self.heads, _RUN, 2 * m0 - 1, 2 * m1 - 1, row)),
        )

    def align(self, table: Tensor, aligned: Tensor) -> None:
        """Write the table that the kernels of attention read, see `kernels.align_table`."""
        m0, m1, m2 = self.window
        sizes = _three(table.shape[1:], 1)
        wrap_triton(kernels.align_table)[(_blocks(aligned.numel(), _ALIGNED),)](
            table, aligned, *sizes, aligned.numel(), M0=m0, M1=m1, M2=m2, RUN=_RUN, BLOCK=_ALIGNED
        )

    def run(
        self, kernel: Any, blocks: Blocks, grid: tuple[Any, ...], *tensors: Any, **more: Any
    ) -> None:
        """Launch a kernel on its tensors; `more` are numbers and options that only it takes."""
        wrap_triton(kernel)[grid](
            *tensors,
            *self.numbers,
            **more,
            **self.options,
            BQ=blocks.queries,
            BK=blocks.keys,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )

    def table_gradient(self, d_table: Tensor, *tensors: Any) -> None:
        """Write the gradient of the table, always summed in the same order."""
        *inputs, delta = tensors
        blocks = self.blocks('backward_table')
        sizes = _three(d_table.shape[1:], 1)
        n = self.numbered([(t + 1) // 2 for t in sizes])
        tiles = _blocks(n, blocks.queries) * _blocks(n, blocks.keys)
        at_once = max(1, min(self.heads, _PAIRS // n**2))
        shares = torch.sym_min(-(-_PROGRAMS // (tiles * at_once)), self.windows)
        block = min(_OFFSETS, triton.next_power_of_2(sizes[2]))
        for first in range(0, self.heads, at_once):
            heads = min(at_once, self.heads - first)
            pairs = d_table.new_empty((shares, heads, n, n))
            own = dict(
                zip(kernels.OFFSETS, sizes, strict=True), windows=self.windows, first_head=first
            )
            grid = (tiles, heads, shares)
            self.run(kernels.attend_backward_pairs, blocks, grid, *inputs, pairs, delta, **own)
            grid = (sizes[0] * sizes[1], heads, _blocks(sizes[2], block))
            wrap_triton(kernels.fold_pairs)[grid](
                pairs, d_table, *sizes, shares, first, M1=self.window[1], M2=self.window[2],
                ROWS=_FOLDED // block, BLOCK=block,
            )  # fmt: skip


def _attend(
    qkv: Tensor,
    table: Tensor,
    scale: Tensor,
    seed: Tensor | None,
    dropout: float,
    window: Sequence[int],
    shift: Sequence[int],
    sources: str = '',
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, log2 of each softmax's sum ``(h, tokens)``, and what `_Call.align` writes."""
    call = _Call(qkv, table, dropout, window, shift)
    out, lse, aligned = call.outputs(qkv, table)
    blocks = call.blocks('forward')
    grid = (call.windows * _blocks(call.in_window, blocks.queries), call.heads)
    with torch.cuda.device_of(qkv):
        call.align(table, aligned)
        call.run(kernels.attend_forward, blocks, grid, qkv, aligned, scale, seed, out, lse)
    return out, lse, aligned


def _fake_attend(
    qkv: Tensor, table: Tensor, scale: Tensor, seed: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dropout, window, shift, *_ = others
    return _Call(qkv, table, dropout, window, shift).outputs(qkv, table)


def _attend_backward(
    grad: Tensor,
    qkv: Tensor,
    table: Tensor,
    scale: Tensor,
    seed: Tensor | None,
    out: Tensor,
    lse: Tensor,
    aligned: Tensor,
    dropout: float,
    window: Sequence[int],
    shift: Sequence[int],
    needs_table: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv, of the table (empty if not needed), and of the scale, ``(h,)``."""
    call = _Call(qkv, table, dropout, window, shift)
    d_qkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
    with torch.cuda.device_of(qkv):
        blocks = call.blocks('backward_q')
        grid: tuple[Any, ...] = (call.windows * _blocks(call.in_window, blocks.queries), call.heads)
        parts = table.new_empty(grid[::-1])
        inputs = (qkv, aligned, scale, seed)
        call.run(
            kernels.attend_backward_q, blocks, grid, *inputs, out, lse, grad, d_qkv, parts, delta
        )

        blocks = call.blocks('backward_kv')
        grid = (call.windows * _blocks(call.in_window, blocks.keys), call.heads)
        call.run(kernels.attend_backward_kv, blocks, grid, *inputs, lse, grad, d_qkv, delta)

        d_table = _room_for_gradient(table, needs_table)
        if needs_table:
            call.table_gradient(d_table, *inputs, lse, grad, delta)
    return d_qkv, d_table, parts.sum(1)


def _fake_attend_backward(
    grad: Tensor, qkv: Tensor, table: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    d_table = _room_for_gradient(table, needed=others[-1])
    return torch.empty_like(qkv), d_table, table.new_empty(table.shape[:1])


def _room_for_gradient(table: Tensor, needed: bool) -> Tensor:
    return torch.empty_like(table) if needed else table.new_empty(0)


def _blocks(tokens: Any, block: int) -> Any:
    return (tokens + block - 1) // block


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, table, scale, seed, *ctx.numbers = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else autograd makes zeros for the other outputs
    ctx.save_for_backward(qkv, table, scale, seed, *output)


def _gradients(run: Any, ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    qkv, table, scale, seed, out, lse, aligned = ctx.saved_tensors
    needs_table = ctx.needs_input_grad[1]  # false if the position bias is frozen
    d_qkv, d_table, d_scale = run(
        grad.contiguous(), qkv, table, scale, seed, out, lse, aligned, *ctx.numbers, needs_table
    )
    return d_qkv, d_table if needs_table else None, d_scale, None, None, None, None


_attend_with_gradient = with_gradient(
    'attend',
    (_attend, _fake_attend),
    (_attend_backward, _fake_attend_backward),
    _setup_context,
    _gradients,
)


def attend(qkv: Tensor, grid: WindowGrid, table: Tensor, scale: Tensor, dropout: float) -> Tensor:
    """See `mmswinv2.ops.attend`."""
    # bounded by the map, as memory and time grow with the window even where it exceeds the map
    window = [bound(n, m) for n, m in zip(grid.size, grid.window, strict=True)]
    shift = [s if w == m else 0 for w, m, s in zip(window, grid.window, grid.shift, strict=True)]
    for axis, (t, m) in enumerate(zip(table.shape[1:], window, strict=True), start=1):
        if t > 2 * m - 1:  # drop offsets that occur in no window
            table = table.narrow(axis, (t - 2 * m + 1) // 2, 2 * m - 1)
    seed = torch.randint(2**62, (1,), device=qkv.device) if dropout else None
    return _attend_with_gradient(
        qkv.contiguous(),
        table.contiguous(),
        scale.flatten().float().contiguous(),
        seed,
        float(dropout),
        window,
        shift,
    )[0]


@register_flop_formula(torch.ops.mmswinv2.attend)
def _attend_flop(
    qkv: tuple[int, ...],
    table: tuple[int, ...],
    scale: tuple[int, ...],
    seed: Any,
    dropout: float,
    window: Sequence[int],
    shift: Sequence[int],
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    """Two products of N x N x C operations in each window."""
    batch, *size, channels = qkv
    grid = WindowGrid(tuple(size), tuple(window), tuple(shift))
    pairs = math.prod(sum(count * n**2 for n, count in runs) for runs in grid.runs)
    return 2 * 2 * batch * pairs * (channels // 3)


@register_flop_formula(torch.ops.mmswinv2.attend_backward)
def _attend_backward_flop(grad: Any, *args: Any, **kwargs: Any) -> int:
    """Five products, as torch counts its own fused attention."""
    qkv, table, scale, seed, _, _, _, dropout, window, shift, *_ = args
    return 5 * _attend_flop(qkv, table, scale, seed, dropout, window, shift) // 2
