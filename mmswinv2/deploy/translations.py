"""Translations of operators to those of standard ONNX, for `torch.onnx.export`.

This is a module of its own because it needs onnxscript at import.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnxscript
import torch
from onnxscript import FLOAT, INT64

from . import attention, operators  # noqa: F401, register the operators

op: Any = onnxscript.opset18


def number(value: float) -> Any:
    """A constant without axes."""
    return op.Constant(value_float=float(value))


def integers(*values: int) -> Any:
    """A constant with one axis."""
    return op.Constant(value_ints=values)


def true_places(found: Any) -> Any:
    """Indices of true values along one axis; TensorRT has NonZero for floats only."""
    return op.Squeeze(op.NonZero(op.Cast(found, to=1)), integers(0))


def floor_divide(numerator: Any, divisor: Any) -> Any:
    """Floor division without comparing booleans, as torch's does; TensorRT cannot do that."""
    if not numerator.dtype.is_integer():
        return op.Floor(op.Div(numerator, divisor))
    return op.Div(op.Sub(numerator, op.Mod(numerator, divisor)), divisor)


def columns(values: Any, first: int, end: int) -> Any:
    """``values[..., first:end]``."""
    return op.Slice(values, integers(first), integers(end), integers(-1))


def nms(
    boxes: Any, scores: Any, iou_threshold: float, score_threshold: float, max_boxes: int
) -> Any:
    """See `operators.nms`."""
    found = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, integers(1)),
        integers(max_boxes),
        number(iou_threshold),
        number(score_threshold),
    )  # [K, 3]: image, class, box
    return op.Gather(found, integers(0, 2), axis=1)


@onnxscript.script(default_opset=op)
def soft_nms_loop(
    boxes: FLOAT,
    scores: FLOAT,
    threshold: FLOAT,
    linear: FLOAT,
    gaussian: FLOAT,
    sigma: FLOAT,
    count: INT64,
) -> tuple[INT64, FLOAT]:
    """The first `count` boxes (M) that soft-NMS picks in each image; a loop in ONNX.

    It is written in the subset of Python that onnxscript compiles.

    Scores are multiplied by ``linear * (1 - IoU) + gaussian * exp(-IoU^2 / sigma)`` where the IoU
    with a better box is `threshold` or more; the weights `linear` and `gaussian` are 0 or 1.

    Takes boxes ``(B, N, 4)`` and scores ``(B, N)``; returns the indices of boxes ``(B, M)``, and
    their scores ``(B, M)``.
    """
    low = op.Slice(boxes, [0], [2], [2])
    high = op.Slice(boxes, [2], [4], [2])
    area = op.ReduceProd(high - low, [2], keepdims=0)
    everyone = op.Range(0, op.Squeeze(op.Shape(scores, start=1, end=2)), 1)
    ranks = op.Range(0, count, 1)
    images = op.Shape(scores, start=0, end=1)
    shape = op.Concat(images, op.Unsqueeze(count, [0]), axis=0)
    picked = op.Expand(op.Constant(value_int=0), shape)
    values = op.Expand(op.Constant(value_float=-1.0), shape)
    rest = op.Identity(scores)
    for i in range(count):  # type: ignore[call-overload]  # onnxscript compiles it
        best = op.ArgMax(rest, axis=1, keepdims=1)
        value = op.GatherElements(rest, best, axis=1)
        here = op.Equal(ranks, i)
        picked = op.Where(here, best, picked)
        values = op.Where(here, value, values)
        corners = op.Concat(images, [1, 2], axis=0)
        place = op.Expand(op.Unsqueeze(best, [2]), corners)
        best_low = op.GatherElements(low, place, axis=1)
        best_high = op.GatherElements(high, place, axis=1)
        best_area = op.GatherElements(area, best, axis=1)
        sides = op.Max(op.Min(high, best_high) - op.Max(low, best_low), 0.0)
        shared = op.ReduceProd(sides, [2], keepdims=0)
        iou = shared / (area + best_area - shared)
        weight = linear * (1.0 - iou) + gaussian * op.Exp(op.Neg(iou * iou / sigma))
        reduced = op.Where(op.GreaterOrEqual(iou, threshold), rest * weight, rest)
        rest = op.Where(op.Equal(everyone, best), -1.0, reduced)
    return picked, values


def soft_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    max_boxes: int,
) -> Any:
    """See `operators.soft_nms`."""
    gaussian = method == 'gaussian'
    picked, values = soft_nms_loop(
        boxes,
        scores,
        number(-1 if gaussian else iou_threshold),
        number(method == 'linear'),
        number(gaussian),
        number(sigma),
        op.Constant(value_int=max_boxes),
    )
    least = number(max(0, min_score))
    picked, values = (op.Reshape(found, integers(-1)) for found in (picked, values))
    places = true_places(op.GreaterOrEqual(values, least))
    image = op.Div(places, integers(max_boxes))
    parts = (op.Unsqueeze(part, integers(1)) for part in (image, op.Gather(picked, places)))
    return op.Concat(*parts, axis=1), op.Gather(values, places)


def roi_features(
    maps: Sequence[Any],
    rois: Any,
    scales: Sequence[float],
    size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
    finest_scale: float,
) -> Any:
    """See `operators.roi_features`."""
    image = op.Cast(op.Squeeze(columns(rois, 0, 1), integers(1)), to=7)  # int64
    boxes = columns(rois, 1, 5)

    def align(level: int, boxes: Any, image: Any) -> Any:
        return op.RoiAlign(
            maps[level],
            boxes,
            image,
            coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
            output_height=size[0],
            output_width=size[1],
            sampling_ratio=sampling_ratio,
            spatial_scale=scales[level],
        )

    if len(maps) == 1:
        return align(0, boxes, image)
    sides = op.Sub(columns(rois, 3, 5), columns(rois, 1, 3))
    root = op.Sqrt(op.ReduceProd(sides, integers(1), keepdims=0))
    relative = op.Add(op.Div(root, number(finest_scale)), number(1e-6))
    level = op.Cast(op.Mul(image, integers(0)), to=7)
    for i in range(1, len(maps)):
        level = op.Add(level, op.Cast(op.GreaterOrEqual(relative, number(2**i)), to=7))
    order, parts = [], []
    for i in range(len(maps)):
        own = true_places(op.Equal(level, integers(i)))
        order.append(own)
        parts.append(align(i, op.Gather(boxes, own), op.Gather(image, own)))
    place = op.Concat(*order, axis=0)
    count = op.Squeeze(op.Shape(place), integers(0))
    numbers = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    back = op.ScatterElements(numbers, place, numbers, axis=0)
    return op.Gather(op.Concat(*parts, axis=0), back, axis=0)


def _windows(n: Any, window: int, shift: int) -> tuple[Any, ...]:
    """The windows along an axis of `n` tokens.

    Returns:
        tokens that the first window lacks, the number of windows, that of their places, and for
        each place the index of its token, or of the nearest one, and whether it has none.
    """
    # no shift where the axis is not longer than the window
    left = integers(0)
    if shift:
        left = op.Mul(
            op.Min(op.Div(n, integers(window + 1)), integers(1)), integers(window - shift)
        )
    count = op.Div(op.Add(op.Add(n, left), integers(window - 1)), integers(window))
    total = op.Mul(count, integers(window))
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    place = op.Sub(op.Range(zero, op.Squeeze(total, integers(0)), one), left)
    inside = op.Max(op.Min(place, op.Sub(n, integers(1))), integers(0))
    outside = op.Or(op.Less(place, integers(0)), op.GreaterOrEqual(place, n))
    return left, count, total, inside, outside


def _direction(x: Any) -> Any:
    """Vectors of length 1; those of length 0 stay so."""
    square = op.ReduceSumSquare(x, integers(-1), keepdims=1)
    tiny = op.Less(square, op.Constant(value_float=1e-10))
    inverse = op.Reciprocal(op.Sqrt(square))
    return op.Mul(x, op.Where(tiny, op.Constant(value_float=0.0), inverse))


def window_attention(
    qkv: Any, table: Any, bias: Any, scale: Any, window: Sequence[int], shift: Sequence[int]
) -> Any:
    """See `attention.window_attention`."""
    ndim = len(window)
    heads, tokens = int(bias.shape[0]), int(bias.shape[1])
    width = int(qkv.shape[-1]) // (3 * heads)
    shape = op.Shape(qkv)
    batch = op.Gather(shape, integers(0))
    x, hidden = qkv, None
    sizes, lefts, counts, totals = [], [], [], []
    for axis, (m, s) in enumerate(zip(window, shift, strict=True), start=1):
        n = op.Gather(shape, integers(axis))
        left, count, total, inside, outside = _windows(n, m, s)
        x = op.Gather(x, inside, axis=axis)
        form = (
            [integers(1, 1)] * (axis - 1) + [count, integers(m)] + [integers(1, 1)] * (ndim - axis)
        )
        outside = op.Reshape(outside, op.Concat(*form, axis=0))
        hidden = outside if hidden is None else op.Or(hidden, outside)
        sizes.append(n)
        lefts.append(left)
        counts.append(count)
        totals.append(total)
    pairs = [part for pair in zip(counts, map(integers, window), strict=True) for part in pair]
    of_counts, of_sizes = list(range(0, 2 * ndim, 2)), list(range(1, 2 * ndim, 2))
    # [B, c1, m1, ..., 3 C] to [3, B, W, h, N, d]
    x = op.Reshape(x, op.Concat(batch, *pairs, integers(3 * heads * width), axis=0))
    x = op.Transpose(x, perm=[0, *(1 + i for i in of_counts + of_sizes), 2 * ndim + 1])
    x = op.Reshape(x, op.Concat(batch, integers(-1, tokens, 3, heads, width), axis=0))
    x = op.Transpose(x, perm=[3, 0, 1, 4, 2, 5])
    q, k, v = (op.Gather(x, op.Constant(value_int=i), axis=0) for i in range(3))
    keys = op.Transpose(_direction(k), perm=[0, 1, 2, 4, 3])
    scores = op.Add(op.MatMul(op.Mul(_direction(q), scale), keys), bias)
    hidden = op.Transpose(hidden, perm=of_counts + of_sizes)
    hidden = op.Reshape(hidden, integers(-1, 1, 1, tokens))  # [W, 1, 1, N]
    scores = op.Where(hidden, op.Constant(value_float=float('-inf')), scores)
    out = op.MatMul(op.Softmax(scores, axis=-1), v)
    # [B, W, h, N, d] to [B, c1, c2, ..., m1, m2, ..., C] to the map
    out = op.Transpose(out, perm=[0, 1, 3, 2, 4])
    form = [batch, *counts, *(integers(m) for m in window), integers(heads * width)]
    out = op.Reshape(out, op.Concat(*form, axis=0))
    mixed = [place for axis in range(1, ndim + 1) for place in (axis, axis + ndim)]
    out = op.Transpose(out, perm=[0, *mixed, 2 * ndim + 1])
    out = op.Reshape(out, op.Concat(batch, *totals, integers(heads * width), axis=0))
    begins = op.Concat(*lefts, axis=0)
    ends = op.Add(begins, op.Concat(*sizes, axis=0))
    return op.Slice(out, begins, ends, integers(*range(1, ndim + 1)))


TRANSLATIONS: dict[Callable, Callable] = {  # for `torch.onnx.export(custom_translation_table=...)`
    torch.ops.aten.floor_divide.default: floor_divide,
    torch.ops.mmswinv2.window_attention.default: window_attention,
    torch.ops.mmswinv2.nms.default: nms,
    torch.ops.mmswinv2.soft_nms.default: soft_nms,
    torch.ops.mmswinv2.roi_features.default: roi_features,
}
