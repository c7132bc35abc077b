import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmswinv2.engine.strategies import DeepSpeedStrategy, find_ninja
from mmswinv2.errors import UserError


def test_ninja_is_found_beside_the_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert shutil.which('ninja') is None
    find_ninja()
    assert shutil.which('ninja')
    found = os.environ['PATH']
    find_ninja()
    assert os.environ['PATH'] == found


@pytest.mark.parametrize(('iterations', 'rest'), [(8, 2), (9, 0), (0, 0)])
def test_gradients_that_deepspeed_does_not_use_are_told(iterations, rest):
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    strategy.config = dict(gradient_accumulation_steps=3)
    strategy._warn_of_rest(iterations, 'the training has {}')
    logger.removeHandler(handler)
    told = [text for text in records if f'the gradients of the last {rest} are lost' in text]
    assert len(records) == len(told) == bool(rest)


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
import sys
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.engine import CheckInvalidLossHook, RepeatableHook


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc, self.odd, self.idle = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(inputs)
        loss = self.fc(x).square().mean()
        if x[0, 0] > 0 or len(sys.argv) > 5:  # two samples, of which the first process has one
            loss = loss + self.odd(x).square().mean()
        if len(sys.argv) > 5:
            loss = loss + self.idle(x).square().mean()
        return {'loss': loss}


def initial():
    torch.manual_seed(2)
    return Model()


def samples():
    torch.manual_seed(1)
    data = [{'inputs': torch.randn(2)} for _ in range(16)]
    for i, sample in enumerate(data):
        sample['inputs'][0] = abs(sample['inputs'][0]) * (1 if i in (2, 6) else -1)
    return data


def train(name, resume=None, nan=()):
    data = samples()
    for i in nan:
        data[i]['inputs'][1] = float('nan')
    settings = dict(strategy=eval(sys.argv[4])) if sys.argv[4] else {}
    runner = (FlexibleRunner if settings else Runner)(
        initial(),
        work_dir=sys.argv[2] + name,
        train_dataloader=dict(
            batch_size=1, dataset=data, sampler=dict(type='InfiniteSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=7),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5), accumulative_counts=3
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[CheckInvalidLossHook(max_skips=len(nan)), RepeatableHook()],
        load_from=resume,
        resume=bool(resume),
        launcher='pytorch',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        experiment_name=name,
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', find_unused_parameters=True, device_ids=None
            )
        ),
        **settings,
    )
    runner.train()
    torch.distributed.barrier()
    return runner.work_dir + '/iter_{}.pth'


torch.distributed.init_process_group(
    'gloo', f'file://{sys.argv[3]}', rank=int(sys.argv[1]), world_size=2
)
for nan in [(), (5,)]:
    name = f'whole{nan}'
    whole = train(name, nan=nan)
    for start in (2, 4):
        resumed = train(f'{name}_{start}', whole.format(start), nan)
        ends = [read_checkpoint(path.format(7)) for path in (whole, resumed)]
        for end in ends:
            end['optimizer'] = end['optimizer']['state']
        for part in ('state_dict', 'optimizer'):
            torch.testing.assert_close(ends[0][part], ends[1][part], rtol=0, atol=0)
    model, data = initial(), samples()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for group in ([0, 1, 2], [3, 4, 5], [6]):
        for i in group:
            for sample in data[2 * i : 2 * i + 2]:
                if i != 2 or not nan:
                    loss = model([sample['inputs']])['loss']
                    (loss / len(group) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(dict(model.state_dict()), dict(ends[0]['state_dict']))
"""


@pytest.mark.parametrize('kind', ['', 'DDPStrategy', 'FSDPStrategy'])
def test_gradients_that_wait_for_an_update_are_resumed_over_processes(kind, tmp_path):
    """Also where a process has no gradient of a part, and where a batch is passed over."""
    options = dict(find_unused_parameters=True) if kind == 'DDPStrategy' else {}
    strategy = str(dict(type=f'mmswinv2.{kind}', **options)) if kind else ''
    more = ['all'] if kind == 'FSDPStrategy' else []
    (tmp_path / 'run.py').write_text(TWO)
    runs = [
        subprocess.Popen(
            [sys.executable, tmp_path / 'run.py', str(rank), f'{tmp_path}/', f'{tmp_path}/store',
             strategy, *more],
            env={**os.environ, 'LOCAL_RANK': str(rank), 'RANK': str(rank), 'WORLD_SIZE': '2',
                 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], f'{said[0][-3000:]}\n\n{said[1][-3000:]}'
