import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.registry import DATASETS, LOG_PROCESSORS, MODELS
from mmengine.runner import FlexibleRunner, LogProcessor, Runner
from torch.utils.data import Dataset

from mmswinv2.engine import launch
from mmswinv2.engine.configs import config_with_options
from mmswinv2.engine.launch import compile_features, load_config
from mmswinv2.errors import UserError
from tests.test_hosts.test_mmengine import Plain
from tests.test_tools.conftest import CONFIG, ROOT


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


@pytest.mark.parametrize('kind', [Runner, 'mmengine.Runner', 'Runner', None])
def test_every_name_of_the_plain_runner(kind, tmp_path):
    cfg = config_with_options(str(ROOT / CONFIG), {'work_dir': str(tmp_path)})
    cfg.custom_hooks, cfg.runner_type, cfg.launcher = [dict(type='EMAHook')], kind, 'none'
    cfg.train_dataloader = dict(batch_size=1, num_workers=0, dataset=[])
    cfg.experiment_name = cfg.visualizer.name = f'plain {kind}'
    assert type(launch.build_runner(cfg, ())) is Runner


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


@pytest.mark.parametrize('kind', ['EMAHook', 'mmengine.EMAHook', 'mmpretrain.EMAHook'])
def test_averages_under_a_strategy_are_refused(kind):
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


def test_keys_of_groups_that_match_no_parameter(tmp_path):
    (tmp_path / 'a.py').touch()
    cfg = small(tmp_path / 'a.py', tmp_path / 'run')
    keys = {
        'backbon.': dict(lr_mult=2), 'backbone': dict(lr_mult=3), '.bias': dict(decay_mult=0),
        '.absolute_pos_embed': dict(decay_mult=0),  # as in all schedules of Swin
    }  # fmt: skip
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=keys)
    launch.build_runner(cfg, ('train',)).work_dir_lock.close()
    (log,) = (tmp_path / 'run').glob('*/*.log')
    text = log.read_text()
    assert "no parameter has 'backbon.' in its name (close to it: backbone" in text
    assert text.count('no parameter has') == 1


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
    'own',
    [
        dict(custom_cfg=[dict(data_src='loss', method_name='mean', window_size='epoch')]),
        dict(custom_cfg=[dict(data_src='loss', method_name='current')]),
        dict(type='OwnProcessor'),
    ],
)
def test_processors_that_cannot_count_iterations_stay_as_they_are(tmp_path, own):
    @LOG_PROCESSORS.register_module(force=True)
    class OwnProcessor(LogProcessor):
        def __init__(self):
            super().__init__()

    (tmp_path / 'a.py').touch()
    cfg = small(tmp_path / 'a.py', tmp_path / 'run')
    del cfg.train_cfg['max_epochs']
    cfg.train_cfg.update(by_epoch=False, max_iters=2)
    cfg.update(log_processor=own)
    runner = launch.build_runner(cfg, ('train',))
    runner.train()
    runner.work_dir_lock.close()


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
    copy.unlink()
    copy.symlink_to(tmp_path / 'elsewhere.py')  # in a work dir from others
    launch.build_runner(small(tmp_path / 'a.py', tmp_path / 'run', note=0.6), ('test',))
    assert not (tmp_path / 'elsewhere.py').exists()


def test_every_training_of_its_own_locks_its_work_dir(tmp_path, monkeypatch):
    """Slurm numbers processes that were started side by side, whatever they do."""
    monkeypatch.setenv('SLURM_PROCID', '1')
    (tmp_path / 'a.py').touch()
    runner = launch.build_runner(small(tmp_path / 'a.py', tmp_path / 'run'), ('train',))
    runner.work_dir_lock.close()
    assert (tmp_path / 'run/.lock').exists()


@pytest.mark.parametrize('remote', [False, True])
def test_a_resumed_run_draws_the_data_of_its_checkpoint(remote, tmp_path, address, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    (tmp_path / 'a.py').touch()
    seeds = []
    for name in ('run', 'other'):
        start = f'{address if remote else tmp_path}/run/epoch_1.pth'
        options = dict(load_from=start, resume=True) if name == 'other' else {}
        cfg = small(tmp_path / 'a.py', tmp_path / name, **options)
        runner = launch.build_runner(cfg, ('train',))
        runner.train()
        runner.work_dir_lock.close()
        sampler = runner.train_dataloader.batch_sampler.sampler
        seeds.append((runner.seed, sampler.sampler.seed, sampler.seed))
    assert seeds[0] == seeds[1]


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
        model=Plain(),
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
