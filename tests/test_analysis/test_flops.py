import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmswinv2 import hosts
from mmswinv2.analysis.model import (
    FlopCounter,
    StandIn,
    build,
    count_flops,
    count_parameters,
    ready,
)
from mmswinv2.cli.flops import main
from mmswinv2.core import SwinV2
from mmswinv2.errors import UserError
from mmswinv2.hosts import input_size, sample_batch
from tests.test_tools.conftest import ROOT

pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(det|seg)'),
    # a warning of mmdet
    pytest.mark.filterwarnings('ignore:torch.meshgrid:UserWarning'),
]


def load(name):
    hosts.apply()
    return Config.fromfile(ROOT / 'configs' / name)


# From the authors' table of models: window 24 at 384 pixels, windows 16 and 8 at 256
PUBLISHED = [
    ('tiny', 8, 5.9), ('small', 8, 11.5), ('base', 8, 20.3), ('tiny', 16, 6.6), ('small', 16, 12.6),
    ('base', 16, 21.8), ('base', 24, 54.7), ('large', 16, 47.5), ('large', 24, 115.4),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'window', 'published'), PUBLISHED)
def test_released_classifiers(name, window, published):
    size = 384 if window == 24 else 256
    counter = FlopCounter()
    with torch.device('meta'):  # a quarter of the time of fake tensors
        net = SwinV2(name, window_size=window, out_indices=(3,)).eval()
        with torch.no_grad(), counter:
            net(torch.empty(1, 3, size, size))
    classifier = 1000 * net.num_features[-1]
    assert (counter.total + classifier) / 1e9 == pytest.approx(published, rel=0.02)


def test_by_hand():
    # one stage of one block, 6 x 5 tokens in windows of 4: products of tokens and weights, and
    # attention in windows cut to 4 x 4, 4 x 1, 2 x 4 and 2 x 1 tokens
    arch = dict(embed_dims=32, depths=(1,), num_heads=(1,))
    with torch.device('meta'):
        net = SwinV2(arch, window_size=4, out_indices=(0,)).eval()
    counter = FlopCounter()
    with torch.no_grad(), counter:
        StandIn(net, [counter])(torch.empty(1, 3, 24, 20))
    tokens, c = 30, 32
    pairs = sum(n * n for n in (16, 4, 8, 2))
    bias = 7 * 7 * (2 * 512 + 512 * 1)
    expected = tokens * (48 * c + (3 + 1 + 4 + 4) * c * c) + 2 * pairs * c + bias
    assert counter.total == expected


NANO = [
    ('detection/htc++_swinv2-nano_shapes.py', (96, 96)),
    ('segmentation/swinv2-nano_upernet_ade20k-128x128.py', (128, 128)),
    ('video/video-swinv2-nano_motion.py', (8, 64, 64)),
]


@pytest.mark.parametrize(('name', 'size'), NANO)
def test_parts_make_the_whole(name, size):
    cfg = load(name)
    flops = count_flops(cfg, size)
    total = flops.pop('total')
    assert sum(flops.values()) == total and flops['backbone'] > 1e6
    larger = count_flops(cfg, [*size[:-1], 2 * size[-1]])
    assert larger['backbone'] > 1.9 * flops['backbone']
    assert count_parameters(cfg) == sum(p.numel() for p in MODELS.build(ready(cfg)).parameters())


def test_of_a_model_whose_parts_compute_values_when_they_are_built():
    cfg = load('video/video-swinv2-nano_motion.py')
    size, plain = (8, 64, 64), count_parameters(cfg)
    flops = count_flops(cfg, size)
    mixup = dict(type='MixupBlending', num_classes=6, alpha=0.8)  # draws from a Beta distribution
    cfg.model.data_preprocessor.blending = dict(type='RandomBatchAugment', augments=[mixup])
    assert count_parameters(cfg) == plain and count_flops(cfg, size) == flops


def test_weights_that_a_segmentor_names_change_nothing():
    cfg = load('segmentation/swinv2-nano_upernet_ade20k-128x128.py')
    size = (64, 64)
    parameters, flops = count_parameters(cfg), count_flops(cfg, size)
    cfg.model.pretrained = 'none.pth'
    assert (count_parameters(cfg), count_flops(cfg, size)) == (parameters, flops)


def test_parameters_with_the_backbone_of_a_host():
    cfg = load('segmentation/swinv2-nano_upernet_ade20k-128x128.py')
    cfg.model.backbone = dict(  # with maps of the same sizes
        type='MixVisionTransformer', embed_dims=32, num_heads=[1, 2, 4, 8], num_layers=[2] * 4
    )
    assert count_parameters(cfg) == sum(p.numel() for p in MODELS.build(cfg.model).parameters())


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('detection/mask-rcnn_swinv2-t-w16_fpn_ms-3x_coco.py', (800, 1344)),
        ('detection/htc++_swinv2-b-w32_fpn_16xb4-3x_coco-1536x1536.py', (1536, 1536)),
        ('detection/htc++_swinv2-g-w32_fpn_96xb1-67500iters_objects365v2-800x1024.py', (800, 1024)),
        ('segmentation/swinv2-b-w40_upernet_8xb8-40k_ade20k-640x640.py', (640, 640)),
        ('video/video-swinv2-g-p244-w8x20x20_64xb1-5e_kinetics400-rgb-320.py', (16, 320, 320)),
        ('video/swinv2-t-w8_tsn-1x1x8_8xb8-amp-30e_kinetics400-rgb-256.py', (8, 256, 256)),
        ('video/video-swinv2-t-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py', (32, 256, 256)),
    ],
)
def test_size_of_a_recipe(name, size):
    cfg = load(name)
    assert input_size(cfg) == size
    assert input_size(cfg, [64] * len(size)) == (64,) * len(size)
    with pytest.raises(UserError, match=f'must be {len(size)} sizes for this config, got'):
        input_size(cfg, [64] * (5 - len(size)))


def test_proposals_of_detectors_without_an_rpn():
    """Those of Fast R-CNN are data, and those of Sparse R-CNN and QueryInst are weights."""
    cfg = load('detection/mask-rcnn_swinv2-nano_coco-320.py')
    cfg.model.rpn_head = dict(type='EmbeddingRPNHead', num_proposals=3)
    model, _ = build(cfg)
    whole = [[0.5, 0.5, 1, 1]] * 3  # center and size as shares of the image, as at the start
    assert model.rpn_head.init_proposal_bboxes.weight.tolist() == whole
    cfg.model.type = 'FastRCNN'
    boxes = sample_batch(cfg, (64, 64), 1)['data_samples'][0].proposals.bboxes
    assert boxes.shape == (2000, 4) and (boxes >= 0).all() and (boxes <= 64).all()


def test_size_of_several_data_sets_and_of_none():
    cfg = load('segmentation/swinv2-nano_upernet_ade20k-128x128.py')
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    assert input_size(cfg) == (128, 128)
    cfg.model.data_preprocessor = None
    # a wrapper with steps of its own, behind those of its data set
    inner = dict(type='CocoDataset', pipeline=[dict(type='Resize', scale=(32, 32))])
    mixed = dict(type='MultiImageMixDataset', dataset=inner, pipeline=[dict(type='Mosaic')])
    cfg.train_dataloader.dataset = mixed
    assert input_size(cfg) == (32, 32)
    cfg.train_dataloader.dataset.pipeline += [dict(type='Resize', scale=(64, 48))]
    assert input_size(cfg) == (48, 64)
    cfg = load('detection/mask-rcnn_swinv2-nano_shapes.py')
    cfg.train_dataloader = None
    with pytest.raises(UserError, match='no train_dataloader with a pipeline'):
        input_size(cfg)
    with pytest.raises(UserError, match='has no model; name the config of a training'):
        input_size(Config(dict(train_dataloader={})), (64, 64))


@pytest.mark.parametrize(
    ('step', 'size'),
    [
        (dict(type='RandomResize', scale=[(1333, 640), (1333, 800)]), (800, 1333)),  # ms-3x
        (dict(type='RandomChoiceResize', scales=[(1333, 640), (1333, 800)]), (800, 1333)),
        (dict(type='RandomResize', scale=(2048, 1024)), (1024, 2048)),
        (dict(type='RandomResize', scale=(200, 100), ratio_range=(0.5, 2.0)), (200, 400)),
        (dict(type='RandomCrop', crop_type='relative_range', crop_size=(0.5, 0.5)), None),
        (dict(type='RandomResizedCropAndInterpolationWithTwoPic', scale=(0.2, 1.0)), None),
        (dict(type='Resize', scale=128), (128, 128)),
        (dict(type='MultiScaleCrop', input_size=224, scales=(1, 0.8)), None),
        (dict(type='RandomCrop', size=24), (24, 24)),
        (dict(type='torchvision/CenterCrop', size=[24]), (24, 24)),
    ],
)
def test_scales_of_transforms(step, size):
    loader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(64, 32)), step]))
    cfg = Config(dict(default_scope='mmdet', model={}, train_dataloader=loader))
    assert input_size(cfg) == (size or (32, 64))
    batches = dict(type='BatchSyncRandomResize', random_size_range=(480, 800))
    cfg.model.data_preprocessor = dict(batch_augments=[batches])
    height, width = size or (32, 64)
    assert input_size(cfg) == (800, 800 * width // height)
    cfg.model.data_preprocessor = dict(batch_augments=dict(augments=[dict(type='Mixup')]))
    assert input_size(cfg) == (height, width)


def test_frames_of_an_image_network_are_images():
    cfg = load('video/swinv2-t-w8_tsn-1x1x8_8xb8-amp-30e_kinetics400-rgb-256.py')
    one, eight = (count_flops(cfg, (frames, 64, 64))['backbone'] for frames in (1, 8))
    assert 7.8 * one < eight < 8 * one  # the position bias is computed once for all frames


def test_only_our_backbones():
    cfg = load('video/video-swinv2-nano_motion.py')
    cfg.model.backbone.type = 'ResNet'
    with pytest.raises(UserError, match='has no backbone of mmswinv2'):
        count_flops(cfg, (8, 64, 64))


def test_assigners_without_thresholds_stay():
    """The assigner of Sparse R-CNN has no IoU thresholds and is left unchanged."""
    stages = [dict(assigner=dict(type='HungarianAssigner')), dict(assigner=dict(pos_iou_thr=0.5))]
    model = dict(type='x', train_cfg=dict(rcnn=stages))
    first, second = ready(Config(dict(model=model))).train_cfg.rcnn
    assert first.assigner == dict(type='HungarianAssigner') and second.assigner.pos_iou_thr == 0.1


@pytest.mark.parametrize(
    ('config', 'axes'),
    [
        ('segmentation/swinv2-nano_upernet_ade20k-128x128.py', 'H W'),
        ('video/video-swinv2-nano_kinetics400-rgb-64.py', 'T H W'),
    ],
)
def test_what_is_printed(config, axes, capsys):
    """The parts add up."""
    main([str(ROOT / 'configs' / config)])
    printed = capsys.readouterr().out
    assert f'--shape {axes} for another' in printed
    parts = [float(n) for n in re.findall(r'^  \w+: ([\d.]+) G$', printed, re.M)]
    (total,) = re.findall(r'^Flops: ([\d.]+) G$', printed, re.M)
    assert sum(parts) == pytest.approx(float(total), abs=2e-3) and parts


def test_lines_of_imports_are_not_among_those_of_the_result(monkeypatch, capsys):
    def count(cfg, size):
        print('Could not import OneDL')  # as mmseg and mmdet do
        return dict(total=1e9)

    monkeypatch.setattr('mmswinv2.analysis.model.count_flops', count)
    main([str(ROOT / 'configs/segmentation/swinv2-nano_upernet_ade20k-128x128.py')])
    printed = [line.split(':')[0] for line in capsys.readouterr().out.splitlines()]
    line = '=' * 30
    assert printed == ['Could not import OneDL', line, 'Input shape', 'Flops', 'Params', line]
