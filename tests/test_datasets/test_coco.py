"""Annotation files with common faults, through mmdet's data set and metric."""

import json
import os
import re
import sys
from contextlib import nullcontext
from copy import deepcopy

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmswinv2 import hosts
from mmswinv2.datasets.coco import get_category_ids, read_coco
from mmswinv2.datasets.coco_masks import count_pixels
from mmswinv2.errors import UserError
from tests.test_tools.conftest import ROOT

HEIGHT, WIDTH = 64, 96
CLASSES = ('circle', 'square')
LOAD = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
]


def boxes():
    """Two boxes on each of four images, as (x, y, width, height)."""
    rng = np.random.default_rng(0)
    return [
        [int(rng.integers(0, WIDTH - 40)), int(rng.integers(0, HEIGHT - 30)), 40, 30]
        for _ in range(8)
    ]


def rectangle(x, y, w, h):
    return [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]


def make():
    """The content of a file without faults."""
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=WIDTH, height=HEIGHT) for i in range(1, 5)],
        annotations=[
            dict(id=n + 1, image_id=n // 2 + 1, category_id=n % 2 + 1, iscrowd=0, bbox=box,
                 area=float(box[2] * box[3]), segmentation=rectangle(*box))
            for n, box in enumerate(boxes())
        ],
        categories=[dict(id=1, name='circle'), dict(id=2, name='square')],
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    for i in range(1, 5):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8))
    return tmp_path


def write(folder, content, name='list.json'):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def dataset(path, classes=CLASSES, pipeline=LOAD, filter_empty_gt=True, **options):
    from mmdet.datasets import CocoDataset

    steps = deepcopy(pipeline)
    for step in steps:
        step['type'] = f'mmdet.{step["type"]}'.replace('mmdet.LoadImageF', 'mmcv.LoadImageF')
    return CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=f'{path.parent}/'),
        metainfo=dict(classes=classes),
        pipeline=steps,
        filter_cfg=dict(filter_empty_gt=filter_empty_gt),
        **options,
    )


def perfect_scores(path, classes=CLASSES, **options):
    """Box and mask AP of predictions equal to the annotations that the data set loads."""
    from mmdet.evaluation import CocoMetric

    data = dataset(path, classes, test_mode=True)
    metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'], **options)
    metric.dataset_meta = data.metainfo
    hosts.check_dataset(data, 'val_dataloader')
    hosts.check_evaluator(type('Evaluator', (), dict(metrics=[metric])), data, 'val_evaluator')
    for i in range(len(data)):
        sample = data[i]
        masks = torch.from_numpy(sample['gt_masks'].to_ndarray().astype(bool))
        for mask, box in zip(masks, sample['gt_bboxes'].tensor.int().tolist(), strict=True):
            if not mask.any():  # the annotation has no mask
                mask[box[1] : box[3], box[0] : box[2]] = True
        keep = torch.ones(len(masks), dtype=torch.bool)
        labels = torch.from_numpy(sample['gt_bboxes_labels'])
        found = dict(bboxes=sample['gt_bboxes'].tensor[keep], labels=labels[keep],
                     scores=torch.ones(int(keep.sum())), masks=masks[keep])  # fmt: skip
        info = dict(img_id=sample['img_id'], ori_shape=sample['ori_shape'], pred_instances=found)
        metric.process({}, [info])
    return metric.evaluate(len(data))


def each(key, value):
    """A change that sets a key of every annotation."""
    return lambda c: [a.update({key: value}) for a in c['annotations']]


def without(*keys, of='annotations'):
    return lambda c: [entry.pop(key) for entry in c[of] for key in keys]


def first(of='annotations', **values):
    return lambda c: c[of][0].update(values)


def mapped(key, function, of='annotations'):
    return lambda c: [entry.update({key: function(entry)}) for entry in c[of]]


def code(runs):
    """Run lengths in pycocotools' compressed text format; also takes negative ones."""
    text = ''
    for i, run in enumerate(runs):
        number, more = run - runs[i - 2] if i > 2 else run, True
        while more:
            digit, number = number & 31, number >> 5
            more = number != (-1 if digit & 16 else 0)
            text += chr(digit + 32 * more + 48)
    return text


def moved(number):
    """A change that adds a number to all ids of images."""

    def change(c):
        mapped('id', lambda i: number + i['id'], 'images')(c)
        mapped('image_id', lambda a: number + a['image_id'])(c)

    return change  # fmt: skip


def some(count, key, function):
    """A change that sets a key of the first annotations."""
    return lambda c: [a.update({key: function(a)}) for a in c['annotations'][:count]]


def runs_of(a, order='F', inside=1, size=(HEIGHT, WIDTH)):
    """The box of an annotation as run lengths, if asked by rows, inverted or of another size."""
    x, y, w, h = a['bbox']
    mask = np.full((HEIGHT, WIDTH), 1 - inside)
    mask[y : y + h, x : x + w] = inside
    values = mask.ravel(order)
    starts = np.flatnonzero(np.diff(values, prepend=0))
    counts = np.diff([0, *starts, values.size]).tolist()
    return dict(size=list(size), counts=counts)


def shares(a):
    return [[v / WIDTH for v in a['segmentation'][0]]]


def centre(a):
    x, y, w, h = a['bbox']
    return [x + w / 2, y + h / 2, w, h]


def corners(a):
    x, y, w, h = a['bbox']
    return [x, y, max(x, 1) + w + 1, max(y, 1) + h + 1]


RUNS = dict(size=[HEIGHT, WIDTH], counts=[0, HEIGHT * WIDTH])
REFUSED = {  # case: (change, words of the error)
    'not JSON': (lambda c: '{"images": [', 'is not JSON, or cut short'),
    'a list': (lambda c: '[1, 2]', 'its content is no JSON object'),
    'too deep': (lambda c: '[' * 100_000, 'is not JSON'),
    'no images': (lambda c: c.pop('images'), 'it needs images, a list'),
    'no categories': (lambda c: c.pop('categories'), 'it needs categories, a list'),
    'images by name': (lambda c: c.update(images={'1': {}}), 'it needs images, a list'),
    'annotations null': (lambda c: c.update(annotations=None), 'it needs annotations, a list'),
    'annotations of numbers': (lambda c: c.update(annotations=[1]), 'it needs annotations'),
    'no height': (without('height', of='images'), r'images\[0\] has no height; .* pixels'),
    'no width': (lambda c: c['images'][2].pop('width'), r'images\[2\] has no width'),
    'height 0': (first('images', height=0), r'images\[0\] has height=0'),
    'height a text': (first('images', height='64px'), r"has height='64px'"),
    'height a share': (first('images', height=0.5), 'has height=0.5'),
    'height beyond measure': (first('images', height=100_000), 'has height=100000'),
    'no file name': (without('file_name', of='images'), r'images\[0\] has no file_name'),
    'file name a number': (first('images', file_name=7), 'has file_name=7'),
    'image id a text': (mapped('id', lambda i: f'-{i["id"]}', 'images'), "has id='-1'"),
    'image id twice': (lambda c: c['images'][3].update(id=1), 'the id 1 stands at several entries '
                       'of images'),
    'category id twice': (lambda c: c['categories'][1].update(id=1), 'several entries of categ'),
    'category id a text': (mapped('id', lambda i: f'{i["id"]}.0', 'categories'), r"has id='1\.0'"),
    'category without name': (without('name', of='categories'), r'categories\[0\] has no name'),
    'category of annotations a text': (each('category_id', '١'), "has category_id='١'"),
    'category not in the file': (first(category_id=7), r'annotations\[0\] has category_id=7, which '
                                 'no entry of categories has; these have 1, 2'),
    'categories counted from 0': (mapped('category_id', lambda a: a['category_id'] - 1),
                                  'has category_id=0'),
    'no category': (without('category_id'), r'annotations\[0\] has no category_id'),
    'no image': (without('image_id'), r'annotations\[0\] has no image_id'),
    'image of annotations a text': (each('image_id', '1' * 20), "has image_id='1111"),
    'images of another file': (mapped('image_id', lambda a: a['image_id'] + 100),
                               '8 of 8 annotations are of an image that is not in images, .* id 1'),
    'no box': (without('bbox'), r'annotations\[0\] has no bbox'),
    'box of three': (first(bbox=[1, 2, 3]), r'annotations\[0\] has bbox=\[1, 2, 3\]; a box is'),
    'box of texts': (first(bbox=['1', '2', '3', '4']), r"has bbox=\['1'"),
    'box of nothing': (first(bbox=[None] * 4), r'has bbox=\[None'),
    'box an object': (first(bbox=dict(x=1)), r"has bbox=\{'x': 1\}"),
    'boxes not finite': (each('bbox', [float('nan')] * 4), '8 of 8 annotations have a box with '
                         'numbers that are not finite'),
    'boxes without end': (each('bbox', [0, 0, float('inf'), 5]), 'not finite'),
    'boxes of no area': (each('bbox', [5, 5, 0, 9]), 'no or negative width or height'),
    'boxes turned round': (each('bbox', [50, 50, -20, -20]), 'no or negative width'),
    'boxes outside': (each('bbox', [WIDTH, 5, 9, 9]), 'have a box outside of their image'),
    'boxes left of it': (each('bbox', [-50, 5, 9, 9]), 'have a box outside of their image'),
    'boxes as shares': (each('bbox', [0.5, 0.5, 0.2, 0.2]), 'smaller than a pixel'),
    'boxes by corners': (lambda c: (c.update(annotations=c['annotations'] * 2),
                                    mapped('bbox', corners)(c)), r'looks like \[x1, y1, x2, y2\]'),
    'crowds alone': (each('iscrowd', 1), '8 of 8 annotations are crowds'),
    'polygon far away': (first(segmentation=[[1e30] * 6]), r'annotation id 1 .* reaches from'),
    'polygon without end': (first(segmentation=[[float('inf')] * 6]), 'reaches from'),
    'polygon flat': (each('segmentation', [1, 2, 3, 4, 5, [6]]),
                     r'holds \[1, 2, 3, 4, 5, \[6\]\]; a'),
    'polygon of pairs': (each('segmentation', [[[1, 2], [3, 4], [5, 6]]]), 'holds ..1, 2'),
    'polygon of texts': (first(segmentation=[['1'] * 6]), "holds .'1'"),
    'polygons of two points': (each('segmentation', [[1, 2, 30, 40]]), '8 of 8 polygons have no '
                               'area, less than three points'),
    'polygons on a line': (each('segmentation', [[1, 1, 2, 2, 3, 3]]), '8 of 8 polygons'),
    'polygons not finite': (each('segmentation', [[float('nan')] * 6]), '8 of 8 polygons'),
    'segmentation a text': (first(segmentation='mask.png'), "is 'mask.png'; a segmentation is"),
    'runs of another size': (first(segmentation=RUNS | {'size': [WIDTH, HEIGHT]}),
                             r'has size=\[96, 64\], and its image is 96x64 pixels, size \[64'),
    'runs of a huge size': (first(segmentation=dict(size=[100_000] * 2, counts=[10**10])),
                            r'has size=\[100000, 100000\]'),
    'runs without size': (first(segmentation=dict(counts=[1])), 'has size=None'),
    'runs too long': (first(segmentation=RUNS | {'counts': [0, 10**9]}), 'that add up to height'),
    'runs too short': (first(segmentation=RUNS | {'counts': [0, 3]}), 'that add up to height'),
    'runs negative': (first(segmentation=RUNS | {'counts': [-1, HEIGHT * WIDTH + 1]}), 'add up'),
    'runs missing': (first(segmentation=dict(size=[HEIGHT, WIDTH])), 'has counts=None'),
    'code of runs damaged': (first(segmentation=RUNS | {'counts': 'no code'}), "has counts='no"),
    'no masks': (without('segmentation'), 'has boxes and no masks .* and the pipeline loads masks'),
    'empty masks': (each('segmentation', []), 'has boxes and no masks'),
    'no annotations': (lambda c: c.update(annotations=[]), 'has 4 images and 0 annotations'),
    'class missing': (lambda c: c['categories'][1].update(name='Square'),
                      r"lacks 1 of the 2 classes \('square'\); it has 'circle', 'Square'\. "
                      r"Set the data set's metainfo=dict\(classes="),
    'file name twice': (lambda c: c['images'][1].update(file_name='1.png'),
                        "2 entries of images have file_name='1.png'"),
    'iscrowd a text': (first(iscrowd='0'), r"annotations\[0\] has iscrowd='0'; it must be 0 or 1"),
    'iscrowd a list': (first(iscrowd=[1]), r'has iscrowd=\[1\]'),
    'iscrowd not a number': (first(iscrowd=float('nan')), 'has iscrowd=nan'),
    'ignore a text': (first(ignore='0'), "has ignore='0'"),
    'box far away': (first(bbox=[5, 5, 1e6, 9]), '1 of 8 annotations have a box far outside'),
    'box beyond measure': (first(bbox=[5, 5, 1e300, 9]), 'have a box far outside'),
    'box of many digits': (first(bbox=[5, 5, 10**400, 9]), 'a number of a bbox is too large'),
    'polygon of many digits': (first(segmentation=[[10**400] * 6]), 'a polygon is too large'),
    'shares and a whole image': (
        lambda c: (each('bbox', [0.5, 0.5, 0.2, 0.2])(c), first(bbox=[0, 0, 1, 1])(c)),
        'smaller than a pixel'),
    'few boxes by corners': (
        lambda c: (c.update(annotations=[c['annotations'][0] | {'id': i, 'bbox': [40, 20, 90, 60]}
                                         for i in range(1, 5)]),), 'looks like'),
    'polygons as shares': (
        mapped('segmentation', lambda a: [[v / 96 for v in a['segmentation'][0]]]),
        '8 of 8 segmentations are elsewhere than the box'),
    'polygons y before x': (
        mapped('segmentation', lambda a: [np.reshape(a['segmentation'][0], (-1, 2))[:, ::-1]
                                          .ravel().tolist()]), 'segmentations are elsewhere'),
    'negative runs in a code': (
        first(segmentation=RUNS | {'counts': code([HEIGHT * WIDTH + 50, -50])}),
        'that add up to height'),
    'negative differences in a code': (
        first(segmentation=RUNS | {'counts': code([9, 7, -9, HEIGHT * WIDTH - 14, 7])}),
        'that add up to height'),
    'crowds of the classes alone': (
        lambda c: (each('iscrowd', 1)(c), c['categories'].append(dict(id=3, name='other')),
                   c['annotations'].append(c['annotations'][0] | dict(
                       id=9, iscrowd=0, category_id=3, bbox=[1, 1, 30, 30],
                       segmentation=rectangle(1, 1, 30, 30)))), '0 annotations .crowds left aside'),
    'image ids negative': (moved(-2), r'images\[0\] has id=-1; id must be a whole number from 0'),
    'image ids from 2**63': (moved(2**63), 'has id=9223372036854775809'),
    'image ids of many digits': (moved(10**400), 'has id=1000'),
    'image of annotations of many digits': (first(image_id=10**400), r'annotations\[0\] has im'),
    'category ids of many digits': (
        lambda c: (first('categories', id=10**400)(c), first(category_id=10**400)(c)),
        r'categories\[0\] has id=1000'),
    'file in two spellings': (lambda c: c['images'][1].update(file_name='./1.png'),
                              "2 entries of images have file_name='1.png'"),
    'file name with NUL': (first('images', file_name='a\0'), 'that can be the path of a file'),
    'file name no Unicode': (first('images', file_name='\ud800'), 'that can be the path of a file'),
    'runs along rows': (mapped('segmentation', lambda a: runs_of(a, 'C')), 'segmentations are'),
    'runs inverted': (mapped('segmentation', lambda a: runs_of(a, inside=0)), '8 of 8 segment'),
    'runs of all': (each('segmentation', RUNS), '8 of 8 segmentations are elsewhere than the box'),
    'runs empty': (each('segmentation', RUNS | {'counts': [HEIGHT * WIDTH]}),
                   'has boxes and no masks'),
    'more than half of the boxes as shares': (some(5, 'bbox', lambda a: [0.5, 1, 0.2, 1]),
                                              '5 of 8 annotations have a box in the first pixel'),
    'class twice': (lambda c: c['categories'].append(dict(id=3, name='square')),
                    "the class 'square' is the name of 2 categories, ids 2, 3"),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'words'), REFUSED.values(), ids=REFUSED)
def test_refused(folder, change, words):
    content = make()
    text = change(content)
    path = write(folder, text if isinstance(text, str) else content)
    before = path.read_bytes()
    with pytest.raises(UserError, match=words) as error:
        dataset(path)
    assert str(path) in str(error.value) and path.read_bytes() == before


def drop(number):
    return lambda c: c['annotations'][number].pop('segmentation')


REPAIRED = {  # case: (change, words of the warning, annotations that are left)
    'good': (lambda c: None, '', 8),
    'id 0': (mapped('id', lambda a: a['id'] - 1), 'the 8 annotations were given new ones', 8),
    'ids repeated': (each('id', 5), 'given new ones', 8),
    'ids of text': (mapped('id', lambda a: str(a['id'])), 'given new ones', 8),
    'no ids': (without('id'), 'given new ones', 8),
    'ids from 2**53': (mapped('id', lambda a: 2**53 + a['id']), 'given new ones', 8),
    'ids from 2**63': (mapped('id', lambda a: 2**63 + a['id']), 'given new ones', 8),
    'id 0 as mmdet converts': (
        lambda c: (mapped('id', lambda a: a['id'] - 1)(c),
                   c.update(info=dict(description='converted by mmdet CocoMetric'))),
        'given new ones', 8),
    'names of files as Windows has them': (
        lambda c: [i.update(file_name='.\\' + i['file_name']) for i in c['images']], '', 8),
    'info a text': (lambda c: c.update(info='my data'), '', 8),
    'info a list': (lambda c: c.update(info=[1]), '', 8),
    'runs with a size of whole floats': (
        mapped('segmentation', lambda a: runs_of(a, size=(float(HEIGHT), float(WIDTH)))), '', 8),
    'area in shares': (some(2, 'area', lambda a: a['area'] / HEIGHT / WIDTH), '2 of 8 annotations '
                       'have no area', 8),
    'area true': (each('area', True), '8 of 8 annotations have no area', 8),
    'runs empty': (first(segmentation=RUNS | {'counts': [HEIGHT * WIDTH]}),
                   '1 of 1 run lengths mark no pixel|1 of 8 annotations have no mask', 8),
    'whole floats': (mapped('image_id', lambda a: float(a['image_id'])), '', 8),
    'as VIA writes them': (
        lambda c: (mapped('image_id', lambda a: str(a['image_id']))(c),
                   mapped('segmentation', lambda a: a['segmentation'][0])(c)), '', 8),
    'all numbers in texts': (
        lambda c: ([i.update(id=f'0{i["id"]}', height=str(HEIGHT)) for i in c['images']],
                   [k.update(id=str(k['id'])) for k in c['categories']],
                   mapped('image_id', lambda a: f'00{a["image_id"]}')(c)), '', 8),
    'no iscrowd': (without('iscrowd'), '8 of 8 annotations have no iscrowd; 0 is taken', 8),
    'no area': (without('area'), '8 of 8 annotations have no area that can be', 8),
    'area 0': (each('area', 0), '8 of 8 annotations have no area', 8),
    'area not finite': (first(area=float('nan')), '1 of 8 annotations have no area', 8),
    'area a text': (first(area='900'), '1 of 8 annotations have no area', 8),
    'other order of categories': (lambda c: c['categories'].reverse(), '', 8),
    'category that no class names': (
        lambda c: c['categories'].extend([dict(id=8, name='x'), dict(id=9, name='x')]), '', 8),
    'box outside': (first(bbox=[500, 5, 9, 9]), '1 of 8 annotations have a box outside', 7),
    'box of no area': (first(bbox=[5, 5, 0, 0]), '1 of 8 annotations have a box of no', 7),
    'box not finite': (first(bbox=[float('nan')] * 4), '1 of 8 .* not finite', 7),
    'image left out': (lambda c: c['images'].pop(), '2 of 8 annotations are of an image that', 6),
    'polygon of two points more': (
        lambda c: c['annotations'][0]['segmentation'].append([1, 2, 3, 4]),
        '1 of 9 polygons have no area', 8),
    'mask missing': (drop(0), '1 of 8 annotations have no mask', 8),
    'every annotation twice': (
        lambda c: c.update(annotations=c['annotations'] + deepcopy(c['annotations'])),
        '8 of 16 annotations stand in the file twice|given new ones', 8),
    'the second of two masks in a box twice': (
        lambda c: c['annotations'].extend(
            c['annotations'][0] | dict(id=i, segmentation=[np.roll(polygon, 2).tolist()])
            for i in (97, 98) for polygon in c['annotations'][0]['segmentation']),
        '1 of 10 annotations stand in the file twice', 9),
    'run lengths twice, with their keys in another order': (
        lambda c: c['annotations'].extend(
            c['annotations'][0] | dict(id=i, segmentation=dict(list(RUNS.items())[::way]),
                                       bbox=[0, 0, WIDTH, HEIGHT], area=HEIGHT * WIDTH)
            for i, way in ((97, 1), (98, -1))),
        '1 of 10 annotations stand in the file twice', 9),
    'a crowd around an object': (
        lambda c: c['annotations'].append(c['annotations'][0] | dict(id=99, iscrowd=1)), '', 9),
    'turned rectangle of CVAT': (
        first(attributes=dict(occluded=False, rotation=30.0), segmentation=[]),
        '1 of 8 annotations (are turned .*of id 1; their|have no mask)', 8),
    'turned, with a polygon': (first(attributes=dict(occluded=False, rotation=30.0)), '', 8),
    'rotation of the user\'s own': (
        first(attributes=dict(rotation=30.0), segmentation=[]),
        '1 of 8 annotations have no mask', 8),
    'every annotation twice, the second with whole numbers as floats': (
        lambda c: c.update(annotations=c['annotations'] + json.loads(
            re.sub(r'(?<=[ \[])(\d+)(?=[,\]])', r'\1.0', json.dumps(c['annotations'])))),
        '8 of 16 annotations stand in the file twice|given new ones', 8),
    'not turned': (each('attributes', dict(occluded=False, rotation=0.0)), '', 8),
    'iscrowd null': (each('iscrowd', None), '8 of 8 annotations have no iscrowd', 8),
    'iscrowd true and false': (each('iscrowd', False), '', 8),
    'area beyond measure': (first(area=1e12), '1 of 8 annotations have no area that can be', 8),
    'areas of images twice as wide and high': (
        some(3, 'area', lambda a: 4 * a['area']), '3 of 8 annotations have no area that can be', 8),
    'area of polygons that overlap': (
        lambda c: c['annotations'][0].update(
            segmentation=[[9, 9, 29, 9, 29, 29, 9, 29]] * 3, bbox=[9, 9, 20, 20], area=1200),
        '', 8),
    'ignored': (first(ignore=1), '', 8),
    'runs': (first(segmentation=RUNS, bbox=[0, 0, WIDTH, HEIGHT], area=HEIGHT * WIDTH), '', 8),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'words', 'left'), REPAIRED.values(), ids=REPAIRED)
def test_repaired(folder, warned, change, words, left):
    content = make()
    change(content)
    path = write(folder, content)
    before = path.read_bytes()
    scores = perfect_scores(path)
    assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == 1.0
    assert all(re.search(words or 'nothing', text) for text in warned)
    assert bool(warned) == bool(words)
    annotations = read_coco(path)['annotations']
    assert all(a['area'] in (1200.0, HEIGHT * WIDTH) for a in annotations)
    ids = {annotation['id'] for annotation in annotations}
    assert len(ids) == len(annotations) == left and min(ids) > 0
    assert all(annotation['area'] > 0 for annotation in annotations)
    assert path.read_bytes() == before


def test_backslashes_in_the_names_of_files(folder):
    """As unpacking an archive of Windows may leave them, in place of folders."""
    content = make()
    for image in content['images']:
        image['file_name'] = 'images\\' + image['file_name']
        (folder / f'{image["id"]}.png').rename(folder / image['file_name'])
    assert perfect_scores(write(folder, content))['coco/segm_mAP'] == 1.0


def test_paths_of_windows_name_semantic_maps_too(folder):
    content = make()
    for image in content['images']:
        image['file_name'] = '.\\' + image['file_name']
    data = dataset(write(folder, content), lazy_init=True)
    data.data_prefix['seg'] = f'{folder}/maps'
    data.full_init()
    info = data.get_data_info(0)
    assert info['img_path'] == f'{folder}/./1.png'
    assert info['seg_map_path'] == f'{folder}/maps/./1.png'


@pytest.mark.parametrize('degrees', [30, 90.0, 135.5, 180, -20, 359])
def test_boxes_around_turned_rectangles(folder, degrees, warned):
    """Against the corners, turned one by one; annotations that stand upright stay as they are."""
    content = make()
    for annotation in content['annotations']:
        annotation.update(attributes=dict(occluded=True, rotation=0.0), segmentation=[])
    turned = content['annotations'][1]
    turned.update(bbox=[20, 12, 30, 8], attributes=dict(occluded=True, rotation=degrees))
    angle = np.deg2rad(degrees)
    corners = np.array([[-15, -4], [15, -4], [15, 4], [-15, 4]])
    corners = corners @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    corners += [35, 16]
    low, high = corners.min(0), corners.max(0)
    read = read_coco(write(folder, content))['annotations']
    assert read[1]['bbox'] == pytest.approx([*low, *(high - low)])
    assert [a['bbox'] for a in read[2:]] == [a['bbox'] for a in content['annotations'][2:]]
    assert ('1 of 8 annotations are turned' in str(warned)) == (degrees != 180)


@pytest.mark.parametrize('key', ['image_id', 'category_id'])
def test_ids_that_no_float_has(folder, key):
    content = make()
    del content['annotations'][:1]
    for entry in content['images' if key == 'image_id' else 'categories']:
        entry['id'] += 2**60
    mapped(key, lambda a: a[key] + 2**60)(content)
    assert perfect_scores(write(folder, content))['coco/bbox_mAP'] == 1.0


@pytest.mark.parametrize('kind', [int, float])
def test_masks_that_differ_by_a_number_of_the_same_hash(folder, kind):
    """Python's hash(-1) is hash(-2), also inside tuples."""
    content = make()
    first = content['annotations'][0]
    x, y, width, height = first['bbox'] = [0, 12, 30, 20]
    for left in (-1, -2):
        corners = [kind(left), y, x + width, y, x + width, y + height, x, y + height]
        content['annotations'].append(first | dict(id=50 - left, segmentation=[corners]))
    del content['annotations'][0]
    assert len(read_coco(write(folder, content))['annotations']) == len(content['annotations'])


def test_polygons_that_are_left_out_leave_the_others_in_order(folder):
    content = make()
    good = content['annotations'][0]['segmentation'][0]
    parts = [[1, 2, 3, 4], good, [5] * 6, [c + 1 for c in good], [c + 0.5 for c in good], [1, 2, 3]]
    content['annotations'][0]['segmentation'] = parts
    read = read_coco(write(folder, content))['annotations']
    assert read[0]['segmentation'] == [parts[1], parts[3], parts[4]]
    assert [a['segmentation'] for a in read[1:]] == [
        a['segmentation'] for a in content['annotations'][1:]
    ]


SUSPECTED = {  # case: (change, words of the warning)
    'boxes as shares': (some(4, 'bbox', lambda a: [0.5, 0.5, 0.2, 0.2]),
                        '4 of 8 annotations have a box in the first pixel of their image, .* id 1'),
    'polygons as shares': (some(4, 'segmentation', shares),
                           '4 of 8 segmentations are elsewhere than the box .* bbox='),
    'boxes by corners': (some(3, 'bbox', corners), '2 of 8 segmentations are elsewhere'),
    'boxes by centre': (some(3, 'bbox', centre), '3 of 8 segmentations are elsewhere'),
    'boxes by corners without masks': (
        lambda c: (without('segmentation')(c), some(3, 'bbox', corners)(c)),
        'annotations have a box that reaches beyond its image, the first of id'),
    'runs inverted': (some(2, 'segmentation', lambda a: runs_of(a, inside=0)),
                      '2 of 8 segmentations are elsewhere'),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'words'), SUSPECTED.values(), ids=SUSPECTED)
def test_suspected(folder, warned, change, words):
    """A file with entries that look wrong is used, with a warning that counts them."""
    content = make()
    change(content)
    assert len(read_coco(write(folder, content))['annotations']) == 8
    assert re.search(words, str(warned))


def test_annotations_of_other_formats_are_scored(folder):
    """mmdet converts them to a COCO file without image names, which must be accepted."""
    from mmdet.evaluation import CocoMetric

    data = dataset(write(folder, make()), pipeline=LOAD[:1], test_mode=True)
    metric = CocoMetric(metric='bbox', outfile_prefix=str(folder / 'scores'))
    metric.dataset_meta = data.metainfo
    for i in range(4):
        info = data.get_data_info(i)
        truth = info['instances']
        found = dict(bboxes=torch.tensor([f['bbox'] for f in truth]).float(),
                     labels=torch.tensor([f['bbox_label'] for f in truth]),
                     scores=torch.ones(len(truth)))  # fmt: skip
        sample = dict(img_id=info['img_id'], ori_shape=(HEIGHT, WIDTH), instances=truth)
        metric.process({}, [sample | dict(pred_instances=found)])
    assert metric.evaluate(4)['coco/bbox_mAP'] == 1.0
    with pytest.raises(UserError, match='4 entries of images have file_name='):
        dataset(folder / 'scores.gt.json')


def test_expressions_are_read_as_they_are(folder):
    from mmdet.datasets import MDETRStyleRefCocoDataset
    from mmdet.evaluation import gRefCOCOMetric

    words = dict(file_name='1.png', width=WIDTH, height=HEIGHT, dataset_name='grefcoco')
    content = dict(
        images=[dict(words, id=0, caption='the circle'), dict(words, id=1, caption='the cat')],
        annotations=[dict(id=0, image_id=0, category_id=1, bbox=[5, 5, 20, 20]),
                     dict(id=1, image_id=1, category_id=-1, bbox=[0, 0, 0, 0])],
        categories=[dict(id=1, name='object')],
    )  # fmt: skip
    path = write(folder, content)
    data = MDETRStyleRefCocoDataset(
        ann_file=str(path), data_prefix=dict(img=f'{folder}/'), pipeline=[]
    )
    assert [data[i]['text'] for i in (0, 1)] == ['the circle', 'the cat']
    assert gRefCOCOMetric(ann_file=str(path)).coco.loadAnns(1) == content['annotations'][1:]


def test_pipe(folder):
    """To read it would wait for ever."""
    os.mkfifo(folder / 'pipe.json')
    with pytest.raises(UserError, match='pipe.json is a pipe or a device'):
        read_coco(folder / 'pipe.json')


@pytest.mark.parametrize('kind', ['CocoDataset', 'CocoPanopticDataset'])
def test_a_file_that_is_not_named(folder, kind):
    from mmdet import datasets

    with pytest.raises(UserError, match='a data set or metric of COCO has no ann_file; set it to'):
        getattr(datasets, kind)(data_root=str(folder), data_prefix=dict(img=''), pipeline=[])


def test_polygons_without_pycocotools(folder, monkeypatch):
    """As beside mmpretrain, which does not need it."""
    monkeypatch.setitem(sys.modules, 'pycocotools.mask', None)
    content = make()
    found = read_coco(write(folder, content))['annotations']
    assert [a['segmentation'] for a in found] == [rectangle(*box) for box in boxes()]
    content['annotations'][0]['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * WIDTH])
    with pytest.raises(UserError, match='list.json has run lengths, .*pip install pycocotools'):
        read_coco(write(folder, content))


def test_areas_are_those_of_polygons(folder):
    content = make()
    triangle = [[0.0, 0.0, 30.0, 0.0, 0.0, 20.0], [50.0, 50.0, 50.0, 54.0, 54.0, 54.0]]
    content['annotations'][0].update(segmentation=triangle, bbox=[0, 0, 54, 54])
    content['annotations'][1].pop('segmentation')
    without('area')(content)
    areas = [a['area'] for a in read_coco(write(folder, content))['annotations']]
    assert areas[0] == 300 + 8 and areas[1:] == [1200.0] * 7


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
def test_encodings(folder, encoding):
    path = folder / 'list.json'
    path.write_bytes(json.dumps(make()).encode(encoding))
    assert len(dataset(path)) == 4


def test_text_that_is_not_unicode(folder):
    path = folder / 'list.json'
    text = json.dumps(make(), ensure_ascii=False).replace(
        'circle', 'Stra\N{LATIN SMALL LETTER U}ße'
    )
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(UserError, match=r'list.json is not in UTF-8 .*; save it as UTF-8'):
        dataset(path)


@pytest.mark.parametrize('classes', [('circle', 'square'), ('square', 'circle'), ('square',)])
def test_labels_go_by_name(folder, classes):
    content = make()
    content['categories'].reverse()
    data = dataset(write(folder, content), classes)
    names = {1: 'circle', 2: 'square'}
    for image in (data.get_data_info(i) for i in range(4)):
        truth = [a for a in content['annotations'] if a['image_id'] == image['img_id']]
        wanted = [classes.index(names[a['category_id']]) for a in truth
                  if names[a['category_id']] in classes]  # fmt: skip
        assert [i['bbox_label'] for i in image['instances']] == wanted


def scores_of_truth(metric, data, *found):
    """The scores of `metric` where the objects of some classes, and no others, are found."""
    metric.dataset_meta, classes = data.metainfo, data.metainfo['classes']
    for image in (data.get_data_info(i) for i in range(4)):
        those = [i for i in image['instances'] if classes[i['bbox_label']] in found]
        predicted = dict(bboxes=torch.tensor([i['bbox'] for i in those], dtype=torch.float),
                         labels=torch.tensor([i['bbox_label'] for i in those]),
                         scores=torch.ones(len(those)))  # fmt: skip
        info = dict(img_id=image['img_id'], ori_shape=(HEIGHT, WIDTH), pred_instances=predicted)
        metric.process({}, [info])
    return metric.evaluate(4)


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('classes', [CLASSES, CLASSES[::-1]])
def test_scores_of_a_class_go_by_name(folder, classes, several):
    """Only circles are found: circles must score 1 and squares 0, in any order of classes."""
    from mmdet.evaluation import CocoMetric

    path = write(folder, make())
    data = dataset(path, classes, test_mode=True)
    metric = CocoMetric(ann_file=str(path), metric='bbox', classwise=True, use_mp_eval=several)
    scores = scores_of_truth(metric, data, 'circle')
    assert scores['coco/circle_precision'] == 1 and scores['coco/square_precision'] == 0


@pytest.mark.parametrize('classes', [CLASSES, CLASSES[::-1]])
def test_the_metric_of_the_fork_is_held_to_the_same_rules(folder, classes):
    module = pytest.importorskip('mmdet.evaluation.metrics.faster_coco_metric')
    content = make()
    content['categories'].reverse()
    path = write(folder, content)
    data = dataset(path, classes, test_mode=True)
    metric = module.FasterCocoMetric(ann_file=str(path), metric='bbox', classwise=True)
    evaluator = type('Evaluator', (), dict(metrics=[metric]))
    hosts.check_evaluator(evaluator, data, 'val_evaluator')
    scores = scores_of_truth(metric, data, 'circle')
    assert scores['coco/circle_precision'] == 1 and scores['coco/square_precision'] == 0
    metric.proposal_nums = [1, 10]
    with pytest.raises(UserError, match='val_evaluator: FasterCocoMetric has proposal_nums='):
        hosts.check_evaluator(evaluator, data, 'val_evaluator')


def test_masks_are_not_wanted_where_none_are_loaded(folder):
    content = make()
    without('segmentation')(content)
    boxes_alone = [LOAD[0], dict(type='LoadAnnotations', with_bbox=True)]
    assert len(dataset(write(folder, content), pipeline=boxes_alone)[0]['gt_bboxes']) == 2


@pytest.mark.parametrize('polygons', [0, 1])
def test_run_lengths_where_polygons_alone_are_taken(folder, warned, polygons):
    content = make()
    for annotation in content['annotations'][polygons:]:
        code = coco_mask.frPyObjects(annotation['segmentation'], HEIGHT, WIDTH)[0]
        annotation['segmentation'] = dict(code, counts=code['counts'].decode())
    path = write(folder, content)
    pipeline = [LOAD[0], dict(LOAD[1], poly2mask=False)]
    words = f'{8 - polygons} of 8 masks are run lengths, and poly2mask=False'
    assert len(dataset(path, pipeline=pipeline, test_mode=True)[0]['gt_masks']) == 2
    assert words not in str(warned)
    if polygons:
        dataset(path, pipeline=pipeline)
        assert words in str(warned)
    else:
        with pytest.raises(UserError, match=words):
            dataset(path, pipeline=pipeline)


def test_scores_of_masks_want_masks(folder):
    from mmdet.evaluation import CocoMetric

    content = make()
    without('segmentation')(content)
    path = write(folder, content)
    data = dataset(path, pipeline=LOAD[:1], test_mode=True)
    metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'])
    evaluator = type('Evaluator', (), dict(metrics=[metric]))
    with pytest.raises(UserError, match='has boxes and no masks .* metric=.bbox'):
        hosts.check_evaluator(evaluator, data, 'val_evaluator')


def test_evaluator_of_other_images(folder):
    from mmdet.evaluation import CocoMetric

    content = make()
    path = write(folder, content)
    mapped('id', lambda i: i['id'] + 2, 'images')(content)
    content['annotations'] = content['annotations'][4:]
    metric = CocoMetric(ann_file=str(write(folder, content, 'other.json')))
    evaluator = type('Evaluator', (), dict(metrics=[metric]))
    words = r'val_evaluator: .*other.json lacks 2 of the 4 images of the data set, .* image_id=1'
    with pytest.raises(UserError, match=words):
        hosts.check_evaluator(evaluator, dataset(path, test_mode=True), 'val_evaluator')


def test_images_in_a_data_base_are_not_looked_for_on_the_disk(folder):
    path = write(folder, make())
    data_base = dict(LOAD[0], backend_args=dict(backend='lmdb', db_path='a.lmdb'))
    for image in folder.glob('*.png'):
        image.unlink()
    hosts.check_dataset(dataset(path, pipeline=[data_base, LOAD[1]]), 'train_dataloader')
    with pytest.raises(UserError, match='cannot read the image .*1.png: it does not exist'):
        hosts.check_dataset(dataset(path), 'train_dataloader')


@pytest.mark.parametrize('late', [False, True], ids=['before the run', 'at loading'])
@pytest.mark.parametrize(
    ('size', 'words'),
    [((HEIGHT, WIDTH), 'The two are swapped: .* EXIF'), ((50, 40), 'annotate the images you load')],
    ids=['swapped', 'of a copy'],
)
def test_images_of_another_size(folder, late, size, words):
    content = make()
    content['images'][1].update(width=size[0], height=size[1])
    content['annotations'] = content['annotations'][:2] + content['annotations'][4:]
    data = dataset(write(folder, content), filter_empty_gt=False)
    words = rf'2.png has 96x64 pixels, and its annotations are for {size[0]}x{size[1]}.*{words}'
    with pytest.raises(UserError, match=words):
        data[1] if late else hosts.check_dataset(data, 'train_dataloader')


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('shown', [True, False])
def test_exif_orientation(folder, orientation, shown):
    """Annotations of a rotated photo fit the displayed image, or the stored one if loaded so."""
    content = make()
    height, width = (WIDTH, HEIGHT) if orientation > 4 and shown else (HEIGHT, WIDTH)
    for image in content['images']:
        exif = Image.Exif()
        exif[274] = orientation
        image.update(width=width, height=height, file_name=f'{image["id"]}.jpg')
        Image.new('RGB', (WIDTH, HEIGHT)).save(folder / image['file_name'], exif=exif)
    each('bbox', [5, 5, 20, 20])(content)
    each('segmentation', rectangle(5, 5, 20, 20))(content)
    path = write(folder, content)
    color_type = 'color' if shown else 'color_ignore_orientation'
    for good in (True, False):
        if not good and orientation < 5:
            continue
        kind = (
            color_type if good else {'color': 'color_ignore_orientation'}.get(color_type, 'color')
        )
        data = dataset(path, pipeline=[LOAD[0] | dict(color_type=kind), LOAD[1]])
        if good:
            hosts.check_dataset(data, 'train_dataloader')
            assert data[0]['img'].shape[:2] == (height, width)
            continue
        with pytest.raises(UserError, match='EXIF'):
            hosts.check_dataset(data, 'train_dataloader')
        with pytest.raises(UserError, match='EXIF'):
            data[0]


@pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|det)')
@pytest.mark.parametrize('number', [1, 3])
@pytest.mark.parametrize('part', ['bbox_head', 'mask_head'])
def test_heads_of_another_number_of_classes(folder, part, number):
    from mmdet.registry import MODELS

    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    hosts.use_registries(cfg)
    heads = cfg.model.roi_head
    heads.bbox_head.num_classes = heads.mask_head.num_classes = 2
    data = dataset(write(folder, make()))
    hosts.check_dataset(data, 'val_dataloader', MODELS.build(cfg.model))
    heads[part].num_classes = number
    model = MODELS.build(cfg.model)
    words = f'model.roi_head.{part} has num_classes={number}, .* of val_dataloader has 2 classes'
    with pytest.raises(UserError, match=words):
        hosts.check_dataset(data, 'val_dataloader', model)
    if number == 3:  # training allows more classes than the data has
        hosts.check_dataset(data, 'train_dataloader', model)


def test_codes_of_runs():
    """Number of pixels from pycocotools' codes of random masks with long and short runs."""
    rng = np.random.default_rng(0)
    codes, sizes = [], []
    for _ in range(50):
        height, width = rng.integers(1, 300, 2)
        mask = (rng.random((height, width)) < rng.choice([0, 0.001, 0.5, 1])).astype(np.uint8)
        mask[: height // 3] = rng.integers(2)
        codes.append(coco_mask.encode(np.asfortranarray(mask))['counts'].decode())
        sizes.append(height * width)
    assert list(map(count_pixels, codes)) == sizes
    runs = coco_mask.frPyObjects(dict(size=[5, 6], counts=[3, 9, 1, 2, 15]), 5, 6)
    assert code([3, 9, 1, 2, 15]) == runs['counts'].decode()
    for text in ('', '\x01', 'o', 'ooooooooo0'):
        assert count_pixels(text) == -1


def test_ids_in_the_order_of_names():
    categories = [dict(id=i, name=name) for i, name in ((7, 'a'), (3, 'b'), (5, 'c'))]
    assert get_category_ids('file', categories, ('c', 'a')) == [5, 7]


def metric_of(path, **options):
    from mmdet.evaluation import CocoMetric

    return type('Evaluator', (), dict(metrics=[CocoMetric(ann_file=path and str(path), **options)]))


def test_evaluator_of_another_file_with_the_same_ids(folder):
    content = make()
    path = write(folder, content)
    mapped('file_name', lambda i: f'other_{i["file_name"]}', 'images')(content)
    other = metric_of(write(folder, content, 'other.json'))
    with pytest.raises(UserError, match=r'image_id=1 is other_1.png there and 1.png in the data'):
        hosts.check_evaluator(other, dataset(path, test_mode=True), 'val_evaluator')


RESIZE, BOXES = dict(type='Resize', scale_factor=0.5), dict(type='LoadAnnotations', with_bbox=True)
SCORED = {  # case: (steps between loading and packing, words of the error)
    'as in the file': ([RESIZE, BOXES], ''),
    'not resized': ([BOXES, RESIZE | dict(scale_factor=1.0)], ''),
    'resized': ([BOXES, RESIZE], 'moves; put LoadAnnotations after Resize'),
    'none': ([RESIZE], 'does not load; add LoadAnnotations after Resize'),
}


@pytest.mark.parametrize('kind', ['VOCMetric', 'FasterCocoMetric'])
@pytest.mark.parametrize(('steps', 'words'), SCORED.values(), ids=SCORED)
def test_boxes_of_samples_are_scored_as_in_the_file(folder, steps, words, kind):
    from mmdet.registry import METRICS

    if METRICS.get(kind) is None:
        pytest.skip('a metric of the fork')
    steps = [LOAD[0], *steps, dict(type='PackDetInputs')]
    data = dataset(write(folder, make()), pipeline=steps, test_mode=True)
    evaluator = type('Evaluator', (), dict(metrics=[METRICS.build(dict(type=kind))]))
    told = f'test_evaluator: {kind} scores the boxes of the samples, which the pipeline {words}'
    with pytest.raises(UserError, match=told) if words else nullcontext():
        hosts.check_evaluator(evaluator, data, 'test_evaluator')


@pytest.mark.parametrize(
    ('given', 'used'),
    [((0.5, 0.75), [0.5, 0.75]), (1, [1.0]), (0.5, [0.5]), ([0.3], [0.3]), (50, None), ((), None)],
)
def test_thresholds_of_pascal_voc(folder, given, used):
    """mmdet asserts that they are a list, after all images."""
    from mmdet.evaluation import VOCMetric

    steps = [*LOAD, dict(type='PackDetInputs')]
    data, metric = dataset(write(folder, make()), pipeline=steps, test_mode=True), VOCMetric(given)
    evaluator = type('Evaluator', (), dict(metrics=[metric]))
    with nullcontext() if used else pytest.raises(UserError, match='VOCMetric has iou_thrs='):
        hosts.check_evaluator(evaluator, data, 'test_evaluator')
        assert metric.iou_thrs == used


OPTIONS = {
    'numbers': (dict(proposal_nums=[100]), r'proposal_nums=\[100\]; there must be three'),
    'without 100': (
        dict(proposal_nums=[1, 10, 50]),
        r'proposal_nums=\[1, 10, 50\].* one of them 100',
    ),
    'threshold': (dict(iou_thrs=50), 'iou_thrs=50; it is a number above 0, up to 1'),
    'thresholds': (dict(iou_thrs=[]), r'iou_thrs=\[\]'),
    'text': (dict(iou_thrs='all'), "iou_thrs='all'"),
    'classwise': (dict(iou_thrs=[0.5, 0.75], classwise=True), 'classwise=True and 2 iou_thrs'),
    'item': (dict(metric_items=['mAP', 'foo']), r"metric_items=\['mAP', 'foo'\]; it is a list of"),
    'one item': (dict(metric_items='mAP'), "metric_items='mAP'; it is a list of some of mAP, "),
}


@pytest.mark.parametrize(('options', 'words'), OPTIONS.values(), ids=OPTIONS)
def test_options_of_scores_that_would_fail_at_the_end(folder, options, words):
    path = write(folder, make())
    with pytest.raises(UserError, match=f'val_evaluator: CocoMetric has {words}'):
        hosts.check_evaluator(
            metric_of(path, **options), dataset(path, test_mode=True), 'val_evaluator'
        )


@pytest.mark.parametrize('options', [
    dict(iou_thrs=0.5), dict(iou_thrs=[0.5, 0.75]), dict(metric_items=['mAP_50', 'AR@300']),
    dict(proposal_nums=(10, 100, 300, 1000), classwise=True), dict(metric='proposal'),
    dict(proposal_nums=[300], use_mp_eval=True),  # as V3Det has it
])  # fmt: skip
def test_options_of_scores_that_do_not_fail(folder, options):
    path = write(folder, make())
    data, evaluator = dataset(path, test_mode=True), metric_of(path, **options)
    hosts.check_evaluator(evaluator, data, 'val_evaluator')
    scores = scores_of_truth(*evaluator.metrics, data, *CLASSES)
    assert scores.get('coco/bbox_mAP_50', 1) == 1 and all(np.isfinite(list(scores.values())))


@pytest.mark.parametrize(('meta', 'words'), [
    (dict(palette=[(1, 2, 3)] * 2), r'differ in palette, .*; give .* name in ignore_keys of Conc'),
    (dict(of_one=None), r'differ in of_one, .*; give .* name in ignore_keys of ConcatDataset'),
    (dict(classes=('square', 'circle')), r'differ in classes, .*; give all the same metainfo=dict'),
])  # fmt: skip
def test_scores_of_data_sets_with_several_metainfo(folder, meta, words):
    from mmdet.datasets import ConcatDataset

    path = write(folder, make())
    one, other = dataset(path, test_mode=True), dataset(path, test_mode=True)
    other._metainfo.update(meta)
    with pytest.raises(UserError, match=f'test_evaluator: the data sets of ConcatDataset {words}'):
        hosts.check_evaluator(metric_of(path), ConcatDataset([other, one]), 'test_evaluator')


@pytest.mark.parametrize('own_file', [False, True])
def test_images_of_two_data_sets_with_the_same_ids(folder, own_file):
    from mmdet.datasets import ConcatDataset
    from mmengine.dataset import RepeatDataset

    path, other = write(folder, make()), folder / 'other'
    other.mkdir()
    both = [dataset(path, test_mode=True), dataset(write(other, make()), test_mode=True)]
    evaluator = metric_of(path if own_file else None)
    words = r'val_evaluator: .*/1.png and .*/other/1.png of the data set both have image_id=1, '
    with pytest.raises(UserError, match=words):
        hosts.check_evaluator(evaluator, ConcatDataset(both), 'val_evaluator')
    # one folder in two spellings
    second, own = dataset(path, test_mode=True), both[0].get_data_info
    second.get_data_info = lambda i: own(i) | dict(img_path=f'{folder}/./{i + 1}.png')
    for twice in (ConcatDataset([both[0], second]), RepeatDataset(both[0], 2)):
        words = r'1.png \(image_id=1\) stands in the data set twice, '
        with pytest.raises(UserError, match=words) if own_file else nullcontext():
            hosts.check_evaluator(evaluator, twice, 'val_evaluator')
    evaluator.metrics[0].format_only = True
    hosts.check_evaluator(evaluator, ConcatDataset(both), 'val_evaluator')
    # files of results are of the images of the annotations all the same
    few = make()
    few['images'] = few['images'][:1]
    few['annotations'] = [a for a in few['annotations'] if a['image_id'] == 1]
    to_file = metric_of(write(other, few, 'few.json'), format_only=True, outfile_prefix='out')
    with pytest.raises(UserError, match='few.json lacks .* images of the data set'):
        hosts.check_evaluator(to_file, both[0], 'val_evaluator')


def test_evaluator_of_more_images_scores_those_that_are_loaded(folder, warned):
    path = write(folder, make())
    evaluator = metric_of(path)
    data = dataset(path, test_mode=True, indices=2)
    hosts.check_evaluator(evaluator, data, 'val_evaluator')
    assert evaluator.metrics[0].img_ids == [1, 2]
    assert 'annotations on 2 images that the data set does not load' in str(warned)


@pytest.mark.parametrize('test_mode', [True, False])
def test_images_without_objects_that_are_left_out_are_told(folder, warned, test_mode):
    """A data set without test_mode filters them, so that false alarms on them would not count."""
    content = make()
    content['annotations'] = content['annotations'][:6]
    path = write(folder, content)
    data = dataset(path, test_mode=test_mode)
    hosts.check_evaluator(metric_of(path), data, 'val_evaluator')
    told = 'on 0 images that the data set does not load; scores are those of the other 3. 1 more'
    assert (told in str(warned)) is (not test_mode)


def test_evaluator_with_nothing_to_score(folder):
    content = make()
    path = write(folder, content)
    content['annotations'] = []
    empty = write(folder, content, 'empty.json')
    with pytest.raises(UserError, match='there is nothing to score'):
        hosts.check_evaluator(metric_of(empty), dataset(path, test_mode=True), 'val_evaluator')
    outs = dict(format_only=True, outfile_prefix=str(folder / 'out'))
    to_file = metric_of(empty, metric=['bbox', 'segm'], **outs)  # as for COCO's test-dev
    hosts.check_evaluator(to_file, dataset(path, test_mode=True), 'val_evaluator')


def test_boxes_without_masks_count_in_scores_of_boxes(folder):
    """A detector that misses all boxes without a mask has half of the box AP."""
    from mmdet.evaluation import CocoMetric

    content = make()
    for annotation in content['annotations'][4:]:
        annotation.pop('segmentation')
    path = write(folder, content)
    data = dataset(path, pipeline=LOAD[:1], test_mode=True)
    metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'])
    metric.dataset_meta = data.metainfo
    for i in range(4):
        info = data.get_data_info(i)
        found = info['instances'] if i < 2 else []
        masks = np.zeros((len(found), HEIGHT, WIDTH), bool)
        for mask, instance in zip(masks, found, strict=True):
            x1, y1, x2, y2 = instance['bbox']
            mask[y1:y2, x1:x2] = True
        pred = dict(bboxes=torch.tensor([f['bbox'] for f in found]).float().reshape(-1, 4),
                    labels=torch.tensor([f['bbox_label'] for f in found]).long(),
                    scores=torch.ones(len(found)), masks=torch.from_numpy(masks))  # fmt: skip
        shape = (HEIGHT, WIDTH)
        metric.process({}, [dict(img_id=info['img_id'], ori_shape=shape, pred_instances=pred)])
    scores = metric.evaluate(4)
    assert scores['coco/bbox_mAP'] == pytest.approx(0.5, abs=0.01)
    assert scores['coco/segm_mAP'] == 1.0


def test_images_without_annotations_may_be_background(folder, warned):
    content = make()
    content['annotations'] = []
    data = dataset(write(folder, content), filter_empty_gt=False)
    assert len(data) == 4 and 'they are background' in str(warned)


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        (np.full((HEIGHT, WIDTH), 9, np.uint8), 'has the value 9, and the semantic head num_cl'),
        (np.zeros((9, 9), np.uint8), r'map \S+: the image \S+ has 96x64 .* are for 9x9;'),
    ],
)
def test_semantic_maps(folder, labels, words):
    for i in range(1, 5):
        cv2.imwrite(str(folder / f'{i}.png'), np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8))
        (folder / 'maps').mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f'maps/{i}.png'), labels)
    steps = [LOAD[0], LOAD[1] | dict(with_seg=True)]
    data = dataset(write(folder, make()), pipeline=steps)
    for i in range(4):
        info = data.get_data_info(i)
        info['seg_map_path'] = str(folder / f'maps/{i + 1}.png')
        data.pipeline.transforms[1].semantic_classes = 4
        with pytest.raises(UserError, match=words):
            data.pipeline(info)


def test_images_under_the_key_of_another_host(folder):
    from mmdet.datasets import CocoDataset

    path = write(folder, make())
    prefix = dict(img_path=f'{folder}/')
    with pytest.raises(UserError, match='data_prefix=.*img_path.* of CocoDataset has no img, the'):
        CocoDataset(ann_file=str(path), data_prefix=prefix, metainfo=dict(classes=CLASSES))


def test_classes_that_are_one_text(folder):
    with pytest.raises(UserError, match="classes must be a list or tuple of names, got 'circle'"):
        dataset(write(folder, make()), classes='circle')
    with pytest.raises(UserError, match="classes has 'circle' twice"):
        dataset(write(folder, make()), classes=('circle', 'circle'))
