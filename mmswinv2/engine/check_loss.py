"""Stop before a loss that is no number spoils the weights."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor

from ..errors import UserError, leaves
from ..registry import HOOKS

__all__ = ['CheckInvalidLossHook']

_PATHS = ('img_path', 'filename', 'frame_dir')  # as the hosts call them


@HOOKS.register_module()
class CheckInvalidLossHook(Hook):
    """Ends training at the first loss that is NaN or infinite, before the weights take it in.

    The tools add one to every training; put your own into ``custom_hooks`` for another `max_skips`.

    Args:
        max_skips: pass over so many such batches in a run, in every process, before giving up.
    """

    def __init__(self, max_skips: int = 0) -> None:
        if isinstance(max_skips, bool) or not isinstance(max_skips, int) or max_skips < 0:
            raise ValueError(f'max_skips must be a number of batches from 0, got {max_skips!r}')
        self.max_skips = max_skips
        self.skipped = 0

    def before_train(self, runner: Any) -> None:
        """Look at every loss on its way to the optimizer, whichever strategy it has."""
        for dataset in leaves(runner.train_dataloader.dataset):
            for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
                if hasattr(transform, 'meta_keys'):  # mmaction2's keeps no names of files
                    transform.meta_keys = tuple(dict.fromkeys((*transform.meta_keys, *_PATHS)))
        wrapper = runner.optim_wrapper
        update = wrapper.update_params

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if not self._is_bad(loss):
                update(loss, *args, **kwargs)

        wrapper.update_params = update_params

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Remember where we are."""
        self._iteration, self._batch = runner.iter + 1, data_batch

    def _is_bad(self, loss: Tensor) -> bool:
        value = loss.detach().float()
        bad = (~torch.isfinite(value)).float()
        here = bool(bad)
        if self.max_skips:
            all_reduce(bad, 'max')  # all processes pass over it, or none
        if not bool(bad):
            return False
        self.skipped += 1
        where = f'the loss is {float(value)} in iteration {self._iteration} of process {get_rank()}'
        files = f' on {_files(self._batch)}'
        if not here:
            where, files = f'the loss of another process is bad in iteration {self._iteration}', ''
        if self.skipped > self.max_skips:
            raise UserError(
                f'{where}{files}. No weight has been changed by it. To try: look at these files; '
                'clip gradients (optim_wrapper.clip_grad), warm up longer or lower the learning '
                'rate; train in float32 or bfloat16 in place of float16; then --resume. '
                "custom_hooks=[dict(type='mmswinv2.CheckInvalidLossHook', max_skips=N)] passes "
                f'over N such batches (now {self.max_skips})'
            )
        print_log(
            f'{where}{files}: batch passed over ({self.skipped} of at most {self.max_skips})',
            logger='current',
            level=logging.WARNING,
        )
        return True


def _files(batch: Any) -> str:
    """The files of a batch, as far as the pipeline has kept their names."""
    names = []
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    for sample in samples:
        meta = getattr(sample, 'metainfo', {})
        names += [str(meta[key]) for key in _PATHS if meta.get(key)][:1]
    return ', '.join(names) or 'files whose names the last transform (Pack...) has not kept'
