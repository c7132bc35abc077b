import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmswinv2.engine.repeatable import Draw, SeedSample, _Numbered

from mmswinv2.engine import CheckInvalidLossHook


def sampler(kind, rank, world_size, **kwargs):
    """A sampler of mmengine as one of several processes has it."""
    made = kind(list(range(10)), shuffle=True, seed=3, **kwargs)
    if kind is InfiniteSampler:
        made.rank, made.world_size = rank, world_size
        made.indices = made._indices_of_rank()
    else:
        made.rank, made.world_size = rank, world_size
        made.num_samples, made.total_size = 10 // world_size, 10
    return made


def first(numbered, count):
    return [(int(i), i.seed) for i, _ in zip(numbered, range(count), strict=False)]


@pytest.mark.parametrize('kind', [InfiniteSampler, DefaultSampler])
def test_two_processes_draw_what_one_draws(kind):
    alone = first(_Numbered(sampler(kind, 0, 1), 7), 10)
    parts = [first(_Numbered(sampler(kind, rank, 2), 7), 5) for rank in (0, 1)]
    assert [pair for both in zip(*parts, strict=True) for pair in both] == alone
    assert len({seed for _, seed in alone}) == 10
    other = first(_Numbered(sampler(kind, 0, 1), 8), 10)
    assert not {seed for _, seed in other} & {seed for _, seed in alone}


def test_epochs_differ_and_repeat():
    inner = sampler(DefaultSampler, 0, 1)
    numbered = _Numbered(inner, 7)
    epochs = []
    for epoch in (0, 1, 0):
        numbered.set_epoch(epoch)
        epochs.append(list(map(tuple, first(numbered, 10))))
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(numbered) == 10


@pytest.mark.skipif(
    not hasattr(InfiniteSampler, 'skip'), reason='mmengine 0.10.7 draws what it passes over'
)
def test_passing_over_keeps_count():
    whole = first(_Numbered(sampler(InfiniteSampler, 0, 1), 7), 12)
    inner = sampler(InfiniteSampler, 0, 1)
    numbered = _Numbered(inner, 7)
    inner.skip = numbered.skip
    inner.skip(5)
    assert first(numbered, 7) == whole[5:]


def test_draws_survive_workers_and_wrappers():
    draw = pickle.loads(pickle.dumps(Draw(5, 99)))
    assert (draw, draw.seed) == (5, 99)
    for moved in (draw - 3, draw % 3):
        assert (moved, moved.seed) == (2, 99)


def test_a_sample_is_seeded():
    def numbers(index):
        results = SeedSample()({'sample_idx': index})
        assert type(results['sample_idx']) is int
        return random.random(), np.random.rand(), float(torch.rand(()))

    assert numbers(Draw(1, 11)) == numbers(Draw(2, 11)) != numbers(Draw(1, 12))
    assert numbers(3) != numbers(3)  # an index of another sampler


@pytest.mark.parametrize('wrong', [-1, 2.0, True, 'all'])
def test_wrong_number_of_skips(wrong):
    with pytest.raises(ValueError, match=f'max_skips must be a number of batches .* got {wrong!r}'):
        CheckInvalidLossHook(max_skips=wrong)
