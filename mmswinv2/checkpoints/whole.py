"""Start a model from the checkpoint of another one, naming the parts that are to be new."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from .files import CheckpointError, read_checkpoint
from .load import unwrap
from .sharded import spread

__all__ = ['TransferReport', 'load_but']


@dataclass
class TransferReport:
    """What became of the keys of a model and of a file.

    Attributes:
        path: the file.
        loaded: keys that were loaded.
        new: keys of the model that keep their initialisation.
        unused: keys of the file that belong to the new parts.
    """

    path: Path
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A few lines for a log."""
        parts = sorted({'.'.join(key.split('.')[:2]) for key in self.new})
        return (
            f'Loaded {self.path}: {len(self.loaded)} of the model, {len(self.new)} new'
            f'{" (" + ", ".join(parts) + ")" if parts else ""}, {len(self.unused)} of the file '
            'not used'
        )


def load_but(
    model: nn.Module, path: str | os.PathLike[str], new: Sequence[str] = ()
) -> TransferReport:
    """Load a checkpoint into a whole model, except for the parts that are to be new.

    Everything else must be in the file, with its shape, and everything in the file must be in the
    model. On an error the model is left as it was.

    Args:
        model: the detector, segmentor or recognizer.
        path: a local file, see `read_checkpoint`.
        new: parts of names; parameters with one of them in their names are not loaded.

    Raises:
        CheckpointError: if the file cannot be read or does not fit, or if an entry of `new` is in
            no parameter's name.
    """
    own, given = model.state_dict(), unwrap(read_checkpoint(path))

    def is_new(key: str) -> bool:
        return any(part in key for part in new)

    if isinstance(new, str) or '' in new:
        raise CheckpointError(f'new must be a list of parts of names, none empty, got {new!r}')
    for part in new:
        if not any(part in key for key in own):
            raise CheckpointError(f'new: no parameter of the model has {part!r} in its name')
    report = TransferReport(Path(path), new=[key for key in own if is_new(key)])
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
        faults = '; '.join(f'{k}: {len(v)}, e.g. {v[0]}' for k, v in problems.items() if v)
        raise CheckpointError(
            f'{path} does not fit the model ({faults}). Train it with the config of the same size, '
            f'or name the parts that it is not to give in new (now {list(new)})'
        )
    parts = {key: spread(given[key], own[key]) for key in report.loaded}
    model.load_state_dict(parts, strict=False)
    return report
