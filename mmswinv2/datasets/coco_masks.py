"""Masks of COCO annotations: checks of polygons and run lengths, which can crash decoders."""

import re
from itertools import chain
from typing import Any

import numpy as np

from ..errors import UserError, needed
from ..log import warn

FAR = 10  # coordinates beyond this many sides of the image are invalid
_SEGMENTATION = (
    'a segmentation is a list of polygons [[x0, y0, x1, y1, x2, y2, ...], ...] in pixels of the '
    'image, or run lengths dict(size=[height, width], counts=...)'
)
_CODE = re.compile('(?:[P-o]{0,6}[0-O])+')  # runs, each up to a digit without continuation bit
_Outlines = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # annotation, area, corners
_COUNTS = 'counts are run lengths, or their code in a text, that add up to height * width'


def check_masks(
    path: Any, annotations: list[dict], size: np.ndarray, boxes: np.ndarray | None
) -> np.ndarray:
    """Check polygons and run lengths, and return the areas of masks in pixels.

    Polygons and run lengths from which no mask can be made are removed from ``segmentation``.
    """

    def refuse(number: int, words: str) -> UserError:
        annotation = annotations[number]
        return UserError(
            f'{path}: the segmentation of annotation id {annotation["id"]} (image_id='
            f'{annotation["image_id"]}) {words}'
        )

    owners, polygons, runs = _collect(annotations, refuse)
    _check_runs(annotations, runs, size, refuse)
    found = [_check_polygons(path, annotations, owners, polygons, size, refuse)]
    if runs:
        found.append(_leave_out_empty_runs(path, annotations, runs))
    owner, area, low, high = map(np.concatenate, zip(*found, strict=True))
    if len(owner):
        if boxes is None:
            _check_shares(path, annotations, owner, high)
        else:
            _check_places(path, owner, low, high, boxes)
    return np.bincount(owner, area, len(annotations))


def _collect(annotations: list[dict], refuse: Any) -> tuple[list[int], list[list], list[int]]:
    """Polygons with the numbers of their annotations, and the numbers of those with run lengths."""
    owners: list[int] = []
    polygons: list[list] = []
    runs: list[int] = []
    for i, annotation in enumerate(annotations):
        segmentation = annotation.get('segmentation')
        if segmentation in ('', {}, [[]]):  # tools for boxes write these
            annotation['segmentation'] = segmentation = []
        if type(segmentation) is list:
            if segmentation and type(segmentation[0]) in (int, float):  # one polygon, as of VIA
                annotation['segmentation'] = segmentation = [segmentation]
            owners += [i] * len(segmentation)
            polygons += segmentation
        elif type(segmentation) is dict:
            runs.append(i)
        elif segmentation is not None:
            raise refuse(i, f'is {segmentation!r:.60}; {_SEGMENTATION}')
    for i, polygon in zip(owners, polygons, strict=True):
        if type(polygon) is not list or set(map(type, polygon)) - {int, float}:
            raise refuse(i, f'holds {polygon!r:.60}; {_SEGMENTATION}')
    return owners, polygons, runs


def _check_polygons(
    path: Any, annotations: list[dict], owners: list, polygons: list, size: np.ndarray, refuse: Any
) -> _Outlines:
    owner = np.array(owners, int)
    lengths = np.fromiter(map(len, polygons), int, len(polygons))
    good = (lengths >= 6) & (lengths % 2 == 0)
    kept = chain.from_iterable(p for p, g in zip(polygons, good, strict=True) if g)
    points = lengths[good] // 2
    try:
        xy = np.fromiter(kept, np.float64, 2 * int(points.sum())).reshape(-1, 2)
    except OverflowError as error:
        raise UserError(f'{path}: a number of a polygon is too large ({error})') from error
    ends = points.cumsum()
    starts = ends - points
    low, high = (f.reduceat(xy, starts) for f in (np.minimum, np.maximum))  # (polygons, 2)
    far = np.maximum(-low, high).max(1) > FAR * size[owner[good]].max(1)
    if far.any():
        worst = int(far.argmax())
        raise refuse(
            owner[good][worst],
            f'reaches from {low[worst].tolist()} to {high[worst].tolist()}, and its image has '
            f'{"x".join(map(str, size[owner[good][worst]]))} pixels; {_SEGMENTATION}',
        )
    nexts = np.arange(1, len(xy) + 1)
    nexts[ends - 1] = starts
    cross = xy[:, 0] * xy[nexts, 1] - xy[nexts, 0] * xy[:, 1]
    area = np.abs(np.add.reduceat(cross, starts)) / 2
    flat = ~(area > 0)  # also true where the area is NaN
    good[good] = ~flat
    low, high, area = low[~flat], high[~flat], area[~flat]
    if not good.all():
        _leave_out_polygons(path, annotations, owner, polygons, good)
    return owner[good], area, low, high


def _check_places(
    path: Any, owner: np.ndarray, low: np.ndarray, high: np.ndarray, boxes: np.ndarray
) -> None:
    """Raise `UserError` if most masks are elsewhere than their boxes; warn of fewer."""
    first, last = np.full((len(boxes), 2), np.inf), np.full((len(boxes), 2), -np.inf)
    np.minimum.at(first, owner, low)
    np.maximum.at(last, owner, high)
    has = np.unique(owner)
    first, last, start, end = first[has], last[has], boxes[has, :2], boxes[has].reshape(-1, 2, 2)
    common = np.minimum(last, end.sum(1)) - np.maximum(first, start)
    shared = common.clip(0).prod(1)
    union = (last - first).prod(1) + boxes[has, 2:].prod(1) - shared
    apart = ~(shared > 0.5 * union)
    i = int(apart.argmax())
    _refuse_most(
        apart,
        f'{path}: {int(apart.sum())} of {len(has)} segmentations are elsewhere than the box of '
        f'their annotation, the first from {first[i].tolist()} to {last[i].tolist()}, with '
        f'bbox={boxes[has[i]].tolist()}; both are in pixels, x before y (run lengths go down '
        'the columns, and the first is outside)',
    )


def _check_shares(path: Any, annotations: list[dict], owner: np.ndarray, high: np.ndarray) -> None:
    """Raise `UserError` if most masks lie in the first pixel of their image; warn of fewer."""
    shares: Any = (high <= 1).all(1)
    first = annotations[owner[int(shares.argmax())]]
    _refuse_most(
        shares,
        f'{path}: {int(shares.sum())} of {len(shares)} masks lie in the first pixel of their '
        f'image, the first of annotation id {first["id"]}; {_SEGMENTATION}, and no shares of its '
        'size',
    )


def _refuse_most(bad: np.ndarray, words: str) -> None:
    if bad.mean() > 0.5:
        raise UserError(words)
    if bad.any():
        warn(words)


def _leave_out_polygons(
    path: Any, annotations: list[dict], owner: np.ndarray, polygons: list, good: np.ndarray
) -> None:
    first = annotations[owner[int((~good).argmax())]]
    problem = (
        f'{path}: {int((~good).sum())} of {len(good)} polygons have no area, less than three '
        f'points, an odd number of coordinates or some that are not finite, the first of '
        f'annotation id {first["id"]} (image_id={first["image_id"]})'
    )
    if not good.any():
        raise UserError(f'{problem}; {_SEGMENTATION}')
    warn(f'{problem}; they are left out')
    changed = np.unique(owner[~good])
    for i in changed:
        annotations[i]['segmentation'] = []
    for i in np.flatnonzero(good & np.isin(owner, changed)):
        annotations[owner[i]]['segmentation'].append(polygons[i])


def _check_runs(annotations: list[dict], runs: list[int], size: np.ndarray, refuse: Any) -> None:
    """Refuse run lengths of another size than their image, which crash decoders."""
    for i in runs:
        segmentation, (width, height) = annotations[i]['segmentation'], size[i].tolist()
        if segmentation.get('size') != [height, width]:
            raise refuse(
                i,
                f'has size={segmentation.get("size")!r:.60}, and its image is {width}x{height} '
                f'pixels, size [{height}, {width}]',
            )
        segmentation['size'] = [height, width]  # decoders refuse whole floats
        counts, pixels = segmentation.get('counts'), -1
        if isinstance(counts, str):
            pixels = count_pixels(counts)
        elif type(counts) is list and set(map(type, counts)) == {int} and min(counts) >= 0:
            pixels = sum(counts)
        if pixels != height * width:
            raise refuse(i, f'has counts={counts!r:.60}; {_COUNTS}')


def _leave_out_empty_runs(path: Any, annotations: list[dict], runs: list[int]) -> _Outlines:
    coco_mask = _coco_mask(f'{path} has run lengths, and')
    those = [annotations[i]['segmentation'] for i in runs]
    codes = [
        coco_mask.frPyObjects(s, *s['size']) if type(s['counts']) is list else s for s in those
    ]
    # one at a time, as pycocotools takes no more than 255 with NumPy 2
    owner, area = np.array(runs, int), np.array([coco_mask.area(c) for c in codes], float)
    box = np.reshape([coco_mask.toBbox(c) for c in codes], (-1, 4))
    empty = owner[area == 0].tolist()
    for i in empty:
        annotations[i]['segmentation'] = []
    if empty:
        warn(
            f'{path}: {len(empty)} of {len(runs)} run lengths mark no pixel, the first of '
            f'annotation id {annotations[empty[0]]["id"]}; they are left out'
        )
    has = area > 0
    return owner[has], area[has], box[has, :2], box[has, :2] + box[has, 2:]


def _coco_mask(what: str = 'a mask in pixels') -> Any:
    return needed('pycocotools.mask', what, 'pycocotools')  # not installed with mmpretrain


def count_pixels(code: str) -> int:
    """The number of pixels in a compressed run-length code, or -1 if the code is invalid.

    A run is a number in base 32, lowest digit first, in two's complement; from the fourth on it is
    the difference to the run before the last (pycocotools' ``rleFrString``).
    """
    if not _CODE.fullmatch(code):
        return -1
    digits = np.frombuffer(code.encode(), np.uint8).astype(int) - 48
    ends = np.flatnonzero(digits < 32)
    begins = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(begins, ends - begins + 1)
    runs = np.add.reduceat((digits & 31) << (5 * place), begins)
    runs -= np.where(digits[ends] & 16, 32 << (5 * place[ends]), 0)
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return int(runs.sum()) if runs.min() >= 0 else -1


def encode_mask(mask: Any) -> tuple[dict[str, Any], float, list[float]]:
    """A mask (H, W) as COCO has it: run lengths, area in pixels, and (x, y, width, height)."""
    coco_mask = _coco_mask()
    code = coco_mask.encode(np.asfortranarray(np.asarray(mask), dtype=np.uint8))
    area, box = float(coco_mask.area(code)), coco_mask.toBbox(code).tolist()
    return dict(size=list(code['size']), counts=code['counts'].decode()), area, box


def fill_polygons(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) inside any of some polygons, bool; `size` is width and height."""
    coco_mask = _coco_mask()
    codes = coco_mask.frPyObjects(polygons, size[1], size[0])
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)
