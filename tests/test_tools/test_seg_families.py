"""Each family of segmentors trains, saves, resumes and tests, tiny, on shapes."""

import re

import pytest
from mmengine.config import Config

from tests.test_tools.conftest import ROOT
from tests.test_tools.test_families import steps

pytestmark = pytest.mark.slow
RECIPES = {
    '512': 'swinv2-t-w16_upernet_8xb2-160k_ade20k-512x512',
    '640': 'swinv2-l-w40_upernet_8xb8-40k_ade20k-640x640',
}
DECODERS = {
    'fcn': 'fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512',
    'pspnet': 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512',
    'deeplabv3plus': 'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512',
    'segformer': 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'mask2former': 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512',
}
SIDE = 64


def shrink(cfg, data_root, path):
    """Write a segmentor's config with crops of 64 pixels and the classes of the shapes."""
    data = Config.fromfile(ROOT / 'configs/_base_/datasets/shapes_semantic.py')
    sizes = {'crop_size': (SIDE, SIDE), 'size': (SIDE, SIDE), 'scale': (4 * SIDE, SIDE)}

    def walk(node):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, dict):
                value.pop('reduce_zero_label', None)  # labels of the shapes start at 0
            if key in sizes and not isinstance(value, int):
                node[key] = sizes[key]
            elif key == 'scales':
                node[key] = [SIDE, 2 * SIDE]  # shorter sides
            elif key == 'num_classes':
                node[key] = 7
            elif key == 'class_weight':
                node[key] = [*value[:7], value[-1]]
            elif key == 'num_points':
                node[key] = 64
            elif isinstance(value, (dict, list)):
                walk(value)

    walk(cfg._cfg_dict)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        pipeline = loader.dataset.pipeline
        loader.dataset = data[f'{split}_dataloader'].dataset
        loader.dataset.update(data_root=str(data_root), pipeline=pipeline)
    cfg.train_dataloader.batch_size = 2
    cfg.strategy = None  # for one process
    cfg.train_cfg.update(max_iters=2, val_interval=100)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    cfg.dump(path)


def scores(log):
    return re.findall(r'mIoU: (\S+)', log)


def with_tta(tool, config, work_dir):
    run = tool(
        'test.py', config, work_dir / 'iter_3.pth', '--work-dir', work_dir / 't', '--tta'
    ).succeeded()
    return run.stdout


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(tool, shapes, tmp_path, name):
    cfg = Config.fromfile(ROOT / f'configs/segmentation/{RECIPES[name]}.py')
    cfg.model.backbone.update(
        arch='nano', window_size=5, pretrained_window_sizes=None, init_cfg=None
    )
    cfg.model.decode_head.update(in_channels=[32, 64, 128, 256], channels=32)
    cfg.model.auxiliary_head.update(in_channels=128, channels=32)
    shrink(cfg, shapes, tmp_path / 'c.py')
    log, resumed = steps(tool, tmp_path / 'c.py', tmp_path)
    assert 'decode.loss_ce: ' in log and 'aux.loss_ce: ' in log
    assert scores(resumed) and scores(with_tta(tool, tmp_path / 'c.py', tmp_path))


@pytest.mark.parametrize('family', DECODERS)
def test_swapped_decoder(tool, shapes, tmp_path, family):
    """A config written by the swap tool, with layer decay, works with the tools."""
    path = tmp_path / 'swapped.py'
    tool(
        'misc/swap_backbone.py', f'mmseg::{DECODERS[family]}.py', '--arch', 'nano',
        '--checkpoint', 'none', '--layer-decay', '0.9', '-o', path,
    ).succeeded()  # fmt: skip
    cfg = Config.fromfile(path)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.9
    shrink(cfg, shapes, path)
    log, resumed = steps(tool, path, tmp_path)
    rates = re.findall(r'^layer \d+ of backbone +(\S+)', log, re.MULTILINE)
    assert len(set(rates)) == 12  # patches, eight blocks, three mergings
    assert scores(resumed)
    assert scores(with_tta(tool, path, tmp_path))
