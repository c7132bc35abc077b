"""Block sizes of the attention kernels: a table by compute capability of the GPU and window.

``python -m benchmarks.kernels --tune`` measures on the local GPU and writes `blocks.json`.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

FILE = Path(__file__).with_name('blocks.json')


class Blocks(NamedTuple):
    """Queries and keys in a block, and Triton's `num_warps` and `num_stages`."""

    queries: int
    keys: int
    warps: int
    stages: int


def choose_blocks(
    kernel: str, device: torch.device, tokens: int, width: int, itemsize: int
) -> Blocks:
    """The blocks of a kernel.

    Args:
        kernel: ``'forward'``, ``'backward_q'``, ``'backward_kv'`` or ``'backward_table'``.
        device: where it runs.
        tokens: in the largest window.
        width: of a head, a power of two.
        itemsize: bytes of a number.

    Returns:
        Those of the highest tuned compute capability not above the device's, and of the smallest
        tuned head and window that are not smaller than the given ones; else of the nearest.
    """
    return _look_up(kernel, _capability(device), tokens, width, itemsize)


@cache
def _look_up(kernel: str, capability: int, tokens: int, width: int, itemsize: int) -> Blocks:
    rows = [row for row in table() if row['kernel'] == kernel and row['itemsize'] == itemsize]
    cards = {row['capability'] for row in rows}
    card = max((c for c in cards if c <= capability), default=min(cards))
    rows = [row for row in rows if row['capability'] == card]
    for name, value in (('width', width), ('tokens', tokens)):
        values = {row[name] for row in rows}
        fitting = min((v for v in values if v >= value), default=max(values))
        rows = [row for row in rows if row[name] == fitting]
    return Blocks(*rows[0]['blocks'])


@cache
def table() -> list[dict]:
    """The rows of `blocks.json`."""
    return json.loads(FILE.read_text())


@cache
def _capability(device: torch.device) -> int:
    if device.type != 'cuda' or not torch.cuda.is_available():  # interpreted, or fake tensors
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
