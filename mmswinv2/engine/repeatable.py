"""The same random numbers whether a run was interrupted or not, on one process or on many.

Random numbers usually follow from the state of generators, which a killed run takes with it. Here
they follow from where the training is: those of a sample from its place in the order of all
samples, those of the model from the iteration.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from ..errors import leaves
from ..registry import HOOKS

__all__ = ['Draw', 'RepeatableHook', 'SeedSample']


class Draw(int):
    """The index of a sample that knows the seed of its random numbers."""

    seed: int

    def __new__(cls, index: int, seed: int) -> Draw:
        """Make an index."""
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.seed

    def __sub__(self, other: int) -> Draw:
        return Draw(int(self) - other, self.seed)  # as ConcatDataset does

    def __mod__(self, other: int) -> Draw:
        return Draw(int(self) % other, self.seed)  # as RepeatDataset does


class SeedSample:
    """Seeds python, NumPy and torch for one sample; `RepeatableHook` puts it first."""

    def __call__(self, results: dict) -> dict:
        """Seed, if the sample is a `Draw`."""
        if isinstance(draw := results.get('sample_idx'), Draw):
            _seed_all(draw.seed)
            results['sample_idx'] = int(draw)
        return results


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Gives every sample and every iteration random numbers of its own; the tools add it.

    A run that is resumed ends like one that never stopped, and one of several processes augments
    a batch like one of a single process. Samplers other than mmengine's are left as they are, and
    so are data sets that look samples up in a list of their own, as ClassBalancedDataset does.
    """

    def before_train(self, runner: Any) -> None:
        """Number what the sampler draws."""
        self.seed = runner.seed
        loader = runner.train_loop.dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        if not isinstance(sampler, (DefaultSampler, InfiniteSampler)):
            return
        loader.batch_sampler.sampler = numbered = _Numbered(sampler, self.seed)
        if hasattr(sampler, 'skip'):
            sampler.skip = numbered.skip
        for dataset in leaves(loader.dataset):
            if hasattr(getattr(dataset, 'pipeline', None), 'transforms'):
                dataset.pipeline.transforms.insert(0, SeedSample())

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed what the model draws: dropped paths, sampled boxes."""
        _seed_all(_mix(self.seed, runner.iter, get_rank()), cuda=True)


class _Numbered:
    """A sampler whose indices know their place in the order of all processes' samples."""

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed, self.drawn = sampler, seed, 0
        self._skip = getattr(sampler, 'skip', None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Draw]:
        epoch = getattr(self.sampler, 'epoch', None)  # an endless sampler has none
        if epoch is not None:
            self.drawn = 0
        for index in self.sampler:
            place = self.drawn * self.sampler.world_size + self.sampler.rank
            self.drawn += 1
            yield Draw(index, _mix(self.seed, epoch or 0, place))

    def skip(self, num_samples: int) -> None:
        """Pass over samples of this process that an interrupted run has had."""
        self.drawn = num_samples
        self._skip(num_samples)


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _seed_all(seed: int, cuda: bool = False) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if cuda and torch.cuda.is_available():
        torch.cuda.manual_seed(seed)
