"""The tool that gives other configs a SwinV2 backbone."""

import importlib
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmswinv2 import hosts
from mmswinv2.checkpoints import FORMATS, PUBLISHED
from mmswinv2.cli import main
from mmswinv2.core import VARIANTS, SwinV2
from mmswinv2.errors import CheckpointError, UserError
from mmswinv2.hosts import dicts_in, find_config
from mmswinv2.swap import (
    Options,
    default_window,
    read_config,
    swap_backbone,
    write_config,
)
from mmswinv2.swap.config import Notes
from mmswinv2.swap.trial import Level, build
from mmswinv2.swap.wiring import _choose_stages
from tests.test_tools.conftest import ROOT

pytestmark = [
    # hosts warn about old names of their own arguments and about their own losses
    pytest.mark.filterwarnings('ignore::UserWarning:mm(cv|det|engine|seg)'),
    pytest.mark.filterwarnings('ignore:torch.meshgrid:UserWarning'),
    # from CSPNeXt and CSPDarknet of mmdet 3.3.0
    pytest.mark.filterwarnings('ignore:`torch.cuda.amp.autocast:FutureWarning'),
    pytest.mark.filterwarnings('ignore::DeprecationWarning:mm(cv|det|engine|seg)'),
]

# family -> config
DETECTORS = {
    'faster_rcnn': 'faster-rcnn_r50_fpn_1x_coco',
    'retinanet': 'retinanet_r50_fpn_1x_coco',
    'mask2former': 'mask2former_r50_8xb2-lsj-50e_coco',
    'mask_rcnn': 'mask-rcnn_r50_fpn_1x_coco',
    'cascade_rcnn': 'cascade-mask-rcnn_r50_fpn_1x_coco',
    'htc': 'htc_r50_fpn_1x_coco',
    'fcos': 'fcos_r50-caffe_fpn_gn-head_1x_coco',
    'atss': 'atss_r50_fpn_1x_coco',
    'gfl': 'gfl_r50_fpn_1x_coco',
    'vfnet': 'vfnet_r50_fpn_1x_coco',
    'tood': 'tood_r50_fpn_1x_coco',
    'foveabox': 'fovea_r50_fpn_4xb4-1x_coco',
    'fsaf': 'fsaf_r50_fpn_1x_coco',
    'autoassign': 'autoassign_r50-caffe_fpn_1x_coco',
    'rtmdet': 'rtmdet_tiny_8xb32-300e_coco',
    'yolox': 'yolox_tiny_8xb8-300e_coco',
    'yolof': 'yolof_r50-c5_8xb8-1x_coco',
    'yolo': 'yolov3_d53_8xb8-320-273e_coco',
    'detr': 'detr_r50_8xb2-150e_coco',
    'deformable_detr': 'deformable-detr_r50_16xb2-50e_coco',
    'conditional_detr': 'conditional-detr_r50_8xb2-50e_coco',
    'dab_detr': 'dab-detr_r50_8xb2-50e_coco',
    'dino': 'dino-4scale_r50_8xb2-12e_coco',
    'sparse_rcnn': 'sparse-rcnn_r50_fpn_1x_coco',
    'queryinst': 'queryinst_r50_fpn_1x_coco',
    'maskformer': 'maskformer_r50_ms-16xb1-75e_coco',
    'solov2': 'solov2_r50_fpn_1x_coco',
    'condinst': 'condinst_r50_fpn_ms-poly-90k_coco_instance',
    'point_rend': 'point-rend_r50-caffe_fpn_ms-1x_coco',
    'libra_rcnn': 'libra-faster-rcnn_r50_fpn_1x_coco',
    'dynamic_rcnn': 'dynamic-rcnn_r50_fpn_1x_coco',
    'panoptic_fpn': 'panoptic-fpn_r50_fpn_1x_coco',
    'centernet': 'centernet_r18_8xb16-crop512-140e_coco',
    'hrnet': 'faster-rcnn_hrnetv2p-w18-1x_coco',
    'efficientnet': 'retinanet_effb3_fpn_8xb4-crop896-1x_coco',
    'nas_fpn': 'retinanet_r50_nasfpn_crop640-50e_coco',
    'yolact': 'yolact_r50_1xb8-55e_coco',
    'pvt': 'retinanet_pvt-t_fpn_1x_coco',
    'fast_rcnn': 'fast-rcnn_r50_fpn_1x_coco',
    'rpn': 'rpn_r50_fpn_1x_coco',
    'solo': 'solo_r50_fpn_1x_coco',
    'ddod': 'ddod_r50_fpn_1x_coco',
    'reppoints': 'reppoints-moment_r50_fpn_1x_coco',
    'ddq': 'ddq-detr-4scale_r50_8xb2-12e_coco',
    'detectors': 'cascade-rcnn_r50-sac_1x_coco',
    'scnet': 'scnet_r50_fpn_1x_coco',
    'fpg': 'retinanet_r50_fpg_crop640_50e_coco',
    'pafpn': 'faster-rcnn_r50_pafpn_1x_coco',
    'boxinst': 'boxinst_r50_fpn_ms-90k_coco',
    'cascade_rpn': 'cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco',
}
SEGMENTORS = {
    'deeplabv3plus': 'deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024',
    'upernet': 'upernet_r50_4xb2-40k_cityscapes-512x1024',
    'fcn': 'fcn_r50-d8_4xb2-40k_cityscapes-512x1024',
    'pspnet': 'pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'segformer': 'segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'mask2former': 'mask2former_r50_8xb2-160k_ade20k-512x512',
    'maskformer': 'maskformer_r50-d32_8xb2-160k_ade20k-512x512',
    'deeplabv3': 'deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024',
    'danet': 'danet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'ccnet': 'ccnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'ocrnet': 'ocrnet_hr18_4xb2-160k_cityscapes-512x1024',
    'sem_fpn': 'fpn_r50_4xb2-80k_cityscapes-512x1024',
    'encnet': 'encnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'isanet': 'isanet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'point_rend': 'pointrend_r50_4xb2-80k_cityscapes-512x1024',
    'psanet': 'psanet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'knet': 'knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512',
    'fastfcn': 'fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024',
    'segnext': 'segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
    'mobilenet_v2': 'mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024',
    'ann': 'ann_r50-d8_4xb2-40k_cityscapes-512x1024',
    'hrnet': 'fcn_hr18_4xb2-40k_cityscapes-512x1024',
    'gcnet': 'gcnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'apcnet': 'apcnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'twins': 'twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512',
    'resnest': 'resnest_s101-d8_deeplabv3_4xb2-80k_cityscapes-512x1024',
    'segmenter': 'segmenter_vit-s_fcn_8xb1-160k_ade20k-512x512',
}
ROTATED = {
    's2anet': 's2anet-le90_r50_fpn_1x_dota',
    'rotated_retinanet': 'rotated-retinanet-rbox-le90_r50_fpn_1x_dota',
    'oriented_rcnn': 'oriented-rcnn-le90_r50_fpn_1x_dota',
}
ALWAYS = ('faster_rcnn', 'retinanet', 'detr'), ('pspnet', 'segformer'), ROTATED
SIZE = {'mmdet': 128, 'mmseg': 64, 'mmrotate': 128}  # pixels of a training image
LARGER = {'dino': 256, 'ddq': 256, 'ddod': 384}  # for 900 queries; for 3 x 3 tokens at stride 128


def families():
    for package, table, always in zip(
        ('mmdet', 'mmseg', 'mmrotate'), (DETECTORS, SEGMENTORS, ROTATED), ALWAYS, strict=True
    ):
        for family, config in table.items():
            marks = () if family in always else pytest.mark.slow
            name = f'{package}::{family}/{config}.py'
            yield pytest.param(name, marks=marks, id=f'{package}-{family}')


def detection_batch(size, with_masks, rotated):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                scale_factor=(1.0, 1.0), flip=False, img_id=0)  # fmt: skip
    boxes = torch.tensor([[8.0, 8, 72, 72], [40, 48, 120, 112]])
    masks = np.zeros((2, *size), np.uint8)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=meta)
        labels = torch.tensor([0, 1])
        sample.gt_instances = InstanceData(bboxes=boxes.clone(), labels=labels)
        sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(2))
        if rotated:
            from mmrotate.structures.bbox import RotatedBoxes

            boxes_and_angles = torch.tensor([[40.0, 40, 64, 64, 0.3], [80, 80, 80, 64, -0.5]])
            sample.gt_instances.bboxes = RotatedBoxes(boxes_and_angles)
        if with_masks:
            sample.gt_instances.masks = BitmapMasks(masks, *size)
        sample.ignored_instances = InstanceData(bboxes=sample.gt_instances.bboxes[:0])
        regions = torch.from_numpy(masks.astype(np.int64)).sum(0, keepdim=True).clamp(max=1)
        sample.gt_sem_seg = PixelData(sem_seg=regions)
        samples.append(sample)
    return samples


def segmentation_batch(size):
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
        regions = torch.zeros(1, *size, dtype=torch.long)
        regions[:, 16:48, 8:40] = 1
        sample.gt_sem_seg = PixelData(data=regions)
        samples.append(sample)
    return samples


def train_a_step(cfg, pixels):
    """Train one step; returns losses, the backbone's old parameters, backbone, and wrapper."""
    size = (pixels, pixels)
    for _, node in dicts_in(cfg.model.data_preprocessor):
        if 'size' in node:
            node['size'] = size  # images are padded to it
    for key in ('iter', 'epoch'):  # YOLOX and TOOD need these from the loop
        MessageHub.get_current_instance().update_info(key, 0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        backbone = next(m for m in model.modules() if isinstance(m, SwinV2))
        before = {k: v.detach().clone() for k, v in backbone.named_parameters()}
        if cfg.default_scope == 'mmseg':
            samples = segmentation_batch(size)
        else:
            with_masks = re.search('segm|Panoptic', str(cfg.val_evaluator)) is not None
            samples = detection_batch(size, with_masks, cfg.default_scope == 'mmrotate')
        images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples]
        model.train()
        hosts.watch_strides(model)
        batch = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
        loss, losses = model.parse_losses(model(**batch, mode='loss'))
        wrapper.backward(loss)
        wrapper.step()
    return losses, before, backbone, wrapper


def decayed(backbone, wrapper):
    """The backbone's parameters that have weight decay."""
    groups = [g for g in wrapper.optimizer.param_groups if g['weight_decay']]
    found = {p for group in groups for p in group['params']}
    return {name for name, p in backbone.named_parameters() if p in found}


@pytest.mark.parametrize('name', list(families()))
def test_family(name, tmp_path):
    torch.manual_seed(0)
    if name.startswith('mmrotate'):
        pytest.importorskip('mmrotate', reason='mmrotate is not installed')
    cfg, notes = swap_backbone(read_config(name), Options(arch='nano', checkpoint='none'))
    path = tmp_path / 'new.py'
    write_config(path, cfg, notes, name, 'command')
    cfg = Config.fromfile(path)

    package, family = re.match(r'(\w+)::(\w+)/', name).groups()
    losses, before, backbone, wrapper = train_a_step(cfg, LARGER.get(family, SIZE[package]))
    assert losses and all(torch.isfinite(v).all() for v in losses.values()), losses
    without = [k for k, p in backbone.named_parameters() if p.grad is None]
    # DDP would wait for their gradients
    assert not without or any('find_unused_parameters=True' in text for text in notes.judge)
    last = f'norm{max(backbone.out_indices)}.weight'
    changed = {k for k, p in backbone.named_parameters() if not torch.equal(p, before[k])}
    assert {'patch_embed.proj.weight', last} <= changed
    assert decayed(backbone, wrapper) == {
        k
        for k, p in backbone.named_parameters()
        if p.ndim > 1 and 'cpb_mlp' not in k and 'logit_scale' not in k
    }
    assert type(backbone).__name__ == 'SwinTransformerV2'
    assert re.search(r'backbone: .* -> mmswinv2.SwinTransformerV2 nano', notes.changed[0])


def test_the_families_that_are_tried_are_listed():
    text = (ROOT / 'docs/swap.md').read_text()
    for package, table in zip(SIZE, (DETECTORS, SEGMENTORS, ROTATED), strict=True):
        (row,) = re.findall(rf'^\| {package} \| (.*) \|$', text, re.MULTILINE)
        listed = re.sub(r' \(.*?\)', '', row).split(', ')
        assert sorted(listed) == sorted(table)


def faster_rcnn(**model):
    cfg = read_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    # drawing weights is most of the time of these tests
    cfg.model.backbone.depth, cfg.model.neck.in_channels = 18, [64, 128, 256, 512]
    cfg.model.roi_head.bbox_head.fc_out_channels = 16
    cfg.model.update(model)
    return cfg


NANO = Options(arch='nano')
REFUSED = {
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py': 'shared_head.*C4',
    'mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py': 'without a neck',
    'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py': 'shared_head',
    'mmdet::ssd/ssd300_coco.py': 'SSDNeck',
    'mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py': 'RFP',
    'mmdet::cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco.py': 'no pyramid',
    'mmdet::ld/ld_r50-gflv1-r101_fpn_1x_coco.py': 'teacher',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py': (
        r'SoftTeacher builds 2 backbones \(student.backbone, teacher.backbone\)'
    ),
    'mmdet::cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py': (
        "the model of the config, before any swap, cannot be built: .*'num_classes'"
    ),
    'mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py': (
        'is a tracker'
    ),
    'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py': 'strides',
    'mmseg::vit/vit_deit-b16_mln_upernet_8xb2-160k_ade20k-512x512.py': 'MultiLevelNeck',
    'mmaction::recognition/i3d/i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb.py': (
        'Recognizer3D.*images'
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_in_words(name):
    with pytest.raises(UserError, match=REFUSED[name]):
        swap_backbone(read_config(name), NANO)


@pytest.mark.parametrize('scope', ['mmdet', None])
def test_python_configs_with_classes(scope, tmp_path):
    old = read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    parts = {'mmdet.models': set(), 'mmdet.models.task_modules': set()}
    text = Config(
        {key: old[key] for key in ('model', 'optim_wrapper', 'val_evaluator')}
    ).pretty_text
    for name in set(re.findall(r"type='(\w+)'", text)):
        for module, names in parts.items():
            if hasattr(importlib.import_module(module), name):
                names.add(name)
                text = text.replace(f"type='{name}'", f'type={name}')
    text = text.replace("type='SGD'", 'type=SGD').replace(
        "type='Pretrained'", 'type=PretrainedInit'
    )
    lines = [f'from {module} import {", ".join(names)}' for module, names in parts.items()]
    lines += ['from torch.optim import SGD', 'from mmengine.config import read_base']
    lines += ['from mmengine.model.weight_init import PretrainedInit', 'with read_base():']
    lines += ['    from .base import *', text]
    (tmp_path / 'base.py').write_text(f'default_scope = {scope!r}\n')
    (tmp_path / 'new_style.py').write_text('\n'.join(lines))
    cfg, notes = swap_backbone(read_config(str(tmp_path / 'new_style.py')), NANO)
    assert cfg.model.type == 'mmdet.models.RetinaNet' and cfg.default_scope == scope
    assert cfg.optim_wrapper.optimizer.type == 'AdamW' and 'read_base' not in cfg
    write_config(tmp_path / 'new.py', cfg, notes, 'new_style.py', 'command')
    losses, _, backbone, _ = train_a_step(Config.fromfile(tmp_path / 'new.py'), SIZE['mmdet'])
    assert all(torch.isfinite(v).all() for v in losses.values())
    assert backbone.out_indices == (1, 2, 3)
    with pytest.raises(UserError, match='is a SwinV2 already; swap the config that it was made fr'):
        swap_backbone(cfg, NANO)


def test_vitdet_is_refused():
    cfg = faster_rcnn(neck=dict(type='SimpleFPN', backbone_channel=768, in_channels=[192, 384]))
    with pytest.raises(UserError, match='SimpleFPN.*plain ViT'):
        swap_backbone(cfg, NANO)


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        (float('nan'), '=nan'),
        ([1, float('nan')], '.1=nan'),
        ([[(float('nan'),)]], '.0.0.0=nan'),
        (len, '=<built-in function len>'),
    ],
)
def test_values_without_text(value, words, tmp_path):
    cfg = Config(dict(lr=1e-3, a=[dict(b=value)]))
    with pytest.raises(UserError, match=f'old.py holds what cannot .*: a.0.b{words}$'):
        write_config(tmp_path / 'new.py', cfg, Notes(), 'old.py', 'command')
    assert not list(tmp_path.iterdir())


def test_infinite_numbers_are_kept(tmp_path):
    cfg = Config(dict(a=[dict(b=float('inf'))], c=(-float('inf'), 0.1)))
    write_config(tmp_path / 'new.py', cfg, Notes(), 'old.py', 'command')
    assert Config.fromfile(tmp_path / 'new.py').to_dict() == cfg.to_dict()


def test_two_backbones():
    with pytest.raises(UserError, match='2 backbones .in model, model.reid'):
        swap_backbone(faster_rcnn(reid=dict(backbone=dict(type='ResNet', depth=50))), NANO)


class Twice(torch.nn.Module):
    """A model that holds a detector twice, under names of its own."""

    def __init__(self, detector):
        super().__init__()
        self.slow, self.fast = MODELS.build(detector), MODELS.build(detector)


def test_a_backbone_that_is_built_twice():
    cfg = faster_rcnn()
    with MODELS.switch_scope_and_registry('mmdet') as registry:
        registry.register_module(module=Twice, force=True)
    cfg.model = dict(type='Twice', detector=cfg.model)
    with pytest.raises(UserError, match=r'Twice builds 2 .*slow.backbone, fast.backbone'):
        swap_backbone(cfg, NANO)


def test_what_fails_after_the_swap_alone_is_blamed_on_it():
    from mmdet.models import FasterRCNN

    class Bound(FasterRCNN):
        def extract_feat(self, images):
            if type(self.backbone).__name__ != 'ResNet':
                raise AssertionError
            return super().extract_feat(images)

    with MODELS.switch_scope_and_registry('mmdet') as registry:
        registry.register_module(module=Bound, force=True)
    with pytest.raises(UserError, match='^the new model does not run .*: raise AssertionError'):
        swap_backbone(faster_rcnn(type='Bound'), NANO)


def test_what_fails_before_the_swap_is_not_blamed_on_it():
    cfg = faster_rcnn()
    cfg.model.roi_head.bbox_head.num_classes = 'many'
    for check in (True, False):
        with pytest.raises(UserError, match='before any swap, cannot be built: TypeError'):
            swap_backbone(cfg, Options(arch='nano', check=check))


def test_models_that_are_tried_fetch_no_weights():
    cfg = read_config(f'mmseg::fcn/{SEGMENTORS["fcn"]}.py')
    assert cfg.model.pretrained
    with MODELS.switch_scope_and_registry('mmseg'):
        assert 'Pretrained' not in str(build(cfg.model).backbone.init_cfg)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmpose', 'mmyolo', 'mmdet3d', 'mine', None])
def test_packages_whose_configs_are_not_swapped(scope):
    model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=50))
    with pytest.raises(
        UserError, match=f'default_scope is {scope!r}; .* by hand, as docs/how_to/u'
    ):
        swap_backbone(Config(dict(model=model, default_scope=scope)), NANO)


@pytest.mark.parametrize('cfg', [dict(), dict(model=dict(type='RTMDet'), default_scope='mmdet')])
def test_without_a_backbone(cfg):
    with pytest.raises(UserError, match='no model|no backbone'):
        swap_backbone(Config(cfg), NANO)


def test_a_misfit_is_named():
    cfg = faster_rcnn()
    cfg.model.rpn_head.in_channels = 128
    with pytest.raises(UserError, match=r'before any swap, does not run.*in rpn_head\.rpn_conv'):
        swap_backbone(cfg, NANO)
    cfg = faster_rcnn()
    cfg.model.neck.in_channels = [64, 128, 256, 256]
    with pytest.raises(UserError, match=r'model.neck.*cannot be built and run'):
        swap_backbone(cfg, NANO)


def test_statistics_become_those_of_the_weights():
    cfg = read_config('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py')
    assert cfg.model.data_preprocessor.std == [1.0, 1.0, 1.0]
    divisor = cfg.model.data_preprocessor.pad_size_divisor
    new, notes = swap_backbone(cfg, NANO)
    found = new.model.data_preprocessor
    assert found.mean == [123.675, 116.28, 103.53] and found.std == [58.395, 57.12, 57.375]
    assert found.bgr_to_rgb is True and found.pad_size_divisor == divisor
    told = '\n'.join(notes.changed)
    assert all(f'data_preprocessor.{key}: ' in told for key in ('mean', 'std', 'bgr_to_rgb'))
    assert cfg.model.data_preprocessor.std == [1.0, 1.0, 1.0]  # the old config is unchanged


def test_sgd_becomes_adamw():
    name = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    cfg = read_config(name)
    assert cfg.param_scheduler[0].eta_min == 1e-4
    cfg.param_scheduler.append(dict(type='CosineAnnealingMomentum', eta_min=0.8))
    cfg.optim_wrapper.clip_grad = dict(max_norm=1)
    cfg.load_from = 'whole_segmentor.pth'
    new, notes = swap_backbone(cfg, Options(arch='nano', layer_decay=0.9))
    assert new.optim_wrapper == dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
        clip_grad=dict(max_norm=1),
        constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.9),
    )
    (schedule,) = new.param_scheduler
    assert schedule.type == 'PolyLR' and schedule.eta_min == 0
    assert new.model.get('pretrained') is None and new.load_from is None
    told = '\n'.join(notes.changed)
    assert all(word in told for word in ('eta_min', 'ADE20K ablation', 'momentum', 'load_from'))
    assert any('dilated' in text for text in notes.judge)


def test_adamw_stays():
    cfg = read_config('mmdet::detr/detr_r50_8xb2-150e_coco.py')
    cfg.optim_wrapper.paramwise_cfg.custom_keys['backbone.layer4'] = dict(lr_mult=0.5)
    new, notes = swap_backbone(cfg, NANO)
    assert new.optim_wrapper.optimizer == cfg.optim_wrapper.optimizer
    assert new.optim_wrapper.paramwise_cfg.custom_keys == dict(backbone=dict(lr_mult=0.1))
    assert new.model.backbone.out_indices == (3,) and new.model.neck.in_channels == [256]
    assert any('backbone.layer4' in text for text in notes.judge)


def test_entries_of_ones_that_take_out_of_others_stay():
    cfg = faster_rcnn()
    cfg.optim_wrapper.paramwise_cfg = dict(
        custom_keys={
            'rpn_head': dict(lr_mult=10.0),
            'rpn_head.rpn_cls': dict(lr_mult=1.0),
            'rpn_reg': dict(lr_mult=1.0),  # the longer rpn_head has priority
            'roi_head': dict(decay_mult=1.0),
        }
    )
    new, _ = swap_backbone(cfg, Options(arch='nano', check=False))
    assert new.optim_wrapper.paramwise_cfg.custom_keys == {
        'rpn_head': dict(lr_mult=10.0),
        'rpn_head.rpn_cls': dict(lr_mult=1.0),
    }


def test_parts_that_compute_values_when_they_are_built_need_no_check():
    cfg = read_config('mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py')
    new, checked = (swap_backbone(cfg, Options('nano', check=check))[0] for check in (False, True))
    assert new.model == checked.model and new.optim_wrapper == checked.optim_wrapper


def test_the_window_is_that_of_the_weights(tmp_path):
    assert default_window('tiny') == 16 and default_window('nano', 'none') == 8
    assert default_window('tiny', 'swinv2_tiny_patch4_window8_256') == 8
    assert default_window('tiny', f'{tmp_path}/swinv2_tiny_patch4_window8_256.pth') == 8
    path = tmp_path / 'nano.pth'
    convert = dict(source_format='authors', pretrained_window_sizes={i: (12, 12) for i in range(4)})
    torch.save({'state_dict': SwinV2('nano').state_dict(), 'meta': convert}, path)
    new, _ = swap_backbone(faster_rcnn(), Options(arch='nano', checkpoint=str(path), check=False))
    assert new.model.backbone.window_size == 12
    assert new.model.backbone.pretrained_window_sizes == [12] * 4


@pytest.mark.parametrize('name', ['mm.nothing::a', '.mmdet::a', 'mmdet.x::a'])
def test_packages_that_are_none(name):
    with pytest.raises(UserError, match='is not installed'):
        find_config(name)


def test_configs_that_cannot_be_read(tmp_path):
    (tmp_path / 'own.py').write_text("_base_ = 'own.py'\n")
    (tmp_path / 'wrong.py').write_text('model = (\n')
    (tmp_path / 'marked.py').write_text('model = 1\n', encoding='utf-8-sig')
    for name, words in (
        ('own.py', 'is its own _base_'),
        ('wrong.py', 'wrong.py.* is no Python'),
        ('marked.py', 'line 1: .*a byte order mark; save the file as UTF-8 without one'),
    ):
        with pytest.raises(UserError, match=words):
            read_config(str(tmp_path / name))


@pytest.mark.parametrize(
    'arch, window, file, windows',
    [
        ('tiny', None, 'swinv2_tiny_patch4_window16_256.pth', [16, 16, 16, 8]),
        ('base', 8, 'swinv2_base_patch4_window8_256.pth', [8, 8, 8, 8]),
        ('large', None, 'swinv2_large_patch4_window12to24_192to384_22kto1k_ft.pth',
         [12, 12, 12, 6]),
    ],
)  # fmt: skip
def test_published_weights(arch, window, file, windows):
    new, _ = swap_backbone(faster_rcnn(), Options(arch=arch, window=window, check=False))
    backbone = new.model.backbone
    assert PUBLISHED[backbone.init_cfg.checkpoint].url.endswith(f'/v2.0.0/{file}')
    assert backbone.pretrained_window_sizes == windows
    assert backbone.window_size == (window or {'tiny': 16, 'large': 24}[arch])
    width = VARIANTS[arch].embed_dims
    assert new.model.neck.in_channels == [width * 2**i for i in range(4)]


def test_several_initialisations():
    cfg = faster_rcnn()
    old = cfg.model.backbone.init_cfg
    cfg.model.backbone.init_cfg = [old, dict(type='Kaiming', layer='Conv2d')]
    new, _ = swap_backbone(cfg, Options(arch='nano'))
    assert 'init_cfg' not in new.model.backbone


def test_a_run_of_the_old_model_is_left_alone():
    cfg = faster_rcnn()
    cfg.update(work_dir='work_dirs/old', resume=True, load_from='work_dirs/old/epoch_12.pth')
    new, notes = swap_backbone(cfg, Options(arch='nano', check=False))
    assert 'work_dir' not in new
    assert (new.resume, new.load_from) == (False, None)
    told = ' '.join(notes.changed)
    assert "work_dir: 'work_dirs/old' removed" in told and 'resume: True -> False' in told


def test_a_window_of_nothing():
    with pytest.raises((UserError, ValueError), match='window'):
        swap_backbone(faster_rcnn(), Options(arch='nano', window=0))


def test_local_weights(tmp_path):
    path, state = tmp_path / 'nano.pth', SwinV2('nano', window_size=7).state_dict()
    torch.save({'state_dict': state}, path)
    options = dict(checkpoint=str(path), check=False)
    new, _ = swap_backbone(faster_rcnn(), Options(arch='nano', **options))
    assert new.model.backbone.pretrained_window_sizes == [7] * 4
    torch.save({'state_dict': dict(state)}, path)  # without its windows
    with pytest.raises(UserError, match='--arch tiny does not fit'):
        swap_backbone(faster_rcnn(), Options(arch='tiny', **options))
    with pytest.raises(UserError, match='--pretrained-windows'):
        swap_backbone(faster_rcnn(), Options(arch='nano', **options))
    options = Options(arch='nano', pretrained_windows=[8, 8, 8, 4], **options)
    new, _ = swap_backbone(faster_rcnn(), options)
    assert new.model.backbone.pretrained_window_sizes == [8, 8, 8, 4]
    assert new.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=str(path))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(in_channels=5), 'The file is of in_channels=5'),
        (dict(patch_size=(2, 2)), 'The file is of patch_size='),
        (dict(mlp_ratio=2), 'The file is of mlp_ratio=2'),
        (None, 'are NaN or infinite'),
    ],
)
def test_weights_that_would_not_load_are_refused(change, words, tmp_path):
    net = SwinV2('nano', **(change or {}))
    if change is None:
        nn.init.constant_(net.patch_embed.proj.bias, torch.nan)
    torch.save(net.state_dict(), tmp_path / 'nano.pth')
    options = Options(arch='nano', checkpoint=str(tmp_path / 'nano.pth'), pretrained_windows=[8])
    with pytest.raises(CheckpointError, match=words):
        swap_backbone(faster_rcnn(), options)


def test_settings_that_mmengine_takes():
    cfg = faster_rcnn()
    cfg.optim_wrapper.optimizer = dict(type='AdamW')
    cfg.param_scheduler = (
        dict(type='LinearLR', start_factor=0.1, end=10),
        dict(type='CosineAnnealingLR', T_max=9, eta_min=None, eta_min_ratio=0.1),
    )
    new, notes = swap_backbone(cfg, Options(arch='nano', check=False))
    assert len(new.param_scheduler) == 2
    assert any('AdamW with lr 0.001 and weight decay 0.01' in text for text in notes.judge)


def test_what_goes_with_the_backbone_is_named():
    cfg = faster_rcnn()
    cfg.model.backbone.update(frozen_stages=-1, norm_eval=True, dcn=dict(type='DCNv2'))
    _, notes = swap_backbone(cfg, Options(arch='nano', check=False))
    (told,) = [text for text in notes.judge if 'went with the old backbone' in text]
    assert 'norm_eval' in told and 'dcn' in told and 'frozen_stages' not in told.split('went')[0]


def test_a_preprocessor_beside_the_model_is_its_own_as_for_runners(tmp_path):
    cfg = faster_rcnn()
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    cfg.dump(tmp_path / 'beside.py')
    new, _ = swap_backbone(read_config(str(tmp_path / 'beside.py')), NANO)
    assert new.model.data_preprocessor == new.data_preprocessor


def test_images_are_normalised_once():
    cfg = faster_rcnn()
    cfg.model.data_preprocessor.update(mean=[0, 0, 0], std=[1, 1, 1])
    steps = cfg.train_dataloader.dataset.pipeline
    steps.insert(-1, dict(type='mmcv.Normalize', mean=[1.0, 2, 3], std=[1.0, 1, 1]))
    new, _ = swap_backbone(cfg, Options(arch='nano', check=False))
    assert new.model.data_preprocessor.mean == [0, 0, 0]
    assert new.train_dataloader.dataset.pipeline[-2].mean == [123.675, 116.28, 103.53]


@pytest.mark.parametrize('mean', [None, [0, 0, 0]])
def test_albumentations_keeps_its_own_scale(mean):
    cfg = faster_rcnn()
    cfg.model.data_preprocessor.update(mean=mean, std=mean and [1, 1, 1])
    step = dict(type='Normalize', mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='Albu', transforms=[step]))
    new, notes = swap_backbone(cfg, Options(arch='nano', check=False))
    kept = new.train_dataloader.dataset.pipeline[-2].transforms[0]
    assert kept == step and new.model.data_preprocessor.mean == mean
    (told,) = [text for text in notes.judge if 'albumentations normalizes there' in text]
    assert told.startswith('train_') and 'transforms.0: ' in told


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (b'optim_wrapper = dict(optimizer=3)', 'optim_wrapper.optimizer=3 .* must be a dict'),
        (b"optim_wrapper = dict(optimizer=dict(type='SGD', lr='1e-4'))", 'must be a finite number'),
        (b'# caf\xe9, in Latin-1', 'cannot be read: .*utf-8'),
    ],
)
def test_settings_that_cannot_be(text, words, tmp_path):
    (tmp_path / 'a.py').write_bytes(text + b'\nmodel = dict()\n')
    with pytest.raises(UserError, match=words):
        read_config(str(tmp_path / 'a.py'))


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmaction'])
def test_names_are_found_under_any_distribution(package):
    folder = find_config(f'{package}::_base_/default_runtime.py').parents[1]
    assert folder.parts[-3:] == (package, '.mim', 'configs')
    with pytest.raises(UserError, match='is not one config'):
        find_config(f'{package}::nothing_of_that_name.py')
    with pytest.raises(UserError, match='is not one config'):
        find_config(f'{package}::**')
    assert find_config('mmdet::fcos_r50-caffe_fpn_gn-head_1x_coco').parent.name == 'fcos'
    with pytest.raises(UserError, match='there is .*/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py$'):
        find_config('mmdet::atss/fcos_r50-caffe_fpn_gn-head_1x_coco.py')
    with pytest.raises(UserError, match='mmnothing is not installed'):
        find_config('mmnothing::a.py')


def test_formats_of_the_command_line_are_all_there_are(capsys):
    """They are written out there, as modules of torch take seconds to import."""
    with pytest.raises(SystemExit, match='2'):
        main(['convert', 'a.pth', 'b.pth', '--format', '?'])
    (told,) = re.findall(r"invalid choice: '\?' \(choose from (.*)\)", capsys.readouterr().err)
    assert re.findall(r'\w+', told) == list(FORMATS)


def test_an_unknown_size(capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['swap', 'a.py', '--arch', '?'])
    assert "--arch: arch '?' is unknown; choose from nano, tiny" in capsys.readouterr().err


def test_a_head_that_takes_maps_of_two_strides_by_a_patch(monkeypatch):
    """OCRNet on a dilated ResNet, whose two heads read maps of one stride; not so of SwinV2."""
    from mmseg.models.decode_heads.ocr_head import SpatialGatherModule

    from mmswinv2.analysis.model import ready

    original = getattr(SpatialGatherModule.forward, '__wrapped__', SpatialGatherModule.forward)
    cfg = read_config('mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py')
    cfg.model.backbone.depth = 18
    cfg.model.decode_head[0].in_channels, cfg.model.decode_head[1].in_channels = 256, 512
    monkeypatch.setattr(SpatialGatherModule, 'forward', original)
    new, _ = swap_backbone(cfg, Options(arch='nano', checkpoint='none'))
    assert [head.in_channels for head in new.model.decode_head] == [128, 256]
    assert [head.in_index for head in new.model.decode_head] == [0, 1]

    monkeypatch.setattr(SpatialGatherModule, 'forward', original)
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(ready(new)).eval()
        assert model(torch.rand(1, 3, 64, 128), mode='tensor').shape == (1, 19, 2, 4)


def test_the_tool(tool, tmp_path):
    out = tmp_path / 'new.py'
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    arguments = ('misc/swap_backbone.py', name, '--arch', 'nano', '-o', out)
    run = tool(*arguments).succeeded()
    assert 'init_weights' not in run.stdout + run.stderr  # no list of all parameters by mmengine
    told = [line[2:] for line in run.stdout.splitlines() if line.startswith('- ')]
    assert any(line.startswith('model.neck.in_channels: [256, 512, 1024, 2048]') for line in told)
    head = re.sub(r'\n#\s+', ' ', out.read_text().split('auto_scale_lr')[0])
    assert name in head and all(line in head for line in told)
    assert Config.fromfile(out).model.backbone.type == 'mmswinv2.SwinTransformerV2'

    before = out.read_text()
    again = tool(*arguments)
    assert again.returncode != 0 and '--force' in again.stderr and 'Traceback' not in again.stderr
    assert out.read_text() == before
    failed = tool('misc/swap_backbone.py', 'mmdet::ssd/ssd300_coco.py', '-o', tmp_path / 'ssd.py')
    assert failed.returncode != 0 and 'error: ' in failed.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['new.py']


def test_heads_that_read_maps_of_one_stride():
    """As of SETR, whose ViT has the same stride and channels everywhere."""
    with pytest.raises(UserError, match=r'strides \[16, 16\] .* no pyramid.* such as UPerNet or a'):
        _choose_stages([Level(8, 16)] * 2, 'VisionTransformer', Notes())
    assert _choose_stages([Level(8, 16), Level(16, 16)], 'ResNetV1c', notes := Notes()) == [2, 3]
    assert 'those of SwinV2 have strides [16, 32]' in notes.judge[0]
