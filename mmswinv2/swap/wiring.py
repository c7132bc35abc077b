"""Fit the channels, strides and indices of necks and heads to the maps of SwinV2."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core import get_variant
from ..errors import UserError
from ..hosts import as_list, dicts_in, type_name
from .config import Notes
from .trial import Level, run_backbone, run_neck

_STRIDES = (4, 8, 16, 32)  # of SwinV2's stages
_CHANNELS = ('in_channels', 'in_channel')
# Parts that cannot be moved to another backbone, and why.
_BOUND = {
    'SSDNeck': 'it passes maps of the old backbone on and continues them with its own layers',
    'SimpleFPN': 'it makes a pyramid out of the one map of a plain ViT',
    'Feature2Pyramid': 'it makes a pyramid out of the maps of a plain ViT, all of one size',
    'MultiLevelNeck': 'it makes a pyramid out of the maps of a plain ViT, all of one size',
    'RFP': 'its feedback runs through a second backbone made to take it',
}


def find_owner(model: Any) -> tuple[str, Any]:
    """The dict that holds the backbone, in the model or inside a wrapper, with its path.

    Raises:
        UserError: if there is no backbone or several, or if other parts only work with the old one.
    """
    owners = [
        (path, node)
        for path, node in dicts_in(model, 'model')
        if isinstance(node.get('backbone'), dict) and '.backbone' not in path
    ]
    if not owners:
        raise UserError('the model has no backbone=dict(...) to swap')
    if len(owners) > 1:
        raise UserError(
            f'the model has {len(owners)} backbones (in {", ".join(p for p, _ in owners)}), and '
            'which of them is meant cannot be told; swap each in a config of its own'
        )
    path, owner = owners[0]
    if teachers := [k for node in (model, owner) for k in node if k.startswith('teacher')]:
        raise UserError(
            f'the model learns from a teacher ({teachers[0]}) that was trained with its own '
            'backbone and statistics; swap the backbone of a config without one'
        )
    for where, node in dicts_in(owner, path):
        if '.backbone' in where:
            continue
        if 'shared_head' in node:
            raise UserError(
                f'{where}.shared_head ({node.shared_head.type}) is the last stage of the old '
                'backbone (a C4 detector); start from the FPN config of this family'
            )
        kind = type_name(node)
        if kind in _BOUND:
            raise UserError(
                f'{where} ({kind}) is bound to its backbone: {_BOUND[kind]}; start from a config '
                'of this family with FPN or with a ResNet or Swin backbone'
            )
    return path, owner


@dataclass
class _Consumer:
    """A part of the model that states its input channels; `indices` are those of its input maps."""

    path: str
    cfg: Any
    indices: list[int]


def rewire(owner: Any, path: str, backbone: Any, arch: str, notes: Notes) -> list[int]:
    """Fit the channels of neck and heads to SwinV2.

    Args:
        owner: the dict that holds the backbone.
        path: its path in the config.
        backbone: the old backbone, or its config.
        arch: key of `core.VARIANTS`.
        notes: records the changes.

    Returns:
        the stages that the new backbone has to return.

    Raises:
        UserError: if the parts need maps that SwinV2 does not have.
    """
    old = run_backbone(backbone, f'{path}.backbone')
    stages = _choose_stages(old, str(owner.backbone.type), notes)
    width = get_variant(arch).embed_dims
    new = [Level(width * 2**i, _STRIDES[i]) for i in stages]

    neck = owner.get('neck')
    if not neck:
        kept = _fit(_heads(owner, path, len(old)), old, new, notes)
        return [stages[i] for i in kept]
    where, first = (f'{path}.neck.0', neck[0]) if isinstance(neck, list) else (f'{path}.neck', neck)
    before = run_neck(neck, old, where)
    taker = _Consumer(where, first, _maps_taken(first, len(old), where))
    kept = _skip_unused(neck, taker, old, len(before), notes)
    kept = _fit([taker], old, new, notes, kept)
    after = run_neck(neck, [new[i] for i in kept], where)
    if len(before) != len(after):
        raise UserError(f'{where} gives {len(after)} maps on SwinV2 and {len(before)} before')
    if [m.channels for m in before] != [m.channels for m in after]:
        _fit(_heads(owner, path, len(before)), before, after, notes, list(range(len(before))))
    return [stages[i] for i in kept]


def _choose_stages(old: Sequence[Level], kind: str, notes: Notes) -> list[int]:
    """The stages of SwinV2 whose maps stand in for those of the old backbone."""
    strides, channels = [m.stride for m in old], [m.channels for m in old]
    seen = f'{kind} gives maps of strides {strides} with {channels} channels'
    if any(s not in _STRIDES for s in strides):
        raise UserError(f'{seen}; SwinV2 has strides {list(_STRIDES)}, and the heads want others')
    if _increases(strides):
        if strides[-1] < 16:
            raise UserError(
                f'{seen}: it brings its maps back to a fine stride itself, and the heads live on '
                'that; SwinV2 needs a neck for it (an FPN)'
            )
        stages = [_STRIDES.index(s) for s in strides]
        if strides[-1] < 32:
            notes.judge.append(
                f'{seen}: stages {stages} of SwinV2 have these strides, its deeper ones are not '
                'used'
            )
        return stages
    if not _increases(channels) or len(old) > len(_STRIDES) or strides != sorted(strides):
        raise UserError(
            f'{seen}, which is no pyramid, and the heads of this config expect the same of SwinV2; '
            'take a config whose heads read a pyramid, such as UPerNet or a detector with an FPN'
        )
    stages = list(range(len(_STRIDES)))[-len(old) :]
    notes.judge.append(
        f'{seen} (dilated); those of SwinV2 have strides {[_STRIDES[i] for i in stages]}, so the '
        'heads see coarser maps than they were made for: a neck (FPN, as in UperNet) or a larger '
        'crop may be worth it'
    )
    return stages


def _increases(values: Sequence[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _heads(owner: Any, path: str, count: int) -> list[_Consumer]:
    """The heads, and heads inside them, that take maps by ``in_channels``."""
    found = []
    for key, value in owner.items():
        if 'head' not in key or not value:
            continue
        if key == 'roi_head':
            raise UserError(
                f'{path}.roi_head pools from the old backbone itself, without a neck (a C4 or DC5 '
                'detector); start from the FPN config of this family'
            )
        for where, node in dicts_in(value, f'{path}.{key}'):
            outermost = node is value or (isinstance(value, list) and any(node is v for v in value))
            if 'in_channels' in node and ('in_index' in node or outermost):
                found.append(_Consumer(where, node, _maps_taken(node, count, where)))
    if not found:
        raise UserError(f'no head in {path} says how many channels it takes (in_channels)')
    return found


def _maps_taken(node: Any, count: int, where: str) -> list[int]:
    """Indices of the maps, out of `count`, that a part takes."""
    channels = next((node[key] for key in _CHANNELS if key in node), None)
    if channels is None:
        raise UserError(f'{where} ({node.get("type")}) does not say how many channels it takes')
    default = list(range(count)) if isinstance(channels, (list, tuple)) else count - 1
    index = node.get('in_index')
    return [i % count for i in as_list(default if index is None else index)]


def _skip_unused(
    neck: Any, taker: _Consumer, old: Sequence[Level], count: int, notes: Notes
) -> list[int]:
    """Leave out maps that the first neck, `taker`, ignores: their norms would get no gradient.

    Returns the indices of the maps that are kept; the neck still returns `count` maps.
    """
    everything = list(range(len(old)))
    first = taker.cfg.get('start_level', 0) or taker.indices[0]
    if not first:
        return everything
    changes: dict[str, Any] = {}
    if 'start_level' in taker.cfg:
        changes = {'start_level': 0, 'in_channels': taker.cfg.in_channels[first:]}
        if taker.cfg.get('end_level', -1) > 0:
            changes['end_level'] = taker.cfg.end_level - first
    trial = {**taker.cfg, **changes}
    try:
        maps = run_neck(
            [trial, *neck[1:]] if isinstance(neck, list) else trial, old[first:], taker.path
        )
    except UserError:
        maps = []
    if len(maps) != count:  # the neck depends on the number of its inputs
        notes.judge.append(
            f'{taker.path} skips the first {first} maps; the norms of these get no gradient, so '
            'that training on several GPUs needs find_unused_parameters=True'
        )
        return everything
    changes.pop('in_channels', None)  # `_fit` sets it with the other channels
    why = 'maps below it are not made, as their norms would get no gradient'
    notes.set(taker.cfg, taker.path, why, **changes)
    return everything[first:]


def _fit(
    consumers: Sequence[_Consumer],
    old: Sequence[Level],
    new: Sequence[Level],
    notes: Notes,
    kept: list[int] | None = None,
) -> list[int]:
    """Write the new channels, indices and strides into the parts that take maps.

    Returns the indices of the maps that are kept: `kept`, or else those that a part takes.
    """
    if kept is None:
        used = {i for c in consumers for i in c.indices}
        used |= {0 for c in consumers if c.cfg.get('c1_in_channels')}  # DeepLabV3+ takes the first
        kept = sorted(used)
    for consumer in consumers:
        _fit_consumer(consumer, old, new, notes, kept)
    return kept


def _fit_consumer(
    consumer: _Consumer,
    old: Sequence[Level],
    new: Sequence[Level],
    notes: Notes,
    kept: Sequence[int],
) -> None:
    """Write the new channels, indices and strides into one part; `kept` are indices of maps."""
    cfg, path = consumer.cfg, consumer.path
    if cfg.get('add_lateral') is False:  # EncNet names maps that it does not take
        notes.judge.append(
            f'{path} names maps that it takes with add_lateral only; the norms of these get no '
            'gradient, so that training on several GPUs needs find_unused_parameters=True'
        )
    taken = [i for i in consumer.indices if i in kept]
    key = next(k for k in _CHANNELS if k in cfg)
    value = cfg[key]
    stated = as_list(value)
    given = [old[i].channels for i in consumer.indices]
    if stated not in (given, given[::-1]):
        raise UserError(
            f'{path}.{key} is {value}, but the maps it takes have {given} channels; how the '
            'two belong together cannot be told'
        )
    channels = [new[i].channels for i in taken]
    if stated != given:  # YOLOv3 counts from the deepest
        channels.reverse()
    is_list = isinstance(value, (list, tuple))
    written = type(value)(channels) if is_list else channels[0]
    notes.set(cfg, path, 'channels of SwinV2', **{key: written})
    if cfg.get('num_convs') == 0 and cfg.get('channels') == value:  # mmseg's FCNHead
        notes.set(cfg, path, 'without convolutions they are in_channels', channels=written)
    if cfg.get('c1_in_channels'):
        notes.set(cfg, path, 'channels of SwinV2', c1_in_channels=new[0].channels)
    if 'in_index' in cfg:
        index = [kept.index(i) for i in taken]
        if [i % len(old) for i in as_list(cfg.in_index)] != index:
            value = index if is_list else index[0]
            notes.set(cfg, path, 'maps that no head takes are left out', in_index=value)
    if len(cfg.get('strides', ())) == len(taken):
        strides = [new[i].stride for i in taken]
        if list(cfg.strides) != strides:
            notes.set(cfg, path, 'strides of SwinV2', strides=strides)
