"""Processes of a distributed run, which a launcher has started."""

import os

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner

from .. import hosts
from ..errors import UserError
from ..launchers import RANKS
from .start import restarts
from .strategies import ddp_wrapper

_VARIABLES = {  # what mmengine reads of each launcher
    'pytorch': (*RANKS['pytorch'], 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': (*RANKS['slurm'], 'SLURM_NODELIST'),
    'mpi': (*RANKS['mpi'], 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
_STARTERS = {  # what sets them
    'pytorch': 'tools/dist_train.sh CONFIG GPUS (torchrun)',
    'slurm': 'tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR (srun)',
    'mpi': 'mpirun',
}


def runner_class(cfg: Config) -> type:
    """The class of a config's runner; `object` for a name that is not registered."""
    kind = cfg.get('runner_type') or Runner
    return kind if isinstance(kind, type) else RUNNERS.get(kind) or object


def set_up_processes(cfg: Config) -> None:
    """Check the launcher; start the process group where mmengine could not (no GPU, restart)."""
    strategy = cfg.get('strategy')
    if cfg.launcher == 'none':
        if strategy and (kind := hosts.type_name(strategy)) != 'SingleDeviceStrategy':
            raise UserError(
                f'strategy={kind} spreads the work over processes: start it with '
                'tools/dist_train.sh CONFIG GPUS, or train on a single one with --cfg-options '
                'strategy=None'
            )
        return
    for name in _VARIABLES[cfg.launcher]:
        if name not in os.environ:
            raise UserError(
                f'--launcher {cfg.launcher}: the environment variable {name} is not set, as '
                f'{_STARTERS[cfg.launcher]} does; start with that, or leave --launcher out for a '
                'single process'
            )
    if (on_cpu := not torch.cuda.is_available()) and cfg.launcher != 'pytorch':
        raise UserError(
            f'--launcher {cfg.launcher} needs GPUs; without them use --launcher pytorch'
        )
    if on_cpu or restarts():
        _connect_processes('gloo' if on_cpu else 'nccl')
    if issubclass(runner_class(cfg), FlexibleRunner):
        if not strategy or hosts.type_name(strategy) == 'DDPStrategy':
            cfg.strategy = ConfigDict({**(strategy or {}), 'type': 'mmswinv2.DDPStrategy'})
            if 'find_unused_parameters' in cfg:
                cfg.strategy.find_unused_parameters = cfg.find_unused_parameters
    elif on_cpu:
        own = cfg.get('model_wrapper_cfg')  # taken as it is, as mmengine does on GPUs
        cfg.model_wrapper_cfg = own or ddp_wrapper(cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg.setdefault('device_ids', None)


def _connect_processes(backend: str) -> None:
    """Start a process group as mmengine does, but with a separate store for each (re)start.

    torchrun keeps its store when it restarts processes, and torch would look up the addresses of
    the ended processes in it.
    """
    if torch.distributed.is_initialized():
        return
    if backend == 'nccl':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    store, rank, world_size = next(torch.distributed.rendezvous('env://'))
    store = torch.distributed.PrefixStore(f'start_{restarts()}', store)
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)
