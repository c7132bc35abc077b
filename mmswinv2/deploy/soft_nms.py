"""Soft-NMS as an ONNX loop, in the subset of Python that onnxscript compiles.

This is a module of its own because it needs onnxscript at import.
"""

# mypy: ignore-errors

from onnxscript import FLOAT, INT64, script
from onnxscript import opset18 as op


@script(default_opset=op)
def soft_nms_loop(
    boxes: FLOAT,
    scores: FLOAT,
    threshold: FLOAT,
    linear: FLOAT,
    gaussian: FLOAT,
    sigma: FLOAT,
    count: INT64,
) -> tuple[INT64, FLOAT]:
    """The first `count` boxes (M) that soft-NMS picks in each image.

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
    for i in range(count):
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
