"""From a checkpoint of any format of `FORMATS` to weights under our keys."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.arguments import VARIANTS
from ..core.attention import log_coordinates
from ..core.lora import is_adapter
from ..errors import CheckpointError
from ..files import StrPath
from .download import cache_path
from .entries import entries_note, of_file, open_entry, plain_keys, unwrap
from .files import are_windows, read_checkpoint
from .formats import BUFFERS, FORMATS, HEADS, PATCHES, UNSUPPORTED, Rule, State, Windows
from .published import PUBLISHED

_TABLE = 'relative_coords_table'
# timm's names: the window of the first training, and sides of images, in pixels, of first and last
_TIMM: Any = re.compile(r'swinv2_[a-z]+_window(\d+)(?:to\d+)?_(\d+)(?:to(\d+))?(?:_22k.*)?')
_OF_HEADS = ('head.', 'decoder.', 'classifier.')  # under a prefix, the first alone
_LARGEST_TABLE = 2**24  # numbers


@dataclass(frozen=True)
class Converted:
    """Weights under our keys."""

    format: str  #: key of `FORMATS`
    prefix: str  #: what preceded the network's keys in the file
    state: State  #: the backbone's weights
    #: weights of a classifier or SimMIM beside the backbone, under mmpretrain's names
    heads: State
    #: keys of the file that are not in `state` (buffers that follow from the window do not count)
    left_out: list[str]
    unknown: list[str]  #: those of `left_out` that are not in `heads` either
    windows: Windows  #: the pre-trained windows, per stage as far as they are known
    notes: list[str] = field(default_factory=list)  #: further notes for the report


def convert_file(
    path: StrPath,
    format: str | None = None,
    prefix: str | None = None,
    key: str | None = None,
) -> Converted:
    """Read a file and convert it; see `read_checkpoint` and `convert_checkpoint`."""
    return convert_checkpoint(read_checkpoint(path), path, format, prefix, key)


def convert_checkpoint(
    checkpoint: Any,
    path: StrPath,
    format: str | None = None,
    prefix: str | None = None,
    key: str | None = None,
) -> Converted:
    """Convert what was read from a file.

    If no coordinate table gives the pre-trained windows, they are those of `recorded_windows`, of
    `configured_windows`, or of `PUBLISHED` for a download.

    Arguments and errors are those of `unwrap` and `convert`; messages name the file.
    """
    with of_file(path):
        converted = convert(plain_keys(unwrap(checkpoint, key)), format, prefix)
    if note := entries_note(checkpoint, key):
        converted = replace(converted, notes=[note, *converted.notes])
    if converted.windows:
        return converted
    state, network = open_entry(checkpoint, key), converted.prefix[:-1]
    windows = recorded_windows(checkpoint.get('meta'), state, network)
    if not windows and converted.format in ('timm', 'transformers'):
        windows = configured_windows(Path(path))
    for weights in () if windows else PUBLISHED.values():
        if cache_path(weights.url) == Path(path):
            windows = {stage: (w, w) for stage, w in enumerate(weights.pretrained_windows)}
    return replace(converted, windows=windows)


def recorded_windows(meta: Any, state: Any, network: str) -> Windows:
    """The pre-trained windows that a file records, without those of coordinate tables.

    `mmswinv2 convert` writes them into the entry ``meta``, and `SwinV2` into the ``_metadata`` that
    torch keeps with a state dict, an entry for each module. Those of the module `network` count,
    or, if there are none, those that all networks of the file share.
    """
    noted = getattr(state, '_metadata', None)
    noted = noted if isinstance(noted, Mapping) else {}
    for records in ([meta], [noted.get(network)], noted.values()):
        stated = (r.get('pretrained_window_sizes') for r in records if isinstance(r, Mapping))
        found = [
            {int(stage): tuple(window) for stage, window in windows.items()}
            for windows in stated
            if windows and are_windows(windows)
        ]
        if found:
            return found[0] if all(windows == found[0] for windows in found) else {}
    return {}


def configured_windows(path: Path) -> Windows:
    """The pre-trained windows in a ``config.json`` that timm or transformers wrote beside weights.

    Where they are not given, they are those of the present training, no larger than its maps. Files
    of other names than theirs may be of other models.
    """
    if not path.is_dir() and not re.match(r'(pytorch_)?model\b', path.name):
        return {}
    file = path / 'config.json' if path.is_dir() else path.with_name('config.json')
    try:
        config = json.loads(file.read_bytes())
        first = config.get('pretrained_window_sizes') or [0] * 4
        if config.get('model_type') == 'swinv2':
            window, side = config['window_size'], config['image_size'] // config['patch_size']
        else:
            window, pixels, last = _TIMM.fullmatch(config['architecture']).groups()
            size, changes = [int(last or pixels)] * 2, config.get('model_args') or {}
            resized = changes.get('img_size', size) != size
            if resized or 'window_size' in changes or 'pretrained_window_sizes' in changes:
                return {}  # the name does not tell what has become of the windows
            window, side = int(window), int(pixels) // 4
        windows: Windows = {i: (w or min(window, side >> i),) * 2 for i, w in enumerate(first)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # there is none, or one of another kind
    return windows if are_windows(windows) else {}


def convert(state: State, format: str | None = None, prefix: str | None = None) -> Converted:
    """Bring weights of any format of `FORMATS` under our keys.

    Args:
        state: the file's weights, unwrapped.
        format: key of `FORMATS`; detected when ``None``.
        prefix: what precedes the network's keys, e.g. ``'backbone.'``; detected when ``None``.

    Raises:
        CheckpointError: if it is no SwinV2, or holds keys that its format does not have.
    """
    if format is not None and format not in FORMATS:
        raise CheckpointError(f'format {format!r} is unknown; choose from {", ".join(FORMATS)}')
    if any(map(is_adapter, state)):
        raise CheckpointError(
            'the weights have adapters (LoRA) beside their layers; merge them first '
            '(tools/model_converters/merge_lora.py)'
        )
    name, prefix = _detect(state, format, prefix)
    inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    _refuse_unsupported(inside)
    try:
        prepared = FORMATS[name].prepare(inside)
    except KeyError as error:
        raise CheckpointError(f'the weights lack {error}, which {name!r} files have') from error

    renamed, of_heads = _rename_all(prepared, name, prefix)
    last = max(int(k.split('.')[1]) for k in renamed if k.startswith('layers.'))
    left_out = [*(k for k in state if not k.startswith(prefix)), *of_heads]
    heads = {new: state[k] for k in left_out if (new := _rename(k.removeprefix(prefix), HEADS))}
    return Converted(
        format=name,
        prefix=prefix,
        state={k.replace('{last}', str(last)): v for k, v in renamed.items()},
        heads=heads,
        left_out=left_out,
        unknown=[k for k in left_out if not _rename(k.removeprefix(prefix), HEADS)],
        windows=pretrained_windows(_coordinate_tables(inside, FORMATS[name].rules)),
        notes=_global_blocks(inside),
    )


def _rename_all(prepared: State, format: str, prefix: str) -> tuple[State, list[str]]:
    """The weights of a network under our keys, and the keys, with the prefix, of what is no part.

    Raises:
        CheckpointError: if keys are neither.
    """
    renamed, left_out, unknown = {}, [], []
    for key, value in prepared.items():
        if re.fullmatch(BUFFERS, key):
            continue
        new = _rename(key, FORMATS[format].rules)
        if new:
            renamed[new] = value
        elif new is None or key.startswith(_OF_HEADS[: 1 if prefix else None]):
            left_out.append(prefix + key)
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f'{len(unknown)} keys are unknown in the format {format!r}, among them '
            f'{unknown[:4]}; if the format is another, name it ({", ".join(FORMATS)})'
        )
    return renamed, left_out


def _detect(state: State, format: str | None, prefix: str | None) -> tuple[str, str]:
    """Format and prefix of the one network in the file that fits what is asked for."""
    found = []
    for name, form in FORMATS.items():
        for key in state:
            before = key.removesuffix(form.anchor)
            if before == key or (before and not before.endswith('.')):
                continue
            keys = [k.removeprefix(before) for k in state if k.startswith(before)]
            marked = any(re.fullmatch(form.marker, k) for k in keys)
            if marked and not any(re.fullmatch(form.absent, k) for k in keys):
                found.append((name, before))
    fitting = [
        (name, before)
        for name, before in found
        if format in (None, name) and prefix in (None, before)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1:
        prefixes = sorted(before for _, before in fitting)
        raise CheckpointError(
            f'the file holds several networks, under {prefixes}; name one as the prefix: '
            'prefix=... in init_cfg, or mmswinv2 convert --prefix, which writes a file of that '
            'backbone. For a whole model, write a file with the keys of one network alone, without '
            "its prefix ('teacher.' of 'teacher.backbone...')"
        )
    if found:
        seen = ' or '.join(f'{name!r} under the prefix {before!r}' for name, before in found)
        raise CheckpointError(
            f'no SwinV2 of format {format or "any"} under the prefix {prefix!r}; there is {seen}'
        )
    _refuse_unsupported(state)
    examples = ', '.join(sorted(state)[:4])
    raise CheckpointError(f'no SwinV2 in these {len(state)} weights; their keys begin {examples}')


def _refuse_unsupported(state: State) -> None:
    for pattern, what in UNSUPPORTED.items():
        if any(re.fullmatch(pattern, key) for key in state):
            raise CheckpointError(f'these weights cannot be converted: they are {what}')


def _rename(key: str, rules: list[Rule]) -> str | None:
    """Our name of `key`, ``None`` if it is not the backbone's, ``''`` if no rule matches."""
    for pattern, target in rules:
        if match := re.fullmatch(pattern, key):
            if target is None:
                return None
            return match.expand(target) if isinstance(target, str) else target(match)
    return ''


def _coordinate_tables(state: State, rules: list[Rule]) -> dict[int, Tensor]:
    """The coordinate table of each stage's first block, ``(1, 2 M1 - 1, 2 M2 - 1, 2)``."""
    tables: dict[int, Tensor] = {}
    for key, table in state.items():
        if not key.endswith(_TABLE) or table.ndim != 4:
            continue
        if not table.is_floating_point() or table.itemsize < 2 or table.numel() > _LARGEST_TABLE:
            raise CheckpointError(
                f'{key} is no coordinate table: {table.dtype}, shape {list(table.shape)}; it must '
                'be floating point of 16 bits or more; without it, say pretrained_window_sizes'
            )
        if not table.numel() or not bool(table.isfinite().all()):
            raise CheckpointError(
                f'{key} is empty or has NaN or infinite numbers; the file is damaged'
            )
        if neighbour := _rename(key.replace(_TABLE, 'logit_scale'), rules):
            tables.setdefault(int(neighbour.split('.')[1]), table)
    return tables


def _global_blocks(state: State) -> list[str]:
    """Notes on stages with blocks that have no coordinate table, where other blocks have one."""
    found: dict[str, set[tuple[str, str]]] = {'logit_scale': set(), _TABLE: set()}
    for key in state:
        if match := re.fullmatch(r'layers\.(\d+)\.blocks\.(\d+)\.attn\.(\w+)', key):
            found.get(match[3], set()).add((match[1], match[2]))
    tabled = found[_TABLE]
    lacking = sorted(found['logit_scale'] - tabled) if tabled else []
    notes = []
    for stage in sorted({stage for stage, _ in lacking}):
        advice = f'set window_size of stage {stage} to the longer side of its map or more'
        if any(s == stage for s, _ in tabled):
            advice = 'the other blocks do not, and here a stage has one window: outputs will differ'
        blocks = ', '.join(block for s, block in lacking if s == stage)
        notes.append(
            f'WARNING: no coordinate table in stage {stage}, blocks {blocks}: they attend to the '
            f"whole map (Plain-DETR's global_blocks); {advice}"
        )
    return notes


def pretrained_windows(tables: Mapping[int, Tensor]) -> Windows:
    """Read the pre-trained windows off coordinate tables.

    The largest coordinate c along an axis belongs to the offset M - 1, where M is the window of the
    table (which has 2 M - 1 entries), so w_p = 1 + 8 (M - 1) / (2^(c log2(8)) - 1).

    Args:
        tables: stage to ``(1, 2 M1 - 1, 2 M2 - 1, 2)``.

    Returns:
        stage to w_p per axis, without stages of window 1, whose tables hold zeros alone.

    Raises:
        CheckpointError: if a table is not log-spaced.
    """
    windows = {}
    for stage, table in tables.items():
        sizes = [(n + 1) // 2 for n in table.shape[1:-1]]
        largest = table.double().flatten(0, -2).amax(0)
        if bool((8**largest > 1).all()):
            windows[stage] = tuple(
                round(1 + 8 * (m - 1) / (8 ** float(c) - 1))
                for m, c in zip(sizes, largest, strict=True)
            )
            expected = log_coordinates(tuple(sizes), windows[stage])
            near = max(1e-3, 2 * torch.finfo(table.dtype).eps)  # bfloat16 has 8 bits
            if not torch.allclose(table[0].float(), expected, rtol=near, atol=near):
                raise CheckpointError(
                    f'the coordinate table of stage {stage} is not log-spaced as in the paper '
                    f'(equation 4); its position bias would be another here'
                )
    return windows


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The architecture of weights under our keys: ``arch`` as a dict, with its name if it has one.

    Returns:
        ``embed_dims``, ``depths``, ``num_heads``, ``extra_norm_every``, and ``name`` if it is one
        of `core.VARIANTS`.
    """
    depths: list[int] = []
    heads: list[int] = []
    while any(key.startswith(f'layers.{len(depths)}.') for key in state):
        stage = f'layers.{len(depths)}.blocks.'
        depths.append(len({key.split('.')[3] for key in state if key.startswith(stage)}))
        heads.append(_num_rows(state.get(f'{stage}0.attn.logit_scale')))
    extra_norms = [int(key.split('.')[3]) for key in state if key.endswith('.enorm.weight')]
    arch: dict[str, Any] = {
        'embed_dims': _num_rows(state[PATCHES]),
        'depths': tuple(depths),
        'num_heads': tuple(heads),
        'extra_norm_every': 1 + min(extra_norms, default=-1),
    }
    for name, variant in VARIANTS.items():
        if all(getattr(variant, key) == value for key, value in arch.items()):
            return {'name': name, **arch}
    return arch


def _num_rows(weight: Tensor | None) -> int:
    return len(weight) if weight is not None and weight.ndim else 0
