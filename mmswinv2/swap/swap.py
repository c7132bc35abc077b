"""Give a config a SwinV2 backbone: weights, input statistics, optimizer and schedule included."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from .. import hosts
from ..checkpoints import PUBLISHED, convert_file, describe, fetch, load_pretrained
from ..checkpoints.adapters import networks
from ..checkpoints.published import PublishedWeights, find_published
from ..core import get_variant
from ..errors import UserError
from ..hosts import dicts_in
from ..hosts.configs import inits_of, join_path
from .config import Notes
from .trial import backbone_of, build, predict
from .wiring import find_owner, rewire

_BEFORE = 'the model of the config, before any swap,'
_BACKBONE = 'mmswinv2.SwinTransformerV2'
_CONSTRUCTOR = 'mmswinv2.SwinLayerDecayOptimWrapperConstructor'
# mmdet: rates of the pre-training, as the paper gives none for COCO; nano and huge are our choice.
# mmseg: the paper's rates for ADE20K.
_DROP_PATH = {  # 0.3 for the others
    'mmdet': {'nano': 0.05, 'tiny': 0.2, 'base': 0.5, 'large': 0.2},
    'mmseg': {'giant': 0.4},
}
# Input statistics of the published weights, in RGB order.
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
_LR = {
    'mmdet': (1e-4, "the paper's COCO ablation, batch 16"),
    'mmseg': (4e-5, "the paper's ADE20K ablation, batch 16"),
}
_WEIGHT_DECAY = 0.05
_ADAMW_LR = 1e-3  # torch's default
# Packages whose models have the structure of those of another package.
_LIKE = {'mmrotate': 'mmdet'}
# Options of paramwise_cfg that our constructor implies, or that do not apply to it.
_IMPLIED = {'norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult', 'bypass_duplicate'}


@dataclass(frozen=True)
class Options:
    """What the user asks for."""

    arch: str = 'tiny'  #: a name of `core.VARIANTS`
    window: int | None = None  #: window size; ``None`` means that of the weights
    #: a file, address or name of weights, ``'none'``, or ``None`` for the published ones of `arch`
    #: and `window`
    checkpoint: str | None = None
    #: per stage, where the checkpoint does not record them
    pretrained_windows: Sequence[int] | None = None
    drop_path: float | None = None  #: stochastic depth; ``None`` means by size and task
    layer_decay: float | None = None  #: rate of the lr decay over layers
    #: learning rate; ``None`` keeps that of an AdamW, or else takes the paper's
    lr: float | None = None
    check: bool = True  #: whether to run the new model on an image


def swap_backbone(cfg: Config, options: Options) -> tuple[Config, Notes]:
    """A copy of `cfg` with a SwinV2 backbone, and notes on what was changed and why.

    Raises:
        UserError: if the config cannot be swapped.
        CheckpointError: if the checkpoint cannot be used.
    """
    cfg, notes = copy.deepcopy(cfg), Notes()
    host = _host(cfg)
    scope = host.name
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        path, owner = find_owner(cfg.model)
        old = owner.backbone
        if not isinstance(old.get('type'), str):
            raise UserError(f'{path}.backbone has no type, or one that is no text')
        if hosts.own_backbone(owner) is not None:
            raise UserError(
                f'{path}.backbone is a SwinV2 already; swap the config that it was made from, or '
                'change its arch by hand'
            )
        if old.get('in_channels', 3) != 3:
            raise UserError(f'{path}.backbone takes {old.in_channels} channels; SwinV2 wants RGB')
        before = build(cfg.model, _BEFORE)
        stages = rewire(owner, path, backbone_of(before) or old, options.arch, notes)
        _set_backbone(owner, path, stages, scope, options, notes)
        _remove_old_weights(cfg, path, owner, old, notes)
        _set_statistics(cfg, notes)
        model = build(cfg.model, without_memory=not options.check)
        checkpoint = (owner.backbone.get('init_cfg') or {}).get('checkpoint')
        if options.check and checkpoint is not None and not _published(checkpoint):
            for backbone in networks(model).values():  # as training will
                load_pretrained(backbone, fetch(checkpoint))
        names = [name for name, _ in model.named_parameters()]
        lr = _set_optimizer(cfg, names, scope, options, notes)
        if lr is not None:
            _set_schedules(cfg, lr, notes)
        if options.check:
            try:
                predict(model, host)
            except UserError:
                predict(before, host, _BEFORE)  # reports the old model if that fails, too
                raise
        else:
            notes.judge.append('the new model was built but not run (--no-check)')
    notes.judge.append('the length of the schedule, its warm-up and the augmentation are as before')
    return cfg, notes


def default_window(arch: str, checkpoint: str | None = None) -> int:
    """The window size of the weights that an `arch` starts from, 16 (nano: 8) if there are none.

    Args:
        arch: key of `core.VARIANTS`.
        checkpoint: a file, address or name of weights, ``'none'``, or ``None`` for the published.
    """
    given = None if checkpoint in (None, 'none') else str(checkpoint)
    if given and (own := _published(given) or _published(Path(given).stem)):
        return own.window
    name = find_published(arch)
    window = PUBLISHED[name].window if name else 8 if arch == 'nano' else 16
    # files record the windows of the pre-training; the last one may have been larger
    recorded = convert_file(fetch(given)).windows.values() if given else ()
    return max([window, *(max(axes) for axes in recorded)])


def _host(cfg: Config) -> hosts.Host:
    """The package that the config is for; raises `UserError` if its backbones cannot be swapped."""
    if 'model' not in cfg or not isinstance(cfg.model, dict):
        raise UserError('the config has no model=dict(...), so there is no backbone to swap')
    scope = hosts.of(cfg).name
    kind, host = hosts.type_name(cfg.model), hosts.of({'default_scope': _LIKE.get(scope, scope)})
    if kind.startswith('Recognizer') or host.input_axes == 3:
        raise UserError(
            f'{kind}: only the backbones of detectors and segmentors, which take images and give '
            'pyramids, can be swapped; for video start from a config of configs/video'
        )
    if hosts.is_tracker(cfg.model):
        raise UserError(f'{kind} is a tracker; swap the backbone of its detector')
    if host.swap_image_size is None:
        raise UserError(
            f'default_scope is {cfg.get("default_scope")!r}; only configs of mmdet 3, mmseg 1 and '
            'mmrotate 1, which it must name, can be swapped. In others the backbone is set by '
            'hand, as docs/how_to/use_in_a_config.md shows'
        )
    hosts.of(cfg).require('the config')
    host.apply()
    return host


def _set_backbone(
    owner: Any, path: str, stages: list[int], scope: str, options: Options, notes: Notes
) -> None:
    """Replace the backbone, with the weights to start from."""
    old, arch = owner.backbone, options.arch
    given = options.window
    window = default_window(arch, options.checkpoint) if given is None else given
    weights, source = _choose_weights(options, window)
    drop_path = options.drop_path
    if drop_path is None:
        drop_path = _DROP_PATH[scope].get(arch, 0.3)
    new = dict(type=_BACKBONE, arch=arch, window_size=window, drop_path_rate=drop_path)
    new |= dict(out_indices=tuple(stages)) | ({'with_cp': True} if old.get('with_cp') else {})
    owner.backbone = new | weights
    notes.changed[:0] = [
        f'{path}.backbone: {old.type} -> {_BACKBONE} {arch}, window {window}',
        f'{path}.backbone: {source}',
        f'{path}.backbone.out_indices: {tuple(stages)}, the maps that are used; drop_path_rate '
        f'{drop_path}',
    ]
    options_of_old = ('frozen_stages', 'norm_eval', 'dcn', 'plugins')
    gone = {k: old[k] for k in options_of_old if old.get(k) and old[k] != -1}  # -1: no stage
    if gone:
        notes.judge.append(
            f'{path}.backbone: {gone} went with the old backbone; published Swin recipes train all '
            'of it (frozen_stages is there for SwinV2 too)'
        )


def _choose_weights(options: Options, window: int) -> tuple[dict[str, Any], str]:
    """The weights to start from.

    Returns settings of the backbone (``init_cfg``, ``pretrained_window_sizes``), and in words
    where the weights are from.

    Raises:
        UserError: if the file is of another size, or its windows are unknown.
        CheckpointError: if it cannot be read.
    """
    arch, stated = options.arch, options.pretrained_windows
    checkpoint = options.checkpoint or find_published(arch, window)
    if checkpoint is None or checkpoint == 'none':
        if stated:
            raise UserError('--pretrained-windows goes with --checkpoint; there is none here')
        why = 'as asked' if checkpoint else f'no weights of SwinV2-{arch} were published'
        return {}, f'from scratch: {why}'
    num_stages = len(get_variant(arch).depths)
    if stated and len(stated) == 1:
        stated = list(stated) * num_stages
    published = _published(checkpoint)
    if published:
        found, recorded = {'name': published.arch}, dict(enumerate(published.pretrained_windows))
        source = 'as published'
    else:
        converted = convert_file(fetch(checkpoint))
        found = describe(converted.state)
        recorded = {stage: sizes[-1] for stage, sizes in converted.windows.items()}
        source = 'as the file says'
    if found.get('name') != arch:
        raise UserError(f'{checkpoint} is {found}; --arch {arch} does not fit it')
    if stated is not None and len(stated) != num_stages:
        raise UserError(f'--pretrained-windows needs 1 or {num_stages} numbers, got {stated}')
    if stated is None and len(recorded) < num_stages:
        raise UserError(
            f'{checkpoint} does not record the windows of its pre-training; name them with '
            '--pretrained-windows (docs/checkpoints.md lists those of published weights)'
        )
    windows = [recorded[i] for i in range(num_stages)] if stated is None else list(stated)
    if any(recorded.get(stage, w) != w for stage, w in enumerate(windows)):
        raise UserError(
            f'--pretrained-windows {windows}: {checkpoint} was trained with '
            f'{list(recorded.values())}'
        )
    settings = {
        'pretrained_window_sizes': windows,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': checkpoint},
    }
    return settings, f'weights {checkpoint}, first trained with windows {windows} ({source})'


def _published(checkpoint: str) -> PublishedWeights | None:
    """The published weights of a name or address."""
    return next((w for name, w in PUBLISHED.items() if checkpoint in (name, w.url)), None)


def _remove_old_weights(cfg: Config, path: str, owner: Any, old: Any, notes: Notes) -> None:
    """Remove what would load weights, or resume a training, of the old model."""
    why = 'weights of the old backbone'
    for where, node in {'model': cfg.model, path: owner}.items():
        notes.remove(node, where, why, 'pretrained', 'init_cfg')
    if cfg.get('load_from'):
        notes.set(cfg, '', 'a whole model with the old backbone', load_from=None)
    # as mmengine writes them into the work dir of a run
    notes.remove(cfg, '', "it has the old model's checkpoints", 'work_dir')
    if cfg.get('resume'):
        notes.set(cfg, '', 'a training of the old model', resume=False)
    addresses = {init.get('checkpoint') for init in inits_of(old)}
    variables = [key for key, v in cfg.items() if isinstance(v, str) and v in addresses]
    notes.remove(cfg, '', why, *variables)


def _set_statistics(cfg: Any, notes: Notes) -> None:
    """Set RGB and the statistics of the weights, wherever images are normalized."""
    why = 'the weights were trained on RGB images with these statistics'
    normalises, preprocessors, others = [], [], []
    for path, node in dicts_in(cfg._cfg_dict):
        kind = hosts.type_name(node)
        if kind == 'Albu':  # albumentations, whose Normalize is of another scale
            inner = dicts_in(node, path)
            others += [place for place, step in inner if step.get('type') == 'Normalize']
        elif kind == 'Normalize' and 'mean' in node and path not in others:
            normalises.append((path, node))
        elif kind.lower().endswith('datapreprocessor') and 'data_preprocessor' not in node:
            preprocessors.append((path, node))
    for path, node in normalises:
        notes.set(node, path, why, mean=_MEAN, std=_STD, to_rgb=True)
    for path, node in preprocessors:
        mean, std = (hosts.as_list(node.get(key) or []) for key in ('mean', 'std'))
        if (normalises or others) and not any(mean) and set(std) <= {1}:
            continue  # the pipelines do it
        notes.remove(node, path, why, 'rgb_to_bgr')
        notes.set(node, path, why, mean=_MEAN, std=_STD, bgr_to_rgb=True)
    if others:
        notes.judge.append(
            f'{", ".join(others)}: albumentations normalizes there; {why.removeprefix("the ")}: '
            f'RGB, mean {_MEAN}, std {_STD} of values up to 255'
        )
    if not normalises and not preprocessors and not others:
        notes.judge.append(
            f'nothing normalizes the images: the weights expect RGB, mean {_MEAN}, std {_STD}'
        )


def _set_optimizer(
    cfg: Any, names: Sequence[str], scope: str, options: Options, notes: Notes
) -> float | None:
    """Set AdamW with our groups of the parameters `names`.

    Returns the learning rate, ``None`` if the config trains nothing.
    """
    wrapper, path, lr = cfg.get('optim_wrapper'), 'optim_wrapper', options.lr
    if not wrapper or 'optimizer' not in wrapper:
        notes.judge.append('the config has no single optimizer; SwinV2 is trained with AdamW')
        return None
    old = wrapper.optimizer
    if hosts.type_name(old) != 'AdamW':
        paper, source = _LR[scope]
        new = dict(type='AdamW', lr=lr or paper, betas=(0.9, 0.999), weight_decay=_WEIGHT_DECAY)
        why = f'SwinV2 is trained with AdamW; {"as asked" if lr else source}'
        notes.set(wrapper, path, why, optimizer=new)
        base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
        if base != 16 and not lr:
            batch = base or 'a batch that it does not name (auto_scale_lr)'
            notes.judge.append(f'lr {paper} is meant for batch 16; this config is for {batch}')
    else:
        if lr:
            notes.set(old, f'{path}.optimizer', 'as asked', lr=lr)
        notes.judge.append(
            f'AdamW with lr {old.get("lr", _ADAMW_LR)} and weight decay '
            f'{old.get("weight_decay", 0.01)} was tuned for the old backbone'
        )
    _set_groups(wrapper, names, options.layer_decay, path, notes)
    if not wrapper.get('clip_grad'):
        notes.judge.append('gradients are not clipped (optim_wrapper.clip_grad)')
    return wrapper.optimizer.get('lr', _ADAMW_LR)


def _set_groups(
    wrapper: Any, names: Sequence[str], layer_decay: float | None, path: str, notes: Notes
) -> None:
    """Set our constructor, and keep the custom keys that still match parameters."""
    old = wrapper.get('paramwise_cfg') or {}
    groups: dict[str, Any] = {'layer_decay_rate': 1.0 if layer_decay is None else layer_decay}
    changes = {
        key: {k: v for k, v in change.items() if k in ('lr_mult', 'decay_mult') and v != 1}
        for key, change in (old.get('custom_keys') or {}).items()
    }
    lost = [key for key in changes if not any(key in name for name in names)]
    changing = [key for key, change in changes.items() if change and key not in lost]

    def takes_out(key: str) -> bool:
        """Whether, without `key`, its parameters would get the multipliers of another key."""
        mine = [name for name in names if key in name]
        return any(c in name and len(c) <= len(key) for c in changing for name in mine)

    kept = {
        key: change or {'lr_mult': 1.0}
        for key, change in changes.items()
        if key in changing or takes_out(key)
    }
    if kept:
        groups['custom_keys'] = kept
    why = 'no weight decay on norms, biases, cpb_mlp and logit_scale'
    notes.set(wrapper, path, why, constructor=_CONSTRUCTOR)
    notes.set(wrapper, path, 'options of that constructor', paramwise_cfg=groups)
    if lost:
        examples = ', '.join(lost[:4]) + (', ...' if len(lost) > 4 else '')
        notes.judge.append(
            f'{path}: {len(lost)} custom_keys match nothing now and went: {examples}'
        )
    if rest := {k: v for k, v in old.items() if k not in {'custom_keys', *_IMPLIED}}:
        notes.judge.append(f'{path}.paramwise_cfg: {rest} went')


def _set_schedules(cfg: Any, lr: float, notes: Notes) -> None:
    """Keep the bounds of schedules within the learning rate; remove schedules of momentum."""
    schedules = cfg.get('param_scheduler')
    if not schedules:
        return
    listed = hosts.as_list(schedules)
    for i, schedule in enumerate(listed):
        path = 'param_scheduler' if schedule is schedules else join_path('param_scheduler', i)
        for key in ('eta_min', 'min_value'):
            if (schedule.get(key) or 0) >= lr:
                notes.set(schedule, path, f'it was not below the new lr {lr}', **{key: 0.0})
        if 'eta_max' in schedule:
            notes.set(schedule, path, 'the new lr', eta_max=lr)
    kept = [s for s in listed if not str(s.type).endswith('Momentum')]
    if len(kept) < len(listed):
        cfg.param_scheduler = kept
        notes.changed.append('param_scheduler: schedules of momentum removed (AdamW has betas)')
