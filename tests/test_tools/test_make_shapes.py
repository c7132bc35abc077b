"""The drawn data set: exact, reproducible, and never overwriting other files."""

import importlib.util
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.tool_server import run_program

SCRIPT = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_shapes.py'
spec = importlib.util.spec_from_file_location('make_shapes', SCRIPT)
shapes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shapes)

COUNTS = {'train2017': 24, 'val2017': 8}


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('data') / 'shapes'
    assert shapes.make_shapes(out, *COUNTS.values())
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def semantic_map(root: Path, split: str, image: dict) -> np.ndarray:
    path = root / 'stuffthingmaps' / split / Path(image['file_name']).with_suffix('.png')
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def run(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return run_program(command)


@pytest.mark.parametrize('split', COUNTS)
def test_pycocotools_loads_every_class_and_size(root, split):
    coco = COCO(str(root / 'annotations' / f'instances_{split}.json'))
    assert len(coco.imgs) == COUNTS[split]
    assert [cat['name'] for cat in coco.loadCats(coco.getCatIds())] == list(shapes.THINGS)
    assert all(coco.getAnnIds(catIds=category) for category in coco.getCatIds())
    values = set()
    for image in coco.imgs.values():
        assert 1 <= len(coco.getAnnIds(imgIds=image['id'])) <= 4
        pixels = cv2.imread(str(root / split / image['file_name']))
        semantic = semantic_map(root, split, image)
        assert pixels.shape == (image['height'], image['width'], 3)
        assert semantic.shape == (image['height'], image['width']) and semantic.dtype == np.uint8
        values.update(np.unique(semantic).tolist())
    assert values == set(range(len(shapes.CLASSES)))
    assert len({(image['height'], image['width']) for image in coco.imgs.values()}) > 1


@pytest.mark.parametrize('split', COUNTS)
def test_polygons_boxes_areas_and_pixels_agree(root, split):
    coco = COCO(str(root / 'annotations' / f'instances_{split}.json'))
    overlaps, unions = [], []
    for image in coco.imgs.values():
        semantic = semantic_map(root, split, image)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image['id']))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotations]
        assert all(not (one & other).any() for one, other in combinations(masks, 2))
        for annotation, mask in zip(annotations, masks, strict=True):
            polygon = np.array(annotation['segmentation'][0]).reshape(-1, 2)
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            x, y, w, h = annotation['bbox']
            assert np.allclose([x, y, x + w, y + h], [*low, *high], atol=1e-6)
            assert (low >= 0).all() and (high <= [image['width'], image['height']]).all()
            # the coverage of all pixels sums up to the area
            share = shapes.coverage(polygon, image['height'], image['width'], scale=16)
            assert annotation['area'] == pytest.approx(share.sum(), rel=5e-3)
            # the drawn pixels of this shape: pixels near it with its class in the map
            near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            drawn = near & (semantic == annotation['category_id'] - 1)
            overlaps.append((drawn & mask).sum())
            unions.append((drawn | mask).sum())
            assert overlaps[-1] / unions[-1] > 0.9  # a tiny star is all border
            box = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8))))
            slack = 3 if annotation['category_id'] > 2 else 2  # sharp tips fill no half pixel
            assert np.abs(box - annotation['bbox']).max() < slack
    assert sum(overlaps) / sum(unions) > 0.985  # shifted by a quarter of a pixel: 0.98


def test_image_shows_the_shape_where_the_map_says(root):
    """Colors are strong inside a shape and faint outside, so the image is not shifted."""
    image, semantic, drawn = shapes.draw(size=160, seed=0, split=0, index=0)
    color = np.ptp(image.astype(int), axis=2) / image.max(axis=2)
    thing = (semantic < len(shapes.THINGS)).astype(np.uint8)
    inner = cv2.erode(thing, np.ones((3, 3), np.uint8)) > 0
    outer = cv2.dilate(thing, np.ones((3, 3), np.uint8)) == 0
    assert drawn and np.percentile(color[inner], 1) > np.percentile(color[outer], 99)


def test_same_seed_same_files_and_more_images_keep_the_first(root, tmp_path):
    expected = files(root)
    shapes.make_shapes(tmp_path / 'again', *COUNTS.values())
    assert files(tmp_path / 'again') == expected

    shapes.make_shapes(tmp_path / 'fewer', 3, 2)
    pictures = {
        name: data for name, data in files(tmp_path / 'fewer').items() if name[-4:] != 'json'
    }
    assert len(pictures) == 2 * (3 + 2)
    assert all(expected[name] == data for name, data in pictures.items())

    shapes.make_shapes(tmp_path / 'other', 3, 2, seed=1)
    other = files(tmp_path / 'other')
    assert all(other[name] != data for name, data in pictures.items())


def test_second_run_changes_nothing_and_repairs_what_is_missing(tmp_path):
    out = tmp_path / 'shapes'
    run(out, '--train', 2, '--val', 2).succeeded()
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    again = run(out, '--train', 2, '--val', 2)
    assert again.returncode == 0 and 'complete already' in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before

    whole = files(out)
    (out / 'val2017' / '000000000001.jpg').unlink()
    assert shapes.make_shapes(out, 2, 2)
    assert files(out) == whole


def test_a_run_that_was_cut_off_is_made_again(tmp_path, monkeypatch):
    def cut_off(*args):
        if args[2:4] == (1, 1):
            raise KeyboardInterrupt
        return draw(*args)

    draw = shapes.draw
    monkeypatch.setattr(shapes, 'draw', cut_off)
    with pytest.raises(KeyboardInterrupt):
        shapes.make_shapes(tmp_path, 2, 2)
    assert not json.loads((tmp_path / 'shapes.json').read_text())['complete']
    assert not (tmp_path / 'annotations' / 'instances_val2017.json').exists()
    monkeypatch.undo()
    assert shapes.make_shapes(tmp_path, 2, 2)
    assert not shapes.make_shapes(tmp_path, 2, 2)


def test_other_content_is_refused_and_left_alone(tmp_path):
    precious = tmp_path / 'train2017' / 'precious.jpg'
    precious.parent.mkdir()
    precious.write_text('mine')
    for force in ([], ['--force']):
        refused = run(tmp_path, '--train', 2, '--val', 2, *force)
        assert refused.returncode == 1 and 'Traceback' not in refused.stderr
        assert 'name another folder' in refused.stderr
        assert files(tmp_path) == {'train2017/precious.jpg': b'mine'}


def test_large_shapes(root, tmp_path):
    def smallest(folder):
        coco = COCO(str(folder / 'annotations' / 'instances_train2017.json'))
        sides = []
        for annotation in coco.anns.values():
            image = coco.imgs[annotation['image_id']]
            sides.append(max(annotation['bbox'][2:]) / min(image['height'], image['width']))
        return min(sides)

    assert shapes.make_shapes(tmp_path / 'large', 24, 1, large=True)
    assert smallest(tmp_path / 'large') > 0.299 and smallest(root) < 0.2
    with pytest.raises(FileExistsError, match="'large': True"):
        shapes.make_shapes(tmp_path / 'large', 24, 1)


def test_other_parameters_need_force(tmp_path):
    shapes.make_shapes(tmp_path, 2, 2)
    before = files(tmp_path)
    refused = run(tmp_path, '--train', 1, '--val', 2)
    assert refused.returncode == 1 and '--force' in refused.stderr
    assert files(tmp_path) == before
    (tmp_path / 'notes.txt').write_text('mine')
    run(tmp_path, '--train', 1, '--val', 2, '--force').succeeded()
    assert len(list((tmp_path / 'train2017').iterdir())) == 1
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('args', [('--size', '8'), ('--train', '0'), ('--seed', '-1')])
def test_bad_numbers_are_a_sentence(tmp_path, args):
    refused = run(tmp_path / 'new', *args)
    assert refused.returncode == 2 and 'must be at least' in refused.stderr
    assert not (tmp_path / 'new').exists()


def test_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    refused = run(tmp_path / 'file' / 'shapes')
    assert refused.returncode == 1 and 'Traceback' not in refused.stderr
    assert 'cannot write' in refused.stderr
