"""Scores of faster-coco-eval compared with those of pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmswinv2.hosts.mmdet_metric_patches import fast_evaluator

pytest.importorskip('faster_coco_eval', reason='faster-coco-eval is not installed')
SIZE = 160


def polygon(box, rng):
    x, y, w, h = box
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
    return [(corners + rng.uniform(-2, 2, (4, 2))).clip(0, SIZE).ravel().tolist()]


def run_lengths(box, compressed):
    x, y, w, h = map(int, box)
    mask = np.zeros((SIZE, SIZE), np.uint8, order='F')
    mask[y : y + h, x : x + w] = 1
    if compressed:
        code = masks.encode(mask)
        return dict(size=list(code['size']), counts=code['counts'].decode())
    flat = mask.ravel(order='F')
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return dict(size=[SIZE, SIZE], counts=([0] if flat[0] else []) + counts)


def random_data(seed, images=12, most=140):
    """Ground truth with crowds and empty images; predictions near it, wrong, and too many."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 9)) if image > 2 else 0):
            side = rng.choice([12.0, 50.0, 110.0]) * rng.uniform(0.8, 1.2, 2)
            box = [*rng.uniform(0, SIZE - side), *side]
            crowd = int(rng.random() < 0.2)
            shape = run_lengths(box, rng.random() < 0.5) if crowd else polygon(box, rng)
            truth.append(
                dict(id=len(truth) + 1, image_id=image, category_id=int(rng.choice([3, 7, 5])),
                     bbox=list(map(float, box)), area=float(side.prod() * rng.uniform(0.5, 1)),
                     iscrowd=crowd, segmentation=shape)
            )  # fmt: skip
        near = [t for t in truth if t['image_id'] == image]
        for i in range(int(rng.integers(1, most)) if image != 3 else 0):
            if near and i < 3 * len(near):
                base = near[i % len(near)]
                box = np.array(base['bbox']) + rng.normal(0, 3, 4)
                label = base['category_id'] if rng.random() < 0.8 else 5
            else:
                box, label = rng.uniform(0, SIZE / 2, 4), int(rng.choice([3, 7, 5]))
            box[:2], box[2:] = box[:2].clip(0, SIZE - 4), box[2:].clip(2, SIZE)
            box[2:] = np.minimum(box[2:], SIZE - box[:2])
            found.append(
                dict(image_id=image, category_id=label, bbox=box.tolist(),
                     score=float(rng.integers(0, 50)) / 50,  # with ties
                     segmentation=run_lengths(box, True))
            )  # fmt: skip
    return truth, found


def score(kind, truth, found, evaluator, use_cats=1, thresholds=None, classes=(3, 5, 7)):
    # pass sorted classes: COCOeval sorts them, but a patch of mmdet keeps the given order
    api = COCO()
    api.dataset = dict(
        images=[dict(id=i, height=SIZE, width=SIZE, file_name=f'{i}.jpg') for i in range(1, 13)],
        annotations=[dict(a) for a in truth],
        categories=[dict(id=i, name=str(i)) for i in (3, 7, 5, 9)],
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        api.createIndex()
        entries = [{k: v for k, v in f.items() if k != ('bbox', 'segmentation')[kind == 'bbox']}
                   for f in found]  # fmt: skip
        evaluation = evaluator(api, api.loadRes(entries), kind)
        evaluation.params.catIds = list(classes)
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.params.useCats = use_cats
        if thresholds is not None:
            evaluation.params.iouThrs = np.array(thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    text = printed.getvalue()
    return evaluation.stats, evaluation.eval, text[text.index(' Average Precision') :]


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(use_cats=0),
        dict(thresholds=[0.3, 0.5]),
        dict(classes=[3]),
        dict(use_cats=0, classes=[5, 3]),
    ],
    ids=str,
)
def test_scores_are_those_of_pycocotools(kind, options):
    truth, found = random_data(0)
    stats, curves, text = score(kind, truth, found, COCOeval, **options)
    fast_stats, fast_curves, fast_text = score(kind, truth, found, fast_evaluator(), **options)
    assert 0 < stats[0] < 1 and len(set(stats.round(6))) > 5  # scores vary
    np.testing.assert_allclose(fast_stats, stats, rtol=0, atol=1e-6)
    for name in ('precision', 'recall', 'scores'):
        np.testing.assert_allclose(fast_curves[name], curves[name], rtol=0, atol=1e-6)
    assert fast_text == text


def test_a_difference_would_be_seen():
    truth, found = random_data(0)
    stats = score('bbox', truth, found, fast_evaluator())[0]
    found[0]['score'] = 1.0
    found[5]['bbox'][0] += 9
    assert abs(score('bbox', truth, found, fast_evaluator())[0] - stats).max() > 1e-5
