"""Training on samples of COCO, ADE20K and real clips, if they are available."""

import json
import re
from pathlib import Path

import pytest

from tests.test_tools.conftest import ROOT

DATA = ROOT.parent / 'shared' / 'data'
SAMPLE, ADE = DATA / 'coco_tiny', DATA / 'ade_tiny' / 'ADEChallengeData2016'
CLIPS = DATA / 'k400_tiny'
CONFIG = 'configs/detection/mask-rcnn_swinv2-nano_coco-320.py'
SCENES = 'configs/segmentation/swinv2-nano_upernet_ade20k-128x128.py'
KINETICS = 'configs/video/video-swinv2-nano_kinetics400-rgb-64.py'
TWO = {403385, 331352}  # images with few and large objects

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SAMPLE.exists() and ADE.exists() and CLIPS.exists()),
        reason='the samples of real images and clips are not here',
    ),
]


def coco_layout(folder, train_ids=None):
    """The sample in COCO's layout; with `train_ids`, those training images in both splits."""
    (folder / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        source = 'train2017' if train_ids else split
        (folder / split).symlink_to(SAMPLE / 'images' / source)
        content = json.loads((SAMPLE / f'annotations/instances_{source}.json').read_text())
        if train_ids:
            for key, name in (('images', 'id'), ('annotations', 'image_id')):
                content[key] = [item for item in content[key] if item[name] in train_ids]
        (folder / f'annotations/instances_{split}.json').write_text(json.dumps(content))
    return folder


def box_ap(run):
    assert run.returncode == 0, run.stderr
    return float(re.findall(r'coco/bbox_mAP: (-?[\d.]+)', run.stdout)[-1])


def schedule(iters, batch_size, *options):
    return [
        f'train_dataloader.batch_size={batch_size}', f'max_iters={iters}',
        f'train_cfg.val_interval={iters}', f'param_scheduler.1.end={iters}',
        f'default_hooks.checkpoint.interval={iters}', *options,
    ]  # fmt: skip


def test_two_images_are_learnt_by_heart(train, tmp_path):
    data = coco_layout(tmp_path / 'coco', TWO)
    options = schedule(150, 2)
    run = train(tmp_path / 'w', iters=150, options=options, data_root=data, config=CONFIG)
    assert box_ap(run) >= 0.6


def test_one_epoch_of_the_sample(tool, tmp_path):
    data = coco_layout(tmp_path / 'coco')
    run = tool(
        'train.py', CONFIG, '--work-dir', tmp_path / 'w', '--cfg-options', f'data_root={data}',
        'train_cfg.max_iters=8', 'train_cfg.val_interval=8', 'model.test_cfg.rcnn.score_thr=0',
    )  # fmt: skip
    assert 0 <= box_ap(run) <= 1
    assert Path(tmp_path / 'w' / 'iter_8.pth').exists()


def test_scenes_are_learnt_by_heart(train, tmp_path):
    """Overfits on the training images of ADE20K's sample, and is evaluated on the same images."""
    for kind in ('images', 'annotations'):
        (tmp_path / kind).mkdir()
        for split in ('training', 'validation'):
            (tmp_path / kind / split).symlink_to(ADE / kind / 'training')
    options = schedule(
        250, 2, 'optim_wrapper.optimizer.lr=2e-3',
        'train_dataloader.dataset.pipeline.2.ratio_range=(0.9,1.1)',
    )  # fmt: skip
    run = train(
        tmp_path / 'w', iters=250, options=options, data_root=tmp_path, config=SCENES
    ).succeeded()
    # mean over classes that occur or are predicted
    assert float(re.findall(r'mIoU: ([\d.]+)', run.stdout)[-1]) >= 25


def test_clips_of_four_actions_are_told_apart(train, tmp_path):
    options = schedule(70, 8, 'model.cls_head.num_classes=4', 'model.cls_head.topk=(1,)')
    run = train(tmp_path, iters=70, options=options, data_root=CLIPS, config=KINETICS).succeeded()
    assert float(re.findall(r'acc/top1: ([\d.]+)', run.stdout)[-1]) >= 0.9
