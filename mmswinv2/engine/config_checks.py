"""Checks of configs: invalid values, unknown arguments, and names that nothing reads."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import (
    EpochBasedTrainLoop,
    FlexibleRunner,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    set_random_seed,
)
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from .. import hosts
from ..core import LoRA
from ..core.arguments import get_variant, is_count, is_number
from ..errors import UserError, nearest, unknown_type
from ..log import warn
from .layer_decay import MULTIPLIERS

# top-level keys that runners, the host packages and our tools read; all others are variables
_USED = frozenset(
    (
        *inspect.signature(Runner.__init__).parameters,
        *inspect.signature(FlexibleRunner.__init__).parameters,
        *(
            'runner_type',
            'default_scope',
            'custom_imports',
            'tta_model',
            'tta_pipeline',
            'data_root',
        ),
        *('compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'sync_bn'),
        *('find_unused_parameters', 'model_wrapper_cfg', 'gpu_ids'),
    )
) - {'self', 'cfg'}
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def _arguments(*functions: Callable[..., Any]) -> set[str]:
    return {name for function in functions for name in inspect.signature(function).parameters}


_NAMES = {  # node without 'type': keys that the hosts know in it, set in a base config or not
    **dict.fromkeys(_LOADERS, (*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch')),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'dist_cfg': ('backend', 'init_backend', 'timeout'),
    'randomness': ('seed', 'diff_rank_seed', 'deterministic'),
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'paramwise_cfg': (
        *('custom_keys', 'bypass_duplicate', 'bias_lr_mult', 'dcn_offset_lr_mult'),
        *(f'{kind}_decay_mult' for kind in ('norm', 'bias', 'dwconv', 'flat')),
        *('num_layers', 'decay_rate', 'decay_type', 'layer_decay_rate'),
        *('merging_layers', 'no_decay_names'),
    ),
    'default_hooks': (
        *('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'),
        *('visualization', 'sync_buffers'),
    ),
    'rpn': ('nms_pre', 'nms_post', 'max_per_img', 'min_bbox_size'),
    'rcnn': ('score_thr', 'max_per_img', 'mask_thr_binary', 'pos_weight', 'nms_across_levels'),
    'lora': tuple(LoRA.__dataclass_fields__),
    'log_processor': tuple(_arguments(LogProcessor)),
    'train_cfg': tuple(_arguments(EpochBasedTrainLoop, IterBasedTrainLoop)),
    'test_cfg': (
        *('nms_pre', 'min_bbox_size', 'score_thr', 'nms', 'max_per_img', 'max_per_image'),
        *('mask_thr_binary', 'binary_thres', 'mode', 'crop_size', 'stride', 'average_clips'),
        'max_testing_views',
    ),
    'optim_wrapper': (*_arguments(OptimWrapper), 'loss_scale', 'dtype', 'use_fp64'),
    'clip_grad': tuple(_arguments(clip_grad_norm_, clip_grad_value_)),
}
LENGTHS = ('begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size')  # of schedulers
_OF_ALL_MAPS = ('FPN', 'PAFPN', 'ChannelMapper')  # necks that take all maps of the backbone
_FREE = ('metainfo', 'custom_keys', 'data_prefix', 'backend_args')  # nodes that may have any key
_RENAMED = {  # settings of mmcv 1.x: what they are called now
    'resume_from': '--resume PATH of tools/train.py',
    'lr_config': 'param_scheduler',
    'momentum_config': 'param_scheduler',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config': 'optim_wrapper (clip_grad, accumulative_counts)',
    'fp16': '--amp of tools/train.py',
    'runner': 'train_cfg',
    'total_epochs': 'train_cfg.max_epochs',
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'evaluation': 'val_evaluator, with train_cfg.val_interval',
    'checkpoint_config': 'default_hooks.checkpoint',
    'log_config': 'default_hooks.logger and visualizer',
    'dist_params': 'env_cfg.dist_cfg',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
}


def _whole(least: int, most: float = math.inf) -> tuple[str, Callable[[Any], bool]]:
    def is_whole(value: Any) -> bool:
        finite = is_number(value) and math.isfinite(value)
        return finite and value == int(value) and least <= value <= most

    return f'a whole number from {least}' + (f' to {most}' if most < math.inf else ''), is_whole


def _count(least: int) -> tuple[str, Callable[[Any], bool]]:
    wanted = f'a whole number from {least}, without a decimal point'
    return wanted, lambda value: is_count(value, minimum=least)


def _are_dicts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, Mapping) for v in value)


_DICT = 'a dict', lambda value: isinstance(value, Mapping)
_PAIRS = (
    'a list of pairs (begin, interval)',
    lambda value: (
        isinstance(value, (list, tuple))
        and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)
    ),
)
_HOOKS = 'a list of dicts', lambda value: _are_dicts(value)
_DICTS = (
    'a dict or a list of dicts',
    lambda value: isinstance(value, Mapping) or _are_dicts(value),
)
_NOT_NEGATIVE = 'a finite number from 0', lambda value: is_number(value) and 0 <= value < math.inf
_BOUND = 'a number from 0', lambda value: is_number(value) and value >= 0  # inf: no bound
_TEXT = 'a text', lambda value: isinstance(value, str)
_START_METHODS = (
    f'a method of multiprocessing ({", ".join(get_all_start_methods())})',
    lambda value: value in get_all_start_methods(),
)
_STEPS = (
    'a list of at least one transform (left out, where the data set needs none)',
    lambda value: isinstance(value, (list, tuple)) and len(value) > 0,
)
_ANY = '', lambda value: True
_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')


def _is_level(value: Any) -> bool:
    return is_number(value) or value in (*_LEVELS, 'WARN', 'FATAL', 'NOTSET')


_BETAS = (
    'a list of numbers from 0 to below 1',
    lambda value: (
        isinstance(value, (list, tuple)) and all(is_number(b) and 0 <= b < 1 for b in value)
    ),
)
_RULES = {  # setting (* matches anything): description and check of its value, unless it is None
    **dict.fromkeys(('model', 'optim_wrapper', 'default_hooks', 'env_cfg', *_LOADERS), _DICT),
    **dict.fromkeys(('model.backbone', 'env_cfg.mp_cfg', 'env_cfg.dist_cfg'), _DICT),
    **dict.fromkeys(('train_cfg', 'val_cfg', 'test_cfg', 'randomness', 'auto_scale_lr'), _DICT),
    **dict.fromkeys(('param_scheduler', 'val_evaluator', 'test_evaluator'), _DICTS),
    **dict.fromkeys(('work_dir', 'load_from', 'default_scope'), _TEXT),
    'log_level': (f'a number or one of {", ".join(_LEVELS)}', _is_level),
    'resume': (
        'a switch, True or False (train --resume PATH names a file)',
        lambda value: isinstance(value, bool),
    ),
    'custom_hooks': _HOOKS,
    'compile': ('a dict, True or False', lambda value: isinstance(value, (bool, Mapping))),
    'train_cfg.dynamic_intervals': _PAIRS,
    **dict.fromkeys((f'{loader}.batch_size' for loader in _LOADERS), _count(1)),
    **dict.fromkeys((f'{loader}.num_workers' for loader in _LOADERS), _count(0)),
    **dict.fromkeys((f'{loader}.prefetch_factor' for loader in _LOADERS), _count(1)),
    **dict.fromkeys((f'{loader}.dataset' for loader in _LOADERS), _DICT),
    'train_cfg.max_iters': _whole(1),
    'train_cfg.max_epochs': _whole(1),
    'train_cfg.val_interval': _whole(1),
    'train_cfg.val_begin': _whole(0),
    'optim_wrapper.optimizer': _DICT,
    'optim_wrapper.optimizer.lr': _NOT_NEGATIVE,
    'optim_wrapper.optimizer.weight_decay': _NOT_NEGATIVE,
    'optim_wrapper.optimizer.momentum': _NOT_NEGATIVE,
    'optim_wrapper.optimizer.betas': _BETAS,
    **dict.fromkeys(('optim_wrapper.clip_grad', '*.paramwise_cfg', '*.custom_keys.*'), _DICT),
    'optim_wrapper.accumulative_counts': _whole(1),
    'optim_wrapper.clip_grad.max_norm': _BOUND,
    'optim_wrapper.clip_grad.clip_value': _BOUND,
    'default_hooks.logger.interval': _whole(1),
    'default_hooks.checkpoint.interval': _whole(-1),
    'default_hooks.checkpoint.max_keep_ckpts': _count(-1),
    'default_hooks.checkpoint.out_dir': _TEXT,
    'log_processor.window_size': _count(1),
    'default_hooks.checkpoint.save_begin': _whole(0),
    'auto_scale_lr.base_batch_size': _whole(1),
    'randomness.seed': _whole(0, 2**32 - 1),
    'env_cfg.mp_cfg.mp_start_method': _START_METHODS,
    'env_cfg.resource_limit': _whole(1),
    **dict.fromkeys(('*.ann_file', '*.data_root', '*.data_prefix.*'), _TEXT),
    '*.init_cfg.checkpoint': _TEXT,
    '*.num_classes': _whole(0),
    '*.pipeline': _STEPS,
    '*.nms': _DICT,
    '*.default_hooks.*': _DICT,
}


_NEVER_NONE = (
    *('env_cfg', 'randomness', 'log_level'),
    *('default_hooks.checkpoint.max_keep_ckpts', 'default_hooks.checkpoint.save_begin'),
)

_ARGUMENTS = {  # setting: types that check arguments only in mid-run, and the valid arguments
    'default_hooks.checkpoint': (
        ('CheckpointHook',),
        _arguments(CheckpointHook, Runner.save_checkpoint),
    ),
    'optim_wrapper.clip_grad': (
        (None, 'norm', 'value'),
        _arguments(clip_grad_norm_, clip_grad_value_),
    ),
    'randomness': ((None,), _arguments(set_random_seed)),
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
    for place, value in _walk(cfg._to_lazy_dict()):
        *_, parent, key = ('', *place.split('.'))
        for pattern in (place, f'*.{key}', f'*.{parent}.{key}', f'*.{parent}.*'):
            wanted, is_good = _RULES.get(pattern, _ANY)
            if value is None and pattern in _NEVER_NONE:
                empty = ', which may be empty' if wanted == _DICT[0] else ', or left out'
                raise UserError(f'{place}=None in the config must be {wanted}{empty}')
            if value is not None and not is_good(value):
                raise UserError(f'{place}={value!r:.80} in the config must be {wanted}')
            types, names = _ARGUMENTS.get(pattern, ((), ()))
            if isinstance(value, Mapping) and value.get('type') in types:
                for name in value.keys() - {'type', '_scope_', *names}:
                    raise UserError(
                        f'{place} in the config takes no argument {name!r}{nearest(name, names)}'
                    )
    _check_schedulers(cfg)
    _check_best(cfg)
    _check_scores(cfg)
    _check_channels(cfg)


def _check_schedulers(cfg: Config) -> None:
    """Raise `UserError` for a scheduler without a type, or whose lengths are no numbers."""
    schedulers = cfg.get('param_scheduler') or ()
    groups = {'param_scheduler': schedulers}
    if isinstance(schedulers, Mapping) and 'type' not in schedulers:  # of several optimizers
        groups = {f'param_scheduler.{name}': those for name, those in schedulers.items()}
    for place, those in groups.items():
        for scheduler in filter(None, hosts.as_list(those)):
            if 'type' not in scheduler:
                raise UserError(f'{place} in the config: {dict(scheduler)} has no type')
            for key in LENGTHS:
                value = scheduler.get(key)
                if value is not None and not (is_number(value) and value >= 0):
                    raise UserError(
                        f'{place} in the config: {key}={value!r} of {hosts.type_name(scheduler)} '
                        'must be a number from 0'
                    )


def _check_channels(cfg: Config) -> None:
    """Raise `UserError` for a neck or head that takes other maps than a backbone of ours gives.

    Looked at are the first neck, and, of models without one, the heads of segmentors and
    classifiers.
    """
    model = cfg.get('model') or {}
    if (backbone := hosts.own_backbone(model)) is None:
        return
    try:
        variant = get_variant(backbone.get('arch', 'tiny'))
    except UserError:  # told when it is built
        return
    stages = backbone.get('out_indices') or list(range(len(variant.depths)))
    stages = hosts.as_list(stages)
    known = all(is_count(i, minimum=0) and i < len(variant.depths) for i in stages)
    if not known or stages != sorted(set(stages)):  # the backbone refuses them itself
        return
    maps = [variant.embed_dims * 2**i for i in stages]
    told = f'model.backbone returns maps of {maps} channels (arch={backbone.get("arch", "tiny")!r})'
    for place, part in _takers(model):
        given, index = part.get('in_channels'), part.get('in_index')
        several = isinstance(given, (list, tuple))
        if not several and (not is_count(given) or place == 'model.neck'):
            continue
        try:
            wanted = [maps[i] for i in hosts.as_list(-1 if index is None else index)]
        except (IndexError, TypeError) as error:
            raise UserError(f'{place}.in_index={index} in the config: {told}') from error
        if several and index is None:
            wanted = maps
        every = index is not None or hosts.type_name(part) in _OF_ALL_MAPS
        if several and not every and set(hosts.as_list(given)) <= set(maps):
            continue
        if hosts.as_list(given) != wanted:
            raise UserError(
                f'{place}.in_channels={given} in the config: {told}; write '
                f'in_channels={wanted if several else wanted[0]}'
            )


def _takers(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a model that take the maps of its backbone, as far as they are known."""
    necks = hosts.as_list(model.get('neck') or ())
    if necks and hosts.type_name(necks[0]) != 'GlobalAveragePooling':
        yield 'model.neck', necks[0]
        return
    for name in ('decode_head', 'auxiliary_head', 'head', 'cls_head'):
        heads = hosts.as_list(model.get(name) or ())
        if name == 'decode_head':
            heads = heads[:1]  # others of a cascade take more than the maps
        yield from ((f'model.{name}', head) for head in heads)


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


def check_optimizers(cfg: Config) -> None:
    """Raise `UserError` for an optimizer that is not registered, which mmengine does not name."""
    for _, node in hosts.dicts_in(cfg.optim_wrapper):
        optimizer = node.get('optimizer')
        kind = optimizer.get('type') if isinstance(optimizer, Mapping) else None
        if isinstance(kind, str):
            with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as optimizers:
                known = optimizers.get(kind)
            if known is None:
                raise UserError(unknown_type(kind, 'mmengine::optimizer'))


def _check_scores(cfg: Config) -> None:
    """Raise `UserError` for metrics that report scores under the same names."""
    for where in ('val_evaluator', 'test_evaluator'):
        seen: dict[Any, str] = {}
        for metric in hosts.as_list(cfg.get(where) or ()):
            if not isinstance(metric, Mapping) or metric.get('format_only'):
                continue
            kind = hosts.type_name(metric)
            # IoUMetric reports aAcc whatever it is asked for
            scores = {'CocoMetric': metric.get('metric', 'bbox'), 'IoUMetric': 'aAcc'}
            for score in map(str, hosts.as_list(scores.get(kind, ()))):
                key = (kind, metric.get('prefix'), score)
                if key in seen:
                    raise UserError(
                        f'{where} has {kind} twice, and both report {score}; let one measure all, '
                        'or give one of them a prefix of its own'
                    )
                seen[key] = score


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


def warn_of_unused(cfg: Config, options: Mapping[str, Any]) -> None:
    """Warn of options without effect: nothing reads them, or the file has already used them.

    Args:
        cfg: the config before the options are applied.
        options: keys and values of ``--cfg-options``.
    """
    for path in options:
        first = path.split('.')[0]
        if first in _USED:
            continue
        if first in cfg:
            warn(_too_late(cfg, first, path))
        else:
            warn(f'--cfg-options {path}: nothing reads {first!r} in a config{_hint(first, cfg)}')


def warn_of_new(cfg: Config, before: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Warn of options that add a key to a node without a ``type``, where nothing would reject it.

    Args:
        cfg: the config with the options.
        before: the config without them.
        options: keys and values of ``--cfg-options``.
    """
    for place, hint in _misspelt(cfg._to_lazy_dict(), before, every=True):
        path = next((path for path in options if f'{path}.'.startswith(f'{place}.')), place)
        key = place.split('.')[-1]
        warn(f'--cfg-options {path}: {key!r} is new in the config{hint}')


def warn_of_misspelt(cfg: Config) -> None:
    """Warn of settings in a config file that look misspelled: unknown, but close to a known name.

    Nodes without a ``type`` accept any key; their keys are compared with those of the base configs.
    """
    known = [key for key in _USED if not key.startswith('tta_')]
    for key in cfg:
        begins = [name for name in known if name in cfg and key.startswith(f'{name}_')]
        variant = begins or key.startswith('_') or key in _RENAMED
        hint = '' if key in _USED or variant else nearest(key, known, 0.85)
        if hint and not _is_variable(cfg[key], cfg._to_lazy_dict()):
            warn(f'{cfg.filename}: nothing reads {key!r} in a config{hint}')
    if cfg.filename and Path(cfg.filename).is_file():
        _compare_with_bases(cfg, str(cfg.filename))


def _compare_with_bases(cfg: Config, path: str) -> None:
    own = cfg._to_lazy_dict()
    if not _RENAMED.keys() & own.keys() and not any(_misspelt(own, own, alone=True)):
        return  # nothing to report, so the bases need not be read
    base: dict[str, Any] = {}
    for name in () if Config._is_lazy_import(path) else Config._get_base_files(path):
        file = Config._get_cfg_path(name, path)[0]
        if not Path(file).is_file():  # its path contains a variable
            return
        read = Config.fromfile(file, import_custom_modules=False)
        _compare_with_bases(read, file)
        base |= read._to_lazy_dict()
    for place, hint in _misspelt(own, base):
        warn(f'{path}: {place} is new in the config{hint}')
    for old, new in _RENAMED.items():
        value = own.get(old)
        stale = not base and set(re.findall(r'[\w-]+', new)) & own.keys()  # as in a dumped config
        if value is None or value == base.get(old) or stale:
            continue
        if not _is_variable(value, own):
            warn(f'{path}: nothing reads {old!r} in a config{_hint(old, cfg)}')


def _hint(name: str, cfg: Config) -> str:
    if name in _RENAMED:
        return f'; since mmcv 2 it is {_RENAMED[name]}'
    return nearest(name, (*_USED, *cfg))


def _is_variable(value: Any, cfg: Mapping[str, Any]) -> bool:
    """Whether the same string, list or dict also occurs in a part of the config that is read."""
    places = _walk(cfg) if value and isinstance(value, (str, Mapping, list, tuple)) else ()
    return any(_is_in(value, found) for _, found in places)


def _is_in(value: Any, found: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(found, Mapping) and 'type' in value:
        both = value.keys() & found.keys()  # merging may have added keys to one of them
        return 'type' in both and all(found[key] == value[key] for key in both)
    return bool(found == value)


def _misspelt(
    node: Any,
    base: Any,
    place: tuple[str, ...] = (),
    alone: bool = False,
    every: bool = False,
) -> Iterator[tuple[str, str]]:
    """Find settings that are not in `base` and whose names are close to a known name.

    Args:
        node: a part of a config.
        base: the same part of the config that it was derived from.
        place: the keys that lead to `node`.
        alone: also compare keys that are in `base`, so that `node` may be its own base.
        every: also yield new settings close to no known name, unless their value has a ``type``.

    Yields:
        dotted path of the setting, and a hint, which may be empty.
    """
    if isinstance(node, (list, tuple)):
        pairs = isinstance(base, (list, tuple)) and len(base) == len(node)
        for i, value in enumerate(node):
            old = base[i] if pairs else None
            yield from _misspelt(value, old, (*place, str(i)), alone, every)
    if not isinstance(node, Mapping):
        return
    replaced = not isinstance(base, Mapping) or not base.keys() <= node.keys()  # by _delete_
    base = {} if replaced else base
    *_, parent, name = ('', '', *place)
    names = MULTIPLIERS if parent == 'custom_keys' else _NAMES.get(name, ())
    free = not place or 'type' in node or name in _FREE
    for key, value in node.items():
        if not place and key not in _USED:
            continue
        known = free or key in names or (key in base and not alone)
        others = (
            [] if known else [n for n in map(str, (*base, *names)) if not _extends(str(key), n)]
        )
        hint = nearest(str(key), others, 0.75)
        built = isinstance(value, Mapping) and 'type' in value
        if hint or (every and not (known or replaced or built)):
            yield '.'.join((*place, str(key))), hint
        else:
            yield from _misspelt(value, base.get(key), (*place, str(key)), alone, every)


def _extends(name: str, other: str) -> bool:
    return name.startswith(f'{other}_') or name.endswith(f'_{other}')


def _too_late(cfg: Config, name: str, path: str) -> str:
    """Warning for a variable of the file: its value was copied when the file was read."""
    value = cfg[name]
    places = [
        place
        for place, found in _walk(cfg._cfg_dict.to_dict())
        if place != name and (place.split('.')[-1] == name or (found == value and found))
    ]
    hint = f'; its value stands in {", ".join(places[:4])}: set these' if places else ''
    return (
        f'--cfg-options {path} comes too late: {name} is a variable of the config file, used when '
        f'the file was read{hint}'
    )


def _walk(node: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        place = f'{prefix}{key}'
        if place.split('.')[0] in _USED:
            yield place, value
            if isinstance(value, (Mapping, list, tuple)):
                yield from _walk(value, f'{place}.')
