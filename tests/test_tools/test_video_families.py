"""The video recipes train and test, as small as possible, on drawn motion."""

import re

import pytest
from mmengine.config import Config

from tests.test_configs.test_video import OURS_NAME, STAGE_1, STAGE_2
from tests.test_tools.conftest import ROOT

pytestmark = pytest.mark.slow
VIEWS = 'g-p244-w8x24x24_test-4x5_kinetics400-rgb-384'
STHV2 = 'b-p244-w16x8x8_8xb8-amp-60e_sthv2-rgb-256'
SIDE = 48


def shrink(name, root, path):
    """Write a recipe with the nano variant, clips of 8 frames of 48x48, and one epoch."""
    cfg = Config.fromfile(ROOT / f'configs/video/video-swinv2-{name}.py')
    cfg.model.backbone.update(
        arch='nano', window_size=(4, 5, 5), pretrained_window_sizes=None, init_cfg=None
    )
    cfg.model.cls_head.update(in_channels=256, num_classes=6)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        folder = 'train' if split == 'train' else 'val'
        loader.dataset.update(
            data_root=str(root),
            ann_file=f'motion_{folder}_list_videos.txt',
            data_prefix=dict(video=f'videos_{folder}'),
        )
        for step in loader.dataset.pipeline:
            if 'clip_len' in step:
                step.clip_len = 8
            if 'crop_size' in step:
                step.crop_size = SIDE
            if step.type == 'Resize':
                step.scale = (-1, SIDE) if step.scale[0] == -1 else (SIDE, SIDE)
    cfg.train_dataloader.batch_size = 2
    cfg.strategy = None  # for one process
    cfg.optim_wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
    cfg.optim_wrapper.pop('dtype', None)
    cfg.train_cfg.update(max_epochs=1, val_begin=1, val_interval=1)
    cfg.param_scheduler = []
    cfg.default_hooks.logger.interval = 1
    cfg.dump(path)
    return cfg


def train_and_test(tool, config, work_dir):
    run = tool('train.py', config, '--work-dir', work_dir).succeeded()
    assert re.search(r'Epoch\(train\) +\[1\]\[6/6\].*loss_cls: \d', run.stdout)
    tested = tool(
        'test.py', config, work_dir / 'epoch_1.pth', '--work-dir', work_dir / 't'
    ).succeeded()
    assert 'acc/top1' in tested.stdout and 'acc/top5' in tested.stdout
    return run.stdout


def test_recipe_of_ours_and_another_data_set_after_it(tool, clips, tmp_path):
    shrink(OURS_NAME.format('t'), clips, tmp_path / 't.py')
    train_and_test(tool, tmp_path / 't.py', tmp_path / 'first')
    cfg = shrink(STHV2, clips, tmp_path / 's.py')
    cfg.custom_hooks[0].checkpoint = str(tmp_path / 'first/epoch_1.pth')
    cfg.dump(tmp_path / 's.py')
    log = train_and_test(tool, tmp_path / 's.py', tmp_path / 'second')
    assert '2 new (cls_head.fc_cls), 2 of the file not used' in log


def test_giant_in_two_stages_and_twenty_views(tool, clips, tmp_path):
    shrink(STAGE_1, clips, tmp_path / '1.py')
    train_and_test(tool, tmp_path / '1.py', tmp_path / '1')
    cfg = shrink(STAGE_2, clips, tmp_path / '2.py')
    cfg.custom_hooks[0].checkpoint = str(tmp_path / '1/epoch_1.pth')
    cfg.dump(tmp_path / '2.py')
    assert 'Loaded epoch_1.pth' in train_and_test(tool, tmp_path / '2.py', tmp_path / '2')
    cfg = shrink(VIEWS, clips, tmp_path / 'v.py')
    run = tool(
        'test.py', tmp_path / 'v.py', tmp_path / '2/epoch_1.pth', '--work-dir', tmp_path
    ).succeeded()
    assert 'acc/top1' in run.stdout and cfg.model.test_cfg.max_testing_views == 1
