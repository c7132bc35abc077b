"""The Kinetics-400 recipes carry the numbers of arXiv 2111.09883, stated here once."""

import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmswinv2 import hosts
from mmswinv2.checkpoints import PUBLISHED
from tests.test_configs.test_detection import CHANNELS, RELEASE, step
from tests.test_tools.conftest import ROOT
from tests.test_tools.test_documents import train_recognizer

FOLDER = ROOT / 'configs/video'
W22K = [(8, 12, 12)] * 3 + [(8, 6, 6)]
GIANT = dict(arch='giant', pretrained=W22K, weights=None, decay=0.1, factor=1.0, frames=16)
# Video Swin's recipe, not the paper's
OURS = dict(
    side=256, window=8, gpus=8, batch=64, epochs=30, warmup=2.5, lr=1e-3, factor=0.1, frames=32
)
W8 = dict(pretrained=(8, 8, 8))
STAGE_1 = 'g-p244-w8x16x16_80xb1-20e_kinetics400-rgb-256'
STAGE_2 = 'g-p244-w8x20x20_64xb1-5e_kinetics400-rgb-320'
OURS_NAME = '{}-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256'

RECIPES = {
    STAGE_1: dict(
        side=256, window=16, gpus=80, batch=80, epochs=20, warmup=2.5, lr=3.6e-4, **GIANT
    ),
    STAGE_2: dict(side=320, window=20, gpus=64, batch=64, epochs=5, warmup=1, lr=5e-5, **GIANT),
    OURS_NAME.format('t'): dict(
        arch='tiny', weights='tiny_patch4_window8_256', decay=0.02, drop_path=0.1, **W8, **OURS
    ),
    OURS_NAME.format('s'): dict(
        arch='small', weights='small_patch4_window8_256', decay=0.02, drop_path=0.1, **W8, **OURS
    ),
    OURS_NAME.format('b'): dict(
        arch='base', weights='base_patch4_window8_256', decay=0.05, drop_path=0.3, **W8, **OURS
    ),
    OURS_NAME.format('l'): dict(
        arch='large',
        weights='large_patch4_window12_192_22k',
        decay=0.05,
        drop_path=0.4,
        pretrained=W22K,
        **OURS,
    ),
}
# side, window, clips, crops, top-1
TESTS = {
    'g-p244-w8x20x20_test-1x1_kinetics400-rgb-320': (320, 20, 1, 1, '83.2'),
    'g-p244-w8x24x24_test-1x1_kinetics400-rgb-384': (384, 24, 1, 1, '83.4'),
    'g-p244-w8x24x24_test-4x5_kinetics400-rgb-384': (384, 24, 4, 5, '86.8'),
}


def load(name):
    return Config.fromfile(FOLDER / f'video-swinv2-{name}.py')


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    want = SimpleNamespace(**RECIPES[name])
    cfg = load(name)
    backbone = cfg.model.backbone
    assert backbone.type == 'mmswinv2.VideoSwinTransformerV2' and backbone.arch == want.arch
    assert backbone.patch_size == (2, 4, 4) and backbone.pretrained2d
    assert backbone.window_size == (8, want.window, want.window)
    assert backbone.pretrained_window_sizes == want.pretrained
    assert backbone.drop_path_rate == getattr(want, 'drop_path', 0.4)
    address = backbone.init_cfg and PUBLISHED[backbone.init_cfg.checkpoint].url
    assert address == (want.weights and f'{RELEASE}{want.weights}.pth')
    assert cfg.model.cls_head.in_channels == CHANNELS[want.arch] * 8
    assert cfg.model.cls_head.num_classes == 400

    batch = cfg.train_dataloader.batch_size * want.gpus
    assert batch == want.batch == cfg.auto_scale_lr.base_batch_size
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', want.lr)
    assert optimizer.weight_decay == want.decay
    keys = cfg.optim_wrapper.paramwise_cfg.get('custom_keys', {})
    assert keys.get('backbone', {}).get('lr_mult', 1.0) == want.factor
    assert cfg.train_cfg.max_epochs == want.epochs
    rise, fall = cfg.param_scheduler
    assert (rise.type, rise.begin, rise.end) == ('LinearLR', 0, want.warmup)
    assert (fall.type, fall.begin, fall.end) == ('CosineAnnealingLR', 0, want.epochs)
    assert fall.eta_min == 0 and all(s.by_epoch for s in cfg.param_scheduler)

    for split in ('train', 'val'):
        assert cfg[f'{split}_dataloader'].dataset.type == 'mmswinv2.VideoDataset'
        frames = step(cfg, 'SampleFrames', split)
        assert (frames.clip_len, frames.frame_interval, frames.num_clips) == (want.frames, 2, 1)
    resizes = [t.scale for t in cfg.train_dataloader.dataset.pipeline if t.type == 'Resize']
    assert resizes[1] == (want.side, want.side)
    assert step(cfg, 'CenterCrop', 'val').crop_size == want.side
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    if want.arch != 'giant':  # 4 clips x 3 crops, as Video Swin is tested
        views = step(cfg, 'SampleFrames', 'test')
        assert (views.clip_len, views.num_clips, views.test_mode) == (32, 4, True)
        assert step(cfg, 'ThreeCrop', 'test').crop_size == 256


def test_something_something():
    cfg = load('b-p244-w16x8x8_8xb8-amp-60e_sthv2-rgb-256')
    assert cfg.model.cls_head.num_classes == 174 and cfg.model.backbone.window_size == (16, 8, 8)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_epochs) == (3e-4, 60)
    assert cfg.param_scheduler[1].end == 60 and step(cfg, 'Flip') is None
    assert cfg.custom_hooks[0].new == ['cls_head']


@pytest.mark.parametrize('name', TESTS)
def test_tests_of_giant(name):
    side, window, clips, crops, top1 = TESTS[name]
    cfg, trained = load(name), load(STAGE_2)
    assert cfg.model.backbone.window_size == (8, window, window)
    cfg.model.backbone.window_size = trained.model.backbone.window_size
    assert cfg.model == trained.model
    frames = step(cfg, 'SampleFrames', 'test')
    assert (frames.clip_len, frames.num_clips, frames.test_mode) == (16, clips, True)
    assert step(cfg, 'Resize', 'test').scale == (-1, side)
    crop = step(cfg, 'FiveCrop' if crops == 5 else 'CenterCrop', 'test')
    assert crop.crop_size == side and cfg.test_dataloader.batch_size == 1
    head = (FOLDER / f'video-swinv2-{name}.py').read_text()
    assert re.search(r'Expected top-1: ([\d.]+) \(paper\)', head)[1] == top1


def test_stage_2_takes_all_of_stage_1():
    hosts.apply()
    init_default_scope('mmaction')
    states = []
    for name in (STAGE_1, STAGE_2, *TESTS):
        with torch.device('meta'):
            states.append(
                {k: v.shape for k, v in MODELS.build(load(name).model).state_dict().items()}
            )
    assert all(state == states[0] for state in states[1:]) and len(states[0]) > 500
    (hook,) = load(STAGE_2).custom_hooks
    assert STAGE_1 in hook.checkpoint and hook.checkpoint.endswith('epoch_20.pth')
    assert not hook.get('new')


def test_an_image_network_on_frames():
    cfg = Config.fromfile(FOLDER / 'swinv2-t-w8_tsn-1x1x8_8xb8-amp-30e_kinetics400-rgb-256.py')
    for split in ('train', 'val', 'test'):
        frames = step(cfg, 'SampleFrames', split)
        assert (frames.clip_len, frames.num_clips) == (1, 8)
        assert step(cfg, 'FormatShape', split).input_format == 'NCHW'
    assert cfg.model.data_preprocessor.format_shape == 'NCHW'
    assert cfg.model.cls_head.in_channels == CHANNELS[cfg.model.backbone.arch] * 8
    assert (
        PUBLISHED[cfg.model.backbone.init_cfg.checkpoint].window == cfg.model.backbone.window_size
    )
    hosts.apply()
    init_default_scope('mmaction')
    cfg.model.backbone.update(arch='nano', init_cfg=None)
    cfg.model.cls_head.in_channels = 256
    train_recognizer(MODELS.build(cfg.model))
