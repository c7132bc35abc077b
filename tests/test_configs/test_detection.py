"""The COCO recipes carry the numbers of arXiv 2111.09883, stated here once."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmswinv2 import hosts
from mmswinv2.checkpoints import PUBLISHED
from tests.test_tools.conftest import ROOT

FOLDER = ROOT / 'configs/detection'
RELEASE = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_'
LSJ = ((1536, 1536), (0.1, 2.0))
HTC_3X = '16xb4-3x_coco-1536x1536'

# config: arch, window, pre-trained windows, batch, lr, factor of the backbone's lr, epochs or steps
RECIPES = {
    **{
        f'{head}_swinv2-{size}-w16_fpn_ms-3x_coco': (arch, 16, (16, 16, 16, 8), 16, 1e-4, 1.0, 36)
        for head in ('cascade-mask-rcnn', 'mask-rcnn')
        for size, arch in (('t', 'tiny'), ('s', 'small'), ('b', 'base'))
    },
    f'htc++_swinv2-b-w32_fpn_{HTC_3X}': ('base', 32, (12, 12, 12, 6), 64, 4e-4, 0.1, 36),
    f'htc++-without-semantic_swinv2-b-w32_fpn_{HTC_3X}': (
        ('base', 32, (12, 12, 12, 6), 64, 4e-4, 0.1, 36)
    ),
    f'htc++_swinv2-l-w32_fpn_{HTC_3X}': ('large', 32, (12, 12, 12, 6), 64, 4e-4, 0.1, 36),
    'htc++_swinv2-g-w32_fpn_96xb1-67500iters_objects365v2-800x1024': (
        ('giant', 32, (12, 12, 12, 6), 96, 1.2e-3, 1.0, 67_500)
    ),
    'htc++_swinv2-g-w32_fpn_96xb1-45k_coco-1536x1536': (
        ('giant', 32, (12, 12, 12, 6), 96, 6e-4, 1.0, 45_000)
    ),
}
# stochastic depth of the pre-training, tests and expected box AP, mask AP
DROP_PATH = {'tiny': 0.2, 'small': 0.3, 'base': 0.5}
TESTS = {
    'l_test-1100-w32': (32, '58.8', '51.1'),
    'l_test-1100-w48': (48, '58.9', '51.2'),
    'l_test-ms-w48': (48, '60.2', '52.1'),
    'g_test-1100-w32': (32, '61.7', '53.3'),
    'g_test-1100-w48': (48, '61.9', '53.4'),
    'g_test-ms-w48': (48, '62.5', '53.7'),
    'b_test-1100-w32': (32, None, None),
    'b_test-1100-w48': (48, None, None),
    'b_test-ms-w48': (48, None, None),
}
CHANNELS = {'tiny': 96, 'small': 96, 'base': 128, 'large': 192, 'huge': 352, 'giant': 512}
GPUS = {'fpn_ms-3x': 8, '16xb4': 16, '96xb1': 96}


def load(name):
    return Config.fromfile(FOLDER / f'{name}.py')


def step(cfg, kind, split='train'):
    """The transform of a type in the pipeline, or None."""
    pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
    return next((t for t in pipeline if t.type.split('.')[-1] == kind), None)


@pytest.mark.parametrize('name', RECIPES)
def test_recipe(name):
    arch, window, pretrained, batch, lr, factor, length = RECIPES[name]
    cfg = load(name)
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.window_size) == (arch, window)
    assert tuple(backbone.pretrained_window_sizes) == pretrained
    channels = [CHANNELS[arch] * 2**i for i in range(4)]
    necks = cfg.model.neck if isinstance(cfg.model.neck, list) else [cfg.model.neck]
    assert necks[-1].in_channels == channels
    assert len(necks) == 1 or necks[0].in_channels == channels[-1]
    gpus = next(n for part, n in GPUS.items() if part in name)
    assert cfg.train_dataloader.batch_size * gpus == batch == cfg.auto_scale_lr.base_batch_size
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, 0.05)
    keys = cfg.optim_wrapper.paramwise_cfg.get('custom_keys', {})
    assert keys.get('backbone', {}).get('lr_mult', 1.0) == factor
    assert cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters')) == length
    (steps,) = [s for s in cfg.param_scheduler if s.type == 'MultiStepLR']
    assert steps.end == length and steps.by_epoch == ('max_epochs' in cfg.train_cfg)
    assert step(cfg, 'RandomFlip').prob == 0.5


@pytest.mark.parametrize('name', [n for n in RECIPES if 'fpn_ms' in n])
def test_ablation(name):
    cfg = load(name)
    arch = RECIPES[name][0]
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[arch]
    address = PUBLISHED[cfg.model.backbone.init_cfg.checkpoint].url
    assert address == f'{RELEASE}{arch}_patch4_window16_256.pth'
    scales = step(cfg, 'RandomChoiceResize').scales
    assert [min(scales), max(scales)] == [(480, 1333), (800, 1333)]
    assert step(cfg, 'Resize', 'test').scale == (1333, 800)


def test_cascade_heads():
    head = load('cascade-mask-rcnn_swinv2-b-w16_fpn_ms-3x_coco').model
    assert head.roi_head.type == 'CascadeRoIHead'
    assert head.roi_head.stage_loss_weights == [1, 0.5, 0.25]
    assert [h.bbox_coder.target_stds[0] for h in head.roi_head.bbox_head] == [0.1, 0.05, 0.033]
    assert [r.assigner.pos_iou_thr for r in head.train_cfg.rcnn] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize('name', [n for n in RECIPES if '1536' in n])
def test_htc_on_coco(name):
    cfg = load(name)
    assert cfg.model.type == 'HybridTaskCascade' and cfg.model.roi_head.num_stages == 3
    semantic = 'without-semantic' not in name
    assert step(cfg, 'InstaBoost') is not None
    pipeline = [t.type.split('.')[-1] for t in cfg.train_dataloader.dataset.pipeline]
    assert pipeline.index('InstaBoost') < pipeline.index('LoadAnnotations')
    assert step(cfg, 'LoadAnnotations').get('with_seg', False) == semantic
    assert (cfg.model.roi_head.semantic_head is not None) == semantic
    assert not semantic or cfg.model.roi_head.semantic_head.num_classes == 183
    assert ('seg' in cfg.train_dataloader.dataset.data_prefix) == semantic
    jitter = step(cfg, 'RandomResize')
    assert (tuple(jitter.scale), tuple(jitter.ratio_range)) == LSJ
    assert tuple(step(cfg, 'RandomCrop').crop_size) == LSJ[0]
    (pad,) = cfg.model.data_preprocessor.batch_augments
    assert tuple(pad['size']) == LSJ[0] and pad.get('pad_seg', False) == semantic
    assert cfg.model.test_cfg.rcnn.nms.type == 'soft_nms'
    for head in cfg.model.roi_head.bbox_head:
        assert (head.num_shared_convs, head.num_shared_fcs) == (4, 1)
        assert head.norm_cfg.type == 'SyncBN'


@pytest.mark.parametrize('name', TESTS)
def test_tests_of_htc(name):
    window, box_ap, mask_ap = TESTS[name]
    cfg = load(f'htc++_swinv2-{name}_coco')
    assert cfg.model.backbone.window_size == window
    assert cfg.model.backbone.arch[0] == name[0]
    assert step(cfg, 'Resize', 'test').scale[1] == 1100
    assert cfg.model.test_cfg.rcnn.nms.type == 'soft_nms'
    head = (FOLDER / f'htc++_swinv2-{name}_coco.py').read_text()
    expected = re.search(r'box AP ([\d.]+), mask AP ([\d.]+) \(paper\)', head)
    assert (expected.groups() if expected else (None, None)) == (box_ap, mask_ap)
    if 'ms' in name:
        assert cfg.tta_model.type == 'mmswinv2.InstanceSegTTAModel'
        scales, flips, *_ = cfg.tta_pipeline[-1].transforms
        assert len(scales) > 1 and [f.prob for f in flips] == [0.0, 1.0]


def test_objects365_stage():
    """Stage 1 is stage 2 without masks; shorter side 800, longer at most 1024."""
    first = load('htc++_swinv2-g-w32_fpn_96xb1-67500iters_objects365v2-800x1024')
    assert first.model.roi_head.mask_head is None and first.model.roi_head.semantic_head is None
    assert not first.model.roi_head.interleaved  # else mmdet would not refine the boxes
    assert {h.num_classes for h in first.model.roi_head.bbox_head} == {365}
    for split in ('train', 'test'):
        assert step(first, 'Resize', split).scale == (1024, 800)
        assert first[f'{split}_dataloader'].dataset.type == 'Objects365V2Dataset'
        prefix = first[f'{split}_dataloader'].dataset.data_prefix
        assert prefix == dict(img={'train': 'train/', 'test': 'val/'}[split])


def test_stage_2_takes_all_that_stage_1_has():
    hosts.apply()
    init_default_scope('mmdet')
    names = [n for n in RECIPES if '-g-' in n]
    states = []
    for name in names:
        cfg = load(name)
        with torch.device('meta'):
            states.append({k: v.shape for k, v in MODELS.build(cfg.model).state_dict().items()})
    (hook,) = load(names[1]).custom_hooks
    first, second = (
        {k: v for k, v in s.items() if not any(part in k for part in hook.new)} for s in states
    )
    assert first == second and len(first) > 1000
    assert {k for k in states[0] if k not in first} == {
        f'roi_head.bbox_head.{i}.fc_cls.{kind}' for i in range(3) for kind in ('weight', 'bias')
    }
    assert names[0] in hook.checkpoint and hook.checkpoint.endswith('iter_67500.pth')


@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``:UserWarning')
@pytest.mark.parametrize(('size', 'reported', 'ours'), [('b', 160, 159.7), ('l', 284, 284.0)])
def test_parameters_of_htc(size, reported, ours):
    """With backbones as large as Swin-B and Swin-L: the numbers in the authors' README."""
    hosts.apply()
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(load(f'htc++_swinv2-{size}-w32_fpn_{HTC_3X}').model)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(reported, rel=0.01) and round(millions, 1) == ours


def test_demo_has_its_data_and_its_checkpoint_where_others_look():
    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_demo.py')
    makefile = (ROOT / 'Makefile').read_text()
    draw = f'make_shapes.py {cfg.data_root.rstrip("/")} --size 80 --large'
    assert draw in makefile and draw in (ROOT / cfg.filename).read_text()
    lora = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano-lora_shapes.py')
    last = f'work_dirs/demo/iter_{cfg.train_cfg.max_iters}.pth'
    assert lora.model.backbone.init_cfg.checkpoint == last
    assert cfg.train_cfg.max_iters % cfg.default_hooks.checkpoint.interval == 0
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == cfg.train_cfg.val_interval
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == cfg.data_root
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file.startswith(cfg.data_root)
