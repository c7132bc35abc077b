"""Conversion of label files to a COCO annotation file, with a report of what is left out."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import is_inside, write_atomically
from ..hosts.mmcv import open_image, shown_size
from ..progress import track
from .coco import check_content, repeated
from .coco_masks import encode_mask, fill_polygons
from .images import decode as read_array
from .labels import FORMATS, Labelled, LeftOut, Mark, Source

# begins every file, so that no other one is written over
_INFO = dict(description='converted by mmswinv2')
_FIRST = json.dumps(dict(info=_INFO)).encode()[:-1]


@dataclass
class Summary:
    """What was written, and what was not."""

    images: int
    boxes: int  # of all objects
    masks: int  # those with a mask
    crowds: int  # those that are ignored in training and in scores
    classes: dict[str, int]  # boxes by name, in the order of the ids, which begin at 1
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)  # number, the first

    def __str__(self) -> str:
        counts = [f'{name} {number}' for name, number in self.classes.items()]
        names = ', '.join(counts[:80]) + ', ...' * (len(counts) > 80)
        crowds = f' ({self.crowds} difficult, iscrowd=1)' * bool(self.crowds)
        lines = [
            f'{self.images} images, {self.boxes} boxes{crowds}, {self.masks} masks, '
            f'{len(self.classes)} classes: {names}'
        ]
        lines += ['left out:'] * bool(self.left_out)
        for what, (number, first) in self.left_out.items():
            lines.append(f'  {number}  {what}, the first {first}')
        return '\n'.join(lines)


def to_coco(
    form: str,
    source: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    offset: float | None = None,
    decode: bool = True,
) -> Summary:
    """Write a COCO annotation file; images stay where they are.

    The ``file_name`` of an image is its path from `images`. Sizes are those that mmcv's loader
    gives, turned by EXIF. Boxes and polygons are clipped at the borders of their image. The content
    is checked by the rules of `read_coco` before it is written.

    Args:
        form: key of `FORMATS`.
        source: folder of the labels, or the CSV file.
        out: the .json file.
        images: folder of the images; ``None``: `source`, or the folder of the file.
        split: such as ``'train'``: what data.yaml (YOLO) or ImageSets/Main (Pascal VOC) lists.
        classes: names in the order of their ids, others are left out; ``None``: those of YOLO's
            data.yaml, or all that are found, sorted.
        offset: subtracted from ``xmin`` and ``ymin``; ``None``: 1 of Pascal VOC, 0 of CSV.
        decode: check that every image can be decoded, instead of only reading its header.

    Raises:
        UserError: if nothing can be converted, or a label file is damaged.
    """
    source, out = Path(source), Path(out)
    _check(form, source, out, split, offset)
    root = Path(images) if images is not None else source if source.is_dir() else source.parent
    if not root.is_dir():
        raise UserError(f'{root} is no folder; give that of the images')
    left_out = LeftOut()
    names, labelled = FORMATS[form](Source(source, root, left_out, split, offset))
    labels = {mark.label for entry in labelled for mark in entry.marks}
    names = list(classes) if classes is not None else sorted(labels) if names is None else names
    for name in sorted(labels.difference(names)):  # its objects would be background
        if alike := [each for each in names if each.casefold() == name.casefold()]:
            raise UserError(
                f'{source}: labels have {name!r}, and the classes {alike[0]!r}; write it in one way'
            )
    if twice := repeated(names):
        raise UserError(f'{source}: the class {twice[0]!r} stands twice among the names')
    content = _content(_merged(labelled, left_out), names, root, left_out, decode)
    if not content['annotations']:
        reasons = '; '.join(f'{n} {what}, the first {first}' for what, (n, first)
                            in left_out.found.items())  # fmt: skip
        raise UserError(
            f'{source}: no object of {form} on an image of {root} is left to write '
            f'({reasons or "no label file has any"})'
        )
    _write(content, out)
    annotations = content['annotations']
    counts = Counter(a['category_id'] for a in annotations)
    return Summary(
        len(content['images']),
        len(annotations),
        sum('segmentation' in a for a in annotations),
        sum(a['iscrowd'] for a in annotations),
        {name: counts[number] for number, name in enumerate(names, start=1)},
        left_out.found,
    )


def _check(form: str, source: Path, out: Path, split: str | None, offset: float | None) -> None:
    if form not in FORMATS:
        raise UserError(f'{form!r} is no format; there are {", ".join(FORMATS)}')
    if not source.exists():
        raise UserError(f'{source} does not exist')
    if source.is_dir() == (form == 'csv'):
        wanted = 'a .csv file' if form == 'csv' else 'the folder of the labels'
        raise UserError(f'{source}: {form} needs {wanted}')
    if out.suffix != '.json' or out.is_dir():
        raise UserError(f'{out} must be the name of a .json file')
    if out.is_file() and not _is_ours(out):
        among = ' among the label files' if is_inside(out, source) else ''
        raise UserError(
            f'{out} exists{among}, and was not written by this command since version 0.7.1; it is '
            'left as it is: name another, or remove it'
        )
    if split is not None and (what := {'csv': 'a CSV file', 'labelme': 'LabelMe'}.get(form)):
        raise UserError(f'--split {split}: {what} has no splits; name its file or folder')
    if offset is not None and (form not in ('voc', 'csv') or offset not in (0, 1)):
        raise UserError(f'--offset {offset:g}: it is 0 or 1, and for voc and csv alone')


def _is_ours(path: Path) -> bool:
    with path.open('rb') as file:
        return file.read(len(_FIRST)) == _FIRST


def _merged(labelled: Iterable[Labelled], left_out: LeftOut) -> list[Labelled]:
    """Merge the entries of label files that are for the same image."""
    found: dict[str, Labelled] = {}
    for entry in labelled:
        first = found.setdefault(os.path.abspath(entry.image), entry)
        if first is entry:
            continue
        if first.size and entry.size and first.size != entry.size:
            left_out.add('label files of another size than one before of their image', entry.image)
            continue
        first.size = first.size or entry.size
        first.marks += entry.marks
    return list(found.values())


def _content(
    labelled: Sequence[Labelled], names: Sequence[str], root: Path, left_out: LeftOut, decode: bool
) -> dict[str, Any]:
    """The content of a COCO annotation file."""
    ids = {name: i for i, name in enumerate(names, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda entry: image_size(entry.image, decode), labelled)
        sizes = list(track(found, 'images', len(labelled)))
    for entry, size in zip(labelled, sizes, strict=True):
        if size is None:
            left_out.add('images that cannot be read', entry.image)
            continue
        width, height = size
        if entry.size is not None and entry.size != size:
            stated = 'x'.join(map(str, entry.size))
            left_out.add(
                'images of another size than their label file says',
                f'{entry.image}, {width}x{height} pixels and not {stated}',
            )
            continue
        number = len(images) + 1
        name = Path(os.path.relpath(entry.image, root)).as_posix()
        images.append(dict(id=number, file_name=name, width=width, height=height))
        seen = set()
        for mark in sorted(entry.marks, key=lambda mark: mark.crowd):  # of twins the object stays
            if mark.label not in ids:
                left_out.add('objects of unknown classes', f'{mark.where}: {mark.label}')
                continue
            scale = (width, height) if entry.shares else (1, 1)
            annotation = _annotation(mark, size, scale, left_out)
            if annotation is None:
                continue
            key = (mark.label, *annotation['bbox'], str(annotation.get('segmentation')))
            if key in seen:
                left_out.add('objects that stand twice', mark.where)
                continue
            seen.add(key)
            annotation.update(id=len(annotations) + 1, image_id=number, category_id=ids[mark.label])
            annotations.append(annotation)
    categories = [dict(id=i, name=name) for name, i in ids.items()]
    return dict(info=_INFO, images=images, annotations=annotations, categories=categories)


def image_size(path: Path, decode: bool) -> tuple[int, int] | None:
    """Width and height of an image as mmcv's loader gives it; ``None`` if it cannot be read."""
    try:
        with open_image(path) as image:
            size = shown_size(image)
            if decode:
                image.load()
            return size
    except Exception:  # decoders raise errors of any kind
        with suppress(Exception):  # Pillow does not read images of many channels
            height, width = read_array(path.read_bytes()).shape[:2]
            return width, height
        return None


def _annotation(
    mark: Mark, size: tuple[int, int], scale: tuple[float, float], left_out: LeftOut
) -> dict[str, Any] | None:
    """Box, area and mask in pixels, or ``None`` if nothing of them is on the image."""
    polygons = []
    for points in mark.polygons:
        xy = np.array(points, np.float64).reshape(-1, 2) * scale
        cut = _cut(xy, size)
        if len(xy) < 3 or not _area(xy):
            left_out.add('polygons without an area', mark.where)
        elif len(cut) < 3 or not _area(cut):
            left_out.add('polygons outside of their image', mark.where)
        else:
            polygons.append(cut)
    if mark.masks:
        code, covered, bbox = encode_mask(_joined(mark, polygons, size))
        if not covered:
            left_out.add('masks without a pixel on their image', mark.where)
            return None
        return dict(bbox=bbox, area=covered, iscrowd=int(mark.crowd), segmentation=code)
    if mark.box is not None:
        box = np.array(mark.box, np.float64) * (*scale, *scale)
        if (box[2:] <= box[:2]).any():
            left_out.add('boxes without an area', mark.where)
            return None
        box = box.clip(0, (*size, *size))
    elif polygons:
        xy = np.concatenate(polygons)
        box = np.concatenate([xy.min(0), xy.max(0)])
    else:
        return None
    if (box[2:] <= box[:2]).any():
        left_out.add('boxes outside of their image', mark.where)
        return None
    x1, y1, x2, y2 = map(float, box)
    bbox = [x1, y1, x2 - x1, y2 - y1]
    annotation: dict[str, Any] = dict(bbox=bbox, area=bbox[2] * bbox[3], iscrowd=int(mark.crowd))
    if polygons:
        annotation['segmentation'] = [xy.ravel().tolist() for xy in polygons]
        annotation['area'] = float(sum(map(_area, polygons)))
    return annotation


def _joined(mark: Mark, polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of an object of several parts."""
    width, height = size
    joined = np.zeros((height, width), bool)
    if polygons:
        joined |= fill_polygons([xy.ravel().tolist() for xy in polygons], size)
    for x, y, read in mark.masks:
        part, place = read()[max(-y, 0) :, max(-x, 0) :], joined[max(y, 0) :, max(x, 0) :]
        h, w = np.minimum(part.shape, place.shape)
        place[:h, :w] |= part[:h, :w]
    return joined


def _cut(xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of a polygon (n, 2) that is on an image, by Sutherland and Hodgman (1974)."""
    if (xy == xy.clip(0, size)).all():
        return xy
    for axis, bound, side in ((0, 0, 1), (0, size[0], -1), (1, 0, 1), (1, size[1], -1)):
        inside = side * (xy[:, axis] - bound)
        kept: list[np.ndarray] = []
        for i, point in enumerate(xy):
            j = (i + 1) % len(xy)
            if inside[i] >= 0:
                kept.append(point)
            if (inside[i] >= 0) != (inside[j] >= 0):
                kept.append(point + (xy[j] - point) * inside[i] / (inside[i] - inside[j]))
        xy = np.array(kept, np.float64).reshape(-1, 2)
    return xy.clip(0, size)  # rounding


def _area(xy: np.ndarray) -> float:
    """The area of a polygon (n, 2)."""
    x, y = xy.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _write(content: dict[str, Any], out: Path) -> None:
    """Write the file, if its content keeps the rules of `read_coco`."""
    text = json.dumps(content)
    check_content(f'what would be {out}', json.loads(text))  # a copy, as it is repaired in place
    try:
        write_atomically(out, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f'{out} cannot be written ({error.strerror})') from error
