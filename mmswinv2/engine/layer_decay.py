"""Layer-wise learning-rate decay for SwinV2, around any detector, segmentor or recognizer."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..checkpoints.adapters import networks
from ..checks import is_number, want
from ..core import SwinV2, layer_id
from ..errors import UserError
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS
from .config_names import MULTIPLIERS

_NO_DECAY = ('cpb_mlp', 'logit_scale')
_OPTIONS = {'layer_decay_rate', 'merging_layers', 'no_decay_names', 'custom_keys'}


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
            ``dict(lr_mult=..., decay_mult=...)``; the longest match counts). A ``decay_mult``
            applies to parameters without weight decay only if its key matches no others:
            ``'backbone'`` leaves norms without weight decay, ``'backbone.norm3'`` changes them.

    Raises:
        UserError: on an unknown option, or if a rate is given and the model has no SwinV2.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        options = {'layer_decay_rate': 1.0, 'merging_layers': True, **(paramwise_cfg or {})}
        options.pop('_delete_', None)  # mmengine leaves it where a _base_ has nothing to delete
        if unknown := sorted(set(options) - _OPTIONS):
            raise UserError(f'paramwise_cfg has {unknown}; it may have {sorted(_OPTIONS)}')
        _check(options)
        if optim_wrapper_cfg['optimizer'].get('lr') is None:
            raise UserError(f'the optimizer needs an lr, got {optim_wrapper_cfg["optimizer"]}')
        super().__init__(optim_wrapper_cfg, options)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append one group per layer, weight decay and multiplier to `params`."""
        rows: list[tuple[str, ...]] = [('group', 'lr', 'weight decay', 'tensors', 'parameters')]
        for (title, scale, decay_mult), members in self._groups(module).items():
            group = {'params': members, 'lr': self.base_lr * scale, 'group_name': title}
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay_mult
            params.append(group)
            size = sum(p.numel() for p in members)
            decay = group.get('weight_decay', '-')
            rows.append((title, f'{group["lr"]:.4g}', f'{decay}', f'{len(members)}', f'{size:,}'))
        print_log('Parameter groups:\n' + _table(rows), logger='current')

    def _groups(self, module: nn.Module) -> dict[tuple[str, float, float], list[nn.Parameter]]:
        """The trained parameters by title, factor of the learning rate and of the weight decay.

        Raises:
            UserError: if the model has no SwinV2 backbone, or an option matches no parameter.
        """
        rate = self.paramwise_cfg['layer_decay_rate']
        backbones = networks(module)
        if not backbones and rate != 1:
            raise UserError(
                f'layer_decay_rate={rate} needs a SwinV2 backbone (mmswinv2.SwinTransformerV2), '
                f'and {type(module).__name__} has none'
            )
        parts = (*_NO_DECAY, *self.paramwise_cfg.get('no_decay_names', ()))
        free = {
            name: parameter.ndim <= 1 or any(part in name for part in parts)
            for name, parameter in module.named_parameters()
        }
        keys = self.paramwise_cfg.get('custom_keys', {})
        for option in ('custom_keys', 'no_decay_names'):
            for key in self.paramwise_cfg.get(option, ()):
                if not any(key in name for name in free):
                    raise UserError(f'{option}: no parameter has {key!r} in its name')
        for_free = {key for key in keys if all(free[name] for name in free if key in name)}
        groups: dict[tuple[str, float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            title, scale = self._layer(name, backbones, rate)
            key = max((key for key in keys if key in name), key=len, default='')
            change = keys.get(key, {})
            decay_mult = 0.0 if free[name] else 1.0
            if not free[name] or key in for_free:
                decay_mult = change.get('decay_mult', decay_mult)
            groups[title, scale * change.get('lr_mult', 1.0), decay_mult].append(parameter)
        return groups

    def _layer(self, name: str, backbones: dict[str, SwinV2], rate: float) -> tuple[str, float]:
        """The title of the group of a parameter, and the factor of its learning rate."""
        for start, backbone in backbones.items():
            if name.startswith(start):
                merging, title = self.paramwise_cfg['merging_layers'], start[:-1] or 'the model'
                last = layer_id('', backbone.depths, merging)
                layer = layer_id(name.removeprefix(start), backbone.depths, merging)
                if layer < last and rate != 1:
                    return f'layer {layer} of {title}', rate ** (last - layer)
                return title, 1.0
        return name.split('.')[0], 1.0


def _check(options: dict[str, Any]) -> None:
    """Raise `UserError` at the first invalid option."""
    rate, merging = options['layer_decay_rate'], options['merging_layers']
    names, keys = options.get('no_decay_names', ()), options.get('custom_keys', {})
    known = is_number(rate) and 0 < rate <= 1
    want('layer_decay_rate', rate, 'above 0 and at most 1', known)
    want('merging_layers', merging, 'True or False', isinstance(merging, bool))
    listed = isinstance(names, (list, tuple)) and all(isinstance(n, str) and n for n in names)
    want('no_decay_names', names, 'a list of parts of names', listed)
    want('custom_keys', keys, 'a dict of parts of names', isinstance(keys, Mapping))
    for key, change in keys.items():
        where = f'custom_keys[{key!r}]'
        want(where, change, 'a dict', isinstance(change, Mapping))
        if unknown := sorted(set(change) - {*MULTIPLIERS}):
            raise UserError(f'{where} has {unknown}, not lr_mult or decay_mult')
        for name, number in change.items():
            known = is_number(number) and 0 <= number < math.inf
            want(f'{where}: {name}', number, 'a number from 0', known)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
    )
