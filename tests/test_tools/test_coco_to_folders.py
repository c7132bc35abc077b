import json
import shutil
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def coco(shapes, tmp_path):
    """A copy of the data set of shapes, for a test to change."""
    return shutil.copytree(shapes, tmp_path / 'coco')


@pytest.fixture
def cut(tool, tmp_path):
    """The tool, which cuts the objects of a data set out into the folder `cut`."""
    return lambda coco, *args: tool(
        'dataset_converters/coco_to_folders.py', coco, tmp_path / 'cut', *args
    )


@contextmanager
def edited(coco, split):
    """The annotations of a split, for a test to change."""
    file = coco / f'annotations/instances_{split}.json'
    content = json.loads(file.read_text())
    yield content
    file.write_text(json.dumps(content))


def test_objects_are_cut_out(cut, coco, shapes, tmp_path):
    cut(shapes, '--margin', '0', '--min-size', '10').succeeded()
    for split in ('train2017', 'val2017'):
        content = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        wanted = [a for a in content['annotations'] if min(a['bbox'][2:]) >= 10]
        assert len(list((tmp_path / 'cut' / split).rglob('*.png'))) == len(wanted)
        for name in names.values():
            number = sum(names[a['category_id']] == name for a in wanted)
            assert len(list((tmp_path / 'cut' / split / name).iterdir())) == number
    assert 'is there already' in cut(shapes, '--margin', '0', '--min-size', '10').stdout
    cut(shapes, '--margin', '0.5').succeeded()  # other settings: made again
    assert 'there already' not in cut(coco).succeeded().stdout
    pictures = len(list((tmp_path / 'cut').rglob('*.png')))
    assert 'does not exist' in cut(tmp_path / 'none').stderr
    assert len(list((tmp_path / 'cut').rglob('*.png'))) == pictures > 0
    with edited(coco, 'val2017') as content:
        del content['annotations'][0]
    assert 'there already' not in cut(coco).succeeded().stdout
    (tmp_path / 'cut/complete').unlink()
    run = cut(shapes)
    assert run.returncode == 1 and 'was not finished by this tool' in run.stderr


def test_object_is_what_its_box_says(cut, shapes, tmp_path):
    cut(shapes, '--margin', '0').succeeded()
    content = json.loads((shapes / 'annotations/instances_val2017.json').read_text())
    image = content['images'][0]
    box = next(a for a in content['annotations'] if a['image_id'] == image['id'])
    name = next(c['name'] for c in content['categories'] if c['id'] == box['category_id'])
    stem = image['file_name'].partition('.')[0]
    part = cv2.imread(str(tmp_path / 'cut/val2017' / name / f'{stem}_0.png'))
    whole = cv2.imread(str(shapes / 'val2017' / image['file_name']))
    x, y, width, height = box['bbox']
    assert (part == whole[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1]).all()


def test_box_outside_its_image(cut, coco, tmp_path):
    with edited(coco, 'train2017') as content:
        objects = len(content['annotations'])
        content['annotations'][0]['bbox'] = [300, 300, 20, 20]
    run = cut(coco)
    assert run.returncode == 0 and f'1 of {objects} annotations have a box outside' in run.stdout
    assert len(list((tmp_path / 'cut/train2017').rglob('*.png'))) == objects - 1


def test_images_that_are_turned_are_cut_as_they_are_shown(cut, tmp_path):
    exif, coco = Image.Exif(), tmp_path / 'coco'
    exif[274] = 6  # a quarter turn clockwise
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    names = ('a.webp', 'b.png')
    content = dict(
        images=[dict(id=i, file_name=n, width=20, height=30) for i, n in enumerate(names)],
        categories=[dict(id=1, name='thing')],
        annotations=[
            dict(id=i + 1, image_id=i, category_id=1, bbox=[2, 3, 10, 12], area=120, iscrowd=0)
            for i in range(2)
        ],
    )
    for split in ('train2017', 'val2017'):
        (coco / split).mkdir(parents=True)
        (coco / 'annotations').mkdir(exist_ok=True)
        (coco / f'annotations/instances_{split}.json').write_text(json.dumps(content))
        for name in names:
            Image.fromarray(pixels).save(coco / split / name, exif=exif, lossless=True)
    cut(coco, '--margin', 0).succeeded()
    for name in ('a_0.png', 'b_0.png'):
        part = cv2.imread(str(tmp_path / 'cut/val2017/thing' / name))
        assert (part[..., ::-1] == np.rot90(pixels, -1)[3:16, 2:13]).all()


def test_images_of_another_size(cut, coco, tmp_path):
    with edited(coco, 'train2017') as content:
        content['images'][0].update(width=640, height=480)
    run = cut(coco)
    assert run.returncode == 1 and ' pixels, and its annotations are for 640x480' in run.stderr
    assert not (tmp_path / 'cut/train2017').exists()


def test_names_with_a_slash(cut, coco, tmp_path):
    for split in ('train2017', 'val2017'):
        with edited(coco, split) as content:
            content['categories'][0]['name'] = 'Monitor/TV'
    cut(coco).succeeded()
    assert (tmp_path / 'cut/train2017/Monitor_TV').is_dir()
    with edited(coco, 'train2017') as content:
        content['categories'][1]['name'] = 'Monitor_TV'
    run = cut(coco)
    assert run.returncode == 1 and 'two categories would share a folder' in run.stderr
    assert (tmp_path / 'cut/train2017/Monitor_TV').is_dir()


def test_no_coco(cut, tmp_path):
    run = cut(tmp_path)
    assert run.returncode == 1 and 'instances_train2017.json does not exist' in run.stderr


def test_two_images_of_one_name(cut, coco, tmp_path):
    with edited(coco, 'train2017') as content:
        for image, folder in zip(content['images'], 'ab', strict=False):
            image['file_name'] = f'{folder}/x.png'
    run = cut(coco)
    file = coco / 'annotations/instances_train2017.json'
    words = f"{file}: the images 'a/x.png' and 'b/x.png' would both have the file x_0.png"
    assert run.returncode == 1 and words in run.stderr and not (tmp_path / 'cut').exists()


@pytest.mark.parametrize('name', ['', '.', '..', 'a\0b', '/root', '../up', 'a' * 256, '\ud800'])
def test_names_of_classes_stay_in_the_folder(name, cut, coco, tmp_path):
    for split in ('train2017', 'val2017'):
        with edited(coco, split) as content:
            content['categories'][0]['name'] = name
    run = cut(coco)
    if '/' in name:
        assert run.returncode == 0, run.stderr
        assert (tmp_path / 'cut/train2017' / name.replace('/', '_')).is_dir()
    else:
        assert run.returncode == 1 and 'Traceback' not in run.stderr
        assert (
            f'{name!r:.60} is the name of a category, and cannot be that of a folder' in run.stderr
        )
        assert not (tmp_path / 'cut').exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['coco', *['cut'] * ('/' in name)]


def test_splits_of_other_classes(cut, coco, tmp_path):
    """Splits must have the same classes: a class index is the position of its folder."""
    with edited(coco, 'val2017') as content:
        content['categories'][0]['name'] = 'cow'
    run = cut(coco)
    assert run.returncode == 1 and not (tmp_path / 'cut').exists()
    assert 'train2017 and val2017 have other categories (circle, cow in one alone)' in run.stderr


def test_what_is_left_out_is_told_and_bits_are_kept(cut, coco):
    with edited(coco, 'val2017') as content:
        content['annotations'][0]['iscrowd'] = 1
        content['annotations'][1]['bbox'][2] = 3
    run = cut(coco, '--min-size', '4').succeeded()
    number = len(content['annotations']) - 2
    assert (
        f'val2017: {number} objects; left out: 1 crowds; left out: 1 smaller than 4 pixels '
        '(--min-size)'
    ) in run.stdout
    with edited(coco, 'val2017') as content:
        shown = content['annotations'][2]['image_id']
        first = next(i for i in content['images'] if i['id'] == shown)
        first['file_name'] = 'wide.png'
    wide = np.full((first['height'], first['width'], 3), 2000, np.uint16)
    cv2.imwrite(str(coco / 'val2017/wide.png'), wide)
    run = cut(coco)
    assert run.returncode == 1 and 'wide.png is a PNG of 3 x 16 bits' in run.stderr
    assert 'convert the images to 8 bits first' in run.stderr
