"""Where a training goes on from, and what all its processes must agree on."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import all_gather_object, get_world_size
from mmengine.logging import print_log

from ..checkpoints import read_checkpoint
from ..checkpoints.files import check_deepspeed_folder, is_deepspeed_folder
from ..errors import UserError
from .storage import last_good_checkpoint

__all__ = ['check_shared', 'is_first_process', 'look_at_checkpoint', 'restarts', 'set_resume']

_STARTED = '.started'  # in the work dir, as old as the run


def set_resume(cfg: Config, resume: str | None) -> None:
    """Turn ``--resume [auto|PATH]`` into mmengine's settings.

    A run that torchrun has started again goes on from its own last checkpoint.

    Raises:
        UserError: if there is nothing to resume.
    """
    started = Path(cfg.work_dir, _STARTED)
    found = last_good_checkpoint(cfg.work_dir) if resume == 'auto' or restarts() else None
    if restarts():
        if found and started.exists() and found.stat().st_mtime >= started.stat().st_mtime:
            resume = str(found)  # not one of an earlier run in the same folder
        print_log(f'started again, {f"from {resume}" if resume else "at the beginning"}')
    elif cfg.launcher != 'none' and is_first_process():
        started.touch()
    if resume is None:
        return
    if resume == 'auto':
        if found is None:
            raise UserError(
                f'--resume: {cfg.work_dir} has no checkpoint to resume from; name the folder of '
                'the interrupted run with --work-dir, or a file with --resume PATH, or leave '
                '--resume out to start anew'
            )
        resume = str(found)
    cfg.resume, cfg.load_from = True, resume


def restarts() -> int:
    """How often torchrun has started these processes again."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def look_at_checkpoint(cfg: Config, path: Path) -> None:
    """See whether it can be read, and go on with the seed that a resumed run began with.

    The order of the data is drawn with the seed.

    Raises:
        UserError: if the config's strategy cannot resume from it.
        CheckpointError: if it is missing, truncated or unsafe.
    """
    sharded = is_deepspeed_folder(path)
    checkpoint = check_deepspeed_folder(path) if sharded else read_checkpoint(path, mmap=True)
    if not cfg.get('resume'):
        return
    if sharded and not _strategy(cfg).endswith('DeepSpeedStrategy'):
        raise UserError(
            f'{path} was written by DeepSpeed, and only a strategy of DeepSpeed can resume from '
            f'it, not {_strategy(cfg)}; start from its weights with --cfg-options '
            f"load_from='{path}'"
        )
    seed = (checkpoint.get('meta') or {}).get('seed')
    randomness = cfg.get('randomness') or {}
    if seed is not None and randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=seed)


def check_shared(cfg: Config) -> None:
    """Raise `UserError` if the machines of a training do not see the same checkpoints."""
    if get_world_size() == 1:
        return
    seen = all_gather_object((str(cfg.get('load_from')), Path(cfg.work_dir, _STARTED).exists()))
    resumed = {path for path, _ in seen}
    in_parts = _strategy(cfg).endswith('DeepSpeedStrategy')
    if len(resumed) > 1 or (in_parts and not all(exists for _, exists in seen)):
        raise UserError(
            f'the processes do not see the same files in the work dir {cfg.work_dir} (to start '
            f'from: {", ".join(sorted(resumed))}); name a folder that all machines share with '
            '--work-dir'
        )


def _strategy(cfg: Config) -> str:
    return str((cfg.get('strategy') or {}).get('type'))


def is_first_process() -> bool:
    """Before the processes know each other; torchrun and Slurm number them."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0
