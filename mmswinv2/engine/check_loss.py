"""Stop at a loss that is no number."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from torch import Tensor

from ..errors import UserError, leaves
from ..registry import HOOKS
from .weights import bare

__all__ = ['CheckInvalidLossHook']

_PATHS = ('img_path', 'filename', 'frame_dir')  # as the hosts call them


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Ends training at the first loss that is NaN or infinite, before a checkpoint can hold it.

    The tools add one to every training; put your own into ``custom_hooks`` for another `max_skips`.

    Args:
        max_skips: pass over so many such batches in a run, in every process, before giving up.
            They change no weight and no statistics. The loss is then looked at before every
            backward pass, which a GPU has to be waited for.
    """

    def __init__(self, max_skips: int = 0) -> None:
        if isinstance(max_skips, bool) or not isinstance(max_skips, int) or max_skips < 0:
            raise ValueError(f'max_skips must be a number of batches from 0, got {max_skips!r}')
        self.max_skips = max_skips
        self.skipped = 0

    def before_train(self, runner: Any) -> None:
        """Have the files of batches named; look at losses on their way to the optimizer."""
        for dataset in leaves(runner.train_dataloader.dataset):
            for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
                if type(transform).__name__ == 'PackActionInputs':  # keeps no names by itself
                    transform.meta_keys = tuple(dict.fromkeys((*transform.meta_keys, *_PATHS)))
        if self.max_skips:
            self._look_before_updates(runner.optim_wrapper)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Remember where we are, and what a bad batch may spoil in its forward pass."""
        self._iteration, self._batch = runner.iter + 1, data_batch
        if self.max_skips:
            buffers = [b for b in bare(runner.model).buffers() if b.is_floating_point()]
            self._buffers = [(buffer, buffer.clone()) for buffer in buffers]

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop if a loss is no number and was not passed over."""
        if self.max_skips:
            return
        for name, value in reversed((outputs or {}).items()):  # the sum comes first
            number = float(torch.as_tensor(value).detach()) if 'loss' in name else 0.0
            if not math.isfinite(number):
                raise UserError(self._advice(self._where(name, number)))

    def _look_before_updates(self, wrapper: Any) -> None:
        if isinstance(wrapper, OptimWrapperDict):
            raise UserError(
                'CheckInvalidLossHook: max_skips is for models with one optimizer, and this one '
                'has several; leave it out to stop at the first bad loss'
            )
        update = wrapper.update_params

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if not self._is_bad(loss):
                update(loss, *args, **kwargs)

        wrapper.update_params = update_params

    def _is_bad(self, loss: Tensor) -> bool:
        bad = (~torch.isfinite(loss.detach())).float()
        anywhere = bad.clone()
        all_reduce(anywhere, 'max')  # all processes pass over it, or none
        if not bool(anywhere):
            return False
        for buffer, before in self._buffers:
            buffer.copy_(before)
        self.skipped += 1
        where = f'the loss of another process is bad in iteration {self._iteration}'
        if bool(bad):
            where = self._where('loss', float(loss.detach()))
        if self.skipped > self.max_skips:
            raise UserError(self._advice(where))
        print_log(
            f'{where}: batch passed over ({self.skipped} of at most {self.max_skips})',
            logger='current',
            level=logging.WARNING,
        )
        return True

    def _where(self, name: str, value: float) -> str:
        return (
            f'{name} is {value} in iteration {self._iteration} of process {get_rank()} on '
            f'{_files(self._batch)}'
        )

    def _advice(self, where: str) -> str:
        return (
            f'{where}. No checkpoint holds it. To try: look at these files; clip gradients '
            '(optim_wrapper.clip_grad), warm up longer or lower the learning rate; train in '
            'float32 or bfloat16 in place of float16; then --resume. '
            "custom_hooks=[dict(type='mmswinv2.CheckInvalidLossHook', max_skips=N)] passes over "
            f'N such batches (now {self.max_skips})'
        )


def _files(batch: Any) -> str:
    """The files of a batch, as far as the pipeline has kept their names."""
    names = []
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    for sample in samples:
        meta = getattr(sample, 'metainfo', {})
        names += [str(meta[key]) for key in _PATHS if meta.get(key)][:1]
    return ', '.join(names) or 'files whose names the last transform (Pack...) has not kept'
