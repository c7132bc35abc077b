"""The sizes of SwinV2, and the one place where the network's arguments are checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..checks import is_count, is_number, want
from ..errors import UserError

IntOrInts = int | Sequence[int]


@dataclass(frozen=True)
class Variant:
    """Width and depth of a network."""

    embed_dims: int  #: channels C of the first stage; every later stage doubles them
    depths: tuple[int, ...]  #: blocks per stage
    num_heads: tuple[int, ...]  #: attention heads per stage
    #: a LayerNorm follows on the main branch after this many blocks, counted per stage as in the
    #: authors' downstream code (0: none); the paper has one every 6 blocks in H and G, and does not
    #: give the exact positions
    extra_norm_every: int = 0


def _variant(embed_dims: int, depths: tuple[int, ...], extra_norm_every: int = 0) -> Variant:
    """Make a variant whose heads all have 32 channels."""
    num_heads = tuple(embed_dims * 2**i // 32 for i in range(len(depths)))
    return Variant(embed_dims, depths, num_heads, extra_norm_every)


# paper, section 3.6 and table of model variants
VARIANTS = {
    'nano': _variant(32, (2, 2, 2, 2)),  # for tests and demos, not from the paper
    'tiny': _variant(96, (2, 2, 6, 2)),
    'small': _variant(96, (2, 2, 18, 2)),
    'base': _variant(128, (2, 2, 18, 2)),
    'large': _variant(192, (2, 2, 18, 2)),
    'huge': _variant(352, (2, 2, 18, 2), extra_norm_every=6),
    'giant': _variant(512, (2, 2, 42, 4), extra_norm_every=6),
}
SHORT = {name[0]: name for name in VARIANTS if name != 'nano'}
_REQUIRED = ('embed_dims', 'depths', 'num_heads')


@dataclass(frozen=True)
class Arguments:
    """The checked arguments of `SwinV2`, each normalized to one form."""

    variant: Variant
    patch_size: tuple[int, ...]  # per axis, as `merge_stride`
    merge_stride: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]  # per stage and axis, as `pretrained`
    pretrained: tuple[tuple[int, ...], ...]
    out_indices: tuple[int, ...]
    recomputed: tuple[int, ...]  # blocks whose activations are recomputed, per stage
    windows_at_once: tuple[int | None, ...]  # per stage


def check_arguments(
    arch: Any, in_channels: Any, patch_size: Any, merge_stride: Any, window_size: Any,
    pretrained_window_sizes: Any, mlp_ratio: Any, drop_rate: Any, attn_drop_rate: Any,
    drop_path_rate: Any, out_indices: Any, with_cp: Any, checkpoint_blocks: Any,
    windows_at_once: Any, extra_norm_every_n_blocks: Any,
) -> Arguments:  # fmt: skip
    """Check the arguments of `SwinV2`.

    Raises:
        UserError: if one is invalid; the message names the argument, its value and the rule.
    """
    variant = get_variant(arch, extra_norm_every_n_blocks)
    stages = len(variant.depths)
    if not _is_list(patch_size) or len(patch_size) not in (2, 3):
        raise UserError(f'patch_size must have 2 or 3 entries, got {patch_size!r}')
    ndim = len(patch_size)
    want('in_channels', in_channels, 'an int of at least 1', is_count(in_channels))
    want_rate('drop_rate', drop_rate)
    want_rate('attn_drop_rate', attn_drop_rate)
    want_rate('drop_path_rate', drop_path_rate)
    want_mlp(mlp_ratio, variant.embed_dims)
    limits = one_each(windows_at_once, stages, 'windows_at_once')
    bounds = all(n is None or is_count(n) for n in limits)
    want('windows_at_once', windows_at_once, 'at least 1, or None for no bound', bounds)
    windows = per_stage(window_size, stages, ndim, 'window_size')
    pretrained = windows
    if pretrained_window_sizes is not None:
        given = pretrained_window_sizes
        if any(is_count(n, 0, 0) for n in (given if _is_list(given) else [given])):
            raise UserError(
                f'pretrained_window_sizes must be at least 1, got {given!r}; mmpretrain writes 0 '
                'for weights that were trained with the present window, here that is None'
            )
        pretrained = per_stage(pretrained_window_sizes, stages, ndim, 'pretrained_window_sizes')
    return Arguments(
        variant,
        per_axis(patch_size, ndim, 'patch_size'),
        per_axis(merge_stride, ndim, 'merge_stride'),
        windows,
        pretrained,
        _check_out_indices(out_indices, stages),
        _recomputed_blocks(variant.depths, with_cp, checkpoint_blocks),
        limits,
    )


def get_variant(arch: Any, extra_norm_every_n_blocks: Any = None) -> Variant:
    """Look a variant up by name (``'tiny'`` or ``'t'``) or make one from a dict.

    Args:
        arch: a name, or a dict with ``embed_dims``, ``depths``, ``num_heads`` and optionally
            ``extra_norm_every`` (or ``extra_norm_every_n_blocks``, its name in mmpretrain).
        extra_norm_every_n_blocks: overrides the variant's `Variant.extra_norm_every`.

    Raises:
        UserError: if the name is unknown, a key is missing or unknown, or the numbers disagree.
    """
    variant = _get_variant(arch)
    every = variant.extra_norm_every
    if extra_norm_every_n_blocks is not None:
        every = extra_norm_every_n_blocks
    rule = 'a number of blocks, or 0 for none'
    want('extra_norm_every_n_blocks', every, rule, is_count(every, minimum=0))
    return replace(variant, extra_norm_every=every)


def _get_variant(arch: Any) -> Variant:
    """The sizes of a name, or of a dict that is checked."""
    if isinstance(arch, str):
        name = SHORT.get(arch.lower(), arch.lower())
        if name not in VARIANTS:
            raise UserError(f'arch {arch!r} is unknown; choose from {", ".join(VARIANTS)}')
        return VARIANTS[name]
    if not isinstance(arch, Mapping):
        raise UserError(f'arch must be a name or a dict with {list(_REQUIRED)}, got {arch!r}')
    fields = dict(arch)
    if 'extra_norm_every_n_blocks' in fields:
        fields['extra_norm_every'] = fields.pop('extra_norm_every_n_blocks')
    if missing := [key for key in _REQUIRED if key not in fields]:
        raise UserError(f'arch {arch!r} lacks {missing}; a dict needs {list(_REQUIRED)}')
    if unknown := sorted(set(fields) - {*_REQUIRED, 'extra_norm_every'}):
        raise UserError(f'arch {arch!r} has unknown keys {unknown}')
    dim, depths, heads = (fields[key] for key in _REQUIRED)
    want('arch: embed_dims', dim, 'an int of at least 1', is_count(dim))
    for name, values in (('depths', depths), ('num_heads', heads)):
        whole = _is_list(values) and len(values) > 0 and all(map(is_count, values))
        want(f'arch: {name}', values, 'a list of ints of at least 1, one per stage', whole)
    if len(depths) != len(heads):
        raise UserError(f'depths {depths} and num_heads {heads} must have one entry per stage')
    for i, count in enumerate(heads):
        if (channels := dim * 2**i) % count:
            raise UserError(f'stage {i}: {channels} channels cannot be shared by {count} heads')
    return Variant(dim, tuple(depths), tuple(heads), fields.get('extra_norm_every', 0))


def per_axis(value: Any, ndim: int, name: str) -> tuple[int, ...]:
    """Return `value` as one int per axis: ``8, 2 -> (8, 8)``, ``(8, 7, 7), 3 -> (8, 7, 7)``.

    Raises:
        UserError: if a sequence has another length than `ndim`, or an entry is below 1.
    """
    axes = tuple(value) if _is_list(value) else (value,) * ndim
    fits = len(axes) == ndim and all(map(is_count, axes))
    want(name, value, f'an int >= 1 or {ndim} of them (one per axis)', fits)
    return axes


def per_stage(value: Any, num_stages: int, ndim: int, name: str) -> tuple[tuple[int, ...], ...]:
    """Return `value` as one tuple of `ndim` ints per stage.

    An int holds for all stages and axes. A flat sequence is read per stage when it has `num_stages`
    entries, else per axis when it has `ndim`; nested sequences are per stage and then per axis.

    Raises:
        UserError: if the lengths fit neither reading, or if both fit and give different results.
    """
    if _is_list(value):
        of_axes = [tuple(value)] * num_stages
        if len(value) == ndim and all(is_count(n) for n in value):
            if ndim == num_stages and len(set(value)) > 1:
                as_stages = [(n,) * ndim for n in value]
                raise UserError(
                    f'{name}={value!r} can be read as one per axis or as one per stage; write '
                    f'{of_axes} for one per axis, or {as_stages} for one per stage'
                )
            value = of_axes
    stages = value if _is_list(value) else (value,) * num_stages
    rule = f'an int, {num_stages} values (one per stage) or {ndim} ints (one per axis)'
    want(name, value, rule, len(stages) == num_stages and not isinstance(value, str))
    return tuple(per_axis(v, ndim, f'{name}[{i}]') for i, v in enumerate(stages))


def one_each(value: Any, num_stages: int, name: str) -> tuple[Any, ...]:
    """Return `value` as one entry per stage: ``True, 4 -> (True, True, True, True)``.

    Raises:
        UserError: if a sequence has another length than `num_stages`.
    """
    if not _is_list(value):
        return (value,) * num_stages
    rule = f'one value or {num_stages} (one per stage)'
    want(name, value, rule, len(value) == num_stages)
    return tuple(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def want_rate(name: str, value: Any) -> None:
    """Raise `UserError` unless the argument is a share of what to drop."""
    want(name, value, 'a number from 0 to below 1', is_number(value) and 0 <= value < 1)


def want_mlp(ratio: Any, channels: int) -> None:
    """Raise `UserError` unless ``mlp_ratio`` gives an MLP a width."""
    wide = is_number(ratio) and 1 <= channels * ratio < math.inf
    want('mlp_ratio', ratio, 'a number that gives an MLP of at least 1 channel', wide)


def _check_out_indices(value: Any, num_stages: int) -> tuple[int, ...]:
    """Return ``out_indices`` as a tuple; raise `UserError` unless they are ascending stages."""
    if not _is_list(value) or not value:
        raise UserError(f'out_indices must name at least one stage, as in (3,), got {value!r}')
    if bad := [i for i in value if not is_count(i, 0, num_stages - 1)]:
        raise UserError(f'out_indices {bad} are no stages; there are {num_stages}, from 0')
    if list(value) != sorted(set(value)):
        raise UserError(
            f'out_indices must be ascending, each stage once, got {value!r}; maps are returned in '
            'the order of the stages'
        )
    return tuple(value)


def _recomputed_blocks(
    depths: tuple[int, ...], with_cp: Any, checkpoint_blocks: Any
) -> tuple[int, ...]:
    """Blocks at the start of each stage whose activations are recomputed."""
    wanted = one_each(with_cp, len(depths), 'with_cp')
    if bad := [flag for flag in wanted if not isinstance(flag, bool)]:
        raise UserError(
            f'with_cp must be True or False, or one of them per stage, got {bad[0]!r}; '
            'checkpoint_blocks=N takes the first N blocks of a stage'
        )
    limits: tuple[Any, ...] = depths
    if checkpoint_blocks is not None:
        limits = one_each(checkpoint_blocks, len(depths), 'checkpoint_blocks')
        whole = all(is_count(n, minimum=0) for n in limits)
        want('checkpoint_blocks', checkpoint_blocks, 'numbers of blocks from 0', whole)
        if not any(wanted):
            raise UserError(
                f'checkpoint_blocks={checkpoint_blocks!r} says how many blocks to recompute, and '
                'with_cp is False everywhere; set with_cp=True'
            )
    return tuple(n if flag else 0 for n, flag in zip(limits, wanted, strict=True))
