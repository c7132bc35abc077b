"""Results of the analysis of predictions, as data classes that a report shows."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import hosts
from ..errors import UserError
from .figures import data_uri

_WIDEST = 640  # pixels of a picture in a report


@dataclass
class Table:
    """A table; numbers from 0 to 1 in the columns `bars` are drawn as bars too.

    ``None`` is an undefined number.
    """

    head: Sequence[str]
    rows: list[list[str | float | None]]
    bars: Sequence[int] = ()


@dataclass
class Matrix:
    """A confusion matrix: a row for each class of the truth, a column for each predicted one.

    `counts` are whole numbers (rows, columns), by the names of both.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    counts: np.ndarray

    def shares(self) -> np.ndarray:
        """(rows, columns): counts over the sum of their row; 0 in empty rows."""
        return self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)

    def confusions(self, max_rows: int = 10) -> list[tuple[str, str, int, float]]:
        """The most frequent mistakes: truth, prediction, count, share of the row."""
        shares = self.shares()
        wrong = [
            (row, column, int(self.counts[i, j]), float(shares[i, j]))
            for i, row in enumerate(self.rows)
            for j, column in enumerate(self.columns)
            if i != j and self.counts[i, j]  # two classes may share a name
        ]
        return sorted(wrong, key=lambda mistake: -mistake[2])[:max_rows]


@dataclass
class Box:
    """A box, relative to the picture's width and height; `kind` is truth, right, wrong or missed.

    `outline` is the outline of its mask as an SVG path, empty without a mask.
    """

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str
    outline: str = ''


@dataclass
class Panel:
    """A picture, as a data URI, with boxes on it."""

    caption: str
    data: str
    size: tuple[int, int]  # width, height
    boxes: list[Box] = field(default_factory=list)


@dataclass
class Example:
    """One of the pictures with the worst predictions."""

    name: str
    words: str
    panels: list[Panel]


@dataclass
class Findings:
    """Results of the analysis of a file of predictions."""

    words: str  # what was analyzed, and how
    classes: Table  # scores of every class
    matrix: Matrix
    examples: list[Example]  # the worst pictures, the worst first
    # of detectors: precision at recall 0, 0.01, ..., 1 by name of a curve; the kinds of errors
    precision: dict[str, np.ndarray] = field(default_factory=dict)
    errors: Table | None = None
    # of segmentors: names of classes and their colors in the pictures
    colors: list[tuple[str, str]] = field(default_factory=list)


def panel(image: np.ndarray, caption: str, boxes: list[Box] | None = None) -> Panel:
    """A picture of at most 640 pixels a side, made of an image (H, W, 3), uint8 RGB."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((_WIDEST, _WIDEST))
    if (enlarge := 320 // max(picture.size)) > 1:  # else a browser blurs it
        picture = picture.resize(
            [side * enlarge for side in picture.size], Image.Resampling.NEAREST
        )
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=88)
    return Panel(caption, data_uri('jpeg', file), picture.size, boxes or [])


def outline(mask: np.ndarray) -> str:
    """Outline of a mask (H, W) and of its holes, as an SVG path relative to width and height."""
    import cv2

    mask = mask.astype(np.uint8)
    if (scale := _WIDEST / max(mask.shape)) < 1:  # as the picture is, for a short path
        mask = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = mask.shape
    rings, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    paths = []
    for ring in rings:
        points = cv2.approxPolyDP(ring, max(mask.shape) / _WIDEST, True).reshape(-1, 2)
        if len(points) < 3:  # without area
            continue
        corners = (f'{x:.4f} {y:.4f}' for x, y in (points + 0.5) / (width, height))
        paths.append(f'M{"L".join(corners)}Z')
    return ''.join(paths)


def read_image(dataset: Any, index: int) -> np.ndarray:
    """An image of a data set as (H, W, 3) uint8 RGB."""
    from ..datasets.images import read_picture

    path = dataset.get_data_info(index)['img_path']
    if not Path(path).is_file():
        raise UserError(f'the picture {path} of the data set does not exist')
    steps = innermost_dataset(dataset, index).pipeline.transforms
    return read_picture(path, hosts.loads_as_stored(steps))


def innermost_dataset(dataset: Any, index: int) -> Any:
    """The data set inside wrappers, such as ConcatDataset, that holds a sample."""
    while hasattr(dataset, '_get_ori_dataset_idx'):
        found = dataset._get_ori_dataset_idx(index)
        if hasattr(dataset, 'datasets'):
            which, index = found
            dataset = dataset.datasets[which]
        else:
            dataset, index = dataset.dataset, found
    return dataset


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix (classes, classes); labels outside [0, classes) are left out."""
    known = (truth >= 0) & (truth < classes) & (found >= 0) & (found < classes)
    pairs = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def distinct(names: Iterable[object]) -> list[str]:
    """Names of classes; one of several classes (`crane` in ImageNet) is followed by the number."""
    texts = [str(name) for name in names]
    often = Counter(texts)
    return [text if often[text] < 2 else f'{text} ({i})' for i, text in enumerate(texts)]


def ratio(part: float, whole: float) -> float | None:
    """Ratio of part to whole; ``None`` if the whole is 0."""
    return float(part / whole) if whole else None


def mismatch(path: object, what: str) -> UserError:
    """The error for predictions that were made of another data set."""
    return UserError(
        f'{path} holds predictions of another data set than the test_dataloader of the config: '
        f'{what}; write them anew with --predict'
    )
