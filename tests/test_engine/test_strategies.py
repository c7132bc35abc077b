import logging
import os
import shutil

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
