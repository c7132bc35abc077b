"""Checkpoints of LoRA: files of adapters, and the weights of the backbone they were added to."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.lora import DOWN, UP, find_lora, is_adapter
from ..core.swin_v2 import SwinV2
from ..errors import CheckpointError
from ..files import StrPath
from .formats import State, unwrapped

_SAMPLE = 16  # leading numbers of each tensor that enter the check sum


@dataclass(frozen=True)
class Base:
    """The frozen weights of a backbone, as a file of pre-trained weights gave them."""

    keys: frozenset[str]  #: their names in the backbone
    mark: int  #: check sum that identifies the weights, see `mark`
    source: str  #: the file, address or name


def mark(state: Mapping[str, Tensor], keys: Iterable[str], prefix: str = '') -> int:
    """CRC-32 check sum of the first `_SAMPLE` numbers of each tensor."""
    total = 0
    for key in sorted(keys):
        sample = state[prefix + key].detach().flatten()[:_SAMPLE].float().cpu()
        total = zlib.crc32(sample.numpy().tobytes(), total)
    return total


def networks(model: nn.Module) -> dict[str, SwinV2]:
    """The backbones in a model, by the prefix of their keys."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, SwinV2)}
    return {f'{name}.' if name else '': net for name, net in found.items()}


def leave_out_base(model: nn.Module, checkpoint: dict[str, Any]) -> list[str]:
    """Remove from a checkpoint, in place, the weights that the config's pre-trained file provides.

    A backbone whose frozen weights have been replaced since (by a ``load_from``) is saved whole.
    `checkpoint` has no ``state_dict`` where a strategy keeps the weights elsewhere. Returns
    sentences on what has been done, for the log.
    """
    sentences, meta = [], checkpoint.setdefault('meta', {})
    for prefix, net in networks(model).items():
        layers = find_lora(net)
        if not layers:
            continue
        base: Base | None = getattr(net, 'base', None)
        alphas = {unwrapped(name): float(layer.alpha) for name, layer in layers.items()}
        note: dict[str, Any] = dict(alphas=alphas)
        meta.setdefault('lora', {})[unwrapped(prefix)] = note
        if base is None or not (state := checkpoint.get('state_dict')):
            continue
        if mark(state, base.keys, prefix) != base.mark:
            sentences.append(
                f'{prefix[:-1] or "the model"}: saved whole, as its weights are not those of '
                f'{base.source}'
            )
            continue
        note.update(base=base.mark, source=base.source)
        for entry, start in (('state_dict', prefix), ('ema_state_dict', f'module.{prefix}')):
            for key in base.keys:
                checkpoint.get(entry, {}).pop(start + key, None)
        sentences.append(
            f'{prefix[:-1] or "the model"}: saved without {len(base.keys)} weights of {base.source}'
        )
    return sentences


@torch.no_grad()
def copy_base(model: nn.Module, other: nn.Module) -> None:
    """Copy the frozen weights below adapters to another model of the same build."""
    for prefix, net in networks(model).items():
        if find_lora(net):
            for key, value in net.named_parameters():
                if not value.requires_grad:
                    other.get_parameter(prefix + key).copy_(value)


def add_base(
    model: nn.Module, own: State, given: State, path: StrPath, notes: Any
) -> tuple[State, list[str]]:
    """Give a file of adapters the weights of the backbone that it leaves out.

    The backbone loads its pre-trained weights if it has not yet. `own` is the model's state dict,
    `given` has the file's weights under the model's keys, `notes` is the file's ``meta.lora``.
    Returns the completed weights, and notes for the report.

    Raises:
        CheckpointError: if the adapters do not fit, or the weights below them are not available.
    """
    sentences: list[str] = []
    for prefix, net in networks(model).items():
        mine, theirs = (
            {k: tuple(v.shape) for k, v in state.items() if k.startswith(prefix) and is_adapter(k)}
            for state in (own, given)
        )
        if not theirs:
            continue
        recorded = notes.items() if isinstance(notes, Mapping) else ()
        note = {unwrapped(str(key)): value for key, value in recorded}.get(unwrapped(prefix))
        note = note if isinstance(note, Mapping) else {}
        _check_adapters(net, prefix, mine, theirs, note.get('alphas'), path)
        missing = [k for k in own if k.startswith(prefix) and k not in given]
        if missing:
            base = _base_of(net, path, note)
            missing = [key for key in missing if key.removeprefix(prefix) in base.keys]
            given = {**given, **{key: own[key] for key in missing}}
        sentences.append(
            f'adapters of {len(theirs) // 2} layers'
            + (f'; {len(missing)} weights below them from {base.source}' if missing else '')
        )
    return given, sentences


def add_adapters(model: nn.Module, own: State, given: State) -> tuple[State, list[str]]:
    """Add adapters that change nothing to weights without any, if the model has adapters."""
    for prefix in networks(model):
        mine = [key for key in own if key.startswith(prefix) and is_adapter(key)]
        if mine and not any(key.startswith(prefix) and is_adapter(key) for key in given):
            start = {k: torch.zeros_like(own[k]) if k.endswith(UP) else own[k] for k in mine}
            return {**given, **start}, ['has no adapters: those of the model start at zero']
    return given, []


def _check_adapters(
    net: SwinV2,
    prefix: str,
    mine: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, tuple[int, ...]],
    alphas: Any,
    path: StrPath,
) -> None:
    """Raise `CheckpointError` if the adapters of a file (`theirs`) are not those of the model."""
    ranks = _ranks(theirs)
    if not mine:
        raise CheckpointError(
            f'{path} has adapters (LoRA) of rank {ranks}, and the backbone of the config has none: '
            f'set model.backbone.lora=dict(rank=...) as in the training that wrote it, or merge '
            'them into plain weights first (tools/model_converters/merge_lora.py)'
        )
    wrong = sorted(set(mine) ^ set(theirs)) or [k for k in mine if mine[k] != theirs[k]]
    if wrong:
        raise CheckpointError(
            f'{path} has adapters of another backbone, other targets or another rank: '
            f'{len(theirs) // 2} of rank {ranks}, and the config makes {len(mine) // 2} of rank '
            f'{_ranks(mine)}; the first that differs is {wrong[0]} ({theirs.get(wrong[0], "none")} '
            f'in the file, here {mine.get(wrong[0], "none")})'
        )
    own_alphas = {unwrapped(name): float(layer.alpha) for name, layer in find_lora(net).items()}
    recorded = alphas.items() if isinstance(alphas, Mapping) else own_alphas.items()
    alphas = {unwrapped(str(name)): alpha for name, alpha in recorded}
    if alphas != own_alphas:
        name = next(name for name in own_alphas if alphas.get(name) != own_alphas[name])
        raise CheckpointError(
            f'{path} was trained with alpha={alphas.get(name)} for {prefix}{name}, and the config '
            f'says {own_alphas[name]:g}; set model.backbone.lora.alpha to what it was'
        )


def _ranks(shapes: Mapping[str, tuple[int, ...]]) -> str:
    ranks = {shape[0] for key, shape in shapes.items() if key.endswith(DOWN) and shape}
    return ' and '.join(map(str, sorted(ranks))) or 'unknown'


def _base_of(net: SwinV2, path: StrPath, note: Mapping[str, Any]) -> Base:
    """The weights below adapters, from the backbone's `init_cfg`."""
    restore = getattr(net, 'restore_base', None)
    base: Base | None = restore() if restore else None
    source = note.get('source', 'the pre-trained weights')
    if base is None:
        raise CheckpointError(
            f'{path} has adapters without the weights they were added to ({source}), and '
            "model.backbone.init_cfg does not give these: set it to dict(type='Pretrained', "
            'checkpoint=...) as in training, or merge the file (tools/model_converters/'
            'merge_lora.py), which writes whole weights'
        )
    if note.get('base') not in (None, base.mark):
        raise CheckpointError(
            f'{path} has adapters that were added to other weights ({source}) than those that '
            f'model.backbone.init_cfg gives ({base.source}); set it as in training'
        )
    return base
