"""Running a config: what `tools/train.py` and `tools/test.py` share."""

import atexit
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

from .. import hosts
from ..checkpoints import PUBLISHED, fetch
from ..checkpoints.download import ADDRESSES
from ..errors import UserError
from ..explanations import raised
from ..files import check_writable
from ..launchers import is_first_process
from ..options import command_line
from .config_checks import (
    all_hooks,
    by_iterations,
    check_groups,
    check_optimizers,
    check_paramwise,
    check_parts,
    check_units,
)
from .config_names import warn_of_unmatched
from .configs import config_with_options
from .dataset_checks import CheckDatasetHook, no_batch
from .hooks import CheckInvalidLossHook, LoRAHook
from .processes import runner_class, set_up_processes
from .repeatable import RepeatableHook
from .resume import follow_config
from .scores import ScoresHook
from .start import check_shared, look_at_checkpoint, prepare_work_dir
from .storage import use_whole_files
from .strategies import unwrap_model

COMMAND = 'command: '  # begins a line of the log, which `mmswinv2 report` reads


def load_config(args: Namespace) -> Config:
    """Read ``args.config`` and apply the common arguments to it.

    Raises `UserError` if it does not exist or the work dir cannot be written.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    processes = os.environ.get('WORLD_SIZE', '1')
    if args.launcher == 'none' and 'TORCHELASTIC_RUN_ID' in os.environ and processes != '1':
        raise UserError(
            f'torchrun has started {processes} processes, and each would do all of the work in the '
            'same work dir; add --launcher pytorch'
        )
    cfg = config_with_options(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    own = cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))
    cfg.work_dir = os.path.expanduser(args.work_dir or own)  # shells leave the ~ of --work-dir=~/x
    check_writable(cfg.work_dir, 'work dir', '--work-dir')
    return cfg


def build_runner(cfg: Config, kinds: tuple[str, ...]) -> Runner:
    """Check the data and the checkpoint, set up the processes, and build the runner with our hooks.

    Args:
        cfg: the config.
        kinds: which of ``'train'``, ``'val'``, ``'test'`` will be used.

    Raises:
        UserError: if a file or folder of the data is missing.
        CheckpointError: if a local ``load_from``, or one to resume from, is missing, truncated or
            unsafe.
    """
    check_groups(cfg)
    hosts.check_data(cfg, kinds)
    if 'train' in kinds:
        _check_runner(cfg)
        check_units(cfg)
        check_paramwise(cfg)
        _log_iterations(cfg)
    else:  # evaluation needs one whole model in every process
        cfg.pop('strategy', None)
    if 'train' not in kinds or runner_class(cfg) is Runner:
        cfg.pop('runner_type', None)
    path = cfg.get('load_from')
    # of an address, a resumed run needs the seed before it builds the data
    if path and ('://' not in path or (cfg.get('resume') and path.startswith(ADDRESSES))):
        local = fetch(path)  # `path` may be the name of published weights
        cfg.load_from = str(local) if path in PUBLISHED else path
        look_at_checkpoint(cfg, local)
    hosts.of(cfg).apply()
    if 'train' in kinds and 'runner_type' not in cfg:  # strategies register more
        check_optimizers(cfg)
    held = None
    if 'train' in kinds and is_first_process(cfg.launcher):
        held = prepare_work_dir(cfg)
    use_whole_files()
    set_up_processes(cfg)
    with _keep_config(cfg, 'train' in kinds):
        runner = _build(cfg)
    print_log(f'{COMMAND}{command_line()}', logger='current')
    runner.register_hook(CheckDatasetHook())
    if 'train' in kinds:
        check_shared(cfg)
        if isinstance(runner.model, nn.Module):  # else a strategy builds it
            check_parts(cfg, unwrap_model(runner.model))
            warn_of_unmatched(cfg, runner.model)
        _scale_rates(runner, cfg)
        follow_config(runner)
        runner.work_dir_lock = held
        runner.register_hook(RepeatableHook())
        for kind in (CheckInvalidLossHook, LoRAHook):  # the config may have its own
            if not any(isinstance(hook, kind) for hook in runner.hooks):
                runner.register_hook(kind())
        runner.register_hook(ScoresHook())  # behind LoRAHook
    return runner


def _build(cfg: Config) -> Runner:
    """Build the runner of a config, with a compiled model if it asks for one."""
    if 'runner_type' in cfg:
        cfg.setdefault('env_cfg', {})  # FlexibleRunner takes none from a config without it
        return RUNNERS.build(cfg)
    options = cfg.pop('compile', None)
    runner = Runner.from_cfg(cfg)
    if options:
        compile_features(runner.model, {} if options is True else dict(options))
        runner.cfg.compile = options  # for the copy in the work dir
        runner.dump_config()
        runner.cfg.pop('compile')  # mmengine would compile the training step
    return runner


def _log_iterations(cfg: Config) -> None:
    """Let the log of a training by iterations count these, and have a loss of a short one.

    By its defaults mmengine counts epochs there too, and writes all scores at epoch 0.
    """
    if not by_iterations(cfg):
        return
    processor = {'type': 'LogProcessor', **(cfg.get('log_processor') or {})}
    windows = [own.get('window_size', 'epoch') for own in processor.get('custom_cfg') or ()]
    # mmengine refuses such windows beside by_epoch=False
    if hosts.type_name(processor) == 'LogProcessor' and 'epoch' not in windows:
        cfg.log_processor = {**processor, 'by_epoch': False}
    cfg.default_hooks = {'logger': dict(type='LoggerHook'), **(cfg.get('default_hooks') or {})}
    logger = cfg.default_hooks.logger
    if logger and hosts.type_name(logger) == 'LoggerHook':
        logger.log_metric_by_epoch = False
        most = cfg.train_cfg.get('max_iters') or math.inf
        logger.interval = min(logger.get('interval', 10), most)


def _scale_rates(runner: Any, cfg: Config) -> None:
    """Let ``auto_scale_lr`` count accumulated batches, and scale the bounds of schedules too.

    So does the authors' code (``main.py`` of Swin). mmengine scales the rates of the optimizer
    alone, by the samples of an iteration.
    """
    scale: Any = cfg.get('auto_scale_lr') or {}
    if not scale.get('enable'):
        return
    count = cfg.optim_wrapper.get('accumulative_counts', 1)
    if isinstance(runner, FlexibleRunner) and count == 1:
        own = getattr(runner.strategy, 'config', {})  # DeepSpeed's
        count = own.get('gradient_accumulation_steps', 1)
    counted = dict(scale, base_batch_size=scale.base_batch_size / count)
    if isinstance(runner, FlexibleRunner):
        runner.strategy._auto_scale_lr = counted
    else:
        runner.auto_scale_lr = counted
    if count > 1:
        print_log(f'auto_scale_lr: the weights are updated every {count} batches', 'current')
    ratio = cfg.train_dataloader.batch_size * runner.world_size / counted['base_batch_size']
    for _, node in hosts.dicts_in(runner.param_schedulers):
        if not hosts.type_name(node).endswith('LR') and node.get('param_name') != 'lr':
            continue
        for key in ('eta_min', 'eta_max', 'min_value'):
            value = node.get(key)
            if isinstance(value, (list, tuple)):  # one for each group of parameters
                node[key] = [each * ratio for each in value]
            elif value:
                node[key] = value * ratio


@contextmanager
def _keep_config(cfg: Config, trains: bool) -> Iterator[None]:
    """Keep mmengine from copying a config over itself, or that of a test over another.

    Every run has its config in its own folder too, in ``vis_data``.
    """
    file = cfg.filename or ''
    copy = Path(cfg.work_dir, Path(file).name)
    same = os.path.exists(file) and copy.exists() and os.path.samefile(file, copy)
    kept = same or (not trains and os.path.lexists(copy))  # nor through a link
    with ExitStack() as stack:
        runners: tuple[Any, ...] = (Runner, FlexibleRunner) if kept else ()
        for kind in runners:
            stack.callback(setattr, kind, 'dump_config', kind.dump_config)
            kind.dump_config = lambda runner: None
        yield


def _check_runner(cfg: Config) -> None:
    """Raise `UserError` for a strategy that the runner would not use, and for EMAHook with one.

    FlexibleRunner loads and resumes before the hook has copied the model, an FSDP model cannot be
    copied, and the checkpoints of DeepSpeed that hooks see have no weights.
    """
    runner = runner_class(cfg)
    if runner is Runner and cfg.get('strategy'):
        raise UserError(
            f'strategy={hosts.type_name(cfg.strategy)} in the config is for FlexibleRunner, and '
            "plain Runner would train without it; set runner_type='FlexibleRunner', or "
            'strategy=None'
        )
    averages = issubclass(runner, FlexibleRunner) and any(
        hosts.type_name(hook) == 'EMAHook' for hook in all_hooks(cfg)
    )
    if averages:
        raise UserError(
            'EMAHook averages weights under plain Runner alone, and this config has '
            f'runner_type={cfg.runner_type!r}; leave the hook out, or runner_type and strategy'
        )


def compile_features(model: Any, options: dict[str, Any]) -> None:
    """Compile backbone and neck in place, as requested by ``compile=...`` in a config.

    mmengine would compile whole training steps. torch's compiler fails on those of detectors, which
    use lists of boxes and copy values to the CPU.
    """
    model = unwrap_model(model)
    parts = [name for name in ('backbone', 'neck') if getattr(model, name, None) is not None]
    if not parts:
        raise UserError(
            f'compile={options or True} in the config is for backbone and neck, and '
            f'{type(model).__name__} has neither; leave it out'
        )
    for name in parts:
        getattr(model, name).compile(**options)
    print_log(f'compiled, when first used: {" and ".join(parts)} of the model', logger='current')


def run(work: Callable[[], Any], cfg: Config, kinds: tuple[str, ...]) -> None:
    """Call ``runner.train`` or ``runner.test`` and end the processes of a distributed run together.

    A process that exits early would abort the others. Raises `UserError` if a data set is empty.
    """
    try:
        work()
    except (AssertionError, KeyError, ValueError) as error:
        if (reason := _explain(error, cfg, kinds)) is None:
            raise
        raise reason from error
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        # Without shutting the interpreter down: gloo's threads sometimes abort a process under
        # FSDP during that ("terminate called without an active exception"), and torchrun reports
        # the finished run as failed.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _explain(error: Exception, cfg: Config, kinds: tuple[str, ...]) -> UserError | None:
    """The mistake behind an error of mmengine or a host whose message does not say it."""
    text = str(error)
    if 'multiple evaluation results with the same metric name' in text:
        return UserError(f'{error} (prefix=... of a metric does that)')
    if 'image size in a batch' in text:
        return UserError(f'{error} Set batch_size=1 in val_dataloader and test_dataloader')
    if 'epoch_length' in text and isinstance(error, AssertionError):
        return no_batch('train_dataloader', cfg.train_dataloader.get('batch_size'))
    place = raised(error)[0][-1].f_locals.get('self')
    if error.args == ('inputs',) and isinstance(place, BaseDataPreprocessor):
        return hosts.not_packed(' or '.join(f'{kind}_dataloader' for kind in kinds))
    return None
