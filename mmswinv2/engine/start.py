"""The checkpoint that a run starts from: its choice, and whether the run can go on from it."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from time import localtime, strftime
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_world_size
from mmengine.logging import print_log

from .. import hosts
from ..checkpoints.files import (
    Forms,
    check_deepspeed_folder,
    check_forms,
    is_deepspeed_folder,
    read_checkpoint,
)
from ..checks import is_count
from ..errors import CheckpointError, UserError
from ..files import StrPath, find
from ..hosts.configs import walk
from .storage import lock, remove_half_written

_STARTED = '.started'  # file in the work dir; its modification time is the start of the run


def _is_optimizer(value: Any) -> bool:
    """Whether `value` is the state of an optimizer, or a dict of the states of several."""
    if not isinstance(value, Mapping):
        return False
    if 'param_groups' not in value:
        return bool(value) and all(map(_is_optimizer, value.values()))
    groups, state = value['param_groups'], value.get('state')
    return (
        isinstance(groups, list)
        and all(isinstance(g, Mapping) and isinstance(g.get('params'), list) for g in groups)
        and isinstance(state, Mapping)
        and all(isinstance(values, Mapping) for values in state.values())
    )


def _are_schedulers(value: Any) -> bool:
    """Whether `value` is the states of schedulers, or a dict of those of several optimizers."""
    if isinstance(value, Mapping):
        return all(map(_are_schedulers, value.values()))
    states = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(state, Mapping) for state in states)


def _is_hub(value: Any) -> bool:
    keys = ('log_scalars', 'runtime_info', 'resumed_keys')
    return isinstance(value, Mapping) and all(isinstance(value.get(k), Mapping) for k in keys)


# What mmengine reads from a checkpoint to resume.
_FORMS: Forms = {
    'meta': (lambda value: isinstance(value, Mapping), 'a dict'),
    'meta.epoch': (lambda epoch: is_count(epoch, 0), 'a whole number'),
    'meta.iter': (lambda number: is_count(number, 0), 'a whole number'),
    'meta.seed': (
        lambda seed: seed is None or (is_count(seed, 0) and seed < 2**32),
        'a whole number',
    ),
    'optimizer': (_is_optimizer, 'the state of an optimizer'),
    'param_schedulers': (_are_schedulers, 'the states of schedulers'),
    'ema_state_dict': (lambda value: isinstance(value, (Mapping, type(None))), 'a dict'),
    'message_hub': (_is_hub, "the log of mmengine's runner"),
}


def prepare_work_dir(cfg: Config) -> Any:
    """Lock the work dir of a training, see `lock`, and remove what killed processes have left."""
    held = lock(cfg.work_dir)
    if cfg.launcher != 'none' and not restarts():  # the start, for `set_resume` after a restart
        Path(cfg.work_dir, _STARTED).touch()
    remove_half_written(cfg.work_dir)
    return held


def last_good_checkpoint(work_dir: StrPath) -> Path | None:
    """The checkpoint to resume from: the one in ``last_checkpoint``, else the newest whole one.

    ``None`` if the folder has none.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    if os.path.lexists(note):
        noted = note.read_text(errors='replace').strip() if note.is_file() else ''
        places = (folder / Path(noted).name, Path(noted))  # the folder may have been moved since
        found = next((place for place in places if noted and os.path.exists(place)), None)
        if found is None:
            print_log(
                f'{note} names no checkpoint that is there ({noted[:80]!a}); looking for others',
                logger='current',
            )
        elif _is_whole(found):
            return found  # if it is refused later, the run must not start anew in its place
        else:
            print_log(f'{found} is missing or cut short; trying an older one', logger='current')
    written = {}
    for path in (*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')):
        try:
            written[path] = _write_order(path)
        except CheckpointError as error:
            print_log(f'left out: {error}', logger='current')
    return max(written, key=lambda path: written[path], default=None)


def _write_order(path: Path) -> tuple[Any, ...]:
    """Sorts checkpoints by when they were written, as they say: copies have newer file times.

    Raises `CheckpointError` if it cannot be read.
    """
    checkpoint = check_deepspeed_folder(path) if path.is_dir() else read_checkpoint(path, mmap=True)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    changed = path.stat().st_mtime
    time = str(meta.get('time'))
    if not re.fullmatch(r'\d{8}_\d{6}', time):  # none, or as older programs write it
        time = strftime('%Y%m%d_%H%M%S', localtime(changed))
    number = meta.get('iter')
    return time, number if is_count(number, 0) else 0, changed


def set_resume(cfg: Config, resume: str | None) -> None:
    """Turn ``--resume [auto|PATH]`` into mmengine's settings; a folder stands for its latest file.

    A run that torchrun has started again goes on from its own last checkpoint. Raises `UserError`
    if there is nothing to resume.
    """
    started = Path(cfg.work_dir, _STARTED)
    if restarts():
        found = last_good_checkpoint(cfg.work_dir)
        if found and started.exists() and found.stat().st_mtime >= started.stat().st_mtime:
            resume = str(found)  # not one of an earlier run in the same folder
        print_log(f'started again, {f"from {resume}" if resume else "at the beginning"}')
    if resume is None:
        # with mmengine's resume=True, a run without checkpoints starts anew
        if cfg.get('resume') is True and not cfg.get('load_from'):
            found = last_good_checkpoint(cfg.work_dir)
            cfg.resume, cfg.load_from = found is not None, found and str(found)
        return
    folder = cfg.work_dir if resume == 'auto' else resume
    in_parts = is_deepspeed_folder(folder) or any(Path(folder).glob('*.distcp'))
    if resume == 'auto' or (os.path.isdir(folder) and not in_parts):
        if (found := last_good_checkpoint(folder)) is None:
            raise UserError(
                f'--resume: {folder} has no checkpoint to resume from; name the folder of '
                'the interrupted run with --work-dir, or a file with --resume PATH, or leave '
                '--resume out to start anew'
            )
        resume = str(found)
    elif '://' not in resume and not os.path.exists(resume):
        there = ', '.join(sorted(path.name for path in Path(cfg.work_dir).glob('*.pth')))
        raise UserError(
            f'--resume: {resume} does not exist; without a path, --resume takes the latest '
            f'checkpoint of the work dir, which has {there or "none"}'
        )
    cfg.resume, cfg.load_from = True, resume


def restarts() -> int:
    """How often torchrun has started these processes again."""
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def look_at_checkpoint(cfg: Config, path: Path) -> None:
    """Check that a checkpoint can be read, and give a resumed run the seed that it began with.

    The seed determines the order of the data.

    Raises:
        UserError: if the config's strategy cannot resume from it.
        CheckpointError: if it is missing, truncated or unsafe, or if a run resumes from it and it
            has no (finite) state of a training.
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
    start = (
        f'{path} cannot be resumed from: --resume needs a checkpoint of a training, and load_from '
        'takes weights alone;'
    )
    forms = {key: form for key, form in _FORMS.items() if not (sharded and key == 'optimizer')}
    check_forms(checkpoint, forms, start)
    for name in ('optimizer', 'ema_state_dict'):
        _check_numbers(checkpoint.get(name), f'{path}: {name}')
    if 'loss_scaler' not in (checkpoint.get('optimizer') or {}):  # it may skip an infinite update
        _check_numbers((checkpoint.get('accumulated') or [{}])[-1], f'{path}: accumulated')
    seed = checkpoint['meta'].get('seed')
    randomness = cfg.get('randomness') or {}
    if seed is not None and randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=seed)


def _check_numbers(value: Any, name: str) -> None:
    """Raise `CheckpointError` for a tensor with NaN or infinite numbers, however deep it is."""
    for place, found in walk(value, name):
        if is_diverged(found):
            raise CheckpointError(
                f'{place} has numbers that are NaN or infinite, which one step brings into '
                'weights; the training that wrote it has diverged: resume from an earlier '
                'checkpoint'
            )


def is_diverged(value: Any) -> bool:
    """Whether `value` is a tensor with NaN or infinite numbers."""
    floats = isinstance(value, torch.Tensor) and value.is_floating_point() and value.itemsize > 1
    return floats and not bool(value.isfinite().all())


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
    return hosts.type_name(cfg.get('strategy') or {})


def _is_whole(path: Path) -> bool:
    """Whether the zip archives of a checkpoint are complete; a DeepSpeed folder has several."""
    files = find(path, '*.pt') if path.is_dir() else [path]
    return bool(files) and all(map(zipfile.is_zipfile, files))
