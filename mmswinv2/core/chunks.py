"""Half a block at a time over some of the tokens, on CPUs.

What the tokens of a few windows need between their input and their output fits into the processor's
caches, and into memory that is used again for the next ones; new memory for the whole map costs a
page fault each 4 KiB, as long as many a product. For backward the inputs alone are kept, and each
chunk is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .linear import is_plain_on_cpu

__all__ = ['Chunks', 'in_chunks', 'rows_at_once', 'suits_chunks', 'without_chunks']

Rows = slice | Tensor
Chunks = Sequence[tuple[Rows, Sequence[int]]]  # rows, and numbers of what goes with them
_ROWS_PER_THREAD = 2048
_KEPT_ROWS = 8192  # the activations of so many tokens are kept for backward
_allowed = [True]


def rows_at_once() -> int:
    """How many tokens make a chunk."""
    return _ROWS_PER_THREAD * torch.get_num_threads()


def suits_chunks(x: Tensor) -> bool:
    """Whether to go in chunks: on CPUs, unless somebody follows every operator of the network.

    In training small maps are not worth computing twice.
    """
    return (
        _allowed[0]
        and is_plain_on_cpu(x)
        and not (torch.is_grad_enabled() and x.shape[:-1].numel() <= _KEPT_ROWS)
    )


@contextmanager
def without_chunks() -> Iterator[None]:
    """Go the way that other devices go."""
    before, _allowed[0] = _allowed[0], False
    try:
        yield
    finally:
        _allowed[0] = before


def in_chunks(
    function: Callable[..., Tensor],
    x: Tensor,
    scale: Tensor | None,
    chunks: Chunks,
    tensors: Sequence[Tensor],
) -> Tensor:
    """Apply a function of tokens chunk by chunk, without autocast.

    Args:
        function: ``(tokens (R, C), scale (R, 1) or None, *tensors) -> (R, C)``.
        x: ``(T, C)`` tokens.
        scale: ``(T, 1)``, a constant; or ``None``.
        chunks: rows of `x` and, by number, the tensors that go with them. Together they are all
            rows, each once.
        tensors: what else the function takes.

    Returns:
        ``(T, C)``.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors)):
        return _Recomputed.apply(function, scale, chunks, x, *tensors)
    return _forward(function, x, scale, chunks, tensors)


def _forward(
    function: Callable[..., Tensor],
    x: Tensor,
    scale: Tensor | None,
    chunks: Chunks,
    tensors: Sequence[Tensor],
) -> Tensor:
    out = torch.empty_like(x)
    with torch.autocast('cpu', enabled=False):
        for rows, numbers in chunks:
            _put(out, rows, function(*_take(x, scale, rows), *(tensors[i] for i in numbers)))
    return out


class _Recomputed(torch.autograd.Function):
    """Keeps the inputs for backward, which computes each chunk again."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        scale: Tensor | None,
        chunks: Chunks,
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.function, ctx.scale, ctx.chunks = function, scale, chunks
        ctx.save_for_backward(x, *tensors)
        return _forward(function, x, scale, chunks, tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        wants_x, *wants = ctx.needs_input_grad[3:]
        d_x = torch.empty_like(x) if wants_x else None
        d_tensors: list[Tensor | None] = [None] * len(tensors)
        leaves = [t.detach().requires_grad_(w) for t, w in zip(tensors, wants, strict=True)]
        for rows, numbers in ctx.chunks:
            some, scale = _take(x, ctx.scale, rows)
            some = some.detach().requires_grad_(wants_x)
            d_out, _ = _take(grad, None, rows)
            with torch.enable_grad(), torch.autocast('cpu', enabled=False):
                out = ctx.function(some, scale, *(leaves[i] for i in numbers))
            wanted = [i for i in numbers if wants[i]]
            inputs = [leaves[i] for i in wanted] + ([some] if wants_x else [])
            grads = torch.autograd.grad(out, inputs, d_out)
            if d_x is not None:
                _put(d_x, rows, grads[-1])
            for i, d in zip(wanted, grads, strict=False):
                d = d.to(torch.promote_types(d.dtype, torch.float32))  # a sum of many
                total = d_tensors[i]
                d_tensors[i] = d if total is None else total.add_(d)
        return (None, None, None, d_x, *map(_like, d_tensors, tensors))


def _like(d: Tensor | None, tensor: Tensor) -> Tensor | None:
    return None if d is None else d.to(tensor.dtype)


def _take(x: Tensor, scale: Tensor | None, rows: Rows) -> tuple[Tensor, Tensor | None]:
    if isinstance(rows, slice):
        return x[rows], None if scale is None else scale[rows]
    return x.index_select(0, rows), None if scale is None else scale.index_select(0, rows)


def _put(out: Tensor, rows: Rows, value: Tensor) -> None:
    if isinstance(rows, slice):
        out[rows] = value
    else:
        out.index_copy_(0, rows, value)
