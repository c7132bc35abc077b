"""SimMIM on all pictures, then a tenth of the labels; the same from scratch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmswinv2.models.simmim import NormalizedPixelLoss, SimMIMSwinTransformerV2

from . import data
from .training import Classifier, accuracy, batches, fit, fit_classifier, normalised

PATCH, MASKED = 4, 8  # pixels of a patch, and of a square of the mask
STRIDE = 16  # of the last map


@dataclass(frozen=True)
class Settings:
    pictures: int = 1000
    tested: int = 300
    labelled: float = 0.1
    side: int = 64
    mask_ratio: float = 0.6
    batch: int = 16
    pretraining: int = 400
    finetuning: tuple[int, ...] = (100, 200)
    lr: float = 2e-3


SETTINGS = Settings()
QUICK = Settings(pictures=40, tested=8, batch=4, pretraining=2, finetuning=(1, 2))


def backbone() -> SimMIMSwinTransformerV2:
    return SimMIMSwinTransformerV2(
        arch=dict(embed_dims=32, depths=(2, 2, 2), num_heads=(2, 4, 8)),
        window_size=8, out_indices=(2,), drop_path_rate=0.0,
    )  # fmt: skip


def draw_mask(count: int, side: int, ratio: float, chance: torch.Generator) -> Tensor:
    """``(count, side / 4, side / 4)``, ones in squares of 8 pixels, the same share everywhere."""
    across = side // MASKED
    order = torch.rand(count, across**2, generator=chance).argsort(1).argsort(1)
    mask = (order < round(ratio * across**2)).long().view(count, across, across)
    return mask.repeat_interleave(MASKED // PATCH, 1).repeat_interleave(MASKED // PATCH, 2)


def pretrain(
    network: SimMIMSwinTransformerV2, pictures: data.Split, settings: Settings, seed: int,
    device: str,
) -> list[float]:  # fmt: skip
    """The losses of SimMIM: masked pixels are painted from the last map by one linear layer."""
    decoder = nn.Sequential(
        nn.Conv2d(network.num_features[-1], STRIDE**2 * 3, 1), nn.PixelShuffle(STRIDE)
    ).to(device)
    loss = NormalizedPixelLoss()
    source = batches(pictures, settings.batch, seed, flips=True)
    chance = torch.Generator().manual_seed(seed)

    def loss_of() -> Tensor:
        x = normalised(next(source)[0].to(device))
        mask = draw_mask(len(x), settings.side, settings.mask_ratio, chance).to(device)
        pixels = mask.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, None]
        return loss(decoder(network(x, mask)[0]), x, pixels)

    network.train()
    both = [*network.parameters(), *decoder.parameters()]
    return fit(iter(both), loss_of, settings.pretraining, settings.lr)


def run(seed: int, settings: Settings, device: str) -> Iterator[dict[str, Any]]:
    """One row for each start and number of steps."""
    pictures = data.shapes(settings.pictures, 0, settings.side)
    tested = data.shapes(settings.tested, 1, settings.side)
    labelled = pictures.first(round(settings.labelled * settings.pictures))
    for start in ('scratch', 'SimMIM'):
        torch.manual_seed(seed)
        first = backbone().to(device)
        losses = pretrain(first, pictures, settings, seed, device) if start == 'SimMIM' else []
        for steps in settings.finetuning:
            torch.manual_seed(seed)
            model = Classifier(backbone(), data.CLASSES).to(device)
            model.network.load_state_dict(first.state_dict())
            ends = fit_classifier(
                model, labelled, steps, settings.batch, settings.lr, seed, flips=True
            )
            score = accuracy(model, tested)
            yield dict(start=start, steps=steps, accuracy=score, loss=ends[-1], pretraining=losses)
