"""Values of configs and of options, and parts of configs that do not fit."""

import gc
import re
from contextlib import nullcontext

import pytest
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.optim import Adam

from mmswinv2.engine.config_checks import (
    check_groups,
    check_optimizers,
    check_paramwise,
    check_parts,
    check_units,
    check_values,
)
from mmswinv2.engine.configs import read_config
from mmswinv2.errors import UserError
from mmswinv2.explanations import explain
from mmswinv2.models import SwinTransformerV2
from tests.test_engine.test_config_names import read


@pytest.mark.parametrize(
    'base',
    [
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
    ],
)
def test_configs_of_the_hosts_are_bases(base, tmp_path):
    """mmengine records in each part of a base from which package it comes."""
    (tmp_path / 'child.py').write_text(f"_base_ = '{base}'")
    cfg = read(None, tmp_path / 'child.py')
    assert cfg.default_hooks.checkpoint._scope_ == base.partition('::')[0]
    check_values(cfg)


WRONG_BASES = {
    "_base_ = 'mmdet::nope/x.py'": 'nope/x.py',
    "_base_ = '__main__::x/y.py'": 'does not support to load __main__ config',
    "_base_ = 'nope::x/y.py'": 'does not support to load nope config',
    "_base_ = ['a.py', 'b.py']": 'Duplicate key is not allowed among bases',
    "_base_ = 'a.py'\nx = {{_base_.nothere}}": 'nothere',
    "_base_ = 'a.py'\nparam_scheduler = dict(end=4)": 'cannot inherit from base',
}


@pytest.fixture
def left_open():
    """Collect mmengine's open copy of an unreadable config, which would raise a warning later."""
    yield
    gc.collect()


@pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning',
    'ignore:pkg_resources is deprecated:UserWarning',  # mmengine 0.10.7's get_config
)
@pytest.mark.parametrize('text', WRONG_BASES)
def test_bases_that_do_not_fit(text, tmp_path, left_open):
    for name in 'ab':
        (tmp_path / f'{name}.py').write_text("param_scheduler = [dict(type='PolyLR')]")
    (tmp_path / 'child.py').write_text(text)
    with pytest.raises(UserError, match=f'child.py, or one of its bases.*{WRONG_BASES[text]}'):
        read_config(tmp_path / 'child.py')


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_what_a_config_raises_itself_is_a_bug_of_its_own(tmp_path, left_open):
    (tmp_path / 'child.py').write_text("x = {}['a']")
    with pytest.raises(KeyError):
        read_config(tmp_path / 'child.py')


ARGUMENTS = {
    'default_hooks.checkpoint.intervall': (1, "'intervall' .*close to it: interval"),
    'optim_wrapper.clip_grad.max_nrm': (1, "'max_nrm' .*close to it: max_norm"),
    'randomness.seeed': (1, "'seeed' .*close to it: seed"),
    'model.test_cfg.rcnn.nms.iou_thresh': (0.5, "'iou_thresh' .*close to it: iou_threshold"),
    'default_hooks.checkpoint.save_best': ('coco/bbox_map', 'close to it: coco/bbox_mAP'),
}


@pytest.mark.parametrize(('option', 'value', 'words'), [(k, *v) for k, v in ARGUMENTS.items()])
def test_arguments_that_would_be_refused_in_the_middle_of_a_run(option, value, words):
    with pytest.raises(UserError, match=words):
        read({option: value})


@pytest.mark.parametrize(
    'options',
    [
        {'default_hooks.checkpoint.save_best': ['auto', 'coco/circle_precision']},
        {'default_hooks.checkpoint.save_best': ['coco/bbox_AR@100', 'coco/segm_mAP_s']},
        {'default_hooks.checkpoint.save_optimizer': False},
        {'optim_wrapper.clip_grad': dict(type='value', clip_value=1.0)},
        {'model.test_cfg.rcnn.nms': dict(type='soft_nms', iou_threshold=0.5, min_score=0.05)},
        {'default_hooks.checkpoint': dict(type='mine.CheckpointHook', other=3)},
    ],
    ids=str,
)
def test_arguments_that_are_right(options):
    read(options)


VALUES = [
    ('train_dataloader', 5), ('model', 'tiny'), ('train_dataloader.batch_size', 0),
    ('train_dataloader.batch_size', 'two'), ('train_dataloader.batch_size', True),
    ('val_dataloader.num_workers', -1), ('train_dataloader.num_workers', 1.5),
    ('train_cfg.max_iters', 0), ('train_cfg.max_iters', -1), ('train_cfg.max_iters', 'abc'),
    ('train_cfg.max_iters', float('nan')), ('train_cfg.val_interval', 0),
    ('optim_wrapper.optimizer.lr', 'fast'), ('optim_wrapper.optimizer.lr', -1.0),
    ('optim_wrapper.optimizer.lr', float('inf')), ('optim_wrapper.optimizer.weight_decay', 'a'),
    ('optim_wrapper.accumulative_counts', 0), ('default_hooks.logger.interval', 0),
    ('custom_hooks', 3), ('param_scheduler', 'cosine'), ('val_evaluator', 1), ('load_from', 3),
    ('randomness.seed', 'a'), ('log_level', [10]), ('auto_scale_lr.base_batch_size', 0),
    ('optim_wrapper.clip_grad', 5), ('optim_wrapper.optimizer.betas', (0.9, 2.0)),
    ('optim_wrapper.optimizer.betas', 0.9), ('model.backbone', 5), ('env_cfg.dist_cfg', 3),
    ('model.roi_head.bbox_head.num_classes', 'two'), ('train_dataloader.dataset.pipeline', []),
    ('optim_wrapper.paramwise_cfg.custom_keys.neck', 0.1), ('val_dataloader.dataset.data_root', 5),
    ('train_dataloader.dataset.ann_file', 5), ('train_dataloader.dataset.data_prefix.img', 5),
    ('model.backbone.init_cfg.checkpoint', 5), ('model.test_cfg.rcnn.nms', 'soft'),
    ('default_hooks.checkpoint', 5), ('param_scheduler', [5]), ('custom_hooks', [5]),
    ('val_evaluator', [5]), ('compile', 5), ('train_cfg.dynamic_intervals', 5),
    ('log_level', 'verbose'), ('optim_wrapper.clip_grad.max_norm', 'big'),
    ('optim_wrapper.clip_grad.max_norm', 0), ('optim_wrapper.clip_grad.clip_value', 0.0),
    ('train_dataloader.prefetch_factor', 0), ('resume', 'work_dirs/x/iter_2.pth'),
    ('train_cfg.val_begin', 'x'), ('default_hooks.checkpoint.max_keep_ckpts', 'all'),
    ('randomness.seed', 2**32), ('env_cfg.mp_cfg.mp_start_method', 'thread'),
    ('env_cfg.resource_limit', 'x'), ('train_dataloader.num_workers', 1.0),
    ('default_hooks.checkpoint.max_keep_ckpts', 2.0), ('default_hooks.checkpoint.out_dir', 5),
    ('log_processor.window_size', 'x'), ('train_cfg.dynamic_intervals', [10]),
    ('train_cfg.dynamic_intervals', [(1, 0)]), ('train_cfg.dynamic_intervals', [(1, 'a')]),
    ('model.test_cfg.rcnn.score_thr', 'a'), ('model.test_cfg.rpn.nms_pre', 'all'),
    ('tta_model.tta_cfg.max_per_img', '100'), ('model.test_cfg.rpn.max_per_img', -1),
    ('train_cfg.dynamic_intervals', [(2, 1), (1, 2)]), ('optim_wrapper.optimizer.betas', [0.9]),
    ('optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mult', 'a'),
]  # fmt: skip


@pytest.mark.parametrize(('option', 'value'), VALUES, ids=str)
def test_values_that_cannot_be(option, value):
    with pytest.raises(UserError, match=rf'{option}=.* in the config must be a'):
        read({option: value})


def test_settings_that_runners_need():
    with pytest.raises(
        UserError, match='env_cfg=None in the config must be a dict, which may be em'
    ):
        read({'env_cfg': None})
    for place in ('randomness', 'log_level', 'default_hooks.checkpoint.max_keep_ckpts'):
        with pytest.raises(UserError, match=f'{place}=None in the config must be a'):
            read({place: None})
    check_values(Config(dict(default_hooks=None)))
    check_values(Config(dict(model=dict(assigner=dict(score_thr='auto')))))
    check_values(Config(dict(optim_wrapper=dict(clip_grad=dict(max_norm=float('inf'))))))


@pytest.mark.parametrize('part', ['test_cfg', 'rcnn'])
def test_no_limit_of_boxes(part):
    """mmdet takes -1 for it; in an RPN it would drop the last box."""
    limit = dict(max_per_img=-1)
    check_values(Config(dict(model=dict(test_cfg=dict(rcnn=limit) if part == 'rcnn' else limit))))


@pytest.mark.parametrize(
    ('scheduler', 'words'),
    [
        (dict(begin=0), r"{'begin': 0} has no type"),
        (dict(type='LinearLR', start_factor=0), 'start_factor=0 of LinearLR must be above 0'),
        (dict(type='LinearLR', end='x'), "end='x' of LinearLR must be a number from 0"),
        (dict(type='CosineAnnealingLR', T_max=-3), 'T_max=-3 of CosineAnnealingLR must be a'),
        (dict(type='LinearLR', end=None), 'end=None of LinearLR must be a number from 0'),
        (dict(type='MultiStepLR', milestones=8), 'milestones=8 of MultiStepLR must be a list of'),
        (dict(type='CosineRestartLR', periods=['a']), 'periods=.* must be a list of numbers'),
    ],
)
def test_schedulers(scheduler, words):
    good = dict(type='LinearLR', begin=0, end=2.5)
    for place, schedulers in (
        ('param_scheduler', scheduler if 'type' in scheduler else [scheduler]),
        ('param_scheduler', [good, scheduler]),
        ('param_scheduler.generator', dict(generator=[good, scheduler])),
    ):
        with pytest.raises(UserError, match=f'{place} in the config: .*{words}'):
            check_values(Config(dict(param_scheduler=schedulers)))
    check_values(Config(dict(param_scheduler=dict(generator=good))))
    check_values(Config(dict(param_scheduler=dict(type='MultiStepLR', milestones=range(2, 9, 3)))))
    check_values(Config(dict(param_scheduler=[good | dict(type='CosineAnnealingLR', T_max=None)])))
    with pytest.raises(UserError, match=r"param_scheduler in the config: {'end': 3, .* no type"):
        check_values(Config(dict(param_scheduler=dict(end=3, by_epoch=True))))
    with pytest.raises(
        UserError, match=r"param_scheduler.generator in the config: 'x' has no type"
    ):
        check_values(Config(dict(param_scheduler=dict(generator='x'))))


@pytest.mark.parametrize('setting', ['activation_checkpointing', 'efficient_conv_bn_eval'])
def test_parts_that_the_model_has_not(setting):
    model = nn.ModuleDict({'backbone': nn.Sequential(nn.Linear(1, 1))})
    check_parts(Config({setting: ['backbone.0', 'backbone']}), model)
    for value in ('backbon', ['backbone', 'backbon']):
        with pytest.raises(UserError, match=f"{setting} .* no part 'backbon' .close to it: backb"):
            check_parts(Config({setting: value}), model)


OURS = 'mmswinv2.SwinLayerDecayOptimWrapperConstructor'


@pytest.mark.parametrize(
    ('constructor', 'options', 'ignored'),
    [
        (None, dict(layer_decay_rate=0.9, norm_decay_mult=0.0), 'layer_decay_rate'),
        (DefaultOptimWrapperConstructor, dict(num_layers=6), 'num_layers'),
        ('mmengine.DefaultOptimWrapperConstructor', dict(no_decay_names=['a']), 'no_decay_names'),
        (None, dict(flat_decay_mult=0.0, custom_keys=dict(a=dict(lr_mult=2))), None),
        (None, dict(norm_decay_mult=0.0, _delete=True), None),  # as mmpretrain's of Twins
        (OURS, dict(layer_decay_rate=0.9), None),
    ],
)
def test_options_of_groups_that_the_constructor_ignores(constructor, options, ignored):
    wrapper = dict(constructor=constructor, paramwise_cfg=options)
    with pytest.raises(UserError, match=ignored) if ignored else nullcontext():
        check_paramwise(Config(dict(optim_wrapper=wrapper)))
    parts = dict(constructor='OfParts', head=dict(paramwise_cfg=options))  # may read what it likes
    check_paramwise(Config(dict(optim_wrapper=parts)))


@pytest.mark.parametrize('wrapper', [dict(), dict(type='AmpOptimWrapper')])
def test_optimizers_that_are_not_registered(wrapper):
    optimizer = dict(type='adamw')
    for parts in (dict(optimizer=optimizer), dict(head=dict(optimizer=optimizer))):
        cfg = Config(dict(optim_wrapper=wrapper | parts, default_scope='mmdet'))
        with pytest.raises(UserError, match="type 'adamw' is not in the .*close to it: AdamW"):
            check_optimizers(cfg)
    for kind in ('AdamW', 'mmengine.SGD', Adam):
        check_optimizers(Config(dict(optim_wrapper=dict(optimizer=dict(type=kind)))))


@pytest.mark.parametrize(
    ('metrics', 'score'),
    [
        ([dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='mmseg.IoUMetric')], 'aAcc'),
        ([dict(type='CocoMetric', metric=['bbox', 'segm']), dict(type='CocoMetric')], 'bbox'),
    ],
)
def test_metrics_that_report_the_same(metrics, score):
    with pytest.raises(UserError, match=f'val_evaluator has .* twice, and both report {score};'):
        check_values(Config(dict(val_evaluator=metrics)))
    metrics[1]['prefix'] = 'other'
    check_values(Config(dict(val_evaluator=metrics)))
    check_values(Config(dict(val_evaluator=dict(type='CocoMetric', metric=['bbox', 'segm']))))
    writes = dict(type='IoUMetric', format_only=True, output_dir='x')
    check_values(Config(dict(val_evaluator=[dict(type='IoUMetric'), writes])))
    both = [dict(type='CocoMetric', metric=metric) for metric in ('bbox', 'segm')]
    check_values(Config(dict(val_evaluator=both)))


def test_results_for_no_file():
    metric = dict(type='mmdet.CocoMetric', format_only=True)
    with pytest.raises(UserError, match='format_only=True writes files; set its outfile_prefix'):
        check_values(Config(dict(test_evaluator=[metric])))
    check_values(Config(dict(test_evaluator=metric | dict(outfile_prefix='x'))))


def test_validation_that_is_given_in_part():
    parts = dict(val_cfg=dict(), val_dataloader=dict(), val_evaluator=None)
    words = 'val_cfg and val_dataloader, and no val_evaluator; set all .* leaves the validation out'
    with pytest.raises(UserError, match=words):
        check_groups(Config(parts))
    check_groups(Config(dict.fromkeys(parts)))
    check_groups(Config(dict(val_cfg=dict(), val_dataloader=dict(), val_evaluator=[])))


def test_a_base_that_a_new_style_config_does_not_find(tmp_path):
    text = 'from mmengine.config import read_base\nwith read_base():\n    from .lazy import *\n'
    (tmp_path / 'a.py').write_text(text)
    with pytest.raises(UserError, match='a.py, or one of its bases, cannot be read: .*lazy.py not'):
        read_config(tmp_path / 'a.py')


def test_large_numbers_may_be_written_short():
    check_values(Config(dict(train_cfg=dict(max_iters=1e5))))


@pytest.mark.parametrize(
    ('setting', 'words'),
    [
        (dict(type='mmdet.FPN', in_chanels=[8]), 'in_chanels.*in_channels'),
        (dict(type='mmseg.CrossEntropyLoss', ignore_index=3), 'ignore_index'),
        (dict(type='mmdet.CocoDataset', ann_fil='a.json'), 'ann_fil.*ann_file'),
    ],
    ids=['neck', 'loss of a name that hosts share', 'data set'],
)
def test_arguments_that_a_type_does_not_take(setting, words):
    from mmengine.registry import DATASETS, MODELS

    registry = DATASETS if 'Coco' in setting['type'] else MODELS
    with pytest.raises(TypeError) as error:
        registry.build(setting)
    assert re.search(rf'takes no argument .{words}', explain(error.value))


def test_a_bug_in_the_call_of_a_function_stays_one():
    def function():
        return explain(b=3)

    with pytest.raises(TypeError) as error:
        function()
    assert explain(error.value) is None


def with_backbone(**parts):
    given = parts.pop('backbone', {})
    backbone = dict(type='mmswinv2.SwinTransformerV2', arch='tiny') | given
    return Config(dict(model=dict(backbone=backbone, **parts)))


HEAD = dict(type='UPerHead', in_channels=[96, 192, 384, 768], in_index=[0, 1, 2, 3])
FCN = dict(type='FCNHead', in_channels=384, in_index=2)


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        (
            dict(neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048])),
            r'model.neck.in_channels=\[256, 512, 1024, 2048\] in the config: model.backbone '
            r"returns maps of \[96, 192, 384, 768\] channels \(arch='tiny'\); write in_channels=",
        ),
        (
            dict(
                neck=[dict(type='mmdet.FPN', in_channels=[96, 192, 384, 768]), dict(type='BFP')],
                backbone=dict(out_indices=(1, 2, 3)),
            ),
            r'write in_channels=\[192, 384, 768\]',
        ),
        (dict(neck=dict(type='YOLOV3Neck', in_channels=[1024, 512, 256])), 'model.neck.in_ch'),
        (
            dict(neck=dict(type='FPN', in_channels=[64]), backbone=dict(type=SwinTransformerV2)),
            'model.neck.in_channels=',
        ),
        (
            dict(decode_head={**HEAD, 'in_channels': [64, 128, 256, 512]}),
            r'decode_head.in_channels=.*write in_channels=\[96, 192, 384, 768\]',
        ),
        (dict(decode_head=HEAD, auxiliary_head={**FCN, 'in_channels': 1024}), 'in_channels=384'),
        (dict(decode_head={**FCN, 'in_index': 4}), 'decode_head.in_index=4 in the config: model.b'),
        (dict(decode_head=[{**FCN, 'in_channels': 2048, 'in_index': -1}]), 'in_channels=768'),
        (dict(neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=2048)), 'nnels=768'),
        (dict(cls_head=dict(in_channels=2048)), 'cls_head.in_channels=2048 .*channels=768'),
    ],
)  # fmt: skip
def test_channels_that_the_backbone_does_not_have(parts, words):
    with pytest.raises(UserError, match=words):
        check_values(with_backbone(**parts))


@pytest.mark.parametrize(
    'parts',
    [
        dict(neck=dict(type='YOLOV3Neck', in_channels=[768, 384, 192])),
        dict(neck=dict(type='SimpleFPN', in_channels=64), bbox_head=dict(in_channels=64)),
        dict(neck=[dict(type='JPU', in_channels=(192, 384, 768))], decode_head=FCN),
        dict(decode_head=[HEAD, dict(type='OCRHead', in_channels=512, in_index=3)]),
        dict(decode_head=HEAD, auxiliary_head=[FCN, dict(in_channels=768, in_index=-1)]),
        dict(neck=dict(type='HRFuseScales', in_channels=[96, 768]), head=dict(in_channels=2048)),
        dict(backbone=dict(out_indices=2), cls_head=dict(in_channels=384)),
        dict(backbone=dict(out_indices=('x',)), cls_head=dict(in_channels=1)),
        dict(backbone=dict(out_indices=(3, 2)), neck=dict(type='FPN', in_channels=[384, 768])),
        dict(backbone=dict(out_indices=(3, 4)), cls_head=dict(in_channels=1)),
        dict(neck='FPN', head=['a', None]),  # told when they are built
    ],
)  # fmt: skip
def test_channels_that_fit(parts):
    check_values(with_backbone(**parts))


@pytest.mark.parametrize('kind', [dict(by_epoch=False), dict(type='IterBasedTrainLoop')])
def test_epochs_in_a_training_by_iterations(log, kind):
    """Its one epoch ends with it, so that nothing would step before."""

    def check(scheduler, **checkpoint):
        hooks = dict(checkpoint=dict(type='CheckpointHook', **checkpoint))
        loop = dict(max_iters=9, **kind)
        check_units(Config(dict(train_cfg=loop, param_scheduler=scheduler, default_hooks=hooks)))

    step = dict(type='StepLR', step_size=2)
    for scheduler in ([step], {'generator': [step]}, step | dict(by_epoch=True)):
        with pytest.raises(UserError, match='StepLR goes by epochs .* set by_epoch=False'):
            check(scheduler)
    check([step | dict(by_epoch=False), dict(type='ReduceOnPlateauLR')], interval=-1)
    with pytest.raises(UserError, match='QuadraticWarmupLR goes by epochs'):
        check([dict(type='mmdet.QuadraticWarmupLR')])
    check([dict(type='StepsOfMyOwn')], interval=-1)
    check(step | dict(convert_to_iter_based=True), interval=3, by_epoch=False)
    check_units(Config(dict(train_cfg=dict(max_epochs=3), param_scheduler=step)))
    assert 'at the end alone' not in log()
    check(None, interval=3)
    assert 'writes one at the end alone; set by_epoch=False' in log()
