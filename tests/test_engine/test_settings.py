"""Trainings made shorter and longer."""

import pytest
from mmengine.config import Config

from mmswinv2.engine.settings import set_length
from mmswinv2.errors import UserError


def config(**settings):
    return Config(
        dict(
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=100, val_interval=100),
            default_hooks=dict(checkpoint=dict(by_epoch=False, interval=50)),
            param_scheduler=[
                dict(type='LinearLR', begin=0, end=10),
                dict(type='CosineAnnealingLR', begin=10, end=100, T_max=90),
                dict(type='MultiStepLR', milestones=[60, 90]),
            ],
        )
        | settings
    )


@pytest.mark.parametrize(
    ('length', 'ends', 'milestones', 'intervals'),
    [
        (200, [(0, 20), (20, 200)], [120, 180], (100, 50)),
        (20, [(0, 2), (2, 20)], [12, 18], (20, 20)),
        (2, [(0, 1), (1, 2)], [1, 2], (2, 2)),
        (1, [(0, 1)], [1, 1], (1, 1)),
    ],
)
def test_shorter_and_longer(length, ends, milestones, intervals):
    cfg = config()
    set_length(cfg, length, None)
    assert cfg.train_cfg.max_iters == length
    *lengths, steps = cfg.param_scheduler
    assert [(s.begin, s.end) for s in lengths] == ends and steps.milestones == milestones
    assert (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval) == intervals


def test_lengths_of_several_optimizers_and_of_intervals():
    warm, poly = (dict(type=t, begin=0, end=e) for t, e in (('LinearLR', 10), ('PolyLR', 100)))
    cfg = config(param_scheduler=dict(a=[warm], b=poly))
    cfg.train_cfg.dynamic_intervals = [(51, 10)]
    set_length(cfg, 200, None)
    assert cfg.param_scheduler.a[0].end == 20 and cfg.param_scheduler.b[0].end == 200
    assert cfg.train_cfg.dynamic_intervals == [(102, 10)]


def test_lengths_that_cannot_be():
    with pytest.raises(UserError, match='this config does not train by iters'):
        set_length(Config(dict(train_cfg=None)), 3, None)
    with pytest.raises(UserError, match='--max-epochs: this config does not train by epochs'):
        set_length(config(), None, 3)
    with pytest.raises(UserError, match='--max-iters must be at least 1, got 0'):
        set_length(config(), 0, None)
