"""Hooks: checks of losses, weights to start from, checkpoints of adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .. import hosts
from ..checkpoints import fetch_together, load_whole_model, read_class_map
from ..checkpoints.adapters import copy_base, leave_out_base
from ..checks import is_count, want
from ..errors import UserError
from ..hosts.host import FILE_KEYS
from ..log import warn
from ..registry import HOOKS
from .start import is_diverged
from .strategies import average_gradients, unwrap_model, whole_weights

_ADVICE = (
    'No checkpoint holds it. To try: look at these files; clip gradients '
    '(optim_wrapper.clip_grad), warm up longer or lower the learning rate; train in float32 or '
    'bfloat16 in place of float16; then --resume'
)


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Ends training at the first loss that is NaN or infinite, before a checkpoint can hold it.

    Weights that an update has made so are not saved either: their gradients may be NaN though the
    loss is finite. The tools add this hook to every training; to set `max_skips`, add it to
    ``custom_hooks``.

    Args:
        max_skips: number of bad batches per run to skip, in all processes, before the run ends.
            They change neither weights nor running statistics; in a group of accumulated batches
            such a batch counts as one without gradients. If above 0, the loss is checked
            before every backward pass, which synchronizes with the GPU.
    """

    priority = 'VERY_HIGH'

    def __init__(self, max_skips: int = 0) -> None:
        want('max_skips', max_skips, 'a number of batches from 0', is_count(max_skips, 0))
        self.max_skips = max_skips
        self.skipped = 0

    def before_train(self, runner: Any) -> None:
        """Keep file names for messages; with `max_skips`, check losses before each update."""
        for dataset in hosts.inner_datasets(runner.train_dataloader.dataset):
            hosts.of(runner.cfg).keep_file_names(dataset)
        if self.max_skips:
            self._look_before_updates(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Store iteration and batch, and with `max_skips` the buffers a bad batch may spoil."""
        self._iteration, self._batch = runner.iter + 1, data_batch
        if self.max_skips:
            buffers = [b for b in unwrap_model(runner.model).buffers() if b.is_floating_point()]
            self._buffers = [(buffer, buffer.clone()) for buffer in buffers]

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Raise `UserError` if a loss is NaN or infinite and `max_skips` is 0."""
        if self.max_skips:
            return
        for name, value in reversed((outputs or {}).items()):  # the sum is first: name a part
            number = float(torch.as_tensor(value).detach()) if 'loss' in name else 0.0
            if not math.isfinite(number):
                raise self._bad_loss(self._where(name, number))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Raise `UserError` if a weight is NaN or infinite."""
        # buffers may be infinite, such as a mask
        buffers = {name for name, _ in unwrap_model(runner.model).named_buffers()}
        for key, value in checkpoint.get('state_dict', {}).items():
            if is_diverged(value) and (key not in buffers or value.isnan().any()):
                bad = float(value[~value.isfinite()][0])
                raise UserError(f'{self._where(key, bad)}, though the loss is finite. {_ADVICE}')

    def _look_before_updates(self, runner: Any) -> None:
        """Let updates leave out batches with a bad loss."""
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            raise UserError(
                'CheckInvalidLossHook: max_skips is for models with one optimizer, and this one '
                'has several; leave it out to stop at the first bad loss'
            )
        update = wrapper.update_params

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if not self._is_bad(loss):
                update(loss, *args, **kwargs)
                return
            if hasattr(wrapper, '_inner_count'):  # a batch of its group that adds no gradients
                wrapper._inner_count += 1
                if not wrapper.should_update():
                    return
                if isinstance(runner.model, DistributedDataParallel):
                    # Else the reducer waits for the backward pass that is left out. Not before the
                    # update: it records which parameters earlier batches of the group have used
                    runner.model.reducer._reset_state()
                groups = wrapper.param_groups
                if any(p.grad is not None for group in groups for p in group['params']):
                    average_gradients(runner.model)
                    wrapper.step()
                    wrapper.zero_grad()

        wrapper.update_params = update_params

    def _is_bad(self, loss: Tensor) -> bool:
        """Whether a loss is bad in any process; then buffers are restored and the batch counts."""
        bad = (~torch.isfinite(loss.detach())).float()
        anywhere = bad.clone()
        all_reduce(anywhere, 'max')  # all processes skip the batch, or none
        if not bool(anywhere):
            return False
        for buffer, before in self._buffers:
            buffer.copy_(before)
        self.skipped += 1
        where = f'the loss of another process is bad in iteration {self._iteration}'
        if bool(bad):
            where = self._where('loss', float(loss.detach()))
        if self.skipped > self.max_skips:
            raise self._bad_loss(where)
        warn(f'{where}: batch passed over ({self.skipped} of at most {self.max_skips})')
        return True

    def _where(self, name: str, value: float) -> str:
        return (
            f'{name} is {value} in iteration {self._iteration} of process {get_rank()} on '
            f'{_files(self._batch)}'
        )

    def _bad_loss(self, where: str) -> UserError:
        return UserError(
            f"{where}. {_ADVICE}. custom_hooks=[dict(type='mmswinv2.CheckInvalidLossHook', "
            f'max_skips=N)] passes over N such batches (now {self.max_skips})'
        )


def _files(batch: Any) -> str:
    """The files of a batch, as far as the pipeline has kept their names."""
    names = []
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    for sample in samples:
        meta = getattr(sample, 'metainfo', {})
        names += [str(meta[key]) for key in FILE_KEYS if meta.get(key)][:1]
    return ', '.join(names) or 'files whose names the last transform (Pack...) has not kept'


@HOOKS.register_module()
class LoadCheckpointHook(Hook):
    """Starts training from the checkpoint of an earlier stage, except for the parts that are new.

    mmengine's ``load_from`` skips whatever does not fit. This hook requires every parameter that is
    not named in `new`, and logs a report. It does nothing in a resumed run.

    Args:
        checkpoint: file or address of the earlier stage.
        new: parts of names of the parameters that keep their initialization.
        class_map: a file with one line for each class of the classifier: the number of the class
            in the checkpoint, whose row of the head is loaded.
    """

    def __init__(
        self, checkpoint: str, new: Sequence[str] = (), class_map: str | None = None
    ) -> None:
        self.checkpoint, self.new, self.class_map = checkpoint, new, class_map
        self._resumed = False

    def before_run(self, runner: Any) -> None:
        """Raise `UserError` if ``load_from`` is set too."""
        trains = isinstance(runner._train_loop, BaseLoop)
        if trains and runner._load_from is not None and not runner._resume:
            raise UserError(
                f'load_from={runner._load_from} and LoadCheckpointHook (custom_hooks) both give '
                f'the weights to start from; take one of them out'
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Note that the run goes on; see `before_run`, which FlexibleRunner calls after this."""
        self.before_run(runner)
        self._resumed = runner._resume

    def before_train(self, runner: Any) -> None:
        """Load, unless the run goes on from one of its own checkpoints."""
        if self._resumed or runner.iter > 0:
            return
        class_map = None if self.class_map is None else read_class_map(self.class_map)
        path = fetch_together(self.checkpoint)
        with whole_weights(runner.model) as model:
            report = load_whole_model(model, path, self.new, class_map)
        print_log(str(report), logger='current')


@HOOKS.register_module()
class LoRAHook(Hook):
    """Leaves the frozen weights of a backbone with adapters out of checkpoints; the tools add it.

    When the checkpoint is loaded, they are read again from the file that ``init_cfg`` names.
    Trained weights are saved: adapters, norms, neck and heads.
    """

    priority = 'LOWEST'  # after EMAHook, which changes what is saved

    def __init__(self) -> None:
        self._logged: list[str] = []

    def before_train(self, runner: Any) -> None:
        """Copy the frozen weights to EMAHook's model, a copy made before they were loaded."""
        model = unwrap_model(runner.model)
        for hook in runner.hooks:
            if (average := getattr(hook, 'ema_model', None)) is not None:
                copy_base(model, average.module)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Remove the frozen weights from the checkpoint, and log this once."""
        sentences = leave_out_base(unwrap_model(runner.model), checkpoint)
        if sentences != self._logged:
            self._logged = sentences
            print_log('LoRA: ' + '; '.join(sentences), logger='current')
