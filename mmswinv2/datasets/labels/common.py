"""What all formats of label files share."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ...errors import UserError
from ...files import IMAGES, find, is_inside, undecodable, walk

SUFFIXES = (*IMAGES, *map(str.upper, IMAGES))  # as files may have them
_LARGEST = 1e7  # of a coordinate
UNLABELLED = 'images without a label file or line'

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # edges (x1, y1, x2, y2)


@dataclass
class Mark:
    """One labelled object."""

    label: str
    where: str  # file and line, for messages
    # counted from the left upper corner; None: that around the polygons and masks
    box: Box | None = None
    polygons: list[list[Point]] = field(default_factory=list)  # of its mask; empty: a box alone
    # parts of its mask: the pixel (x, y) of the upper left corner, and a function that decodes the
    # pixels (h, w), bool, which would fill the memory for all objects at once
    masks: list[tuple[int, int, Callable[[], np.ndarray]]] = field(default_factory=list)
    crowd: bool = False  # ignored in training and in scores


@dataclass
class Labelled:
    """An image and what is marked in it."""

    image: Path
    marks: list[Mark]
    size: tuple[int, int] | None = None  # width and height that the label file states
    shares: bool = False  # coordinates are fractions of the image's width and height


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
    """Input of the reader of a format."""

    path: Path  # folder of the labels, or the CSV file
    root: Path  # folder of the images; names in label files may not lead out of it
    left_out: LeftOut
    split: str | None = None  # such as 'train', for formats that have splits
    offset: float | None = None  # subtracted from left and upper edges; None: that of the format


def read_text(path: Path) -> str:
    """The text of a label file; raises `UserError` if it is not in UTF-8."""
    try:
        return path.read_text('utf-8-sig')
    except UnicodeDecodeError as error:
        raise undecodable(path, error) from error


def slashes(path: str) -> str:
    """A path with slashes, which some programs write with backslashes."""
    return PureWindowsPath(path).as_posix()


def number(value: Any, where: str) -> float:
    """A coordinate; raises `UserError` if it is no finite number or too large."""
    # float() also accepts digits of other scripts, and underscores between digits
    plain = not isinstance(value, str) or (value.isascii() and '_' not in value)
    try:
        found = float(value) if plain and not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= _LARGEST:
        raise UserError(f'{where}: {value!r:.40} is no coordinate; mend or remove it')
    return found


def stated_size(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Width and height as a label file gives them; ``None`` where one is missing, or 0."""
    sides = [int(number(side or 0, where)) for side in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def find_files(folder: Path, *suffixes: str) -> list[Path]:
    """All files below a folder with these suffixes, sorted; links to folders are followed."""
    return sorted(path for path in walk(folder) if path.suffix.lower() in suffixes)


def read_files(
    source: Source, suffix: str, read: Callable[[Path, Source], Labelled | None]
) -> list[Labelled]:
    """What a function reads of each label file; raises `UserError` if there is none."""
    files = find_files(source.path, suffix)
    if not files:
        raise UserError(f'{source.path} has no {suffix} files, which labels of this format are')
    found = list(filter(None, (read(path, source) for path in files)))
    count_unlabelled(found, source.left_out)
    return found


def count_unlabelled(labelled: Sequence[Labelled], left_out: LeftOut) -> None:
    """Count the other images in the folders of labelled ones, which may be a part of the data."""
    used = {os.path.realpath(entry.image) for entry in labelled}
    folders = {os.path.realpath(entry.image.parent): entry.image.parent for entry in labelled}
    for folder in sorted(folders.values()):
        for path in find(folder, '*'):
            if path.suffix.lower() in IMAGES and os.path.realpath(path) not in used:
                left_out.add(UNLABELLED, path)


def first_file(names: Sequence[Path], folder: Path) -> Path | None:
    """The first of some files that exists and is inside a folder."""
    there = (path for path in names if os.path.isfile(path) and is_inside(path, folder))
    return next(there, None)


def pick_image(source: Source, names: Sequence[Path], where: str) -> Path | None:
    """The first of some files that exists inside the folder of the images; counts a missing one."""
    if (found := first_file(names, source.root)) is None:
        inside = any(is_inside(path, source.root) for path in names)
        what = 'images that are missing' if inside else 'images outside of the folder'
        source.left_out.add(what, f'{names[0]} of {where}')
    return found


def pick_own_image(
    source: Source, named: Sequence[Path], own: Sequence[Path], path: Path
) -> Path | None:
    """The image that a label file names, or one of the label file's own name, which has priority.

    A label file that was copied or renamed still contains the name of its original image. `named`
    are the files that this may mean, `own` those of the same name as the label file, `path`.
    """
    theirs, mine = (first_file(names, source.root) for names in (named, own))
    if theirs and mine and theirs.stem != mine.stem:
        source.left_out.add('names in label files, as their own image is another', path)
        return mine
    return pick_image(source, [*named, *own], str(path))
