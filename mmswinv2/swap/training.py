"""Statistics of the input, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .notes import Notes, dicts_in

__all__ = ['set_optimizer', 'set_schedules', 'set_statistics']

# what the published weights were trained on: RGB
_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
_LR = {
    'mmdet': (1e-4, "the paper's COCO ablation, batch 16"),
    'mmseg': (4e-5, "the paper's ADE20K ablation, batch 16"),
}
_WEIGHT_DECAY = 0.05
# what our constructor does of its own accord, or what means nothing to it
_IMPLIED = {'norm_decay_mult', 'bias_decay_mult', 'flat_decay_mult', 'bypass_duplicate'}


def set_statistics(cfg: Any, model: str, notes: Notes) -> None:
    """RGB and the statistics of the pre-training, wherever images are normalised."""
    why = 'the weights know RGB images with these statistics'
    normalises = [
        (path, node)
        for path, node in dicts_in(cfg._cfg_dict)
        if str(node.get('type')).split('.')[-1] == 'Normalize' and 'mean' in node
    ]
    for path, node in normalises:
        notes.set(node, 'mean', _MEAN, path, why)
        notes.set(node, 'std', _STD, path, why)
        notes.set(node, 'to_rgb', True, path, why)
    found = False
    for path, node in dicts_in(cfg._cfg_dict):
        kind = str(node.get('type')).lower()
        if not kind.endswith('datapreprocessor') or 'data_preprocessor' in node:
            continue
        found = True
        if node.get('mean') is None and normalises:
            continue  # the pipelines do it
        notes.set(node, 'mean', _MEAN, path, why)
        notes.set(node, 'std', _STD, path, why)
        notes.remove(node, 'rgb_to_bgr', path, why)
        notes.set(node, 'bgr_to_rgb', True, path, why)
    if not found and not normalises:
        notes.judge.append(
            f'nothing normalises the images: the weights expect RGB, mean {_MEAN}, std {_STD}'
        )


def set_optimizer(
    cfg: Any, names: Sequence[str], lr: float | None, layer_decay: float | None, notes: Notes
) -> float | None:
    """AdamW with our groups of parameters.

    Args:
        cfg: the config.
        names: parameters of the new model, to see which multipliers still mean something.
        lr: the learning rate; ``None`` keeps AdamW's, or takes the paper's in place of another.
        layer_decay: rate of the decay over layers.
        notes: takes down what is changed.

    Returns:
        the learning rate, ``None`` if the config trains nothing.
    """
    wrapper, path = cfg.get('optim_wrapper'), 'optim_wrapper'
    if not wrapper or 'optimizer' not in wrapper:
        notes.judge.append('the config has no single optimizer; SwinV2 is trained with AdamW')
        return None
    old = wrapper.optimizer
    if str(old.type) != 'AdamW':
        paper, source = _LR[cfg.default_scope]
        new = {'type': 'AdamW', 'lr': lr or paper, 'betas': (0.9, 0.999)}
        new['weight_decay'] = _WEIGHT_DECAY
        why = 'as asked' if lr else source
        notes.set(wrapper, 'optimizer', new, path, f'SwinV2 is trained with AdamW; {why}')
        base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
        if base != 16 and not lr:
            batch = base or 'a batch that it does not name (auto_scale_lr)'
            notes.judge.append(f'lr {paper} is meant for batch 16; this config is for {batch}')
    else:
        if lr:
            notes.set(old, 'lr', lr, f'{path}.optimizer', 'as asked')
        notes.judge.append(
            f'AdamW with lr {old.lr} and weight decay {old.get("weight_decay", 0.01)} was tuned '
            'for the old backbone'
        )
    _set_groups(wrapper, names, layer_decay, path, notes)
    if not wrapper.get('clip_grad'):
        notes.judge.append('gradients are not clipped (optim_wrapper.clip_grad)')
    return wrapper.optimizer.lr


def _set_groups(
    wrapper: Any, names: Sequence[str], layer_decay: float | None, path: str, notes: Notes
) -> None:
    old = wrapper.get('paramwise_cfg') or {}
    groups: dict[str, Any] = {'layer_decay_rate': 1.0 if layer_decay is None else layer_decay}
    kept, lost = {}, []
    for key, change in (old.get('custom_keys') or {}).items():
        change = {k: v for k, v in change.items() if k in ('lr_mult', 'decay_mult')}
        if change and any(key in name for name in names):
            kept[key] = change
        else:
            lost.append(key)
    if kept:
        groups['custom_keys'] = kept
    options = {k: v for k, v in old.items() if k not in {'custom_keys', *_IMPLIED}}
    notes.set(
        wrapper,
        'constructor',
        'mmswinv2.SwinLayerDecayOptimWrapperConstructor',
        path,
        'no weight decay on norms, biases, cpb_mlp and logit_scale',
    )
    notes.set(wrapper, 'paramwise_cfg', groups, path, 'options of that constructor')
    if lost:
        some = ', '.join(lost[:4]) + (', ...' if len(lost) > 4 else '')
        notes.judge.append(f'{path}: {len(lost)} custom_keys match nothing now and went: {some}')
    if options:
        notes.judge.append(f'{path}.paramwise_cfg: {options} went')


def set_schedules(cfg: Any, lr: float, notes: Notes) -> None:
    """Let no schedule end above the learning rate, and none steer a momentum AdamW lacks."""
    schedules = cfg.get('param_scheduler')
    if not schedules:
        return
    listed = schedules if isinstance(schedules, list) else [schedules]
    for i, schedule in enumerate(listed):
        path = f'param_scheduler.{i}' if listed is schedules else 'param_scheduler'
        for key in ('eta_min', 'min_value'):
            if schedule.get(key, 0) >= lr:
                notes.set(schedule, key, 0.0, path, f'it was not below the new lr {lr}')
        if 'eta_max' in schedule:
            notes.set(schedule, 'eta_max', lr, path, 'the new lr')
    kept = [s for s in listed if not str(s.type).endswith('Momentum')]
    if len(kept) < len(listed):
        cfg.param_scheduler = kept
        notes.changed.append('param_scheduler: schedules of momentum removed (AdamW has betas)')
