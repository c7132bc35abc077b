"""The ImageNet and SimMIM recipes carry the numbers of arXiv 2111.09883 and its code."""

import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmswinv2.checkpoints import PUBLISHED
from tests.test_configs.test_detection import CHANNELS, RELEASE, step
from tests.test_tools.conftest import ROOT

SCRATCH = dict(side=256, crop=292, lr=1e-3, decay=0.05, epochs=300, warmup=20, batch=1024, low=1e-5)
FULL = dict(side=192, crop=219, lr=1e-3, decay=0.1, epochs=90, warmup=5, batch=4096, low=1e-5)
TUNE = dict(lr=4e-5, decay=1e-8, epochs=30, warmup=5, batch=1024, low=4e-7, start='12_192_22k')
W12 = [12, 12, 12, 6]
W16 = [16, 16, 16, 8]
W24 = [24, 24, 24, 12]
DROP_PATH = {'tiny': 0.2, 'small': 0.3, 'base': 0.5}

# name: the released file to evaluate, its top-1, and the recipe
RECIPES = {
    **{
        f'{arch}-w{window}_16xb64_in1k-256px': dict(
            arch=arch,
            file=f'{arch}_patch4_window{window}_256',
            top1=top1,
            windows=8 if window == 8 else W16,
            gpus=16,
            drop_path=DROP_PATH[arch],
            **SCRATCH,
        )
        for window, row in ((8, (81.8, 83.7, 84.2)), (16, (82.8, 84.1, 84.6)))
        for arch, top1 in zip(DROP_PATH, row, strict=True)
    },
    **{
        f'{arch}-w12_32xb128_in22k-192px': dict(
            arch=arch,
            file=f'{arch}_patch4_window12_192_22k',
            top1=None,
            windows=W12,
            gpus=32,
            drop_path=0.2,
            classes=21841,
            **FULL,
        )
        for arch in ('base', 'large')
    },
    **{
        f'{arch}-w{windows[0]}_in22k-pre_16xb64_in1k-{side}px': dict(
            arch=arch,
            file=f'{arch}_patch4_window12to{windows[0]}_192to{side}_22kto1k_ft',
            top1=top1,
            windows=windows,
            pretrained=W12,
            gpus=16,
            drop_path=0.2,
            side=side,
            crop=crop,
            **TUNE,
        )
        for windows, side, crop, row in (
            (W16, 256, 292, (86.2, 86.9)),
            (W24, 384, None, (87.1, 87.6)),
        )
        for arch, top1 in zip(('base', 'large'), row, strict=True)
    },
}
# SwinV2-G: gpus, batch, side, epochs, lr, layer decay, drop path, top-1
GIANT = {
    'giant-w12_96xb96_in22k-ext-192px': (96, 9216, 192, 30, 1.4e-3, 0.87, 0.3, None),
    'giant-w40_in22k-ext-pre_96xb6_in1k-640px': (96, 576, 640, 10, 2.1e-5, 1.0, 0.5, 90.17),
}
SIMMIM = {  # arch, epochs, batch, lr
    'base-w12_16xb128-800e_in1k-192px': ('base', 800, 2048, 1e-4 * 4),
    'base-w12_16xb128-100e_in1k-192px': ('base', 100, 2048, 2e-4 * 4),
    'large-w12_16xb128-800e_in1k-192px': ('large', 800, 2048, 1e-4 * 4),
    'huge-w12_16xb128-800e_in1k-192px': ('huge', 800, 2048, 1e-4 * 4),
    'giant-w12_96xb96-20e_in22k-ext-192px': ('giant', 20, 9216, 1.4e-3),
}


def load(name, task='classification'):
    start = 'swinv2' if task == 'classification' else 'simmim_swinv2'
    return Config.fromfile(ROOT / f'configs/{task}/{start}-{name}.py')


def head_of(name):
    return (ROOT / f'configs/classification/swinv2-{name}.py').read_text().partition('\n_base_')[0]


def rates(cfg, epochs, epoch_length):
    """The learning rate at the start of some epochs, from mmengine's schedulers."""
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    for config in cfg.param_scheduler:
        # the runner fills this in
        if config.by_epoch and 'end' not in config:
            config.end = cfg.train_cfg.max_epochs
        schedulers.append(
            PARAM_SCHEDULERS.build(
                config, default_args=dict(optimizer=optimizer, epoch_length=epoch_length)
            )
        )
    found = {}
    for i in range(max(epochs) * epoch_length + 1):
        if i % epoch_length == 0 and i // epoch_length in epochs:
            found[i // epoch_length] = optimizer.param_groups[0]['lr']
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return [found[epoch] for epoch in epochs]


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    want = SimpleNamespace(**{'pretrained': None, 'classes': 1000, 'start': None, **RECIPES[name]})
    cfg = load(name)
    backbone = cfg.model.backbone
    assert backbone.type == 'mmswinv2.SwinTransformerV2' and backbone.arch == want.arch
    assert backbone.window_size == want.windows and backbone.out_indices == (3,)
    assert backbone.get('pretrained_window_sizes') == want.pretrained
    assert backbone.drop_path_rate == want.drop_path
    assert cfg.model.head.in_channels == CHANNELS[want.arch] * 8
    assert cfg.model.head.num_classes == want.classes == cfg.data_preprocessor.num_classes
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [
        ('Mixup', 0.8),
        ('CutMix', 1.0),
    ]
    batch = cfg.train_dataloader.batch_size * want.gpus
    assert batch == want.batch == cfg.auto_scale_lr.base_batch_size
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', want.lr, want.decay)
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert cfg.train_cfg.max_epochs == want.epochs
    first, top, last = rates(cfg, (0, want.warmup, want.epochs - 1), epoch_length=8)
    assert first == pytest.approx(want.lr * 1e-3)
    assert top == pytest.approx(want.lr, rel=1e-3)
    assert want.low < last < 0.02 * want.lr

    assert step(cfg, 'RandomResizedCrop').scale == want.side
    randaugment = step(cfg, 'RandAugment')
    assert (randaugment.num_policies, randaugment.magnitude_level) == (2, 9)
    assert (randaugment.magnitude_std, step(cfg, 'RandomErasing').erase_prob) == (0.5, 0.25)
    for split in ('val', 'test'):
        if want.crop is None:
            resize = step(cfg, 'Resize', split)
            assert resize.scale == (want.side, want.side)
            assert step(cfg, 'CenterCrop', split) is None
        else:
            resize = step(cfg, 'ResizeEdge', split)
            assert (resize.scale, resize.edge) == (want.crop, 'short')
            assert step(cfg, 'CenterCrop', split).crop_size == want.side
        assert (resize.interpolation, resize.backend) == ('bicubic', 'pillow')
    assert cfg.test_evaluator == dict(type='Accuracy', topk=(1, 5))
    if want.start:
        (hook,) = cfg.custom_hooks
        address = PUBLISHED[hook.checkpoint].url
        assert address == f'{RELEASE}{want.arch}_patch4_window{want.start}.pth'
    head = head_of(name)
    assert f'swinv2_{want.file}.pth' in head
    if want.top1:
        assert re.search(r'Expected top-1: ([\d.]+)', head)[1] == str(want.top1)


def reaches_its_rate(cfg, steps):
    """The cosine begins after the warm-up, which counts steps, of the paper's 70 million images."""
    rise, fall = cfg.param_scheduler
    assert (rise.by_epoch, rise.end) == (False, steps)
    ended = steps / (70_000_000 // 9216)
    assert ended < fall.begin < ended + 1 and fall.end == cfg.train_cfg.max_epochs


@pytest.mark.parametrize('name', GIANT)
def test_giant(name):
    gpus, batch, side, epochs, lr, layer_decay, drop_path, top1 = GIANT[name]
    cfg = load(name)
    assert cfg.model.backbone.arch == 'giant' and cfg.model.head.in_channels == 4096
    assert cfg.model.backbone.drop_path_rate == drop_path
    assert cfg.train_dataloader.batch_size * gpus == batch == cfg.auto_scale_lr.base_batch_size
    assert step(cfg, 'RandomResizedCrop').scale == side
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (lr, 0.1)
    assert cfg.optim_wrapper.clip_grad.max_norm == 100
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == layer_decay
    assert cfg.train_cfg.max_epochs == epochs
    rise = cfg.param_scheduler[0]
    if top1 is None:
        reaches_its_rate(cfg, 20000)
    else:
        assert (rise.by_epoch, rise.end) == (True, 2)
        assert f'Expected top-1: {top1}, and 84.00 on ImageNet-V2' in head_of(name)
    assert cfg.strategy.zero_optimization.stage == 1


@pytest.mark.parametrize(('arch', 'top1'), [('base', '78.08'), ('large', '78.31')])
def test_imagenet_v2(arch, top1):
    name = f'{arch}-w24_in22k-pre_test_imagenet-v2-384px'
    cfg = load(name)
    trained = load(f'{arch}-w24_in22k-pre_16xb64_in1k-384px')
    assert cfg.model == trained.model
    dataset = cfg.test_dataloader.dataset
    assert dataset.type == 'mmswinv2.ImageNetV2' and 'split' not in dataset
    assert dataset.pipeline == trained.test_dataloader.dataset.pipeline
    assert f'Expected top-1: {top1} (paper' in head_of(name)


@pytest.mark.parametrize(('window', 'side'), [(12, 384), (16, 512), (20, 640), (24, 768)])
def test_windows_of_table_1(window, side):
    cfg = load(f'tiny-w8_test-w{window}_in1k-{side}px')
    assert cfg.model.backbone.window_size == window
    assert cfg.model.backbone.pretrained_window_sizes == 8  # keeps the scale of the position bias
    assert step(cfg, 'CenterCrop', 'test').crop_size == side
    assert step(cfg, 'ResizeEdge', 'test').scale == int(side * 256 / 224)


@pytest.mark.parametrize('name', SIMMIM)
def test_simmim(name):
    arch, epochs, batch, lr = SIMMIM[name]
    cfg = load(name, 'pretraining')
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch) == ('mmswinv2.SimMIMSwinTransformerV2', arch)
    assert backbone.window_size == W12
    assert cfg.model.neck == dict(
        type='SimMIMLinearDecoder', in_channels=CHANNELS[arch] * 8, encoder_stride=32
    )
    assert cfg.model.head.loss == dict(type='mmswinv2.NormalizedPixelLoss', patch_size=47)
    crop, masks = step(cfg, 'RandomResizedCrop'), step(cfg, 'SimMIMMaskGenerator')
    assert (crop.scale, crop.crop_ratio_range) == (192, (0.67, 1.0))
    assert crop.aspect_ratio_range == (3 / 4, 4 / 3) and step(cfg, 'RandomFlip').prob == 0.5
    assert (masks.input_size, masks.mask_patch_size, masks.mask_ratio) == (192, 32, 0.6)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ('AdamW', lr)
    assert cfg.train_cfg.max_epochs == epochs
    gpus = 96 if arch == 'giant' else 16
    assert cfg.train_dataloader.batch_size * gpus == batch == cfg.auto_scale_lr.base_batch_size
    if arch == 'giant':
        assert optimizer.weight_decay == 0.1 and cfg.optim_wrapper.clip_grad.max_norm == 100
        reaches_its_rate(cfg, 30000)
        return
    assert optimizer.weight_decay == 0.05 and cfg.optim_wrapper.clip_grad.max_norm == 5
    if epochs == 800:
        assert rates(cfg, (0, 10, 699, 701), epoch_length=2) == pytest.approx(
            [lr * 5e-3, lr, lr, lr * 0.1]
        )
    else:
        first, top, last = rates(cfg, (0, 10, 99), epoch_length=4)
        assert first == pytest.approx(1e-6 * 4) and top == pytest.approx(lr)
        assert 1e-5 * 4 < last < 0.1 * lr


def test_mask_token_has_no_weight_decay():
    from mmswinv2.models import SimMIMSwinTransformerV2

    cfg = load('base-w12_16xb128-800e_in1k-192px', 'pretraining')
    model = nn.ModuleDict(dict(backbone=SimMIMSwinTransformerV2(arch='nano', window_size=4)))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    token = model.backbone.mask_token
    (group,) = [g for g in groups if any(p is token for p in g['params'])]
    assert group['weight_decay'] == 0 and {g['weight_decay'] for g in groups} == {0, 0.05}


TUNED = 'base-w14_simmim-pre_16xb128-100e_in1k-224px'


def test_fine_tuning_from_simmim():
    """microsoft/Swin-Transformer, simmim_finetune__swinv2_base__img224_window14__800ep.yaml."""
    cfg = load(TUNED)
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == ('base', 0.1)
    assert (backbone.window_size, backbone.pretrained_window_sizes) == ([14, 14, 14, 7], W12)
    pretraining = load('base-w12_16xb128-800e_in1k-192px', 'pretraining')
    assert pretraining.model.backbone.window_size == W12
    assert backbone.init_cfg.checkpoint == (
        'work_dirs/simmim_swinv2-base-w12_16xb128-800e_in1k-192px/epoch_800.pth'
    )
    assert cfg.train_dataloader.batch_size * 16 == 2048 == cfg.auto_scale_lr.base_batch_size
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (1.25e-3 * 4, 0.05)
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=0.75, merging_layers=False)
    assert cfg.train_cfg.max_epochs == 100
    first, top, last = rates(cfg, (0, 20, 99), epoch_length=4)
    assert first == pytest.approx(2.5e-7 * 4) and top == pytest.approx(5e-3, rel=1e-3)
    assert 2.5e-7 * 4 < last < 0.01 * top
    assert step(cfg, 'RandomResizedCrop').scale == 224
    assert step(cfg, 'ResizeEdge', 'test').scale == int(256 / 224 * 224)
    assert step(cfg, 'CenterCrop', 'test').crop_size == 224
    assert 'Precision: float32' in head_of(TUNED)


@pytest.mark.parametrize('name', [*RECIPES, *GIANT, TUNED])
def test_loaders_drop_the_last_batch_as_the_authors_do(name):
    cfg = load(name)
    assert cfg.train_dataloader.drop_last
    assert not cfg.val_dataloader.get('drop_last') and not cfg.test_dataloader.get('drop_last')


@pytest.mark.parametrize('name', [*SIMMIM, 'nano_shapes'])
def test_simmim_loads_images_as_the_authors_do(name):
    cfg = load(name, 'pretraining')
    assert step(cfg, 'RandomResizedCrop').backend == 'pillow'
    assert step(cfg, 'RandomResizedCrop').get('interpolation', 'bilinear') == 'bilinear'
    assert cfg.train_dataloader.drop_last


def test_weight_decay_of_simmim_as_their_code_has_it():
    """The lines in the schedule's header decay only the parameters that their keywords miss."""
    from mmswinv2.models import SimMIMSwinTransformerV2

    cfg = load('base-w12_16xb128-800e_in1k-192px', 'pretraining').optim_wrapper
    head = (ROOT / 'configs/_base_/schedules/simmim_800e.py').read_text()
    text = re.search(r'paramwise_cfg=(dict\(.*?\}\))', re.sub(r'\n# *', ' ', head))[1]
    model = nn.ModuleDict(dict(backbone=SimMIMSwinTransformerV2(arch='nano', window_size=4)))
    names = {parameter: name for name, parameter in model.named_parameters()}

    def decayed(options):
        cfg.paramwise_cfg.update(options)
        groups = build_optim_wrapper(model, cfg).optimizer.param_groups
        return {names[p] for g in groups if g['weight_decay'] for p in g['params']}

    ours, theirs = decayed({}), decayed(eval(text))
    expected = {name for p, name in names.items() if p.ndim > 1 and 'mask_token' not in name}
    assert theirs == expected
    assert {name.split('.attn.')[1] for name in theirs - ours} == {
        'logit_scale', 'cpb_mlp.0.weight', 'cpb_mlp.2.weight',
    }  # fmt: skip
    assert ours < theirs
