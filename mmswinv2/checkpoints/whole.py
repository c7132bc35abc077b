"""Load whole models: of an earlier stage, with some parts new, or from another's format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..core import SwinV2
from ..errors import CheckpointError
from .files import read_checkpoint
from .formats import FORMATS, State
from .inflate import is_2d
from .load import convert_checkpoint, unwrap
from .sharded import spread
from .windows import check_windows

__all__ = ['TransferReport', 'load_but', 'read_class_map']

_HEAD = ('head.fc.weight', 'head.fc.bias')


@dataclass
class TransferReport:
    """What became of the keys of a model and of a file.

    Attributes:
        path: the file.
        loaded: keys that were loaded.
        new: keys of the model that keep their initialisation.
        unused: keys of the file that belong to the new parts.
        format: key of `FORMATS` if the file is not one of this package.
    """

    path: Path
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    format: str = ''

    def __str__(self) -> str:
        """A few lines for a log."""
        parts = sorted({'.'.join(key.split('.')[:2]) for key in self.new})
        return (
            f'Loaded {self.path}{self._of_format()}: {len(self.loaded)} of the model, '
            f'{len(self.new)} new'
            f'{" (" + ", ".join(parts) + ")" if parts else ""}, {len(self.unused)} of the file '
            'not used'
        )

    def _of_format(self) -> str:
        return f' (format {self.format}, {FORMATS[self.format].title})' if self.format else ''


def load_but(
    model: nn.Module,
    path: str | os.PathLike[str],
    new: Sequence[str] = (),
    class_map: Sequence[int] | None = None,
) -> TransferReport:
    """Load a checkpoint into a whole model, except for the parts that are to be new.

    Everything else must be in the file, with its shape, and everything in the file must be in the
    model. On an error the model is left as it was. Classifiers and SimMIM load from files of any
    format of `FORMATS` too, with head, decoder and final norm.

    Args:
        model: the detector, segmentor, recognizer, classifier or SimMIM.
        path: a local file, see `read_checkpoint`.
        new: parts of names; parameters with one of them in their names are not loaded.
        class_map: for each class of the model's linear head, the class of the file's; see
            `read_class_map`.

    Raises:
        CheckpointError: if the file cannot be read or does not fit, or if an entry of `new` is in
            no parameter's name.
    """
    if isinstance(new, str) or '' in new:
        raise CheckpointError(f'new must be a list of parts of names, none empty, got {new!r}')
    checkpoint = read_checkpoint(path)
    own, given, format = model.state_dict(), unwrap(checkpoint), ''

    def is_new(key: str) -> bool:
        return any(part in key for part in new)

    backbone = getattr(model, 'backbone', None)
    if isinstance(backbone, SwinV2) and 'backbone.patch_embed.proj.weight' not in given:
        given, format = _convert_whole(backbone, checkpoint, path)
    if class_map is not None:
        if any(is_new(key) for key in _HEAD):
            raise CheckpointError(f'new={list(new)} and class_map both say how the head starts')
        given = _choose_classes(own, given, class_map, path)
    for part in new:
        if not any(part in key for key in own):
            raise CheckpointError(f'new: no parameter of the model has {part!r} in its name')
    report = TransferReport(Path(path), new=[key for key in own if is_new(key)], format=format)
    report.unused = [key for key in given if is_new(key)]
    report.loaded = [key for key in own if key in given and not is_new(key)]
    problems = {
        'another shape': [
            f'{key} {list(given[key].shape)}, here {list(own[key].shape)}'
            for key in report.loaded
            if given[key].shape != own[key].shape
        ],
        'missing in the file': [key for key in own if key not in given and not is_new(key)],
        'not in the model': [key for key in given if key not in own and not is_new(key)],
    }
    if any(problems.values()):
        _check_classes(own, given, path, new)
        faults = '; '.join(f'{k}: {len(v)}, e.g. {v[0]}' for k, v in problems.items() if v)
        raise CheckpointError(
            f'{path} does not fit the model ({faults}). Train it with the config of the same size, '
            f'or name the parts that it is not to give in new (now {list(new)}); for the backbone '
            'alone give the file to model.backbone.init_cfg'
        )
    parts = {key: spread(given[key], own[key]) for key in report.loaded}
    model.load_state_dict(parts, strict=False)
    return report


def read_class_map(path: str | os.PathLike[str]) -> list[int]:
    """Read the authors' form of a class map: line i is the class in the file of our class i.

    Raises:
        CheckpointError: if a line is not a number from 0.
    """
    classes = []
    lines = Path(path).read_text(errors='replace').splitlines() or ['']
    for number, line in enumerate(lines, start=1):
        if not line.strip().isdecimal():
            raise CheckpointError(
                f'{path}, line {number}: a class map has one number of a class a line, got {line!r}'
            )
        classes.append(int(line))
    return classes


def _convert_whole(
    backbone: SwinV2, checkpoint: Any, path: str | os.PathLike[str]
) -> tuple[State, str]:
    converted, windows = convert_checkpoint(checkpoint, path)
    if is_2d(converted.state) == (len(backbone.patch_embed.patch_size) == 2):
        check_windows(path, windows, backbone)
    state = {f'backbone.{key}': value for key, value in converted.state.items()}
    given = unwrap(checkpoint)
    strange = {key: given[key] for key in converted.strange}  # to be refused, not passed over
    return {**state, **converted.heads, **strange}, converted.format


def _choose_classes(
    own: State, given: State, class_map: Sequence[int], path: str | os.PathLike[str]
) -> State:
    for what, state in (('the model', own), (path, given)):
        if any(key not in state for key in _HEAD):
            raise CheckpointError(f'class_map is for linear classifiers, and {what} has no head.fc')
    if len(class_map) != (ours := len(own[_HEAD[0]])):
        raise CheckpointError(
            f'class_map has {len(class_map)} entries, and model.head {ours} classes; it needs one '
            'for each'
        )
    known = len(given[_HEAD[0]])
    if wrong := [number for number in class_map if not 0 <= number < known]:
        raise CheckpointError(
            f'class_map names class {wrong[0]}, and the head of {path} has {known}, from 0'
        )
    return {**given, **{key: given[key][list(class_map)] for key in _HEAD}}


def _check_classes(
    own: State, given: State, path: str | os.PathLike[str], new: Sequence[str]
) -> None:
    """Name the way out where the numbers of classes differ."""
    key = _HEAD[0]
    if key not in own or key not in given or any(part in key for part in new):
        return
    if (theirs := len(given[key])) != (ours := len(own[key])):
        raise CheckpointError(
            f'{path} tells {theirs} classes apart, and model.head {ours}: give a class map of '
            f'{ours} lines, each the number of the class in the file (tools/train.py --class-map '
            "FILE), or start with a new head (new=['head.'] in LoadCheckpointHook)"
        )
