"""The windows that weights were first trained with: read off a file, compared with a backbone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..core import SwinV2
from ..core.attention import log_coordinates
from ..errors import CheckpointError

__all__ = ['check_windows', 'flat', 'pretrained_windows', 'show']


def pretrained_windows(tables: Mapping[int, Tensor]) -> dict[int, tuple[int, ...]]:
    """Read the pre-trained windows off coordinate tables.

    The largest coordinate c along an axis belongs to the offset M - 1, where M is the file's own
    window (the table has 2 M - 1 entries), so w_p = 1 + 8 (M - 1) / (2^(c log2(8)) - 1).

    Args:
        tables: stage to ``(1, 2 M1 - 1, 2 M2 - 1, 2)``.

    Returns:
        stage to w_p per axis; stages with a window of 1 say nothing and are left out.
    """
    windows = {}
    for stage, table in tables.items():
        sizes = [(n + 1) // 2 for n in table.shape[1:-1]]
        largest = table.double().flatten(0, -2).amax(0)
        if min(sizes) > 1 and bool((largest > 0).all()):
            windows[stage] = tuple(
                round(1 + 8 * (m - 1) / (8 ** float(c) - 1))
                for m, c in zip(sizes, largest, strict=True)
            )
            expected = log_coordinates(tuple(sizes), windows[stage])
            if not torch.allclose(table[0].float(), expected, atol=1e-3):
                raise CheckpointError(
                    f'the coordinate table of stage {stage} is not log-spaced as in the paper '
                    f'(equation 4); its position bias would be another here'
                )
    return windows


def check_windows(
    path: str | os.PathLike[str], windows: Mapping[int, tuple[int, ...]], model: SwinV2
) -> None:
    """Raise `CheckpointError` if a file's pre-trained windows are not those of the backbone."""
    ours = model.pretrained_window_sizes
    if any(ours[stage] != window for stage, window in windows.items()):
        recorded = [windows.get(stage, window) for stage, window in enumerate(ours)]
        raise CheckpointError(
            f'{path} was trained with other windows than the config says: set '
            f'pretrained_window_sizes={flat(recorded)}, it is {flat(ours)}. They fix the scale '
            'of the position bias; window_size itself is free'
        )


def flat(windows: Iterable[tuple[int, ...]]) -> list[int | tuple[int, ...]]:
    """Windows as configs spell them: a number where all axes are alike."""
    return [w[0] if len(set(w)) == 1 else w for w in windows]


def show(windows: Mapping[int, tuple[int, ...]]) -> str:
    """Windows of stages, for a log."""
    return ', '.join(
        f'stage {s}: {w}' for s, w in zip(windows, flat(windows.values()), strict=True)
    )
