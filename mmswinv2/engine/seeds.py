"""A random seed for every sample that a data loader loads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from .. import hosts
from ..hosts.configs import wrapped_datasets


def seed_samples(loader: Any, seed: int) -> None:
    """Attach a seed to every index that the sampler of a data loader draws."""
    sampler = loader.batch_sampler.sampler
    loader.batch_sampler.sampler = seeded = SeededSampler(sampler, seed)
    if hasattr(sampler, 'skip'):
        sampler.skip = seeded.skip
    described = [d for d in hosts.inner_datasets(loader.dataset) if hasattr(d, 'get_data_info')]
    for dataset in described:
        dataset.get_data_info = SeededInfo(dataset.get_data_info)
    inner = loader.dataset
    while isinstance(inner, Subset):  # which hands batches on
        inner = inner.dataset
    # set on the object, or taken from another data set by __getattr__: not replaced
    own = hasattr(inner, '__getitems__') and not hasattr(type(inner), '__getitems__')
    if not described and hasattr(inner, '__dict__') and not own:
        inner.__getitems__ = SeededItems(inner)  # of torch's own kind
    _keep_seeds(loader.dataset)


class SeededIndex(int):
    """The index of a sample, with the numbers that seed its random numbers."""

    seed: tuple[int, ...]

    def __new__(cls, index: int, seed: tuple[int, ...]) -> SeededIndex:
        """Make an index."""
        seeded = super().__new__(cls, index)
        seeded.seed = seed
        return seeded

    def __getnewargs__(self) -> tuple[int, tuple[int, ...]]:  # type: ignore[override]
        return int(self), self.seed

    def __sub__(self, other: int) -> SeededIndex:
        return SeededIndex(int(self) - other, self.seed)  # as ConcatDataset does

    def __mod__(self, other: int) -> SeededIndex:
        return SeededIndex(int(self) % other, self.seed)  # as RepeatDataset does


class SeededInfo:
    """Replaces a data set's `get_data_info`, and seeds Python, NumPy and torch for a `SeededIndex`.

    Every sample starts with a call of `get_data_info`, even after PipelineSwitchHook has replaced
    the pipeline.
    """

    def __init__(self, get_data_info: Callable[[int], dict]) -> None:
        self.get_data_info = get_data_info

    def __call__(self, idx: int) -> dict:
        """The data set's information about the sample with this index."""
        if isinstance(idx, SeededIndex):
            seed_all(*idx.seed)
            idx = int(idx)
        return self.get_data_info(idx)


class SeededItems:
    """The ``__getitems__`` of a data set that is not mmengine's, by which torch loads a batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, indices: list[Any]) -> list[Any]:
        """The samples with these indices, each with its seed, or all with that of the first."""
        # looked up in each call, as functions of some decorators cannot be pickled
        load_batch = getattr(type(self.dataset), '__getitems__', None)
        if load_batch is None:
            return list(map(SeededInfo(self.dataset.__getitem__), indices))
        if isinstance(first := indices[0], SeededIndex):
            seed_all(*first.seed)
        return load_batch(self.dataset, indices)


class SeededSampler:
    """A sampler whose indices carry a seed from their position in the order over all processes."""

    def __init__(self, sampler: Any, seed: int) -> None:
        self.sampler, self.seed, self.drawn = sampler, seed, 0
        self._skip: Any = getattr(sampler, 'skip', None)
        if self._skip is not None:  # mmengine asks whether there is one
            self.skip = self._skip_samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        epoch = getattr(self.sampler, 'epoch', None)  # an endless sampler has none
        if epoch is not None:
            self.drawn = 0
        for index in self.sampler:
            place = self.drawn * self.sampler.world_size + self.sampler.rank
            self.drawn += 1
            whole = isinstance(index, (int, np.integer))  # mmdet's for tracking draw pairs
            yield SeededIndex(index, (self.seed, epoch or 0, place)) if whole else index

    def _skip_samples(self, num_samples: int) -> None:
        """Skip what this process has used; loops of the user do so, whose `run` is their own."""
        self.drawn = num_samples
        self._skip(num_samples)


class _SeededIndices(list):
    """Indices that a wrapper repeats or picks; that of a `SeededIndex` keeps its seed."""

    def __getitem__(self, place: Any) -> Any:
        index = super().__getitem__(place)
        return SeededIndex(index, place.seed) if isinstance(place, SeededIndex) else index


def _keep_seeds(dataset: Any) -> None:
    """Let wrappers that look an index up in a list, as ClassBalancedDataset, keep its seed."""
    if hasattr(dataset, 'repeat_indices'):
        dataset.repeat_indices = _SeededIndices(dataset.repeat_indices)
    if isinstance(dataset, Subset):
        dataset.indices = _SeededIndices(dataset.indices)
    for inner in wrapped_datasets(dataset):
        _keep_seeds(inner)


def seed_all(*numbers: int, cuda: bool = False) -> None:
    """Seed Python, NumPy and torch, and the GPU if `cuda`, by whole numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if cuda and torch.cuda.is_available():
        torch.cuda.manual_seed(seed)
