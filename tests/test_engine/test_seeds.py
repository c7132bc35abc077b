"""Seeds that indices of samples carry."""

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmswinv2.engine.seeds import SeededIndex, SeededInfo, SeededSampler, seed_samples


def sampler(kind, rank, world_size, **kwargs):
    """A sampler of mmengine as seen by one of several processes."""
    made = kind(list(range(10)), shuffle=True, seed=3, **kwargs)
    if kind is InfiniteSampler:
        made.rank, made.world_size = rank, world_size
        made.indices = made._indices_of_rank()
    else:
        made.rank, made.world_size = rank, world_size
        made.num_samples, made.total_size = 10 // world_size, 10
    return made


def first(seeded, count):
    return [(int(i), i.seed) for i, _ in zip(seeded, range(count), strict=False)]


@pytest.mark.parametrize('kind', [InfiniteSampler, DefaultSampler])
def test_two_processes_draw_what_one_draws(kind):
    alone = first(SeededSampler(sampler(kind, 0, 1), 7), 10)
    parts = [first(SeededSampler(sampler(kind, rank, 2), 7), 5) for rank in (0, 1)]
    assert [pair for both in zip(*parts, strict=True) for pair in both] == alone
    assert len({seed for _, seed in alone}) == 10
    other = first(SeededSampler(sampler(kind, 0, 1), 8), 10)
    assert not {seed for _, seed in other} & {seed for _, seed in alone}


def test_epochs_differ_and_repeat():
    inner = sampler(DefaultSampler, 0, 1)
    seeded = SeededSampler(inner, 7)
    epochs = []
    for epoch in (0, 1, 0):
        seeded.set_epoch(epoch)
        epochs.append(list(map(tuple, first(seeded, 10))))
    assert epochs[0] == epochs[2]
    assert not {seed for _, seed in epochs[0]} & {seed for _, seed in epochs[1]}
    assert len(seeded) == 10


@pytest.mark.skipif(
    not hasattr(InfiniteSampler, 'skip'), reason='mmengine 0.10.7 draws what it passes over'
)
def test_passing_over_keeps_count():
    whole = first(SeededSampler(sampler(InfiniteSampler, 0, 1), 7), 12)
    inner = sampler(InfiniteSampler, 0, 1)
    seeded = SeededSampler(inner, 7)
    inner.skip = seeded.skip
    inner.skip(5)
    assert first(seeded, 7) == whole[5:]


def test_seeded_indices_survive_workers_and_wrappers():
    index = pickle.loads(pickle.dumps(SeededIndex(5, (9, 9))))
    assert (index, index.seed) == (5, (9, 9))
    for moved in (index - 3, index % 3):
        assert (moved, moved.seed) == (2, (9, 9))


def test_wrappers_of_wrappers_keep_the_seed_of_an_index():
    balanced = SimpleNamespace(repeat_indices=[4, 4, 7])  # as ClassBalancedDataset has them
    drawing = SimpleNamespace(sampler=sampler(DefaultSampler, 0, 1))
    joined = SimpleNamespace(datasets=[balanced])
    seed_samples(SimpleNamespace(dataset=joined, batch_sampler=drawing), 7)
    index = balanced.repeat_indices[SeededIndex(2, (9,))]
    assert (index, index.seed) == (7, (9,)) and type(balanced.repeat_indices[2]) is int


def unwrapped(function):
    def call(*args):  # without functools.wraps, and so unknown to pickle
        return function(*args)

    return call


class OfBatches:
    @unwrapped
    def __getitems__(self, indices):
        return [(int(index), random.random()) for index in indices]


class HandsOn:
    def __init__(self):
        self.inner = OfBatches()

    def __getattr__(self, name):
        return getattr(vars(self).get('inner'), name)  # none yet in unpickling


def test_batches_are_seeded_where_the_class_loads_them():
    drawing = SimpleNamespace(sampler=sampler(DefaultSampler, 0, 1))
    batch = [SeededIndex(3, (11,)), SeededIndex(1, (12,))]
    loaded = []
    for dataset in (OfBatches(), OfBatches(), HandsOn()):
        seed_samples(SimpleNamespace(dataset=dataset, batch_sampler=drawing), 7)
        loaded.append(pickle.loads(pickle.dumps(dataset)).__getitems__(batch))  # as for workers
    assert [[index for index, _ in samples] for samples in loaded] == [[3, 1]] * 3
    assert loaded[0] == loaded[1] != loaded[2]


def test_a_sample_is_seeded():
    def numbers(index):
        assert type(SeededInfo(lambda idx: {'sample_idx': idx})(index)['sample_idx']) is int
        return random.random(), np.random.rand(), float(torch.rand(()))

    first, same, other = ((1, (11,)), (2, (11,)), (1, (12,)))
    drawn = numbers(SeededIndex(*first))
    assert drawn == numbers(SeededIndex(*same)) != numbers(SeededIndex(*other))
    assert numbers(3) != numbers(3)  # a plain index is not seeded
