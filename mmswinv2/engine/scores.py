"""Resuming a training with the scores of all its validations."""

from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from ..registry import HOOKS
from .schedules import all_schedulers, progress


@HOOKS.register_module()
class ScoresHook(Hook):
    """Does the validation that follows the checkpoint of a resumed run; the tools add it.

    mmengine writes a checkpoint before the validation of its epoch, so that ``save_best``,
    `ReduceOnPlateauLR` and `EarlyStoppingHook` would miss these scores. Nothing is done where no
    part of the training goes by scores. `EarlyStoppingHook` continues with its patience.
    """

    priority = 'LOWEST'  # the validation needs what the other hooks prepare

    def __init__(self) -> None:
        self._lacks_scores = False  # whether a validation may follow the checkpoint

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save whether a validation may follow, and the state of `EarlyStoppingHook`."""
        meta = checkpoint.setdefault('meta', {})
        unit, done, _ = progress(runner)
        meta['lacks_scores'] = meta[unit] > done
        meta['early_stops'] = {
            name: (hook.wait_count, float(hook.best_score)) for name, hook in _stops(runner).items()
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Read what `before_save_checkpoint` has saved."""
        if not runner._resume:
            return
        meta = checkpoint.get('meta') or {}
        self._lacks_scores = meta.get('lacks_scores', False)
        saved = meta.get('early_stops') or {}
        for name, hook in _stops(runner).items():
            if name in saved:
                hook.wait_count, hook.best_score = saved[name]

    def before_train(self, runner: Any) -> None:
        """Validate, before the loop asks whether to stop."""
        # CheckpointHook saves the best epoch once more, with the state of EarlyStoppingHook
        stops = list(_stops(runner).values())
        others = [hook for hook in runner.hooks if hook not in stops]
        kinds = [isinstance(hook, CheckpointHook) for hook in others]
        place = kinds.index(True) if True in kinds else len(others)
        runner._hooks = [*others[:place], *stops, *others[place:]]
        if self._lacks_scores and _uses_scores(runner) and _is_to_validate(runner):
            print_log('validation of the checkpoint, which has no scores of its own', 'current')
            runner.val_loop.run()


def _stops(runner: Any) -> dict[str, EarlyStoppingHook]:
    """The hooks that stop a training, by the score and the rule that they go by."""
    stops = [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
    return {f'{hook.monitor} {hook.rule}': hook for hook in stops}


def _uses_scores(runner: Any) -> bool:
    parts = [*all_schedulers(runner), *runner.hooks]
    return any(getattr(p, 'monitor', None) or getattr(p, 'save_best', None) for p in parts)


def _is_to_validate(runner: Any) -> bool:
    """Whether a validation follows the epochs or iterations done so far."""
    loop, (_, done, length) = runner.train_loop, progress(runner)
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    loop._decide_current_val_interval()
    return bool(done >= loop.val_begin and (done % loop.val_interval == 0 or done == length))
