"""Resuming with the schedule and optimizer settings of the config, not of the checkpoint."""

import inspect
import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..errors import UserError
from ..hosts.configs import package_of
from ..hosts.patching import PACKAGES
from ..log import warn
from .saved_states import NO_SETTINGS, check_groups, check_states
from .schedules import all_schedulers, check_steps, named, progress, replay

_OF_SCHEDULERS = ('initial_', 'max_', 'min_')  # keys of a group: values that schedules go between


def follow_config(runner: Any) -> None:
    """Make a resumed training use the settings of its config, and warn of those that differ.

    mmengine takes the schedule, the learning rate and the weight decay from the checkpoint,
    whatever the config says: a prolonged training stays at its last learning rate. Here, if a
    setting differs, the learning rate is computed as if the run had had the new settings from its
    start. Optimizers of DeepSpeed keep the settings of the checkpoint, except for the schedule.

    Args:
        runner: a runner that has not loaded anything yet; its ``load_or_resume`` is replaced.
    """
    load = runner.load_or_resume

    def load_or_resume() -> None:
        schedulers = dict(named(runner.param_schedulers))
        for scheduler in all_schedulers(runner):
            check_steps(scheduler, runner)
        changes = _Changes()
        changes.watch_all(runner.optim_wrapper, schedulers)
        try:
            load()
        finally:
            changes.stop()
        if runner._resume:
            _leave_best_of_others(runner)
            if hasattr(runner, 'saved_schedulers'):
                changes.compare_numbers(runner.saved_schedulers, schedulers)
        # schedulers may step before the first update of this process, of which mmengine warns
        for scheduler in all_schedulers(runner):
            if getattr(scheduler.optimizer, '_global_step', 0) < 0:
                scheduler.optimizer._global_step = 0
        if changes.differences:
            warn(
                'this run takes from its config, and not from the checkpoint: '
                + '; '.join(changes.differences)
            )
        if changes.rates:
            for those in schedulers.values():
                replay(those, runner)
        _, done, length = progress(runner)
        if done >= length:
            warn(
                f'this training is finished: {runner.epoch} epochs, {runner.iter} iterations are '
                'done; --max-iters or --max-epochs makes it longer'
            )

    runner.load_or_resume = load_or_resume


def _leave_best_of_others(runner: Any) -> None:
    """Forget the best checkpoint of another work dir, which mmengine would remove."""
    name = os.path.basename(runner.work_dir.rstrip('/'))
    outs = [out for hook in runner.hooks if (out := getattr(hook, 'out_dir', None))]
    own = [runner.work_dir, *(f'{str(out).rstrip("/")}/{name}' for out in outs)]
    known = runner.message_hub.runtime_info
    for key in [key for key in known if key.startswith('best_ckpt')]:
        path = str(known[key] or '')
        folders = own if '://' in path else map(os.path.realpath, own)
        place = path if '://' in path else os.path.realpath(path)
        if path and not any(place.startswith(f'{folder.rstrip("/")}/') for folder in folders):
            del known[key]
            if '://' in path or os.path.exists(path):
                warn(f'{path}, the best checkpoint of another work dir, stays where it is')


class _Changes:
    """Compares loaded states with the settings of the config.

    Attributes:
        differences: settings that differ, in words.
        rates: whether the values that schedulers set must be recomputed.
    """

    def __init__(self) -> None:
        self.differences: list[str] = []
        self.rates = False
        self._watched: list[Any] = []

    def watch_all(self, optim_wrapper: Any, schedulers: dict[str, Any]) -> None:
        """Compare what the optimizers and schedulers of a run load."""
        for name, wrapper in named(optim_wrapper):
            self.watch(wrapper, f'optimizer{name}', _scheduled(schedulers.get(name)))
        for name, those in schedulers.items():
            for i, scheduler in enumerate(those):
                self.watch(scheduler, f'param_scheduler{name}.{i}')

    def watch(self, owner: Any, name: str, scheduled: set[str] | None = None) -> None:
        """Compare what `owner` loads: a scheduler, or an optimizer if `scheduled` is given."""
        self._watched.append(owner)
        given = (owner, name, owner.load_state_dict)
        if scheduled is None:
            owner.load_state_dict = partial(self._load_scheduler, *given)
        else:
            owner.load_state_dict = partial(self._load_optimizer, *given, scheduled)

    def stop(self) -> None:
        """Restore the ``load_state_dict`` methods of the classes."""
        for owner in self._watched:
            vars(owner).pop('load_state_dict', None)

    def compare_numbers(self, saved: Any, schedulers: dict[str, Any]) -> None:
        """Compare the number of schedulers with that of the checkpoint."""
        configured = {name: len(group) for name, group in schedulers.items()}
        stored = {name: len(group) for name, group in named(saved)}
        if configured != stored:
            self.differences.append(
                f'{sum(configured.values())} schedulers (checkpoint: {sum(stored.values())})'
            )
            self.rates = True

    def _load_scheduler(self, owner: Any, name: str, load: Any, state: dict) -> None:
        """Load the state of a scheduler, but keep the config's where a setting differs."""
        configured = dict(vars(owner))
        load({key: value for key, value in state.items() if not callable(value)})
        settings = [*_settings(owner), '_schedule_phases']  # OneCycleLR has settings there
        different = [
            f'{name}.{key}={configured[key]} (checkpoint: {state.get(key)})'
            for key in settings
            if key in configured and not _same(configured[key], state.get(key))
        ]
        if different:
            self.differences += [
                text for text in different if '_schedule_phases' not in text
            ] or different
            self.rates = True
            configured.pop('load_state_dict', None)
            vars(owner).update(configured)  # with values computed from the settings

    def _load_optimizer(
        self, owner: Any, name: str, load: Any, scheduled: set[str], state: dict
    ) -> None:
        """Load the state of an optimizer, and set again what the config says otherwise."""
        configured = [dict(group) for group in owner.param_groups]
        # the wrapper may add a group of its own for base_param_settings
        optimizer = getattr(owner, 'optimizer', owner)
        own, known = optimizer.param_groups, _optimizer_settings(optimizer)
        check_groups(name, own, state.get('param_groups'))
        if package_of(optimizer) in ('torch', *PACKAGES):
            check_states(name, own, state)
        if _scale_is_stuck(owner, state.get('loss_scaler') or {}):
            state = {key: value for key, value in state.items() if key != 'loss_scaler'}
            self.differences.append('the scale of the loss (checkpoint: 1.0)')
        load(state)
        differences: dict[str, str] = {}  # the first group's, by key
        for settings, group in zip(configured, owner.param_groups, strict=True):
            for key, value in settings.items():
                stored = group.get(key)
                if key in NO_SETTINGS or key in scheduled or _same(value, stored):
                    continue
                set_by_scheduler = key not in known and key.startswith(_OF_SCHEDULERS)
                if key not in known and not set_by_scheduler:
                    continue  # a state of the optimizer, as the number of its steps
                _check_needs_no_state(name, group, key, value)
                group[key] = value
                self.rates = self.rates or set_by_scheduler
                if stored is not None:
                    text = f'{name}.{key}={value} (checkpoint: {stored})'
                    differences.setdefault(key, text)
        self.differences += differences.values()


def _scale_is_stuck(owner: Any, scaler: dict) -> bool:
    """Whether a scale of the loss is that of a bfloat16 run, and the optimizer's may change.

    Float16 would need thousands of steps to raise it.
    """
    still = scaler.get('scale') == 1.0 and not scaler.get('_growth_tracker')
    return still and getattr(owner, '_scale_update_param', 1) is None


def _check_needs_no_state(name: str, group: dict, key: str, value: Any) -> None:
    """Raise `UserError` if a new setting needs a state that the loaded optimizer does not have."""
    # RMSprop, unlike SGD, has the buffer of its momentum from the first step on
    at_start = ('amsgrad', 'centered', *(['momentum'] if 'centered' in group else []))
    if key in at_start and value and not (stored := group.get(key)):
        raise UserError(
            f'{name}.{key}={value}: the checkpoint has no state for it, as the run had '
            f'{key}={stored}; set it as it was, or start from the weights alone with load_from'
        )


def _settings(owner: Any) -> list[str]:
    """Names of the settings of a scheduler or an optimizer: the arguments of its classes.

    A scheduler keeps them in attributes of the same names, an optimizer in its groups.
    """
    names = dict.fromkeys(parameter.name for parameter in _parameters(owner))
    return [name for name in names if name not in ('optimizer', 'last_step', 'verbose')]


def _parameters(owner: Any) -> Iterator[inspect.Parameter]:
    for kind in type(owner).__mro__[:-1]:
        yield from inspect.signature(kind).parameters.values()


def _optimizer_settings(optimizer: Any) -> set[str]:
    """Names of the settings of an optimizer, those included that its signature does not name."""
    names = set(_settings(optimizer))
    if any(p.kind is p.VAR_KEYWORD for p in _parameters(optimizer)):
        names |= optimizer.defaults.keys()
        if (inner := getattr(optimizer, 'optim', None)) is not None:  # of ZeroRedundancyOptimizer
            names |= {*_settings(inner), *inner.defaults}
    return names


def _scheduled(schedulers: Any) -> set[str]:
    """The keys of parameter groups that schedulers set."""
    names = {scheduler.param_name for scheduler in schedulers or ()}
    return names | ({'betas'} if 'momentum' in names else set())


def _same(configured: Any, stored: Any) -> bool:
    if isinstance(configured, (list, tuple)) and isinstance(stored, (list, tuple)):
        return len(configured) == len(stored) and all(map(_same, configured, stored))
    if isinstance(configured, (int, float)) and isinstance(stored, (int, float)):
        return math.isclose(configured, stored, rel_tol=1e-9)
    return callable(configured) or bool(configured == stored)
