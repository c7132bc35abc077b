"""Layer-wise learning-rate decay for SwinV2, around any detector, segmentor or recogniser."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..core import SwinV2
from ..errors import UserError
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

_NO_DECAY = ('cpb_mlp', 'logit_scale')
_OPTIONS = {'layer_decay_rate', 'merging_layers', 'no_decay_names', 'custom_keys'}


def layer_id(name: str, depths: tuple[int, ...], merging_layers: bool = True) -> int:
    """Layer of a backbone's parameter, as the authors count (AiT, ``ait/code/model/optimizer.py``).

    The patch embedding is 0, then every block and every patch merging is a layer of its own, and
    the norms of the outputs share the last number with everything after the backbone.

    Args:
        name: the parameter's name inside the backbone.
        depths: blocks per stage.
        merging_layers: ``False`` counts a patch merging with the block before it, as their code of
            classification and SimMIM does (microsoft/Swin-Transformer, ``optimizer.py``).
    """
    if name.startswith('patch_embed.'):
        return 0
    slots = [depth + merging_layers for depth in depths[:-1]] + [depths[-1]]
    if match := re.match(r'layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.', name):
        stage = int(match[1])
        block = int(match[2]) if match[2] else depths[stage] - (not merging_layers)
        return 1 + sum(slots[:stage]) + block
    return 1 + sum(slots)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SwinLayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Groups parameters by layer and by weight decay, and prints the groups.

    ``lr = base * layer_decay_rate ** (last layer - layer)``. No weight decay on parameters with one
    axis (norms, biases) nor on ``cpb_mlp`` and ``logit_scale`` (authors' code). Frozen parameters
    are left out.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper.
        paramwise_cfg: ``layer_decay_rate`` (1: no decay over layers), ``merging_layers`` (see
            `layer_id`; AiT's rule unless it is ``False``), ``no_decay_names`` (more
            parts of names without weight decay) and ``custom_keys`` (part of a name to
            ``dict(lr_mult=..., decay_mult=...)``; the longest that matches counts, and what it
            says of weight decay comes before all else).

    Raises:
        UserError: on an unknown option, or if a rate is given and the model has no SwinV2.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        options = {'layer_decay_rate': 1.0, 'merging_layers': True, **(paramwise_cfg or {})}
        if unknown := sorted(set(options) - _OPTIONS):
            raise UserError(f'paramwise_cfg has {unknown}; it may have {sorted(_OPTIONS)}')
        if not 0 < options['layer_decay_rate'] <= 1:
            raise UserError(
                f'layer_decay_rate must be above 0 and at most 1, got {options["layer_decay_rate"]}'
            )
        if optim_wrapper_cfg['optimizer'].get('lr') is None:
            raise UserError(f'the optimizer needs an lr, got {optim_wrapper_cfg["optimizer"]}')
        for key, change in options.get('custom_keys', {}).items():
            if unknown := sorted(set(change) - {'lr_mult', 'decay_mult'}):
                raise UserError(f'custom_keys[{key!r}] has {unknown}, not lr_mult or decay_mult')
        super().__init__(optim_wrapper_cfg, options)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append one group per layer, weight decay and multiplier to `params`."""
        rate = self.paramwise_cfg['layer_decay_rate']
        backbones = {name: m for name, m in module.named_modules() if isinstance(m, SwinV2)}
        if not backbones and rate != 1:
            raise UserError(
                f'layer_decay_rate={rate} needs a SwinV2 backbone (mmswinv2.SwinTransformerV2), '
                f'and {type(module).__name__} has none'
            )
        names = [name for name, _ in module.named_parameters()]
        for key in self.paramwise_cfg.get('custom_keys', {}):
            if not any(key in name for name in names):
                raise UserError(f'custom_keys: no parameter has {key!r} in its name')
        groups: dict[tuple[str, float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            title, scale = self._layer(name, backbones, rate)
            lr_mult, decay_mult = self._multipliers(name)
            if decay_mult is None:
                free = parameter.ndim <= 1 or self._has_no_decay(name)
                decay_mult = 0.0 if free else 1.0
            groups[title, scale * lr_mult, decay_mult].append(parameter)

        rows: list[tuple[str, ...]] = [('group', 'lr', 'weight decay', 'tensors', 'parameters')]
        for (title, scale, decay_mult), members in groups.items():
            group = {'params': members, 'lr': self.base_lr * scale, 'group_name': title}
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay_mult
            params.append(group)
            size = sum(p.numel() for p in members)
            decay = group.get('weight_decay', '-')
            rows.append((title, f'{group["lr"]:.4g}', f'{decay}', f'{len(members)}', f'{size:,}'))
        print_log('Parameter groups:\n' + _table(rows), logger='current')

    def _layer(self, name: str, backbones: dict[str, SwinV2], rate: float) -> tuple[str, float]:
        for prefix, backbone in backbones.items():
            inside = name.removeprefix(f'{prefix}.') if prefix else name
            if inside != name or not prefix:
                merging = self.paramwise_cfg['merging_layers']
                last = layer_id('', backbone.depths, merging)
                layer = layer_id(inside, backbone.depths, merging)
                if layer < last and rate != 1:
                    return f'layer {layer} of {prefix or "the model"}', rate ** (last - layer)
                return prefix or 'the model', 1.0
        return name.split('.')[0], 1.0

    def _multipliers(self, name: str) -> tuple[float, float | None]:
        keys = self.paramwise_cfg.get('custom_keys', {})
        for key in sorted(keys, key=len, reverse=True):
            if key in name:
                return keys[key].get('lr_mult', 1.0), keys[key].get('decay_mult')
        return 1.0, None

    def _has_no_decay(self, name: str) -> bool:
        return any(
            part in name for part in (*_NO_DECAY, *self.paramwise_cfg.get('no_decay_names', ()))
        )


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
    )
