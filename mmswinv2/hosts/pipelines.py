"""Pipelines whose steps are in a wrong order, or lack one."""

import re
from typing import Any

from mmengine.dataset import Compose

from ..errors import UserError
from ..explanations import raised
from .configs import package_of, step_lists, steps_in
from .host import FILE_KEYS
from .patching import PACKAGES, patch, replace

# names of steps that annotations have to follow
_MOVES = 'Resize|Flip|Crop|Affine|Rotate|Shear|Translate|Expand|RandomShift'


@patch('mmengine', '>=0.7')
def name_keys_that_steps_lack() -> None:
    """Errors for samples that lack what a step of a pipeline needs name both."""

    @replace(Compose, '__call__')
    def call(original: Any, self: Any, data: Any) -> Any:
        for step in self.transforms:
            try:
                data = step(data)
            except (KeyError, AssertionError) as error:
                if (reason := _explain(error)) is None:
                    raise
                raise reason from error
            if data is None:
                return None
        return data


class StepError(UserError, AssertionError):
    """What a step asserts; some data sets catch assertions and take the next sample."""


def _explain(error: KeyError | AssertionError) -> UserError | None:
    """The reason of an error; ``None`` if no step of a host asserts or looks for a missing key."""
    frames, source = raised(error)
    step, sample = (frames[-1].f_locals.get(name) for name in ('self', 'results'))
    if package_of(step) not in PACKAGES or not isinstance(sample, dict):
        return None
    name = f'{type(step).__name__}, a step of a pipeline,'
    key = error.args[0] if error.args else ''
    if isinstance(error, AssertionError):
        file = next((sample[key] for key in FILE_KEYS if key in sample), 'a sample')
        return StepError(f'{name} cannot take {file}: {key or f"{source!r} does not hold"}')
    if not isinstance(key, str) or key in sample:
        return None
    return UserError(
        f'{name} needs {key!r} of a sample, which has {", ".join(map(str, sample))}: a step before '
        'it is missing or stands too late'
    )


def loads_annotations(step: Any) -> bool:
    """Whether a step of a pipeline loads boxes, masks or label maps."""
    return 'Annotation' in type(step).__name__ or getattr(step, 'with_seg', False)


def has_own_steps(dataset: Any) -> bool:
    """Whether a step of the pipeline is of a user's own, which may add or change annotations."""
    steps = steps_in(getattr(dataset, 'pipeline', None))
    return any(package_of(step) not in PACKAGES for step in steps)


def check_normalized(dataset: Any, where: str, model: Any) -> None:
    """Raise `UserError` if a pipeline subtracts a mean from images, and the model another."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    if not getattr(preprocessor, '_enable_normalize', False) or not preprocessor.mean.any():
        return
    for step in steps_in(getattr(dataset, 'pipeline', None)):
        of_mmcv = type(step).__name__ == 'Normalize' and package_of(step) == 'mmcv'
        if of_mmcv and any(step.mean):  # without a mean it scales
            raise UserError(
                f'{where}: images are normalized twice, by Normalize in the pipeline and by '
                'data_preprocessor of the model; take Normalize out'
            )


def not_packed(where: str) -> UserError:
    """The error for samples without ``inputs``."""
    return UserError(
        f'the pipeline of {where} does not end in a step that packs samples, such as '
        'PackDetInputs or PackSegInputs; add it'
    )


def check_order(dataset: Any, where: str) -> None:
    """Raise `UserError` if a training set loads no annotations, or after its pixels are moved.

    The annotations would stay where they were. Label maps may have been resized before, boxes not.
    """
    pipeline = getattr(dataset, 'pipeline', None)
    steps = steps_in(pipeline)
    names = [type(step).__name__ for step in steps]
    loads = any(name.startswith('Load') for name in names)
    packs = 'PackDetInputs' in names or 'PackSegInputs' in names
    if loads and packs and not has_own_steps(dataset) and not any(map(loads_annotations, steps)):
        raise UserError(
            f'{where}: the pipeline loads no annotations ({", ".join(names)}); put '
            'LoadAnnotations after the step that loads images'
        )
    for alternative in step_lists(pipeline):
        _check_moved(alternative, where)


def _check_moved(steps: list, where: str) -> None:
    """Raise `UserError` for annotations that are loaded behind a step that moves pixels."""
    moved: list[str] = []
    for step in steps:
        name = type(step).__name__
        if re.match('Load.*Annotation', name):
            boxes = getattr(step, 'with_bbox', False) or getattr(step, 'with_mask', False)
            for before in moved:
                if boxes or 'Resize' not in before:
                    raise UserError(
                        f'{where}: {name} stands after {before} in the pipeline, which thus moves '
                        f'the image and not its annotations; put {name} before {before}'
                    )
        elif name.startswith('Load'):
            moved = []  # the next of several images, or of several alternatives
        elif re.search(_MOVES, name) and getattr(step, 'prob', 1) != 0:
            moved.append(name)
