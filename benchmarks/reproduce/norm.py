"""Activation amplitude by depth, and the largest learning rate that training survives."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmswinv2.core import SwinV2
from mmswinv2.core.block import Block

from . import data
from .controls import PreNormBlock
from .training import Classifier, fit_classifier

DESIGNS: dict[str, type[Block]] = {'V1': PreNormBlock, 'V2': Block}


@dataclass(frozen=True)
class Settings:
    pictures: int = 800
    side: int = 32
    batch: int = 16
    steps: int = 80
    sizes: tuple[tuple[str, int, int], ...] = (  # name, channels, blocks of the second stage
        ('small', 32, 6), ('wide', 64, 6), ('deep', 32, 18),
    )  # fmt: skip
    lr: float = 1e-3  # at which all sizes are trained
    swept: str = 'deep'  # the size that is trained at all rates
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


SETTINGS = Settings()
QUICK = Settings(pictures=32, batch=4, steps=2, sizes=(('deep', 16, 2),), rates=(1e-3, 1e-2))


def amplitude(x: Tensor) -> float:
    """Root of the mean square of a map."""
    return x.double().square().mean().sqrt().item()


@torch.no_grad()
def amplitudes(model: Classifier, inputs: Tensor) -> list[float]:
    """Amplitude of the main branch after each block, from the first to the last."""
    found: list[float] = []
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    hooks = [b.register_forward_hook(lambda _, __, y: found.append(amplitude(y))) for b in blocks]
    model(inputs.to(model.head.weight.device))
    for hook in hooks:
        hook.remove()
    return found


def survives(losses: list[float], classes: int = data.CLASSES) -> bool:
    """Whether the loss stayed finite and ended, over the last eighth, 5 % below its start.

    And below that of a network that gives all classes alike: it may start above.
    """
    end = losses[-max(len(losses) // 8, 1) :]
    limit = 0.95 * min(losses[0], math.log(classes))
    return math.isfinite(losses[-1]) and sum(end) / len(end) < limit


def largest(rates: dict[float, bool]) -> float | None:
    """The largest rate up to which every one survives; ``None``: the smallest does not."""
    good = None
    for rate in sorted(rates):
        if not rates[rate]:
            break
        good = rate
    return good


def run(seed: int, settings: Settings, device: str) -> Iterator[dict[str, Any]]:
    """One row for each training."""
    pictures = data.shapes(settings.pictures, 0, settings.side)
    probe = pictures.inputs[:64]
    for design, block in DESIGNS.items():
        for size, channels, depth in settings.sizes:
            for lr in settings.rates if size == settings.swept else (settings.lr,):
                torch.manual_seed(seed)
                network = SwinV2(
                    dict(embed_dims=channels, depths=(2, depth), num_heads=(2, 4)),
                    window_size=4, out_indices=(1,), block=block,
                )  # fmt: skip
                model = Classifier(network, data.CLASSES).to(device)
                start = amplitudes(model, probe)
                losses = fit_classifier(
                    model, pictures, settings.steps, settings.batch, lr, seed, flips=True
                )
                end = amplitudes(model, probe)
                yield dict(
                    design=design, size=size, lr=lr, loss=losses[-1], growth=end[-1] / end[0],
                    survives=survives(losses), start=start, end=end, losses=losses,
                )  # fmt: skip
