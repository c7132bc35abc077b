"""The loop, the classifier and the score that all experiments share."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmswinv2.core import SwinV2

from .data import Split


class Classifier(nn.Module):
    """A network's last map, its mean, and a linear layer."""

    def __init__(self, network: SwinV2, classes: int) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(network.num_features[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, *pixels)`` uint8 to ``(B, classes)``."""
        return self.head(self.network(normalised(x))[-1].flatten(2).mean(-1))


class DenseClassifier(Classifier):
    """A linear layer on each token of the last map."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, *pixels)`` uint8 to ``(B, classes, *S)``."""
        return self.head(self.network(normalised(x))[-1].movedim(1, -1)).movedim(-1, 1)


def normalised(x: Tensor) -> Tensor:
    """uint8 to float32 around zero."""
    return (x.float() - 128) / 64


def batches(data: Split, size: int, seed: int, flips: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end; an epoch sees each picture once, turned over by chance."""
    chance = torch.Generator().manual_seed(seed)
    queue = torch.empty(0, dtype=torch.long)
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, torch.randperm(len(data.labels), generator=chance)])
        chosen, queue = queue[:size], queue[size:]
        x = data.inputs[chosen]
        for axis in (-1, -2) if flips else ():
            turned = torch.rand(size, generator=chance) < 0.5
            x = torch.where(turned.view(-1, *[1] * (x.ndim - 1)), x.flip(axis), x)
        yield x, data.labels[chosen]


def fit(
    parameters: Iterator[nn.Parameter], loss_of: Callable[[], Tensor], steps: int, lr: float
) -> list[float]:
    """AdamW with a linear warm-up over a tenth of the steps, and a cosine to zero.

    Returns:
        the loss of each step; the last one is not finite if training broke down.
    """
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=0.05)
    warmup = max(steps // 10, 1)
    losses = []
    for step in range(steps):
        rate = min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group['lr'] = lr * rate
        loss = loss_of()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def fit_classifier(
    model: Classifier, data: Split, steps: int, batch: int, lr: float, seed: int, flips: bool
) -> list[float]:
    """`fit` on labels; returns its losses."""
    device = model.head.weight.device
    source = batches(data, batch, seed, flips)

    def loss_of() -> Tensor:
        x, y = next(source)
        return F.cross_entropy(model(x.to(device)), y.to(device))

    model.train()
    return fit(model.parameters(), loss_of, steps, lr)


@torch.no_grad()
def predicted(model: Classifier, inputs: Tensor, batch: int = 32) -> Tensor:
    """``(n, ...)`` classes."""
    device = model.head.weight.device
    model.eval()
    return torch.cat([model(x.to(device)).argmax(1).cpu() for x in inputs.split(batch)])


def accuracy(model: Classifier, data: Split) -> float:
    """Share of right answers."""
    return (predicted(model, data.inputs) == data.labels).double().mean().item()
