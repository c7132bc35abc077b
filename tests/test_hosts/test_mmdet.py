import copy
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from mmswinv2.hosts import check_dataset
from tests.test_tools.conftest import ROOT


def coco(folder, names=('cat', 'dog')):
    box = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name='1.jpg', height=10, width=10)],
        annotations=[box | {'segmentation': [[0, 0, 9, 0, 9, 9]]}],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, start=1)],
    )
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    from mmdet.datasets import CocoDataset

    return CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat', 'dog')),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[],
    )


def test_a_matching_data_set_passes_inside_wrappers_too(tmp_path):
    from mmengine.dataset import ConcatDataset, RepeatDataset

    dataset = coco(tmp_path)
    for wrapped in (dataset, RepeatDataset(dataset, 2), ConcatDataset([dataset, dataset])):
        check_dataset(wrapped, 'train_dataloader')


@pytest.mark.parametrize('wrapped', [False, True])
def test_names_that_do_not_match(tmp_path, wrapped):
    from mmengine.dataset import ConcatDataset

    with pytest.raises(UserError, match=r"lacks 1 of the 2 classes \('dog'\); it has 'cat', 'Dog'"):
        dataset = coco(tmp_path, names=('cat', 'Dog'))  # refused here if mmdet is patched already
        check_dataset(ConcatDataset([dataset]) if wrapped else dataset, 'train')


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
        for key in ('loss_rpn_cls', 'loss_rpn_bbox'):  # no regions were drawn by their scores
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
