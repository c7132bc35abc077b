"""DeepSpeed's ZeRO for recipes as they are written."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmengine._strategy import DeepSpeedStrategy as _DeepSpeedStrategy
from mmengine.config import ConfigDict
from mmengine.dist import barrier, is_main_process
from mmengine.optim import BaseOptimWrapper
from mmengine.runner.checkpoint import _load_checkpoint, load_state_dict
from torch import nn

from ..checkpoints.files import HALF_WRITTEN, check_deepspeed_folder, is_deepspeed_folder
from ..errors import UserError
from ..registry import STRATEGIES
from .storage import AtomicLocalBackend
from .weights import REVISE_KEYS, revised, whole_weights

__all__ = ['DeepSpeedStrategy']

# what an optim_wrapper may have besides the optimizer and what is translated
_KNOWN = {'optimizer', 'constructor', 'paramwise_cfg'}


def find_ninja() -> None:
    """Let DeepSpeed find ninja, which compiles its operators, in an environment not activated."""
    if shutil.which('ninja') is None:
        beside = str(Path(sys.executable).parent)  # where pip puts it
        os.environ['PATH'] = os.pathsep.join([beside, os.environ.get('PATH', os.defpath)])


@STRATEGIES.register_module()
class DeepSpeedStrategy(_DeepSpeedStrategy):
    """mmengine's DeepSpeedStrategy, with four differences.

    - An ``optim_wrapper`` of type OptimWrapper or AmpOptimWrapper is translated into DeepSpeed's
      sections, so that one recipe serves every strategy: ``clip_grad`` to ``gradient_clipping``,
      ``accumulative_counts`` to ``gradient_accumulation_steps``, and AmpOptimWrapper in bfloat16
      to ``torch_autocast`` (weights stay float32; boxes do not survive half precision).
    - ``auto_scale_lr`` is heeded.
    - ``load_from`` takes any checkpoint of the model, whichever strategy wrote it.
    - A checkpoint (a folder) appears whole or not at all.

    Args:
        **kwargs: of mmengine's; DeepSpeed's sections (``zero_optimization=dict(stage=1)``, ...).
    """

    def __init__(self, **kwargs: Any) -> None:
        if importlib.util.find_spec('deepspeed') is None:
            raise UserError('the strategy needs DeepSpeed: pip install deepspeed')
        find_ninja()
        # plain, as DeepSpeed writes its sections into checkpoints, which are to hold no other types
        super().__init__(**ConfigDict(kwargs).to_dict())
        self.config.setdefault('zero_allow_untested_optimizer', True)

    def prepare(self, model: nn.Module | dict, **kwargs: Any) -> Any:
        """Build the model, optimizer and schedulers, and wrap them."""
        if isinstance(optim_wrapper := kwargs.get('optim_wrapper'), dict):
            kwargs['optim_wrapper'] = self._translated(dict(optim_wrapper))
        batch_size = (kwargs.get('dispatch_kwargs') or {}).get('train_micro_batch_size_per_gpu', 1)
        self.config['train_micro_batch_size_per_gpu'] = batch_size
        return super().prepare(model, **kwargs)

    def build_optim_wrapper(self, *args: Any, **kwargs: Any) -> BaseOptimWrapper:
        """Build it, and scale its learning rates if asked to."""
        self.optim_wrapper = super().build_optim_wrapper(*args, **kwargs)
        self._scale_lr()
        return self.optim_wrapper

    def load_checkpoint(
        self,
        filename: str,
        *,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: Sequence[tuple[str, str]] = REVISE_KEYS,
        callback: Callable[[dict], Any] | None = None,
    ) -> dict:
        """Load weights, of any strategy; see mmengine's."""
        self.logger.info(f'Load checkpoint from {filename}')
        checkpoint = _load_checkpoint(filename, map_location='cpu')
        if callback is not None:
            callback(checkpoint)
        state = revised(checkpoint.pop('state_dict', checkpoint), revise_keys)
        with whole_weights(self.model) as module:
            load_state_dict(module, state, strict, self.logger)
        return checkpoint

    def resume(self, filename: str, **kwargs: Any) -> dict:
        """Go on from a folder that as many processes wrote; see mmengine's."""
        if not is_deepspeed_folder(filename):
            raise UserError(
                f'{filename} was not written by DeepSpeed, and has no state of its optimizer to '
                'resume from; take the weights alone with --cfg-options load_from=..., or resume '
                'with the strategy that wrote it'
            )
        check_deepspeed_folder(Path(filename))
        return super().resume(filename, **kwargs)

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Write a folder beside `filename`, and move it there when all processes are done."""
        if not kwargs.get('save_optimizer', True):
            super().save_checkpoint(filename, **kwargs)
            return
        path = Path(filename)
        part = path.with_name(f'.{path.name}{HALF_WRITTEN}')
        if is_main_process():
            shutil.rmtree(part, ignore_errors=True)
        barrier()
        super().save_checkpoint(str(part), **kwargs)
        barrier()
        if is_main_process():
            if path.exists():
                outdated = path.with_name(f'.{path.name}{HALF_WRITTEN}old')
                os.replace(path, outdated)
                os.replace(part, path)
                shutil.rmtree(outdated)
            else:
                os.replace(part, path)
            AtomicLocalBackend.remove_outdated(but=path)
        barrier()

    def _translated(self, cfg: dict) -> dict:
        """An optim_wrapper for DeepSpeed; what else it says goes into `config`."""
        kind = cfg.pop('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'DeepSpeedOptimWrapper'):
            raise UserError(
                f'optim_wrapper of type {kind} has no counterpart in DeepSpeed; it may be '
                'OptimWrapper or AmpOptimWrapper'
            )
        if kind == 'AmpOptimWrapper':
            cfg.pop('loss_scale', None)  # bfloat16 needs none
            if (dtype := cfg.pop('dtype', None)) != 'bfloat16':
                raise UserError(
                    f'AmpOptimWrapper with dtype={dtype or "float16"}: under autocast in float16 '
                    'DeepSpeed clips gradients that are still scaled and never lowers the scale; '
                    'set optim_wrapper.dtype=bfloat16'
                )
            self.config.setdefault('torch_autocast', {'enabled': True, 'dtype': dtype})
        if clip := cfg.pop('clip_grad', None):
            if clip.get('norm_type', 2) != 2 or set(clip) - {'max_norm', 'norm_type'}:
                raise UserError(
                    f'clip_grad={dict(clip)}: DeepSpeed clips by the 2-norm; set max_norm alone'
                )
            self.config['gradient_clipping'] = clip['max_norm']
        if (count := cfg.pop('accumulative_counts', 1)) != 1:
            self.config['gradient_accumulation_steps'] = count
        if unknown := sorted(set(cfg) - _KNOWN):
            raise UserError(f'optim_wrapper has {unknown}, which DeepSpeed has no counterpart of')
        return {'type': 'DeepSpeedOptimWrapper', **cfg}
