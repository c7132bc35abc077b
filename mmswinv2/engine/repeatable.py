"""Repeatable trainings: seeds, the rest of an epoch, gradients that wait for an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import Tensor
from torch.utils.data import IterableDataset

from ..checkpoints.load import shard_like
from ..log import warn
from ..registry import HOOKS
from .saved_states import check_shapes, leave_averages
from .schedules import named
from .seeds import seed_all, seed_samples
from .strategies import unwrap_model, waiting_gradients


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Gives every sample and every iteration a random seed of its own; the tools add it.

    A resumed run thus gives the same results as an uninterrupted one, and several processes augment
    a batch as a single process does. Samplers that know no processes are left unchanged.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._done = 0  # iterations done of the epoch to go on with
        self._begun: int | None = None  # iteration at which the epoch began
        self._gradients: dict[str, Tensor] = {}  # to save

    def before_train(self, runner: Any) -> None:
        """Seed samples, leave out what is done of an epoch, and let checkpoints have gradients."""
        self.seed = runner.seed
        loader = runner.train_loop.dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        if hasattr(sampler, 'rank') and hasattr(sampler, 'world_size'):  # mmengine's and the hosts'
            seed_samples(loader, self.seed)
        self._leave_out_done(runner, loader)
        together = False  # whether all processes save, as those of CheckpointHook do
        save = runner.save_checkpoint

        def save_checkpoint(*args: Any, **kwargs: Any) -> None:
            # In the middle of a group the gradients of DDP are averaged over all processes. A
            # custom hook may save on rank 0 alone, which would wait for the others for ever
            if _accumulated(runner) and not runner.optim_wrapper.should_update():
                gathers = get_world_size() > 1 and hasattr(runner.model, 'no_sync')
                if together or not gathers:
                    self._gradients = waiting_gradients(runner.model)
                else:
                    warn('the checkpoint of a custom hook is without accumulated gradients')
            save(*args, **kwargs)
            self._gradients = {}

        def save_together(method: Callable[..., None], *args: Any, **kwargs: Any) -> None:
            nonlocal together
            together = True
            try:
                method(*args, **kwargs)
            finally:
                together = False

        runner.save_checkpoint = save_checkpoint
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                for name in ('after_train_iter', 'after_train_epoch', 'after_val_epoch'):
                    setattr(hook, name, partial(save_together, getattr(hook, name)))

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the random numbers of the model (stochastic depth, sampled boxes)."""
        seed_all(self.seed, runner.iter, get_rank(), cuda=True)

    def _leave_out_done(self, runner: Any, loader: Any) -> None:
        """Leave out the batches that the run has done before it was interrupted.

        mmengine would load them, save those of its own sampler in its own batches. Loops of the
        user's, and data without indices, are left to it.
        """
        loop: Any = runner.train_loop
        done, self._done = self._done, 0
        by_iterations = type(loop).run is IterBasedTrainLoop.run
        if by_iterations and isinstance(loader.dataset, IterableDataset):
            return  # its batch sampler chooses no samples
        if by_iterations and not getattr(loop, 'fast_forward_on_resume', False):
            done = loop.iter
        if not done or getattr(loader, 'batch_sampler', None) is None:
            return
        batches = _RemainingBatches(loader.batch_sampler, done)
        if by_iterations:
            batches.loop = loop.dataloader_iterator
            loop.dataloader_iterator = _AdvancedIterator(loop.dataloader_iterator, done)
        else:
            self._begun = runner.iter - done
            print_log(
                f'{done} of {len(loader)} iterations of the epoch were done before', 'current'
            )
        # DataLoader.__setattr__ refuses to set batch_sampler
        object.__setattr__(loader, 'batch_sampler', batches)

    def before_train_epoch(self, runner: Any) -> None:
        """Note where the epoch begins."""
        if self._begun is None and isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._begun = runner.iter

    def after_train_epoch(self, runner: Any) -> None:
        """Forget where the epoch began."""
        self._begun = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the batch size, how much of an epoch is done, and gradients that wait for an update.

        Functions are removed, which safe unpickling rejects.
        """
        meta = checkpoint.setdefault('meta', {})
        meta['batch_size'] = _batch_size(runner)
        if 'optimizer' in checkpoint and (count := _accumulated(runner)):
            checkpoint['accumulated'] = (count, meta['iter'], self._gradients)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            inside = self._begun is not None and meta.get('epoch') == runner.epoch
            done = meta['iter'] - self._begun if inside else 0
            meta['done_of_epoch'] = (done, len(runner.train_dataloader))
        for _, states in named(checkpoint.get('param_schedulers')):
            for state in states:
                for key in [key for key, value in state.items() if callable(value)]:
                    del state[key]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Warn if the total batch size of a resumed run has changed.

        Raises:
            UserError: if a resumed run has parameters of other shapes than the checkpoint.
        """
        runner.saved_schedulers = checkpoint.get('param_schedulers')
        if runner.saved_schedulers is None and (mine := runner.param_schedulers):
            # strategies take it for granted that the checkpoint has some
            none: Any = {name: [] for name in mine} if isinstance(mine, dict) else []
            checkpoint['param_schedulers'] = none
        if not runner._resume:
            return
        if not any(hasattr(hook, 'ema_model') for hook in runner.hooks):
            leave_averages(checkpoint)
        check_shapes(unwrap_model(runner.model), checkpoint.get('state_dict') or {})
        meta = checkpoint.get('meta') or {}
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._count_iterations(checkpoint, len(runner.train_dataloader))
        accumulated: Any = checkpoint.get('accumulated') or (0, 0, {})
        count, place, gradients = accumulated
        # those of AmpOptimWrapper are scaled, and no other wrapper divides them
        scaled = 'loss_scaler' in (checkpoint.get('optimizer') or {})
        fit = scaled == hasattr(runner.optim_wrapper, 'loss_scaler')
        if gradients and fit and (count, place) == (_accumulated(runner), meta['iter']):
            for name, parameter in unwrap_model(runner.model).named_parameters():
                if name in gradients:
                    parameter.grad = shard_like(gradients[name].to(parameter.device), parameter)
            print_log('accumulated gradients are resumed too, in spite of the warning', 'current')
        before, now = meta.get('batch_size'), _batch_size(runner)
        if before not in (None, now):
            warn(
                f'the batch size was {before} and is {now} now: this run goes on with other '
                'samples than an uninterrupted one, at the learning rate of the config'
            )

    def _count_iterations(self, checkpoint: dict, length: int) -> None:
        """Count the iterations of a checkpoint in epochs of the present `length`.

        The last update of accumulated gradients and the log go by their number. A checkpoint of a
        training by iterations, which knows no epochs, keeps its own.
        """
        meta = checkpoint['meta']
        known = meta.get('done_of_epoch')
        done, before = known or _done_of_epoch(checkpoint, length)
        if done == before:
            done = length
        elif done and before != length:
            warn(
                f'the checkpoint was written {done} iterations into an epoch of {before}; epochs '
                f'have {length} now, and this one starts anew'
            )
            done = 0
        self._done = done
        # batch samplers may say one batch more than they give, and the number is right then
        if before != length or (not known and meta['epoch']):
            meta['iter'] = meta['epoch'] * length + done


class _RemainingBatches:
    """A batch sampler without the first batches, which were used before.

    Attributes:
        loop: the iterator of a training by iterations, which counts the passes over the data.
    """

    loop: Any = None

    def __init__(self, batches: Any, done: int) -> None:
        self.batches, self.done = batches, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        # a data loader with workers makes an iterator that it does not use
        batches = iter(self.batches)
        done, self.done = self.done, 0
        for _ in range(done):
            if next(batches, None) is None and self.loop is not None:
                self.loop._epoch += 1
                if hasattr(self.batches.sampler, 'set_epoch'):
                    self.batches.sampler.set_epoch(self.loop._epoch)
                batches = iter(self.batches)
                next(batches, None)
        yield from batches


class _AdvancedIterator:
    """The iterator of a loop whose data loader has left out what the loop would skip."""

    def __init__(self, batches: Any, done: int) -> None:
        self.batches, self.done = batches, done

    def __next__(self) -> Any:
        if self.done:  # mmengine before 0.10.8 takes so many batches
            self.done -= 1
            return None
        return next(self.batches)

    def skip_iter(self, num_iters: int) -> None:
        """Skip nothing, as mmengine does from 0.10.8 on."""
        self.done = 0


def _done_of_epoch(checkpoint: dict, length: int) -> tuple[int, int]:
    """Iterations done of an epoch, and its length, from a checkpoint of mmengine alone.

    Known only if it was written inside of the epoch, and epochs had the present `length`.
    """
    meta, hub = checkpoint['meta'], checkpoint.get('message_hub') or {}
    info = hub.get('runtime_info') or {}
    inside = info.get('epoch') == meta['epoch']
    if not inside or info.get('max_iters') != length * (info.get('max_epochs') or 0):
        return 0, length
    done = meta['iter'] - meta['epoch'] * length
    return (done if 0 < done <= length else 0), length


def _accumulated(runner: Any) -> int:
    """Batches whose gradients are accumulated; 0 if none."""
    count = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    return int(count) if count > 1 else 0


def _batch_size(runner: Any) -> int:
    """Samples per iteration, over all processes."""
    sampler = runner.train_dataloader.batch_sampler
    return int(getattr(sampler, 'batch_size', None) or 0) * runner.world_size
