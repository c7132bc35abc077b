"""The ADE20K recipes carry the numbers of arXiv 2111.09883, stated here once."""

import re

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmswinv2 import hosts
from mmswinv2.checkpoints import PUBLISHED
from tests.test_configs.test_detection import CHANNELS, RELEASE, step
from tests.test_tools.conftest import ROOT

FOLDER = ROOT / 'configs/segmentation'
W16, W22K = (16, 16, 16, 8), (12, 12, 12, 6)

# settings of the three groups of recipes: GPUs, batch, iterations, warm-up, lr, layer decay (1: not
# given in the paper), drop path
ABLATION = (8, 16, 160_000, 1500, 4e-5, 0.95, 0.3)
SYSTEM = (8, 64, 40_000, 375, 6e-5, 1.0, 0.3)
GIANT = (32, 32, 80_000, 750, 4e-5, 1.0, 0.4)

# config: arch, image, window, pre-trained windows, weights, group, expected mIoU
RECIPES = {
    't-w16_upernet_8xb2-160k': (
        ('tiny', 512, 16, W16, 'tiny_patch4_window16_256', ABLATION, '47.0')
    ),
    's-w16_upernet_8xb2-160k': (
        ('small', 512, 16, W16, 'small_patch4_window16_256', ABLATION, None)
    ),
    'b-w16_upernet_8xb2-160k': (('base', 512, 16, W16, 'base_patch4_window16_256', ABLATION, None)),
    'b-w40_upernet_8xb8-40k': (
        ('base', 640, 40, W22K, 'base_patch4_window12_192_22k', SYSTEM, None)
    ),
    'l-w40_upernet_8xb8-40k': (
        ('large', 640, 40, W22K, 'large_patch4_window12_192_22k', SYSTEM, '55.9')
    ),
    'g-w40_upernet_32xb1-80k': ('giant', 640, 40, W22K, None, GIANT, '59.1'),
}
TESTS = {'g-w56_upernet_test': '59.3', 'g-w56_upernet_test-ms': '59.9'}
TRAINED = 'g-w40_upernet_32xb1-80k'
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def path(name):
    size = RECIPES[name][1] if name in RECIPES else 896
    return FOLDER / f'swinv2-{name}_ade20k-{size}x{size}.py'


def load(name):
    return Config.fromfile(path(name))


def expected(name):
    found = re.search(r'Expected mIoU: ([\d.]+).*\(paper\)', path(name).read_text())
    return found and found[1]


def check_test_time(cfg, size):
    """One scale; with --tta six scales and flips. The aspect ratio is always kept."""
    for split in ('val', 'test'):
        resize = step(cfg, 'Resize', split)
        assert resize.scale == (4 * size, size) and resize.keep_ratio
    scales, flips, *_ = cfg.tta_pipeline[1].transforms
    assert [s.scale for s in scales] == [(int(4 * size * r), int(size * r)) for r in RATIOS]
    assert all(s.keep_ratio for s in scales) and [f.prob for f in flips] == [0.0, 1.0]
    assert cfg.tta_model.type == 'SegTTAModel'
    assert cfg.model.test_cfg.mode == 'whole'


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    arch, size, window, pretrained, weights, group, score = RECIPES[name]
    gpus, batch, length, warmup, lr, decay, drop_path = group
    cfg = load(name)
    backbone = cfg.model.backbone
    # in the last stage a window of 40 is the whole map of a crop, which is 20 wide
    windows = {16: 16, 40: [40, 40, 40, 20]}[window]
    assert (backbone.arch, backbone.window_size) == (arch, windows)
    assert tuple(backbone.pretrained_window_sizes) == pretrained
    assert backbone.drop_path_rate == drop_path
    address = backbone.init_cfg and PUBLISHED[backbone.init_cfg.checkpoint].url
    assert address == (weights and f'{RELEASE}{weights}.pth')

    heads = cfg.model.decode_head, cfg.model.auxiliary_head
    assert [h.type for h in heads] == ['UPerHead', 'FCNHead']
    assert heads[0].in_channels == [CHANNELS[arch] * 2**i for i in range(4)]
    assert heads[1].in_channels == CHANNELS[arch] * 4
    assert all(h.num_classes == 150 for h in heads)

    assert cfg.train_dataloader.batch_size * gpus == batch == cfg.auto_scale_lr.base_batch_size
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, 0.05)
    assert cfg.optim_wrapper.constructor == 'mmswinv2.SwinLayerDecayOptimWrapperConstructor'
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=decay)
    assert cfg.train_cfg.max_iters == length
    rise, fall = cfg.param_scheduler
    assert (rise.type, rise.begin, rise.end) == ('LinearLR', 0, warmup)
    assert (fall.type, fall.begin, fall.end) == ('PolyLR', warmup, length)
    assert (fall.power, fall.eta_min) == (1.0, 0.0)  # linear, to zero

    jitter = step(cfg, 'RandomResize')
    assert (jitter.scale, jitter.ratio_range) == ((4 * size, size), (0.5, 2.0))
    assert step(cfg, 'RandomCrop').crop_size == (size, size) == cfg.model.data_preprocessor.size
    assert step(cfg, 'RandomFlip').prob == 0.5
    assert step(cfg, 'PhotoMetricDistortion') is not None
    assert cfg.train_dataloader.dataset.type == 'ADE20KDataset'
    check_test_time(cfg, size)
    assert expected(name) == score


def test_nano():
    check_test_time(Config.fromfile(FOLDER / 'swinv2-nano_upernet_ade20k-128x128.py'), 128)


def test_the_metafile_and_the_readme_say_the_same():
    meta = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    readme = (FOLDER / 'README.md').read_text()
    rows = {
        line.split('](')[-1].split(')')[0]: line for line in readme.splitlines() if '](' in line
    }
    for model in meta['Models']:
        name = re.search(r'swinv2-(.*)_ade20k', model['Name'])[1]
        known = model.get('Metadata', {})
        assert str(known.get('mIoU (paper)', '')).split()[:1] == [expected(name)] * bool(
            expected(name)
        )
        if name in RECIPES:
            assert known['Iterations'] == RECIPES[name][5][2]
            assert known['Batch Size'] == RECIPES[name][5][1]
            row = rows[path(name).name]
            batch, length, lr = (RECIPES[name][5][i] for i in (1, 2, 4))
            assert f'| {batch} | {length // 1000}k | {lr:.0e} |'.replace('e-0', 'e-') in row
            assert (expected(name) or '') in row and row.count('(paper)') == bool(expected(name))


@pytest.mark.parametrize('name', TESTS)
def test_tests_of_giant(name):
    cfg, trained = load(name), load(TRAINED)
    assert cfg.model.backbone.pop('window_size') == [56, 56, 56, 28]
    trained.model.backbone.pop('window_size')
    assert cfg.model == trained.model
    check_test_time(cfg, 896)
    assert expected(name) == TESTS[name]


@pytest.mark.filterwarnings('ignore::UserWarning:mmseg')
def test_a_larger_window_changes_no_weight():
    hosts.apply()
    init_default_scope('mmseg')
    shapes = []
    for name in (TRAINED, *TESTS):
        with torch.device('meta'):
            state = MODELS.build(load(name).model).state_dict()
        shapes.append({k: v.shape for k, v in state.items()})
    assert shapes[0] == shapes[1] == shapes[2] and len(shapes[0]) > 500
