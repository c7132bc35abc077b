"""Whether the order of frames matters: trained and tested on frames in order and shuffled."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mmswinv2.core import SwinV2

from . import data
from .training import Classifier, fit_classifier, predicted

DIRECTIONS = 4  # left, right, up, down are the first classes
CLASSES = 6


@dataclass(frozen=True)
class Settings:
    clips: int = 1000
    tested: int = 300
    side: int = 32
    frames: int = 8
    batch: int = 16
    steps: int = 300
    lr: float = 2e-3


SETTINGS = Settings()
QUICK = Settings(clips=24, tested=12, batch=4, steps=2)


def shuffled(clips: data.Split, seed: int) -> data.Split:
    """Each clip's frames in an order of its own."""
    count, _, frames = clips.inputs.shape[:3]
    order = torch.rand(count, frames, generator=torch.Generator().manual_seed(seed)).argsort(1)
    index = order.view(count, 1, frames, 1, 1).expand_as(clips.inputs)
    return data.Split(clips.inputs.gather(2, index), clips.labels)


def both_shuffled(trained: data.Split, tested: data.Split, seed: int) -> tuple[data.Split, ...]:
    """Clips of training and of test, in orders that have nothing to do with each other."""
    return shuffled(trained, 2 * seed), shuffled(tested, 2 * seed + 1)


def run(seed: int, settings: Settings, device: str) -> Iterator[dict[str, Any]]:
    """One row for each order of training and of test."""
    sizes = (settings.side, settings.frames)
    trained = data.motion(settings.clips, 0, *sizes)
    tested = data.motion(settings.tested, 1, *sizes)
    orders = {'in order': (trained, tested), 'shuffled': both_shuffled(trained, tested, seed)}
    for training, (clips, _) in orders.items():
        torch.manual_seed(seed)
        network = SwinV2(
            dict(embed_dims=32, depths=(2, 2, 2), num_heads=(2, 4, 8)), patch_size=(2, 4, 4),
            merge_stride=(1, 2, 2), window_size=[(4, 8, 8)] * 3, out_indices=(2,),
        )  # fmt: skip
        model = Classifier(network, CLASSES).to(device)
        # the other way round is another class
        losses = fit_classifier(
            model, clips, settings.steps, settings.batch, settings.lr, seed, flips=False
        )
        for test, (_, some) in orders.items():
            hits = (predicted(model, some.inputs) == some.labels).double()
            yield dict(
                trained=training, tested=test, accuracy=hits.mean().item(),
                directions=hits[some.labels < DIRECTIONS].mean().item(), loss=losses[-1],
            )  # fmt: skip
