"""Rules for boxes of annotation files in any format, and what happens where some break them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..log import warn
from .coco_masks import FAR

XYWH = 'a box is [x, y, width, height] in pixels of the image'


@dataclass
class Annotations:
    """Columns of an annotation file, an entry for each annotation."""

    box: np.ndarray  # (n, 4): x, y, width, height
    size: np.ndarray  # (n, 2): width, height of the image; 0 where it is not in the file
    crowd: np.ndarray

    @property
    def end(self) -> np.ndarray:
        """(n, 2): right and lower edges."""
        return self.box[:, :2] + self.box[:, 2:]


@dataclass(frozen=True)
class Rule:
    """A rule for annotations.

    A file is refused if one annotation (``'any'``), ``'all'``, nine of ten (``'most'``) or over
    ``'half'`` are bad; fewer than half are warned of, as with ``'warn'``. ``'leave out'`` leaves
    bad ones out with a warning, and refuses the file if no others remain.
    """

    words: str  # what the annotations are that break it
    bad: Callable[[Annotations], Any]  # a boolean for each: whether it breaks the rule
    when: str
    way: str = '{form}'  # advice; {form} is what a box is


BOX_RULES = (  # of boxes in a file of any format, as `form` says
    Rule(
        'have a box with numbers that are not finite',
        lambda a: ~np.isfinite(a.box).all(1),
        'leave out',
    ),
    Rule(
        'have a box far outside of their image',
        lambda a: (np.abs(a.box) > FAR * a.size.max(1, keepdims=True)).any(1),
        'any',
    ),
    Rule(
        'have a box of no or negative width or height',
        lambda a: (a.box[:, 2:] <= 0).any(1),
        'leave out',
    ),
    Rule(
        'have a box outside of their image',
        lambda a: (a.box[:, :2] >= a.size).any(1) | (a.end <= 0).any(1),
        'leave out',
        '{form}; see whether width and height of images are right',
    ),
    Rule(
        'have a box that is smaller than a pixel, of which nothing is learnt',
        lambda a: (a.box[:, 2:] <= 1).any(1),
        'most',
        '{form}, and no share of its size',
    ),
    Rule(
        'have a box in the first pixel of their image',
        lambda a: (a.box <= 1).all(1),
        'half',
        '{form}, and no share of its size',
    ),
)


def check_corners(
    path: Any, corners: Sequence[Any], sizes: Sequence[Any], name: Callable[[int], str]
) -> np.ndarray:
    """Check boxes ``[x1, y1, x2, y2]`` of another format by the rules for any format.

    `sizes` are (width, height) of their images, infinite where not known; `name` describes a box.
    Returns a boolean for each, whether it can be used; others are counted in a warning.
    """
    form = 'a box is [x1, y1, x2, y2] in pixels of the image'
    try:
        box = np.array(corners, np.float64).reshape(len(corners), 4)
    except (TypeError, ValueError) as error:
        raise UserError(f'{path} has boxes that are not four numbers ({error}); {form}') from error
    box[:, 2:] -= box[:, :2]
    table = Annotations(box, np.array(sizes, np.float64), np.zeros(len(box), bool))
    return apply_rules(path, table, BOX_RULES, name, form)


def apply_rules(
    path: Any,
    table: Annotations,
    rules: Sequence[Rule],
    name: Callable[[int], str],
    form: str = XYWH,
) -> np.ndarray:
    """Which annotations stay; raises `UserError` where a rule refuses the file."""
    keep = np.ones(len(table.box), bool)
    for rule in rules:
        with np.errstate(invalid='ignore'):
            bad = rule.bad(table) & keep
        if not bad.any():
            continue
        number, of, way = int(bad.sum()), int(keep.sum()), rule.way.format(form=form)
        first = name(int(bad.argmax()))
        problem = f'{path}: {number} of {of} annotations {rule.words}, the first {first}'
        least = {'any': 1, 'half': (of + 1) / 2, 'most': 0.9 * of, 'warn': of + 1}
        if number >= least.get(rule.when, of):
            raise UserError(f'{problem}; {way}')
        if rule.when == 'leave out':
            warn(f'{problem}; they are left out')
            keep &= ~bad
        if rule.when in ('half', 'warn'):
            warn(f'{problem}; {way}')
    return keep
