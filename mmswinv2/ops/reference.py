"""The operators in plain torch; every other implementation is tested against them.

They take any tensors on any device, in any mode of torch, and autograd can differentiate them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import without_autocast
from .windows import WindowGrid, cut, join


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """See `mmswinv2.ops.attend`."""
    outs = []
    for windows, shape in cut(qkv, grid):
        bias = expand(table, shape)
        parts = windows.split(windows_at_once or len(windows))
        outs.append(torch.cat([softmax_attention(chunk, scale, bias, dropout) for chunk in parts]))
    return join(outs, grid)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.linear`."""
    return F.linear(x, weight, bias)


def embed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.embed`."""
    conv = {2: F.conv2d, 3: F.conv3d}[weight.ndim - 2]
    return conv(x, weight, bias, stride=tuple(weight.shape[2:])).movedim(1, -1)


def add_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """See `mmswinv2.ops.add_norm`."""
    y = layer_norm(y, weight, bias, eps)
    out = x + (y if scale is None else y * scale)
    return out, out if dtype is None else out.to(dtype)


def softmax_attention(
    windows: Tensor, scale: Tensor, bias: Tensor, dropout: float = 0.0, hidden: Tensor | None = None
) -> Tensor:
    """Scaled cosine attention inside windows of one shape (paper, equation 2).

    Args:
        windows: ``(..., N, 3 C)`` queries, keys and values; the leading axes are windows.
        scale: ``(h, 1, 1)`` 1 / tau.
        bias: ``(h, N, N)`` position bias.
        dropout: share of the probabilities to drop.
        hidden: ``(..., N)`` true for tokens that no token attends to; ``None``: there are none.

    Returns:
        ``(..., N, C)``; scores and softmax in float32 (float64 stays).
    """
    q, k, v = split_heads(windows, len(scale))
    with without_autocast(windows.device):  # autocast would round the factors of the products
        scores = (cosine_directions(q) * scale) @ cosine_directions(k).transpose(-2, -1) + bias
        if hidden is not None:
            scores = scores.masked_fill(hidden[..., None, None, :], -torch.inf)
        probabilities = F.dropout(torch.softmax(scores, dim=-1), dropout).to(v.dtype)
        return (probabilities @ v).transpose(-3, -2).flatten(-2)


def window_gradients(
    windows: Tensor, d_out: Tensor, scale: Tensor, bias: Tensor, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `softmax_attention`; the probabilities are recomputed.

    Args:
        windows: ``(W, N, 3 C)``.
        d_out: ``(W, N, C)``.
        scale: ``(h, 1, 1)``.
        bias: ``(h, N, N)``.
        hidden: mask that is added to the scores of the keys, ``(W, 1, 1, N)``; ``None``: no mask.

    Returns:
        Gradients of windows, bias and scale.
    """
    qkv = windows.unflatten(-1, (3, len(scale), -1)).permute(2, 0, 3, 1, 4)
    qkv = qkv.contiguous()  # [3, W, h, N, d], read many times
    v, wide = qkv[2], qkv[:2].to(bias.dtype)
    inverse_q, inverse_k = inverses = inverse_lengths(wide)
    unit_q, unit_k = wide * inverses
    d_out = d_out.unflatten(-1, (len(scale), -1)).transpose(1, 2).contiguous()  # [W, h, N, d]
    q, k = (unit_q * scale).to(v.dtype), unit_k.to(v.dtype)  # rounded as in the forward pass
    scores = q.to(bias.dtype) @ k.to(bias.dtype).transpose(-2, -1) + bias
    p = torch.softmax(scores if hidden is None else scores + hidden, dim=-1)
    d_v = p.to(v.dtype).transpose(-2, -1) @ d_out
    d_p = (d_out @ v.transpose(-2, -1)).to(p.dtype)
    d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)  # (d_p - sum(d_p p)) p
    d_bias = d_scores.sum(0)
    d_scores = d_scores.to(v.dtype)
    d_unit_q = (d_scores @ k).to(unit_q.dtype)  # not yet times the scale
    d_unit_k = (d_scores.transpose(-2, -1) @ q).to(unit_k.dtype)
    # a direction does not change with the length, so the part along the vector has no gradient
    along_q = (d_unit_q * unit_q).sum(-1, keepdim=True)
    along_k = (d_unit_k * unit_k).sum(-1, keepdim=True)
    d_q = torch.addcmul(d_unit_q, unit_q, along_q, value=-1) * (inverse_q * scale)
    d_k = torch.addcmul(d_unit_k, unit_k, along_k, value=-1) * inverse_k
    d_qkv = torch.stack([d.to(windows.dtype).transpose(1, 2) for d in (d_q, d_k, d_v)], 2)
    return d_qkv.flatten(2), d_bias, along_q.sum((0, 2, 3))[:, None, None]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis in float32, returned in the dtype of `weight`."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    y = F.layer_norm(x.to(dtype), weight.shape, weight.to(dtype), bias.to(dtype), eps)
    return y.to(weight.dtype)


def cosine_directions(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Scale vectors ``(..., d)`` to length 1, or `scale`, in float32 (float64 stays).

    A vector shorter than 1e-5 has no direction: it becomes zero, and so does its gradient. Division
    by ``max(length, 1e-12)``, as usual, multiplies the gradient of a zero vector by 1e12, which
    overflows in half precision.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = inverse_lengths(x)
    return x * (inverse if scale is None else inverse * scale)


def inverse_lengths(x: Tensor) -> Tensor:
    """``(..., d)`` to ``(..., 1)``: 1 / length, zero for a vector that is shorter than 1e-5."""
    square = x.square().sum(-1, keepdim=True)
    # no constant of the module, for torch.compile: see `core.attention.WindowAttention.forward`
    return square.masked_fill(square < 1e-10, torch.inf).rsqrt()


def split_heads(windows: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``(..., N, 3 C)`` to q, k and v: views of ``(..., h, N, d)``."""
    q, k, v = windows.unflatten(-1, (3, heads, -1)).unbind(-3)
    return q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)


def expand(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bias of every pair of tokens in a window.

    The pair (i, j) is at offset i - j, so along an axis the pairs are sliding views of the table. A
    window smaller than the table's takes the middle of the table.

    Args:
        table: ``(h, 2 E1 - 1, ...)`` for the largest window E.
        shape: ``(m1, ...)`` with m <= E.

    Returns:
        ``(h, N, N)`` with N = m1 * m2 * ..., rows are queries and columns keys.
    """
    for axis, m in enumerate(shape, start=1):
        middle = table.shape[axis] // 2
        table = table.narrow(axis, middle - m + 1, 2 * m - 1).unfold(axis, m, 1)
    # (h, m1, m2, ..., m1, m2, ...): the last axes are in reverse order of the key's position.
    # Contiguous first: flipping the overlapping views is slow, and its gradient much more so.
    ndim = len(shape)
    pairs = table.contiguous().flip(tuple(range(1 + ndim, 1 + 2 * ndim)))
    n = math.prod(shape)
    return pairs.reshape(-1, n, n)


def fold(d_bias: Tensor, table: Tensor, shape: tuple[int, ...]) -> Tensor:
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
