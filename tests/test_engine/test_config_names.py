"""Names in configs and in options that nothing reads."""

import re
from pathlib import Path

import pytest

from mmswinv2.engine.config_checks import check_values
from mmswinv2.engine.config_names import warn_of_misspelt
from mmswinv2.engine.configs import config_with_options, read_config
from tests.test_tools.conftest import CONFIG, ROOT


def read(options, path=ROOT / CONFIG):
    return config_with_options(str(path), options)


UNUSED = {
    'modle.backbone.window_size': (8, "nothing reads 'modle' in a config (close to it: model"),
    'load_form': ('x.pth', '(close to it: load_from'),
    'Max_iters': (3, "nothing reads 'Max_iters' in a config (close to it: max_iters"),
    'param_schedulers': ([], '(close to it: param_scheduler'),
    'max_iters': (3, 'comes too late: max_iters is a variable .* stands in .*train_cfg.max_iters'),
    'train_pipeline.0.type': ('Foo', 'comes too late: .* stands in train_dataloader.dataset.pipe'),
    'default_hooks.chekpoint.interval': (3, "'chekpoint' is new in the config .*checkpoint"),
    'model.train_cfg.rcnnn.debug': (True, "'rcnnn' is new in the config .*rcnn"),
    'env_cfg.cudnn_benchmrk': (True, "'cudnn_benchmrk' is new in the config .*cudnn_benchmark"),
    'auto_scale_lr.base_batchsize': (16, 'is new in the config .*base_batch_size'),
    'optim_wrapper.paramwise_cfg.norm_decay_multt': (0.0, 'is new in .*norm_decay_mult'),
    'optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mul': (0.0, 'is new in .*lr_mult'),
    'model.test_cfg.rcnn.score_threshold': (0.5, 'is new in the config .*score_thr'),
    'model.test_cfg.rcnn.best_of': (3, "'best_of' is new in the config$"),
    'model.train_cfg.rcnn.warmth.degrees': (3, "'warmth' is new in the config$"),
    'env_cfg.speed': ('high', "'speed' is new in the config$"),
    'resume_from': ('x.pth', 'since mmcv 2 it is --resume PATH'),
    'optimizer.lr': (1.0, 'since mmcv 2 it is optim_wrapper.optimizer'),
}


@pytest.mark.parametrize(('option', 'value', 'words'), [(k, *v) for k, v in UNUSED.items()])
def test_options_that_change_nothing(warned, option, value, words):
    read({option: value})
    (text,) = warned
    assert f'--cfg-options {option}' in text
    assert words in text or re.search(words, text)


@pytest.mark.parametrize(
    'options',
    [
        {'model.backbone.window_size': 4},
        {'model.backbone.drop_path_rate': 0.3},
        {'model.backbone.init_cfg.type': 'Pretrained'},
        {'train_dataloader.dataset.metainfo.classes': ['a']},
        {'optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mult': 2.0},
        {'param_scheduler.1.end': 5, 'randomness.seed': 3, 'load_from': 'x.pth'},
        {'strategy': None, 'compile': True, 'default_hooks.checkpoint.max_keep_ckpts': 2},
        {'train_dataloader.batch_size': 2, 'data_root': 'there'},
        {'val_dataloader.batch_sampler.type': 'x', 'train_dataloader.pin_memory': True},
        {'env_cfg.dist_cfg.init_backend': 'gloo', 'model.test_cfg.rpn.nms_post': 500},
        {'optim_wrapper.paramwise_cfg.bias_decay_mult': 0.0},
        {'optim_wrapper.clip_grad.norm_type': 1, 'optim_wrapper.accumulative_counts': 2},
        {'train_cfg.val_begin': 2, 'train_cfg.dynamic_intervals': [(3, 2)]},
        {'default_hooks.early_stopping.type': 'EarlyStoppingHook'},
        {'val_evaluator.classwise': True, 'visualizer.vis_backends.0.save_dir': 'there'},
        {'model.rpn_head.anchor_generator.center_offset': 0.5},
        {'log_processor.window_size': 20, 'optim_wrapper.paramwise_cfg.no_decay_names': ['norm']},
        {'model.test_cfg.rcnn.nms_across_levels': False},
        {'model.test_cfg.rcnn.nms.type': 'soft_nms', 'model.test_cfg.rcnn.nms.sigma': 0.5},
    ],
    ids=lambda o: next(iter(o)),
)
def test_options_that_are_right(warned, options):
    read(options)
    assert warned == []


def test_settings_of_a_file_that_are_misspelt(warned, tmp_path):
    path = tmp_path / 'config.py'
    names = "classes = ('a',)\n_data_root = ''\nval_evaluator_abs = {}\n"
    path.write_text(f"_base_ = '{ROOT / CONFIG}'\nparam_schedulers = []\n{names}")
    read({}, path)
    assert len(warned) == 1 and "nothing reads 'param_schedulers'" in warned[0]


MISSPELT = {  # a line of a config file: words of the error
    "model = dict(test_cfg=dict(rcnn=dict(score_thrr=0.9)))": 'rcnn.score_thrr .*score_thr\\)',
    "model = dict(test_cfg=dict(rpn=dict(nms_pree=5)))": 'rpn.nms_pree .*nms_pre\\)',
    "optim_wrapper = dict(paramwise_cfg=dict(custom_key={}))": 'custom_key .*custom_keys',
    "optim_wrapper = dict(paramwise_cfg=dict(norm_decay_multt=0.0))": '.*norm_decay_mult\\)',
    "env_cfg = dict(cudnn_benchmrk=True)": 'cudnn_benchmrk .*cudnn_benchmark',
    "auto_scale_lr = dict(base_batchsize=16)": 'base_batchsize .*base_batch_size',
    "default_hooks = dict(loger=dict(type='LoggerHook'))": 'loger .*logger',
    "train_dataloader = dict(batchsize=16)": 'batchsize .*batch_size',
    "train_dataloader = dict(dataset=dict(filter_cfg=dict(_delete_=True, filter_emtpy_gt=False)))":
        'filter_emtpy_gt .*filter_empty_gt',
    "resume_from = 'x.pth'": "'resume_from' .*--resume PATH",
    "lr_config = dict(policy='step')": "'lr_config' .*param_scheduler",
    "optimizer = dict(type='SGD', lr=0.1)": "'optimizer' .*optim_wrapper.optimizer",
}  # fmt: skip


@pytest.mark.parametrize(('line', 'words'), MISSPELT.items(), ids=MISSPELT)
def test_settings_below_those_of_a_file_that_are_misspelt(warned, tmp_path, line, words):
    (tmp_path / 'own.py').write_text(f"_base_ = '{ROOT / CONFIG}'\n{line}\n")
    (tmp_path / 'next.py').write_text("_base_ = 'own.py'\n")
    for path in ('own.py', 'next.py'):
        read({}, tmp_path / path)
        assert len(warned) == 1 and re.search(rf'own.py: .*{words}', warned.pop())


@pytest.mark.parametrize(
    'line',
    [
        'model = dict(train_cfg=dict(rpn=dict(ga_assigner=dict(type="x"))))',
        'model = dict(train_cfg=dict(rpn_proposal=dict(_delete_=True, max_per_image=3)))',
        'optimizer = dict(type="SGD", lr=1); optim_wrapper = dict(optimizer=optimizer)',
        'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(necks=dict(lr_mult=0.1))))',
        'env_cfg = dict(mp_cfg=dict(opencv_num_threads=1)); randomness = dict(seed=3)',
        'load_from = None; resume_from = None',
        'data_roots = "a/"; val_dataloader = dict(dataset=dict(data_root=data_roots))',
    ],
)
def test_settings_of_a_file_that_are_right(warned, tmp_path, line):
    (tmp_path / 'own.py').write_text(f"_base_ = '{ROOT / CONFIG}'\n{line}\n")
    read({}, tmp_path / 'own.py')
    assert warned == []


def test_no_config_of_ours_is_told_anything(warned):
    for path in sorted((ROOT / 'configs').glob('*/*.py')):
        cfg = read_config(path)
        warn_of_misspelt(cfg)
        check_values(cfg)
    assert warned == []


def test_no_config_of_the_hosts_is_told_anything(warned):
    import mmdet

    for path in sorted(Path(mmdet.__file__).parent.glob('.mim/configs/*/*.py'))[::40]:
        cfg = read_config(path)
        warn_of_misspelt(cfg)
        check_values(cfg)
    assert warned == []
