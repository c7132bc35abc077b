"""`mmswinv2 export` on a classifier of mmpretrain."""

import runpy

import numpy as np
import pytest
import torch

from mmswinv2.errors import UserError
from tests.test_pretrain.conftest import CLASSIFIER
from tests.test_tools.conftest import ROOT
from tests.test_tools.test_export import answers, build, check_batch, exported, unsupported

pytestmark = pytest.mark.filterwarnings(
    'ignore::UserWarning', 'ignore::DeprecationWarning', 'ignore::FutureWarning'
)
SMALL = f"""
_base_ = '{ROOT}/{CLASSIFIER}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        arch=dict(embed_dims=16, depths=(1, 2), num_heads=(1, 2)),
        window_size=4,
        out_indices=(1,),
    ),
    head=dict(in_channels=32),
)
"""


def test_classifier_at_two_sizes(tmp_path):
    from mmpretrain.structures import DataSample

    model = build(SMALL, tmp_path)
    _, content = exported(model)

    def samples():
        for shape in ((3, 64, 64), (3, 37, 90)):
            yield torch.randint(0, 256, shape, dtype=torch.uint8), DataSample()

    for ours, theirs in answers(model, content, 'classification', samples()):
        assert theirs.pred_score.max() > 0.3
        torch.testing.assert_close(ours.pred_score, theirs.pred_score, atol=1e-5, rtol=0)
        assert ours.pred_label == theirs.pred_label
    check_batch(content, (3, 45, 70))
    assert unsupported(content) == []


SEVERAL = SMALL.replace(
    'head=dict(in_channels=32),',
    "head=dict(_delete_=True, type='MultiLabelLinearClsHead', in_channels=32, num_classes=4),",
)


def test_scores_of_several_labels_are_each_their_own(tmp_path):
    from mmpretrain.structures import DataSample

    model = build(SEVERAL, tmp_path)
    _, content = exported(model)
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for ours, theirs in answers(model, content, 'classification', [(picture, DataSample())]):
        assert abs(float(theirs.pred_score.sum()) - 1) > 0.1
        torch.testing.assert_close(ours.pred_score, theirs.pred_score, atol=1e-5, rtol=0)


def test_heads_that_predict_in_another_way(tmp_path):
    from mmpretrain.models.heads import LinearClsHead

    class Halved(LinearClsHead):
        def _get_predictions(self, cls_score, data_samples):
            return super()._get_predictions(cls_score / 2, data_samples)

    model = build(SMALL, tmp_path)
    model.head.__class__ = Halved
    with pytest.raises(UserError, match='the head Halved has no export rule'):
        exported(model)


@pytest.mark.parametrize(
    'step',
    [
        dict(scale=256, edge='short', backend='pillow', interpolation='bicubic'),
        dict(scale=96, edge='long'),
        dict(scale=50, edge='width', interpolation='nearest'),
        dict(scale=61, edge='height', interpolation='bicubic'),
    ],
    ids=lambda step: step['edge'],
)
def test_the_example_brings_pictures_to_size_as_the_pipeline_does(step, tmp_path):
    build(SMALL, tmp_path)  # applies patches that mmpretrain's import needs
    from mmpretrain.datasets.transforms import ResizeEdge

    resized = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))['resized']
    numbers = np.random.default_rng(0)
    for height, width in ((100, 103), (103, 100), (77, 199), (64, 64)):
        image = numbers.integers(0, 255, (height, width, 3), dtype=np.uint8)
        theirs = ResizeEdge(**step)(dict(img=image, img_shape=(height, width)))['img']
        assert np.array_equal(resized(image, [dict(type='ResizeEdge', **step)]), theirs)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='CenterCrop', crop_size=(60, 40)),
        dict(type='CenterCrop', crop_size=50),
        dict(type='Resize', scale=64),
        dict(type='Resize', scale=(70, 30)),
        dict(type='Resize', scale=64, keep_ratio=True),
        dict(type='Resize', scale_factor=0.5),
        dict(type='Resize', scale_factor=(0.5, 0.25)),
    ],
    ids=str,
)
def test_the_example_takes_the_forms_of_mmcvs_transforms(step):
    from mmcv.transforms import TRANSFORMS

    resized = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))['resized']
    image = np.random.default_rng(0).integers(0, 255, (77, 199, 3), dtype=np.uint8)
    theirs = TRANSFORMS.build(step)(dict(img=image, img_shape=image.shape[:2]))['img']
    assert np.array_equal(resized(image, [step]), theirs)


def test_the_example_refuses_padding():
    resized = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))['resized']
    step = dict(type='CenterCrop', crop_size=300, auto_pad=True)
    with pytest.raises(SystemExit, match='CenterCrop with auto_pad are not made here'):
        resized(np.zeros((50, 50, 3), np.uint8), [step])
