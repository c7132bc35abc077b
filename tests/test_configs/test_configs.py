"""Every config builds, and the recipes carry the paper's numbers."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmswinv2 import compat
from tests.test_tools.conftest import ROOT

CONFIGS = sorted(
    str(p.relative_to(ROOT)) for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts
)
DETECTION = 'configs/detection/'
RELEASE = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'

# arXiv 2111.09883, COCO ablation; drop path as in the pre-training of the weights
ABLATION = {'t': ('tiny', 0.2), 's': ('small', 0.3), 'b': ('base', 0.5)}


@pytest.mark.parametrize('path', CONFIGS)
def test_config_builds(path):
    compat.apply()
    cfg = Config.fromfile(ROOT / path)
    init_default_scope(cfg.default_scope)
    from mmengine.registry import DATASETS, MODELS, TRANSFORMS

    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 1e6
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
            assert registry.get(loader.dataset.type) is not None
        for transform in loader.dataset.pipeline:
            assert TRANSFORMS.build(transform) is not None


def test_names_are_unique():
    names = [Path(p).name for p in CONFIGS]
    assert len(names) == len(set(names))  # `mim` finds configs by name alone


@pytest.mark.parametrize('family', ['mask-rcnn', 'cascade-mask-rcnn'])
@pytest.mark.parametrize('size', ABLATION)
def test_coco_ablation(family, size):
    cfg = Config.fromfile(ROOT / DETECTION / f'{family}_swinv2-{size}-w16_fpn_ms-3x_coco.py')
    arch, drop_path = ABLATION[size]
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.drop_path_rate) == (arch, drop_path)
    assert backbone.window_size == 16
    assert backbone.pretrained_window_sizes == [16, 16, 16, 8]
    assert backbone.init_cfg.checkpoint == RELEASE + f'swinv2_{arch}_patch4_window16_256.pth'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.batch_size * 8 == 16
    assert cfg.train_cfg.max_epochs == 36
    (resize,) = [t for t in cfg.train_dataloader.dataset.pipeline if 'Resize' in t.type]
    assert [min(resize.scales), max(resize.scales)] == [(480, 1333), (800, 1333)]
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)
    channels = [{'t': 96, 's': 96, 'b': 128}[size] * 2**i for i in range(4)]
    assert cfg.model.neck.in_channels == channels


def test_cascade_heads():
    cfg = Config.fromfile(ROOT / DETECTION / 'cascade-mask-rcnn_swinv2-b-w16_fpn_ms-3x_coco.py')
    head = cfg.model.roi_head
    assert head.type == 'CascadeRoIHead' and head.stage_loss_weights == [1, 0.5, 0.25]
    assert [h.bbox_coder.target_stds[0] for h in head.bbox_head] == [0.1, 0.05, 0.033]
    assert [r.assigner.pos_iou_thr for r in cfg.model.train_cfg.rcnn] == [0.5, 0.6, 0.7]


def test_metafile_lists_the_recipes():
    import yaml

    meta = yaml.safe_load((ROOT / DETECTION / 'metafile.yml').read_text())
    listed = {m['Config'] for m in meta['Models']}
    assert listed == {p for p in CONFIGS if p.startswith(DETECTION) and 'nano' not in p}
    assert all(Path(m['Config']).stem == m['Name'] for m in meta['Models'])
    assert (ROOT / meta['Collections'][0]['README']).exists()
