"""Pascal VOC: an XML file for each image.

Boxes are pixel numbers that start at 1 and include the last pixel: pixels 1 to 10 have the edges 0
and 10. So 1 is subtracted from ``xmin`` and ``ymin`` alone. Points of polygons are moved by 1.
A box with the attribute ``rotation``, as CVAT writes it, is read as a polygon.
"""

import cmath
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import UserError, needed
from ...files import is_inside
from .common import (
    SUFFIXES,
    UNLABELLED,
    Box,
    Labelled,
    Mark,
    Point,
    Source,
    first_file,
    number,
    pick_own_image,
    read_files,
    read_text,
    slashes,
    stated_size,
)

_YES = ('1', '1.0', 'true', 'yes')
_NO = ('0', '0.0', 'false', 'no', 'unspecified', '')  # makesense.ai writes Unspecified


def read_voc(source: Source) -> tuple[None, list[Labelled]]:
    """Images with their objects, and no classes; raises `UserError` if a file is damaged."""
    if source.split is None:
        return None, read_files(source, '.xml', _read_file)
    return None, list(filter(None, (_read_file(path, source) for path in _files_of(source))))


def _files_of(source: Source) -> list[Path]:
    """The label files of a split."""
    path = source.path / 'ImageSets' / 'Main' / f'{source.split}.txt'
    if not is_inside(path, source.path) or not os.path.isfile(path):
        raise UserError(f'--split {source.split}: there is no {path}')
    files = []
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        name, *rest = line.rsplit(maxsplit=1)
        names = [line, name] if rest in (['1'], ['0'], ['-1']) else [line]  # lists of a class
        tries = [source.path / 'Annotations' / f'{name}.xml' for name in names]
        file = first_file(tries, source.path)
        if file is not None:
            files.append(file)
        else:
            source.left_out.add(UNLABELLED, f'{line} of {path}')
    return files


def _text(path: Path) -> str:
    """The text of a file in UTF-8 or the encoding that it names, which some programs name wrongly.

    Real UTF-16 does not match the pattern, and single-byte text is rarely valid UTF-8.
    """
    content = path.read_bytes()
    named = re.match(rb'<\?xml[^>]*encoding=["\']([\w.-]+)', content)
    if named is None:
        return read_text(path)
    name = named[1].decode().lower()
    single = name.startswith(('utf', 'iso-8859', 'windows-125', 'latin', 'us-ascii'))
    for encoding in ('utf-8-sig', name) if single else (name, 'utf-8-sig'):
        with suppress(LookupError, UnicodeError):
            return content.decode(encoding)
    raise UserError(f'{path} is neither in {name}, as it says, nor in UTF-8; save it as UTF-8')


def _read_file(path: Path, source: Source) -> Labelled | None:
    xml = needed('defusedxml.ElementTree', 'Pascal VOC', "'mmswinv2[convert]'")
    try:
        root = xml.fromstring(_text(path))
    except UserError:
        raise
    except Exception as error:  # defusedxml has errors of its own
        raise UserError(
            f'{path} is no XML that is read ({error!r:.100}); export it again'
        ) from error
    if root.tag != 'annotation':
        source.left_out.add('XML files that are no annotations', path)
        return None
    given = Path(slashes((root.findtext('filename') or path.stem).strip()))
    folders = _folders_of_images(path, source)
    named = [folder / name for name in (given, given.name) for folder in folders]
    # by endings first: a mask or a drawing, a.png, may lie beside a.xml, and a.jpg in JPEGImages
    own = [folder / (path.stem + suffix) for suffix in SUFFIXES for folder in folders]
    image = pick_own_image(source, named, own, path)
    if image is None:
        return None
    size = stated_size(root.findtext('size/width'), root.findtext('size/height'), str(path))
    marks = [
        _read_object(node, f'{path}, object {i}', source)
        for i, node in enumerate(root.findall('object'), start=1)
    ]
    return Labelled(image, marks, size)


def _folders_of_images(path: Path, source: Source) -> list[Path]:
    """Where the image of a label file may be, the same place in another tree before its root."""
    own = Path(os.path.relpath(path.parent, source.path))
    above = [path.parent, *path.parent.parents][: len(own.parts) + 1]
    labels = next((up for up in above if up.name == 'Annotations'), path.parent)
    photos, inner = labels.parent / 'JPEGImages', path.parent.relative_to(labels)
    beside = path.parent.parent / 'JPEGImages'
    parallel = [photos / inner, beside, source.root / own, source.root / inner]
    return list(dict.fromkeys([path.parent, *parallel, photos, source.root]))


def is_difficult(text: str | None, where: str) -> bool:
    """Whether an object is difficult, by the text of that name, which may be missing."""
    word = (text or '').strip().lower()
    if word not in _YES and word not in _NO:
        raise UserError(f'{where}: difficult must be 0 or 1, got {word!r}')
    return word in _YES


def _read_object(node: Any, where: str, source: Source) -> Mark:
    label = (node.findtext('name') or '').strip()
    if not label:
        raise UserError(f'{where} has no name of a class; give it one, or remove it')
    offset = 1.0 if source.offset is None else source.offset
    mark = Mark(label, where, crowd=is_difficult(node.findtext('difficult'), where))
    box = node.find('bndbox')
    if box is not None:
        x1, y1, x2, y2 = (
            number(box.findtext(key), f'{where}, {key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')
        )
        mark.box = (x1 - offset, y1 - offset, x2, y2)
    for polygon in node.findall('polygon'):
        filled = [child for child in polygon.iter() if (child.text or '').strip()]
        by_name = [[c for c in filled if re.fullmatch(f'{axis}\\d*', c.tag, re.I)] for axis in 'xy']
        named = by_name if any(by_name) else (filled[::2], filled[1::2])  # or x and y in turn
        xs, ys = ([number(child.text, where) - offset for child in part] for part in named)
        if len(xs) != len(ys):
            raise UserError(f'{where}: its polygon has {len(xs)} x and {len(ys)} y; mend it')
        mark.polygons.append(list(zip(xs, ys, strict=True)))
    if box is None and not mark.polygons:
        raise UserError(f'{where} has no bndbox; give it one, or remove it')
    degrees = _rotation(node, where)
    if degrees and mark.box is not None and not mark.polygons:
        mark.polygons, mark.box = [_turned(mark.box, degrees)], None
    return mark


def _rotation(node: Any, where: str) -> float:
    """The attribute of CVAT, clockwise in degrees; 0 if there is none."""
    for attribute in node.iter('attribute'):
        if attribute.findtext('name') == 'rotation':
            with suppress(UserError):  # text: an attribute of the user's own
                return number(attribute.findtext('value'), where)
    return 0.0


def _turned(box: Box, degrees: float) -> list[Point]:
    """The corners of a box that is turned clockwise about its center."""
    x1, y1, x2, y2 = box
    center, turn = complex(x1 + x2, y1 + y2) / 2, cmath.rect(1, math.radians(degrees))
    corners = [complex(x, y) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    turned = [center + (corner - center) * turn for corner in corners]
    return [(corner.real, corner.imag) for corner in turned]
