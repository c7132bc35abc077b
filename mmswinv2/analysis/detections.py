"""Compare predictions of detectors with the ground truth: AP of COCO, and kinds of errors.

The kinds are those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020), after Hoiem et al., "Diagnosing Error in Object Detectors" (ECCV 2012). A box
is foreground from an IoU of 0.5 with the ground truth, and background below 0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np

from ..errors import UserError
from .findings import Box, Example, Findings, Matrix, Table, mismatch, outline, panel, read_image

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = {  # kind of error: what it means
    'class': 'the place is right, the class is not',
    'localization': f'the class is right, the place is not (IoU {BACKGROUND} to {FOREGROUND})',
    'both': 'neither is right, and it touches an object',
    'duplicate': 'the object has a better box already',
    'background': 'there is no object',
    'missed': 'an object that no box is for',
}


@dataclass
class _Image:
    """Ground truth and predicted boxes of one image."""

    number: Any  # its id
    truth: list[dict]  # annotations without crowds
    boxes: list[dict]  # predicted boxes, highest score first
    overlaps: np.ndarray  # (boxes, truth), IoU of each box with each annotation
    owner: np.ndarray  # (boxes,), index of the annotation that a box is matched with, or -1
    ignored: np.ndarray  # (boxes,), whether a box is matched with a crowd

    def from_score(self, score: float) -> _Image:
        """The same image with only the boxes of at least this score."""
        n = sum(box['score'] >= score for box in self.boxes)
        of_boxes = ('boxes', 'overlaps', 'owner', 'ignored')
        return replace(self, **{name: getattr(self, name)[:n] for name in of_boxes})


@dataclass
class _Pairing:
    """Indices of boxes and objects of an image that belong together, whatever their classes."""

    image: _Image
    pairs: list[tuple[int, int]] = field(default_factory=list)  # box and object
    right: set[int] = field(default_factory=set)  # boxes whose object is of their class
    extra: list[int] = field(default_factory=list)  # boxes without an object
    missed: list[int] = field(default_factory=list)  # objects without a box


def analyse(
    dataset: Any, samples: Sequence[Any], path: str, score: float, max_examples: int
) -> Findings:
    """Compare predictions with a data set of mmdet in COCO's format; see `predictions.examine`.

    `path` is the file of the `samples`, for messages.
    """
    truth, results, classes = _truth_and_results(dataset, samples, path)
    ids = dict(zip(dataset.cat_ids, classes, strict=True))
    boxes = _evaluate(truth, results, 'bbox', matches=True)
    images = list(_matched_images(truth, boxes))
    pairings = [_pair_boxes(image.from_score(score)) for image in images]
    precision = boxes.eval['precision'][..., 0, -1]  # (IoUs, recalls, classes)
    columns = [_class_scores(boxes)]
    head = ['class', 'objects', 'box AP', 'box AP50', 'recall']
    if any('segmentation' in result for result in results):
        masks = [result for result in results if 'segmentation' in result]
        columns.append(_class_scores(_evaluate(truth, masks, 'segm'))[:, :2])
        head += ['mask AP', 'mask AP50']
    scores = np.concatenate(columns, axis=1)
    order = [boxes.params.catIds.index(i) for i in ids]
    counts = [
        sum(not a['iscrowd'] for a in truth.loadAnns(truth.getAnnIds(catIds=[i]))) for i in ids
    ]
    rows = [
        [name, count, *(None if v < 0 else float(v) for v in scores[i])]
        for name, count, i in zip(classes, counts, order, strict=True)
    ]
    names = dict(zip(classes, order, strict=True))
    curves = {
        'all classes': _mean_over_classes(precision[0]),
        'all classes, IoU 0.75': _mean_over_classes(precision[5]),
    }
    curves |= {name: precision[0, :, i] for name, i in names.items() if precision[0, 0, i] >= 0}
    return Findings(
        f"{len(images)} pictures with {sum(counts)} objects. AP is COCO's; counts and "
        f'pictures are of boxes with a score of {score:g} and more',
        Table(head, rows, range(2, len(head))),
        _confusion_matrix(pairings, ids),
        _worst_images(dataset, pairings, ids, truth if len(columns) > 1 else None, max_examples),
        curves,
        _error_table(truth, images, score),
    )


def _truth_and_results(
    dataset: Any, samples: Sequence[Any], path: str
) -> tuple[Any, list[dict], list[str]]:
    """The ground truth as `COCO`, predictions in COCO's result format, and names of the classes."""
    from ..datasets.coco import read_coco

    if not hasattr(dataset, 'cat_ids'):
        raise UserError(
            f'{type(dataset).__name__} has no annotations in the form of COCO, which a report on a '
            'detector needs; leave --predictions out'
        )
    classes = [str(name) for name in dataset.metainfo['classes']]
    content = read_coco(dataset.ann_file)
    sizes = {image['id']: image for image in content['images']}
    known = {dataset.get_data_info(i)['img_id'] for i in range(len(dataset))}
    results: list[dict] = []
    seen = set()
    for sample in samples:
        if 'pred_instances' not in sample:
            raise mismatch(path, 'they are no boxes of a detector')
        if (number := sample.get('img_id')) not in known:
            raise mismatch(path, f'image {number!r} is not in {dataset.ann_file}')
        seen.add(number)
        image, shape = sizes[number], tuple(sample['ori_shape'])
        if shape != (image.get('height', shape[0]), image.get('width', shape[1])):
            raise mismatch(path, f'image {number} had {shape[1]}x{shape[0]} pixels')
        instances = sample['pred_instances']
        if (label := max(instances['labels'].tolist(), default=0)) >= len(classes):
            raise mismatch(path, f'it has a class {label}, and the data set {len(classes)}')
        results += _coco_results(instances, number, dataset.cat_ids)
    if lack := len(known - seen):
        raise mismatch(path, f'{lack} of its {len(known)} pictures are missing')
    wanted = set(dataset.cat_ids)
    content['images'] = [image for image in content['images'] if image['id'] in known]
    content['categories'] = [c for c in content['categories'] if c['id'] in wanted]
    content['annotations'] = [
        {'iscrowd': 0, **a}
        for a in content['annotations']
        if a['image_id'] in known and a['category_id'] in wanted
    ]
    return _coco(content), results, classes


def _coco_results(instances: Any, image_id: Any, cat_ids: Sequence[int]) -> Iterator[dict]:
    """The boxes that were predicted on an image, in COCO's result format."""
    for i, label in enumerate(instances['labels'].tolist()):
        x1, y1, x2, y2 = instances['bboxes'][i].tolist()
        result = dict(
            image_id=image_id,
            category_id=cat_ids[label],
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=float(instances['scores'][i]),
        )
        if 'masks' in instances:
            result['segmentation'] = instances['masks'][i]
        yield result


def _coco(content: dict) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _evaluate(
    truth: Any, results: Sequence[dict], kind: str, ious: Any = None, matches: bool = False
) -> Any:
    """The evaluation of COCO; faster-coco-eval does it in less time, but keeps no `matches`."""
    from pycocotools.cocoeval import COCOeval

    from ..hosts.mmdet_metric_patches import (
        fast_evaluator,
        has_fast_evaluator,
        ignored_without_masks,
    )

    evaluator = fast_evaluator() if has_fast_evaluator() and not matches else COCOeval
    # loadRes changes the dicts that it gets, and fails on an empty list
    found = (
        truth.loadRes([dict(r) for r in results])
        if results
        else _coco({**truth.dataset, 'annotations': []})
    )
    evaluation = evaluator(truth, found, kind)
    evaluation.params.catIds = sorted({c['id'] for c in truth.dataset['categories']})
    if ious is not None:
        evaluation.params.iouThrs = np.array(ious)
    evaluation.params.areaRng = evaluation.params.areaRng[:1]
    evaluation.params.maxDets = [100]
    with ignored_without_masks(truth.anns.values(), kind):
        evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean over classes, the last axis; classes without objects have -1 and are left out."""
    known = values[:, (values >= 0).all(0)]
    return known.mean(1) if known.size else np.zeros(len(values))


def _class_scores(evaluation: Any) -> np.ndarray:
    """(classes, 3): AP, AP at IoU 0.5, recall; -1 where there are no objects."""
    precision = evaluation.eval['precision'][..., 0, -1]
    recall = evaluation.eval['recall'][..., 0, -1]
    return np.stack([precision.mean((0, 1)), precision[0].mean(0), recall.mean(0)], axis=1)


def _matched_images(truth: Any, evaluation: Any) -> Iterable[_Image]:
    """All images, with the matches of their boxes in COCO's evaluation at an IoU of 0.5."""
    from pycocotools.mask import iou

    owners: dict[int, int] = {}
    crowded: set[int] = set()
    for found in filter(None, evaluation.evalImgs):  # None: neither boxes nor objects of a class
        owners |= zip(found['dtIds'], map(int, found['dtMatches'][0]), strict=True)
        crowded.update(compress(found['dtIds'], found['dtIgnore'][0]))
    predicted = evaluation.cocoDt.imgToAnns
    for image in truth.dataset['images']:
        objects = [a for a in truth.imgToAnns[image['id']] if not a['iscrowd']]
        # only boxes that were evaluated: COCO takes at most `maxDets` for each class
        boxes = [box for box in predicted[image['id']] if box['id'] in owners]
        boxes.sort(key=lambda box: -box['score'])
        shape = len(boxes), len(objects)
        overlaps = iou([b['bbox'] for b in boxes], [a['bbox'] for a in objects], [0] * shape[1])
        places = {a['id']: i for i, a in enumerate(objects)}
        yield _Image(
            image['id'],
            objects,
            boxes,
            np.asarray(overlaps, float).reshape(shape),
            np.array([places.get(owners[b['id']], -1) for b in boxes], int),
            np.array([b['id'] in crowded for b in boxes], bool),
        )


def _error_kinds(image: _Image) -> tuple[list[str], set[int], list[int]]:
    """Kinds of all boxes (``'right'``, ``''`` if ignored), indices of missed objects, and targets.

    The target of a wrong box is the object that would make it right if corrected, or -1. Only the
    box with the highest score is corrected to an object, as in TIDE.
    """
    kinds, targets = [], []
    taken = set(image.owner[image.owner >= 0].tolist())
    for box, overlaps, owner, ignored in zip(
        image.boxes, image.overlaps, image.owner, image.ignored, strict=True
    ):
        same = np.array([a['category_id'] == box['category_id'] for a in image.truth], bool)
        own, other = np.where(same, overlaps, 0), np.where(same, 0, overlaps)
        kind, target = 'both', -1
        if ignored:
            kind = ''
        elif owner >= 0:
            kind = 'right'
        elif not len(overlaps) or overlaps.max() < BACKGROUND:
            kind = 'background'
        elif BACKGROUND <= own.max() < FOREGROUND:
            kind, target = 'localization', int(own.argmax())
        elif other.max() >= FOREGROUND:
            kind, target = 'class', int(other.argmax())
        elif own.max() >= FOREGROUND:
            kind = 'duplicate'
        kinds.append(kind)
        targets.append(-1 if target in taken else target)
        taken.add(target)
    return kinds, set(range(len(image.truth))) - taken, targets


def _error_table(truth: Any, images: Sequence[_Image], score: float) -> Table:
    """How often each kind of error occurs, and what AP at IoU 0.5 would gain without it."""
    counts = dict.fromkeys(KINDS, 0)
    corrected: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    never_found: set[int] = set()
    for image in images:
        kinds, missed, targets = _error_kinds(image)
        never_found |= {image.truth[i]['id'] for i in missed}
        sure_kinds, missed_by_sure, _ = _error_kinds(image.from_score(score))
        for kind in [*sure_kinds, *['missed'] * len(missed_by_sure)]:
            if kind in counts:
                counts[kind] += 1
        for box, kind, target in zip(image.boxes, kinds, targets, strict=True):
            plain = {k: box[k] for k in ('image_id', 'category_id', 'bbox', 'score')}
            for others in (boxes for error, boxes in corrected.items() if error != kind):
                others.append(plain)
            if target >= 0:  # other wrong boxes are dropped, such as duplicates
                key = 'bbox' if kind == 'localization' else 'category_id'
                corrected[kind].append({**plain, key: image.truth[target][key]})
    without = [a for a in truth.dataset['annotations'] if a['id'] not in never_found]
    all_found = _coco({**truth.dataset, 'annotations': without})
    before = _ap50(truth, corrected['missed'])
    rows: list[list[str | float | None]] = []
    for kind, words in KINDS.items():
        after = _ap50(all_found if kind == 'missed' else truth, corrected[kind])
        rows.append([kind, counts[kind], max(0.0, after - before), words])
    return Table(['kind', 'count', 'AP50 lost', 'what it is'], rows, [2])


def _ap50(truth: Any, results: Sequence[dict]) -> float:
    """AP at an IoU of 0.5."""
    precision = _evaluate(truth, results, 'bbox', [FOREGROUND]).eval['precision']
    known = precision[precision >= 0]
    return float(known.mean()) if known.size else 0.0


def _pair_boxes(image: _Image) -> _Pairing:
    """Pair boxes with objects: in order of falling score, each takes the free one it fits best."""
    found = _Pairing(image)
    free = np.ones(len(image.truth), bool)
    for i, box in enumerate(image.boxes):
        if image.ignored[i]:
            continue
        overlaps = np.where(free, image.overlaps[i], 0)
        if len(overlaps) and overlaps.max() >= FOREGROUND:
            # on equal IoU, prefer an object of the same class
            same = [a['category_id'] == box['category_id'] for a in image.truth]
            best = int(np.lexsort((same, overlaps))[-1])
            free[best] = False
            found.pairs.append((i, best))
            if same[best]:
                found.right.add(i)
        else:
            found.extra.append(i)
    found.missed.extend(np.flatnonzero(free).tolist())
    return found


def _confusion_matrix(pairings: Sequence[_Pairing], ids: dict[int, str]) -> Matrix:
    """Counts of true classes by those of the boxes paired with them, with extra and missed."""
    place = {number: i for i, number in enumerate(ids)}
    counts = np.zeros((len(ids) + 1, len(ids) + 1), int)
    for pairing in pairings:
        truth = [place[a['category_id']] for a in pairing.image.truth]
        found = [place[b['category_id']] for b in pairing.image.boxes]
        for i, j in pairing.pairs:
            counts[truth[j], found[i]] += 1
        for i in pairing.extra:
            counts[-1, found[i]] += 1
        for j in pairing.missed:
            counts[truth[j], -1] += 1
    return Matrix([*ids.values(), '(extra)'], [*ids.values(), '(missed)'], counts)


def _worst_images(
    dataset: Any, pairings: Sequence[_Pairing], ids: dict[int, str], coco: Any, max_examples: int
) -> list[Example]:
    """Images with the lowest share of right boxes among all boxes and missed objects."""
    places = {dataset.get_data_info(i)['img_id']: i for i in range(len(dataset))}
    rated = []
    for pairing in pairings:
        whole = len(pairing.pairs) + len(pairing.extra) + len(pairing.missed)
        if wrong := whole - len(pairing.right):
            rated.append((len(pairing.right) / whole, -wrong, pairing))
    rated.sort(key=lambda item: item[:2])
    return [
        _example(dataset, places[pairing.image.number], pairing, ids, coco)
        for *_, pairing in rated[:max_examples]
    ]


def _example(
    dataset: Any, index: int, pairing: _Pairing, ids: dict[int, str], coco: Any
) -> Example:
    """A picture with its boxes, and with the outlines of its masks if `coco` is given."""
    image, pixels = pairing.image, read_image(dataset, index)
    height, width = pixels.shape[:2]

    def box(item: dict, kind: str, text: str) -> Box:
        x, y, w, h = item['bbox']
        path = outline(coco.annToMask(item)) if coco and item.get('segmentation') else ''
        return Box(x / width, y / height, w / width, h / height, kind, text, path)

    truth = [
        box(a, 'missed' if i in pairing.missed else 'truth', ids[a['category_id']])
        for i, a in enumerate(image.truth)
    ]
    shown = sorted([i for i, _ in pairing.pairs] + pairing.extra)
    boxes = [image.boxes[i] for i in shown]
    found = [
        box(item, 'right' if i in pairing.right else 'wrong', _describe_box(item, boxes[:n], ids))
        for n, (i, item) in enumerate(zip(shown, boxes, strict=True))
    ][::-1]  # highest score on top
    right = len(pairing.right)
    words = f'{right} right, {len(shown) - right} wrong, {len(pairing.missed)} missed'
    panels = [panel(pixels, 'truth', truth), panel(pixels, 'prediction', found)]
    return Example(dataset.get_data_info(index)['img_path'], words, panels)


def _describe_box(item: dict, surer: Sequence[dict], ids: dict[int, str]) -> str:
    """Label with class and score; empty if a box of higher score has its label in this place."""
    from pycocotools.mask import iou

    if surer and np.max(iou([item['bbox']], [b['bbox'] for b in surer], [0] * len(surer))) > 0.4:
        return ''
    return f'{ids[item["category_id"]]} {item["score"]:.2f}'
