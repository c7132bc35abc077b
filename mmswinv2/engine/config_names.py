"""Names in configs that nothing reads: misspelt ones, those of mmcv 1, and variables."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import (
    EpochBasedTrainLoop,
    FlexibleRunner,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    set_random_seed,
)
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from ..core import LoRA
from ..errors import nearest
from ..hosts.configs import walk
from ..log import warn

# top-level keys that runners, the host packages and our tools read; all others are variables
_USED = frozenset(
    (
        *inspect.signature(Runner.__init__).parameters,
        *inspect.signature(FlexibleRunner.__init__).parameters,
        *('runner_type', 'default_scope', 'custom_imports', 'tta_model', 'tta_pipeline'),
        *('compile', 'activation_checkpointing', 'efficient_conv_bn_eval', 'sync_bn'),
        *('data_root', 'find_unused_parameters', 'model_wrapper_cfg', 'gpu_ids'),
    )
) - {'self', 'cfg'}
MULTIPLIERS = ('lr_mult', 'decay_mult')  # in an entry of custom_keys
PARAMWISE = (  # options of mmengine's own constructor
    *('custom_keys', 'bypass_duplicate', 'bias_lr_mult', 'dcn_offset_lr_mult'),
    *(f'{kind}_decay_mult' for kind in ('norm', 'bias', 'dwconv', 'flat')),
)
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def arguments(*functions: Callable[..., Any]) -> set[str]:
    """Names of the arguments of functions."""
    return {name for function in functions for name in inspect.signature(function).parameters}


NAMES = {  # node without 'type': keys that the hosts know in it, set in a base config or not
    **dict.fromkeys(LOADERS, (*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch')),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'dist_cfg': ('backend', 'init_backend', 'timeout'),
    'randomness': tuple(arguments(set_random_seed)),
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'paramwise_cfg': (
        *PARAMWISE,
        *('num_layers', 'decay_rate', 'decay_type', 'layer_decay_rate'),
        *('merging_layers', 'no_decay_names'),
    ),
    'default_hooks': (
        *('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'),
        *('visualization', 'sync_buffers'),
    ),
    'rpn': ('nms_pre', 'nms_post', 'max_per_img', 'min_bbox_size'),
    'rcnn': ('score_thr', 'max_per_img', 'mask_thr_binary', 'pos_weight', 'nms_across_levels'),
    'filter_cfg': ('filter_empty_gt', 'min_size', 'bbox_min_size'),
    'lora': tuple(LoRA.__dataclass_fields__),
    'log_processor': tuple(arguments(LogProcessor)),
    'train_cfg': tuple(arguments(EpochBasedTrainLoop, IterBasedTrainLoop)),
    'test_cfg': (
        *('nms_pre', 'min_bbox_size', 'score_thr', 'nms', 'max_per_img', 'max_per_image'),
        *('mask_thr_binary', 'binary_thres', 'mode', 'crop_size', 'stride', 'average_clips'),
        'max_testing_views',
    ),
    'optim_wrapper': (*arguments(OptimWrapper), 'loss_scale', 'dtype', 'use_fp64'),
    'clip_grad': tuple(arguments(clip_grad_norm_, clip_grad_value_)),
}
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


def warn_of_unused(cfg: Config, options: Mapping[str, Any]) -> None:
    """Warn of options that nothing reads, or that the file has used before they are applied."""
    for path in options:
        first = path.split('.')[0]
        if first in _USED:
            continue
        if first in cfg:
            warn(_too_late(cfg, first, path))
        else:
            warn(f'--cfg-options {path}: nothing reads {first!r} in a config{_hint(first, cfg)}')


def warn_of_unmatched(cfg: Config, model: nn.Module) -> None:
    """Warn of ``custom_keys`` that are in the name of no parameter, and look misspelled.

    Others are usual: schedules of the hosts have keys for several kinds of backbones.
    """
    names = [name for name, _ in model.named_parameters()]
    parts = {part for name in names for part in name.split('.')}
    keys = (cfg.optim_wrapper.get('paramwise_cfg') or {}).get('custom_keys') or ()
    for key in keys:
        lost = () if any(key in name for name in names) else key.split('.')
        hints = (nearest(part, parts, 0.85) for part in lost if part not in parts)
        if hint := next(filter(None, hints), ''):
            warn(
                f'optim_wrapper.paramwise_cfg.custom_keys: no parameter has {key!r} in its name'
                f'{hint}'
            )


def warn_of_new(cfg: Config, before: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Warn of options that add a key, absent `before`, to a node without a ``type``.

    Nothing would reject it there.
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
            warn(f'{cfg.filename or "the config"}: nothing reads {key!r} in a config{hint}')
    if cfg.filename and Path(cfg.filename).is_file():
        _compare_with_bases(cfg, str(cfg.filename))


def _compare_with_bases(cfg: Config, path: str) -> None:
    """Warn of what a config, or one of its bases, adds to its own bases and nothing reads."""
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
    places = settings_in(cfg) if value and isinstance(value, (str, Mapping, list, tuple)) else ()
    return any(_is_in(value, found) for _, found in places)


def _is_in(value: Any, found: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(found, Mapping) and 'type' in value:
        both = value.keys() & found.keys()  # merging may have added keys to one of them
        return 'type' in both and all(found[key] == value[key] for key in both)
    return bool(found == value)


def _misspelt(
    node: Any, base: Any, place: tuple[str, ...] = (), alone: bool = False, every: bool = False
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
    names = MULTIPLIERS if parent == 'custom_keys' else NAMES.get(name, ())
    free = not place or 'type' in node or name in _FREE
    for key, value in node.items():
        if not place and key not in _USED:
            continue
        known = free or key in names or (key in base and not alone)
        others = [
            name
            for name in map(str, () if known else (*base, *names))
            if not f'{key}'.startswith(f'{name}_') and not f'{key}'.endswith(f'_{name}')
        ]
        hint = nearest(str(key), others, 0.75)
        built = isinstance(value, Mapping) and 'type' in value
        if hint or (every and not (known or replaced or built)):
            yield '.'.join((*place, str(key))), hint
        else:
            yield from _misspelt(value, base.get(key), (*place, str(key)), alone, every)


def _too_late(cfg: Config, name: str, path: str) -> str:
    """Warning for a variable of the file: its value was copied when the file was read."""
    value = cfg[name]
    places = [
        place
        for place, found in settings_in(cfg._cfg_dict.to_dict())
        if place != name and (place.split('.')[-1] == name or (found == value and found))
    ]
    hint = f'; its value stands in {", ".join(places[:4])}: set these' if places else ''
    return (
        f'--cfg-options {path} comes too late: {name} is a variable of the config file, used when '
        f'the file was read{hint}'
    )


def settings_in(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All settings of a config that are read, each with its dotted path."""
    return (found for found in walk(cfg) if found[0].split('.')[0] in _USED)
