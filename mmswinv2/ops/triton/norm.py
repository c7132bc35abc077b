"""``x + scale * LayerNorm(y)`` as one Triton kernel, and its gradients as another.

Without them the residual stream is read and written three times for each branch, and once more to
cast it for the next layer. Statistics are in float32, and are recomputed in backward, where the
rows are in registers anyway.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from .direct import with_gradient

_SIZES = ('rows', 'rows_in_map', 'programs')
_ELEMENTS = 2048  # per program in the forward pass
_PROGRAMS = 1056  # at most; they share the rows in backward


@triton.jit
def _normalize(y, channels, there, eps):
    """Rows of mean 0 and variance 1, and their inverse standard deviations."""
    mean = tl.sum(y, 1) / channels
    centred = tl.where(there, y - mean[:, None], 0.0)
    # compiled graphs hand over numbers in float64
    eps = tl.cast(eps, tl.float32)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)
    return centred * inverse[:, None], inverse


@triton.jit(do_not_specialize=_SIZES)
def add_norm_forward(
    x, y, weight, bias, scale, out, cast, eps, rows, rows_in_map,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    SCALED: tl.constexpr, CASTS: tl.constexpr,
):  # fmt: skip
    """A program: some rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, WIDTH)
    there = (row < rows)[:, None] & (c < CHANNELS)[None, :]
    at = row[:, None] * CHANNELS + c[None, :]
    values = tl.load(y + at, mask=there, other=0.0).to(tl.float32)
    normal, _ = _normalize(values, CHANNELS, there, eps)
    w = tl.load(weight + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
    normal = normal * w[None, :] + b[None, :]
    if SCALED:
        s = tl.load(scale + row // rows_in_map, mask=row < rows, other=0.0).to(tl.float32)
        normal *= s[:, None]
    sums = tl.load(x + at, mask=there, other=0.0).to(tl.float32) + normal
    tl.store(out + at, sums, mask=there)
    if CASTS:
        tl.store(cast + at, sums, mask=there)


@triton.jit(do_not_specialize=_SIZES)
def add_norm_backward(
    grad, d_cast, y, weight, scale, d_x, d_y, parts, eps, rows, rows_in_map, programs,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    SCALED: tl.constexpr, CASTS: tl.constexpr,
):  # fmt: skip
    """A program: a strided share of the rows; its gradients of weight and bias go to `parts`."""
    program = tl.program_id(0)
    c = tl.arange(0, WIDTH)
    w = tl.load(weight + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
    d_weight = tl.zeros([WIDTH], tl.float32)
    d_bias = tl.zeros([WIDTH], tl.float32)
    for begin in range(program * ROWS, rows, programs * ROWS):
        row = (begin + tl.arange(0, ROWS)).to(tl.int64)
        there = (row < rows)[:, None] & (c < CHANNELS)[None, :]
        at = row[:, None] * CHANNELS + c[None, :]
        values = tl.load(y + at, mask=there, other=0.0).to(tl.float32)
        normal, inverse = _normalize(values, CHANNELS, there, eps)
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        if CASTS:
            g += tl.load(d_cast + at, mask=there, other=0.0).to(tl.float32)
            tl.store(d_x + at, g, mask=there)
        if SCALED:
            s = tl.load(scale + row // rows_in_map, mask=row < rows, other=0.0).to(tl.float32)
            g *= s[:, None]
        d_weight += tl.sum(g * normal, 0)
        d_bias += tl.sum(g, 0)
        g *= w[None, :]
        along = tl.sum(g * normal, 1) / CHANNELS
        d = (g - tl.sum(g, 1)[:, None] / CHANNELS - normal * along[:, None]) * inverse[:, None]
        tl.store(d_y + at, d, mask=there)
    at = parts + program * 2 * CHANNELS + c
    tl.store(at, d_weight, mask=c < CHANNELS)
    tl.store(at + CHANNELS, d_bias, mask=c < CHANNELS)


def _options(
    y: Tensor, scale: Tensor | None, casts: bool, backward: bool = False
) -> dict[str, Any]:
    width = triton.next_power_of_2(y.shape[-1])
    elements = _ELEMENTS
    if backward:  # as many as registers hold, as each step ends with sums across the program
        elements *= 4 if width <= 512 and y.itemsize == 2 else 2
    rows = max(1, elements // width)
    return dict(
        CHANNELS=y.shape[-1],
        WIDTH=width,
        ROWS=rows,
        SCALED=scale is not None,
        CASTS=casts,
        num_warps=4 if width < 2048 else 8,
    )


def _add_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None,
    dtype: torch.dtype | None,
    sources: str = '',
) -> tuple[Tensor, Tensor]:
    """See `mmswinv2.ops.add_norm`; scale is ``(B,)``, and the second output may be empty."""
    out, cast = _fake_add_norm(x, y, weight, bias, eps, scale, dtype)
    options = _options(y, scale, dtype is not None)
    rows = math.prod(y.shape[:-1])
    grid = ((rows + options['ROWS'] - 1) // options['ROWS'],)
    with torch.cuda.device_of(y):
        wrap_triton(add_norm_forward)[grid](
            x, y, weight, bias, scale, out, cast, eps, rows, rows // y.shape[0], **options
        )
    return out, cast


def _fake_add_norm(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    dtype = others[5]
    return torch.empty_like(x), x.new_empty(0 if dtype is None else x.shape, dtype=dtype)


def _add_norm_backward(
    grad: Tensor,
    d_cast: Tensor | None,
    y: Tensor,
    weight: Tensor,
    eps: float,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (empty without `d_cast`), of y, and of weight and bias ``(2, C)``.

    The last is in float32.
    """
    casts = d_cast is not None
    d_x, d_y, _ = _fake_add_norm_backward(grad, d_cast, y)
    options = _options(y, scale, casts, backward=True)
    rows, channels = math.prod(y.shape[:-1]), y.shape[-1]
    blocks = (rows + options['ROWS'] - 1) // options['ROWS']
    programs = torch.sym_min(_PROGRAMS, blocks)
    parts = torch.empty((programs, 2, channels), device=y.device, dtype=torch.float32)
    with torch.cuda.device_of(y):
        wrap_triton(add_norm_backward)[(programs,)](
            grad, d_cast, y, weight, scale, d_x, d_y, parts, eps, rows, rows // y.shape[0],
            programs, **options,
        )  # fmt: skip
    return d_x, d_y, parts.sum(0)


def _fake_add_norm_backward(
    grad: Tensor, d_cast: Tensor | None, y: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    d_x = grad.new_empty(0 if d_cast is None else grad.shape)
    return d_x, torch.empty_like(y), y.new_empty((2, y.shape[-1]), dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, y, weight, _, ctx.eps, scale, dtype = inputs
    ctx.casts = dtype is not None
    ctx.set_materialize_grads(ctx.casts)  # else autograd makes zeros for the empty output
    ctx.save_for_backward(y, weight, scale)


def _gradients(run: Any, ctx: Any, grad: Tensor, d_cast: Tensor) -> tuple[Tensor | None, ...]:
    y, weight, scale = ctx.saved_tensors
    if not any(ctx.needs_input_grad[1:4]):
        d_x = grad + d_cast.to(grad.dtype) if ctx.casts else grad
        return d_x, None, None, None, None, None, None
    more = d_cast.contiguous() if ctx.casts else None
    d_x, d_y, sums = run(grad.contiguous(), more, y, weight, ctx.eps, scale)
    d_weight, d_bias = sums.to(weight.dtype).unbind()
    return d_x if ctx.casts else grad, d_y, d_weight, d_bias, None, None, None


_add_norm_with_gradient = with_gradient(
    'add_norm',
    (_add_norm, _fake_add_norm),
    (_add_norm_backward, _fake_add_norm_backward),
    _setup_context,
    _gradients,
)


def add_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """See `mmswinv2.ops.add_norm`."""
    x, y, weight, bias = (t.contiguous() for t in (x, y, weight, bias))
    scale = None if scale is None else scale.flatten().contiguous()
    dtype = None if dtype == x.dtype else dtype
    out, cast = _add_norm_with_gradient(x, y, weight, bias, float(eps), scale, dtype)
    return out, out if dtype is None else cast
