"""YOLO: a text file for each image, a line for each object, in fractions of the image's size.

``class x y width height`` with the center of the box, or ``class x1 y1 x2 y2 x3 y3 ...`` for a
polygon. A confidence may follow either, a track number the confidence, and keypoints a box if
``kpt_shape`` is set in data.yaml; all are ignored. The four corners of a rotated box are read as a
polygon.
"""

import math
import os
import reprlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ...errors import UserError
from ...files import IMAGES, is_inside
from ...log import warn
from .common import (
    UNLABELLED,
    Box,
    Labelled,
    Mark,
    Source,
    find_files,
    first_file,
    number,
    read_text,
    slashes,
)

_FAR = 10  # largest number of a box, in fractions of the image
_NEAR = -1, 2  # range of polygon corners
_LINE = 'a line is "class x y width height", or a class and a polygon, in shares of the image, 0-1'


class _TextLoader(yaml.SafeLoader):
    """Reads all values as texts, where YAML makes others of ``on``, ``no``, ``null`` and 007."""

    # merge keys alone keep their meaning
    yaml_implicit_resolvers = {'<': yaml.SafeLoader.yaml_implicit_resolvers['<']}  # noqa: RUF012


def read_yolo(source: Source) -> tuple[list[str], list[Labelled]]:
    """Classes, and images with their objects; raises `UserError` if a line is invalid."""
    names, content = _read_names(source.path)
    keypoints = 1
    shape = content.get('kpt_shape') or [0]
    for value in shape if isinstance(shape, list) else [shape]:
        if type(value) is not int or not 0 <= value < 1000:
            raise UserError(
                f'{source.path}/data.yaml: kpt_shape={_short(value)} are no two numbers'
            )
        keypoints *= value
    alone = source.split is None  # without a list of images
    images = find_files(source.root, *IMAGES) if alone else _images_of(source, content)
    found, seen, twins = [], set(), []  # `seen` has real paths
    ends = _Ends()
    for image in images:
        text = next((p for p in _label_files(image, source) if p.is_file()), None)
        if text is None:
            source.left_out.add(UNLABELLED, image)
            continue
        real = os.path.realpath(text)
        if real in seen:
            twins.append(image)
        seen.add(real)
        marks = _read_lines(text, names, keypoints, source, ends)
        found.append(Labelled(image, marks, shares=True))
    if twins:  # such as a.png beside a.jpg
        warn(f'{len(twins)} images, first {twins[0]}, get the objects of another of the same name')
    _leave_out_tracks(ends, sum(bool(mark.polygons) for entry in found for mark in entry.marks))
    for path in find_files(source.path, '.txt') if source.split is None else ():
        if path.name != 'classes.txt' and os.path.realpath(path) not in seen:
            parts = path.parent.relative_to(source.path).parts
            if 'labels' in parts or _is_label_file(path):
                source.left_out.add('label files without an image', path)
    return names, found


def _short(value: Any) -> str:
    """The beginning of a value of YAML, which by its anchors may have 10^9 items."""
    return f'{reprlib.repr(value):.40}'


def _read_names(folder: Path) -> tuple[list[str], dict[str, Any]]:
    for name in ('data.yaml', 'data.yml', 'dataset.yaml'):
        if not (path := folder / name).is_file():
            continue
        try:
            content = yaml.safe_load(text := read_text(path))
            words = _TextLoader(text).get_single_data()
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f'{path} is no YAML: {" ".join(str(error).split())}') from error
        names = words.get('names') if isinstance(words, dict) else None
        if isinstance(names, dict):
            try:
                places = {int(key): value for key, value in names.items()}
            except (TypeError, ValueError):
                places = {}
            whole = sorted(places) == list(range(len(names)))
            names = [places[i] for i in range(len(names))] if whole else None
        if not names or type(names) is not list or not all(n and type(n) is str for n in names):
            raise UserError(
                f'{path} has no names of the classes: names is a list of them, or a table from 0 '
                'on without gaps'
            )
        return names, content
    for name in ('classes.txt', 'obj.names', '_darknet.labels'):
        if not (path := folder / name).is_file():
            continue
        lines = list(map(str.strip, read_text(path).rstrip().splitlines()))
        if '' in lines:
            raise UserError(
                f'{path}, line {lines.index("") + 1} is empty, and the number of a line is that of '
                'its class; take it out, or give the class a name'
            )
        return lines, {}
    raise UserError(
        f'{folder} has no data.yaml with names, nor a classes.txt, which say what classes there are'
    )


def _images_of(source: Source, content: dict[str, Any]) -> list[Path]:
    """The images of a split: folders, or files with lists of images."""
    given = content.get(str(source.split))
    places: list[Any] = given if isinstance(given, list) else [given]
    if not places or not all(isinstance(place, str) for place in places):
        known = [key for key in ('train', 'val', 'test') if content.get(key)]
        raise UserError(
            f'--split {source.split}: data.yaml of {source.path} has {", ".join(known) or "none"}'
        )
    base = content.get('path')
    if isinstance(base, (list, dict, set)):
        raise UserError(f'{source.path}/data.yaml: path={_short(base)} is no folder')
    found: set[Path] = set()
    for place in map(slashes, places):
        # exported sets have '../train/images' where they mean 'train/images'
        plain = PurePosixPath(*(p for p in PurePosixPath(place).parts if p != '..'))
        tries = [source.path / str(base or '') / place, source.path / place, source.path / plain]
        path = next((p for p in tries if is_inside(p, source.path) and os.path.exists(p)), None)
        if path is None:
            raise UserError(f'{source.path}: data.yaml has {source.split}: {place}, not found here')
        if path.is_dir():
            found.update(find_files(path, *IMAGES))
            continue
        for line in map(slashes, filter(None, map(str.strip, read_text(path).splitlines()))):
            tries = [path.parent / line, source.path / line]
            if (image := first_file(tries, source.root)) is None:
                source.left_out.add('images that are missing', f'{line} of {path}')
            else:
                found.add(image)
    if beyond := [image for image in found if not is_inside(image, source.root)]:
        raise UserError(
            f'data.yaml of {source.path} has {min(beyond)} for {source.split}, which is not below '
            f'{source.root}, the folder of the images; leave --images out, or name one above it'
        )
    return sorted(found)


def _label_files(image: Path, source: Source) -> list[Path]:
    """Where the label file of an image may be: in labels/ for images/, beside it, in SOURCE."""
    name = Path(os.path.relpath(image, source.root)).with_suffix('.txt')
    names = [name, 'labels' / name]
    if places := [i for i, part in enumerate(name.parts[:-1]) if part == 'images']:
        parts = list(name.parts)
        parts[places[-1]] = 'labels'
        names.insert(0, Path(*parts))
    return [folder / name for folder in (source.root, source.path) for name in names]


@dataclass
class _Ends:
    """Objects by what the last two numbers of their lines are."""

    tracks: list[Mark] = field(default_factory=list)  # a confidence and a track number
    corners: list[Mark] = field(default_factory=list)
    #: either of them, with the box that the object may be
    doubtful: list[tuple[Mark, Box]] = field(default_factory=list)


def _read_lines(
    path: Path, names: list[str], keypoints: int, source: Source, ends: _Ends
) -> list[Mark]:
    """Objects of a file, which are added to `ends`, too, where they have more than a box."""
    marks = []
    for i, line in enumerate(read_text(path).splitlines(), start=1):
        where, values = f'{path}, line {i}', line.split()
        if not values:
            continue
        if len(values) < 5:
            raise UserError(f'{where}: {line!r:.60} has {len(values)} numbers; {_LINE}')
        label, *numbers = [number(value, where) for value in values]
        if not label.is_integer():
            raise UserError(f'{where}: the class {values[0]} is no whole number; {_LINE}')
        if keypoints and len(numbers) - 4 - keypoints in (0, 1, 2):
            numbers = numbers[:4]
        # the last two are a confidence and a track number, or a corner
        paired = len(numbers) > 5 and len(numbers) % 2 == 0
        tracked = paired and numbers[-1].is_integer() and 0 <= numbers[-2] <= 1
        x, y, width, height = numbers[:4]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        sure = tracked and numbers[-1] >= _NEAR[1]
        if sure:
            numbers = numbers[:-2]
        polygon = len(numbers) > 5
        far = polygon and not all(_NEAR[0] <= n < _NEAR[1] for n in numbers)
        if far or max(map(abs, numbers[:4])) > _FAR:
            what = 'has numbers far from the image' if polygon else 'is in pixels'
            raise UserError(f'{where}: {line!r:.60} {what}; {_LINE}')
        if not 0 <= label < len(names):
            source.left_out.add('objects of unknown classes', f'{where}: {values[0]}')
            continue
        mark = Mark(names[int(label)], where)
        if not polygon:
            mark.box = box
        else:
            mark.polygons = [list(zip(numbers[::2], numbers[1::2], strict=False))]
        if tracked and not sure:
            ends.doubtful.append((mark, box))
        elif paired:
            (ends.tracks if sure else ends.corners).append(mark)
        marks.append(mark)
    return marks


def _leave_out_tracks(ends: _Ends, polygons: int) -> None:
    """Decide whether doubtful lines end in a confidence and a track number, or in a corner.

    Trackers write both on every line: one line that surely has them decides for all, and must not
    stand beside one that ends in a corner. Without such a line, all `polygons` of the set must be
    doubtful, with three corners, and lie on the image as boxes: real triangles seldom end in a
    whole number, and all of a set never do.
    """
    tracked = [mark for mark in ends.tracks if mark.polygons]
    if tracked and ends.corners:
        raise UserError(
            f'{tracked[0].where} ends in a corner far from the image, or in a confidence and a '
            f'track number, which {ends.corners[0].where} does not have; mend one of them'
        )
    if not ends.tracks:
        boxes = [
            box for mark, box in ends.doubtful
            if len(mark.polygons[0]) == 3 and min(box) >= -0.01 and max(box) <= 1.01
        ]  # fmt: skip
        if not boxes or len(boxes) < polygons:
            return
        warn(
            f'{len(boxes)} lines, first {ends.doubtful[0][0].where}, are read as a box, its '
            'confidence and a track number; were they triangles, no corner may be the whole '
            'number 0 or 1'
        )
    elif ends.corners:
        return
    for mark, box in ends.doubtful:
        if len(mark.polygons[0]) == 3:
            mark.box, mark.polygons = box, []
        else:
            mark.polygons[0].pop()


def _is_label_file(path: Path) -> bool:
    """Whether a text begins with a line of numbers, as no list of images or of classes does."""
    with path.open('rb') as file:
        words = file.readline(10000).split()
    try:
        return len(words) > 4 and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False
