"""Load weights into a backbone: convert, check, report; a failed check changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core import VARIANTS, SwinV2
from ..errors import CheckpointError
from .convert import Converted, convert
from .files import read_checkpoint
from .formats import FORMATS
from .inflate import inflate, is_2d
from .windows import check_windows, flat, pretrained_windows, show

__all__ = [
    'LoadReport',
    'convert_checkpoint',
    'convert_file',
    'describe',
    'load_pretrained',
    'unwrap',
]

_WRAPPERS = ('state_dict', 'model', 'module', 'net')
_OUTPUT_NORM = re.compile(r'norm\d\.(weight|bias)')


@dataclass
class LoadReport:
    """What became of a checkpoint's keys.

    Attributes:
        path: the file.
        format: key of `FORMATS`.
        prefix: what preceded the network's keys in the file.
        loaded: keys that were loaded.
        missing: parameters of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        mismatched: keys whose shapes differ, with both shapes.
        dropped: keys that a backbone has no use for (heads, tables that follow from the window).
        outside: keys of other parts of the file's model.
        windows: the pre-trained windows recorded in the file, per stage, where they are.
        assumed: the model's own pre-trained windows.
        inflated: whether 2D weights were given a time axis.
    """

    path: Path
    format: str
    prefix: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    windows: dict[int, tuple[int, ...]] = field(default_factory=dict)
    assumed: list[int | tuple[int, ...]] = field(default_factory=list)
    inflated: bool = False

    def __str__(self) -> str:
        """A few lines for a log."""
        prefix = f', prefix {self.prefix!r}' if self.prefix else ''
        windows = show(self.windows)
        if not self.windows:
            windows = (
                f'not recorded in the file, taken to be {self.assumed} as pretrained_window_sizes '
                '(or window_size) says; docs/checkpoints.md lists those of published weights'
            )
        lines = [
            f'Loaded {self.path.name}: format {self.format} ({FORMATS[self.format].title}){prefix}',
            f'  loaded {len(self.loaded)}, missing {len(self.missing)}, unexpected '
            f'{len(self.unexpected)}, shape mismatch {len(self.mismatched)}, not for a backbone '
            f'{len(self.dropped)}, of other parts {len(self.outside)}',
            f'  pre-trained windows: {windows}',
        ]
        if self.inflated:
            lines.append('  inflated from 2D: patches repeated over time, bias constant over time')
        for title in ('missing', 'unexpected', 'mismatched'):
            if keys := getattr(self, title):
                lines.append(f'  {title}: {_some(keys)}')
        return '\n'.join(lines)


def load_pretrained(
    model: SwinV2,
    path: str | os.PathLike[str],
    format: str | None = None,
    prefix: str | None = None,
    pretrained2d: bool = False,
) -> LoadReport:
    """Load a checkpoint of any format into a backbone.

    Norms of outputs may be missing (classification files have only the last) or superfluous;
    everything else must fit. On an error the model is left as it was.

    Args:
        model: the backbone.
        path: a local file, see `read_checkpoint`; `fetch` gets one from an address.
        format: key of `FORMATS`; found by itself when ``None``.
        prefix: what precedes the backbone's keys in the file; found by itself when ``None``.
        pretrained2d: inflate the weights of an image network for a video network, see `inflate`;
            those of a video network are loaded as they are.

    Raises:
        CheckpointError: if the file cannot be read, is no SwinV2, is one of another architecture,
            or was trained with other windows than ``model.pretrained_window_sizes``.
    """
    converted, windows = convert_file(path, format, prefix)
    report = LoadReport(Path(path), converted.format, converted.prefix, windows=windows)
    report.dropped, report.outside = converted.dropped, converted.outside
    report.assumed = flat(model.pretrained_window_sizes)
    state = converted.state
    if hasattr(model, 'mask_token') and 'backbone.mask_token' in converted.heads:
        state = {**state, 'mask_token': converted.heads['backbone.mask_token']}
    frames = model.patch_embed.patch_size[:-2]
    if pretrained2d and frames and is_2d(state):
        state, report.inflated = inflate(state, frames[0]), True
        # the file says nothing of time, so that the config's word holds
        windows = {s: (model.pretrained_window_sizes[s][0], *w) for s, w in windows.items()}
        report.windows = windows
    own = model.state_dict()
    for key, value in state.items():
        if key not in own:
            report.unexpected.append(key)
        elif own[key].shape != value.shape:
            report.mismatched.append(f'{key} {list(value.shape)}, here {list(own[key].shape)}')
        else:
            report.loaded.append(key)
    report.missing = [key for key in own if key not in state]
    _check_fit(report, model, state)
    check_windows(path, report.windows, model)
    model.load_state_dict({key: state[key] for key in report.loaded}, strict=False)
    return report


def convert_file(
    path: str | os.PathLike[str], format: str | None = None, prefix: str | None = None
) -> tuple[Converted, dict[int, tuple[int, ...]]]:
    """Read a file and bring it under our keys; also the pre-trained windows recorded in it.

    Raises:
        CheckpointError: see `read_checkpoint` and `convert`; its message names the file.
    """
    return convert_checkpoint(read_checkpoint(path), path, format, prefix)


def convert_checkpoint(
    checkpoint: Any,
    path: str | os.PathLike[str],
    format: str | None = None,
    prefix: str | None = None,
) -> tuple[Converted, dict[int, tuple[int, ...]]]:
    """As `convert_file`, of a file that has been read."""
    try:
        converted = convert(unwrap(checkpoint), format, prefix)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    windows = pretrained_windows(converted.tables)
    if not windows and isinstance(checkpoint.get('meta'), Mapping):  # a file of our converter
        recorded = checkpoint['meta'].get('pretrained_window_sizes') or {}
        windows = {int(stage): tuple(window) for stage, window in recorded.items()}
    return converted, windows


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Find the weights in a checkpoint: the dict itself, or one under a usual key.

    Raises:
        CheckpointError: if there are none.
    """
    for _ in range(3):
        if not isinstance(checkpoint, Mapping):
            break
        inner = [checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)]
        if not inner:
            break
        checkpoint = inner[0]
    if isinstance(checkpoint, Mapping):
        tensors = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
    seen = list(checkpoint)[:4] if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
    raise CheckpointError(f'no weights found; expected tensors or one of {_WRAPPERS}, got {seen}')


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The architecture of weights under our keys, with its name if it has one."""
    depths: list[int] = []
    heads: list[int] = []
    stage = 0
    while any(key.startswith(f'layers.{stage}.') for key in state):
        blocks = {k.split('.')[3] for k in state if k.startswith(f'layers.{stage}.blocks.')}
        depths.append(len(blocks))
        heads.append(len(state.get(f'layers.{stage}.blocks.0.attn.logit_scale', ())))
        stage += 1
    arch: dict[str, Any] = {
        'embed_dims': len(state['patch_embed.proj.weight']),
        'depths': tuple(depths),
        'num_heads': tuple(heads),
        'extra_norm_every': _extra_norm_every(state),
    }
    for name, variant in VARIANTS.items():
        if all(getattr(variant, key) == value for key, value in arch.items()):
            return {'name': name, **arch}
    return arch


def _extra_norm_every(state: Mapping[str, Tensor]) -> int:
    blocks = [int(k.split('.')[3]) for k in state if k.endswith('.enorm.weight')]
    return 1 + min(blocks) if blocks else 0


def _check_fit(report: LoadReport, model: SwinV2, state: Mapping[str, Tensor]) -> None:
    def faults(keys: Iterable[str]) -> list[str]:
        return [key for key in keys if not _OUTPUT_NORM.fullmatch(key)]

    problems = {
        'shape mismatch': report.mismatched,
        'missing in the file': faults(report.missing),
        'not in the model': faults(report.unexpected),
    }
    if any(problems.values()):
        parts = '; '.join(f'{k}: {len(v)}, e.g. {v[0]}' for k, v in problems.items() if v)
        variant, arch = model.variant, describe(state)
        raise CheckpointError(
            f'{report.path} does not fit the backbone ({parts}). The file is {arch}, '
            f'which arch={arch.get("name", arch)!r} would build; '
            f'the config asks for embed_dims={variant.embed_dims}, depths={variant.depths}, '
            f'num_heads={variant.num_heads}, extra_norm_every={variant.extra_norm_every} '
            f'on {model.patch_embed.proj.in_channels} input channels{_hint(model, state)}'
        )


def _hint(model: SwinV2, state: Mapping[str, Tensor]) -> str:
    """What to set if only the number of axes is wrong."""
    if is_2d(state) == (len(model.patch_embed.patch_size) == 2):
        return ''
    if is_2d(state):
        return '. Weights of an image network for a video network: set pretrained2d=True'
    return '. These are weights of a video network, and the backbone takes images'


def _some(keys: list[str]) -> str:
    return ', '.join(keys[:8]) + (f' and {len(keys) - 8} more' if len(keys) > 8 else '')
