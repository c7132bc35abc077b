"""Low-rank adapters beside linear layers (LoRA, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..checks import is_count, is_number, want
from ..errors import UserError, nearest
from .arguments import want_rate
from .layers import LoRALinear

TARGETS = ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')
DOWN, UP = '.lora_down.weight', '.lora_up.weight'  # ends of an adapter's keys


@dataclass(frozen=True)
class LoRA:
    """Checked options of `add_lora`, under mmpretrain's names."""

    rank: int  #: see `LoRALinear`
    #: see `LoRALinear`; ``None`` means equal to the rank, so that the factor is 1
    alpha: float | None = None
    drop_rate: float = 0.0  #: see `LoRALinear`
    #: the layers, each entry the end of their names or a regular expression that matches them;
    #: ``dict(type=name, ...)`` may set its own ``rank``, ``alpha`` and ``drop_rate``
    targets: Sequence[str | Mapping[str, Any]] = TARGETS
    #: whether LayerNorms are trained beside the adapters; those of the outputs always are, as not
    #: all pre-trained files have them
    train_norms: bool = True

    def __post_init__(self) -> None:
        alpha, norms, targets = self.alpha, self.train_norms, self.targets
        want('lora: rank', self.rank, 'a whole number from 1', is_count(self.rank))
        above = alpha is None or (is_number(alpha) and 0 < alpha < math.inf)
        want('lora: alpha', alpha, 'a number above 0', above)
        want_rate('lora: drop_rate', self.drop_rate)
        want('lora: train_norms', norms, 'True or False', isinstance(norms, bool))
        named = isinstance(targets, (list, tuple)) and all(map(_is_target, targets))
        rule = 'a list of names of layers, or of dict(type=name, rank=...)'
        want('lora: targets', targets, rule, named and len(targets) > 0)

    @classmethod
    def of(cls, options: Any) -> LoRA:
        """Make a `LoRA` from the options of a config.

        Raises:
            UserError: if one is unknown, missing or has a wrong value.
        """
        known = tuple(cls.__dataclass_fields__)
        if not isinstance(options, Mapping) or 'rank' not in options:
            raise UserError(f'lora must be dict(rank=...), got {options!r}')
        if unknown := [name for name in options if name not in known]:
            hint = nearest(str(unknown[0]), known)
            raise UserError(f'lora has no option {unknown[0]!r}{hint}; it has {", ".join(known)}')
        return cls(**options)


def _is_target(target: Any) -> bool:
    return isinstance(target, str) or (
        isinstance(target, Mapping)
        and set(target) <= {'type', 'rank', 'alpha', 'drop_rate'}
        and isinstance(target.get('type'), str)
    )


def add_lora(model: nn.Module, lora: LoRA, first_stage: int = 0) -> None:
    """Add adapters to those linear layers of a network that `lora` names.

    Args:
        model: a `core.SwinV2`; its weights keep their values and names.
        lora: the layers to adapt, and the options of their adapters.
        first_stage: stages before this one get no adapters.

    Raises:
        UserError: if the network has adapters, if a target matches no layer or one that another
            target matches, if a rank is too large, or if no layer is left to adapt.
    """
    if find_lora(model):
        raise UserError('lora: this network has adapters; merge them before it gets others')
    linear = {n: m for n, m in model.named_modules() if type(m) is nn.Linear}
    layers = {n: m for n, m in linear.items() if '.cpb_mlp.' not in n}  # which takes offsets
    chosen: dict[str, LoRALinear] = {}
    for target in lora.targets:
        own: dict[str, Any] = {'type': target} if isinstance(target, str) else dict(target)
        kind = own.pop('type')
        names = [name for name in layers if _is_named(name, kind)]
        if not names:
            there = sorted({re.sub(r'^layers\.\d+\.(blocks\.\d+\.)?', '', n) for n in layers})
            raise UserError(
                f'lora: no layer has a name that ends with, or is, {kind!r}; there are '
                f'{", ".join(there)}'
            )
        options = replace(lora, **own)
        rank = options.rank
        alpha = rank if options.alpha is None else options.alpha
        for name in names:
            if name in chosen:
                raise UserError(f'lora: two of the targets are {name}; name it once')
            if int(name.split('.')[1]) < first_stage:
                continue
            layer = layers[name]
            if rank > (most := min(layer.in_features, layer.out_features)):
                raise UserError(
                    f'lora: rank must be at most {most} for {name} ({layer.in_features} to '
                    f'{layer.out_features} channels), got {rank}'
                )
            chosen[name] = LoRALinear(layer, rank, alpha, options.drop_rate)
    if not chosen:
        raise UserError(
            f'lora: frozen_stages={first_stage} leaves no stage for adapters; lower it, or leave '
            'lora out to train the heads alone'
        )
    for name, layer in chosen.items():
        model.set_submodule(name, layer)


def _is_named(name: str, target: str) -> bool:
    try:
        return name.endswith(f'.{target}') or re.fullmatch(target, name) is not None
    except re.error as error:
        raise UserError(f'lora: the target {target!r} is no regular expression: {error}') from error


def find_lora(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with adapters, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def is_adapter(key: str) -> bool:
    """Whether a state-dict key belongs to an adapter."""
    return key.endswith((DOWN, UP))


def merge_lora(model: nn.Module) -> int:
    """Replace layers with adapters by plain layers that compute the same, up to rounding.

    The next call of a backbone's `train` unfreezes the parameters that it froze for its adapters.

    Returns:
        the number of layers replaced.
    """
    found = find_lora(model)
    for name, layer in found.items():
        model.set_submodule(name, layer.merged())
    return len(found)
