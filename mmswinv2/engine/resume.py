"""Resuming by the config: its schedule and optimizer settings, where the checkpoint has others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict

from ..errors import UserError

# what a scheduler counts and computes; the rest of its attributes are settings
_STATE = (
    *('optimizer', 'base_values', 'last_step', '_global_step', '_last_value', 'verbose'),
    'load_state_dict',
)
_COMPUTED = ('params', 'param_names', 'lr', 'momentum', 'betas')  # of a group of parameters


def follow_config(runner: Any) -> None:
    """Let a resumed training go by the settings of its config, and say which are new.

    mmengine takes the schedule, the learning rate and the weight decay of the checkpoint, whatever
    the config says: a training that is made longer stays at its last learning rate. Here, where a
    setting differs, the learning rate becomes what it would be had the run had the new settings
    from its start. Optimizers of DeepSpeed keep the settings of the checkpoint, all but the
    schedule.

    Args:
        runner: one that has not loaded anything yet; its ``load_or_resume`` is replaced.
    """
    load = runner.load_or_resume

    def load_or_resume() -> None:
        changed: list[str] = []
        watched: list[Any] = []

        def watch(owner: Any, name: str, compare: Any) -> None:
            load_state = owner.load_state_dict
            watched.append(owner)
            owner.load_state_dict = lambda state: compare(owner, name, state, load_state, changed)

        for name, wrapper in _named(runner.optim_wrapper):
            watch(wrapper, f'optimizer{name}', _load_optimizer)
        for name, schedulers in _named(runner.param_schedulers):
            for i, scheduler in enumerate(schedulers):
                watch(scheduler, f'param_scheduler{name}.{i}', _load_scheduler)
        try:
            load()
        finally:
            for owner in watched:
                vars(owner).pop('load_state_dict', None)
        if changed:
            print_log(
                'this run takes from its config, and not from the checkpoint: '
                + '; '.join(changed),
                logger='current',
                level=logging.WARNING,
            )
            for _, schedulers in _named(runner.param_schedulers):
                replay(schedulers, runner)
        if runner.iter >= runner.max_iters:
            print_log(
                f'this training is finished: {runner.iter} of {runner.max_iters} iterations are '
                'done; --max-iters or --max-epochs makes it longer',
                logger='current',
                level=logging.WARNING,
            )

    runner.load_or_resume = load_or_resume


def _load_scheduler(owner: Any, name: str, state: dict, load: Any, changed: list[str]) -> None:
    mine = {k: v for k, v in vars(owner).items() if k not in _STATE}
    load({key: value for key, value in state.items() if key not in mine})
    changed += [
        f'{name}.{key}={value} (checkpoint: {state[key]})'
        for key, value in mine.items()
        if key in state and state[key] != value
    ]


def _load_optimizer(owner: Any, name: str, state: dict, load: Any, changed: list[str]) -> None:
    mine = [dict(group) for group in owner.param_groups]
    load(state)
    told = set()
    for settings, group in zip(mine, owner.param_groups, strict=True):
        for key, value in settings.items():
            theirs = group.get(key)
            if key in _COMPUTED or not isinstance(value, (int, float)) or theirs in (None, value):
                continue
            group[key] = value
            if key not in told:
                told.add(key)
                changed.append(f'{name}.{key}={value} (checkpoint: {theirs})')


def replay(schedulers: list[Any], runner: Any) -> None:
    """Put schedulers, and the values they set, where the iterations so far would have led them.

    Args:
        schedulers: of one optimizer.
        runner: with ``iter`` and ``epoch``, those done, and its ``train_loop``.

    Raises:
        UserError: if one goes by a measured value (ReduceOnPlateau).
    """
    if any(hasattr(scheduler, 'monitor') for scheduler in schedulers):
        raise UserError(
            'the config and the checkpoint differ in their schedules, and one that goes by a '
            'measured value cannot be computed anew; resume with the settings of the checkpoint, '
            'or start from its weights with load_from'
        )
    for scheduler in schedulers:
        name = scheduler.param_name
        scheduler.base_values = [g[f'initial_{name}'] for g in scheduler.optimizer.param_groups]
        for group in scheduler.optimizer.param_groups:
            group[name] = group[f'initial_{name}']
        scheduler.optimizer._global_step = 0  # or its first step warns
        scheduler.last_step = scheduler._global_step = -1
    by_iter = [s for s in schedulers if not s.by_epoch]
    by_epoch = [s for s in schedulers if s.by_epoch]
    for scheduler in schedulers:
        scheduler.step()
    length = len(runner.train_dataloader) if runner.epoch else runner.iter + 1
    for i in range(1, runner.iter + 1):
        for scheduler in by_iter:
            scheduler.step()
        if i % length == 0:
            for scheduler in by_epoch:
                scheduler.step()


def _named(found: Any) -> Iterator[tuple[str, Any]]:
    """One thing, or several by name, each with its name for a message."""
    if isinstance(found, (OptimWrapperDict, dict)):
        for name, item in found.items():
            yield f'.{name}', item
    elif found is not None:
        yield '', found
