"""Seeds of samples and iterations; test_resume.py resumes inside of epochs."""

import random

import pytest
import torch
from mmdet.datasets.samplers import ClassAwareSampler
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner

from mmswinv2.engine import RepeatableHook
from tests.test_engine.test_resume import Model


def noise(results):
    assert type(results['sample_idx']) is int
    return {'inputs': torch.rand(2), 'after': 0}


def other_noise(results):
    return {'inputs': torch.rand(2), 'after': 1}


class TwoClasses(BaseDataset):
    def get_cat_ids(self, idx):
        return [idx % 2]


@pytest.mark.parametrize(
    ('workers', 'sampler'),
    [
        (0, dict(type='DefaultSampler', shuffle=False)),
        (1, dict(type='DefaultSampler', shuffle=False)),
        (1, dict(type=ClassAwareSampler)),
    ],
)
def test_samples_are_seeded_whatever_pipeline_they_have(tmp_path, workers, sampler):
    """Seeding must survive mmdet's PipelineSwitchHook, which replaces the pipeline in a run."""
    drawn = []
    for number in range(2):
        dataset = TwoClasses(
            metainfo=dict(classes=('even', 'odd')),
            lazy_init=True,
            serialize_data=False,
            pipeline=[noise],
        )
        dataset.data_list, dataset._fully_initialized = [{} for _ in range(8)], True
        train = Runner(
            Model(), str(tmp_path), train_cfg=dict(by_epoch=True, max_epochs=2),
            train_dataloader=dict(
                batch_size=2, dataset=dataset, num_workers=workers,
                persistent_workers=bool(workers),
                sampler=sampler),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), randomness=dict(seed=3),
            experiment_name=f'{tmp_path.name}-{number}',
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
