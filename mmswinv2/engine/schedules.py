"""The schedulers of a runner: all of them, and set to where a training has got."""

from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop

from ..errors import UserError


def check_steps(scheduler: Any, runner: Any) -> None:
    """Raise `UserError` if OneCycleLR is shorter than the training, which it would end in mid-run.

    Its last step may be one more than ``total_steps``.
    """
    total = getattr(scheduler, 'total_steps', None)
    unit = 'epochs' if scheduler.by_epoch else 'iterations'
    length = runner.max_epochs if scheduler.by_epoch else runner.max_iters
    if total is not None and min(length, scheduler.end - 1) - scheduler.begin > total:
        raise UserError(
            f'total_steps={total} of {type(scheduler).__name__} is less than the {length} {unit} '
            f'of the training; set it to {length}, or set end of the scheduler'
        )


def replay(schedulers: list[Any], runner: Any) -> None:
    """Set schedulers, and the values they control, to the state after the iterations so far.

    Args:
        schedulers: of one optimizer.
        runner: with ``iter`` and ``epoch``, the numbers done.

    Raises:
        UserError: if a scheduler depends on a measured value (ReduceOnPlateau).
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
    steps, epochs = runner.iter, runner.epoch
    for scheduler in schedulers:
        scheduler.step()
    done = 0
    for i in range(1, steps + 1):
        _step(s for s in schedulers if not s.by_epoch)
        while done < epochs and (done + 1) * steps <= i * epochs:
            _step(s for s in schedulers if s.by_epoch)
            done += 1


def _step(schedulers: Iterator[Any]) -> None:
    for scheduler in schedulers:
        if scheduler._global_step + 1 < scheduler.end:
            scheduler.step()
        else:
            scheduler._global_step += 1  # after its end it only counts


def progress(runner: Any) -> tuple[str, int, int]:
    """What a training is counted in (``epoch`` or ``iter``), how many are done, and of how many."""
    loop = runner.train_loop
    if isinstance(loop, EpochBasedTrainLoop):
        return 'epoch', loop.epoch, loop.max_epochs
    return 'iter', loop.iter, loop.max_iters


def all_schedulers(runner: Any) -> list[Any]:
    """The schedulers of a runner, of all its optimizers."""
    return [scheduler for _, those in named(runner.param_schedulers) for scheduler in those]


def named(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield one object, or each object of a dict, with a name for messages."""
    if isinstance(found, (OptimWrapperDict, dict)):
        for name, item in found.items():
            yield f'.{name}', item
    elif found is not None:
        yield '', found
