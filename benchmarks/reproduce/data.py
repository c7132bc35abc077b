"""Drawn pictures and clips in memory, by the scripts that draw the data sets of the demos."""

import functools
import importlib
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TOOLS = Path(__file__).resolve().parents[2] / 'tools/dataset_converters'
CLASSES = 4


class Split(NamedTuple):
    """``(n, ...)`` uint8 pictures (3, H, W) or clips (3, T, H, W), and ``(n, ...)`` labels."""

    inputs: Tensor
    labels: Tensor

    def first(self, count: int) -> 'Split':
        return Split(self.inputs[:count], self.labels[:count])


def scripts(name: str):
    """A script of tools/dataset_converters as a module; they import each other by plain names."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


@functools.cache
def shapes(count: int, split: int, side: int) -> Split:
    """Pictures of one shape each, in one color on a darker one, turned; classes go round.

    Args:
        count: how many.
        split: 0 for training, 1 for validation.
        side: of the pictures, in pixels; the same pictures whatever it is, but for the noise.
    """
    script = scripts('make_shapes')
    pictures = []
    for index in range(count):
        rng = np.random.default_rng([0, split, index])
        kind = list(script.THINGS)[index % CLASSES]
        polygon = script.outline(kind, rng.uniform(0.6, 0.9) * side, rng)
        polygon += rng.random(2) * (side - polygon.max(axis=0))
        ground, fill = rng.uniform(0, 90, 3), rng.uniform(140, 255, 3)
        cover = script.coverage(polygon, side, side)[..., None]
        picture = ground + (fill - ground) * cover + 4 * rng.standard_normal((side, side, 3))
        pictures.append(picture.round().clip(0, 255).astype(np.uint8))
    inputs = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Split(inputs, torch.arange(count) % CLASSES)


@functools.cache
def discs(count: int, split: int, side: int) -> Split:
    """Pictures of one disc; labels ``(n, side / 8, side / 8)`` say where it is from a square.

    0 left, 1 right, 2 above, 3 below: the longer way of the two axes.
    """
    script = scripts('make_shapes')
    pictures, labels = [], []
    places = (np.arange(side // 8) + 0.5) / (side // 8)
    for index in range(count):
        rng = np.random.default_rng([1, split, index])
        radius = rng.uniform(0.05, 0.1)
        centre = rng.uniform(radius, 1 - radius, 2)
        ground, fill = rng.uniform(0, 90, 3), rng.uniform(140, 255, 3)
        polygon = script.outline('circle', 2 * radius * side, rng) + (centre - radius) * side
        cover = script.coverage(polygon, side, side)[..., None]
        picture = ground + (fill - ground) * cover + 4 * rng.standard_normal((side, side, 3))
        pictures.append(picture.round().clip(0, 255).astype(np.uint8))
        x, y = centre[0] - places[None], centre[1] - places[:, None]
        labels.append(np.where(abs(x) > abs(y), x > 0, 2 + (y > 0)))
    inputs = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Split(inputs, torch.from_numpy(np.stack(labels)))


@functools.cache
def motion(count: int, split: int, size: int, frames: int) -> Split:
    """Drawn clips whose class is how a shape moves; classes go round."""
    script = scripts('make_motion')
    clips = []
    for index in range(count):
        rng = np.random.default_rng([0, split, index])
        kind = script.MOTIONS[index % len(script.MOTIONS)]
        clips.append(script.draw(kind, size, frames, rng))
    inputs = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous()
    return Split(inputs, torch.arange(count) % len(script.MOTIONS))
