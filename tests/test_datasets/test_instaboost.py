import copy
import json
import random
import re
import sys

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import TRANSFORMS
from mmengine.dataset import worker_init_fn
from mmengine.registry import DefaultScope

from mmswinv2.datasets import InstaBoost
from mmswinv2.explanations import explain
from tests.test_tools.conftest import shapes, tool  # noqa: F401
from tests.test_tools.test_real_images import SAMPLE

pytest.importorskip('instaboostfast', reason='instaboostfast is not installed')
# Python 3.12: instaboostfast uses a deprecated function for the time
pytestmark = pytest.mark.filterwarnings('ignore:datetime.datetime.utcnow:DeprecationWarning')


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)
    random.seed(0)


def rectangle(x1, y1, x2, y2, **changes):
    mask = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return {'bbox': [x1, y1, x2, y2], 'bbox_label': 3, 'mask': mask, 'ignore_flag': 0, **changes}


def scene(*instances, size=(90, 130)):
    """A gray picture in which each instance's box is white."""
    image = np.full((*size, 3), 100, np.uint8)
    for instance in instances:
        x1, y1, x2, y2 = instance['bbox']
        image[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 255
    return dict(img=image, instances=list(instances), img_path='picture.jpg', ori_shape=size)


def rle(x1, y1, x2, y2, size=(90, 130)):
    mask = np.zeros(size, np.uint8, order='F')
    mask[y1:y2, x1:x2] = 1
    encoded = coco_mask.encode(mask)
    return {**encoded, 'counts': encoded['counts'].decode()}  # text, as in COCO's files


def boost(results, **options):
    """Apply InstaBoost to results, which must not change in place."""
    before = copy.deepcopy(results)
    transform = InstaBoost(**{'aug_ratio': 1, 'color_prob': 0, **options})
    new = transform(results)
    np.testing.assert_equal(results, before)
    return transform, new


def drawn(results):
    """The masks that mmdet's LoadAnnotations makes from the instances, and its results."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        load = TRANSFORMS.build(dict(type='LoadAnnotations', with_bbox=True, with_mask=True))
    loaded = load({**results, 'img_shape': results['img'].shape[:2]})
    return loaded['gt_masks'].masks, loaded


@pytest.mark.parametrize(
    'box',
    [(40, 30, 80, 60), (0, 0, 40, 50), (90, 50, 130, 90), (0, 0, 130, 40)],
    ids=['inside', 'top-left', 'bottom-right', 'wide'],
)
def test_mask_and_picture_move_together(box):
    results = scene(rectangle(*box))
    transform, new = boost(results)
    assert transform.left_alone == 0
    (mask,), _ = drawn(new)
    seen = new['img'][..., 0] > 178
    # the inpainted background takes a little of the object's color
    assert (mask & seen).sum() / (mask | seen).sum() > 0.85
    (truth,), _ = drawn(results)
    assert (mask != truth).any()
    ys, xs = np.nonzero(mask)
    (instance,) = new['instances']
    np.testing.assert_allclose(
        instance['bbox'], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1
    )


def test_objects_of_several_parts_stay_whole():
    parts = [[20, 20, 40, 20, 40, 60, 20, 60], [60, 30, 90, 30, 90, 50, 75, 60, 60, 50]]
    results = scene(rectangle(20, 20, 90, 60, mask=parts))
    transform, new = boost(results)
    assert transform.left_alone == 0
    assert len(new['instances'][0]['mask']) == 2


def test_one_outline_is_where_the_pixels_are():
    results = scene(rectangle(40, 30, 80, 60))
    _, new = boost(results, scale=(1, 1), theta=(0, 0), dx=1000, dy=1000)
    (outline,) = new['instances'][0]['mask']
    x, y = np.reshape(outline, (-1, 2)).T
    assert (x.min(), y.min(), x.max(), y.max()) == (40, 30, 80, 60)


def test_crowds_and_ignored_instances_stay_put():
    crowd = rectangle(2, 60, 30, 88, mask=rle(2, 60, 30, 88), ignore_flag=1, bbox_label=7)
    ignored = rectangle(100, 5, 120, 25, ignore_flag=1)
    results = scene(crowd, rectangle(50, 30, 80, 60), ignored)
    transform, new = boost(results)
    assert transform.left_alone == 0
    moved, *fixed = new['instances']
    assert fixed == [crowd, ignored]
    assert moved['bbox'] != [50, 30, 80, 60]
    masks, loaded = drawn(new)
    assert masks[1][60:88, 2:30].all()
    assert loaded['gt_ignore_flags'].tolist() == [False, True, True]
    assert loaded['gt_bboxes_labels'].tolist() == [3, 7, 3]


@pytest.mark.parametrize('instances', [[], [rectangle(5, 5, 50, 50, ignore_flag=1)]])
def test_nothing_to_move(instances):
    results = scene(*instances)
    transform, new = boost(results)
    assert new is results
    assert transform.left_alone == 0
    results.pop('instances')
    assert transform(results) is results


FULL = (40, 30, 80, 60)
HARD = dict(
    rle=scene(rectangle(*FULL, mask=rle(*FULL))),
    uncompressed_rle=scene(rectangle(*FULL, mask=dict(size=[90, 130], counts=[9, 9, 11682]))),
    no_mask=scene({k: v for k, v in rectangle(*FULL).items() if k != 'mask'}),
    odd_polygon=scene(rectangle(*FULL, mask=[[1, 2, 3]])),
    empty_polygon=scene(rectangle(*FULL, mask=[[]])),
    outside=scene(rectangle(200, 100, 240, 130)),
    outside_with_others=scene(rectangle(*FULL), rectangle(200, 100, 240, 130)),
    beyond_the_corner=scene(rectangle(-20, -20, 30, 30)),
    gray={**scene(rectangle(*FULL)), 'img': np.full((90, 130), 9, np.uint8)},
    alpha={**scene(rectangle(*FULL)), 'img': np.full((90, 130, 4), 9, np.uint8)},
)


@pytest.mark.parametrize('case', HARD)
def test_hard_images_are_left_as_they_are(case, warned):
    transform, new = boost(HARD[case])
    assert new is HARD[case]
    transform({**HARD[case], 'img_path': 'another.jpg'})
    assert transform.left_alone == 2
    (told,) = warned
    assert told.startswith('InstaBoost leaves picture.jpg as it is')


def test_tiny_objects_keep_their_boxes():
    results = scene(*(rectangle(10 * i, 40, 10 * i + i, 40 + i) for i in (1, 2, 3)))
    for seed in range(20):
        np.random.seed(seed)
        random.seed(seed)
        _, new = boost(results)
        boxes = np.array([instance['bbox'] for instance in new['instances']])
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        assert len(boxes) == 3


def test_seeds_of_a_worker_apply():
    results = scene(rectangle(40, 30, 80, 60))

    def run(worker):
        worker_init_fn(worker, num_workers=2, rank=0, seed=5)
        return boost(results, color_prob=0.5)[1]

    first, again, other = run(0), run(0), run(1)
    np.testing.assert_equal(first, again)
    assert (first['img'] != other['img']).any()


@pytest.mark.parametrize('ratio', [0, 0.5, 1])
def test_ratio(ratio):
    results = scene(rectangle(40, 30, 80, 60))
    transform = InstaBoost(aug_ratio=ratio)
    treated = sum(transform(results) is not results for _ in range(40))
    assert treated == pytest.approx(40 * ratio, abs=12 if ratio == 0.5 else 0)


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(action_prob=(0.5, 0.5)), 'length mismatch'),
        (dict(action_prob=(0.5, 0.2, 0)), 'sum to 1'),
        (dict(scale=(1,)), 'scale should have 2'),
        (dict(aug_ratio=1.5), 'aug_ratio is a probability'),
        (dict(color_prob=-1), 'color_prob is a probability'),
        (dict(aug_ratio='0.5'), "aug_ratio is a probability from 0 to 1, got '0.5'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(Exception, match=words) as error:
        TRANSFORMS.build(dict(type='mmswinv2.InstaBoost', **options))
    assert re.search(f'InstaBoost.*: .*{words}', explain(error.value))


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'instaboostfast', None)
    with pytest.raises(ImportError) as error:
        TRANSFORMS.build(dict(type='mmswinv2.InstaBoost'))
    assert 'pip install instaboostfast' in explain(error.value)


def pipeline(root, ann_file, images):
    """A data set with the recipes' pipeline, with InstaBoost on every image."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        return CocoDataset(
            ann_file=str(root / ann_file),
            data_prefix=dict(img=str(root / images)),
            metainfo=dict(classes=[c['name'] for c in json.loads(
                (root / ann_file).read_text())['categories']]),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='mmswinv2.InstaBoost', aug_ratio=1),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                dict(type='PackDetInputs'),
            ],
        )  # fmt: skip


def check(dataset):
    changed = 0
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        data = dataset[index]
        truth = data['data_samples'].gt_instances
        ignored = data['data_samples'].ignored_instances
        assert len(truth) + len(ignored) == len(info['instances'])
        boxes = truth.bboxes.tensor if hasattr(truth.bboxes, 'tensor') else truth.bboxes
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        assert sorted(truth.labels.tolist()) == sorted(
            instance['bbox_label'] for instance in info['instances'] if not instance['ignore_flag']
        )
        before = cv2.imread(info['img_path']).transpose(2, 0, 1)
        changed += (data['inputs'].numpy() != before).any()
    return changed


def test_shapes(shapes):  # noqa: F811
    dataset = pipeline(shapes, 'annotations/instances_train2017.json', 'train2017')
    assert check(dataset) == len(dataset)


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason='the sample of real COCO images is not here')
def test_real_images():
    dataset = pipeline(SAMPLE, 'annotations/instances_train2017.json', 'images/train2017')
    with_objects = sum(
        any(not i['ignore_flag'] for i in dataset.get_data_info(index)['instances'])
        for index in range(len(dataset))
    )
    assert check(dataset) >= 0.9 * with_objects
