"""The transfer of `window` on a task that is about nothing but offsets: where is the disc?

Each token of the last map tells whether the disc is to the left, to the right, above or below. The
position bias tells where another token is; what a token shows of the disc's edge tells a little.
"""

from collections.abc import Iterator
from typing import Any

from . import data, window
from .training import DenseClassifier

SETTINGS = window.Settings(tested=100, steps=250)
QUICK = window.QUICK


def run(seed: int, settings: window.Settings, device: str) -> Iterator[dict[str, Any]]:
    """On which side it is."""
    # turned over, left would be right
    return window.transfer(seed, settings, device, data.discs, (2, 2), DenseClassifier, flips=False)
