import gc
import json
import os
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.config import Config
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import Dataset

from mmswinv2.engine import launch
from mmswinv2.engine.launch import (
    _is_first_process,
    compile_features,
    config_with_options,
    load_config,
    read_config,
    set_mixed_precision,
)
from mmswinv2.engine.settings import set_tta
from mmswinv2.errors import UserError
from tests.test_tools.conftest import CONFIG, ROOT


def config(**optim_wrapper):
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
    cfg = config(type='OptimWrapper')
    set_mixed_precision(cfg, 'float16')
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype) == ('AmpOptimWrapper', 'float16')
    assert wrapper.loss_scale == 'dynamic'
    cfg = config(type='mmengine.AmpOptimWrapper', loss_scale=512.0)
    set_mixed_precision(cfg, 'float16')
    assert cfg.optim_wrapper.loss_scale == 512.0


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('comma.json', b'{"a": 1,}'),
        ('list.json', b'[1, 2]'),
        ('open.yml', b'a: [1'),
        ('latin.py', '# Größe\nmodel = None'.encode('latin-1')),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
@pytest.mark.filterwarnings('ignore::ResourceWarning')  # mmengine leaves a file open
def test_configs_that_cannot_be_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f'{name}, or one of its bases, cannot be read'):
        read_config(tmp_path / name)
    gc.collect()


@pytest.mark.parametrize('suffix', ['.py', ''])
@pytest.mark.parametrize(
    ('package', 'name'),
    [
        ('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco'),
        ('mmdet', 'retinanet_r50_fpn_1x_coco'),  # the only one of its name
        ('mmswinv2', 'detection/mask-rcnn_swinv2-nano_shapes'),
        ('mmswinv2', 'mask-rcnn_swinv2-nano_shapes'),
    ],
)
def test_configs_of_packages(package, name, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    args = Namespace(
        config=f'{package}::{name}{suffix}', cfg_options=None, launcher='none', work_dir=None,
        local_rank=0,
    )  # fmt: skip
    cfg = load_config(args)
    stem = name.split('/')[-1]
    assert cfg.work_dir == f'work_dirs/{stem}' and (tmp_path / cfg.work_dir).is_dir()
    assert Path(cfg.filename).is_file() and Path(cfg.filename).stem == stem


@pytest.mark.parametrize(
    ('given', 'place'), [('~/runs', 'home/runs'), ('', 'work_dirs/a'), (None, 'work_dirs/a')]
)
def test_the_work_dir_is_neither_the_present_folder_nor_one_called_tilde(
    given, place, tmp_path, monkeypatch
):
    """Of `--work-dir=~/runs` a shell leaves the tilde; an empty one is of an unset variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    (tmp_path / 'a.py').touch()
    cfg = load_config(
        Namespace(config='a.py', cfg_options=None, launcher='none', work_dir=given, local_rank=0)
    )
    assert Path(cfg.work_dir).absolute() == tmp_path / place and (tmp_path / place).is_dir()


def test_names_that_no_package_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a.py', '._a.py'):
        (tmp_path / name).touch()
    for name, words in (
        ('mmdet::retinanet/retinanet.py', 'is not one config of mmdet: no such file; beside it: r'),
        ('mmswinv2::detection/a', 'is not one config of mmswinv2: no such file; beside it: [a-z]'),
        ('mmnothing::a', 'mmnothing::a: the package mmnothing is not installed'),
        ('torch::a', r'torch::a: torch brings no configs \(.*configs does not exist\)'),
        ('b.py', r'^the config b.py does not exist; there are a.py$'),
    ):
        with pytest.raises(UserError, match=words):
            read_config(name)
    (tmp_path / 'mmdet::own.py').write_text('a = 1\n')
    assert read_config('mmdet::own.py').a == 1


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_a_mistake_in_the_program_of_a_config_is_none_of_the_command(tmp_path):
    (tmp_path / 'bug.py').write_text('number = int("a")')
    with pytest.raises(ValueError, match='^invalid literal'):  # not a UserError
        read_config(tmp_path / 'bug.py')
    gc.collect()


def test_modules_of_the_command_line_are_imported(tmp_path, monkeypatch):
    (tmp_path / 'imported_late.py').write_text('import os\nos.environ["IMPORTED_LATE"] = "1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('IMPORTED_LATE', '0')
    options = {'custom_imports.imports': ['imported_late']}
    config_with_options(str(ROOT / CONFIG), options)
    assert os.environ['IMPORTED_LATE'] == '1'


def test_modules_of_the_command_line_that_are_not_there():
    options = {'custom_imports.imports': ['no_such_module']}
    with pytest.raises(UserError, match='Failed to import no_such_module .*; name a module that'):
        config_with_options(str(ROOT / CONFIG), options)


@pytest.mark.parametrize(
    'value',
    [
        *('os', dict(allow_failed_imports=True), dict(imports=['os'], allow=True)),
        *(dict(imports=5), dict(imports=[5]), dict(imports=('os',))),
    ],
    ids=str,
)
def test_imports_that_are_not_named(value):
    with pytest.raises(UserError, match=r'custom_imports=.* must be a dict with imports=\[...\]'):
        config_with_options(str(ROOT / CONFIG), {'custom_imports': value})


def test_a_module_of_the_command_line_that_fails_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / 'adds_text.py').write_text('1 + "a"\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match='unsupported operand'):
        config_with_options(str(ROOT / CONFIG), {'custom_imports.imports': ['adds_text']})


def test_classes_of_pure_python_configs_stay_names(tmp_path):
    """Or the copy of the config in the work dir could not be read."""
    (tmp_path / 'base.py').write_text("data_root = 'data/'\n")
    path = tmp_path / 'a.py'
    path.write_text(
        'from mmengine.config import read_base\n\nwith read_base():\n    from .base import *\n'
        'from mmengine.hooks import EMAHook\nfrom mmengine.model import BaseTTAModel\n'
        'custom_hooks = [dict(type=EMAHook, file=data_root)]\n'
        'model = dict(type=EMAHook)\ntta_model = dict(type=BaseTTAModel)\ntta_pipeline = [dict()]\n'
        'test_dataloader = dict(dataset=dict(pipeline=[dict()]))\n'
    )
    cfg = config_with_options(str(path), {'data_root': str(tmp_path)})
    set_tta(cfg)
    cfg.dump(tmp_path / 'copy.py')
    copy = read_config(tmp_path / 'copy.py')
    assert copy.custom_hooks[0].file == copy.data_root == f'{tmp_path}/'
    for kind, name in ((copy.custom_hooks[0].type, 'EMAHook'), (copy.model.type, 'BaseTTAModel')):
        assert name in str(kind)


def test_a_data_root_of_none():
    with pytest.raises(UserError, match='data_root=None in --cfg-options must be a folder'):
        config_with_options(str(ROOT / CONFIG), {'data_root': None})


def test_a_data_root_leaves_alone_what_is_no_data():
    cfg = dict(data_root='data/', load_from='data/a.pth', work_dir='data/runs',
               model=dict(init_cfg=dict(checkpoint='data/b.pth')),
               val_evaluator=dict(ann_file='data/c.json'))  # fmt: skip
    cfg = config_with_options(Config(cfg), {'data_root': '/new'})
    assert cfg.val_evaluator.ann_file == '/new/c.json'
    assert (cfg.load_from, cfg.work_dir) == ('data/a.pth', 'data/runs')
    assert cfg.model.init_cfg.checkpoint == 'data/b.pth'
    with pytest.raises(UserError, match='the config has no data_root of its own'):
        config_with_options(Config(dict(data_root=['a', 'b'])), {'data_root': '/new'})


def test_a_folder_of_data_may_have_a_number_for_a_name():
    cfg = config_with_options(str(ROOT / CONFIG), {'data_root': 2024})
    assert cfg.data_root == cfg.train_dataloader.dataset.data_root == '2024/'


@pytest.mark.parametrize('kind', [Runner, 'mmengine.Runner', 'Runner', None])
def test_every_name_of_the_plain_runner(kind, tmp_path):
    cfg = config_with_options(str(ROOT / CONFIG), {'work_dir': str(tmp_path)})
    cfg.custom_hooks, cfg.runner_type, cfg.launcher = [dict(type='EMAHook')], kind, 'none'
    cfg.train_dataloader = dict(batch_size=1, num_workers=0, dataset=[])
    cfg.experiment_name = cfg.visualizer.name = f'plain {kind}'
    assert type(launch.build_runner(cfg, ())) is Runner


@pytest.mark.parametrize('kind', ['mmengine.SingleDeviceStrategy', SingleDeviceStrategy])
def test_every_name_of_a_strategy(kind):
    cfg = Config(dict(launcher='none', strategy=dict(type=kind)))
    launch._set_up_processes(cfg)
    cfg.strategy.type = 'mmengine.DDPStrategy'
    with pytest.raises(UserError, match='strategy=DDPStrategy spreads the work over processes'):
        launch._set_up_processes(cfg)


@pytest.mark.parametrize('kind', ['FlexibleRunner', 'mmengine.FlexibleRunner', FlexibleRunner])
def test_every_name_of_the_runner_of_strategies(kind, tmp_path):
    cfg = config_with_options(str(ROOT / CONFIG), {'work_dir': str(tmp_path)})
    cfg.custom_hooks, cfg.runner_type = [dict(type='EMAHook')], kind
    cfg.train_dataloader.dataset = None
    with pytest.raises(UserError, match='EMAHook averages weights under plain Runner alone'):
        launch.build_runner(cfg, ('train',))


def test_a_strategy_that_the_runner_would_not_use(tmp_path):
    options = {'strategy.type': 'mmswinv2.FSDPStrategy', 'work_dir': str(tmp_path)}
    cfg = config_with_options(str(ROOT / CONFIG), options)
    cfg.train_dataloader.dataset = None
    told = "strategy=FSDPStrategy .* plain Runner .* set runner_type='FlexibleRunner'"
    with pytest.raises(UserError, match=told):
        launch.build_runner(cfg, ('train',))


def test_processes_of_torchrun_that_would_not_work_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    args = Namespace(
        config=str(ROOT / CONFIG), cfg_options=None, launcher='none', work_dir=None, local_rank=0
    )
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='torchrun has started 2 processes.*--launcher pytorch'):
        load_config(args)
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert load_config(args).launcher == 'none'
    monkeypatch.setenv('WORLD_SIZE', '2')
    args.launcher = 'pytorch'
    assert load_config(args).launcher == 'pytorch'


def test_a_config_that_is_its_own_base(tmp_path):
    (tmp_path / 'a.py').write_text("_base_ = 'b.py'\n")
    (tmp_path / 'b.py').write_text("_base_ = 'a.py'\n")
    with pytest.raises(UserError, match=r'a.py is its own _base_'):
        read_config(tmp_path / 'a.py')


@pytest.mark.parametrize('kind', ['EMAHook', 'mmengine.EMAHook', 'mmpretrain.EMAHook'])
def test_averages_under_a_strategy_are_refused(kind, tmp_path):
    """FlexibleRunner loads weights before EMAHook has made the averaged model."""
    options = {'custom_hooks': [dict(type=kind)], 'runner_type': 'FlexibleRunner', 'work_dir': 'w'}
    cfg = config_with_options(str(ROOT / CONFIG), options)
    cfg.train_dataloader.dataset = None
    told = "EMAHook .* runner_type='FlexibleRunner'; leave the hook"
    with pytest.raises(UserError, match=told):
        launch.build_runner(cfg, ('train',))
    cfg.default_hooks.ema, cfg.custom_hooks = dict(type=kind), []
    with pytest.raises(UserError, match=told):
        launch.build_runner(cfg, ('train',))


def test_options_below_a_number():
    with pytest.raises(UserError, match=r'--cfg-options train_cfg.max_iters.x'):
        config_with_options(str(ROOT / CONFIG), {'train_cfg.max_iters.x': 3})


@pytest.mark.parametrize('place', ['9.gamma', '-1.gamma', 'x.gamma', '0'])
def test_options_at_no_place_of_a_list(place):
    cfg = Config(dict(param_scheduler=[dict(type='StepLR', step_size=1)]))
    with pytest.raises(UserError, match=f'param_scheduler.{place}: there is no such place .*index'):
        config_with_options(cfg, {f'param_scheduler.{place}': 0.5})


def test_options_replace_a_dict_in_a_list():
    cfg = Config(dict(param_scheduler=[dict(type='StepLR', step_size=1), dict(type='LinearLR')]))
    place = 'param_scheduler.0'
    options = {f'{place}.type': 'ExponentialLR', f'{place}.gamma': 0.5, f'{place}._delete_': True}
    cfg = config_with_options(cfg, options)
    assert cfg.param_scheduler == [dict(type='ExponentialLR', gamma=0.5), dict(type='LinearLR')]
    with pytest.raises(UserError, match='there is no such place .*index'):
        config_with_options(cfg, {'param_scheduler.2._delete_': True})


def test_deterministic_training_needs_no_seed(tmp_path):
    cfg = config_with_options(Config(), {'randomness.deterministic': True})
    assert cfg.randomness == dict(deterministic=True, seed=None)


def test_bfloat16_scales_none(gpu):
    gpu(bf16=True)
    cfg = config(loss_scale='dynamic')
    set_mixed_precision(cfg, 'bfloat16')
    wrapper = cfg.optim_wrapper
    assert (wrapper.dtype, wrapper.loss_scale) == ('bfloat16', 1.0)


def test_float16_of_a_config_in_bfloat16_scales_losses(gpu):
    gpu(bf16=True)
    cfg = config(dtype='bfloat16', loss_scale=1.0)
    set_mixed_precision(cfg, 'float16')
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == ('float16', 'dynamic')


def test_bfloat16_needs_a_card_that_has_it(gpu):
    gpu(bf16=False)
    cfg = config()
    with pytest.raises(UserError, match='Ampere.*Tesla V100; use --amp-dtype float16'):
        set_mixed_precision(cfg, 'bfloat16')
    assert 'type' not in cfg.optim_wrapper
    set_mixed_precision(cfg, 'float16')


def test_a_strategy_has_its_own_precision(gpu):
    with pytest.raises(UserError, match='DeepSpeedOptimWrapper, whose precision its strategy sets'):
        set_mixed_precision(config(type='mmengine.DeepSpeedOptimWrapper'), 'float16')


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


def test_compile_needs_something_to_compile():
    with pytest.raises(UserError, match='Linear has neither; leave it out'):
        compile_features(torch.nn.Linear(1, 1), {})


@MODELS.register_module()
class WithBackbone(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        loss = self.backbone(inputs).sum()
        return [loss] if mode == 'predict' else dict(loss=loss)


@DATASETS.register_module()
class Ones(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


def small(file, work_dir, **settings):
    """A config that was read from `file`, with the settings of a training of one epoch."""
    work_dir.mkdir(exist_ok=True)
    cfg = Config.fromfile(file)
    loader = dict(
        dataset=dict(type='Ones'), batch_size=1, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )  # fmt: skip
    cfg.merge_from_dict(dict(
        default_scope='mmengine', model=dict(type='WithBackbone'), train_dataloader=loader,
        test_dataloader=loader, test_cfg=dict(), test_evaluator=[], launcher='none',
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), work_dir=str(work_dir),
        train_cfg=dict(by_epoch=True, max_epochs=1), experiment_name=f'{work_dir} {settings}',
        **settings,
    ))  # fmt: skip
    return cfg


@pytest.mark.parametrize('kind', ['Runner', 'FlexibleRunner'])
def test_scaled_rates_are_those_of_the_batch_of_an_update(tmp_path, kind):
    (tmp_path / 'a.py').touch()
    schedulers = [
        dict(type='CosineAnnealingLR', T_max=1, eta_min=0.01, end=2),
        dict(type='CosineAnnealingMomentum', T_max=1, eta_min=0.5, end=2),
    ]
    cfg = small(
        tmp_path / 'a.py', tmp_path / kind, runner_type=kind, param_scheduler=schedulers,
        auto_scale_lr=dict(enable=True, base_batch_size=8),
    )  # fmt: skip
    cfg.optim_wrapper = dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9), accumulative_counts=2
    )
    runner = launch.build_runner(cfg, ('train',))
    runner.train()
    (group,) = runner.optim_wrapper.param_groups
    assert group['initial_lr'] == pytest.approx(0.1 * 1 * 2 / 8)
    assert group['lr'] == pytest.approx(0.01 * 1 * 2 / 8)
    assert group['momentum'] == pytest.approx(0.5)
    written = Config.fromfile(tmp_path / kind / 'a.py')  # to be started again
    assert written.auto_scale_lr.base_batch_size == 8
    assert written.param_scheduler[0].eta_min == 0.01
    runner.work_dir_lock.close()


def test_what_a_short_training_by_iterations_logs(tmp_path):
    """A loss at its end, and scores at their iterations."""
    (tmp_path / 'a.py').touch()
    cfg = small(tmp_path / 'a.py', tmp_path / 'run')
    del cfg.train_cfg['max_epochs']
    cfg.train_cfg.update(by_epoch=False, max_iters=7, val_interval=3)
    cfg.update(val_cfg={}, val_dataloader=cfg.test_dataloader, val_evaluator=[])
    cfg.default_hooks = dict(logger=dict(type='LoggerHook', interval=50), checkpoint=None)
    runner = launch.build_runner(cfg, ('train', 'val'))
    runner.train()
    runner.work_dir_lock.close()
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert 'Iter(train) [7/7]' in next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert [(e['step'], 'loss' in e) for e in entries] == [
        (2, True),  # the end of the data set
        (3, False),
        (6, False),
        (7, True),
        (7, False),
    ]


@pytest.mark.parametrize(
    ('scheduler', 'bound', 'scaled'),
    [
        (dict(type='OneCycleLR', total_steps=9), dict(eta_max=[0.8]), [0.2]),
        (dict(type='OneCycleLR', total_steps=9), dict(eta_max=(0.8,)), [0.2]),
        (dict(type='ReduceOnPlateauLR', monitor='loss'), dict(min_value=0.8), 0.2),
        (dict(type='CosineAnnealingParamScheduler', param_name='lr'), dict(eta_min=0.8), 0.2),
        (dict(type='CosineAnnealingParamScheduler', param_name='wd'), dict(eta_min=0.8), 0.8),
    ],
)
def test_scaled_bounds_of_schedules(tmp_path, scheduler, bound, scaled):
    (tmp_path / 'a.py').touch()
    schedulers, (name,) = [scheduler | bound], bound
    scale = dict(enable=True, base_batch_size=4)
    cfg = small(tmp_path / 'a.py', tmp_path / 'w', param_scheduler=schedulers, auto_scale_lr=scale)
    runner = launch.build_runner(cfg, ('train',))
    assert runner.param_schedulers[0][name] == pytest.approx(scaled)
    runner.work_dir_lock.close()


@pytest.mark.parametrize('own', [None, dict(type='Own', part=1)])
def test_a_wrapper_of_ones_own_gets_no_settings_of_ddp(own, monkeypatch):
    for name in launch._VARIABLES['pytorch']:
        monkeypatch.setenv(name, '0')
    monkeypatch.setattr(launch, '_connect_processes', lambda backend: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=own, find_unused_parameters=True))
    launch._set_up_processes(cfg)
    ddp = dict(type='MMDistributedDataParallel', broadcast_buffers=False)
    assert cfg.model_wrapper_cfg == dict(
        own or dict(ddp, find_unused_parameters=True), device_ids=None
    )


def test_scaled_rates_count_the_batches_that_deepspeed_accumulates():
    runner = FlexibleRunner.__new__(FlexibleRunner)
    runner.strategy = SimpleNamespace(config=dict(gradient_accumulation_steps=4), world_size=1)
    runner.param_schedulers = [dict(type='CosineAnnealingLR', eta_min=0.8)]
    scale = dict(enable=True, base_batch_size=16)
    cfg = dict(auto_scale_lr=scale, optim_wrapper={}, train_dataloader=dict(batch_size=1))
    launch._scale_rates(runner, Config(cfg))
    assert runner.strategy._auto_scale_lr == dict(enable=True, base_batch_size=4)
    assert runner.param_schedulers[0]['eta_min'] == pytest.approx(0.2)


def test_copies_of_configs_replace_neither_the_config_nor_that_of_a_training(tmp_path):
    written = '# a comment\nown = 1\n'
    (tmp_path / 'a.py').write_text(written)
    launch.build_runner(small(tmp_path / 'a.py', tmp_path), ('train',)).work_dir_lock.close()
    assert (tmp_path / 'a.py').read_text() == written
    copy = tmp_path / 'run/a.py'
    for lr in (0.2, 0.3):  # the copy is that of the last training
        cfg = small(tmp_path / 'a.py', tmp_path / 'run', note=lr)
        launch.build_runner(cfg, ('train',)).work_dir_lock.close()
        assert Config.fromfile(copy).note == lr
    launch.build_runner(small(tmp_path / 'a.py', tmp_path / 'run', note=0.4), ('test',))
    assert Config.fromfile(copy).note == 0.3
    launch.build_runner(small(tmp_path / 'a.py', tmp_path / 'tested', note=0.5), ('test',))
    assert Config.fromfile(tmp_path / 'tested/a.py').note == 0.5


def test_every_training_of_its_own_locks_its_work_dir(tmp_path, monkeypatch):
    """Slurm numbers processes that were started side by side, whatever they do."""
    monkeypatch.setenv('SLURM_PROCID', '1')
    (tmp_path / 'a.py').touch()
    runner = launch.build_runner(small(tmp_path / 'a.py', tmp_path / 'run'), ('train',))
    runner.work_dir_lock.close()
    assert (tmp_path / 'run/.lock').exists()


def test_strategies_take_a_config_without_an_environment(tmp_path):
    (tmp_path / 'a.py').touch()
    cfg = small(tmp_path / 'a.py', tmp_path / 'run', runner_type='FlexibleRunner')
    assert 'env_cfg' not in cfg
    runner = launch.build_runner(cfg, ('train',))
    runner.work_dir_lock.close()
    assert isinstance(runner, FlexibleRunner)


def test_only_features_are_compiled_and_the_config_says_so(tmp_path, monkeypatch):
    compiled = []

    def compile_whole(target, **options):
        compiled.append(target)
        return target

    monkeypatch.setattr(torch, 'compile', compile_whole)
    monkeypatch.setattr(
        torch.nn.Module, 'compile', lambda self, **options: compiled.append((self, options))
    )
    (tmp_path / 'a.py').touch()
    cfg = small(tmp_path / 'a.py', tmp_path / 'run', compile=dict(backend='eager'))
    runner = launch.build_runner(cfg, ('train',))
    runner.train()
    runner.work_dir_lock.close()
    assert compiled == [(runner.model.backbone, dict(backend='eager'))]
    assert Config.fromfile(tmp_path / 'run/a.py').compile == dict(backend='eager')


class Layer(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(inputs).sum())


@pytest.mark.parametrize(('samples', 'enough'), [(3, False), (4, True)])
def test_a_training_set_smaller_than_the_batch_that_is_dropped(samples, enough, tmp_path):
    loader = dict(
        dataset=[dict(inputs=torch.ones(1))] * samples,
        batch_size=4,
        drop_last=True,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    warmup = dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True)
    runner = Runner(
        model=Layer(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=[warmup],
        train_cfg=dict(by_epoch=True, max_epochs=1),
        experiment_name=tmp_path.name,
        default_scope='mmengine',
    )
    cfg = Config(dict(train_dataloader=dict(batch_size=4)))
    if enough:
        launch.run(runner.train, cfg, ('train',))
    else:
        with pytest.raises(UserError, match='fewer samples than a batch .*batch_size=4.*drop_last'):
            launch.run(runner.train, cfg, ('train',))


def test_samples_that_are_not_packed():
    model = ImgDataPreprocessor()
    with pytest.raises(UserError, match='of test_dataloader does not end in a step that packs'):
        launch.run(lambda: model(dict(img=torch.ones(3, 2, 2))), Config(), ('test',))
    with pytest.raises(KeyError):  # of a user's own
        launch.run(lambda: {}['inputs'], Config(), ('test',))


def test_the_rank_is_that_of_the_launcher(monkeypatch):
    """In a job of Slurm, all processes that mpirun starts have the same SLURM_PROCID."""
    for variable, rank in (('SLURM_PROCID', '0'), ('OMPI_COMM_WORLD_RANK', '1'), ('RANK', '1')):
        monkeypatch.setenv(variable, rank)
    first = {kind: _is_first_process(kind) for kind in ('none', 'pytorch', 'slurm', 'mpi')}
    assert first == dict(none=True, pytorch=False, slurm=True, mpi=False)
