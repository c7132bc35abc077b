"""Log-spaced continuous position bias (paper, section 3.3, equations 3 and 4).

A small MLP maps the offset between two tokens to a bias per head, so that the window may differ
from the one the weights were trained with. All offsets of a window make a *table*
``(h, 2 M1 - 1, 2 M2 - 1, ...)``; `expand` reads the bias of every pair of tokens off it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ['ContinuousPositionBias', 'expand', 'log_coordinates']

_HIDDEN = 512
_KEPT = 32  # tables; images of many sizes have windows of many sizes


def log_coordinates(
    window: tuple[int, ...],
    pretrained: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Log-spaced coordinates of all offsets in a window (equation 4, scaled as in the code).

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
    axes = []
    for m, w in zip(window, pretrained, strict=True):
        u = torch.arange(1 - m, m, dtype=dtype, device=device) * (8 / max(w - 1, 1))
        axes.append(u.sign() * torch.log2(1 + u.abs()) / math.log2(8))
    return torch.stack(torch.meshgrid(axes, indexing='ij'), dim=-1)


def expand(table: Tensor, window: tuple[int, ...]) -> Tensor:
    """Bias of every pair of tokens in a window.

    The pair (i, j) stands at offset i - j, so along an axis the pairs are sliding views on the
    table; a window smaller than the table's takes the middle of it.

    Args:
        table: ``(h, 2 E1 - 1, ...)`` for the largest window E.
        window: ``(m1, ...)`` with m <= E.

    Returns:
        ``(h, N, N)`` with N = m1 * m2 * ..., rows are queries and columns keys.
    """
    for axis, m in enumerate(window, start=1):
        middle = table.shape[axis] // 2
        table = table.narrow(axis, middle - m + 1, 2 * m - 1).unfold(axis, m, 1)
    # (h, m1, m2, ..., m1, m2, ...): the last axes count up where the key's position counts down.
    # Contiguous first: flipping the overlapping views is slow, and its gradient much more so.
    ndim = len(window)
    pairs = table.contiguous().flip(tuple(range(1 + ndim, 1 + 2 * ndim)))
    n = math.prod(window)
    return pairs.reshape(-1, n, n)


class ContinuousPositionBias(nn.Sequential):
    """The MLP of the position bias: Linear(ndim, 512), ReLU, Linear(512, heads), 16 sigmoid.

    Always computed in float32. In training the table is made once per call; in evaluation it is
    kept until the weights or the mode change.

    Args:
        num_heads: heads h.
        pretrained_window: the window the weights were (or will be) trained with, per axis.
    """

    def __init__(self, num_heads: int, pretrained_window: tuple[int, ...]) -> None:
        super().__init__(
            nn.Linear(len(pretrained_window), _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(_HIDDEN, num_heads, bias=False),
        )
        self.pretrained_window = pretrained_window
        self._weights: list[Tensor] = []  # those that the kept tables were made of
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def forward(self, window: tuple[int, ...]) -> Tensor:
        """Return the table ``(h, 2 M1 - 1, ...)`` for a window ``(M1, ...)``."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._table(window)
        if not self._unchanged():
            self._kept.clear()
            self._weights = [p.detach().clone() for p in self.parameters()]
        if window not in self._kept:
            if len(self._kept) == _KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[window] = self._table(window)
        return self._kept[window]

    def _unchanged(self) -> bool:
        """By value: an average of weights is written through `.data`, which leaves no trace."""
        return bool(self._weights) and all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(self._weights, self.parameters(), strict=True)
        )

    def _table(self, window: tuple[int, ...]) -> Tensor:
        weight = next(self.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        x = log_coordinates(window, self.pretrained_window, dtype, weight.device)
        with torch.autocast(weight.device.type, enabled=False):
            x = super().forward(x.to(weight.dtype))
        return 16 * torch.sigmoid(x.to(dtype)).movedim(-1, 0)

    def train(self, mode: bool = True) -> ContinuousPositionBias:
        """Set the mode and forget the kept tables."""
        self._kept.clear()
        return super().train(mode)
