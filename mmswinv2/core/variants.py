"""The sizes of SwinV2 (paper, section 3.6 and table of model variants), plus `nano` of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ['SHORT', 'VARIANTS', 'Variant', 'get_variant']


@dataclass(frozen=True)
class Variant:
    """Width and depth of a network.

    Attributes:
        embed_dims: channels C of the first stage; every later stage doubles them.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        extra_norm_every: a LayerNorm on the main branch after every so many blocks, counted in
            each stage as in the authors' downstream code (0: none). The paper has it in H and G,
            every 6 blocks; where exactly is not published.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    extra_norm_every: int = 0


def _variant(embed_dims: int, depths: tuple[int, ...], extra_norm_every: int = 0) -> Variant:
    """All variants have heads of width 32."""
    num_heads = tuple(embed_dims * 2**i // 32 for i in range(len(depths)))
    return Variant(embed_dims, depths, num_heads, extra_norm_every)


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


def get_variant(
    arch: str | Mapping[str, Any], extra_norm_every_n_blocks: int | None = None
) -> Variant:
    """Look a variant up by name (``'tiny'`` or ``'t'``) or make one from a dict.

    Args:
        arch: a name, or a dict with ``embed_dims``, ``depths``, ``num_heads`` and, if wanted,
            ``extra_norm_every`` (``extra_norm_every_n_blocks`` as in mmpretrain is the same).
        extra_norm_every_n_blocks: another `Variant.extra_norm_every` than the variant's.

    Raises:
        ValueError: if the name is unknown, a key is missing or unknown, or the numbers disagree.
    """
    variant = _get_variant(arch)
    every = extra_norm_every_n_blocks
    if every is not None:
        variant = replace(variant, extra_norm_every=every)
    if not isinstance(variant.extra_norm_every, int) or variant.extra_norm_every < 0:
        raise ValueError(
            f'extra_norm_every_n_blocks must be a number of blocks, or 0 for none, got '
            f'{variant.extra_norm_every!r}'
        )
    return variant


def _get_variant(arch: str | Mapping[str, Any]) -> Variant:
    if isinstance(arch, str):
        name = arch.lower()
        name = SHORT.get(name, name)
        if name not in VARIANTS:
            raise ValueError(f'arch {arch!r} is unknown; choose from {", ".join(VARIANTS)}')
        return VARIANTS[name]
    fields = dict(arch)
    if 'extra_norm_every_n_blocks' in fields:
        fields['extra_norm_every'] = fields.pop('extra_norm_every_n_blocks')
    if missing := [key for key in _REQUIRED if key not in fields]:
        raise ValueError(f'arch {arch!r} lacks {missing}; a dict needs {list(_REQUIRED)}')
    if unknown := sorted(set(fields) - {*_REQUIRED, 'extra_norm_every'}):
        raise ValueError(f'arch {arch!r} has unknown keys {unknown}')
    depths, num_heads = _ints(fields['depths']), _ints(fields['num_heads'])
    if len(depths) != len(num_heads):
        raise ValueError(f'depths {depths} and num_heads {num_heads} must have one entry per stage')
    for i, heads in enumerate(num_heads):
        if (channels := fields['embed_dims'] * 2**i) % heads:
            raise ValueError(f'stage {i}: {channels} channels cannot be shared by {heads} heads')
    return Variant(fields['embed_dims'], depths, num_heads, fields.get('extra_norm_every', 0))


def _ints(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
