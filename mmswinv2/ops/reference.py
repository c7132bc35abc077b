"""The operators in plain torch; every other implementation is tested against them.

They take any tensors on any device, in any mode of torch, and autograd can differentiate them.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from .modes import without_autocast
from .windows import WindowGrid, from_windows, join_runs, split_runs, to_windows


def attend(
    qkv: Tensor,
    grid: WindowGrid,
    table: Tensor,
    scale: Tensor,
    dropout: float = 0.0,
    windows_at_once: int | None = None,
) -> Tensor:
    """See `mmswinv2.ops.attend`."""
    parts = []
    for box, runs in zip(split_runs(qkv, grid), product(*grid.runs), strict=True):
        shape = tuple(size for size, _ in runs)
        windows, bias = to_windows(box, runs), expand(table, shape)
        some = windows.split(windows_at_once or len(windows))
        out = torch.cat([softmax_attention(part, scale, bias, dropout) for part in some])
        parts.append(from_windows(out, runs))
    return join_runs(parts, grid)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.linear`."""
    return F.linear(x, weight, bias)


def embed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See `mmswinv2.ops.embed`."""
    conv = {2: F.conv2d, 3: F.conv3d}[weight.ndim - 2]
    return conv(x, weight, bias, stride=tuple(weight.shape[2:])).movedim(1, -1)


def add_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None = None
) -> Tensor:
    """See `mmswinv2.ops.add_norm`."""
    y = layer_norm(y, weight, bias, eps)
    return x + (y if scale is None else y * scale)


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
