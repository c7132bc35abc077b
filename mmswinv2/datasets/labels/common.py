"""What all formats of label files share."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import is_inside, walk

IMAGES = (
    *('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pnm', '.jp2'),
    '.npy',
)
SUFFIXES = (*IMAGES, *map(str.upper, IMAGES))  # as files may have them
_LARGEST = 1e7  # of a coordinate
_LARGEST_FILE = 256 * 2**20  # bytes; LabelMe's may hold the picture

Point = tuple[float, float]


@dataclass
class Mark:
    """One labelled object.

    Attributes:
        label: its class.
        where: file and line, for messages.
        box: ``(x1, y1, x2, y2)``, edges counted from the left upper corner of the image; ``None``:
            that around the polygons.
        polygons: of its mask; none: it has a box alone.
        crowd: ignored in training and in scores.
    """

    label: str
    where: str
    box: tuple[float, float, float, float] | None = None
    polygons: list[list[Point]] = field(default_factory=list)
    crowd: bool = False


@dataclass
class Labelled:
    """An image and what is marked in it.

    Attributes:
        image: its file.
        marks: the objects.
        size: width and height that the label file states.
        shares: whether coordinates are shares of the image's width and height.
    """

    image: Path
    marks: list[Mark]
    size: tuple[int, int] | None = None
    shares: bool = False


class LeftOut:
    """Counts what is left out, and remembers the first of each kind."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: Any) -> None:
        """Count one of a kind."""
        number, first = self.found.get(what, (0, str(where)))
        self.found[what] = (number + 1, first)


@dataclass
class Source:
    """What a reader of a format gets.

    Attributes:
        path: folder, or file of CSV.
        root: folder of the images, which no name in a label file may leave.
        left_out: to count in.
        split: such as ``'train'``, where the format knows them.
        offset: what is subtracted from the left and upper edge of a box in pixels; ``None``: that
            of the format.
    """

    path: Path
    root: Path
    left_out: LeftOut
    split: str | None = None
    offset: float | None = None

    def no_split(self, form: str) -> None:
        """Refuse a split for a format without any."""
        if self.split is not None:
            raise UserError(f'--split {self.split}: {form} has no splits; name its file or folder')


def read_text(path: Path) -> str:
    """The text of a label file.

    Raises:
        UserError: if it is too large, or not in UTF-8.
    """
    try:
        return read_bytes(path).decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not in UTF-8 ({error}); save it as UTF-8') from error


def read_bytes(path: Path) -> bytes:
    """What a label file holds.

    Raises:
        UserError: if it is too large.
    """
    if (size := path.stat().st_size) > _LARGEST_FILE:
        raise UserError(f'{path} has {size >> 20} MB, which no label file has; take it away')
    return path.read_bytes()


def number(value: Any, where: str) -> float:
    """A coordinate.

    Raises:
        UserError: naming the file and line, if it is no finite number that can be one.
    """
    # float() reads digits of all scripts, and those that a low line joins
    plain = not isinstance(value, str) or (value.isascii() and '_' not in value)
    try:
        found = float(value) if plain and not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= _LARGEST:
        raise UserError(f'{where}: {value!r:.40} is no coordinate; mend or remove it')
    return found


def find_files(folder: Path, *suffixes: str) -> list[Path]:
    """All files below a folder whose names end so, sorted; folders that are links are entered."""
    return sorted(path for path in walk(folder) if path.suffix.lower() in suffixes)


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted."""
    return find_files(folder, *IMAGES)


def first_file(names: Sequence[Path], folder: Path) -> Path | None:
    """The first of some files that is there and stays in a folder."""
    there = (path for path in names if is_inside(path, folder) and os.path.isfile(path))
    return next(there, None)


def pick_image(source: Source, names: Sequence[Path], where: str) -> Path | None:
    """The first of some files that is there and in the folder of the images; counts if none is."""
    if (found := first_file(names, source.root)) is None:
        inside = any(is_inside(path, source.root) for path in names)
        what = 'images that are missing' if inside else 'images outside of the folder'
        source.left_out.add(what, f'{names[0]} of {where}')
    return found


def pick_own_image(
    source: Source, named: Sequence[Path], own: Sequence[Path], where: str
) -> Path | None:
    """The image of a label file: by the name in it, or by its own, which decides if both are there.

    A label file that was copied or renamed still has the name of the first image in it.

    Args:
        source: what is read.
        named: files that the name in the label file may mean.
        own: files of the same name as the label file.
        where: the label file.
    """
    theirs, mine = (first_file(names, source.root) for names in (named, own))
    if theirs and mine and theirs.stem != mine.stem:
        source.left_out.add('names in label files, as their own image is another', where)
        return mine
    return pick_image(source, [*named, *own], where)
