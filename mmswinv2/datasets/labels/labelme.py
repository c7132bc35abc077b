"""LabelMe: a JSON file for each image, with polygons, rectangles, circles and masks.

Shapes of one ``group_id`` and label are one object with several polygons. A rectangle alone is a
box without a mask; a turned one, ``rotation`` of X-AnyLabeling, is read as a polygon, and its
``difficult`` shapes are crowds. Masks in pixels, as ``AI-Mask`` draws them, become run lengths.
Points and lines have no area and are left out.
"""

import base64
import functools
import io
import math
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ...errors import UserError
from ...files import read_json
from ...hosts.mmcv import open_image
from .common import (
    SUFFIXES,
    Labelled,
    Mark,
    Point,
    Source,
    number,
    pick_own_image,
    read_files,
    stated_size,
)

_CORNERS = 64  # of a circle
_POLYGONS = ('polygon', 'rotation', 'oriented_rectangle', 'quadrilateral')


def read_labelme(source: Source) -> tuple[None, list[Labelled]]:
    """Images with their objects, and no classes; raises `UserError` if a file is damaged."""
    return None, read_files(source, '.json', _read_file)


def _read_file(path: Path, source: Source) -> Labelled | None:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
        source.left_out.add("JSON files that are not LabelMe's", path)
        return None
    name = content.get('imagePath')
    folders = [path.parent]
    if source.root != source.path:
        folders.append(source.root / path.parent.relative_to(source.path))
    named: list[Path] = []
    if isinstance(name, str) and name:
        plain = PureWindowsPath(name)  # \ and / alike
        if not plain.is_absolute() and not plain.root:
            named = [folder / n for folder in folders for n in (plain.as_posix(), plain.name)]
            if len(plain.parts) > 1:  # a name alone could be that of another image there
                named.append(source.root / plain.as_posix())
    own = [folder / path.with_suffix(suffix).name for folder in folders for suffix in SUFFIXES]
    image = pick_own_image(source, named, own, path)
    if image is None:
        return None
    size = stated_size(content.get('imageWidth'), content.get('imageHeight'), str(path))
    marks: dict[Any, Mark] = {}
    for i, shape in enumerate(content['shapes']):
        where = f'{path}, shape {i}'
        label = shape.get('label') if isinstance(shape, dict) else None
        if not isinstance(label, str) or not (label := label.strip()):
            raise UserError(f'{where} has no label; give it one, or remove it')
        mark = _read_shape(shape, label, where, source)
        if mark is None:
            continue
        group = shape.get('group_id')
        if type(group) is not int:
            marks[i, None] = mark
        elif (first := marks.setdefault((group, mark.label), mark)) is not mark:
            first.polygons = [*_outlines(first), *_outlines(mark)]
            first.masks += mark.masks
            first.box = None
    return Labelled(image, list(marks.values()), size)


def _outlines(mark: Mark) -> list[list[Point]]:
    if mark.polygons or mark.box is None:
        return mark.polygons
    x1, y1, x2, y2 = mark.box
    return [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)]]


def _read_shape(shape: dict, label: str, where: str, source: Source) -> Mark | None:
    kind, given = shape.get('shape_type') or 'polygon', shape.get('points')
    if not isinstance(given, list) or not all(isinstance(p, list) and len(p) == 2 for p in given):
        raise UserError(f'{where}: points must be a list of [x, y]')
    points = [(number(x, where), number(y, where)) for x, y in given]
    mark = Mark(label, where, crowd=shape.get('difficult') is True)
    if kind in _POLYGONS:
        mark.polygons = [points]
    elif kind == 'rectangle' and len(points) in (2, 4):
        xs, ys = zip(*points, strict=True)
        mark.box = (min(xs), min(ys), max(xs), max(ys))
    elif kind == 'circle' and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
        mark.polygons = [[(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]]
        mark.box = (x - radius, y - radius, x + radius, y + radius)
    elif kind == 'mask' and points:
        x, y = map(int, points[0])
        mark.masks = [(x, y, functools.partial(_read_mask, shape.get('mask'), where))]
    else:
        source.left_out.add(f'shapes of the kind {kind!r:.30}, which have no area here', where)
        return None
    return mark


def _read_mask(text: Any, where: str) -> np.ndarray:
    """A mask (h, w), bool, from a PNG in base64, in which LabelMe writes 1 for its pixels."""
    try:
        with open_image(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            return np.asarray(image.convert('L')) > 0
    except Exception as error:  # decoders raise errors of any kind
        raise UserError(
            f'{where}: its mask is no PNG in base64 ({error!s:.100}); draw it again, or remove it'
        ) from error
