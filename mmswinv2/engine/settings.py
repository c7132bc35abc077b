"""Changes to a config from the command line: settings, length of training, test augmentation."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import print_log

from .. import hosts
from ..errors import UserError

_LENGTHS = ('begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size')
_LISTS_OF_LENGTHS = ('milestones', 'periods')
_STARTS = {'Linear': 'start_factor', 'Constant': 'factor'}  # of warm-ups
_FORM = 'write key=value, with lists as key="[a,b]" or key="(a,b)"'
_BRACKETS = {'[': ']', '(': ')'}
_FOR_EVER = 10**9  # mmengine's end of a schedule that has none


class _Options(Action):
    """Parses ``key=value`` pairs into a dict; raises `UserError` for anything else."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None
    ) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, equals, value = text.partition('=')
            if not (key and equals):
                raise UserError(f'--cfg-options: {text!r} is no key=value; {_FORM}')
            try:
                options[key] = parse_value(value)
            except UserError as error:
                raise UserError(f'--cfg-options {text}: {error}; {_FORM}') from error
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """Parse a value like ``--cfg-options`` of mmengine, but keep the spaces inside it.

    Text in ``[]``, or with commas, becomes a list, and text in ``()`` a tuple. Numbers, ``True``,
    ``False`` and ``None`` are converted. Surrounding spaces and quotes are removed.

    Raises:
        UserError: if brackets do not match.
    """
    text = text.strip().strip('\'"').strip()
    if ',' not in text and not text.startswith(tuple(_BRACKETS)):
        return DictAction._parse_int_float_bool(text)
    ends, items = text[:1] + text[-1:], _divided(text)
    if len(items) > 1 or text.endswith(','):
        return [parse_value(item) for item in items]
    if ends not in ('[]', '()'):
        return text
    try:
        inner = _divided(text[1:-1])
    except UserError:  # such as '(a) b (c)'
        return text
    values = map(parse_value, inner)
    return list(values) if ends == '[]' else tuple(values)


def _divided(text: str) -> list[str]:
    """Split a text at the commas outside of brackets; an empty text has no pieces."""
    pieces, opened = [''], ''
    for letter in text:
        if letter == ',' and not opened:
            pieces.append('')
            continue
        if letter in _BRACKETS:
            opened += letter
        elif letter in _BRACKETS.values():
            if not opened or _BRACKETS[opened[-1]] != letter:
                raise UserError(f'{letter} closes no bracket')
            opened = opened[:-1]
        pieces[-1] += letter
    if opened:
        raise UserError(f'{opened[-1]} is not closed')
    return pieces if pieces[-1].strip() else pieces[:-1]


def write_value(value: Any) -> str:
    """The text from which `parse_value` reads `value`.

    Raises:
        UserError: if there is no such text, as for strings with commas.
    """
    text = str(value)
    if isinstance(value, (list, tuple)):
        inner = ''.join(f'{write_value(item)},' for item in value)
        text = f'[{inner}]' if isinstance(value, list) else f'({inner})'
    try:
        same = repr(parse_value(text)) == repr(value)  # as nan != nan
    except UserError:
        same = False
    if not same:
        raise UserError(f'--cfg-options: {value!r} cannot be written as key=value; {_FORM}')
    return text


def add_config_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        help='override settings of the config: key=value, nested keys with dots, lists as '
        'key="[a,b]"',
    )


def set_length(cfg: Config, max_iters: int | None, max_epochs: int | None) -> None:
    """Make a training shorter or longer, and scale its schedules to the new length.

    Begins, ends and milestones of schedulers, and the begins of validation, checkpoints, weight
    averaging (EMAHook) and pipeline switches (PipelineSwitchHook), are multiplied by the new length
    over the old. Intervals of validation and checkpoints become at most the new length.

    Raises:
        UserError: if the config counts in the other unit, or a length is below 1.
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
        starts = [(cfg.train_cfg, 'val_begin')]
        if checkpoint is not None and checkpoint.get('by_epoch', True) == (unit == 'max_epochs'):
            checkpoint.interval = min(checkpoint.get('interval', -1), length)
            starts.append((checkpoint, 'save_begin'))
        keys = ('begin_epoch', 'switch_epoch') if unit == 'max_epochs' else ('begin_iter',)
        starts += [(hook, key) for hook in cfg.get('custom_hooks') or () for key in keys]
        for node, key in starts:
            if node.get(key):
                node[key] = _scaled(node[key], length / old)
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
    """Test with the config's test-time augmentation, or else with the host's, which flips images.

    The model becomes a wrapper that has the given one as its ``module``.

    Raises:
        UserError: if neither the config nor the host has an augmentation for this model.
    """
    datasets = list(hosts.inner_datasets(cfg.test_dataloader.dataset))
    if 'tta_model' not in cfg and (model := hosts.of(cfg).default_tta_model(cfg)):
        cfg.tta_model = {**model, 'type': hosts.type_in(cfg, model['type'])}
        flip = hosts.type_in(cfg, 'RandomFlip')
        cfg.tta_pipeline = _with_mirror_images(datasets[0].pipeline, flip)
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    cfg.model = ConfigDict(**deepcopy(cfg.tta_model), module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def _with_mirror_images(pipeline: Sequence[Any], flip: str) -> list[Any]:
    *steps, pack = pipeline
    if 'meta_keys' in pack:  # the default meta_keys have both
        pack = {**pack, 'meta_keys': (*pack['meta_keys'], 'flip', 'flip_direction')}
    # the unflipped view first: visualizations draw its annotations
    flips = [dict(type=flip, prob=prob) for prob in (0.0, 1.0)]
    return [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _scaled(value: float, factor: float, parts: bool = False) -> float:
    """Scale a length in epochs or iterations, and round it.

    With `parts`, a fractional length, as of a warm-up of 2.5 epochs, is not rounded, unless it
    becomes shorter than an epoch, which could leave few iterations.
    """
    if not 0 < value < _FOR_EVER:
        return value
    exact = value * factor
    return exact if parts and value % 1 and exact > 1 else max(1, round(exact))


def _scale(schedulers: Any, factor: float) -> list[Any]:
    """Scale the schedulers of one optimizer, and drop those with no steps left.

    A warm-up of one step would end at its low start value, from which the next scheduler would
    continue, so it gets a start factor of 1.
    """
    schedulers = [schedulers] if isinstance(schedulers, Mapping) else list(schedulers)
    for scheduler in schedulers:
        before = _steps(scheduler)
        in_parts = scheduler.get('convert_to_iter_based', False)
        for key in _LENGTHS:
            if scheduler.get(key) is not None:
                parts = in_parts and key in ('begin', 'end')
                scheduler[key] = _scaled(scheduler[key], factor, parts)
        for key in _LISTS_OF_LENGTHS:
            if key in scheduler:
                scheduler[key] = [_scaled(value, factor) for value in scheduler[key]]
        start = _STARTS.get(hosts.type_name(scheduler)[: -len('LR')])
        if start and _steps(scheduler) < 2 <= before and not in_parts:
            scheduler[start] = 1.0
    return [scheduler for scheduler in schedulers if _steps(scheduler) > 0]


def _steps(scheduler: Any) -> float:
    return scheduler.get('end', _FOR_EVER) - scheduler.get('begin', 0)


def _lengths(scheduler: Any) -> str:
    told = [f'{k}={scheduler[k]}' for k in (*_LENGTHS, *_LISTS_OF_LENGTHS) if k in scheduler]
    return ' '.join((str(scheduler['type']), *told))
