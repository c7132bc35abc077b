"""Bring weights of any format of `FORMATS` under our keys."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError
from .formats import FORMATS, HEADS, STRANGERS, Rule, State

__all__ = ['Converted', 'convert']

# They follow from the window and the image size.
_BUFFERS: list[Rule] = [(r'.*\.(relative_coords_table|relative_position_index|attn_mask)', None)]


@dataclass(frozen=True)
class Converted:
    """Weights under our keys.

    Attributes:
        format: key of `FORMATS`.
        prefix: what preceded the network's keys in the file.
        state: the weights.
        tables: per stage, the ``relative_coords_table`` of the file, if it has one.
        outside: keys of the file that are not under the prefix (heads, necks).
        dropped: keys under the prefix that a backbone has no use for.
        heads: what a classifier or SimMIM has beside the backbone, under mmpretrain's names.
        strange: keys not under the prefix that are none of `heads`.
    """

    format: str
    prefix: str
    state: State
    tables: dict[int, Tensor]
    outside: list[str]
    dropped: list[str]
    heads: State
    strange: list[str]


def convert(state: State, format: str | None = None, prefix: str | None = None) -> Converted:
    """Bring weights of any format of `FORMATS` under our keys.

    Args:
        state: the file's weights, unwrapped.
        format: key of `FORMATS`; found by itself when ``None``.
        prefix: what precedes the network's keys, e.g. ``'backbone.'``; found when ``None``.

    Raises:
        CheckpointError: if it is no SwinV2, or holds keys that its format does not have.
    """
    if format is not None and format not in FORMATS:
        raise CheckpointError(f'format {format!r} is unknown; choose from {", ".join(FORMATS)}')
    name, prefix = _detect(state, format, prefix)
    rules = FORMATS[name].rules
    inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    _refuse_strangers(inside)
    outside = [k for k in state if not k.startswith(prefix)]

    try:
        prepared = FORMATS[name].prepare(inside)
    except KeyError as error:
        raise CheckpointError(f'the weights lack {error}, which {name!r} files have') from error
    converted, dropped, unknown = {}, [], []
    for key, value in prepared.items():
        new = _rename(key, [*_BUFFERS, *rules])
        if new is None:
            dropped.append(key)
        elif new:
            converted[new] = value
        elif not prefix and key.startswith(('decoder.', 'classifier.')):
            outside.append(key)  # heads of files whose network has no prefix
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f'{len(unknown)} keys are unknown in the format {name!r}, among them '
            f'{unknown[:4]}; if the format is another, name it ({", ".join(FORMATS)})'
        )
    given = state
    last = max(int(k.split('.')[1]) for k in converted if k.startswith('layers.'))
    state = {k.replace('{last}', str(last)): v for k, v in converted.items()}
    names = {k: _rename(k.removeprefix(prefix), HEADS) for k in outside}
    heads = {new: given[k] for k, new in names.items() if new}
    heads |= {new: inside[k] for k in dropped if (new := _rename(k, HEADS))}
    strange = [k for k, new in names.items() if not new]
    tables = _tables(inside, rules)
    return Converted(name, prefix, state, tables, outside, dropped, heads, strange)


def _detect(state: State, format: str | None, prefix: str | None) -> tuple[str, str]:
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
            f'the file holds several networks, under {prefixes}; name one as the prefix'
        )
    if found:
        seen = ' or '.join(f'{name!r} under the prefix {before!r}' for name, before in found)
        raise CheckpointError(
            f'no SwinV2 of format {format or "any"} under the prefix {prefix!r}; there is {seen}'
        )
    _refuse_strangers(state)
    some = ', '.join(sorted(state)[:4])
    raise CheckpointError(f'no SwinV2 in these {len(state)} weights; their keys begin {some}')


def _refuse_strangers(state: State) -> None:
    for pattern, what in STRANGERS.items():
        if any(re.fullmatch(pattern, key) for key in state):
            raise CheckpointError(f'these weights cannot be converted: they are {what}')


def _rename(key: str, rules: list[Rule]) -> str | None:
    """Our name of `key`, ``None`` if not wanted, ``''`` if unknown."""
    for pattern, target in rules:
        if match := re.fullmatch(pattern, key):
            if target is None:
                return None
            return match.expand(target) if isinstance(target, str) else target(match)
    return ''


def _tables(state: State, rules: list[Rule]) -> dict[int, Tensor]:
    """The coordinate table of each stage's first block."""
    tables: dict[int, Tensor] = {}
    for key, value in state.items():
        if key.endswith('relative_coords_table'):
            twin = _rename(key.replace('relative_coords_table', 'logit_scale'), rules)
            if twin and value.ndim == 4:
                tables.setdefault(int(twin.split('.')[1]), value)
    return tables
