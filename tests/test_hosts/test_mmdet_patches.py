import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from tests.test_tools.conftest import ROOT


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
@pytest.mark.filterwarnings('ignore::UserWarning:mmdet')
@pytest.mark.parametrize('name', ['mask-rcnn_swinv2-nano_shapes', 'htc++_swinv2-nano_shapes'])
def test_detectors_in_bfloat16(name):
    """Losses and boxes are near those of float32; mmcv's NMS, soft-NMS and RoIAlign run."""
    cfg = Config.fromfile(ROOT / f'configs/detection/{name}.py')
    host = hosts.of(cfg)
    host.apply()
    with DefaultScope.overwrite_default_scope(host.name):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        batch = hosts.sample_batch(cfg, (160, 192), 1)

        def losses(half):
            torch.manual_seed(1)
            with torch.autocast('cpu', torch.bfloat16, enabled=half):
                data = model.data_preprocessor(copy.deepcopy(batch), True)
                loss, values = model.parse_losses(model(**data, mode='loss'))
            loss.backward()
            return {key: value.detach() for key, value in values.items()}

        exact, near = losses(False), losses(True)
        for key in ('loss_rpn_cls', 'loss_rpn_bbox'):  # losses before regions are sampled by score
            assert near[key].item() == pytest.approx(exact[key].item(), rel=0.02)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

        def boxes(half):
            with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=half):
                (found,) = model.eval().test_step(copy.deepcopy(batch))
            return found.pred_instances.bboxes

        exact, near = boxes(False), boxes(True)
        assert near.dtype == torch.float32 and len(exact) > 2
        distances = (near[None] - exact[:3, None]).abs().amax(-1).amin(-1)
        assert distances.max() < 2


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
def test_anchors_in_bfloat16():
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.models.task_modules import AnchorGenerator, MlvlPointGenerator

    for priors in (
        AnchorGenerator(strides=[4], ratios=[1.0], scales=[8]),
        MlvlPointGenerator(strides=[4]),
    ):
        exact, near = (
            priors.grid_priors([(200, 336)], dtype=dtype, device='cpu')[0]
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert torch.equal(exact, near)


@pytest.mark.parametrize('key', ['gt_masks', 'gt_seg_map'])
@pytest.mark.parametrize(
    'name', ['Mosaic', 'MixUp', 'RandomShift', 'RandomAffine', 'CachedMosaic', 'CachedMixUp']
)
def test_masks_that_stay_where_their_boxes_were(name, key):
    from mmdet.datasets import transforms

    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    transform = getattr(transforms, name)()
    if key == 'gt_masks' and 'Cached' in name:
        sample = dict(gt_masks=1, mix_results=[])  # is not refused
        assert transform(sample) is sample
        return
    with pytest.raises(UserError, match=f'{name} moves boxes and leaves {key} where they are'):
        transform({key: 1, 'mix_results': []})


def test_transforms_of_ones_own_around_those_of_mmdet():
    from mmdet.datasets import transforms

    hosts.of(Config(dict(default_scope='mmdet'))).apply()

    class MyCached(transforms.CachedMosaic):
        pass

    class MovesMasks(transforms.RandomShift):
        def transform(self, results):
            return super().transform(results)

    sample = dict(gt_masks=1, mix_results=[])
    assert MyCached()(sample) is sample
    assert MovesMasks(prob=0)(sample) is sample


def test_images_of_two_sizes_for_copy_paste():
    from mmdet.datasets.transforms import CopyPaste

    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    samples = [
        dict(img=np.zeros((size, 8, 3)), gt_bboxes=[1], gt_bboxes_labels=[1], gt_masks=[1])
        for size in (8, 9)
    ]
    with pytest.raises(UserError, match=r'images of one size, got \(8, 8\) and \(9, 8\)'):
        CopyPaste()._copy_paste(*samples)
