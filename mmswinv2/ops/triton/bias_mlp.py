"""The table of the position bias as one Triton kernel, and its gradients as another.

It computes the coordinates of all offsets, two linear layers with a ReLU between them, and the
sigmoid. With torch's operators these are about twenty launches for each block, with little work.
"""

from __future__ import annotations  # torch 2.6 knows Sequence only as a string annotation

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from .direct import register_flop_formula, with_gradient

_SIZES = ('heads', 'offsets', 't0', 't1', 't2')
# Offsets and hidden units per step
_FORWARD = dict(BLOCK=16, UNITS=64)
_BACKWARD = dict(BLOCK=64, UNITS=16)
_STEPS = 2  # consecutive steps of a program in the backward pass
# float32 products with an error of 2^-21 on tensor cores: https://arxiv.org/abs/2203.03341
_PRECISION = 'tf32x3'


@triton.jit
def _coordinate(i, t, divisor):
    """Log-spaced coordinate of place i of an axis of t offsets (equation 4)."""
    u = (i - t // 2).to(tl.float32) * tl.cast(divisor, tl.float32)
    size = tl.log2(1.0 + tl.abs(u)) / 3.0
    return tl.where(u < 0, -size, size)


@triton.jit
def _hidden(p, k, w1, b1, t0, t1, t2, u0, u1, u2, HIDDEN: tl.constexpr, AXES: tl.constexpr):
    """Units k of the hidden layer before ReLU, ``[offsets, units]``, and the coordinates."""
    x0 = _coordinate(p // (t1 * t2), t0, u0)
    x1 = _coordinate(p // t2 % t1, t1, u1)
    x2 = _coordinate(p % t2, t2, u2)
    there = k < HIDDEN
    row = w1 + k * AXES + AXES - 1
    z = tl.load(b1 + k, mask=there, other=0.0).to(tl.float32)[None, :]
    z += x2[:, None] * tl.load(row, mask=there, other=0.0).to(tl.float32)[None, :]
    if AXES > 1:
        z += x1[:, None] * tl.load(row - 1, mask=there, other=0.0).to(tl.float32)[None, :]
    if AXES > 2:
        z += x0[:, None] * tl.load(row - 2, mask=there, other=0.0).to(tl.float32)[None, :]
    return z, x0, x1, x2


@triton.jit(do_not_specialize=_SIZES)
def position_bias_forward(
    w1, b1, w2, table, heads, offsets, t0, t1, t2, u0, u1, u2,
    HIDDEN: tl.constexpr, AXES: tl.constexpr, HEADS: tl.constexpr,
    BLOCK: tl.constexpr, UNITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: some offsets, all heads."""
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    h = tl.arange(0, HEADS)
    acc = tl.zeros([BLOCK, HEADS], tl.float32)
    for begin in range(0, HIDDEN, UNITS):
        k = begin + tl.arange(0, UNITS)
        z, _, _, _ = _hidden(p, k, w1, b1, t0, t1, t2, u0, u1, u2, HIDDEN, AXES)
        at = w2 + h[None, :] * HIDDEN + k[:, None]
        w = tl.load(at, mask=(h < heads)[None, :] & (k < HIDDEN)[:, None], other=0.0)
        acc += tl.dot(tl.maximum(z, 0.0), w.to(tl.float32), input_precision=PRECISION)
    bias = 16.0 / (1.0 + tl.exp(-acc))
    at = table + h[None, :] * offsets + p[:, None]
    tl.store(at, bias, mask=(h < heads)[None, :] & (p < offsets)[:, None])


@triton.jit(do_not_specialize=_SIZES)
def position_bias_backward(
    grad, table, w1, b1, w2, parts, heads, offsets, t0, t1, t2, u0, u1, u2,
    HIDDEN: tl.constexpr, AXES: tl.constexpr, HEADS: tl.constexpr,
    BLOCK: tl.constexpr, UNITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: a block of hidden units, a strided share of the offsets, all heads.

    Its sums go to a row of `parts`: the gradients of w1, b1 and w2, one after the other.
    """
    k = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    h = tl.arange(0, HEADS)
    weights = (h < heads)[:, None] & (k < HIDDEN)[None, :]
    at_w2 = h[:, None] * HIDDEN + k[None, :]
    w = tl.load(w2 + at_w2, mask=weights, other=0.0).to(tl.float32)
    sum_w2 = tl.zeros([HEADS, UNITS], tl.float32)
    sum_b1 = tl.zeros([UNITS], tl.float32)
    sum_0 = tl.zeros([UNITS], tl.float32)
    sum_1 = tl.zeros([UNITS], tl.float32)
    sum_2 = tl.zeros([UNITS], tl.float32)
    step = tl.num_programs(1) * BLOCK
    for begin in range(tl.program_id(1) * BLOCK, offsets, step):
        p = begin + tl.arange(0, BLOCK)
        z, x0, x1, x2 = _hidden(p, k, w1, b1, t0, t1, t2, u0, u1, u2, HIDDEN, AXES)
        at = h[:, None] * offsets + p[None, :]
        there = (h < heads)[:, None] & (p < offsets)[None, :]
        b = tl.load(table + at, mask=there, other=0.0)
        d = tl.load(grad + at, mask=there, other=0.0) * b * (1.0 - b / 16.0)
        sum_w2 += tl.dot(d, tl.maximum(z, 0.0), input_precision=PRECISION)
        d_z = tl.dot(tl.trans(d), w, input_precision=PRECISION)
        d_z = tl.where(z > 0, d_z, 0.0)
        sum_b1 += tl.sum(d_z, 0)
        sum_2 += tl.sum(d_z * x2[:, None], 0)
        if AXES > 1:
            sum_1 += tl.sum(d_z * x1[:, None], 0)
        if AXES > 2:
            sum_0 += tl.sum(d_z * x0[:, None], 0)
    parts += tl.program_id(1) * (HIDDEN * (AXES + 1 + heads))
    tl.store(parts + HIDDEN * (AXES + 1) + at_w2, sum_w2, mask=weights)
    tl.store(parts + HIDDEN * AXES + k, sum_b1, mask=k < HIDDEN)
    row = parts + k * AXES + AXES - 1
    tl.store(row, sum_2, mask=k < HIDDEN)
    if AXES > 1:
        tl.store(row - 1, sum_1, mask=k < HIDDEN)
    if AXES > 2:
        tl.store(row - 2, sum_0, mask=k < HIDDEN)


def _numbers(
    sizes: Sequence[int], pretrained: Sequence[int], w2: Tensor, cut: dict[str, int]
) -> tuple[list, dict]:
    """Numbers and options that both kernels take; sizes are those of the table's axes."""
    missing = 3 - len(sizes)
    divisors = [8 / max(w - 1, 1) for w in pretrained]
    heads, hidden = w2.shape
    numbers = [heads, math.prod(sizes), *[1] * missing, *sizes, *[1.0] * missing, *divisors]
    options = dict(
        HIDDEN=hidden,
        AXES=len(sizes),
        HEADS=max(16, triton.next_power_of_2(heads)),
        PRECISION=_PRECISION,
        **cut,
    )
    if options['HEADS'] > 32:  # limited by the registers
        options['BLOCK'] = max(16, options['BLOCK'] * 32 // options['HEADS'])
    return numbers, options


def _position_bias(
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    window: Sequence[int],
    pretrained: Sequence[int],
    sources: str = '',
) -> Tensor:
    """See `mmswinv2.ops.position_bias`."""
    sizes = [2 * m - 1 for m in window]
    numbers, options = _numbers(sizes, pretrained, w2, _FORWARD)
    table = torch.empty((w2.shape[0], *sizes), device=w2.device, dtype=torch.float32)
    grid = ((numbers[1] + options['BLOCK'] - 1) // options['BLOCK'],)
    with torch.cuda.device_of(w2):
        wrap_triton(position_bias_forward)[grid](w1, b1, w2, table, *numbers, **options)
    return table


def _fake_position_bias(
    w1: Tensor, b1: Tensor, w2: Tensor, window: Sequence[int], *_: Any
) -> Tensor:
    return w2.new_empty((w2.shape[0], *(2 * m - 1 for m in window)), dtype=torch.float32)


def _position_bias_backward(
    grad: Tensor, table: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, pretrained: Sequence[int]
) -> Tensor:
    """Gradients of w1, b1 and w2, one after the other, in float32."""
    numbers, options = _numbers(table.shape[1:], pretrained, w2, _BACKWARD)
    shares = -(-numbers[1] // (_STEPS * options['BLOCK']))
    grid = ((options['HIDDEN'] + options['UNITS'] - 1) // options['UNITS'], shares)
    parts = table.new_empty((shares, w1.numel() + b1.numel() + w2.numel()))
    with torch.cuda.device_of(w2):
        wrap_triton(position_bias_backward)[grid](
            grad, table, w1, b1, w2, parts, *numbers, **options
        )
    return parts.sum(0)


def _fake_position_bias_backward(
    grad: Tensor, table: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, pretrained: Sequence[int]
) -> Tensor:
    return table.new_empty(w1.numel() + b1.numel() + w2.numel())


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.pretrained = inputs[4]
    ctx.save_for_backward(output, *inputs[:3])


def _gradients(run: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights = ctx.saved_tensors[1:]
    sums = run(grad.contiguous(), *ctx.saved_tensors, ctx.pretrained)
    sums = sums.split([w.numel() for w in weights])
    return (*(s.view_as(w).to(w.dtype) for s, w in zip(sums, weights, strict=True)), None, None)


_position_bias_with_gradient = with_gradient(
    'position_bias',
    (_position_bias, _fake_position_bias),
    (_position_bias_backward, _fake_position_bias_backward),
    _setup_context,
    _gradients,
)


def position_bias(
    w1: Tensor, b1: Tensor, w2: Tensor, window: tuple[int, ...], pretrained: tuple[int, ...]
) -> Tensor:
    """See `mmswinv2.ops.position_bias`."""
    weights = (w.contiguous() for w in (w1, b1, w2))
    return _position_bias_with_gradient(*weights, window, pretrained)


@register_flop_formula(torch.ops.mmswinv2.position_bias)
def _flop(
    w1: tuple[int, int], b1: Any, w2: tuple[int, int], *_: Any, out_shape: Any = None, **__: Any
) -> int:
    """Both layers; `out_shape` is the shape of the table."""
    return 2 * math.prod(out_shape[1:]) * w1[0] * (w1[1] + w2[0])


@register_flop_formula(torch.ops.mmswinv2.position_bias_backward)
def _backward_flop(grad: tuple[int, ...], *args: Any, out_shape: Any = None, **__: Any) -> int:
    """Gradients of both layers' weights, and of the hidden units."""
    (units, axes), heads = args[1], args[3][0]
    return 2 * math.prod(grad[1:]) * units * (axes + 2 * heads)
