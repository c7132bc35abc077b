"""Values on the command line, and changed lengths of trainings."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmswinv2.cli import test, train
from mmswinv2.engine.config_names import settings_in
from mmswinv2.engine.settings import set_length, set_lora, set_mixed_precision, set_visualization
from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2


def test_adapters_are_for_backbones_of_this_package():
    model = dict(backbone=dict(type='mmpretrain.SwinTransformerV2'))
    for cfg in (Config(dict(model=model)), Config(dict(model=dict())), Config(dict())):
        with pytest.raises(UserError, match='--lora: .* has no backbone of mmswinv2'):
            set_lora(cfg, 4)
    for kind in ('mmswinv2.VideoSwinTransformerV2', SwinTransformerV2):
        cfg = Config(dict(model=dict(backbone=dict(type=kind, lora=dict(alpha=8)))))
        set_lora(cfg, 4)
        assert cfg.model.backbone.lora == dict(alpha=8, rank=4)


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


def test_what_begins_later_begins_in_proportion():
    """Also validation, checkpoints and averages that would otherwise never begin."""
    cfg = config(custom_hooks=[dict(type='EMAHook', begin_iter=60), dict(type='Other')])
    cfg.train_cfg.val_begin, cfg.default_hooks.checkpoint.save_begin = 40, 80
    set_length(cfg, 10, None)
    assert (cfg.train_cfg.val_begin, cfg.default_hooks.checkpoint.save_begin) == (4, 8)
    assert [hook.get('begin_iter') for hook in cfg.custom_hooks] == [6, None]
    cfg = config(
        train_cfg=dict(max_epochs=36, val_begin=20), param_scheduler=[],
        default_hooks=dict(checkpoint=dict(by_epoch=False, interval=50, save_begin=20)),
        custom_hooks=[dict(type='EMAHook', begin_epoch=20, begin_iter=60),
                      dict(type='PipelineSwitchHook', switch_epoch=28)],
    )  # fmt: skip
    set_length(cfg, None, 9)
    assert cfg.train_cfg.val_begin == 5 and cfg.default_hooks.checkpoint.save_begin == 5
    assert (cfg.custom_hooks[0].begin_epoch, cfg.custom_hooks[0].begin_iter) == (5, 60)
    assert cfg.custom_hooks[1].switch_epoch == 7
    cfg = config(
        train_cfg=dict(max_epochs=36), param_scheduler=[], default_hooks=dict(checkpoint=dict()),
        custom_hooks=[dict(type='EMAHook', begin_iter=60),
                      dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=24)]),
                      dict(type='Own', schedule='cosine'), dict(type='Own', schedule=[1, 2])],
    )  # fmt: skip
    cfg.default_hooks.checkpoint.interval = None
    cfg.default_hooks.ema, cfg.default_hooks.logger = dict(type='EMAHook', begin_epoch=20), None
    cfg.custom_hooks += [dict(type='YOLOXModeSwitchHook', num_last_epochs=12)]
    set_length(cfg, None, 9)
    assert cfg.custom_hooks[0].begin_iter == 15 and cfg.default_hooks.ema.begin_epoch == 5
    assert cfg.custom_hooks[1].schedule[0].action_epoch == 6
    assert cfg.custom_hooks[-1].num_last_epochs == 3


def test_a_schedule_that_measures_waits_in_proportion():
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss', patience=10, cooldown=0)
    cfg = config(param_scheduler=plateau)
    set_length(cfg, 20, None)
    assert (cfg.param_scheduler[0].patience, cfg.param_scheduler[0].cooldown) == (2, 0)


@pytest.mark.parametrize('kind', ['LinearLR', 'ConstantLR'])
@pytest.mark.parametrize('length', [10, 19, 20, 100])
def test_a_warm_up_of_any_length_reaches_the_rate_of_the_config(length, kind):
    cfg = config(param_scheduler=[
        dict(type=kind, begin=0, end=10, by_epoch=False),
        dict(type='CosineAnnealingLR', begin=10, end=100, T_max=90, by_epoch=False),
    ])  # fmt: skip
    set_length(cfg, length, None)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer)) for s in cfg.param_scheduler]
    rates = []
    for _ in range(length):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert max(rates) == pytest.approx(1)


def test_a_training_without_schedules_has_none_when_it_is_longer():
    cfg = config(param_scheduler=None)
    set_length(cfg, 200, None)
    assert cfg.param_scheduler is None and cfg.train_cfg.max_iters == 200


def test_numbers_of_iterations_are_whole():
    """mmengine compares milestones with whole numbers, so fractions would never match."""
    cfg = config(param_scheduler=[
        dict(type='MultiStepLR', by_epoch=False, milestones=[6e1, 8e1]),
        dict(type='StepLR', by_epoch=False, step_size=1e1),
    ])  # fmt: skip
    set_length(cfg, 37, None)
    assert cfg.param_scheduler[0].milestones == [22, 30] and cfg.param_scheduler[1].step_size == 4


@pytest.mark.parametrize('length', [8, 20, 40])
def test_a_warm_up_in_parts_of_an_epoch_survives_short_epochs(length):
    """Video Swin's warm-up, in a training of one epoch of few iterations."""
    cfg = config(
        train_cfg=dict(max_epochs=30),
        param_scheduler=[
            dict(type=kind, begin=begin, end=end, by_epoch=True, convert_to_iter_based=True, **more)
            for kind, begin, end, more in (
                ('LinearLR', 0, 2.5, dict(start_factor=0.1)), ('CosineAnnealingLR', 0, 30, {}))
        ],
    )  # fmt: skip
    set_length(cfg, None, 1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    for scheduler in cfg.param_scheduler:
        kind = PARAM_SCHEDULERS.get(scheduler.type)
        built = kind.build_iter_from_epoch(
            optimizer=optimizer, epoch_length=length,
            **{k: v for k, v in scheduler.items() if k not in ('type', 'convert_to_iter_based')},
        )  # fmt: skip
        assert built.end - built.begin >= length


@pytest.mark.parametrize(('epochs', 'end'), [(30, 2.5), (15, 1.25), (1, 1)])
def test_part_of_an_epoch_stays_one(epochs, end):
    """The part of an epoch is that of Video Swin's warm-up."""
    cfg = config(
        train_cfg=dict(max_epochs=30),
        param_scheduler=[dict(type='LinearLR', by_epoch=True, begin=0, end=2.5,
                              convert_to_iter_based=True),
                         dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=30)],
    )  # fmt: skip
    set_length(cfg, None, epochs)
    assert cfg.param_scheduler[0].end == pytest.approx(end)
    assert cfg.param_scheduler[1].end == epochs


def test_lengths_that_cannot_be():
    with pytest.raises(UserError, match='this config does not train by iters'):
        set_length(Config(dict(train_cfg=None)), 3, None)
    with pytest.raises(UserError, match='--max-epochs: this config does not train by epochs'):
        set_length(config(), None, 3)
    with pytest.raises(UserError, match='--max-iters must be at least 1, got 0'):
        set_length(config(), 0, None)


@pytest.mark.parametrize(
    ('scope', 'place'),
    [('mmdet', 'default_hooks.visualization.test_out_dir'), ('mmseg', 'visualizer.save_dir'),
     ('mmaction', 'default_hooks.visualization.out_dir')],
)  # fmt: skip
def test_pictures_are_in_the_work_dir(scope, place):
    """mmdet's hook alone adds the work dir by itself."""
    relative = 'shown' if scope == 'mmdet' else 'work/shown'
    for folder, wanted in (('shown', relative), ('work/a', 'work/a'), ('/a', '/a')):
        hook = dict(type='VisualizationHook')
        cfg = Config(dict(default_scope=scope, work_dir='work', visualizer=dict(type='Visualizer'),
                          default_hooks=dict(visualization=hook)))  # fmt: skip
        set_visualization(cfg, False, folder, 0)
        assert dict(settings_in(cfg._to_lazy_dict()))[place] == wanted


def test_the_home_folder_in_options_with_an_equals_sign(monkeypatch):
    """Shells leave the tilde in `--out=~/a.pkl`."""
    monkeypatch.setenv('HOME', '/home/someone')
    tested = test.parse_args(['a.py', 'a.pth', '--out=~/a.pkl', '--show-dir=~/shown'])
    assert (tested.out, tested.show_dir) == ('/home/someone/a.pkl', '/home/someone/shown')
    for given, path in (('--resume=~/run', '/home/someone/run'), ('--resume', 'auto')):
        assert train.parse_args(['a.py', given]).resume == path


def training(**optim_wrapper):
    return Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW'), **optim_wrapper)))


@pytest.fixture
def gpu(monkeypatch):
    """Make torch report a GPU; `bf16` sets whether it supports bfloat16."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Tesla V100')
    return lambda bf16: monkeypatch.setattr(
        torch.cuda, 'is_bf16_supported', lambda including_emulation: bf16
    )


def test_float16_scales_losses(gpu):
    cfg = training(type='OptimWrapper')
    set_mixed_precision(cfg, 'float16')
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype) == ('AmpOptimWrapper', 'float16')
    assert wrapper.loss_scale == 'dynamic'
    cfg = training(type='mmengine.AmpOptimWrapper', loss_scale=512.0)
    set_mixed_precision(cfg, 'float16')
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_bfloat16_scales_none(gpu):
    gpu(bf16=True)
    cfg = training(loss_scale='dynamic')
    set_mixed_precision(cfg, 'bfloat16')
    wrapper = cfg.optim_wrapper
    assert (wrapper.dtype, wrapper.loss_scale) == ('bfloat16', 1.0)


def test_float16_of_a_config_in_bfloat16_scales_losses(gpu):
    gpu(bf16=True)
    cfg = training(dtype='bfloat16', loss_scale=1.0)
    set_mixed_precision(cfg, 'float16')
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == ('float16', 'dynamic')


def test_bfloat16_needs_a_card_that_has_it(gpu):
    gpu(bf16=False)
    cfg = training()
    with pytest.raises(UserError, match='Ampere.*Tesla V100; use --amp-dtype float16'):
        set_mixed_precision(cfg, 'bfloat16')
    assert 'type' not in cfg.optim_wrapper
    set_mixed_precision(cfg, 'float16')


def test_a_strategy_has_its_own_precision(gpu):
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper, whose precision its strategy sets'):
        set_mixed_precision(training(type='mmengine.DeepSpeedOptimWrapper'), 'float16')


def test_mixed_precision_of_several_optimizers(gpu):
    parts = {name: dict(optimizer=dict(type='SGD')) for name in ('generator', 'critic')}
    cfg = Config(dict(optim_wrapper=dict(constructor='Own', **parts)))
    set_mixed_precision(cfg, 'float16')
    assert set(cfg.optim_wrapper) == {'constructor', *parts}
    for name in parts:
        assert cfg.optim_wrapper[name].type == 'AmpOptimWrapper'
        assert cfg.optim_wrapper[name].loss_scale == 'dynamic'
    cfg.optim_wrapper.critic.type = 'ApexOptimWrapper'
    with pytest.raises(UserError, match='the config has ApexOptimWrapper'):
        set_mixed_precision(cfg, 'float16')


def test_mixed_precision_where_an_optimizer_has_another(gpu):
    optimizer = dict(type='Lookahead', optimizer=dict(type='SGD'))
    cfg = Config(dict(optim_wrapper=dict(optimizer=optimizer)))
    set_mixed_precision(cfg, 'float16')
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and cfg.optim_wrapper.optimizer == optimizer
