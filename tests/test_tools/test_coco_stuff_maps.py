import json
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.test_tools.conftest import ROOT
from tests.test_tools.test_real_images import SAMPLE
from tests.tool_server import run_program

TOOL = 'dataset_converters/coco_stuff_maps.py'
SIZE = 20, 30  # height, width of `write`'s image


@pytest.fixture
def maps(tool):
    def run(*args):
        done = tool(TOOL, *args)
        assert 'Traceback' not in done.stderr
        return done

    return run


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def rectangle(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def write(path, *annotations, names=None, files=('folder/a.b.jpg',)):
    """Write a COCO file of one or more images; annotations are (category id, segmentation)."""
    path.write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=7 + n, file_name=name, height=SIZE[0], width=SIZE[1])
                    for n, name in enumerate(files)
                ],
                annotations=[
                    dict(id=n, image_id=7, category_id=category, segmentation=mask, iscrowd=0)
                    for n, (category, mask) in enumerate(annotations)
                ],
                categories=[
                    dict(id=category, name=(names or {}).get(category, f'class {category}'))
                    for category in sorted({category for category, _ in annotations})
                ],
            )
        )
    )
    return path


def test_things_of_the_shapes(maps, shapes, tmp_path):
    annotations = shapes / 'annotations/instances_train2017.json'
    done = maps(annotations, tmp_path / 'maps', '--workers=2').succeeded()
    assert '8 maps drawn, 0 were there' in done.stdout
    assert len(list((tmp_path / 'maps').iterdir())) == 8  # no half-written files
    for path in (tmp_path / 'maps').glob('*.png'):
        drawn, truth = read(path), read(shapes / 'stuffthingmaps/train2017' / path.name)
        thing = truth < 4
        assert set(np.unique(drawn)) <= {0, 1, 2, 3, 255}
        assert (drawn[thing] == truth[thing]).mean() > 0.95
        # pycocotools and the drawing assign pixels of the outline differently
        inside = cv2.erode(thing.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert (drawn[inside] == truth[inside]).all()
        outside = ~cv2.dilate(thing.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert (drawn[outside] == 255).all()
    done = maps(annotations, tmp_path / 'maps', '--check', '--workers=2', '--num-classes=4')
    assert 'good map for each of the 8 images' in done.stdout


def test_order_of_things_and_stuff(maps, tmp_path):
    crowd = dict(size=list(SIZE), counts=[0, 200, 400])  # the ten columns on the left
    things = write(
        tmp_path / 'instances.json',
        (1, rectangle(2, 2, 6, 6)),
        (90, rectangle(0, 0, 9, 9)),
        (3, crowd),
    )
    stuff = write(
        tmp_path / 'stuff.json',
        (183, rectangle(0, 0, 20, 20)),
        (92, rectangle(5, 0, 25, 10)),
        (182, rectangle(20, 12, 26, 16)),
        names={183: 'other'},
    )
    maps(things, tmp_path / 'maps', '--stuff', stuff, '--workers=1').succeeded()
    drawn = read(tmp_path / 'maps/folder/a.b.png')
    assert drawn.shape == SIZE
    points = dict(small=drawn[3, 3], large=drawn[8, 8], crowd=drawn[15, 5], stuff=drawn[5, 22])
    assert points == dict(small=0, large=89, crowd=2, stuff=91)
    assert drawn[14, 24] == 181
    assert drawn[15, 15] == 255  # `other`
    assert drawn[18, 28] == 255  # no annotation
    done = maps(things, tmp_path / 'maps', '--check', '--num-classes=181')
    assert done.returncode == 1
    assert 'a.b.png has the value 181; 181 classes have 0 to 180' in done.stderr


def test_goes_on_where_it_stopped(maps, shapes, tmp_path):
    annotations = shapes / 'annotations/instances_val2017.json'
    maps(annotations, tmp_path / 'maps').succeeded()
    first, second, third, _ = sorted((tmp_path / 'maps').iterdir())
    whole = second.read_bytes()
    first.unlink()
    second.write_bytes(whole[:-20])
    old = np.zeros_like(read(third))
    cv2.imwrite(str(third), old)
    done = maps(annotations, tmp_path / 'maps')
    assert '2 maps drawn, 2 were there' in done.stdout
    assert second.read_bytes() == whole
    assert (read(third) == old).all()  # kept: only completeness is checked


@pytest.mark.parametrize(
    'number, harm, words',
    [
        (1, lambda path: path.unlink(), 'is missing'),
        (2, lambda path: path.write_bytes(path.read_bytes()[:-30]), 'is damaged'),
        (1, lambda path: Image.fromarray(read(path)).save(path, 'jpeg'), 'is damaged, or no PNG'),
        (1, lambda path: cv2.imwrite(str(path), read(path)[1:]), 'pixels, and its image'),
        (0, lambda path: cv2.imwrite(str(path), np.dstack([read(path)] * 3)), 'one channel'),
        (3, lambda path: cv2.imwrite(str(path), read(path) + np.uint8(180)), 'has the value 18'),
    ],
    ids=['missing', 'truncated', 'jpeg', 'size', 'color', 'value'],
)
def test_check_names_the_first_bad_map(maps, shapes, tmp_path, number, harm, words):
    folder = tmp_path / 'maps'
    shutil.copytree(shapes / 'stuffthingmaps/val2017', folder)
    paths = sorted(folder.iterdir())
    harm(paths[number])
    paths[3].unlink() if number < 3 else None
    done = maps(shapes / 'annotations/instances_val2017.json', folder, '--check', '--workers=2')
    assert done.returncode == 1
    assert words in done.stderr
    assert str(paths[number]) in done.stderr
    assert f'{1 + (number < 3)} of 4 maps are missing or wrong' in done.stderr


@pytest.mark.parametrize(
    'annotations, words',
    [
        ([(0, rectangle(0, 0, 5, 5))], 'category ids outside 1 to 182: 0;'),
        ([(1, rectangle(0, 0, 5, 5)), (183, rectangle(0, 0, 5, 5))], 'outside 1 to 182: 183;'),
        ([(1, [])], 'has boxes but no segmentations'),
        (
            [(1, dict(size=[9, 9], counts=[0, 81]))],
            'has size=[9, 9], and its image is 30x20 pixels',
        ),
        ([(1, dict(size=list(SIZE), counts='not RLE'))], "has counts='not RLE'; "),
    ],
    ids=['zero', 'too-large', 'boxes', 'size', 'rle'],
)
def test_unusable_annotations(maps, tmp_path, annotations, words):
    done = maps(write(tmp_path / 'a.json', *annotations), tmp_path / 'maps', '--workers=1')
    assert done.returncode == 1
    assert words in done.stderr
    assert not list((tmp_path / 'maps').rglob('*.png'))


def test_polygons_in_shares_of_the_image(maps, tmp_path):
    shares = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.8]]
    done = maps(write(tmp_path / 'a.json', (1, shares)), tmp_path / 'maps')
    assert done.returncode == 1 and '1 of 1 masks lie in the first pixel' in done.stderr
    whole = rectangle(2, 2, 9, 9)
    done = maps(write(tmp_path / 'a.json', (1, shares), (1, whole)), tmp_path / 'maps')
    assert done.returncode == 0 and '1 of 2 masks lie in the first pixel' in done.stdout


@pytest.mark.parametrize('option', [(), ('--check',)], ids=['draw', 'check'])
@pytest.mark.parametrize('other', ['x.png', 'a/../x.jpg'])
def test_two_images_of_one_map(maps, tmp_path, option, other):
    path = write(tmp_path / 'a.json', (1, rectangle(2, 2, 9, 9)), files=('x.jpg', other))
    done = maps(path, tmp_path / 'maps', *option)
    words = f"the images 'x.jpg' and {other!r} would both have the file {tmp_path / 'maps/x.png'}"
    if other.endswith('/x.jpg'):
        words = f"2 entries of images have file_name='x.jpg', {other!r}"
    assert done.returncode == 1 and words in done.stderr
    assert not (tmp_path / 'maps').exists()


@pytest.mark.parametrize('name', ['a\0.jpg', '\ud800.jpg'], ids=['nul', 'surrogate'])
def test_names_that_no_file_has(maps, tmp_path, name):
    path = write(tmp_path / 'a.json', (1, rectangle(2, 2, 9, 9)), files=(name,))
    done = maps(path, tmp_path / 'maps', '--workers=1')
    assert done.returncode == 1 and f'images[0] has file_name={name!r}' in done.stderr


@pytest.mark.parametrize('kind', ['color', '16 bits', 'palette'])
def test_pictures_are_not_overwritten(kind, maps, tmp_path):
    file = write(tmp_path / 'instances.json', (1, rectangle(1, 1, 5, 5)), files=('a.png',))
    picture = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    image = Image.fromarray(picture if kind != '16 bits' else picture.astype(np.uint16))
    image.convert(dict(color='RGB', palette='P').get(kind, image.mode)).save(tmp_path / 'a.png')
    before = (tmp_path / 'a.png').read_bytes()
    run = maps(file, tmp_path)
    assert run.returncode == 1 and 'a.png is there, and is a picture and no map' in run.stderr
    assert (tmp_path / 'a.png').read_bytes() == before


def test_other_sizes_are_not_overwritten(maps, tmp_path):
    annotations = write(tmp_path / 'a.json', (1, rectangle(0, 0, 5, 5)))
    path = tmp_path / 'maps/folder/a.b.png'
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    done = maps(annotations, tmp_path / 'maps')
    assert 'is there, but has 4x4 pixels and its image 30x20' in done.stderr
    assert read(path).shape == (4, 4)


def test_files_that_are_no_annotations(maps, shapes, tmp_path):
    assert 'No such file' in maps(tmp_path / 'a.json', tmp_path / 'maps').stderr
    (tmp_path / 'a.json').write_text('[1')
    assert 'is not JSON, or cut short' in maps(tmp_path / 'a.json', tmp_path / 'maps').stderr
    stuff = write(tmp_path / 'a.json', (1, rectangle(0, 0, 5, 5)))
    annotations = shapes / 'annotations/instances_val2017.json'
    done = maps(annotations, tmp_path / 'maps', '--stuff', stuff)
    assert 'annotations for none of the images' in done.stderr
    assert not (tmp_path / 'maps').exists()
    assert 'must be at least 1' in maps(annotations, tmp_path, '--workers=0').stderr


@pytest.mark.skipif(not SAMPLE.exists(), reason='the sample of real COCO images is not here')
def test_real_annotations(maps, tmp_path):
    path = SAMPLE / 'annotations/instances_train2017.json'
    maps(path, tmp_path / 'maps', '--workers=2').succeeded()
    maps(path, tmp_path / 'maps', '--check').succeeded()
    content = json.loads(path.read_text())
    for image in content['images']:
        drawn = read(tmp_path / 'maps' / image['file_name'].replace('.jpg', '.png'))
        here = [a for a in content['annotations'] if a['image_id'] == image['id']]
        assert set(np.unique(drawn)) - {255} <= {a['category_id'] - 1 for a in here}
        labelled, areas = (drawn != 255).sum(), [a['area'] for a in here]
        assert 0.95 * max(areas, default=0) - 9 <= labelled <= 1.05 * sum(areas) + 9


@pytest.mark.parametrize(
    'name', ['../outside.jpg', 'a/../../outside.jpg', '{tmp}/outside.jpg', '', '..']
)
def test_no_map_is_written_outside_of_its_folder(name, maps, tmp_path):
    """If a name is wrong, no map is written at all."""
    name = name.replace('{tmp}', str(tmp_path))
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    content = dict(
        images=[
            dict(id=i, file_name=n, height=8, width=8) for i, n in enumerate(('good.jpg', name))
        ],
        categories=[dict(id=1, name='person')],
        annotations=[
            dict(id=i + 1, image_id=i, category_id=1, segmentation=square) for i in (0, 1)
        ],
    )
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/instances.json').write_text(json.dumps(content))
    before = sorted(tmp_path.rglob('*'))
    done = maps(str(tmp_path / 'work/instances.json'), str(tmp_path / 'work/maps'))
    assert done.returncode == 1
    assert f'the image {name!r} is not inside of its folder' in done.stderr
    assert sorted(tmp_path.rglob('*')) == before


def test_killed_process_ends_the_run(shapes, tmp_path):
    """A worker process is killed, as the kernel does when memory runs out."""
    tool = ROOT / 'tools' / TOOL
    code = (
        'import os, runpy, sys, pycocotools.mask\n'
        'pycocotools.mask.decode = lambda *_: os.kill(os.getpid(), 9)\n'
        f'sys.argv[0] = {str(tool)!r}\n'
        'runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    annotations = shapes / 'annotations/instances_train2017.json'
    command = [sys.executable, '-c', code, str(annotations), 'maps', '--workers=2']
    run = run_program(command, cwd=tmp_path, timeout=300)
    assert run.returncode == 1 and 'a process was killed after 0 of 8 maps' in run.stderr
    assert 'Traceback' not in run.stderr and not list((tmp_path / 'maps').glob('*'))
