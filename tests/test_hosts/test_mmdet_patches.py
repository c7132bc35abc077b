import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmswinv2 import hosts
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
