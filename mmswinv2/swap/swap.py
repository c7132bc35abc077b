"""The old config with a SwinV2 backbone."""

from __future__ import annotations

import copy
import importlib.util
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..checkpoints.files import write_whole
from ..errors import UserError
from .check import build, predict
from .notes import Notes, inits_of
from .owner import find_owner
from .training import set_optimizer, set_schedules, set_statistics
from .weights import choose_weights, default_window
from .wiring import rewire

__all__ = ['Options', 'swap_backbone', 'write_config']

_BACKBONE = 'mmswinv2.SwinTransformerV2'
# of the pre-training for detection (the paper gives none for COCO); nano and huge: our choice
_DROP_PATH = {'nano': 0.05, 'tiny': 0.2, 'small': 0.3, 'base': 0.5, 'large': 0.2, 'huge': 0.3}
_GIANT = 0.3  # of the pre-training on ImageNet-22K-ext
_SEGMENTATION, _SEGMENTATION_GIANT = 0.3, 0.4  # the paper's, ADE20K


@dataclass(frozen=True)
class Options:
    """What the user asks for.

    Attributes:
        arch: a name of `core.VARIANTS`.
        window: window size; ``None``: that of the weights.
        checkpoint: a file or address, ``'none'``, or ``None`` for the published one.
        pretrained_windows: per stage, where the checkpoint does not record them.
        drop_path: stochastic depth; ``None``: by size and task.
        layer_decay: rate of the lr decay over layers.
        lr: learning rate; ``None``: see `training.set_optimizer`.
        check: whether to run the new model on an image.
    """

    arch: str = 'tiny'
    window: int | None = None
    checkpoint: str | None = None
    pretrained_windows: Sequence[int] | None = None
    drop_path: float | None = None
    layer_decay: float | None = None
    lr: float | None = None
    check: bool = True


def swap_backbone(cfg: Config, options: Options) -> tuple[Config, Notes]:
    """A copy of `cfg` with a SwinV2 backbone, and notes on what was changed and why.

    Raises:
        UserError: if the config cannot be swapped.
        CheckpointError: if the checkpoint cannot be used.
    """
    cfg, notes = copy.deepcopy(cfg), Notes()
    scope = _scope(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        path, owner = find_owner(cfg.model)
        old = owner.backbone
        if not isinstance(old.get('type'), str):
            raise UserError(f'{path}.backbone has no type, or one that is no text')
        if _BACKBONE.endswith(old.type):
            raise UserError(f'{path}.backbone is a SwinV2 already')
        if old.get('in_channels', 3) != 3:
            raise UserError(f'{path}.backbone takes {old.in_channels} channels; SwinV2 wants RGB')
        stages = rewire(owner, path, options.arch, notes)
        _set_backbone(owner, path, stages, scope, options, notes)
        _forget_old_weights(cfg, path, owner, old, notes)
        set_statistics(cfg, path, notes)
        model = build(cfg.model, 'cpu' if options.check else 'meta')
        names = [name for name, _ in model.named_parameters()]
        lr = set_optimizer(cfg, names, options.lr, options.layer_decay, notes)
        if lr is not None:
            set_schedules(cfg, lr, notes)
        if options.check:
            predict(model, scope)
        else:
            notes.judge.append('the new model was built but not run (--no-check)')
    notes.judge.append('the length of the schedule, its warm-up and the augmentation are as before')
    return cfg, notes


def write_config(path: Path, cfg: Config, notes: Notes, origin: str, command: str) -> None:
    """Write a config that stands alone, headed by where it comes from; whole or not at all."""
    lines = [f'{origin} with a SwinV2 backbone', f'  {command}', 'Changed:']
    lines += [f'- {text}' for text in notes.changed]
    lines += ['Left for you to judge:', *(f'- {text}' for text in notes.judge)]
    head = ''.join(
        textwrap.fill(
            line, 100, initial_indent='# ', subsequent_indent='#   ', break_long_words=False,
            break_on_hyphens=False,
        ) + '\n'
        for line in lines
    )  # fmt: skip
    text = head + cfg.pretty_text
    if Config.fromstring(text, '.py').to_dict() != cfg.to_dict():
        raise UserError(f'{origin} holds what cannot be written as text (objects, functions)')
    write_whole(path, lambda file: file.write(text.encode()))


def _scope(cfg: Config) -> str:
    if 'model' not in cfg or not isinstance(cfg.model, dict):
        raise UserError('the config has no model=dict(...), so there is no backbone to swap')
    if (
        str(cfg.model.get('type')).startswith('Recognizer')
        or cfg.get('default_scope') == 'mmaction'
    ):
        raise UserError(
            f'{cfg.model.get("type")}: only the backbones of detectors and segmentors, which take '
            'images and give pyramids, can be swapped; video recognisers cannot'
        )
    if 'Track' in str((cfg.model.get('data_preprocessor') or {}).get('type')):
        raise UserError(f'{cfg.model.get("type")} is a tracker; swap the backbone of its detector')
    scope = cfg.get('default_scope')
    if scope not in ('mmdet', 'mmseg'):
        raise UserError(
            f'default_scope is {scope!r}; only configs of mmdet and mmseg can be swapped'
        )
    if importlib.util.find_spec(scope) is None:
        raise UserError(f'the config needs {scope} (its default_scope), which is not installed')
    return scope


def _set_backbone(
    owner: Any, path: str, stages: list[int], scope: str, options: Options, notes: Notes
) -> None:
    old, arch = owner.backbone, options.arch
    window = default_window(arch) if options.window is None else options.window
    weights, source = choose_weights(arch, window, options.checkpoint, options.pretrained_windows)
    drop_path = options.drop_path
    if drop_path is None:
        drop_path = _DROP_PATH.get(arch, _GIANT)
        if scope == 'mmseg':
            drop_path = _SEGMENTATION_GIANT if arch == 'giant' else _SEGMENTATION
    new = dict(type=_BACKBONE, arch=arch, window_size=window, drop_path_rate=drop_path)
    new |= dict(out_indices=tuple(stages)) | ({'with_cp': True} if old.get('with_cp') else {})
    new |= weights
    owner.backbone = new
    notes.changed.insert(0, f'{path}.backbone: {old.type} -> {_BACKBONE} {arch}, window {window}')
    notes.changed.insert(1, f'{path}.backbone: {source}')
    notes.changed.insert(
        2, f'{path}.backbone.out_indices: {tuple(stages)}, the maps that are used; '
        f'drop_path_rate {drop_path}',
    )  # fmt: skip
    gone = {k: old[k] for k in ('frozen_stages', 'norm_eval', 'dcn', 'plugins') if old.get(k)}
    if gone.get('frozen_stages', 0) > -1 and gone:
        notes.judge.append(
            f'{path}.backbone: {gone} went with the old backbone; published Swin recipes train all '
            'of it (frozen_stages is there for SwinV2 too)'
        )


def _forget_old_weights(cfg: Config, path: str, owner: Any, old: Any, notes: Notes) -> None:
    why = 'weights of the old backbone'
    for where, node in {'model': cfg.model, path: owner}.items():
        for key in ('pretrained', 'init_cfg'):
            notes.remove(node, key, where, why)
    if cfg.get('load_from'):
        notes.set(cfg, 'load_from', None, '', 'a whole model with the old backbone')
    addresses = {init.get('checkpoint') for init in inits_of(old)}
    for key in [k for k, v in cfg.items() if isinstance(v, str) and v in addresses]:
        notes.remove(cfg, key, '', why)
