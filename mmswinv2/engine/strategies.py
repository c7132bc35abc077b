"""Ways to spread a training over processes: DDP, torch's FSDP, DeepSpeed's ZeRO."""

import glob
import itertools
import os
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine._strategy import DDPStrategy as _DDPStrategy
from mmengine._strategy import DeepSpeedStrategy as _DeepSpeedStrategy
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.model import is_model_wrapper
from mmengine.optim import BaseOptimWrapper
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model, weights_to_cpu
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from .. import hosts
from ..checkpoints.files import check_deepspeed_folder, is_deepspeed_folder
from ..checkpoints.load import shard_like, unshard
from ..core.block import Block
from ..errors import UserError, needed
from ..files import HALF_WRITTEN
from ..hosts.mmengine_checkpoints import without_config
from ..log import warn
from ..registry import STRATEGIES
from .storage import AtomicLocalBackend

# keys of an optim_wrapper that DeepSpeedStrategy accepts without translating them
_DEEPSPEED_KEYS = {'optimizer', 'constructor', 'paramwise_cfg'}


def ddp_wrapper(find_unused_parameters: bool) -> dict[str, Any]:
    """The config of torch's DistributedDataParallel, as mmengine sets it, also on CPUs."""
    devices = {} if torch.cuda.is_available() else {'device_ids': None}
    return dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=find_unused_parameters,
        **devices,
    )


@STRATEGIES.register_module()
class DDPStrategy(_DDPStrategy):
    """mmengine's DDPStrategy, also on CPUs, with checkpoints that any program can read.

    mmengine's strategy saves every key with the prefix ``module.``.

    Args:
        find_unused_parameters: see `torch.nn.parallel.DistributedDataParallel`.
        **kwargs: of mmengine's DDPStrategy.
    """

    model_wrapper: dict[str, Any] | None

    def __init__(self, *, find_unused_parameters: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_wrapper = {**ddp_wrapper(find_unused_parameters), **(self.model_wrapper or {})}

    def model_state_dict(self) -> dict[str, Any]:
        """The weights, under the names of the unwrapped model."""
        return weights_to_cpu(unwrap_model(self.model).state_dict())


@STRATEGIES.register_module()
class FSDPStrategy(DDPStrategy):
    """Each process keeps its part of every parameter, gradient and state of the optimizer.

    Each block of the backbone is gathered separately, and the rest of the model together.
    Checkpoints are plain files, as without a strategy, which each strategy can load. mmengine's
    FSDPStrategy needs a GPU and torch's older implementation.

    Args:
        reshard_after_forward: free the gathered parameters of a block after its forward pass
            (as ZeRO stage 3); if ``False``, only after its backward pass (as stage 2).
        **kwargs: of mmengine's DDPStrategy.
    """

    def __init__(self, *, reshard_after_forward: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reshard_after_forward = reshard_after_forward

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        model = self.convert_model(model.to(get_device()))
        mesh = init_device_mesh(torch.device(get_device()).type, (get_world_size(),))
        for module in [*(m for m in model.modules() if isinstance(m, Block)), model]:
            fully_shard(module, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        return model

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Gather everything and let the first process write it; see mmengine's."""
        own: Any = self.model.state_dict()
        self._whole = (
            OrderedDict((key, unshard(value, is_main_process())) for key, value in own.items()),
            _map_state(
                super().optim_state_dict(), lambda value, _: unshard(value, is_main_process())
            ),
        )
        self._whole[0]._metadata = own._metadata  # type: ignore[attr-defined]  # layers' versions
        super().save_checkpoint(filename, **kwargs)
        del self._whole

    def model_state_dict(self) -> dict:
        """The unsharded weights."""
        return self._whole[0]

    def optim_state_dict(self) -> dict:
        """The unsharded state of the optimizer, numbered as without a strategy."""
        return self._whole[1]

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load an unsharded state of the optimizer."""
        groups = self.optim_wrapper.optimizer.param_groups
        parameters = [p for group in groups for p in group['params']]
        state = _map_state(state_dict, lambda value, number: shard_like(value, parameters[number]))
        self.optim_wrapper.load_state_dict(state)


def _map_state(state_dict: dict, function: Any) -> dict:
    """Apply ``function(tensor, number of its parameter)`` to the state of an optimizer."""
    state = {
        number: {
            key: function(value, number) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for number, values in state_dict['state'].items()
    }
    return {**state_dict, 'state': state}


def find_ninja() -> None:
    """Add ninja, with which DeepSpeed compiles, to ``PATH`` if the environment is not activated."""
    if shutil.which('ninja') is None:
        beside = str(Path(sys.executable).parent)  # where pip puts it
        os.environ['PATH'] = os.pathsep.join([beside, os.environ.get('PATH', os.defpath)])


@STRATEGIES.register_module()
class DeepSpeedStrategy(_DeepSpeedStrategy):
    """mmengine's DeepSpeedStrategy, with these differences.

    - An ``optim_wrapper`` of type OptimWrapper or AmpOptimWrapper is translated into DeepSpeed's
      sections, so that one recipe serves every strategy: ``clip_grad`` to ``gradient_clipping``,
      ``accumulative_counts`` to ``gradient_accumulation_steps``, and AmpOptimWrapper in bfloat16
      to ``torch_autocast`` (weights stay float32, as boxes need more than half precision).
    - ``auto_scale_lr`` is applied.
    - ``load_from`` takes any checkpoint of the model, whichever strategy wrote it.
    - A checkpoint (a folder) is written atomically, and hooks see it, without its weights.

    Args:
        **kwargs: of mmengine's strategy, with DeepSpeed's sections
            (``zero_optimization=dict(stage=1)``, ...).
    """

    def __init__(self, **kwargs: Any) -> None:
        find_ninja()
        needed('deepspeed', 'the strategy')
        # plain dicts, as DeepSpeed saves them in checkpoints, which may not hold other types
        super().__init__(**ConfigDict(kwargs).to_dict())
        self.config.setdefault('zero_allow_untested_optimizer', True)

    def prepare(self, model: nn.Module | dict, **kwargs: Any) -> Any:
        """Build the model, optimizer and schedulers, and wrap them."""
        if isinstance(optim_wrapper := kwargs.get('optim_wrapper'), dict):
            kwargs['optim_wrapper'] = self._translated(dict(optim_wrapper))
        given = kwargs.get('dispatch_kwargs') or {}
        size = 'train_micro_batch_size_per_gpu'
        self.config[size] = given.get(size, 1)
        self._warn_of_rest(given.get('max_iters') or 0, 'the training has {}')
        return super().prepare(model, **kwargs)

    def _warn_of_rest(self, iterations: int, where: str) -> None:
        """Warn of iterations after the last update, whose gradients DeepSpeed does not use."""
        count = self.config.get('gradient_accumulation_steps', 1)
        if isinstance(count, int) and (rest := iterations % count):
            warn(
                f'{where.format(f"{iterations} iterations")}, and DeepSpeed updates the weights '
                f'every {count} (accumulative_counts): the gradients of the last {rest} are lost'
            )

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
        revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
        callback: Callable[[dict], Any] | None = None,
    ) -> dict:
        """Load weights, of any strategy; see mmengine's."""
        self.logger.info(f'Load checkpoint from {filename}')
        checkpoint = _load_checkpoint(filename, map_location='cpu')
        if callback is not None:
            callback(checkpoint)
        state = checkpoint.pop('state_dict', checkpoint)
        with whole_weights(self.model) as module:
            _load_checkpoint_to_model(module, state, strict, self.logger, revise_keys)
        return checkpoint

    def resume(self, filename: str, **kwargs: Any) -> dict:
        """Resume from a folder that the same number of processes wrote; see mmengine's."""
        if not is_deepspeed_folder(filename):
            raise UserError(
                f'{filename} was not written by DeepSpeed, and has no state of its optimizer to '
                'resume from; take the weights alone with --cfg-options load_from=..., or resume '
                'with the strategy that wrote it'
            )
        if glob.escape(filename) != filename:  # DeepSpeed reads it as a pattern
            raise UserError(
                f'{filename} cannot be resumed from, as DeepSpeed reads brackets, * and ? in paths '
                'as patterns; rename the folder'
            )
        check_deepspeed_folder(Path(filename))
        schedulers = kwargs.pop('resume_param_scheduler', True)  # after the hooks have seen them
        loaded = super().resume(filename, resume_param_scheduler=False, **kwargs)
        checkpoint = without_config(loaded)
        if (callback := kwargs.get('callback')) is not None:
            callback(checkpoint)
        if schedulers and hasattr(self, 'param_schedulers'):
            self.load_scheduler_state_dict(checkpoint.pop('param_schedulers'))
        done = (checkpoint.get('meta') or {}).get('iter', 0)
        self._warn_of_rest(done, f'{filename} was written after {{}}')
        return checkpoint

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Write a folder beside `filename`, and move it there when all processes are done."""
        extra = kwargs.setdefault('extra_ckpt', {})
        if kwargs.pop('save_param_scheduler', True) and hasattr(self, 'param_schedulers'):
            extra['param_schedulers'] = self.scheduler_state_dict()
        kwargs['save_param_scheduler'] = False  # already there, for the hooks
        if (callback := kwargs.get('callback')) is not None:
            callback(extra)
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
            outdated = path.with_name(f'.{path.name}{HALF_WRITTEN}old')
            if path.exists():
                os.replace(path, outdated)
            os.replace(part, path)
            shutil.rmtree(outdated, ignore_errors=True)
            AtomicLocalBackend.remove_outdated(but=path)
        barrier()

    def _translated(self, cfg: dict) -> dict:
        """Translate an optim_wrapper for DeepSpeed, and move its other settings to `config`."""
        kind = hosts.type_name({'type': cfg.pop('type', 'OptimWrapper')})
        if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'DeepSpeedOptimWrapper'):
            raise UserError(
                f'optim_wrapper of type {kind} has no counterpart in DeepSpeed; it may be '
                'OptimWrapper or AmpOptimWrapper'
            )
        if kind == 'AmpOptimWrapper':
            cfg.pop('loss_scale', None)  # bfloat16 needs none
            dtype = hosts.dtype_name(cfg)
            cfg.pop('dtype', None)
            if dtype != 'bfloat16':
                raise UserError(
                    f'AmpOptimWrapper with dtype={dtype}: under autocast in float16 '
                    'DeepSpeed clips gradients that are still scaled and never lowers the scale; '
                    'set optim_wrapper.dtype=bfloat16'
                )
            self.config.setdefault('torch_autocast', {'enabled': True, 'dtype': dtype})
        if clip := cfg.pop('clip_grad', None):
            by_norm = clip.get('type', 'norm') == 'norm' and clip.get('norm_type', 2) == 2
            if not by_norm or set(clip) - {'type', 'norm_type'} != {'max_norm'}:
                raise UserError(
                    f'clip_grad={dict(clip)}: DeepSpeed clips by the 2-norm; set max_norm alone'
                )
            self.config['gradient_clipping'] = clip['max_norm']
        if (count := cfg.pop('accumulative_counts', 1)) != 1:
            self.config['gradient_accumulation_steps'] = count
        if unknown := sorted(set(cfg) - _DEEPSPEED_KEYS):
            raise UserError(f'optim_wrapper has {unknown}, which DeepSpeed has no counterpart of')
        return {'type': 'DeepSpeedOptimWrapper', **cfg}


def unwrap_model(model: Any) -> nn.Module:
    """The model without the wrapper of a distributed run."""
    return model.module if is_model_wrapper(model) else model


def average_gradients(model: Any) -> None:
    """Average gradients over processes where each has its own: those of DDP wait for an update.

    Collective: call on every rank.
    """
    if not hasattr(model, 'no_sync'):
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in parameters])
    all_reduce(used, 'max')  # a process may have no gradients of parts that its samples do not need
    for parameter in itertools.compress(parameters, used.bool().tolist()):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        all_reduce(parameter.grad, 'mean')


def waiting_gradients(model: Any) -> dict[str, Tensor]:
    """The gradients that wait for an update, averaged over processes; empty but on the first one.

    Collective: call on every rank.
    """
    average_gradients(model)
    weights, first = unwrap_model(model).named_parameters(), is_main_process()
    found = {name: unshard(p.grad, first) for name, p in weights if p.grad is not None}
    return {name: gradient.cpu() for name, gradient in found.items() if first}


@contextmanager
def whole_weights(model: Any) -> Iterator[nn.Module]:
    """The unwrapped model with its sharded parameters gathered (ZeRO stage 3), to load weights.

    Collective: call on every rank with identical weights.
    """
    optimizer: Any = getattr(model, 'optimizer', None)
    module = unwrap_model(model)
    if not hasattr(optimizer, 'refresh_fp32_params'):
        yield module
        return
    import deepspeed

    parameters = [p for p in module.parameters() if hasattr(p, 'ds_id')]  # ZeRO stage 3
    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        yield module
    optimizer.refresh_fp32_params()
