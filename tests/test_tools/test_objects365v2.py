import json
import sys

import cv2
import numpy as np
import pytest
from mmdet.datasets import Objects365V2Dataset
from mmengine.registry import DefaultScope

from tests.tool_server import run_program

TOOL = 'dataset_converters/objects365v2.py'
CLASSES = Objects365V2Dataset.METAINFO['classes']
WIDTH, HEIGHT = 60, 40


def annotation(number, image, box, area=None, category=1, **more):
    area = box[2] * box[3] if area is None else area
    return dict(
        id=number, image_id=image, bbox=box, area=area, category_id=category, iscrowd=0, **more
    )


ANNOTATIONS = [
    annotation(1, 1, [5, 5, 20, 10], category=365),
    annotation(2, 1, [50, 30, 30, 30], isfake=0),  # partly outside
    annotation(3, 1, [5, 5, 20, 10], area=0),
    annotation(4, 1, [5, 5, 0.5, 10]),
    annotation(5, 1, [60, 5, 20, 10]),
    annotation(6, 1, [5, -10, 20, 10]),
    annotation(7, 2, [5, 5, 20, 10]),  # its image is not on disk
    annotation(8, 3, [0, 0, 60, 40], category=2),
    annotation(9, 3, [0, 0, 60, 40], category=366),
    annotation(10, 99, [0, 0, 60, 40]),
]
IMAGES = [
    dict(id=1, file_name='images/v1/patch0/objects365_v1_00000001.jpg'),
    dict(id=2, file_name='images/v2/patch16/objects365_v2_00908726.jpg'),
    dict(id=3, file_name='images/v2/patch50/objects365_v2_00000003.jpg'),
    dict(id=4, file_name='images/v2/patch50/objects365_v2_00000004.jpg'),  # in the other split
]


@pytest.fixture
def root(tmp_path):
    """A data set of four images in Objects365's layout, one image missing."""
    (tmp_path / 'annotations').mkdir()
    content = dict(
        images=[dict(image, height=HEIGHT, width=WIDTH) for image in IMAGES[:3]],
        annotations=ANNOTATIONS,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)],
    )
    (tmp_path / 'annotations/zhiyuan_objv2_train.json').write_text(json.dumps(content))
    content['images'] = [dict(IMAGES[3], height=HEIGHT, width=WIDTH)]
    content['annotations'] = [annotation(1, 4, [5, 5, 20, 10])]
    (tmp_path / 'annotations/zhiyuan_objv2_val.json').write_text(json.dumps(content))
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for split, images in (('train', (0, 2)), ('val', (3,))):
        for index in images:
            path = tmp_path / split / '/'.join(IMAGES[index]['file_name'].split('/')[-2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
    return tmp_path


def dataset(root, split, suffix):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Objects365V2Dataset(
            data_root=str(root),
            ann_file=f'annotations/zhiyuan_objv2_{split}{suffix}.json',
            data_prefix=dict(img=f'{split}/'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)],
        )


# in its own process: here, mmswinv2 may already have patched mmdet's reading of annotations
MMDET_ALONE = """
import json, sys
from mmdet.datasets import Objects365V2Dataset
root, split = sys.argv[1:]
data = Objects365V2Dataset(
    data_root=root,
    ann_file=f'annotations/zhiyuan_objv2_{split}.json',
    data_prefix=dict(img=f'{split}/'),
    pipeline=[],
)
found = {info['img_path']: info['instances'] for info in map(data.get_data_info, range(len(data)))}
print('found', json.dumps(found))
"""


def found_by_mmdet_alone(root, split):
    """Path of an image to the objects that mmdet alone reads for it."""
    command = [sys.executable, '-W', 'ignore', '-c', MMDET_ALONE, str(root), split]
    done = run_program(command).succeeded()
    return json.loads(done.stdout.partition('found ')[2])


@pytest.mark.slow
def test_clean_annotations_are_what_mmdet_reads(tool, root):
    originals = {path: path.read_bytes() for path in (root / 'annotations').iterdir()}
    done = tool(TOOL, root).succeeded()
    for path, content in originals.items():
        assert path.read_bytes() == content

    for split, kept in (('train', [1, 2, 8]), ('val', [1])):
        clean = dataset(root, split, '_clean')
        content = json.loads((root / f'annotations/zhiyuan_objv2_{split}_clean.json').read_text())
        assert [a['id'] for a in content['annotations']] == kept
        assert len(content['categories']) == 365
        # mmdet alone reads the same objects from the original file, for existing images
        there = found_by_mmdet_alone(root, split)
        assert len(clean) == len(content['images'])
        for index in range(len(clean)):
            info = clean.get_data_info(index)
            assert info['instances'] == there[info['img_path']]
            assert info['instances']
            assert clean[index]['img'].shape == (HEIGHT, WIDTH, 3)

    content = json.loads((root / 'annotations/zhiyuan_objv2_train_clean.json').read_text())
    assert content['annotations'][1] == ANNOTATIONS[1]  # every field is kept
    listed = (root / 'annotations/zhiyuan_objv2_train_clean.txt').read_text().splitlines()
    assert listed[0] == 'image patch16/objects365_v2_00908726.jpg: it is not on the disk'
    assert len(listed) == 8
    for line in ('2 of 3 images kept', '3 of 10 annotations kept', '1 images that are not',
                 '2 annotations: its image is left out', '2 annotations: it has no area',
                 '2 annotations: its box is outside', '1 annotations: its category'):  # fmt: skip
        assert line in done.stdout
    assert len(list((root / 'annotations').iterdir())) == 6  # no partial files


def test_one_split(tool, root):
    (root / 'annotations/zhiyuan_objv2_train.json').unlink()
    path = root / 'annotations/zhiyuan_objv2_val.json'
    of_windows = json.dumps(IMAGES[3]['file_name'].replace('/', '\\'))
    path.write_text(path.read_text().replace(json.dumps(IMAGES[3]['file_name']), of_windows))
    tool(TOOL, root, '--splits', 'val').succeeded()
    content = json.loads(path.with_stem(f'{path.stem}_clean').read_text())
    assert [image['file_name'] for image in content['images']] == [IMAGES[3]['file_name']]


def test_numbers_that_are_not_finite(tool, root):
    """mmdet alone would train with such annotations."""
    nan = float('nan')
    broken = [annotation(11, 3, [nan, 0, 60, 40], area=9), annotation(12, 3, [0, 0, 60, 40], nan)]
    change(root, annotations=[*ANNOTATIONS, *broken])
    done = tool(TOOL, root, '--splits', 'train')
    assert '2 annotations: its box or area is no finite number' in done.stdout
    content = json.loads((root / 'annotations/zhiyuan_objv2_train_clean.json').read_text())
    assert [a['id'] for a in content['annotations']] == [1, 2, 8]


def change(root, **values):
    path = root / 'annotations/zhiyuan_objv2_train.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def move(root):
    (root / 'train').rename(root / 'elsewhere')
    (root / 'train/images').mkdir(parents=True)
    (root / 'elsewhere').rename(root / 'train/images/v1')


@pytest.mark.parametrize(
    'harm, words',
    [
        (move, 'train/patch0, patch1, ...'),
        (lambda root: (root / 'annotations/zhiyuan_objv2_train.json').unlink(), 'v2_train.json'),
        (
            lambda root: (root / 'annotations/zhiyuan_objv2_train.json').write_text('{"images": ['),
            'is not JSON, or cut short',
        ),
        (lambda root: change(root, annotations=None), 'is no COCO annotation file'),
        (lambda root: change(root, categories=[dict(id=1, name='Person')]), 'lacks 364 of the 365'),
        (
            lambda root: change(root, images=[dict(id=1, file_name='p/no.jpg', height=9, width=9)]),
            'none of the images in',
        ),
        (lambda root: change(root, annotations=[dict(id=1, image_id=1)]), 'has no category_id'),
        (lambda root: change(root, categories=[dict(id=1)]), 'categories[0] has no name'),
        (
            lambda root: change(root, images=[dict(id=1, file_name=5, height=9, width=9)]),
            'has file_name=5',
        ),
        (
            lambda root: (root / 'annotations/zhiyuan_objv2_train.json').write_text('[' * 100_000),
            'is not JSON, or cut short',
        ),
    ],
    ids=['layout', 'no-file', 'truncated', 'no-list', 'categories', 'no-image', 'entry', 'no-name',
         'name-a-number', 'deep'],
)  # fmt: skip
def test_bad_data(tool, root, harm, words):
    harm(root)
    done = tool(TOOL, root, '--splits', 'train')
    assert done.returncode == 1
    assert words in done.stderr
    assert 'Traceback' not in done.stderr
    assert not [p for p in (root / 'annotations').iterdir() if 'clean' in p.name]
