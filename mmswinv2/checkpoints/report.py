"""What was compared and loaded: the keys of a model and of a file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..files import StrPath
from .formats import FORMATS, Windows

_LEAST = 0.05  # share of a model's keys that have to be in a file


@dataclass
class LoadReport:
    """Which keys of a model and of a file match, and which weights were loaded."""

    path: Path  #: the file
    loaded: list[str] = field(default_factory=list)  #: keys in both, with equal shapes
    missing: list[str] = field(default_factory=list)  #: keys of the model that the file lacks
    unexpected: list[str] = field(default_factory=list)  #: keys of the file that the model lacks
    #: keys whose shapes differ, with both shapes
    mismatched: list[str] = field(default_factory=list)
    #: keys of the model that are to keep their initialisation
    new: list[str] = field(default_factory=list)
    #: keys of the file for parts that are not to be loaded
    unused: list[str] = field(default_factory=list)
    format: str = ''  #: key of `FORMATS`, empty for a file of the model itself
    prefix: str = ''  #: what preceded the backbone's keys in the file
    #: the pre-trained windows of the file, per stage as far as they are known
    windows: Windows = field(default_factory=dict)
    #: the pre-trained windows of the model
    assumed: list[int | tuple[int, ...]] = field(default_factory=list)
    inflated: bool = False  #: whether weights of an image network were given a time axis
    notes: list[str] = field(default_factory=list)  #: further notes on the file
    #: the entry ``meta`` of a file of a whole model
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """A few lines for a log."""
        form = f': format {self.format} ({FORMATS[self.format].title})' if self.format else ''
        prefix = f', prefix {self.prefix!r}' if self.prefix else ''
        parts = ', '.join(sorted({'.'.join(key.split('.')[:2]) for key in self.new}))
        lines = [
            f'Loaded {self.path.name}{form}{prefix}',
            f'  loaded {len(self.loaded)}, missing {len(self.missing)}, unexpected '
            f'{len(self.unexpected)}, mismatched {len(self.mismatched)}; {len(self.new)} new'
            f'{f" ({parts})" if parts else ""}, {len(self.unused)} of the file not used',
        ]
        if self.format:
            lines.append(f'  pre-trained windows: {self._windows()}')
        if self.inflated:
            lines.append('  inflated from 2D: patches repeated over time, bias constant over time')
        lines += [f'  {note}' for note in self.notes]
        for title in ('missing', 'unexpected', 'mismatched'):
            if keys := getattr(self, title):
                more = f' and {len(keys) - 8} more' if len(keys) > 8 else ''
                lines.append(f'  {title}: {", ".join(keys[:8])}{more}')
        return '\n'.join(lines)

    def _windows(self) -> str:
        """The windows of the pre-training, and where they are from."""
        if self.windows:
            shown = zip(self.windows, short_windows(self.windows.values()), strict=True)
            return ', '.join(f'stage {stage}: {window}' for stage, window in shown)
        return (
            f'not recorded in the file, taken to be {self.assumed} as pretrained_window_sizes '
            '(or window_size) says; docs/checkpoints.md lists those of published weights'
        )

    def problems(self, optional: Callable[[str], Any] = lambda key: False) -> str:
        """What does not fit and is not `optional`, with numbers and examples; empty if all does."""
        found = {
            'another shape': [key for key in self.mismatched if not optional(key)],
            'missing in the file': [key for key in self.missing if not optional(key)],
            'not in the model': [key for key in self.unexpected if not optional(key)],
        }
        return '; '.join(f'{k}: {len(v)}, e.g. {v[0]}' for k, v in found.items() if v)

    def require_match(self) -> None:
        """Raise `CheckpointError` if fewer than 5 % of the model's keys were found in the file."""
        total = len(self.loaded) + len(self.missing) + len(self.mismatched) + len(self.new)
        if len(self.loaded) < _LEAST * total:
            raise CheckpointError(
                f'{self.path}: only {len(self.loaded)} of the {total} entries of the model are '
                'loaded from it; it is a file of another model, or too much of the model is new '
                f'({len(self.new)} entries)'
            )


def compare_keys(
    path: StrPath,
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    new: Sequence[str] = (),
    unbuilt: Callable[[str], bool] = lambda key: False,
) -> LoadReport:
    """Compare keys and shapes of a model and a file, without loading anything.

    Args:
        path: the file, for the report.
        own: the model's state dict.
        given: the file's weights under the model's keys.
        new: parts of names; keys with one of them in their names are not compared.
        unbuilt: whether a key belongs to a part that the model does not build.
    """

    def is_new(key: str) -> bool:
        return any(part in key for part in new)

    report = LoadReport(Path(path))
    for key, value in given.items():
        if is_new(key) or unbuilt(key):
            report.unused.append(key)
        elif key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            report.mismatched.append(f'{key} {list(value.shape)}, here {list(own[key].shape)}')
        else:
            report.loaded.append(key)
    report.new = [key for key in own if is_new(key)]
    report.missing = [key for key in own if key not in given and not is_new(key)]
    return report


def short_windows(windows: Iterable[tuple[int, ...]]) -> list[int | tuple[int, ...]]:
    """Windows as configs write them: one int where all axes are equal."""
    return [w[0] if len(set(w)) == 1 else w for w in windows]
