"""COCO scores by faster-coco-eval and by pycocotools: ``python -m benchmarks.coco_eval``.

Random truth and predictions of the size of a part of COCO; seconds of process time, and the largest
difference of the twelve scores.
"""

import contextlib
import io
import time

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmswinv2.hosts.mmdet_metric_patches import fast_evaluator
from mmswinv2.options import ArgumentParser

WIDTH, HEIGHT = 640, 480


def ellipse(box):
    """An elliptic mask in a box, as run lengths."""
    x, y, w, h = box
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + w / 2 * (1 + np.cos(angles)), y + h / 2 * (1 + np.sin(angles))], 1)
    (code,) = mask.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)
    return dict(size=list(code['size']), counts=code['counts'].decode())


def draw(images, classes, objects, found, seed=0):
    """Annotations, and predictions near them; half of the predictions have a random label."""
    rng = np.random.default_rng(seed)
    truth, predictions = [], []
    for image in range(1, images + 1):
        first = len(truth)
        for i in range(objects):
            size = rng.uniform(16, 240, 2)
            box = [*rng.uniform(0, [WIDTH, HEIGHT] - size), *size]
            entry = dict(id=len(truth) + 1, image_id=image, category_id=int(rng.integers(classes)))
            entry.update(bbox=box, area=float(size.prod()), iscrowd=int(i == 0))
            truth.append(entry | dict(segmentation=ellipse(box)))
        for i in range(found):
            near = truth[first + i % objects]
            box = np.array(near['bbox']) + rng.normal(0, 6, 4)
            label = near['category_id'] if i % 2 else int(rng.integers(classes))
            box[2:] = box[2:].clip(4)
            entry = dict(image_id=image, category_id=label, bbox=box.tolist())
            entry.update(score=float(rng.random()), segmentation=ellipse(box))
            predictions.append(entry)
    return truth, predictions


def score(evaluator, truth, predictions, kind, images, classes):
    """The twelve scores, and the seconds that they took."""
    api = COCO()
    sizes = [dict(id=i, width=WIDTH, height=HEIGHT) for i in range(1, images + 1)]
    categories = [dict(id=i, name=str(i)) for i in range(classes)]
    api.dataset = dict(images=sizes, annotations=truth, categories=categories)
    unused = 'segmentation' if kind == 'bbox' else 'bbox'
    entries = [{k: v for k, v in entry.items() if k != unused} for entry in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
        evaluation = evaluator(api, api.loadRes(entries), kind)
        evaluation.params.maxDets = [100, 300, 1000]
        start = time.process_time()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, time.process_time() - start


def main():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--images', type=int, default=100)
    parser.add_argument('--classes', type=int, default=80)
    parser.add_argument('--objects', type=int, default=7, help='of each image')
    parser.add_argument('--predictions', type=int, default=40, help='for each image')
    args = parser.parse_args()
    data = draw(args.images, args.classes, args.objects, args.predictions)
    print(f'{"":8}{"pycocotools":>14}{"faster-coco-eval":>20}{"ratio":>8}{"difference":>14}')
    for kind in ('bbox', 'segm'):
        slow, fast = (
            score(evaluator, *data, kind, args.images, args.classes)
            for evaluator in (COCOeval, fast_evaluator())
        )
        difference = abs(slow[0] - fast[0]).max()
        times = f'{slow[1]:12.2f} s{fast[1]:18.2f} s{slow[1] / fast[1]:8.1f}'
        print(f'{kind:8}{times}{difference:14.0e}')


if __name__ == '__main__':
    main()
