"""hosts/strides.py: heads that are set for other strides than those of their maps."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmswinv2 import hosts
from mmswinv2.engine import CheckDatasetHook
from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2
from tests.test_tools.conftest import ROOT

# without the map of stride 4
COARSE = dict(backbone=dict(out_indices=(1, 2, 3)), neck=dict(in_channels=[64, 128, 256]))
STRIDES = [8, 16, 32, 64, 128]


def forward(size, **changes):
    """A training's forward pass of Mask R-CNN."""
    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    cfg.merge_from_dict(dict(model=changes))
    hosts.of(cfg).apply()
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    hosts.watch_strides(model)
    batch = model.data_preprocessor(hosts.sample_batch(cfg, size, 1), training=True)
    assert model(**batch, mode='loss')
    hooks = [(*m._forward_pre_hooks.values(), *m._forward_hooks.values()) for m in model.modules()]
    assert not any(hooks)


@pytest.mark.filterwarnings('ignore::UserWarning:mmdet')
@pytest.mark.parametrize(('changes', 'words'), [
    ({}, r'rpn_head\.prior_generator\.strides is .*\(4, 4\).*, and its maps have strides \[8, 16'),
    (
        dict(rpn_head=dict(anchor_generator=dict(strides=STRIDES))),
        r'roi_head\.bbox_roi_extractor\.featmap_strides is \[4, 8, 16, 32\], and its maps have '
        r'strides \[8, 16, 32, 64\], so .* other out_indices of the backbone',
    ),
])  # fmt: skip
def test_a_backbone_without_the_first_map(changes, words):
    with pytest.raises(UserError, match=words):
        forward((128, 96), **COARSE, **changes)


@pytest.mark.filterwarnings('ignore::UserWarning:mmdet')
@pytest.mark.parametrize('size', [(128, 96), (70, 333), (33, 40)])
@pytest.mark.parametrize('coarse', [False, True])
def test_strides_of_the_maps(size, coarse):
    """Sizes that no stride divides are right, too."""
    extractor = dict(featmap_strides=STRIDES[:4])
    heads = dict(
        rpn_head=dict(anchor_generator=dict(strides=STRIDES)),
        roi_head=dict(bbox_roi_extractor=extractor, mask_roi_extractor=extractor),
    )
    forward(size, **(COARSE | heads if coarse else {}))


class OfActions(nn.Module):
    """A detector of actions, as far as its region extractor: mmaction2's is set for stride 16."""

    def __init__(self, **options):
        super().__init__()
        from mmaction.models import SingleRoIExtractor3D

        self.backbone = VideoSwinTransformerV2('nano', window_size=(2, 4, 4))
        self.extractor = SingleRoIExtractor3D(output_size=2, with_temporal_pool=True, **options)

    def forward(self, x):
        return self.extractor(self.backbone(x), torch.tensor([[0.0, 0, 0, 64, 64]]))


def test_regions_of_videos():
    hosts.of(Config(dict(default_scope='mmaction'))).apply()
    x = torch.randn(1, 3, 4, 192, 160)
    model = OfActions()
    hosts.watch_strides(model)
    with pytest.raises(UserError, match=r'extractor\.featmap_stride is \[16\], .* strides \[32\]'):
        model(x)
    model = OfActions(featmap_stride=32)
    hosts.watch_strides(model)
    model(x)


def test_images_of_several_sizes_in_one_forward_pass():
    """As of a student; a part that the first forward pass leaves out is not checked later."""

    class Detector(OfActions):
        def forward(self, *images):
            return [OfActions.forward(self, x) for x in images]

    hosts.of(Config(dict(default_scope='mmaction'))).apply()
    model = Detector()  # for stride 16, which is wrong
    hosts.watch_strides(model)
    model()
    model(torch.randn(1, 3, 2, 192, 160))
    model = Detector(featmap_stride=32)
    hosts.watch_strides(model)
    model(torch.randn(1, 3, 2, 192, 160), torch.randn(1, 3, 2, 96, 320))


def test_a_head_that_makes_one_map_of_all():
    """As CondInst's mask head, whose stride is that of the map that it makes."""

    class Head(nn.Module):
        prior_generator = SimpleNamespace(strides=[(8, 8)])

        def forward(self, maps):
            return sum(m.mean() for m in maps)

    model = nn.Sequential(Head())
    model.backbone = SwinTransformerV2('nano')
    model.forward = lambda x: model[0](model.backbone(x))
    hosts.watch_strides(model)
    model(torch.randn(1, 3, 128, 128))


def test_a_model_inside_test_time_augmentation():
    """Its forward pass is the one that is called."""
    model, augmented = OfActions(featmap_stride=32), nn.Module()
    augmented.module = model
    CheckDatasetHook().before_test(SimpleNamespace(cfg={}, model=augmented))
    assert model.backbone._forward_pre_hooks
    model(torch.randn(1, 3, 2, 192, 160))
    assert not model.backbone._forward_pre_hooks


def test_other_backbones_are_left_alone():
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 4, 4, 4)
    hosts.watch_strides(model)
    assert not model.backbone._forward_pre_hooks
    model.backbone = SwinTransformerV2('nano')
    hosts.watch_strides(model)
    assert model.backbone._forward_pre_hooks
