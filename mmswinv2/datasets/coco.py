"""COCO annotation files: read once, checked, and repaired where the right value is known.

pycocotools, mmdet and its evaluator do not check such files: an annotation of id 0 never counts as
detected, a mask of another size counts as wrong, and a missing key raises a KeyError hours later.
`read_coco` replaces their reading (see `mmswinv2.hosts.mmdet_annotation_patches`).
"""

import gc
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json
from ..log import warn
from .box_rules import BOX_RULES, XYWH, Annotations, Rule, apply_rules
from .coco_masks import check_masks

_DIGITS = re.compile('[0-9]{1,19}')


def can_be_path(text: str) -> bool:
    """Whether a text can be the path of a file: without NUL and lone surrogates."""
    try:
        return b'\0' not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _is_id(number: int) -> bool:
    return abs(number) < 2**63  # evaluators use 64-bit ids


_FIELDS = (  # list, key, type, description of valid values, check of a value
    ('images', 'id', int, 'a whole number from 0 to 2**63 - 1', lambda n: 0 <= n < 2**63),
    ('images', 'file_name', str, 'a text that can be the path of a file', can_be_path),
    ('images', 'height', int, 'pixels, a whole number from 1 to 65535', lambda n: 0 < n < 2**16),
    ('images', 'width', int, 'pixels, a whole number from 1 to 65535', lambda n: 0 < n < 2**16),
    ('categories', 'id', int, 'a whole number below 2**63', _is_id),
    ('categories', 'name', str, 'a text', None),
    ('annotations', 'image_id', int, 'the id of an image, a whole number', _is_id),
    ('annotations', 'category_id', int, 'the id of a category, a whole number', _is_id),
    ('annotations', 'bbox', list, 'a box [x, y, width, height] in pixels', None),
)


_IMAGE_RULE = Rule(
    'are of an image that is not in images',
    lambda a: a.size[:, 0] == 0,
    'leave out',
    'image_id must be the id of an entry of images',
)
_RULES = (
    _IMAGE_RULE,
    *BOX_RULES,
    Rule(
        'have a box thinner than a pixel, which mmdet shows no model, and which counts as missed',
        lambda a: (a.box[:, 2:] < 1).any(1),
        'warn',
        'take them out, or make them a pixel wide and high',
    ),
    Rule(
        'have a box that looks like [x1, y1, x2, y2]',
        lambda a: _are_corners(a),
        'all',
        '{form}: write [x1, y1, x2 - x1, y2 - y1]',
    ),
    Rule(
        'have a box that reaches beyond its image',
        lambda a: (a.end > a.size + 1).any(1),
        'warn',
        '{form}, neither [x1, y1, x2, y2] nor [center, width, height]',
    ),
    Rule(
        'are crowds (iscrowd=1), which are ignored in training and in scores',
        lambda a: a.crowd,
        'all',
        'iscrowd is 0 for a single object',
    ),
)


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable the garbage collector, which would scan millions of new lists repeatedly."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@without_collection()
def read_coco(path: str | Path, boxes: bool = True) -> dict[str, Any]:
    """Read a COCO annotation file of boxes and masks, in UTF-8 or another Unicode encoding.

    What is repaired, left out or counted, each with a warning, and what is an error, is in
    docs/data.md. Files of referring expressions (RefCOCO) have rules of their own, and are
    only read.

    Args:
        path: the file, which is not changed.
        boxes: whether boxes and areas are used; if not, only masks and ids are checked.

    Returns:
        its content: ``images``, ``annotations`` (maybe none), ``categories``.

    Raises:
        UserError: naming the file, the entry, the rule and the way out.
    """
    return check_content(path, _read(path), boxes)


def check_content(path: Any, content: dict[str, Any], boxes: bool = True) -> dict[str, Any]:
    """Check and repair the content of an annotation file; see `read_coco`."""
    columns = _columns(path, content, boxes)
    annotations, images = content['annotations'], content['images']
    if images and all({'caption', 'dataset_name'} <= image.keys() for image in images):
        return content  # of RefCOCO, an image for each expression, category -1 for no object
    _refuse_repeats(path, columns)
    if not annotations:
        return content
    _refuse_unknown_categories(path, columns)
    _number(path, annotations)
    if boxes:
        _box_turned(path, annotations, columns['annotations', 'bbox'])
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    of_image = [sizes.get(i, (0, 0)) for i in columns['annotations', 'image_id']]
    table = Annotations(
        columns['annotations', 'bbox'] if boxes else np.ones((len(annotations), 4)),
        np.array(of_image),
        _crowds(path, annotations),
    )
    files = {image['id']: image['file_name'] for image in images}

    def describe(i: int) -> str:
        image, box = (annotations[i].get(key) for key in ('image_id', 'bbox'))
        where = files.get(image, f'image_id={image}')
        return f'of id {annotations[i]["id"]} on {where} with bbox={box}'

    keep = apply_rules(path, table, _RULES if boxes else (_IMAGE_RULE,), describe)
    keep &= _first_of_repeats(path, annotations, table)
    content['annotations'] = annotations = [annotations[i] for i in np.flatnonzero(keep)]
    areas = check_masks(path, annotations, table.size[keep], table.box[keep] if boxes else None)
    if boxes:
        _fill_areas(path, annotations, areas, table.box[keep, 2:])
    return content


@without_collection()
def read_fields(path: str | Path) -> dict[str, Any]:
    """Read an annotation file and check the type and range of each field, and nothing else."""
    content = _read(path)
    _columns(path, content, boxes=True)
    return content


def _columns(path: Any, content: dict, boxes: bool) -> dict[tuple[str, str], Any]:
    """The values of all entries by list and key, as ``('images', 'id')``; boxes as (n, 4)."""
    fields = _FIELDS if boxes else _FIELDS[:-1]
    columns: dict = {field[:2]: _column(path, content, *field) for field in fields}
    if boxes:
        columns['annotations', 'bbox'] = _boxes(path, columns['annotations', 'bbox'])
    return columns


def _refuse_repeats(path: Any, columns: dict[tuple[str, str], Any]) -> None:
    """Raise `UserError` if images or categories share an id, or images a file."""
    for name in ('images', 'categories'):
        if twice := repeated(columns[name, 'id']):
            raise UserError(
                f'{path}: the id {twice[0]} stands at several entries of {name}; each needs its own'
            )
    names = columns['images', 'file_name']
    if twice := repeated([*map(os.path.normpath, names)]):
        same = [name for name in names if os.path.normpath(name) == twice[0]]
        raise UserError(
            f'{path}: {len(same)} entries of images have file_name={some(dict.fromkeys(same))}; '
            'put all annotations of a file under one id'
        )


def repeated(values: Sequence[Any]) -> list[Any]:
    """The values that stand several times in a list, most frequent first."""
    if len(set(values)) == len(values):  # as nearly always; counting takes longer
        return []
    return [value for value, times in Counter(values).most_common() if times > 1]


def _refuse_unknown_categories(path: Any, columns: dict[tuple[str, str], Any]) -> None:
    known = dict(zip(columns['categories', 'id'], columns['categories', 'name'], strict=True))
    for i, category in enumerate(columns['annotations', 'category_id']):
        if category not in known:
            raise UserError(
                f'{path}: annotations[{i}] has category_id={category}, which no entry of '
                f'categories has; these have {some(known)}. Add the category, or mend the '
                'annotations'
            )


def read_categories(path: str | Path) -> list[dict]:
    """The ``categories`` of an annotation file, of COCO's format or LVIS's."""
    return _read(path)['categories']


def get_category_ids(path: str | Path, categories: Iterable[dict], names: Sequence[str]) -> list:
    """The ids of categories in the order of `names`, in which the place of a name is its label.

    Raises `UserError` if a name is missing, or stands at several categories.
    """
    known: dict[str, list] = {}
    for category in categories:
        known.setdefault(category['name'], []).append(category['id'])
    if twice := repeated(names):
        raise UserError(
            f'{path}: classes has {twice[0]!r} twice; each class has a place of its own'
        )
    if missing := [name for name in names if name not in known]:
        raise UserError(
            f'{path} lacks {len(missing)} of the {len(names)} classes ({some(missing)}); it has '
            f"{some(known)}. Set the data set's metainfo=dict(classes=(...)) to the names in the "
            'file and num_classes in the heads to their number; or, if the model is to tell all of '
            "these classes apart, add the missing ones to the file's categories (they need no "
            'annotations)'
        )
    for name in names:
        if len(ids := known[name]) > 1:
            raise UserError(
                f'{path}: the class {name!r} is the name of {len(ids)} categories, ids '
                f'{some(ids)}; give each its own name, or make them one'
            )
    return [known[name][0] for name in names]


def _read(path: str | Path) -> dict[str, Any]:
    if (path := Path(path)).exists() and not path.is_file() and not path.is_dir():
        raise UserError(f'{path} is a pipe or a device and no file; write the content to a file')
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f'{path} is no COCO annotation file: its content is no JSON object')
    content.setdefault('annotations', [])  # files of test images have none
    for name in ('images', 'annotations', 'categories'):
        entries = content.get(name)
        if not isinstance(entries, list) or set(map(type, entries)) - {dict}:
            raise UserError(
                f'{path} is no COCO annotation file: it needs {name}, a list of JSON objects'
            )
    return content


def _column(
    path: Any, content: dict, name: str, key: str, kind: type, wanted: str, rule: Any
) -> list:
    """The values of a key in all entries of a list; whole floats and digits become integers."""
    values = [entry.get(key) for entry in content[name]]
    for i, value in enumerate(values):
        if kind is int and type(value) is not int:
            whole = type(value) is float and value.is_integer()
            if whole or (type(value) is str and _DIGITS.fullmatch(value)):  # VIA quotes image_id
                content[name][i][key] = values[i] = value = int(value)
        if type(value) is not kind or not (rule is None or rule(value)):
            found = f'{key}={value!r:.60}' if key in content[name][i] else f'no {key}'
            raise UserError(f'{path}: {name}[{i}] has {found}; {key} must be {wanted}')
    return values


def _number(path: Any, annotations: list[dict]) -> None:
    """Number all annotations if an id is invalid: pycocotools stores floats, 0 for "not found"."""
    ids: list[Any] = [annotation.get('id') for annotation in annotations]
    whole = set(map(type, ids)) <= {int} and min(ids) > 0 and max(ids) <= 2**53
    if not whole or len(set(ids)) < len(ids):
        for number, annotation in enumerate(annotations, start=1):
            annotation['id'] = number
        warn(
            f'{path}: annotation ids must be different whole numbers from 1 to 2**53; the '
            f'{len(annotations)} annotations were given new ones'
        )


def _box_turned(path: Any, annotations: list[dict], boxes: np.ndarray) -> None:
    """Put boxes around the turned rectangles of CVAT, whose bbox is that before turning.

    CVAT writes ``occluded`` beside its rotation, which may else be an attribute of the user's own.
    """
    turned = [
        i
        for i, annotation in enumerate(annotations)
        if isinstance(extra := annotation.get('attributes'), dict)
        and {'rotation', 'occluded'} <= extra.keys()
        and type(degrees := extra['rotation']) in (int, float)
        and degrees % 180  # also true for NaN
        and np.isfinite(degrees)
        and not annotation.get('segmentation')
    ]
    for i in turned:
        angle = np.radians(annotations[i]['attributes']['rotation'])
        across, along = np.abs([np.cos(angle), np.sin(angle)])
        (x, y, *_), sides = boxes[i], boxes[i, 2:]
        around = sides * across + sides[::-1] * along
        boxes[i] = *((x, y) + (sides - around) / 2), *around
        annotations[i]['bbox'] = boxes[i].tolist()
    if turned:
        warn(
            f'{path}: {len(turned)} of {len(annotations)} annotations are turned (rotation in '
            f'attributes, in degrees), the first of id {annotations[turned[0]]["id"]}; their boxes '
            'are put around the turned objects'
        )


def _boxes(path: Any, boxes: list[list]) -> np.ndarray:
    for i, box in enumerate(boxes):
        if len(box) != 4 or set(map(type, box)) - {int, float}:
            raise UserError(f'{path}: annotations[{i}] has bbox={box!r}; {XYWH}')
    try:
        return np.array(boxes, np.float64).reshape(-1, 4)
    except OverflowError as error:
        raise UserError(f'{path}: a number of a bbox is too large ({error}); {XYWH}') from error


def _are_corners(a: Annotations) -> np.ndarray:
    """All true if widths and heights look like right and lower edges, else all false."""
    larger = (a.box[:, 2:] > a.box[:, :2]).all(1).mean() > 0.95
    beyond = (a.end > a.size + 1).any(1).mean() > 1 / 3
    return np.full(len(a.box), bool(len(a.box) >= 4 and larger and beyond))


def _first_of_repeats(path: Any, annotations: list[dict], table: Annotations) -> np.ndarray:
    """Mask of annotations that do not repeat an earlier one, as after merging a file twice."""
    keep = np.ones(len(annotations), bool)
    # one number for each: those that differ, as nearly all do, need no slow comparison
    ids = np.array([(a['image_id'], a['category_id']) for a in annotations], np.float64)
    digests = np.hstack([ids, table.box]) @ np.random.default_rng(0).random(6)
    _, places, times = np.unique(digests, return_inverse=True, return_counts=True)
    keys, seen = ('bbox', 'segmentation', 'image_id', 'category_id', 'iscrowd'), set()
    for i in np.flatnonzero(times[places] > 1):
        box, mask, *rest = (annotations[i].get(key) for key in keys)
        # of texts, which take as much memory as the file; hash(-1) is hash(-2)
        entry = hash(str(_normalized((box, mask, rest))))
        keep[i] = entry not in seen or not (box or mask)
        seen.add(entry)
    if not keep.all():
        again = annotations[int(keep.argmin())]
        warn(
            f'{path}: {int((~keep).sum())} of {len(keep)} annotations stand in the file twice and '
            f'are left out, the first on image_id={again["image_id"]} with bbox={again.get("bbox")}'
        )
    return keep


def _normalized(value: Any) -> Any:
    """Content of JSON whose text is the same if it is equal: 1 for 1.0, keys in order."""
    if isinstance(value, dict):
        value = sorted(value.items())
    if isinstance(value, (list, tuple)):
        return [*map(_normalized, value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _crowds(path: Any, annotations: list[dict]) -> np.ndarray:
    """Set ``iscrowd`` to 0 or 1, also from ``ignore``, which mmdet applies to no scores."""
    flags = [annotation.get('iscrowd') for annotation in annotations]
    plain = set(map(type, flags)) == {int} and set(flags) <= {0, 1}
    if plain and not any('ignore' in annotation for annotation in annotations):
        return np.array(flags, bool)
    if lacking := sum(annotation.get('iscrowd') is None for annotation in annotations):
        warn(f'{path}: {lacking} of {len(annotations)} annotations have no iscrowd; 0 is taken')
    for i, annotation in enumerate(annotations):
        flags = [annotation.get('iscrowd') or 0, annotation.pop('ignore', None) or 0]
        for name, flag in zip(('iscrowd', 'ignore'), flags, strict=True):
            if flag not in (0, 1):
                raise UserError(f'{path}: annotations[{i}] has {name}={flag!r}; it must be 0 or 1')
        annotation['iscrowd'] = int(any(flags))
    return np.array([bool(annotation['iscrowd']) for annotation in annotations])


def _fill_areas(path: Any, annotations: list[dict], areas: np.ndarray, sides: np.ndarray) -> None:
    """Set missing or impossible areas, for which mmdet drops annotations or raises KeyError.

    `areas` are those of the masks, 0 without, and `sides` the widths and heights of the boxes.
    """
    areas = np.where(areas > 0, areas, sides.prod(1))
    # of the box, which may be rounded, or of masks that overlap or reach beyond it
    most = (2 * np.maximum((sides + 1).prod(1), areas)).tolist()
    least = np.where(areas > 9, 1, 0).tolist()  # areas in fractions of the image are below 1
    lacking = [
        i
        for i, a in enumerate(annotations)
        if type(area := a.get('area')) not in (int, float) or not least[i] < area <= most[i]
    ]
    for i in lacking:
        annotations[i]['area'] = float(areas[i])
    if lacking:
        warn(
            f'{path}: {len(lacking)} of {len(annotations)} annotations have no area that can '
            'be; it is taken from their masks or, without these, from their boxes'
        )


def some(items: Iterable[Any]) -> str:
    """The first four of some things, for a message."""
    items = list(items)
    return ', '.join(map(repr, items[:4])) + (', ...' if len(items) > 4 else '')
