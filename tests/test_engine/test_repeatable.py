"""Seeds of samples and iterations; test_resume.py resumes inside of epochs."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.runner import Runner

from mmswinv2.engine import RepeatableHook
from mmswinv2.engine.repeatable import Draw, SeededInfo, _Numbered
from tests.test_engine.test_resume import Model


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
    draw = pickle.loads(pickle.dumps(Draw(5, (9, 9))))
    assert (draw, draw.seed) == (5, (9, 9))
    for moved in (draw - 3, draw % 3):
        assert (moved, moved.seed) == (2, (9, 9))


def test_a_sample_is_seeded():
    def numbers(index):
        assert type(SeededInfo(lambda idx: {'sample_idx': idx})(index)['sample_idx']) is int
        return random.random(), np.random.rand(), float(torch.rand(()))

    assert numbers(Draw(1, (11,))) == numbers(Draw(2, (11,))) != numbers(Draw(1, (12,)))
    assert numbers(3) != numbers(3)  # a plain index is not seeded


def noise(results):
    assert type(results['sample_idx']) is int
    return {'inputs': torch.rand(2), 'after': 0}


def other_noise(results):
    return {'inputs': torch.rand(2), 'after': 1}


@pytest.mark.parametrize('workers', [0, 1])
def test_samples_are_seeded_whatever_pipeline_they_have(tmp_path, workers):
    """Seeding must survive mmdet's PipelineSwitchHook, which replaces the pipeline in a run."""
    drawn = []
    for number in range(2):
        dataset = BaseDataset(lazy_init=True, serialize_data=False, pipeline=[noise])
        dataset.data_list, dataset._fully_initialized = [{} for _ in range(8)], True
        train = Runner(
            Model(), str(tmp_path), train_cfg=dict(by_epoch=True, max_epochs=2),
            train_dataloader=dict(
                batch_size=2, dataset=dataset, num_workers=workers,
                persistent_workers=bool(workers),
                sampler=dict(type='DefaultSampler', shuffle=False)),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), randomness=dict(seed=3),
            experiment_name=f'switch-{workers}-{number}',
        )  # fmt: skip
        hook = RepeatableHook()
        hook.before_train(train)
        switch = PipelineSwitchHook(switch_epoch=1, switch_pipeline=[other_noise])
        loader, batches = train.train_loop.dataloader, []
        for epoch in (0, 1):
            train.train_loop._epoch = epoch
            switch.before_train_epoch(train)
            loader.batch_sampler.sampler.set_epoch(epoch)
            random.seed(number)
            torch.manual_seed(number)
            batches += list(loader)
        assert [batch['after'][0] for batch in batches] == 4 * [0] + 4 * [1]
        drawn.append(torch.stack([torch.stack(batch['inputs']) for batch in batches]))
    assert torch.equal(*drawn)
    assert drawn[0].unique().numel() == drawn[0].numel()  # each sample and epoch has its own noise
