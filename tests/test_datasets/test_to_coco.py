"""Label files of other formats: exact numbers, left-out entries, and errors."""

import base64
import io
import json
import shutil
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mmswinv2.datasets.coco import read_coco
from mmswinv2.datasets.to_coco import to_coco
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmcv import name_unreadable_images


def picture(path, width=100, height=80, turn=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    image, exif = Image.fromarray(values), Image.Exif()
    if turn:
        exif[ExifTags.Base.Orientation] = turn
    image.save(path, exif=exif, **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def convert(form, source, folder, **options):
    """Convert; returns the file's content, annotations with file and class, and the summary."""
    out = folder / 'out.json'
    summary = to_coco(form, source, out, **options)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # the output needs no repair
        content = read_coco(out)
    assert content == json.loads(out.read_text())
    names = {c['id']: c['name'] for c in content['categories']}
    files = {i['id']: i['file_name'] for i in content['images']}
    found = [(files[a['image_id']], names[a['category_id']], a) for a in content['annotations']]
    assert summary.images == len(files) and summary.boxes == len(found)
    assert list(names.values()) == list(summary.classes) and min(names) == 1
    return content, found, summary


def boxes(found):
    return [(name, label, pytest.approx(a['bbox'])) for name, label, a in found]


# --- YOLO ----------------------------------------------------------------------------------------


@pytest.fixture
def yolo(tmp_path):
    """Two splits: boxes, a polygon, an image without objects and one without a file."""
    root = tmp_path / 'yolo'
    for name in ('train/a', 'train/b', 'train/none', 'val/c'):
        picture(root / f'images/{name}.jpg')
    write(root / 'data.yaml', 'train: images/train\nval: ../val/images\nnames: [cat, dog]\n')
    write(root / 'labels/train/a.txt', '0 0.5 0.5 0.2 0.25\n\n1 0.1 0.1 0.2 0.2 0.87\n')
    write(root / 'labels/train/b.txt', '')
    write(root / 'labels/val/c.txt', '1.0 0.1 0.1 0.6 0.1 0.6 0.5\n')
    return root


def test_yolo(yolo, tmp_path):
    content, found, summary = convert('yolo', yolo, tmp_path)
    assert [(i['file_name'], i['width'], i['height']) for i in content['images']] == [
        ('images/train/a.jpg', 100, 80), ('images/train/b.jpg', 100, 80),
        ('images/val/c.jpg', 100, 80),
    ]  # fmt: skip
    assert boxes(found) == [
        ('images/train/a.jpg', 'cat', [40, 30, 20, 20]),
        ('images/train/a.jpg', 'dog', [0, 0, 20, 16]),  # a confidence is not taken for a coordinate
        ('images/val/c.jpg', 'dog', [10, 8, 50, 32]),
    ]
    assert found[0][2]['area'] == pytest.approx(400) and 'segmentation' not in found[0][2]
    assert found[2][2]['segmentation'] == [pytest.approx([10, 8, 60, 8, 60, 40])]
    assert found[2][2]['area'] == pytest.approx(50 * 32 / 2)
    assert summary.masks == 1
    assert summary.left_out == {
        'images without a label file or line': (1, str(yolo / 'images/train/none.jpg'))
    }


@pytest.mark.parametrize(
    ('names', 'line'),
    [
        ('names: [cat, dog]', '1 0.1 0.1 0.6 0.1 0.6 0.5 0.9'),  # a confidence after a polygon
        ('names: {1: dog, 0: cat}', '1 0.1 0.1 0.6 0.1 0.6 0.5'),
        ('names: {"0": cat, "1": dog}\nkpt_shape: [2, 3]', '1 .35 .3 .5 .4 9 9 2 9 9 2'),
    ],
    ids=['confidence', 'table', 'keypoints'],
)
def test_yolo_with_more_columns(yolo, tmp_path, names, line):
    write(yolo / 'data.yaml', names)
    write(yolo / 'labels/val/c.txt', line)
    _, found, summary = convert('yolo', yolo, tmp_path)
    assert boxes(found)[-1] == ('images/val/c.jpg', 'dog', [10, 8, 50, 32])
    assert list(summary.classes) == ['cat', 'dog'] and summary.masks == (0 if 'kpt' in names else 1)


def test_yolo_splits(yolo, tmp_path):
    (yolo / 'val').mkdir()
    shutil.move(yolo / 'images/val', yolo / 'val/images')
    shutil.move(yolo / 'labels/val', yolo / 'val/labels')
    _, found, summary = convert('yolo', yolo, tmp_path, split='val')  # '../val/images'
    assert [name for name, *_ in found] == ['val/images/c.jpg'] and not summary.left_out
    write(yolo / 'data.yaml', 'names: [cat, dog]\ntrain: train.txt\n')
    write(yolo / 'train.txt', './images/train/a.jpg\nimages/train/gone.jpg\n../../etc/passwd\n')
    _, found, summary = convert('yolo', yolo, tmp_path, split='train')
    assert {name for name, *_ in found} == {'images/train/a.jpg'} and summary.images == 1
    assert summary.left_out['images that are missing'][0] == 2
    with pytest.raises(UserError, match='--split test: data.yaml of .* has train'):
        convert('yolo', yolo, tmp_path, split='test')


@pytest.mark.parametrize('place', [r'images\train', r'..\images\train', 'list.txt'])
def test_yolo_splits_of_windows(yolo, tmp_path, place):
    write(yolo / 'data.yaml', f'names: [cat, dog]\ntrain: {place}\n')
    write(yolo / 'list.txt', '.\\images\\train\\a.jpg\r\nimages\\train\\b.jpg\r\n')
    _, found, summary = convert('yolo', yolo, tmp_path, split='train')
    assert {name for name, *_ in found} == {'images/train/a.jpg'} and summary.images == 2


@pytest.mark.parametrize('names', ['classes.txt', 'obj.names', '_darknet.labels'])
def test_yolo_beside_images(tmp_path, names):
    """The layout of labelImg, CVAT and Darknet: everything in one folder, with a list of names."""
    picture(tmp_path / 'mine/a.png')
    write(tmp_path / 'mine/a.txt', '1 0.5 0.5 1 1')
    write(tmp_path / 'mine' / names, 'cat\ndog\n')
    _, found, _ = convert('yolo', tmp_path / 'mine', tmp_path)
    assert boxes(found) == [('a.png', 'dog', [0, 0, 100, 80])]
    picture(tmp_path / 'pictures/a.png')
    _, found, _ = convert('yolo', tmp_path / 'mine', tmp_path, images=tmp_path / 'pictures')
    assert boxes(found) == [('a.png', 'dog', [0, 0, 100, 80])]


def test_what_is_left_out(yolo, tmp_path):
    lines = [
        '0 0.5 0.5 0.2 0.25', '0 0.5 0.5 0.2 0.25', '7 0.5 0.5 0.2 0.2', '0 1.5 0.5 0.2 0.2',
        '0 0.5 0.5 0 0.2', '1 0.1 0.1 0.6 0.1 0.3 0.1', '1 1.1 0.1 1.6 0.1 1.3 0.9',
        '0 1.0 0.5 0.5 0.5',
    ]  # fmt: skip
    write(yolo / 'labels/train/a.txt', '\n'.join(lines))
    write(yolo / 'labels/train/lost.txt', lines[0])
    (yolo / 'images/train/b.jpg').write_bytes(b'no picture')
    whole = (yolo / 'images/val/c.jpg').read_bytes()
    (yolo / 'images/val/c.jpg').write_bytes(whole[: len(whole) // 2])
    _, found, summary = convert('yolo', yolo, tmp_path)
    assert boxes(found) == [
        ('images/train/a.jpg', 'cat', [40, 30, 20, 20]),
        ('images/train/a.jpg', 'cat', [75, 20, 25, 40]),  # cut off at the border
    ]
    a = f'{yolo}/labels/train/a.txt'
    assert summary.left_out == {
        'images without a label file or line': (1, f'{yolo}/images/train/none.jpg'),
        'label files without an image': (1, f'{yolo}/labels/train/lost.txt'),
        'objects of unknown classes': (1, f'{a}, line 3: 7'),
        'objects that stand twice': (1, f'{a}, line 2'),
        'boxes outside of their image': (1, f'{a}, line 4'),
        'boxes without an area': (1, f'{a}, line 5'),
        'polygons without an area': (1, f'{a}, line 6'),
        'polygons outside of their image': (1, f'{a}, line 7'),
        'images that cannot be read': (2, f'{yolo}/images/train/b.jpg'),
    }
    assert '  2  images that cannot be read, the first' in str(summary)
    _, _, summary = convert('yolo', yolo, tmp_path, decode=False)  # the header is intact
    assert summary.left_out['images that cannot be read'][0] == 1


@pytest.mark.parametrize('folder', ['', 'labels', 'images'])
def test_labels_of_yolo_without_an_image_that_is_read(tmp_path, folder, monkeypatch):
    """Beside the images, and in a folder of their own that is the source."""
    monkeypatch.chdir(tmp_path)
    images, source = Path('mine/images'), Path('mine', folder)
    labels = images if folder == 'images' else Path('mine/labels')
    for name in 'a.jpg', 'b.jfif', 'c.tga':
        picture(images / name, **(dict(format='JPEG') if 'b' in name else {}))
    for name in 'abcd':
        write(labels / f'{name}.txt', '0 0.5 0.5 0.2 0.25\n')
    write(labels / 'classes.txt', 'cat\n')
    write(source / 'classes.txt', 'cat\n')
    write(source / 'list.txt', 'images/a.jpg\n1 2 3 4 5\n')
    write(source / 'words.txt', 'one two three four five\n')
    content, _, summary = convert('yolo', source, tmp_path, images=images.absolute())
    assert [i['file_name'] for i in content['images']] == ['a.jpg', 'b.jfif']
    assert summary.left_out == {'label files without an image': (2, f'{labels}/c.txt')}


WRONG_LINES = {
    'few': ('0 0.5 0.5 0.2', 'has 4 numbers'),
    'words': ('cat 0.5 0.5 0.2 0.2', "'cat' is no coordinate"),
    'nan': ('0 nan 0.5 0.2 0.2', "'nan' is no coordinate"),
    'infinite': ('0 0.5 0.5 1e999 0.2', "'1e999' is no coordinate"),
    'huge': ('0 0.5 0.5 0.2 1e300', "'1e300' is no coordinate"),
    'joined digits': ('0 0.5 0.5 0.2 0_1', "'0_1' is no coordinate"),
    'class of joined digits': ('0_1 0.5 0.5 0.2 0.1', "'0_1' is no coordinate"),
    'wide digits': ('0 0.5 0.5 0.2 \uff11', "'\uff11' is no coordinate"),
    'pixels': ('0 320 240 20 20', 'is in pixels'),
    'class': ('0.5 0.5 0.5 0.2 0.2', 'the class 0.5 is no whole number'),
}


@pytest.mark.parametrize(('line', 'words'), WRONG_LINES.values(), ids=WRONG_LINES)
def test_wrong_lines_of_yolo(yolo, tmp_path, line, words):
    write(yolo / 'labels/train/a.txt', f'0 0.5 0.5 0.2 0.2\n{line}\n')
    with pytest.raises(UserError, match=f'labels/train/a.txt, line 2: .*{words}'):
        convert('yolo', yolo, tmp_path)
    assert not (tmp_path / 'out.json').exists()


WRONG_NAMES = {
    'none': ('train: images', 'has no names of the classes'),
    'gaps': ('names: {0: cat, 2: dog}', 'without gaps'),
    'nested': ('a: &a [x]\nnames: [*a, *a]', 'has no names of the classes'),
    'twice': ('names: [cat, cat]', "the class 'cat' stands twice"),
    'empty': ('names: {0: , 1: dog}', 'has no names of the classes'),
    'code': ('names: !!python/object/apply:os.getcwd []', 'is no YAML'),
    'no list': ('- a', 'has no names of the classes'),
    'keypoints': ('names: [cat, dog]\nkpt_shape: [a, 3]', "kpt_shape='a'"),
}


@pytest.mark.parametrize('text', ['[on, no, null, 007, 1.50, 2020-12-05]', None])
def test_names_of_yolo_are_taken_as_they_are_written(yolo, tmp_path, text):
    names = ['on', 'no', 'null', '007', '1.50', '2020-12-05']
    text = text or '{' + ', '.join(f'{i}: {name}' for i, name in enumerate(names)) + '}'
    write(yolo / 'data.yaml', f'kpt_shape: [0, 3]\nnames: {text}\n')
    _, found, summary = convert('yolo', yolo, tmp_path)
    assert list(summary.classes) == names and {name for _, name, _ in found} == {'on', 'no'}


def test_a_path_of_yolo_that_anchors_repeat(yolo, tmp_path):
    write(yolo / 'data.yaml', 'a: &a [x, x]\nnames: [cat, dog]\nval: images\npath: [*a, *a]\n')
    with pytest.raises(UserError, match=r"data.yaml: path=\[\['x', 'x'\], .* is no folder"):
        convert('yolo', yolo, tmp_path, split='val')


def test_names_of_yolo_by_a_merge_key(yolo, tmp_path):
    write(yolo / 'data.yaml', 'base: &base\n  names: [on, dog]\n<<: *base\n')
    _, _, summary = convert('yolo', yolo, tmp_path)
    assert list(summary.classes) == ['on', 'dog']


@pytest.mark.parametrize(('text', 'words'), WRONG_NAMES.values(), ids=WRONG_NAMES)
def test_wrong_names_of_yolo(yolo, tmp_path, text, words):
    write(yolo / 'data.yaml', text)
    with pytest.raises(UserError, match=words):
        convert('yolo', yolo, tmp_path)


def test_turned_pictures(yolo, tmp_path):
    """In all formats, sizes are those of the rotated picture, as mmcv loads it."""
    import mmcv

    name_unreadable_images.apply()
    picture(yolo / 'images/train/a.jpg', turn=6)
    picture(yolo / 'images/train/b.jpg', turn=3)
    for name in ('p.png', 'w.webp', 't.tif'):
        picture(yolo / 'images/train' / name, turn=8)
        write(yolo / f'labels/train/{name[0]}.txt', '')
    content, found, _ = convert('yolo', yolo, tmp_path)
    sizes = {i['file_name']: (i['height'], i['width']) for i in content['images']}
    assert sizes['images/train/a.jpg'] == (100, 80) and sizes['images/train/b.jpg'] == (80, 100)
    for name, size in sizes.items():
        assert mmcv.imread(str(yolo / name)).shape[:2] == size
    assert boxes(found)[0] == ('images/train/a.jpg', 'cat', [32, 37.5, 16, 25])


# --- Pascal VOC ----------------------------------------------------------------------------------

VOC = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>{width}</width><height>80</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin>
<ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>{more}</object>"""


def objects(*corners, name='dog', difficult=0, more=''):
    return OBJECT.format(*corners, name=name, difficult=difficult, more=more)


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'voc'
    for name in 'ab':
        picture(root / f'JPEGImages/{name}.jpg')
    some = objects(1, 1, 100, 80) + objects(11, 21, 20, 30, name='cat', difficult=1)
    write(root / 'Annotations/a.xml', VOC.format(name='a.jpg', width=100, objects=some))
    shape = '<polygon><x1>11</x1><y1>11</y1><x2>31</x2><y2>11</y2><x3>11</x3><y3>31</y3></polygon>'
    some = objects(11.5, 11, 30, 30, more=shape)
    write(root / 'Annotations/b.xml', VOC.format(name='b.jpg', width=100, objects=some))
    write(root / 'ImageSets/Main/val.txt', 'b\ngone\n')
    return root


def test_voc(voc, tmp_path):
    _, found, summary = convert('voc', voc, tmp_path)
    assert boxes(found) == [
        ('JPEGImages/a.jpg', 'dog', [0, 0, 100, 80]),  # pixels 1 to 100: the whole image
        ('JPEGImages/a.jpg', 'cat', [10, 20, 10, 10]),
        ('JPEGImages/b.jpg', 'dog', [10.5, 10, 19.5, 20]),
    ]
    assert [a['iscrowd'] for *_, a in found] == [0, 1, 0] and summary.crowds == 1
    assert found[2][2]['segmentation'] == [[10, 10, 30, 10, 10, 30]]
    assert list(summary.classes.items()) == [('cat', 1), ('dog', 2)]  # sorted
    _, found, _ = convert('voc', voc, tmp_path, offset=0)
    assert boxes(found)[1] == ('JPEGImages/a.jpg', 'cat', [11, 21, 9, 9])
    _, found, summary = convert('voc', voc, tmp_path, split='val', classes=['horse', 'dog'])
    assert [(name, label) for name, label, _ in found] == [('JPEGImages/b.jpg', 'dog')]
    assert list(summary.classes.items()) == [('horse', 0), ('dog', 1)]
    assert summary.left_out['images without a label file or line'][0] == 1


@pytest.mark.parametrize('flags', [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_an_object_of_voc_that_stands_twice(voc, tmp_path, flags):
    """It is difficult only where both of its entries are."""
    some = [objects(11, 21, 20, 30, name='cat', difficult=flag) for flag in flags]
    write(voc / 'Annotations/b.xml', VOC.format(name='b.jpg', width=100, objects=''.join(some)))
    _, found, summary = convert('voc', voc, tmp_path)
    assert [a['iscrowd'] for name, _, a in found if name.endswith('b.jpg')] == [min(flags)]
    assert summary.left_out['objects that stand twice'][0] == 1


@pytest.mark.parametrize('name', ['a', 'gone.jpg', ''])
def test_pictures_of_masks_beside_the_labels_of_voc(voc, tmp_path, name):
    """Labels that do not name their image are for the photo, not for what lies beside them."""
    picture(voc / 'Annotations/a.png')
    text = VOC.format(name=name, width=100, objects=objects(1, 1, 9, 9))
    write(voc / 'Annotations/a.xml', text)
    _, found, _ = convert('voc', voc, tmp_path)
    assert found[0][0] == 'JPEGImages/a.jpg'


def test_voc_with_turned_boxes_of_cvat(voc, tmp_path):
    extra = '<attributes><attribute><name>rotation</name><value>{}</value></attribute></attributes>'
    some = [objects(41, 31, 60, 40, more=extra.format(angle)) for angle in ('90.0', '0.0', '30')]
    write(voc / 'Annotations/b.xml', VOC.format(name='b.jpg', width=100, objects=''.join(some)))
    _, found, _ = convert('voc', voc, tmp_path)
    assert boxes(found)[2:4] == [
        ('JPEGImages/b.jpg', 'dog', [45, 25, 10, 20]),
        ('JPEGImages/b.jpg', 'dog', [40, 30, 20, 10]),
    ]
    first, plain, last = (annotation for *_, annotation in found[2:])
    assert np.allclose(first['segmentation'], [[55, 25, 55, 45, 45, 45, 45, 25]])
    assert 'segmentation' not in plain
    assert last['segmentation'][0][:2] == pytest.approx(  # clockwise
        [50 - 10 * np.sqrt(0.75) + 2.5, 35 - 5 - 5 * np.sqrt(0.75)]
    )


@pytest.mark.parametrize('name', ['s/a.jpg', 'a.jpg'])
@pytest.mark.parametrize(
    ('labels', 'images', 'options'),
    [
        ('Annotations', 'JPEGImages', {}),  # as CVAT writes frames in folders
        ('Annotations', 'JPEGImages', dict(split='all')),
        ('Annotations', 'JPEGImages', dict(images='JPEGImages')),
        ('labels', 'photos', dict(source='labels', images='photos')),
    ],
)
def test_voc_in_folders_of_folders(name, labels, images, options, tmp_path):
    """An image of the same name elsewhere is another one."""
    for folder, width in (('s', 60), ('t', 70), ('', 50)):
        picture(tmp_path / images / folder / 'a.jpg', width=width)
        text = f'<annotation><filename>{name.replace("s", folder) if folder else "a.jpg"}'
        text += f'</filename><size><width>{width}</width><height>80</height></size>'
        text += objects(1, 1, width, 20) + '</annotation>'
        write(tmp_path / labels / folder / 'a.xml', text)
    write(tmp_path / 'ImageSets/Main/all.txt', 's/a\nt/a\na\n')
    options = {k: tmp_path / v if k == 'images' else v for k, v in options.items()}
    source = tmp_path / options.pop('source', '')
    content, found, summary = convert('voc', source, tmp_path / 'out', **options)
    widths = {Path(i['file_name']).parent.name: i['width'] for i in content['images']}
    assert sorted(widths.values()) == [50, 60, 70] and widths['s'] == 60 and widths['t'] == 70
    assert sorted(a['bbox'][2] for *_, a in found) == [50, 60, 70] and not summary.left_out


def test_voc_beside_images_below_a_folder_of_annotations(tmp_path):
    picture(tmp_path / 'Annotations/s/JPEGImages/a.jpg')
    text = VOC.format(name='a.jpg', width=100, objects=objects(1, 1, 9, 9))
    write(tmp_path / 'Annotations/s/xml/a.xml', text)
    _, found, _ = convert('voc', tmp_path, tmp_path / 'out')
    assert found[0][0] == 'Annotations/s/JPEGImages/a.jpg'


def test_voc_from_a_folder_inside(tmp_path, monkeypatch):
    picture(tmp_path / 'photos/s/a.jpg')
    text = VOC.format(name='a.jpg', width=100, objects=objects(1, 1, 9, 9))
    write(tmp_path / 'labels/s/a.xml', text)
    monkeypatch.chdir(tmp_path / 'labels/s')
    options = dict(images='../../photos')
    _, found, _ = convert('voc', '..', tmp_path / 'out', **options)
    assert found[0][0] == 's/a.jpg'
    write(tmp_path / 'labels/ImageSets/Main/all.txt', f'{tmp_path}/labels/s/a\n')
    _, found, _ = convert('voc', '..', tmp_path / 'out', split='all', **options)
    assert found[0][0] == 's/a.jpg'


@pytest.mark.parametrize('polygon', [
    '<x1>11</x1><x2>31</x2><x3>11</x3><y1>11</y1><y2>11</y2><y3>31</y3>',
    '<y1>11</y1><x1>11</x1><y2>11</y2><x2>31</x2><y3>31</y3><x3>11</x3>',
    '<username>7</username><pt><x>11</x><y>11</y></pt><pt><x>31</x><y>11</y></pt><pt><x>11</x>'
    '<y>31</y></pt>',
    '<p>11</p><p>11</p><p>31</p><p>11</p><p>11</p><p>31</p>',  # in turn
    '<x>11</x><y>11</y><x>31</x><y>11</y><x>11</x><y>31</y><x/><y/>',
    '<x1>11</x1><y1>11</y1><x2>31</x2>',
])  # fmt: skip
def test_polygons_of_voc_in_other_orders(voc, tmp_path, polygon):
    some = objects(11, 11, 30, 30, more=f'<polygon>{polygon}</polygon>')
    write(voc / 'Annotations/b.xml', VOC.format(name='b.jpg', width=100, objects=some))
    lacks = polygon.count('<x') != polygon.count('<y')
    with pytest.raises(UserError, match='2 x and 1 y') if lacks else nullcontext():
        _, found, _ = convert('voc', voc, tmp_path)
        assert found[2][2]['segmentation'] == [[10, 10, 30, 10, 10, 30]]


def test_voc_in_other_words(voc, tmp_path):
    """Handles a declared encoding, words for numbers, and lists of names with spaces."""
    root = voc if voc.name != 'Annotations' else voc.parent
    flags = {'car': 'true', 'car 2': 'Unspecified', 'car 1': 'no'}
    for name, difficult in flags.items():
        picture(root / f'JPEGImages/{name}.jpg')
        text = f'<annotation><filename>{name}.jpg</filename>'
        text += objects(1, 1, 20, 20, name='猫', difficult=difficult) + '</annotation>'
        declared = '<?xml version="1.0" encoding="gbk"?>' + text
        (root / f'Annotations/{name}.xml').write_bytes(declared.encode('gbk'))
    write(root / 'ImageSets/Main/spaces.txt', 'car 2\ncar -1\n')
    _, found, _ = convert('voc', root, tmp_path, split='spaces')
    assert [(Path(f).name, label, a['iscrowd']) for f, label, a in found] == [
        ('car 2.jpg', '猫', 0), ('car.jpg', '猫', 1),
    ]  # fmt: skip
    wrong = objects(1, 1, 20, 20, difficult='maybe')
    write(
        root / 'Annotations/car.xml',
        f'<annotation><filename>car.jpg</filename>{wrong}</annotation>',
    )
    with pytest.raises(UserError, match="car.xml, object 1: difficult must be 0 or 1, got 'maybe'"):
        convert('voc', root, tmp_path, split='spaces')


@pytest.mark.parametrize(
    ('named', 'written'),
    [('utf-16', 'utf-8'), ('ISO-8859-1', 'utf-8'), ('gb2312', 'utf-8'), ('windows-1252', 'cp1252'),
     ('latin-1', 'latin-1'), ('UTF-8', 'utf-8-sig'), ('gb2312', 'gb2312')],
)  # fmt: skip
def test_voc_in_another_encoding_than_it_names(voc, named, written, tmp_path):
    label = '狗猫' if 'gb' in named else 'Würfel'
    text = f'<?xml version="1.0" encoding="{named}"?><annotation><filename>x.jpg</filename>'
    text += objects(1, 1, 20, 20, name=label) + '</annotation>'
    for path in voc.rglob('*.xml'):
        path.unlink()
    picture(voc / 'JPEGImages/x.jpg')
    (voc / 'Annotations/x.xml').write_bytes(text.encode(written))
    _, found, _ = convert('voc', voc, tmp_path)
    assert [name for _, name, _ in found] == [label]


def test_voc_in_no_encoding(voc):
    (voc / 'Annotations/x.xml').write_bytes(b'<?xml version="1.0" encoding="nope"?><a>\xff</a>')
    with pytest.raises(UserError, match='x.xml is neither in nope, as it says, nor in UTF-8'):
        to_coco('voc', voc, voc / 'out.json')


@pytest.mark.parametrize('delimiter', [';', '\t'])
def test_csv_of_spreadsheets(delimiter, tmp_path):
    picture(tmp_path / 'a.jpg')
    rows = ('filename,width,height,class,xmin,ymin,xmax,ymax', 'a.jpg,100,80,"cat, big",1,2,30,40')
    text = '\n'.join(rows).replace('"cat, big"', 'big').replace(',', delimiter)
    write(tmp_path / 'labels.csv', text.replace('big', 'cat, big').replace('30', '30,5'))
    _, found, _ = convert('csv', tmp_path / 'labels.csv', tmp_path)
    assert boxes(found) == [('a.jpg', 'cat, big', [1, 2, 29.5, 38])]
    # 1.024 or 1024
    write(tmp_path / 'labels.csv', text.replace('big', 'cat, big').replace('30', '1,024'))
    with pytest.raises(UserError, match="line 2.*'1,024'"):
        convert('csv', tmp_path / 'labels.csv', tmp_path)


def test_what_voc_leaves_out(voc, tmp_path):
    write(voc / 'Annotations/c.xml', '<other/>')
    for name, size in (('gone.jpg', 100), ('../../secret.jpg', 100), ('a.jpg', 80)):
        text = VOC.format(name=name, width=size, objects=objects(1, 1, 9, 9))
        write(voc / f'Annotations/d{len(name)}.xml', text)
    picture(tmp_path / 'secret.jpg')
    picture(voc / 'JPEGImages/e.jpg')
    write(
        voc / 'Annotations/e.xml', VOC.format(name='e.jpg', width=80, objects=objects(1, 1, 9, 9))
    )
    _, _, summary = convert('voc', voc, tmp_path, classes=['dog'])
    assert {what: n for what, (n, _) in summary.left_out.items()} == {
        'XML files that are no annotations': 1,
        'images that are missing': 2,
        'images of another size than their label file says': 1,
        'label files of another size than one before of their image': 1,
        'objects of unknown classes': 1,
    }
    text = 'e.jpg, 100x80 pixels and not 80x80'
    assert text in summary.left_out['images of another size than their label file says'][1]


WRONG_XML = {
    'no XML': ('<annotation>', 'is no XML'),
    'entities': (
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>',
        'is no XML that is read .*EntitiesForbidden',
    ),
    'number': (VOC.format(name='a.jpg', width=100, objects=objects(1, 'x', 3, 4)), "ymin: 'x'"),
    'nan': (VOC.format(name='a.jpg', width=100, objects=objects(1, 2, 'nan', 4)), "xmax: 'nan'"),
    'no name': (
        VOC.format(name='a.jpg', width=100, objects=objects(1, 1, 9, 9, name='')),
        'no name',
    ),
    'no box': (
        VOC.format(name='a.jpg', width=100, objects='<object><name>a</name></object>'),
        'object 1 has no bndbox',
    ),
}


@pytest.mark.parametrize(('text', 'words'), WRONG_XML.values(), ids=WRONG_XML)
def test_wrong_xml(voc, tmp_path, text, words):
    write(voc / 'Annotations/a.xml', text)
    with pytest.raises(UserError, match=f'Annotations/a.xml.*{words}'):
        convert('voc', voc, tmp_path)


# --- CSV -----------------------------------------------------------------------------------------

HEADER = 'filename,width,height,class,xmin,ymin,xmax,ymax'


def test_csv(tmp_path):
    for name in ('a.jpg', 'sub/b.jpg', 'c.jpg'):
        picture(tmp_path / 'mine' / name)
    lines = [
        '\ufeff' + HEADER.upper() + ',source', 'a.jpg,100,80,dog,10,20,30.5,60,x',
        r'sub\b.jpg,100,80,"a, b",0,0,100,80,x', 'c.jpg,100,80,,,,,,x',
        'a.jpg,100,80,cat,30,20,50,60,x', 'gone.jpg,100,80,cat,1,2,3,4,x', '',
        '../out.jpg,100,80,cat,1,2,3,4,x',
    ]  # fmt: skip
    write(tmp_path / 'mine/labels.csv', '\n'.join(lines))
    picture(tmp_path / 'out.jpg')
    content, found, summary = convert('csv', tmp_path / 'mine/labels.csv', tmp_path)
    assert boxes(found) == [
        ('a.jpg', 'dog', [10, 20, 20.5, 40]),
        ('a.jpg', 'cat', [30, 20, 20, 40]),
        ('sub/b.jpg', 'a, b', [0, 0, 100, 80]),
    ]
    assert [i['file_name'] for i in content['images']] == ['a.jpg', 'sub/b.jpg', 'c.jpg']
    assert summary.left_out == {
        'images that are missing': (
            2,
            f'{tmp_path}/mine/gone.jpg of {tmp_path}/mine/labels.csv, line 6',
        )
    }
    _, found, _ = convert('csv', tmp_path / 'mine/labels.csv', tmp_path, offset=1)
    assert boxes(found)[0] == ('a.jpg', 'dog', [9, 19, 21.5, 41])


WRONG_CSV = {
    'header': ('a.jpg,1,2,3,4,cat', 'has no columns named filename, no columns named class'),
    'empty': ('', 'has no columns named filename'),
    'twice': (f'{HEADER},class\na.jpg,100,80,cat,1,2,3,4,dog', 'has 2 columns named class;'),
    'columns': (f'{HEADER}\na.jpg,100,80,cat,1,2,3', 'line 2 has 7 columns, and the header 8'),
    'number': (f'{HEADER}\na.jpg,100,80,cat,1,2,3,', "line 2: '' is no coordinate"),
    'joined digits': (f'{HEADER}\na.jpg,1_00,80,cat,1,2,3,9', "line 2: '1_00' is no coordinate"),
    'class': (f'{HEADER}\na.jpg,100,80,,1,2,3,4', 'line 2 has no class'),
    'sizes': (
        f'{HEADER}\na.jpg,100,80,c,1,2,3,4\n\na.jpg,9,9,c,1,2,3,4',
        'line 4 has another width and height',
    ),
}


@pytest.mark.parametrize(('text', 'words'), WRONG_CSV.values(), ids=WRONG_CSV)
def test_wrong_csv(tmp_path, text, words):
    picture(tmp_path / 'a.jpg')
    write(tmp_path / 'labels.csv', text)
    with pytest.raises(UserError, match=f'labels.csv.*{words}'):
        convert('csv', tmp_path / 'labels.csv', tmp_path)


# --- LabelMe -------------------------------------------------------------------------------------


def shape(kind, points, label='dog', **more):
    return dict(label=label, shape_type=kind, points=points, **more)


def labelme(path, shapes, image='a.jpg', size=(100, 80)):
    content = dict(shapes=shapes, imagePath=image, imageWidth=size[0], imageHeight=size[1])
    write(path, json.dumps(content | dict(imageData=None)))


def test_labelme(tmp_path):
    root = tmp_path / 'mine'
    picture(root / 'images/a.jpg')
    some = [
        shape('polygon', [[10, 10], [30, 10], [30, 50]]),
        shape('rectangle', [[50, 60], [20, 30]], ' cat '),  # corners in any order
        shape('circle', [[50, 40], [53, 44]], 'ball'),
        shape('point', [[1, 1]]),
        shape('linestrip', [[1, 1], [2, 2], [5, 6]]),
        shape('rectangle', [[60, 40], [65, 50]], group_id=3),
        shape('polygon', [[60, 10], [70, 10], [70, 20]], group_id=3),
        shape('polygon', [[80, 10], [90, 10], [90, 30]], group_id=3),
        shape('polygon', [[60, 10], [70, 10], [70, 20]], 'cat', group_id=3),
        shape('polygon', [[95, 70], [120, 70], [120, 100]]),
        shape('rotation', [[5, 20], [10, 15], [15, 20], [10, 25]], direction=0.78),
        shape('oriented_rectangle', [[5, 40], [10, 35], [15, 40], [10, 45]], difficult=False),
        shape('quadrilateral', [[5, 60], [10, 55], [15, 60], [10, 65]], difficult=True),
    ]
    labelme(root / 'labels/a.json', some, r'..\images\a.jpg')
    write(root / 'settings.json', '{}')
    _, found, summary = convert('labelme', root, tmp_path)
    assert boxes(found) == [
        ('images/a.jpg', 'dog', [10, 10, 20, 40]),
        ('images/a.jpg', 'cat', [20, 30, 30, 30]),
        ('images/a.jpg', 'ball', [45, 35, 10, 10]),
        ('images/a.jpg', 'dog', [60, 10, 30, 40]),  # three shapes of one group
        ('images/a.jpg', 'cat', [60, 10, 10, 10]),
        ('images/a.jpg', 'dog', [95, 70, 5, 6]),  # cut off
        ('images/a.jpg', 'dog', [5, 15, 10, 10]),
        ('images/a.jpg', 'dog', [5, 35, 10, 10]),
        ('images/a.jpg', 'dog', [5, 55, 10, 10]),
    ]
    assert [a['iscrowd'] for *_, a in found] == [0] * 8 + [1]
    masks = [a.get('segmentation') for *_, a in found]
    assert masks[0] == [[10, 10, 30, 10, 30, 50]] and masks[1] is None
    assert found[2][2]['area'] == pytest.approx(np.pi * 25, rel=2e-3)
    assert len(masks[3]) == 3 and masks[3][0] == [60, 40, 65, 40, 65, 50, 60, 50]
    assert found[3][2]['area'] == 50 + 100 + 50
    assert {what: n for what, (n, _) in summary.left_out.items()} == {
        "JSON files that are not LabelMe's": 1,
        "shapes of the kind 'point', which have no area here": 1,
        "shapes of the kind 'linestrip', which have no area here": 1,
    }


def labelme_mask(mask, x, y, label='dog', **more):
    """A shape as AI-Mask of LabelMe writes it, with both corner pixels and a PNG of 0 and 1."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, 'PNG')
    text, (h, w) = base64.b64encode(file.getvalue()).decode(), mask.shape
    return shape('mask', [[x, y], [x + w - 1, y + h - 1]], label, mask=text, **more)


def test_masks_of_labelme(tmp_path):
    """Their pixels are those that LabelMe shows, also of groups and at the borders."""
    import pycocotools.mask

    ring = np.pad(np.zeros((5, 9), bool), 2, constant_values=True)  # (9, 13) with a hole
    some = [
        labelme_mask(ring, 20, 30),
        labelme_mask(ring, 94, -4, 'cat'),
        labelme_mask(ring, 50, 10, group_id=1),
        shape('polygon', [[55, 12], [60, 12], [60, 20], [55, 20]], group_id=1),
        labelme_mask(ring, 70, 60, group_id=1),
        *(labelme_mask(ring, *corner) for corner in ((100, 10), (150, 10), (10, 99), (-20, 5))),
        labelme_mask(~ring[2:7, 2:11] & False, 10, 10),
    ]
    picture(tmp_path / 'mine/a.jpg')
    labelme(tmp_path / 'mine/a.json', some)
    _, found, summary = convert('labelme', tmp_path / 'mine', tmp_path)
    whole = np.zeros((3, 80, 100), bool)
    whole[0, 30:39, 20:33] = ring
    whole[1, :5, 94:] = ring[4:, :6]
    whole[2, 10:19, 50:63] = ring
    whole[2, 60:69, 70:83] = ring
    whole[2, 12:20, 55:60] = True  # pixels between the edges of the polygon
    assert [name for _, name, _ in found] == ['dog', 'cat', 'dog'] and summary.masks == 3
    for (*_, a), mask in zip(found, whole, strict=True):
        assert (pycocotools.mask.decode(a['segmentation']) == mask).all()
        (rows,), (columns,) = mask.any(1).nonzero(), mask.any(0).nonzero()
        x, y = int(columns[0]), int(rows[0])
        assert a['bbox'] == [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y]
        assert a['area'] == mask.sum() and a['iscrowd'] == 0
    assert {n for n, _ in summary.left_out.values()} == {5}


@pytest.mark.parametrize('beside', [[], [shape('polygon', [[5, 5], [9, 5], [9, 9]], group_id=1)]])
def test_masks_of_labelme_without_pycocotools(beside, tmp_path, monkeypatch):
    """As beside mmpretrain, where polygons are converted."""
    monkeypatch.setitem(sys.modules, 'pycocotools.mask', None)
    picture(tmp_path / 'mine/a.jpg')
    labelme(tmp_path / 'mine/a.json', [labelme_mask(np.ones((9, 9)), 20, 30, group_id=1), *beside])
    with pytest.raises(UserError, match='a mask in pixels needs .*pip install pycocotools'):
        to_coco('labelme', tmp_path / 'mine', tmp_path / 'out.json')


def test_labelme_stays_in_its_folder(tmp_path):
    picture(tmp_path / 'secret.jpg')
    picture(tmp_path / 'mine/a.jpg')
    rectangle = [shape('rectangle', [[1, 2], [30, 40]])]
    labelme(tmp_path / 'mine/a.json', rectangle)
    for i, name in enumerate(('../secret.jpg', str(tmp_path / 'secret.jpg'), r'..\secret.jpg')):
        labelme(tmp_path / f'mine/b{i}.json', rectangle, name)
    _, found, summary = convert('labelme', tmp_path / 'mine', tmp_path)
    assert [name for name, *_ in found] == ['a.jpg']
    assert sum(number for number, _ in summary.left_out.values()) == 3
    with pytest.raises(UserError, match='a.json exists among the label files'):
        to_coco('labelme', tmp_path / 'mine', tmp_path / 'mine/a.json')


def test_files_of_others_are_not_written_over(yolo, tmp_path):
    out = tmp_path / 'mine.json'
    for content in ('{"images": [1]}', '', '[]'):
        out.write_text(content)
        with pytest.raises(UserError, match='mine.json exists, and was not written by this'):
            to_coco('yolo', yolo, out)
        assert out.read_text() == content
    out.unlink()
    assert to_coco('yolo', yolo, out).images == to_coco('yolo', yolo, out).images  # anew


def test_labelme_apart_from_its_images(tmp_path):
    rectangle = [shape('rectangle', [[1, 2], [30, 40]])]
    files = {  # label file: what it names, where the image is
        'a': ('a.jpg', 'a.jpg'),
        'sub/b': ('b.jpg', 'sub/b.jpg'),
        'sub/c': ('deep/c.jpg', 'deep/c.jpg'),
        'sub/d': ('other.jpg', 'sub/other.jpg'),
        'sub/e': ('gone.jpg', 'sub/e.JPG'),
    }
    for label, (name, image) in files.items():
        picture(tmp_path / 'images' / image)
        labelme(tmp_path / f'labels/{label}.json', rectangle, name)
    content, *_ = convert('labelme', tmp_path / 'labels', tmp_path, images=tmp_path / 'images')
    assert [i['file_name'] for i in content['images']] == [image for _, image in files.values()]


def test_labelme_takes_no_image_of_another_folder(tmp_path):
    for name in ('1', 'a/1'):
        picture(tmp_path / f'images/{name}.jpg')
    for folder in 'ab':
        marks = [shape('rectangle', [[1, 2], [30, 40]])]
        labelme(tmp_path / f'labels/{folder}/1.json', marks, '1.jpg')
    content, _, summary = convert(
        'labelme', tmp_path / 'labels', tmp_path, images=tmp_path / 'images'
    )
    assert [i['file_name'] for i in content['images']] == ['a/1.jpg']
    assert any('images' in told for told in summary.left_out)


@pytest.mark.parametrize('form', ['labelme', 'voc', 'csv'])
def test_images_without_labels_are_counted(tmp_path, voc, form):
    """Those beside a labelled image; other folders may hold maps, or another part of the data."""
    for name in ('a', 'b', 'c', 'maps/a'):
        picture(tmp_path / f'mine/images/{name}.jpg')
    mine, what = tmp_path / 'mine', 'images without a label file or line'
    if form == 'labelme':
        labelme(mine / 'labels/a.json', [shape('rectangle', [[1, 2], [30, 40]])], '../images/a.jpg')
        labelme(mine / 'images/c.json', [], 'c.jpg')
    elif form == 'voc':
        shutil.copy(voc / 'Annotations/a.xml', mine / 'images/a.xml')
        write(mine / 'images/c.xml', '<annotation/>')
    else:
        write(mine / 'all.csv', 'filename,class,xmin,ymin,xmax,ymax\na.jpg,x,1,2,3,4\nc.jpg,,,,,')
        what = 'images without a label file or line'
    source = mine / 'all.csv' if form == 'csv' else mine
    _, _, summary = convert(form, source, tmp_path)
    number, first = summary.left_out[what]
    assert number == 1 and Path(first).resolve() == mine / 'images/b.jpg'


WRONG_JSON = {
    'no JSON': ('{"shapes": [', 'is not JSON'),
    'no label': ('{"shapes": [{}]}', 'shape 0 has no label'),
    'empty label': ('{"shapes": [{"label": " ", "points": []}]}', 'shape 0 has no label'),
    'points': (
        '{"shapes": [{"label": "a", "points": [[1]]}]}',
        r'points must be a list of \[x, y\]',
    ),
    'nan': ('{"shapes": [{"label": "a", "points": [[1, NaN]]}]}', 'shape 0: nan is no coordinate'),
    'nested': ('[' * 100000, 'is not JSON'),
    'mask': (
        '{"shapes": [{"label": "a", "points": [[1, 1]], "shape_type": "mask", "mask": "iVBO"}]}',
        'shape 0: its mask is no PNG',
    ),
    'no mask': (
        '{"shapes": [{"label": "a", "points": [[1, 1]], "shape_type": "mask"}]}',
        'shape 0: its mask is no PNG',
    ),
    'long': (f'{{"shapes": [{{"label": "a", "points": [[1, {"9" * 4000}]]}}]}}', 'no coordinate'),
}


@pytest.mark.parametrize(('text', 'words'), WRONG_JSON.values(), ids=WRONG_JSON)
def test_wrong_json(tmp_path, text, words):
    picture(tmp_path / 'mine/a.jpg')
    write(tmp_path / 'mine/a.json', text)
    with pytest.raises(UserError, match=f'a.json.*{words}'):
        convert('labelme', tmp_path / 'mine', tmp_path)


# --- all of them ---------------------------------------------------------------------------------


def test_nothing_to_convert(yolo, tmp_path):
    (tmp_path / 'empty').mkdir()
    for form, words in (('yolo', 'data.yaml'), ('voc', '.xml'), ('labelme', '.json')):
        with pytest.raises(UserError, match=f'empty has no .*{words}'):
            convert(form, tmp_path / 'empty', tmp_path)
        with pytest.raises(UserError, match='none does not exist'):
            convert(form, tmp_path / 'none', tmp_path)
    with pytest.raises(UserError, match=r'csv needs a .csv file'):
        convert('csv', yolo, tmp_path)
    with pytest.raises(UserError, match='needs the folder of the labels'):
        convert('voc', yolo / 'data.yaml', tmp_path)
    with pytest.raises(UserError, match='must be the name of a .json file'):
        to_coco('yolo', yolo, tmp_path / 'out')
    with pytest.raises(UserError, match="'vocc' is no format"):
        convert('vocc', yolo, tmp_path)
    with pytest.raises(UserError, match='--offset 1: .* for voc and csv alone'):
        convert('yolo', yolo, tmp_path, offset=1)
    with pytest.raises(UserError, match='pictures is no folder'):
        convert('yolo', yolo, tmp_path, images=tmp_path / 'pictures')
    with pytest.raises(UserError, match='no object of yolo .*; 3 objects of unknown classes'):
        convert('yolo', yolo, tmp_path, classes=['horse'])
    with pytest.raises(UserError, match="labels have 'cat', and the classes 'Cat'; write"):
        convert('yolo', yolo, tmp_path, classes=['dog', 'Cat'])
    for file in (yolo / 'labels').rglob('*.txt'):
        file.unlink()
    with pytest.raises(
        UserError, match='no object of yolo .* is left to write .4 images without a'
    ):
        convert('yolo', yolo, tmp_path)
    assert not list(tmp_path.glob('*.json'))


def test_a_file_that_our_reader_refuses(yolo, tmp_path):
    """With only boxes too thin for training, nothing is written."""
    write(yolo / 'labels/train/a.txt', '0 0.5 0.5 0.001 0.001')
    (yolo / 'labels/val/c.txt').unlink()
    with pytest.raises(
        UserError, match=r'what would be .*out.json: 1 of 1 .* smaller than a pixel'
    ):
        convert('yolo', yolo, tmp_path)
    assert not (tmp_path / 'out.json').exists()


def test_images_of_yolo_that_share_a_label_file(yolo, tmp_path, warned):
    picture(yolo / 'images/train/a.png', 50, 40)
    found = boxes(convert('yolo', yolo, tmp_path)[1])
    assert ('images/train/a.png', 'cat', [20, 15, 10, 10]) in found and len(found) == 5
    assert f'1 images, first {yolo}/images/train/a.png, get the objects of another' in str(warned)


def test_warnings_name_the_file_that_is_written(yolo, tmp_path, warned):
    write(yolo / 'labels/train/b.txt', '0 0.5 0.5 0.005 0.5')  # half a pixel wide
    convert('yolo', yolo, tmp_path)
    assert f'what would be {tmp_path / "out.json"}: 1 of 4 annotations have a box' in str(warned)


def test_round_trip(tmp_path):
    """COCO to YOLO, VOC, CSV and LabelMe by a writer in this test, and back."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 60, 5), rng.uniform(0, 40, 5)
    width, height = rng.uniform(5, 40, 5), rng.uniform(5, 40, 5)
    truth = np.stack([x, y, width, height], 1)
    root = tmp_path / 'trip'
    picture(root / 'a.jpg')
    write(root / 'classes.txt', 'dog')
    lines, rows, nodes, shapes = [], [HEADER], [], []
    for x, y, width, height in truth.tolist():
        lines.append(f'0 {(x + width / 2) / 100!r} {(y + height / 2) / 80!r} {width / 100!r} '
                     f'{height / 80!r}')  # fmt: skip
        rows.append(f'a.jpg,100,80,dog,{x!r},{y!r},{x + width!r},{y + height!r}')
        nodes.append(objects(x + 1, y + 1, x + width, y + height))
        shapes.append(shape('rectangle', [[x + width, y], [x, y + height]]))
    write(root / 'a.txt', '\n'.join(lines))
    write(root / 'a.csv', '\n'.join(rows))
    write(root / 'a.xml', VOC.format(name='a.jpg', width=100, objects=''.join(nodes)))
    labelme(root / 'a.json', shapes)
    for form in ('yolo', 'voc', 'csv', 'labelme'):
        _, found, _ = convert(form, root / 'a.csv' if form == 'csv' else root, tmp_path)
        assert np.allclose([a['bbox'] for *_, a in found], truth, atol=1e-9), form


@pytest.mark.parametrize('form', ['yolo', 'voc'])
def test_supervision_reads_the_same(form, yolo, voc, tmp_path):
    """supervision is an independent reader, with float32 boxes and polygons in pixels."""
    import supervision

    if form == 'yolo':
        shutil.rmtree(yolo / 'images/val')
        source, images = yolo, yolo / 'images/train'
        theirs = supervision.DetectionDataset.from_yolo(
            str(images), str(yolo / 'labels/train'), str(yolo / 'data.yaml')
        )
    else:
        (voc / 'Annotations/b.xml').unlink()
        source, images = voc, voc / 'JPEGImages'
        theirs = supervision.DetectionDataset.from_pascal_voc(str(images), str(voc / 'Annotations'))
    _, found, _ = convert(form, source, tmp_path)
    wanted = sorted(
        (Path(path).name, theirs.classes[label], *box.tolist())
        for path, detections in theirs.annotations.items()
        for label, box in zip(detections.class_id, detections.xyxy, strict=True)
    )
    ours = sorted(
        (Path(name).name, label, x, y, x + width, y + height)
        for name, label, a in found
        for x, y, width, height in [a['bbox']]
    )
    assert len(ours) == 2 and [o[:2] for o in ours] == [w[:2] for w in wanted]
    assert np.allclose([o[2:] for o in ours], [w[2:] for w in wanted], atol=1e-4)


def test_mmdet_loads_it(yolo, tmp_path):
    from mmdet.datasets import CocoDataset

    from mmswinv2 import hosts

    hosts.apply()
    _, _, summary = convert('yolo', yolo, tmp_path)
    data = CocoDataset(
        ann_file=str(tmp_path / 'out.json'), data_root=str(yolo), data_prefix=dict(img=''),
        metainfo=dict(classes=list(summary.classes)), pipeline=[],
    )  # fmt: skip
    first, last = data.get_data_info(0), data.get_data_info(len(data) - 1)
    assert [i['bbox_label'] for i in first['instances']] == [0, 1]
    assert first['instances'][0]['bbox'] == pytest.approx([40, 30, 60, 50])
    assert Path(first['img_path']).is_file()
    assert last['instances'][0]['mask'] == [pytest.approx([10, 8, 60, 8, 60, 40])]


# --- folders, names and borders ------------------------------------------------------------------


def test_folders_that_are_links_are_entered(tmp_path):
    root = tmp_path / 'set'
    for name in ('set/images/a.jpg', 'elsewhere/images/b.jpg'):
        picture(tmp_path / name)
        write((tmp_path / name).parent.parent / f'labels/{Path(name).stem}.txt', '0 .5 .5 .2 .2')
    write(root / 'classes.txt', 'cat\n')
    (root / 'more').symlink_to('../elsewhere')
    (root / 'images/loop').symlink_to('..')  # a folder that contains itself
    (root / 'all').symlink_to('images')  # and one with a second name, found first
    _, found, summary = convert('yolo', root, tmp_path)
    assert [name for name, *_ in found] == ['images/a.jpg', 'more/images/b.jpg']
    assert not summary.left_out
    for form, name, text in (
        ('voc', 'b.xml', VOC.format(name='b.jpg', width=100, objects=objects(1, 1, 9, 9))),
        ('labelme', 'b.json', json.dumps(dict(imagePath='b.jpg', shapes=[
            shape('rectangle', [[1, 1], [9, 9]])]))),
    ):  # fmt: skip
        write(tmp_path / 'elsewhere/images' / name, text)
        _, found, _ = convert(form, root, tmp_path)
        assert [name for name, *_ in found] == ['more/images/b.jpg'], form


@pytest.mark.parametrize('form', ['yolo', 'voc', 'labelme'])
def test_files_that_a_mac_writes_beside_others_are_left_out(form, tmp_path):
    root = tmp_path / 'set'
    picture(root / 'images/a.jpg')
    if form == 'yolo':
        write(root / 'labels/a.txt', '0 .5 .5 .2 .2')
        write(root / 'classes.txt', 'cat\n')
    elif form == 'voc':
        text = VOC.format(name='a.jpg', width=100, objects=objects(1, 1, 9, 9))
        write(root / 'images/a.xml', text)
    else:
        shapes = [shape('rectangle', [[1, 1], [9, 9]])]
        write(root / 'images/a.json', json.dumps(dict(imagePath='a.jpg', shapes=shapes)))
    for path in [path for path in root.rglob('*') if path.is_file()]:
        path.with_name(f'._{path.name}').write_bytes(b'\0\5\x16\7\0\2\0\0Mac OS X')
    _, found, summary = convert(form, root, tmp_path)
    assert [name for name, *_ in found] == ['images/a.jpg']
    assert summary.images == 1 and not summary.left_out


@pytest.mark.parametrize('suffix', ['jpg', 'JPG'])
@pytest.mark.parametrize('form', ['voc', 'labelme'])
def test_label_files_that_were_copied_with_their_image(tmp_path, form, suffix):
    """A copied file still names the first image; its objects must go to the image beside it."""
    root = tmp_path / 'set'
    for name, x in (('a', 10), ('b', 30)):
        picture(root / f'{name}.{suffix}')
        if form == 'voc':
            marked = objects(x + 1, 11, x + 5, 15)
            write(root / f'{name}.xml', VOC.format(name=f'a.{suffix}', width=100, objects=marked))
        else:
            labelme(
                root / f'{name}.json', [shape('rectangle', [[x, 10], [x + 5, 15]])], f'a.{suffix}'
            )
    _, found, summary = convert(form, root, tmp_path)
    assert boxes(found) == [
        (f'a.{suffix}', 'dog', [10, 10, 5, 5]), (f'b.{suffix}', 'dog', [30, 10, 5, 5])
    ]  # fmt: skip
    assert summary.left_out == {
        'names in label files, as their own image is another':
        (1, str(root / ('b.xml' if form == 'voc' else 'b.json')))
    }  # fmt: skip


@pytest.mark.parametrize('path', ['{root}', '.'], ids=['absolute', 'relative'])
def test_yolo_from_another_folder(yolo, tmp_path, monkeypatch, path):
    """Ultralytics writes absolute paths, while SOURCE may be a relative path."""
    write(yolo / 'data.yaml', f'path: {path.format(root=yolo)}\ntrain: train.txt\nval: images/val\n'
          'names: [cat, dog]\n')  # fmt: skip
    write(yolo / 'train.txt', f'{yolo}/images/train/a.jpg\n./images/train/b.jpg\n')
    monkeypatch.chdir(tmp_path)
    for split, wanted in (('train', 'images/train/a.jpg'), ('val', 'images/val/c.jpg')):
        _, found, summary = convert('yolo', 'yolo', tmp_path, split=split)
        assert {name for name, *_ in found} == {wanted} and not summary.left_out
    picture(tmp_path / 'other/a.jpg')
    with pytest.raises(UserError, match=r'c.jpg for val, which is not below other, the folder of'):
        convert('yolo', 'yolo', tmp_path, split='val', images='other')


def test_polygons_are_cut_off_at_the_border(tmp_path):
    """Polygons are clipped; moving their points would bend edges that cross the border."""
    import pycocotools.mask

    picture(tmp_path / 'set/a.png')
    outlines = [
        [[10, 60], [300, 0], [300, 70], [10, 90]],
        [[-50, -50], [150, 50], [-50, 150]],
        [[20, 20], [40, 20], [40, 40], [20, 40]],
    ]
    labelme(tmp_path / 'set/a.json', [shape('polygon', points) for points in outlines], 'a.png')
    _, found, _ = convert('labelme', tmp_path / 'set', tmp_path)
    for points, (_, _, annotation) in zip(outlines, found, strict=True):
        large = np.ravel(np.array(points, float) + 200)  # on a picture that contains it whole
        codes = pycocotools.mask.frPyObjects([large.tolist()], 700, 700)
        wanted = pycocotools.mask.decode(codes)[200:280, 200:300, 0]
        codes = pycocotools.mask.frPyObjects(annotation['segmentation'], 80, 100)
        ours = pycocotools.mask.decode(codes)[..., 0]
        assert (ours != wanted).mean() < 0.02
        rows, columns = np.nonzero(wanted)
        x, y, width, height = annotation['bbox']
        assert (x, y) == pytest.approx((columns.min(), rows.min()), abs=1)
        assert (x + width, y + height) == pytest.approx((columns.max() + 1, rows.max() + 1), abs=1)
        assert annotation['area'] == pytest.approx(wanted.sum(), rel=0.03)


def test_lines_of_classes_are_not_moved(tmp_path):
    picture(tmp_path / 'set/a.jpg')
    write(tmp_path / 'set/a.txt', '2 .5 .5 .2 .2')
    write(tmp_path / 'set/classes.txt', 'cat\ndog\nhorse\n\n\n')
    _, ((_, label, _),), _ = convert('yolo', tmp_path / 'set', tmp_path)
    assert label == 'horse'
    write(tmp_path / 'set/classes.txt', 'cat\n\ndog\nhorse\n')
    with pytest.raises(UserError, match=r'classes.txt, line 2 is empty'):
        convert('yolo', tmp_path / 'set', tmp_path)


def test_what_stands_behind_a_box_of_yolo(yolo, tmp_path):
    write(yolo / 'data.yaml', 'names: [cat, dog]\nkpt_shape: [2, 3]\n')
    write(yolo / 'labels/val/c.txt', '1 .35 .3 .5 .4 .1 .2 2 .3 .2 1 .87')  # keypoints, confidence
    _, found, _ = convert('yolo', yolo, tmp_path)
    assert boxes(found)[-1] == ('images/val/c.jpg', 'dog', [10, 8, 50, 32])
    write(yolo / 'labels/val/c.txt', '1 .35 .3 .5 .4 .1 .2 2 .3 .2 1 .87 1')  # a track number, too
    _, found, summary = convert('yolo', yolo, tmp_path)
    assert boxes(found)[-1] == ('images/val/c.jpg', 'dog', [10, 8, 50, 32]) and not summary.masks
    write(yolo / 'labels/val/c.txt', '1 .1 .1 .6 .1 .6 .5 1.87 17')  # no confidence before it
    with pytest.raises(UserError, match='has numbers far from the image'):
        convert('yolo', yolo, tmp_path)


@pytest.mark.parametrize('others', ['', '0 .5 .5 .1 .1 .8 3\n', '0 .1 .1 .5 .1 .5 .2 .1 .2 .7 9\n'])
@pytest.mark.parametrize('number', [0, 1, 2, 17])
def test_track_numbers_behind_polygons_of_yolo(yolo, tmp_path, number, others):
    """Numbers above 1 are no corners, and where one line has a track number, all have."""
    write(yolo / 'labels/train/a.txt', others + '1 .2 .25 .6 .5 .9 1\n' * bool(others))
    write(yolo / 'labels/val/c.txt', f'1 .1 .1 .6 .1 .6 .5 .87 {number}\n')
    _, found, summary = convert('yolo', yolo, tmp_path)
    want = [10, 8, 60, 8, 60, 40]
    if not (number > 1 or others):
        want += [87, number * 80]
    assert found[-1][2]['segmentation'] == [pytest.approx(want)]
    if others:
        assert boxes(found)[1] == ('images/train/a.jpg', 'dog', [0, 0, 50, 40])
    assert summary.masks == 1 + others.startswith('0 .1')


@pytest.mark.parametrize('line', ['0 .1 .1 .6 .1 .6 .9 .5 2', '0 .5 .5 .2 .2 .8 17'])
def test_corners_of_yolo_where_a_line_may_have_a_track_number(yolo, tmp_path, line):
    """One line, maybe a wrong one, takes no corner at the edge of the image from the others."""
    edge = '1 .1 .5 .6 .5 .6 1 .1 1\n'
    write(yolo / 'labels/val/c.txt', f'{edge}1 .1 .1 .6 .1 .6 .5 .1 .5\n')
    _, found, _ = convert('yolo', yolo, tmp_path)
    write(yolo / 'labels/train/a.txt', line)
    if len(line.split()) > 7:
        with pytest.raises(UserError, match=r'a.txt, line 1 ends in a corner far .*c.txt, line 2'):
            convert('yolo', yolo, tmp_path)
    else:
        _, again, _ = convert('yolo', yolo, tmp_path)
        polygons = [[a['segmentation'] for *_, a in some[-2:]] for some in (found, again)]
        assert polygons[0] == polygons[1] and len(polygons[0][0][0]) == 8


@pytest.mark.parametrize('number', [-1, 0, 1, 17])
def test_track_numbers_of_yolo(yolo, tmp_path, number):
    """A line of six numbers is no triangle if all ends are whole and the boxes are on the image."""
    write(yolo / 'labels/train/a.txt', f'0 .5 .5 .2 .25 .9 {number}\n0 .2 .2 .2 .25 .6 2\n')
    write(yolo / 'labels/val/c.txt', f'1 .35 .3 .5 .4 .87 {number}\n1 .5 .5 1 1 .4\n')
    _, found, summary = convert('yolo', yolo, tmp_path)
    assert boxes(found) == [
        ('images/train/a.jpg', 'cat', [40, 30, 20, 20]),
        ('images/train/a.jpg', 'cat', [10, 6, 20, 20]),
        ('images/val/c.jpg', 'dog', [10, 8, 50, 32]),
        ('images/val/c.jpg', 'dog', [0, 0, 100, 80]),
    ]
    assert summary.masks == 0


@pytest.mark.parametrize(
    'other',
    [
        '0 .1 .1 .6 .1 .6 .5',
        '0 .1 .1 .6 .1 .6 .5 .1 .5',
        '0 0 0 1 0 0 1',
        '0 .5 .5 .2 .2 .3 1 .9',  # a confidence
        '0 .4 .6 .3 .7 1.5 0',  # no confidence
    ],
)
def test_triangles_of_yolo_that_end_at_the_edge(yolo, tmp_path, other):
    write(yolo / 'labels/train/a.txt', f'1 .35 .3 .5 .4 .8 1\n{other}\n')
    (yolo / 'labels/val/c.txt').unlink()
    _, found, summary = convert('yolo', yolo, tmp_path)
    assert summary.masks == 2
    assert found[0][2]['segmentation'] == [pytest.approx([35, 24, 50, 32, 80, 80])]


def test_images_of_other_channels_and_names_that_are_too_long(tmp_path):
    import tifffile

    root = tmp_path / 'set'
    root.mkdir()
    tifffile.imwrite(root / 'five.tif', np.zeros((80, 100, 5), np.uint16),
                     photometric='minisblack', planarconfig='contig')  # fmt: skip
    np.save(root / 'gray.npy', np.zeros((80, 100), np.uint8))
    names = ['five.tif', 'gray.npy', *['x' * 300 + '.jpg'] * 3]
    rows = [f'{name},100,80,dog,1,1,9,9' for name in names]
    write(root / 'a.csv', '\n'.join([HEADER, *rows]))
    _, found, summary = convert('csv', root / 'a.csv', tmp_path)
    assert [name for name, *_ in found] == ['five.tif', 'gray.npy']
    assert summary.left_out['images that are missing'][0] == 1


@pytest.mark.parametrize('text', ['train: {long}', 'train: list.txt'])
def test_names_in_yaml_and_lists_that_are_too_long(yolo, tmp_path, text):
    long = 'x' * 300
    write(yolo / 'list.txt', f'{long}.jpg\nimages/train/a.jpg\n')
    write(yolo / 'data.yaml', f'{text.format(long=long)}\nnames: [cat, dog]\n')
    if 'long' in text:
        with pytest.raises(UserError, match='xxx, not found here'):
            convert('yolo', yolo, tmp_path, split='train')
        return
    _, _, summary = convert('yolo', yolo, tmp_path, split='train')
    assert summary.images == 1 and summary.left_out['images that are missing'][0] == 1
