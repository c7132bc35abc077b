"""Boxes and masks of several views, on mmdet's own detectors."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from mmengine.structures import InstanceData

from mmswinv2.errors import UserError
from mmswinv2.models import InstanceSegTTAModel
from mmswinv2.models.test_time_aug import View
from tests.test_tools.conftest import CONFIG, ROOT

pytestmark = pytest.mark.filterwarnings(
    'ignore:To copy construct from a tensor:UserWarning',  # mmdet's mask head
    'ignore:Default ``avg_non_ignore`` is False:UserWarning',  # mmdet's losses
    'ignore:torch.meshgrid:UserWarning',
    'ignore:pkg_resources is deprecated:UserWarning',  # mmengine 0.10.7's get_config
    'ignore:"dropout" is deprecated in `FFN:DeprecationWarning',
)

# two-stage detectors with masks of different kinds of mask heads
HOSTS = {
    'mask-rcnn': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'cascade': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'htc': 'htc/htc_r50_fpn_1x_coco.py',
    'mask-scoring': 'ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py',
    'point-rend': 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
    'scnet': 'scnet/scnet_r50_fpn_1x_coco.py',
}


def narrow(heads):
    """Give all heads fully connected layers of 64 channels instead of 1024, in place."""
    for key, value in heads.items() if isinstance(heads, dict) else enumerate(heads):
        if isinstance(value, dict | list):
            narrow(value)
        elif value == 1024:
            heads[key] = 64


def build(name, heads=None, **test_cfg):
    """A small detector of mmdet with random weights that gives boxes of any score."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    cfg = get_config(f'mmdet::{HOSTS.get(name, name)}').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    narrow(cfg.get('roi_head', {}))
    for head, options in (heads or {}).items():
        cfg.roi_head[head].update(options)
    detector = MODELS.build(cfg).eval()
    if detector.test_cfg.get('rpn') is not None:
        detector.test_cfg.rpn.max_per_img = 20
        detector.roi_head.test_cfg.update(score_thr=0.0, max_per_img=10, **test_cfg)
    return detector


@pytest.fixture(scope='module', params=HOSTS)
def detector(request):
    return build(request.param)


@pytest.fixture(scope='module')
def expected(detector, image):
    """What `detector` finds without test-time augmentation; read-only for tests."""
    return plain(detector, image, scale=2.0)


@pytest.fixture(scope='module')
def mask_rcnn():
    """A Mask R-CNN with few boxes, so that tests can compare the masks of all of them."""
    few = dict(num_classes=8)
    few_channels = dict(conv_out_channels=32)
    detector = build('mask-rcnn', heads=dict(bbox_head=few, mask_head=few | few_channels))
    detector.test_cfg.rpn.max_per_img = 25
    return detector


@pytest.fixture(scope='module')
def image():
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, 128, 192), dtype=torch.uint8)


def view(pixels, flip=None, scale=1.0):
    """A sample with the given pixels, as a view of an image of 64 x 96 pixels."""
    meta = dict(
        ori_shape=(64, 96), img_shape=tuple(pixels.shape[1:]), scale_factor=(scale, scale),
        flip=flip is not None, flip_direction=flip,
    )  # fmt: skip
    return dict(inputs=[pixels], data_samples=[DetDataSample(metainfo=meta)])


def plain(detector, *args, **kwargs):
    with torch.no_grad():
        return detector.test_step(view(*args, **kwargs))[0].pred_instances


def merged(model, *views):
    data = {key: [v[key] for v in views] for key in ('inputs', 'data_samples')}
    return model.test_step(data)[0].pred_instances


def assert_same(a, b):
    assert len(a) == len(b) > 0
    assert a.masks.shape == b.masks.shape and a.masks.any()
    torch.testing.assert_close(a.bboxes, b.bboxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-4)
    assert torch.equal(a.labels, b.labels)
    assert (a.masks != b.masks).float().mean() < 1e-4


def mirror(results, axis):
    """Mirror the results of an image of 64 x 96 pixels."""
    low, high, size = (0, 2, 96) if axis == -1 else (1, 3, 64)
    boxes = results.bboxes.clone()
    boxes[:, [low, high]] = size - boxes[:, [high, low]]
    mirrored = results.clone()
    mirrored.bboxes, mirrored.masks = boxes, results.masks.flip(axis)
    return mirrored


def test_one_view_is_the_plain_test(detector, image, expected):
    once = merged(InstanceSegTTAModel(detector), view(image, scale=2.0))
    assert_same(once, expected)


def test_one_view_is_the_plain_test_with_soft_nms(image):
    detector = build('htc', nms=dict(type='soft_nms', iou_threshold=0.5))
    once = merged(InstanceSegTTAModel(detector), view(image, scale=2.0))
    assert_same(once, plain(detector, image, scale=2.0))


@pytest.mark.parametrize(('direction', 'axes'), [('horizontal', [-1]), ('diagonal', [-1, -2])])
def test_flipped_view_is_flipped_back(detector, image, expected, direction, axes):
    """Given the pixels of a flipped image, the detector returns results that are flipped back."""
    found = merged(InstanceSegTTAModel(detector), view(image, direction, scale=2.0))
    for axis in axes:
        expected = mirror(expected, axis)
    assert_same(found, expected)


def test_a_view_that_is_padded_after_its_flip(mask_rcnn, image):
    """As in mmdet's test-time augmentation of YOLOX and RTMDet."""
    pixels = torch.nn.functional.pad(image, (0, 8, 0, 16), value=114)
    expected = mirror(plain(mask_rcnn, pixels, scale=2.0), -1)
    model = InstanceSegTTAModel(mask_rcnn)
    assert_same(merged(model, view(pixels, 'horizontal', scale=2.0)), expected)


def test_the_same_view_twice_changes_no_mask(mask_rcnn, image):
    """NMS removes the duplicates; masks equal their average."""
    one = view(image, scale=2.0)
    twice = merged(InstanceSegTTAModel(mask_rcnn), one, view(image, scale=2.0))
    assert_same(twice, plain(mask_rcnn, image, scale=2.0))


def test_views_are_merged_in_the_frame_of_the_image(mask_rcnn, image):
    """Boxes of views at different scales are at the same place in the original image."""
    small, flipped = image[:, ::2, ::2], image.flip(-1)
    views = view(image, scale=2.0), view(flipped, 'horizontal', scale=2.0), view(small)
    found = merged(InstanceSegTTAModel(mask_rcnn, dict(max_per_img=20)), *views).bboxes
    of_all = InstanceSegTTAModel(mask_rcnn, dict(nms=None, max_per_img=300))
    alone = [merged(of_all, v).bboxes for v in views]
    nearest = torch.stack([(found[:, None] - a).abs().amax(-1).amin(1) for a in alone])  # [3, n]
    assert nearest.amin(0).max() < 1e-2  # each box comes from a view
    assert set(nearest.argmin(0).tolist()) == {0, 1, 2}  # each view contributes


@pytest.mark.parametrize('cached', [2, 3])
def test_keeping_features_changes_nothing_but_work(mask_rcnn, image, cached):
    views = [
        view(image, scale=2.0),
        view(image.flip(-1), 'horizontal', 2.0),
        view(image[:, ::2, ::2]),
    ]
    calls = []
    handle = mask_rcnn.backbone.register_forward_hook(lambda *_: calls.append(1))
    once = merged(InstanceSegTTAModel(mask_rcnn), *views)
    assert len(calls) == 5  # the last view's features are kept
    calls.clear()
    again = merged(InstanceSegTTAModel(mask_rcnn, cached_views=cached), *views)
    handle.remove()
    assert len(calls) == 6 - cached
    assert_same(once, again)


def test_size_ranges(mask_rcnn, image):
    ranges = [(0, 20), (20, 1e5)]
    model = InstanceSegTTAModel(mask_rcnn, dict(size_ranges=ranges, max_per_img=100))
    found = merged(model, view(image, scale=2.0), view(image[:, ::2, ::2]))
    alone = InstanceSegTTAModel(mask_rcnn, dict(nms=None, max_per_img=1000))
    width, height = (found.bboxes[:, 2:] - found.bboxes[:, :2]).unbind(1)
    small = (width * height).sqrt() < 20
    assert small.any() and not small.all()
    for rows, origin in ((small, view(image, scale=2.0)), (~small, view(image[:, ::2, ::2]))):
        pool = merged(alone, origin).bboxes
        assert (found.bboxes[rows][:, None] - pool[None]).abs().amax(-1).amin(1).max() < 1e-2


def test_batches_and_images_without_a_box(mask_rcnn, image):
    """An image without proposals in the batch does not change the results of the other image."""
    model = InstanceSegTTAModel(mask_rcnn)
    proposals = torch.tensor([[10.0, 10, 90, 60], [100, 40, 180, 120]])
    both = []
    for boxes in (proposals, proposals[:0]):
        both.append(view(image, scale=2.0))
        both[-1]['data_samples'][0].proposals = InstanceData(bboxes=boxes)
    expected = merged(model, both[0])
    data = {key: [[v[key][0] for v in both]] for key in ('inputs', 'data_samples')}
    first, second = (sample.pred_instances for sample in model.test_step(data))
    assert_same(first, expected)
    assert len(second) == 0 and second.masks.shape == (0, 64, 96)
    mask_rcnn.roi_head.test_cfg.score_thr = 1.1
    try:
        none = merged(InstanceSegTTAModel(mask_rcnn), view(image, scale=2.0))
    finally:
        mask_rcnn.roi_head.test_cfg.score_thr = 0.0
    assert len(none) == 0 and none.masks.shape == (0, 64, 96)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'has no mask head here'),
        ('retinanet/retinanet_r50_fpn_1x_coco.py', 'RetinaNet is none'),
        ('condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py', 'CondInst is none'),
        ('queryinst/queryinst_r50_fpn_1x_coco.py', 'QueryInst is none'),
        ('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', 'PanopticFPN is none'),
    ],
)
def test_detectors_it_cannot_do(name, words):
    with torch.device('meta'):  # drawing weights would take longer than all else
        detector = build(name)
    with pytest.raises(ValueError, match=words):
        InstanceSegTTAModel(detector)


def test_bad_options(mask_rcnn, image):
    with pytest.raises(ValueError, match="tta_cfg has \\['iou'\\]"):
        InstanceSegTTAModel(mask_rcnn, dict(iou=0.5))
    with pytest.raises(ValueError, match='cached_views must be 1 or more, got 0'):
        InstanceSegTTAModel(mask_rcnn, cached_views=0)
    for ranges in ([(96, 0)], [32, 96], [(0, None)], 96):
        with pytest.raises(UserError, match=r'size_ranges must be a list of \(minimum, maximum\)'):
            InstanceSegTTAModel(mask_rcnn, dict(size_ranges=ranges))
    InstanceSegTTAModel(mask_rcnn, dict(size_ranges=[(0, 96), None]))
    model = InstanceSegTTAModel(mask_rcnn, dict(size_ranges=[(0, 1), (1, 2)]))
    with pytest.raises(ValueError, match='size_ranges has 2 entries and tta_pipeline 1 views'):
        merged(model, view(image))
    flips_first = [view(image), view(image[:, ::2, ::2], scale=0.5)] * 2
    with pytest.raises(ValueError, match='the scales stand before the flips'):
        merged(model, *flips_first)
    unknown = view(image)
    del unknown['data_samples'][0].flip
    with pytest.raises(ValueError, match=r"the views lack \['flip'\]"):
        merged(InstanceSegTTAModel(mask_rcnn), unknown)


def test_found_by_its_prefix():
    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / CONFIG)
    model = MODELS.build(dict(type='mmswinv2.InstanceSegTTAModel', module=cfg.model))
    assert model.tta_cfg['max_per_img'] == cfg.model.test_cfg.rcnn.max_per_img


@pytest.mark.parametrize('flip', [None, 0.0, 1.0])
def test_views_of_scales_alone(flip, tmp_path):
    """Views from mmdet's own transforms, with and without RandomFlip."""
    picture = tmp_path / 'a.png'
    cv2.imwrite(str(picture), np.zeros((40, 60, 3), np.uint8))
    steps = [[dict(type='Resize', scale=(size, size), keep_ratio=True) for size in (30, 60)]]
    if flip is not None:
        steps.append([dict(type='RandomFlip', prob=flip)])
    keys = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    steps.append([dict(type='PackDetInputs', meta_keys=keys)])
    init_default_scope('mmdet')
    load, views = (
        TRANSFORMS.build(cfg)
        for cfg in (dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=steps))
    )
    metas = [sample.metainfo for sample in views(load(dict(img_path=str(picture))))['data_samples']]
    if flip is None:
        with pytest.raises(UserError, match=r"lack \['flip'\].* no RandomFlip.*prob=0.0"):
            View.of(metas[0])
        return
    assert [View.of(meta).scale for meta in metas] == [(0.5, 0.5), (1.0, 1.0)]
    assert [View.of(meta).axes for meta in metas] == [(-1,) if flip else ()] * 2


def test_boxes_of_a_flipped_and_padded_view():
    """Padding follows the flip, as in mmdet's own pipelines: it has no part in flipping back."""
    scaled = dict(ori_shape=(64, 97), scale_factor=(1.5, 2.0), flip=True, flip_direction='diagonal')
    view = View.of(scaled | dict(img_shape=(256, 256)))
    boxes = torch.tensor([[3.0, 4.0, 30.0, 40.0]])
    seen = torch.tensor([[146 - 45.0, 128 - 80.0, 146 - 4.5, 128 - 8.0]])
    torch.testing.assert_close(view.to_image(seen), boxes)
    torch.testing.assert_close(view.from_image(boxes), seen)
