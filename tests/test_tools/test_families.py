"""Each family of detectors trains, saves, resumes and validates, tiny, on shapes."""

import pytest
from mmengine.config import Config

from tests.test_tools.conftest import ROOT

pytestmark = pytest.mark.slow
HTC = 'fpn_16xb4-3x_coco-1536x1536'
STAGE_1 = 'htc++_swinv2-g-w32_fpn_96xb1-67500iters_objects365v2-800x1024'
STAGE_2 = 'htc++_swinv2-g-w32_fpn_96xb1-45k_coco-1536x1536'
FAMILIES = {
    'cascade-mask-rcnn': 'cascade-mask-rcnn_swinv2-t-w16_fpn_ms-3x_coco',
    'faster-rcnn': 'faster-rcnn_swinv2-t-w16_fpn_ms-3x_coco',
    'retinanet': 'retinanet_swinv2-t-w16_fpn_ms-3x_coco',
    'dino': 'dino-4scale_swinv2-t-w16_8xb2-12e_coco',
    'mask2former': 'mask2former_swinv2-t-w16_8xb2-lsj-50e_coco',
    'htc++': f'htc++_swinv2-b-w32_{HTC}',
    'htc++-without-semantic': f'htc++-without-semantic_swinv2-b-w32_{HTC}',
}
SIDE = 96
SMALLER = {
    'num_classes': {80: 4, 365: 4, 183: 7},
    'num_things_classes': {80: 4},
    'max_per_img': {2000: 40, 1000: 40, 100: 10},
    'num': {512: 16, 256: 32},
    'num_points': {12544: 64},
    'num_queries': {900: 30, 100: 30},
    'max_per_image': {100: 20},
    # these make most of the weights, which each run writes and reads several times
    'fc_out_channels': {1024: 64},
    'feedforward_channels': {2048: 64, 1024: 64},
}
IMAGES = {'scale': (SIDE, SIDE), 'scales': [(SIDE, SIDE)], 'crop_size': (SIDE, SIDE)}


def shrink_settings(node):
    """Replace sizes anywhere in a config by those of a small network and its images."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, int) and value in SMALLER.get(key, ()):
                node[key] = SMALLER[key][value]
            elif (key in IMAGES and str(node.get('type')).startswith('Ra')) or key == 'size':
                node[key] = IMAGES.get(key, (SIDE, SIDE))
            elif key == 'score_thr':
                node[key] = 0.0  # so that an untrained model has detections
            elif key == 'scale' and node.get('type') == 'Resize':
                node[key] = (SIDE, SIDE)
            else:
                shrink_settings(value)
    elif isinstance(node, list):
        for item in node:
            shrink_settings(item)


def shrink(name, data_root, path):
    """Write a recipe with the nano variant, images of 96 pixels and the classes of the shapes."""
    cfg = Config.fromfile(ROOT / f'configs/detection/{name}.py')
    backbone = cfg.model.backbone
    backbone.update(
        arch='nano', window_size=4, pretrained_window_sizes=None, with_cp=False, init_cfg=None
    )
    channels = [32 * 2**i for i in backbone.get('out_indices', (0, 1, 2, 3))]
    neck = cfg.model.get('neck', [])
    for part in neck if isinstance(neck, list) else [neck]:
        part.in_channels = channels[-1] if 'GlobalSelf' in part.type else channels
    if 'panoptic_head' in cfg.model:
        cfg.model.panoptic_head.in_channels = channels
        cfg.model.panoptic_head.loss_cls.class_weight = [1.0] * 4 + [0.1]
    cfg.randomness = dict(seed=0)
    cfg.strategy = None  # for one process
    shrink_settings(cfg._cfg_dict)
    cfg.model.test_cfg.update({'max_per_img': 20} if 'max_per_img' in cfg.model.test_cfg else {})
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        folder = 'train' if split == 'train' else 'val'
        loader.dataset.update(
            type='CocoDataset',
            data_root=str(data_root),
            ann_file=f'annotations/instances_{folder}2017.json',
            metainfo=dict(classes=('circle', 'square', 'triangle', 'star')),
        )
        loader.dataset.data_prefix.img = f'{folder}2017/'
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
    cfg.val_evaluator.ann_file = f'{data_root}/annotations/instances_val2017.json'
    cfg.test_evaluator = cfg.val_evaluator
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=100)
    cfg.param_scheduler = []
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.dump(path)
    return cfg


def steps(tool, config, work_dir):
    """Train two steps, and resume for a third and a validation; returns the logs of both."""
    run = tool('train.py', config, '--work-dir', work_dir).succeeded()
    assert 'Iter(train) [2/2]' in run.stdout and 'loss: nan' not in run.stdout
    again = tool(
        'train.py', config, '--work-dir', work_dir, '--resume',
        '--cfg-options', 'train_cfg.max_iters=3', 'train_cfg.val_interval=3',
    ).succeeded()  # fmt: skip
    assert 'Iter(train) [3/3]' in again.stdout and 'Iter(train) [2/3]' not in again.stdout
    return run.stdout, again.stdout


@pytest.mark.parametrize('family', FAMILIES)
def test_family(tool, shapes, tmp_path, family):
    config = tmp_path / f'{family}.py'
    cfg = shrink(FAMILIES[family], shapes, config)
    log, scores = steps(tool, config, tmp_path)
    assert 'coco/bbox_mAP:' in scores
    assert ('coco/segm_mAP:' in scores) == ('segm' in cfg.val_evaluator.metric)
    assert ('loss_semantic_seg:' in log) == (family == 'htc++')
    if family == 'mask2former':
        run = tool('test.py', config, tmp_path / 'iter_3.pth', '--work-dir', tmp_path, '--tta')
        assert run.returncode == 1
        assert run.stderr.startswith('error: --tta: masks of Mask2Former cannot be merged')


def test_giant_in_two_stages(tool, shapes, tmp_path):
    """Stage 2 starts from stage 1 and reports new parameters; a resumed run does not."""
    first, second = tmp_path / 'first.py', tmp_path / 'second.py'
    shrink(STAGE_1, shapes, first)
    assert 'coco/bbox_mAP:' in steps(tool, first, tmp_path / '1')[1]
    cfg = shrink(STAGE_2, shapes, second)
    cfg.custom_hooks[0].checkpoint = str(tmp_path / '1/iter_3.pth')
    cfg.dump(second)
    log, resumed = steps(tool, second, tmp_path / '2')
    assert 'new (roi_head.bbox_head, roi_head.mask_head, roi_head.semantic_head), 6 of the' in log
    assert 'Loaded iter_3.pth' in log and 'Loaded iter_3.pth' not in resumed
    assert 'coco/segm_mAP:' in resumed
    cfg.model.backbone.arch = 'tiny'
    cfg.model.neck[0].in_channels, cfg.model.neck[1].in_channels = 768, [96, 192, 384, 768]
    cfg.dump(second)
    run = tool('train.py', second, '--work-dir', tmp_path / '3')
    assert run.returncode == 1 and run.stderr.startswith('error: ')
    assert 'iter_3.pth does not fit the model (another shape: ' in run.stderr
    cfg.load_from = str(tmp_path / '1/iter_3.pth')
    cfg.dump(second)
    run = tool('train.py', second, '--work-dir', tmp_path / '3')
    assert run.returncode == 1 and 'both give the weights to start from' in run.stderr


def test_semantic_maps_that_are_missing(tool, shapes, tmp_path):
    config = tmp_path / 'htc.py'
    cfg = shrink(FAMILIES['htc++'], shapes, config)
    cfg.train_dataloader.dataset.data_prefix.seg = 'maps/train2017/'
    cfg.dump(config)
    run = tool('train.py', config, '--work-dir', tmp_path)
    assert run.returncode == 1 and 'maps/train2017 (seg) does not exist' in run.stderr
    assert 'coco_stuff_maps.py' in run.stderr and 'htc++-without-semantic' in run.stderr
