"""Pipelines whose steps are in a wrong order, or lack one."""

import inspect
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import TRANSFORMS
from mmengine.structures import BaseDataElement

from ..errors import UserError
from .host import steps_in

_OF_HOSTS = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmaction', 'mmpretrain', 'mmswinv2'}
# names of steps that annotations have to follow
_MOVES = 'Resize|Flip|Crop|Affine|Rotate|Shear|Translate|Expand|RandomShift'


def check_order(dataset: Any, where: str) -> None:
    """Raise `UserError` if a training set loads annotations after steps that move its pixels.

    The annotations would stay where they were. Label maps may have been resized before, boxes not.
    """
    moved: list[str] = []
    for step in steps_in(getattr(dataset, 'pipeline', None)):
        name = type(step).__name__
        if re.match('Load.*Annotation', name):
            boxes = getattr(step, 'with_bbox', False) or getattr(step, 'with_mask', False)
            for before in moved:
                if boxes or 'Resize' not in before:
                    raise UserError(
                        f'{where}: {name} stands behind {before} in the pipeline, which thus moves '
                        f'the image and not its annotations; put {name} before {before}'
                    )
        elif name.startswith('Load'):
            moved = []  # the next of several images, or of several alternatives
        elif re.search(_MOVES, name) and getattr(step, 'prob', 1) != 0:
            moved.append(name)


def explain_missing(error: Exception) -> UserError | None:
    """The reason of an error that a sample or a batch caused which a pipeline left incomplete.

    Returns:
        ``None`` for any other error, and where the code of the user took part.
    """
    *_, (file, _, source) = places = _places(error)
    text = str(error)
    if 'expects each tensor to be equal size' in text and 'stack' in source:
        return UserError(
            f'the samples of a batch have several sizes ({text.splitlines()[-1]}); let a step '
            'of the pipeline bring all to one (Resize with keep_ratio=False, a crop, or Pad), '
            'label maps too: load them before it'
        )
    if isinstance(error, AttributeError) and isinstance(error.obj, BaseDataElement):
        if 'gt_' not in source or not _OF_HOSTS & set(Path(file).parts):
            return None
        return UserError(
            f'the model needs {error.name} of the samples, and the pipeline loads none; let '
            'LoadAnnotations do so (with_bbox, with_mask, with_seg, with_label=True)'
        )
    found = re.search(r"'(\w+)'\s*$", text)
    key = found[1] if found and isinstance(error, KeyError) else ''
    unpacked = 'each data_itement in list of batch should be of equal size' in text
    if unpacked or (key == 'inputs' and 'preprocessor' in file):
        packs = sorted({k.__name__ for k in _transforms() if k.__name__.startswith('Pack')})
        return UserError(
            'the samples are not packed: the last step of the pipeline must be '
            f'{" or ".join(packs)}, and one before it load the images'
        )
    steps = [step for place in places for step in _steps_at(*place[:2])]
    if not key or not re.search(rf"""results\[['"]{key}['"]\]""", source) or not steps:
        return None
    if any(step.__module__.partition('.')[0] not in _OF_HOSTS for step in steps):
        return None
    if key in _documented(steps[-1], 'Added', 'Modified'):  # it works on something else
        key = next(iter(_documented(steps[-1], 'Required')), key)
    name = steps[-1].__name__
    givers = {kind.__name__ for kind in _transforms() if _gives(kind, key)} - {name}
    names = ', '.join(sorted(givers, key=lambda giver: (not giver.startswith('Load'), giver))[:4])
    return UserError(
        f'{name}, a step of a pipeline, needs {key!r} of a sample, which none before it has given: '
        f'a step is missing or stands too late{names and f" (it comes from: {names})"}'
    )


def _places(error: Exception) -> list[tuple[str, int, str]]:
    """File, line and source of each frame of an error; a loader's worker hands them on as text."""
    written = re.findall(r'^  File "(.+)", line (\d+), in .*\n    (.+)', str(error), re.MULTILINE)
    frames = traceback.extract_tb(error.__traceback__)
    return [(file, int(line), source) for file, line, source in written] or [
        (frame.filename, frame.lineno or 0, frame.line or '') for frame in frames
    ]


def _transforms() -> Iterator[type]:
    """All registered steps of pipelines."""
    for registry in (TRANSFORMS, *TRANSFORMS.children.values()):
        yield from filter(inspect.isclass, registry.module_dict.values())


def _steps_at(file: str, line: int) -> Iterator[type]:
    """The registered step whose code has a line of a file, if there is one."""
    for kind in dict.fromkeys(_transforms()):
        if inspect.getsourcefile(kind) == file:
            lines, start = inspect.getsourcelines(kind)
            if start <= line < start + len(lines):
                yield kind


def _gives(kind: type, key: str) -> bool:
    """Whether the docstring of a step says that samples have a key after it, and not before."""
    return key in _documented(kind, 'Added', 'Modified') and key not in _documented(
        kind, 'Required'
    )


def _documented(kind: type, *titles: str) -> list[str]:
    """The keys of a sample that the docstring of a step lists under a title: Added, Required."""
    lists = re.findall(
        rf'(?:{"|".join(titles)}) [Kk]eys:\s*\n((?:\s*\n|\s*-.*\n)+)', kind.__doc__ or ''
    )
    return re.findall(r'-\s+`*"?(\w+)', ''.join(lists))
