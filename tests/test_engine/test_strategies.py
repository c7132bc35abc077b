import os
import shutil

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmswinv2.engine.strategies import DeepSpeedStrategy, find_ninja
from mmswinv2.errors import UserError
from tests.test_tools.conftest import ROOT, server, tool  # noqa: F401  a fixture


def test_ninja_is_found_beside_the_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert shutil.which('ninja') is None
    find_ninja()
    assert shutil.which('ninja')
    found = os.environ['PATH']
    find_ninja()
    assert os.environ['PATH'] == found


@pytest.mark.parametrize(('iterations', 'rest'), [(8, 2), (9, 0), (0, 0)])
def test_gradients_that_deepspeed_does_not_use_are_told(iterations, rest, warned):
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    strategy.config = dict(gradient_accumulation_steps=3)
    strategy._warn_of_rest(iterations, 'the training has {}')
    told = [text for text in warned if f'the gradients of the last {rest} are lost' in text]
    assert len(warned) == len(told) == bool(rest)


def translated(**wrapper):
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    strategy.config = {}
    return strategy._translated(dict(optimizer=dict(type='SGD'), **wrapper)), strategy.config


@pytest.mark.parametrize('kind', [OptimWrapper, 'mmengine.OptimWrapper', 'OptimWrapper'])
@pytest.mark.parametrize('clip', [dict(type='norm', max_norm=1), dict(max_norm=1, norm_type=2.0)])
def test_every_name_of_what_deepspeed_has_too(kind, clip):
    wrapper, config = translated(type=kind, clip_grad=clip)
    assert wrapper == dict(type='DeepSpeedOptimWrapper', optimizer=dict(type='SGD'))
    assert config == dict(gradient_clipping=1)


@pytest.mark.parametrize('dtype', [torch.bfloat16, 'bfloat16'])
def test_every_name_of_bfloat16(dtype):
    _, config = translated(type=AmpOptimWrapper, dtype=dtype, loss_scale='dynamic')
    assert config == dict(torch_autocast=dict(enabled=True, dtype='bfloat16'))


@pytest.mark.parametrize(
    ('wrapper', 'words'),
    [
        (dict(clip_grad=dict(type='value', clip_value=1)), 'clips by the 2-norm'),
        (
            dict(clip_grad=dict(norm_type=1, max_norm=1)),
            "clip_grad={'norm_type': 1, 'max_norm': 1}: ",
        ),
        (dict(clip_grad=dict(norm_type=2)), 'set max_norm alone'),
        (dict(type=AmpOptimWrapper), 'AmpOptimWrapper with dtype=float16'),
        (dict(type='ApexOptimWrapper'), 'ApexOptimWrapper has no counterpart'),
    ],
    ids=str,
)
def test_what_deepspeed_does_not_have(wrapper, words):
    with pytest.raises(UserError, match=words):
        translated(**wrapper)


TWO = """
import os
import sys
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.engine import CheckInvalidLossHook, RepeatableHook


class FirstSaves(Hook):
    # by one process, as mmengine allows, also in the middle of a group of batches

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == 0:
            runner.save_checkpoint(runner.work_dir, 'first.pth', by_epoch=False)


class Model(BaseModel):
    def __init__(self, whole):
        super().__init__()
        self.whole = whole
        self.fc, self.odd, self.idle = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(inputs)
        loss = self.fc(x).square().mean()
        if x[0, 0] > 0 or self.whole:  # two samples, of the first process
            loss = loss + self.odd(x).square().mean()
        if self.whole:
            loss = loss + self.idle(x).square().mean()
        return {'loss': loss}


def initial(whole):
    torch.manual_seed(2)
    return Model(whole)


def samples():
    torch.manual_seed(1)
    data = [{'inputs': torch.randn(2)} for _ in range(16)]
    for i, sample in enumerate(data):
        sample['inputs'][0] = abs(sample['inputs'][0]) * (1 if i in (2, 6) else -1)
    return data


def train(strategy, start=None, bad=5, interval=1):
    data = samples()
    data[bad]['inputs'][1] = float('nan')
    settings = dict(strategy=dict(type=strategy)) if strategy else {}
    folder = sys.argv[1] + '/' + strategy
    runner = (FlexibleRunner if settings else Runner)(
        initial(bool(strategy)),
        work_dir=f'{folder}_{start}_{bad}',
        train_dataloader=dict(
            batch_size=1, dataset=data, sampler=dict(type='InfiniteSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=7),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5), accumulative_counts=3
        ),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=interval)
        ),
        custom_hooks=[
            CheckInvalidLossHook(max_skips=1), RepeatableHook(), *[FirstSaves()] * (not strategy)
        ],
        load_from=start and f'{folder}_None_{bad}/iter_{start}.pth',
        resume=bool(start),
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        experiment_name=f'{strategy} {start} {bad}',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', find_unused_parameters=True, device_ids=None
            )
        ),
        **settings,
    )
    runner.train()
    torch.distributed.barrier()
    end = read_checkpoint(runner.work_dir + '/iter_7.pth')
    if not strategy:  # all processes have the same weights
        own = dict(runner.model.module.state_dict())
        torch.testing.assert_close(own, dict(end['state_dict']), rtol=0, atol=0)
    return dict(end['state_dict']), end['optimizer']['state']


torch.distributed.init_process_group(
    'gloo', 'file://' + sys.argv[1] + '/store', rank=int(os.environ['RANK']), world_size=2
)
train('', bad=9, interval=7)  # passed over within a group, after one process has used a part
for strategy in ('', 'mmswinv2.FSDPStrategy'):
    end = train(strategy)
    for start in (2, 4):
        torch.testing.assert_close(train(strategy, start), end, rtol=0, atol=0)
    model, data = initial(bool(strategy)), samples()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for group, divisor in (([0, 1], 3), ([3, 4, 5], 3), ([6], 1)):
        for sample in (sample for i in group for sample in data[2 * i : 2 * i + 2]):
            (model([sample['inputs']])['loss'] / divisor / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(dict(model.state_dict()), end[0])
"""


def test_gradients_that_wait_for_an_update_are_resumed_over_processes(tool, tmp_path):  # noqa: F811
    """Also where a process has no gradient of a part, and where a batch is passed over."""
    (tmp_path / 'run.py').write_text(TWO)
    shared = dict(WORLD_SIZE='2', OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    ranks = [{**os.environ, **shared, 'RANK': rank, 'LOCAL_RANK': rank} for rank in '01']
    server().run(tmp_path / 'run.py', [tmp_path], ROOT, *ranks).succeeded()
