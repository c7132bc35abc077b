"""Train at window 8, test at larger windows on the same pictures, grown in proportion."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mmswinv2.core import SwinV2
from mmswinv2.core.block import Block

from . import data
from .controls import FastTable, LearntTable, LinearBias, NoBias, block_with
from .training import Classifier, accuracy, fit_classifier

BIASES: dict[str, type[Block]] = {
    'log-spaced': Block,
    'linear-spaced': block_with(LinearBias),
    'table, bicubic': block_with(LearntTable),
    'table, lr x 10': block_with(FastTable),
    'none': block_with(NoBias),
}
PIXELS = 8  # sides of the pictures over the window: maps of 2 and 1 windows a side


@dataclass(frozen=True)
class Settings:
    pictures: int = 1000
    tested: int = 300
    batch: int = 16
    steps: int = 400
    lr: float = 3e-3
    windows: tuple[int, ...] = (8, 12, 16, 24)


SETTINGS = Settings()
QUICK = Settings(pictures=16, tested=8, batch=4, steps=2, windows=(8, 12))


def transfer(
    seed: int, settings: Settings, device: str, draw: Callable[[int, int, int], data.Split],
    depths: tuple[int, int], kind: type[Classifier], flips: bool,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row for each bias and window.

    Args:
        seed: of weights and batches.
        settings: what to do.
        device: where.
        draw: gives pictures, from their number, the split and the side.
        depths: of the network.
        kind: of the classifier.
        flips: whether a picture that is turned over keeps its labels.
    """
    small, *_ = settings.windows
    pictures = draw(settings.pictures, 0, PIXELS * small)
    for bias, block in BIASES.items():
        torch.manual_seed(seed)
        network = SwinV2(
            dict(embed_dims=32, depths=depths, num_heads=(2, 4)),
            window_size=small, pretrained_window_sizes=small, out_indices=(1,), block=block,
        )  # fmt: skip
        model = kind(network, data.CLASSES).to(device)
        losses = fit_classifier(
            model, pictures, settings.steps, settings.batch, settings.lr, seed, flips
        )
        for window in settings.windows:
            network.window_size = window
            score = accuracy(model, draw(settings.tested, 1, PIXELS * window))
            yield dict(bias=bias, window=window, accuracy=score, loss=losses[-1])


def run(seed: int, settings: Settings, device: str) -> Iterator[dict[str, Any]]:
    """Which shape it is."""
    return transfer(seed, settings, device, data.shapes, (2, 4), Classifier, flips=True)
