"""Class maps: which classes of a file's linear head a model starts from."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError
from ..files import StrPath
from .formats import State

HEAD = ('head.fc.weight', 'head.fc.bias')


def read_class_map(path: StrPath) -> list[int]:
    """Read a class map as the authors write it: line i has the file's class for our class i.

    Raises `CheckpointError` if a line is not a number from 0.
    """
    classes = []
    lines = Path(path).read_text('utf-8-sig', errors='replace').splitlines() or ['']
    for number, line in enumerate(lines, start=1):
        if not line.strip().isdecimal():
            raise CheckpointError(
                f'{path}, line {number}: a class map has one number of a class a line, got {line!r}'
            )
        classes.append(int(line))
    return classes


def choose_classes(own: State, given: State, class_map: Sequence[int], path: StrPath) -> State:
    """`given` with the rows of its head that `class_map` names, in that order."""
    for what, state in (('the model', own), (path, given)):
        if any(key not in state for key in HEAD):
            raise CheckpointError(f'class_map is for linear classifiers, and {what} has no head.fc')
    if len(class_map) != (ours := len(own[HEAD[0]])):
        raise CheckpointError(
            f'class_map has {len(class_map)} entries, and model.head {ours} classes; it needs one '
            'for each'
        )
    known = len(given[HEAD[0]])
    if wrong := [number for number in class_map if not 0 <= number < known]:
        raise CheckpointError(
            f'class_map names class {wrong[0]}, and the head of {path} has {known}, from 0'
        )
    return {**given, **{key: given[key][list(class_map)] for key in HEAD}}


def check_classes(own: State, given: State, path: StrPath, new: Sequence[str]) -> None:
    """If the numbers of classes differ, raise an error that says what to do about it."""
    key = HEAD[0]
    if key not in own or key not in given or any(part in key for part in new):
        return
    if (theirs := len(given[key])) != (ours := len(own[key])):
        raise CheckpointError(
            f'{path} has {theirs} classes, and model.head {ours}: give a class map of '
            f'{ours} lines, each the number of the class in the file (tools/train.py --class-map '
            "FILE), or start with a new head (new=['head.'] in LoadCheckpointHook)"
        )
