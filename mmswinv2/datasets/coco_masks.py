"""Masks of COCO annotations: polygons and run lengths, held to what decoders survive."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import numpy as np

from ..errors import UserError
from ..log import warn

FAR = 10  # sides of the image at which a coordinate is none
_SEGMENTATION = (
    'a segmentation is a list of polygons [[x0, y0, x1, y1, x2, y2, ...], ...] in pixels of the '
    'image, or run lengths dict(size=[height, width], counts=...)'
)
_CODE = re.compile('(?:[P-o]{0,6}[0-O])+')  # of run lengths: digits, of which the last is smaller
_COUNTS = 'counts are run lengths, or their code in a text, that add up to height * width'


def check_masks(
    path: Any, annotations: list[dict], size: np.ndarray, boxes: np.ndarray | None
) -> np.ndarray:
    """Hold polygons and run lengths to their rules; returns the areas of polygons in pixels.

    Polygons that no mask can be made of are taken out of ``segmentation``.
    """

    def refuse(number: int, words: str) -> UserError:
        annotation = annotations[number]
        return UserError(
            f'{path}: the segmentation of annotation id {annotation["id"]} (image_id='
            f'{annotation["image_id"]}) {words}'
        )

    owners: list[int] = []
    polygons: list[list] = []
    runs: list[int] = []
    for i, annotation in enumerate(annotations):
        segmentation = annotation.get('segmentation')
        if type(segmentation) is list:
            owners += [i] * len(segmentation)
            polygons += segmentation
        elif type(segmentation) is dict:
            runs.append(i)
        elif segmentation is not None:
            raise refuse(i, f'is {segmentation!r:.60}; {_SEGMENTATION}')
    for i, polygon in zip(owners, polygons, strict=True):
        if type(polygon) is not list:
            raise refuse(i, f'holds {polygon!r:.60}; {_SEGMENTATION}')
    if set(map(type, chain.from_iterable(polygons))) - {int, float}:
        for i, polygon in zip(owners, polygons, strict=True):
            if set(map(type, polygon)) - {int, float}:
                raise refuse(i, f'holds the polygon {polygon!r:.60}; {_SEGMENTATION}')
    _check_runs(annotations, runs, size, refuse)
    return _check_polygons(path, annotations, owners, polygons, size, boxes, refuse)


def _check_polygons(
    path: Any,
    annotations: list[dict],
    owners: list,
    polygons: list,
    size: np.ndarray,
    boxes: np.ndarray | None,
    refuse: Any,
) -> np.ndarray:
    owner = np.array(owners, int)
    lengths = np.fromiter(map(len, polygons), int, len(polygons))
    good = (lengths >= 6) & (lengths % 2 == 0)
    kept = [p for p, g in zip(polygons, good, strict=True) if g]
    ends = np.cumsum(lengths[good]) // 2
    starts = np.concatenate([[0], ends])[:-1]
    try:
        xy = np.fromiter(chain.from_iterable(kept), np.float64, int(lengths[good].sum()))
    except OverflowError as error:
        raise UserError(f'{path}: a number of a polygon is too large ({error})') from error
    xy = xy.reshape(-1, 2)
    areas = np.zeros(len(annotations))
    if kept:
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
        flat = ~(area > 0)  # of numbers that are not finite, too
        np.add.at(areas, owner[good][~flat], area[~flat])
        good[good] = ~flat
        if boxes is not None and not flat.all():
            _check_places(path, owner[good], low[~flat], high[~flat], boxes)
    if not good.all():
        _leave_out_polygons(path, annotations, owner, polygons, good)
    return areas


def _check_places(
    path: Any, owner: np.ndarray, low: np.ndarray, high: np.ndarray, boxes: np.ndarray
) -> None:
    """Raise `UserError` if most polygons are elsewhere than the boxes of their annotations."""
    first, last = np.full((len(boxes), 2), np.inf), np.full((len(boxes), 2), -np.inf)
    np.minimum.at(first, owner, low)
    np.maximum.at(last, owner, high)
    has = np.unique(owner)
    first, last, start, end = first[has], last[has], boxes[has, :2], boxes[has].reshape(-1, 2, 2)
    common = np.minimum(last, end.sum(1)) - np.maximum(first, start)
    shared = common.clip(0).prod(1)
    union = (last - first).prod(1) + boxes[has, 2:].prod(1) - shared
    apart = ~(shared > 0.3 * union)
    if apart.mean() > 0.5:
        i = int(apart.argmax())
        raise UserError(
            f'{path}: {int(apart.sum())} of {len(has)} segmentations are elsewhere than the box of '
            f'their annotation, the first from {first[i].tolist()} to {last[i].tolist()}, with '
            f'bbox={boxes[has[i]].tolist()}; both are in pixels, x before y'
        )


def _leave_out_polygons(
    path: Any, annotations: list[dict], owner: np.ndarray, polygons: list, good: np.ndarray
) -> None:
    first = annotations[owner[int((~good).argmax())]]
    told = (
        f'{path}: {int((~good).sum())} of {len(good)} polygons have no area, less than three '
        f'points, an odd number of coordinates or some that are not finite, the first of '
        f'annotation id {first["id"]} (image_id={first["image_id"]})'
    )
    if not good.any():
        raise UserError(f'{told}; {_SEGMENTATION}')
    warn(f'{told}; they are left out')
    kept: dict[int, list] = {i: [] for i in owner[~good].tolist()}
    for i, polygon, is_good in zip(owner.tolist(), polygons, good.tolist(), strict=True):
        if is_good and i in kept:
            kept[i].append(polygon)
    for i, those in kept.items():
        annotations[i]['segmentation'] = those


def _check_runs(annotations: list[dict], runs: list[int], size: np.ndarray, refuse: Any) -> None:
    """Refuse run lengths of another size than their image, which decoders do not survive."""
    for i in runs:
        segmentation, (width, height) = annotations[i]['segmentation'], size[i].tolist()
        if segmentation.get('size') != [height, width]:
            raise refuse(
                i,
                f'has size={segmentation.get("size")!r:.60}, and its image is {width}x{height} '
                f'pixels, size [{height}, {width}]',
            )
        counts = segmentation.get('counts')
        pixels = count_pixels(counts) if isinstance(counts, str) else -1
        if (
            type(counts) is list
            and not set(map(type, counts)) - {int}
            and min(counts, default=-1) >= 0
        ):
            pixels = sum(counts)
        if pixels != height * width:
            raise refuse(i, f'has counts={counts!r:.60}; {_COUNTS}')


def count_pixels(code: str) -> int:
    """The number of pixels in a compressed run-length code, -1 where it is none.

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
