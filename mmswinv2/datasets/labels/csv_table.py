"""CSV: a line for each box, ``filename,width,height,class,xmin,ymin,xmax,ymax``.

This is an input format of TensorFlow's object detection. As there, coordinates are edges in pixels.
Columns may be in any order, and there may be others; a line with a file and no numbers is an image
without objects. ``width`` and ``height`` may be left out.
"""

import csv
import io
import re
from pathlib import Path

from ...errors import UserError
from .common import (
    Labelled,
    Mark,
    Source,
    count_unlabelled,
    number,
    pick_image,
    read_text,
    slashes,
    stated_size,
)

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_NEEDED = ('filename', 'class', *_CORNERS)


def read_csv(source: Source) -> tuple[None, list[Labelled]]:
    """Images with their objects, and no classes; raises `UserError` if a line is invalid."""
    path = source.path
    text = read_text(path)
    first = text.lstrip().partition('\n')[0]
    delimiter = max(',;\t', key=first.count)  # with a decimal comma, spreadsheets write ;
    rows = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter)
    try:
        lines = [(rows.line_num, row) for row in rows if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError(f'{path}, line {rows.line_num}: {error}') from error
    header = [name.strip().lower() for name in lines[0][1]] if lines else []
    counts = {name: header.count(name) for name in _NEEDED}
    if wrong := [f'{n or "no"} columns named {name}' for name, n in counts.items() if n != 1]:
        raise UserError(
            f'{path} has {", ".join(wrong)}; its first line must be a header with one of each, '
            'such as filename,width,height,class,xmin,ymin,xmax,ymax'
        )
    found: dict[Path, Labelled] = {}
    images: dict[str, Path | None] = {}  # by the names in the file, each looked for once
    for line, row in lines[1:]:
        where = f'{path}, line {line}'
        if len(row) != len(header):
            raise UserError(
                f'{where} has {len(row)} columns, and the header {len(header)}; mend it'
            )
        values = dict(zip(header, map(str.strip, row), strict=True))
        if delimiter != ',':
            values |= {key: _decimal(values[key]) for key in _CORNERS}
        name = slashes(values['filename'])
        if name not in images:
            tries = [source.root / name, source.root / 'images' / name]
            images[name] = pick_image(source, tries, where)
        image = images[name]
        if image is None:
            continue
        size = stated_size(values.get('width'), values.get('height'), where)
        entry = found.setdefault(image, Labelled(image, [], size))
        if entry.size != size:
            raise UserError(f'{where} has another width and height than a line before; mend one')
        corners = [values[key] for key in _CORNERS]
        if not any(corners):
            continue
        if not values['class']:
            raise UserError(f'{where} has no class; give it one, or remove the line')
        x1, y1, x2, y2 = (number(corner, where) for corner in corners)
        offset = source.offset or 0
        entry.marks.append(Mark(values['class'], where, (x1 - offset, y1 - offset, x2, y2)))
    labelled = list(found.values())
    count_unlabelled(labelled, source.left_out)
    return None, labelled


def _decimal(text: str) -> str:
    """A number with a decimal comma; ``1,024`` stays, and is refused, as it may be a thousand."""
    return text if re.fullmatch(r'[1-9]\d{0,2}(,\d{3})+', text) else text.replace(',', '.')
