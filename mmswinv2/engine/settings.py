"""Settings of a config: options of the command line, values that cannot be, changes for a run."""

from __future__ import annotations

import inspect
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from .. import hosts
from ..core.arguments import is_number
from ..errors import UserError, nearest
from ..log import warn

# what runners, mmengine's hosts and our tools take from a config; all else is for the file itself
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
# arguments that may be given where no 'type' stands beside them, and that configs often leave out
_OPTIONAL = {
    *inspect.signature(DataLoader).parameters,
    *('bias_decay_mult', 'dwconv_decay_mult', 'norm_decay_mult', 'bias_lr_mult'),
    *('bypass_duplicate', 'init_backend', 'timeout', 'nms_post'),
    *('mp_start_method', 'opencv_num_threads'),
}
_FREE = ('metainfo', 'custom_keys', 'data_prefix', 'backend_args')  # any key may stand in them
_LENGTHS = ('begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size')
_LISTS_OF_LENGTHS = ('milestones', 'periods')
_FOR_EVER = 10**9  # mmengine's end of a schedule that has none


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
    def is_whole(value: Any) -> bool:
        return is_number(value) and math.isfinite(value) and value == int(value) and value >= least

    return f'a whole number from {least}', is_whole


_DICT = 'a dict', lambda value: isinstance(value, Mapping)
_DICTS = 'a dict or a list of dicts', lambda value: isinstance(value, (Mapping, list, tuple))
_LIST = 'a list', lambda value: isinstance(value, (list, tuple))
_NOT_NEGATIVE = 'a finite number from 0', lambda value: is_number(value) and 0 <= value < math.inf
_TEXT = 'a text', lambda value: isinstance(value, str)
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_RULES = {  # setting: what it must be, where it is given and not None
    **dict.fromkeys(('model', 'optim_wrapper', 'default_hooks', 'env_cfg', *_LOADERS), _DICT),
    **dict.fromkeys(('train_cfg', 'val_cfg', 'test_cfg', 'randomness', 'auto_scale_lr'), _DICT),
    **dict.fromkeys(('param_scheduler', 'val_evaluator', 'test_evaluator'), _DICTS),
    **dict.fromkeys(('work_dir', 'load_from', 'log_level', 'default_scope'), _TEXT),
    'custom_hooks': _LIST,
    **dict.fromkeys((f'{loader}.batch_size' for loader in _LOADERS), _whole(1)),
    **dict.fromkeys((f'{loader}.num_workers' for loader in _LOADERS), _whole(0)),
    **dict.fromkeys((f'{loader}.dataset' for loader in _LOADERS), _DICT),
    'train_cfg.max_iters': _whole(1),
    'train_cfg.max_epochs': _whole(1),
    'train_cfg.val_interval': _whole(1),
    'optim_wrapper.optimizer': _DICT,
    'optim_wrapper.optimizer.lr': _NOT_NEGATIVE,
    'optim_wrapper.optimizer.weight_decay': _NOT_NEGATIVE,
    'optim_wrapper.accumulative_counts': _whole(1),
    'default_hooks.logger.interval': _whole(1),
    'default_hooks.checkpoint.interval': _whole(-1),
    'auto_scale_lr.base_batch_size': _whole(1),
    'randomness.seed': _whole(0),
}


class _Options(DictAction):
    """``key=value`` pairs, with words for those that are none."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None
    ) -> None:
        for text in values:
            form = 'write key=value, with lists as key="[a,b]" or key="(a,b)" without white space'
            key, equals, value = text.partition('=')
            if not (key and equals):
                raise UserError(f'--cfg-options: {text!r} is no key=value; {form}')
            try:
                self._parse_iterable(value)
            except (AssertionError, ValueError, IndexError) as error:
                raise UserError(f'--cfg-options {text}: {error}; {form}') from error
        super().__call__(parser, namespace, values, option_string)


def add_config_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        help='override settings of the config: key=value, nested keys with dots, lists as '
        'key="[a,b]" without white space',
    )


def check_values(cfg: Config) -> None:
    """Raise `UserError` at the first setting whose value cannot be right."""
    for path, (wanted, is_good) in _RULES.items():
        value: Any = cfg
        for key in path.split('.'):
            value = value.get(key) if isinstance(value, Mapping | Config) else None
        if value is not None and not is_good(value):
            raise UserError(f'{path}={value!r:.80} in the config must be {wanted}')


def warn_of_unused(cfg: Config, options: Mapping[str, Any]) -> None:
    """Warn of options that change nothing: misspelt ones, and ones that come too late.

    Args:
        cfg: the config before the options are applied.
        options: those of ``--cfg-options``.
    """
    for path in options:
        first, *rest = path.split('.')
        if first not in _USED:
            if first in cfg:
                warn(_too_late(cfg, first, path))
            else:
                hint = nearest(first, (*_USED, *cfg))
                warn(f'--cfg-options {path}: nothing reads {first!r} in a config{hint}')
            continue
        node = cfg.get(first)
        for key in rest:
            if isinstance(node, (list, tuple)) and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            elif not isinstance(node, Mapping):
                break
            elif key in node:
                node = node[key]
                if key in _FREE:
                    break
            else:  # where there is a type, it refuses what it does not know
                known = key in _OPTIONAL or 'type' in node
                if not known and (hint := nearest(key, node, 0.75)):
                    warn(f'--cfg-options {path}: {key!r} is new in the config{hint}')
                break


def warn_of_misspelt(cfg: Config) -> None:
    """Warn of settings of a config that nothing reads and that are named almost like one."""
    known = [key for key in _USED if not key.startswith('tta_')]
    for key in cfg:
        begins = [name for name in known if name in cfg and key.startswith(f'{name}_')]
        variant = begins or key.startswith('_')
        if key not in _USED and not variant and (hint := nearest(key, known, 0.85)):
            warn(f'{cfg.filename}: nothing reads {key!r} in a config{hint}')


def set_length(cfg: Config, max_iters: int | None, max_epochs: int | None) -> None:
    """Make a training shorter or longer, with all that is scheduled in it.

    Beginnings, ends and milestones of the schedulers are multiplied by new length over old, and
    intervals of validation and checkpoints end with the training at the latest.

    Raises:
        UserError: if the config counts the other way.
    """
    for unit, length in (('max_iters', max_iters), ('max_epochs', max_epochs)):
        if length is None:
            continue
        option = '--' + unit.replace('_', '-')
        old = (cfg.get('train_cfg') or {}).get(unit)
        if old is None:
            other = '--max-epochs' if unit == 'max_iters' else '--max-iters'
            raise UserError(f'{option}: this config does not train by {unit[4:]}; use {other}')
        if length < 1:
            raise UserError(f'{option} must be at least 1, got {length}')
        cfg.train_cfg[unit] = length
        interval = cfg.train_cfg.get('val_interval')
        if interval is not None:
            cfg.train_cfg.val_interval = min(interval, length)
        checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
        if checkpoint is not None and checkpoint.get('by_epoch', True) == (unit == 'max_epochs'):
            checkpoint.interval = min(checkpoint.get('interval', -1), length)
        if 'dynamic_intervals' in cfg.train_cfg:
            cfg.train_cfg.dynamic_intervals = [
                (_scaled(start, length / old), interval)
                for start, interval in cfg.train_cfg.dynamic_intervals
            ]
        schedulers = cfg.get('param_scheduler') or []
        if isinstance(schedulers, Mapping) and 'type' not in schedulers:  # several optimizers
            cfg.param_scheduler = {k: _scale(v, length / old) for k, v in schedulers.items()}
            groups = list(cfg.param_scheduler.values())
        else:
            cfg.param_scheduler = _scale(schedulers, length / old)
            groups = [cfg.param_scheduler]
        print_log(
            f'{option} {length} (the config has {old}); schedulers: '
            + '; '.join(_lengths(scheduler) for group in groups for scheduler in group),
            logger='current',
        )


def set_tta(cfg: Config) -> None:
    """Test with the config's test-time augmentation, or the host's by mirror images.

    The model becomes a wrapper that has the given one as its ``module``.

    Raises:
        UserError: if neither the config nor the host has one for this model.
    """
    datasets = list(hosts.inner_datasets(cfg.test_dataloader.dataset))
    if 'tta_model' not in cfg and (model := hosts.of(cfg).default_tta_model(cfg)):
        cfg.tta_model, cfg.tta_pipeline = model, _with_mirror_images(datasets[0].pipeline)
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def _with_mirror_images(pipeline: Sequence[Any]) -> list[Any]:
    *steps, pack = pipeline
    if 'meta_keys' in pack:  # the default has both
        pack = {**pack, 'meta_keys': (*pack['meta_keys'], 'flip', 'flip_direction')}
    # the plain view first: pictures show its annotations
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _scaled(value: int, factor: float) -> int:
    return value if not 0 < value < _FOR_EVER else max(1, round(value * factor))


def _scale(schedulers: Any, factor: float) -> list[Any]:
    """Schedulers of one optimizer, without those that nothing is left of."""
    schedulers = [schedulers] if isinstance(schedulers, Mapping) else list(schedulers)
    for scheduler in schedulers:
        for key in _LENGTHS:
            if scheduler.get(key) is not None:
                scheduler[key] = _scaled(scheduler[key], factor)
        for key in _LISTS_OF_LENGTHS:
            if key in scheduler:
                scheduler[key] = [_scaled(value, factor) for value in scheduler[key]]
    return [s for s in schedulers if s.get('end', _FOR_EVER) > s.get('begin', 0)]


def _lengths(scheduler: Any) -> str:
    told = [f'{k}={scheduler[k]}' for k in (*_LENGTHS, *_LISTS_OF_LENGTHS) if k in scheduler]
    return ' '.join((str(scheduler['type']), *told))


def _too_late(cfg: Config, name: str, path: str) -> str:
    """Words for a variable of the file, whose value has gone to other places when it was read."""
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
