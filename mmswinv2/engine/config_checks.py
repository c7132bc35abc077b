"""Checks of configs: invalid values, unknown arguments, parts that do not fit each other."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine import optim
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import nn

from .. import hosts
from ..checks import is_count, is_number
from ..core.arguments import get_variant
from ..errors import UserError, nearest
from ..explanations import unknown_type
from ..log import warn
from .config_names import LOADERS, NAMES, PARAMWISE, arguments, settings_in

# settings of schedulers
LENGTHS = (
    'begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size', 'patience', 'cooldown',
)  # fmt: skip
LISTS_OF_LENGTHS = ('milestones', 'periods')
_OF_ALL_MAPS = ('FPN', 'PAFPN', 'ChannelMapper')  # necks that take all maps of the backbone


def _whole(least: int, most: float = math.inf) -> tuple[str, Callable[[Any], bool]]:
    def is_whole(value: Any) -> bool:
        finite = is_number(value) and math.isfinite(value)
        return finite and value == int(value) and least <= value <= most

    return f'a whole number from {least}' + (f' to {most}' if most < math.inf else ''), is_whole


def _count(least: int) -> tuple[str, Callable[[Any], bool]]:
    rule = f'a whole number from {least}, without a decimal point'
    return rule, lambda value: is_count(value, minimum=least)


def _is_list(value: Any, is_right: Callable[[Any], bool] = lambda item: True) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_right, value))


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _are_intervals(value: Any) -> bool:
    if not _is_list(
        value, lambda pair: isinstance(pair, tuple) and len(pair) == 2 and all(map(is_number, pair))
    ):
        return False
    begins = [begin for begin, _ in value]
    return begins == sorted(begins) and all(interval >= 1 for _, interval in value)


_DICT = 'a dict', _is_dict
_DICTS = 'a dict or a list of dicts', lambda value: _is_dict(value) or _is_list(value, _is_dict)
_NOT_NEGATIVE = 'a finite number from 0', lambda value: is_number(value) and 0 <= value < math.inf
_BOUND = (
    'a number above 0, or clip_grad=None for no clipping',
    lambda value: is_number(value) and value > 0,  # 0 would train nothing
)
_NO_TEXT = 'a number', lambda value: not isinstance(value, str)  # heads may take lists of them
_TEXT = 'a text', lambda value: isinstance(value, str)
_METHODS = ('fork', 'forkserver', 'spawn')  # mmengine sets none on Windows, which has only spawn
_ANY = '', lambda value: True
_OF_BOXES = ('test_cfg', 'rpn', 'rpn_proposal', 'rcnn', 'tta_cfg')  # parts of mmdet's settings
_BOUNDS = ('score_thr', 'mask_thr_binary', 'max_per_img', 'nms_pre')
_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')
_GROUPS = (  # settings (* matches anything): description and check of their values, except None
    (('model', 'model.backbone', 'env_cfg', 'env_cfg.mp_cfg', 'env_cfg.dist_cfg'), _DICT),
    (('train_cfg', 'val_cfg', 'test_cfg', 'randomness', 'auto_scale_lr'), _DICT),
    (('optim_wrapper', 'optim_wrapper.optimizer', 'optim_wrapper.clip_grad'), _DICT),
    (('default_hooks', *LOADERS), _DICT),
    ((f'{loader}.dataset' for loader in LOADERS), _DICT),
    (('*.paramwise_cfg', '*.custom_keys.*', '*.default_hooks.*', '*.nms'), _DICT),
    (('param_scheduler', 'val_evaluator', 'test_evaluator'), _DICTS),
    (('work_dir', 'load_from', 'default_scope', 'default_hooks.checkpoint.out_dir'), _TEXT),
    (('*.ann_file', '*.data_root', '*.data_prefix.*', '*.init_cfg.checkpoint'), _TEXT),
    ((f'{loader}.batch_size' for loader in LOADERS), _count(1)),
    ((f'{loader}.num_workers' for loader in LOADERS), _count(0)),
    ((f'{loader}.prefetch_factor' for loader in LOADERS), _count(1)),
    (('train_cfg.max_iters', 'train_cfg.max_epochs', 'train_cfg.val_interval'), _whole(1)),
    (('optim_wrapper.accumulative_counts', 'auto_scale_lr.base_batch_size'), _whole(1)),
    (('default_hooks.logger.interval', 'env_cfg.resource_limit'), _whole(1)),
    ((f'*.{part}.{key}' for part in _OF_BOXES for key in _BOUNDS), _NO_TEXT),
    (('*.rpn.max_per_img', '*.rpn_proposal.max_per_img'), _count(1)),  # -1 drops the last box
    (('train_cfg.val_begin', 'default_hooks.checkpoint.save_begin', '*.num_classes'), _whole(0)),
    (('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'), _NOT_NEGATIVE),
    (('optim_wrapper.optimizer.momentum', '*.lr_mult', '*.decay_mult'), _NOT_NEGATIVE),
    (('optim_wrapper.clip_grad.max_norm', 'optim_wrapper.clip_grad.clip_value'), _BOUND),
)
_RULES = {
    **{name: rule for names, rule in _GROUPS for name in names},
    'log_level': (
        f'a number or one of {", ".join(_LEVELS)}',
        lambda value: is_number(value) or value in (*_LEVELS, 'WARN', 'FATAL', 'NOTSET'),
    ),
    'resume': (
        'a switch, True or False (train --resume PATH names a file)',
        lambda value: isinstance(value, bool),
    ),
    'custom_hooks': ('a list of dicts', lambda value: _is_list(value, _is_dict)),
    'compile': ('a dict, True or False', lambda value: isinstance(value, (bool, Mapping))),
    'train_cfg.dynamic_intervals': (
        'a list of tuples (begin, interval), by their begins, with intervals from 1',
        _are_intervals,
    ),
    'optim_wrapper.optimizer.betas': (
        'a list of at least two numbers from 0 to below 1',
        lambda value: (
            _is_list(value, lambda beta: is_number(beta) and 0 <= beta < 1) and len(value) > 1
        ),
    ),
    'default_hooks.checkpoint.interval': _whole(-1),
    'default_hooks.checkpoint.max_keep_ckpts': _count(-1),
    'log_processor.window_size': _count(1),
    'randomness.seed': _whole(0, 2**32 - 1),
    'env_cfg.mp_cfg.mp_start_method': (
        f'a method of multiprocessing ({", ".join(_METHODS)})',
        _METHODS.__contains__,
    ),
    '*.pipeline': (
        'a list of at least one transform (left out, where the data set needs none)',
        lambda value: _is_list(value) and len(value) > 0,
    ),
}

_NEVER_NONE = (
    *('env_cfg', 'randomness', 'log_level'),
    *('default_hooks.checkpoint.max_keep_ckpts', 'default_hooks.checkpoint.save_begin'),
)

_ARGUMENTS = {  # setting: types that check arguments only in mid-run, and the valid arguments
    'default_hooks.checkpoint': (
        ('CheckpointHook',),
        arguments(CheckpointHook, Runner.save_checkpoint),
    ),
    'optim_wrapper.clip_grad': (
        (None, 'norm', 'value'),
        NAMES['clip_grad'],
    ),
    'randomness': ((None,), NAMES['randomness']),
    '*.nms': (
        (None, 'nms', 'soft_nms'),
        {
            *('iou_threshold', 'iou_thr', 'class_agnostic', 'split_thr', 'score_threshold'),
            *('max_num', 'offset', 'sigma', 'min_score', 'method'),
        },
    ),
}


def check_values(cfg: Config) -> None:
    """Raise `UserError` at the first setting with an invalid value or an unknown argument."""
    for place, value in settings_in(cfg._to_lazy_dict()):
        *_, parent, key = ('', *place.split('.'))
        for pattern in (place, f'*.{key}', f'*.{parent}.{key}', f'*.{parent}.*'):
            _check_value(place, value, pattern)
    _check_schedulers(cfg)
    _check_best(cfg)
    _check_scores(cfg)
    _check_channels(cfg)


def _check_value(place: str, value: Any, pattern: str) -> None:
    """Raise `UserError` if a setting breaks the rule of a pattern, or has an unknown argument."""
    rule, is_good = _RULES.get(pattern, _ANY)
    if value is None and pattern in _NEVER_NONE:
        empty = ', which may be empty' if rule == _DICT[0] else ', or left out'
        raise UserError(f'{place}=None in the config must be {rule}{empty}')
    if value is not None and not is_good(value):
        raise UserError(f'{place}={value!r:.80} in the config must be {rule}')
    types, names = _ARGUMENTS.get(pattern, ((), ()))
    if isinstance(value, Mapping) and value.get('type') in types:
        for name in value.keys() - {'type', '_scope_', *names}:
            raise UserError(
                f'{place} in the config takes no argument {name!r}{nearest(name, names)}'
            )


def _check_schedulers(cfg: Config) -> None:
    """Raise `UserError` for a scheduler without a type, or whose lengths are no numbers."""
    schedulers: Any = cfg.get('param_scheduler') or ()
    groups = {'param_scheduler': schedulers}
    if of_several_optimizers(schedulers):
        groups = {f'param_scheduler.{name}': group for name, group in schedulers.items()}
    for place, group in groups.items():
        for scheduler in filter(None, hosts.as_list(group)):
            if not isinstance(scheduler, Mapping) or 'type' not in scheduler:
                raise UserError(f'{place} in the config: {scheduler!r:.80} has no type')
            _check_lengths(scheduler, place)


def _check_lengths(scheduler: Mapping[str, Any], place: str) -> None:
    """Raise `UserError` if a length of the scheduler at `place` is no number, or it starts at 0."""
    kind = hosts.type_name(scheduler)
    if scheduler.get('start_factor') == 0 and kind.startswith('Linear') and hasattr(optim, kind):
        raise UserError(
            f'{place} in the config: start_factor=0 of {kind} must be above 0, such as 1e-6: each '
            'step multiplies the value before it'
        )
    for key in filter(scheduler.__contains__, (*LENGTHS, *LISTS_OF_LENGTHS)):
        value, rule = scheduler[key], 'a number from 0'
        good = is_number(value) and value >= 0
        if key in LISTS_OF_LENGTHS:
            rule, several = 'a list of numbers', (list, tuple, range, set, frozenset)
            good = isinstance(value, several) and all(map(is_number, value))
        elif value is None:
            good = key not in ('begin', 'end')
        if not good:
            raise UserError(f'{place} in the config: {key}={value!r} of {kind} must be {rule}')


def of_several_optimizers(schedulers: Any) -> bool:
    """Whether a ``param_scheduler`` has the schedulers of each optimizer under its name."""
    named = isinstance(schedulers, Mapping) and 'type' not in schedulers
    return named and not any(isinstance(those, (int, float)) for those in schedulers.values())


def all_hooks(cfg: Config) -> list[Any]:
    """The hooks of a config, default ones and others."""
    hooks = (*(cfg.get('custom_hooks') or ()), *(cfg.get('default_hooks') or {}).values())
    return [hook for hook in hooks if hook]


def _check_channels(cfg: Config) -> None:
    """Raise `UserError` if the channels of a neck or head are not those of our backbone.

    Only the first neck is checked or, in models without a neck, the heads of segmentors and
    classifiers.
    """
    model = cfg.get('model') or {}
    if (backbone := hosts.own_backbone(model)) is None:
        return
    try:
        variant = get_variant(backbone.get('arch', 'tiny'))
    except UserError:  # reported when the backbone is built
        return
    stages = backbone.get('out_indices') or list(range(len(variant.depths)))
    stages = hosts.as_list(stages)
    known = all(is_count(i, minimum=0) and i < len(variant.depths) for i in stages)
    if not known or stages != sorted(set(stages)):  # the backbone refuses them itself
        return
    maps = [variant.embed_dims * 2**i for i in stages]
    fact = f'model.backbone returns maps of {maps} channels (arch={backbone.get("arch", "tiny")!r})'
    for place, part in _takers(model):
        given, index = part.get('in_channels'), part.get('in_index')
        several = isinstance(given, (list, tuple))
        if not several and (not is_count(given) or place == 'model.neck'):
            continue
        try:
            wanted = [maps[i] for i in hosts.as_list(-1 if index is None else index)]
        except (IndexError, TypeError) as error:
            raise UserError(f'{place}.in_index={index} in the config: {fact}') from error
        if several and index is None:
            wanted = maps
        every = index is not None or hosts.type_name(part) in _OF_ALL_MAPS
        if several and not every and set(hosts.as_list(given)) <= set(maps):
            continue
        if hosts.as_list(given) != wanted:
            raise UserError(
                f'{place}.in_channels={given} in the config: {fact}; write '
                f'in_channels={wanted if several else wanted[0]}'
            )


def _takers(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a model that take the maps of its backbone, as far as they are known."""
    necks = [neck for neck in hosts.as_list(model.get('neck')) if isinstance(neck, Mapping)]
    if necks and hosts.type_name(necks[0]) != 'GlobalAveragePooling':
        yield 'model.neck', necks[0]
        return
    for name in ('decode_head', 'auxiliary_head', 'head', 'cls_head'):
        heads = hosts.as_list(model.get(name) or ())
        if name == 'decode_head':
            heads = heads[:1]  # others of a cascade take more than the maps
        yield from ((f'model.{name}', head) for head in heads if isinstance(head, Mapping))


def check_groups(cfg: Config) -> None:
    """Raise `UserError` for a loop, its data and its evaluator of which some are ``None``."""
    for kind in ('val', 'test'):
        names = [f'{kind}_cfg', f'{kind}_dataloader', f'{kind}_evaluator']
        given = [name for name in names if cfg.get(name) is not None]
        if 0 < len(given) < len(names):
            lacking = [name for name in names if name not in given]
            raise UserError(
                f'the config has {" and ".join(given)}, and no {" and no ".join(lacking)}; set all '
                f'of {", ".join(names)}, or None for all, which leaves the '
                f'{"validation" if kind == "val" else "test"} out'
            )


def by_iterations(cfg: Config) -> bool:
    """Whether the training of a config goes by iterations."""
    loop = cfg.get('train_cfg') or {}
    return not loop.get('by_epoch', True) or hosts.type_name(loop) == 'IterBasedTrainLoop'


def check_units(cfg: Config) -> None:
    """Raise `UserError` for a scheduler by epochs in a training by iterations, which is one epoch.

    Warn of checkpoints by epochs there, the default: only one is written, at the end.
    """
    if not by_iterations(cfg):
        return
    text = 'goes by epochs (the default) in a training by iterations, and {}; set by_epoch=False'
    for _, scheduler in hosts.dicts_in(cfg.get('param_scheduler')):
        kind = hosts.type_name(scheduler)
        steps = scheduler.get('convert_to_iter_based') or 'Plateau' in kind  # steps at validations
        # mmengine's and mmdet's; a user's own may go by iterations whatever its arguments
        known = hasattr(optim, kind) or kind.startswith('QuadraticWarmup')
        if known and scheduler.get('by_epoch', True) and not steps:
            raise UserError(f'param_scheduler: {kind} {text.format("would never step")}')
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint', {'interval': 1})
    if checkpoint and checkpoint.get('by_epoch', True) and checkpoint.get('interval', -1) > 0:
        warn(f'default_hooks.checkpoint {text.format("writes one at the end alone")}')


def check_optimizers(cfg: Config) -> None:
    """Raise `UserError` for an optimizer that is not registered, which mmengine does not name."""
    for _, node in hosts.dicts_in(cfg.get('optim_wrapper')):
        optimizer = node.get('optimizer')
        kind = optimizer.get('type') if isinstance(optimizer, Mapping) else None
        if isinstance(kind, str):
            with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as optimizers:
                known = optimizers.get(kind)
            if known is None:
                raise UserError(unknown_type(kind, 'mmengine::optimizer'))


def check_paramwise(cfg: Config) -> None:
    """Raise `UserError` for options of ``paramwise_cfg`` that mmengine's constructor ignores."""
    wrapper = cfg.get('optim_wrapper') or {}  # parts of it are read by a constructor of the user's
    own = hosts.type_name({'type': wrapper.get('constructor') or 'DefaultOptimWrapperConstructor'})
    of_others = {*NAMES['paramwise_cfg']} - {*PARAMWISE}
    ignored = sorted(of_others & (wrapper.get('paramwise_cfg') or {}).keys())
    if ignored and own == 'DefaultOptimWrapperConstructor':
        raise UserError(
            f'optim_wrapper.paramwise_cfg has {", ".join(ignored)}, which {own} does not read; '
            'leave it out, or set optim_wrapper.constructor, for layer_decay_rate to '
            "'mmswinv2.SwinLayerDecayOptimWrapperConstructor'"
        )


def check_parts(cfg: Config, model: nn.Module) -> None:
    """Raise `UserError` if a setting of a training names a part that the model has not."""
    known = dict(model.named_modules())
    for setting in ('activation_checkpointing', 'efficient_conv_bn_eval'):
        for name in hosts.as_list(cfg.get(setting) or ()):
            if name not in known:
                raise UserError(
                    f'{setting} in the config: {type(model).__name__} has no part '
                    f'{name!r}{nearest(name, known)}'
                )


def _check_scores(cfg: Config) -> None:
    """Raise `UserError` for metrics with scores of the same names, or with results for no file."""
    for where in ('val_evaluator', 'test_evaluator'):
        seen: set[tuple[str, Any, str]] = set()
        for metric in hosts.as_list(cfg.get(where) or ()):
            if not isinstance(metric, Mapping):
                continue
            kind = hosts.type_name(metric)
            if metric.get('format_only'):
                if kind == 'CocoMetric' and not metric.get('outfile_prefix'):
                    raise UserError(
                        f'{where}: CocoMetric with format_only=True writes files; set its '
                        'outfile_prefix to the beginning of their paths, such as work_dirs/results'
                    )
                continue
            # IoUMetric reports aAcc whatever it is asked for
            scores = {'CocoMetric': metric.get('metric', 'bbox'), 'IoUMetric': 'aAcc'}
            for score in map(str, hosts.as_list(scores.get(kind, ()))):
                if (key := (kind, metric.get('prefix'), score)) in seen:
                    raise UserError(
                        f'{where} has {kind} twice, and both report {score}; let one measure all, '
                        'or give one of them a prefix of its own'
                    )
                seen.add(key)


def _check_best(cfg: Config) -> None:
    """Raise `UserError` if ``save_best`` looks like a misspelled score of the metrics."""
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    metrics = hosts.as_list(cfg.get('val_evaluator') or ())
    described = [metric for metric in metrics if isinstance(metric, Mapping)]
    known = [name for metric in described for name in hosts.of(cfg).score_names(metric)]
    for name in hosts.as_list(best or ()):
        if not isinstance(name, str) or name == 'auto' or name in known:
            continue
        alike = [score for score in known if score.lower() == name.lower()]
        if hint := nearest(name, alike or known, 0.5 if alike else 0.9):
            raise UserError(
                f'default_hooks.checkpoint.save_best={name!r} is no score of val_evaluator{hint}'
            )
