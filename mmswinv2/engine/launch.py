"""What `tools/train.py` and `tools/test.py` share."""

import atexit
import copy
import math
import os
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner, Runner
from mmengine.utils import import_modules_from_strings

from .. import hosts
from ..checkpoints import PUBLISHED, fetch
from ..errors import UserError, raised
from ..files import StrPath, check_writable
from ..options import command_line
from .config_checks import (
    all_hooks,
    by_iterations,
    check_groups,
    check_optimizers,
    check_units,
    check_values,
)
from .config_names import arguments, warn_of_misspelt, warn_of_new, warn_of_unused
from .hooks import CheckDatasetHook, CheckInvalidLossHook, LoRAHook, no_batch
from .repeatable import RepeatableHook
from .resume import follow_config
from .scores import ScoresHook
from .storage import check_shared, look_at_checkpoint, prepare_work_dir, restarts, use_whole_files
from .strategies import ddp_wrapper, unwrap_model

COMMAND = 'command: '  # begins a line of the log, which `mmswinv2 report` reads
_VARIABLES = {  # environment variables that each launcher sets; the first is the rank
    'pytorch': ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
_NO_DATA = ('work_dir', 'load_from', 'checkpoint')  # settings that may be in the folder of the data
_STARTERS = {
    'pytorch': 'tools/dist_train.sh CONFIG GPUS (torchrun)',
    'slurm': 'tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR (srun)',
    'mpi': 'mpirun',
}


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


def config_with_options(config: StrPath | Config, options: dict[str, Any] | None) -> Config:
    """Read a config, or copy one that was read, and apply ``--cfg-options`` to it.

    Raises:
        UserError: if the config cannot be read, needs a package that is not there, or an option is
            invalid.
    """
    if isinstance(config, Config):
        cfg, path = copy.deepcopy(config), config.filename or 'the config'
    elif isinstance(config, (str, os.PathLike)):
        cfg, path = read_config(config), str(config)
    else:
        raise UserError(
            f"a config must be a path or mmengine's Config, got {type(config).__name__}; write "
            'Config(dict(...)) for a dict'
        )
    if options is not None and not isinstance(options, Mapping):
        raise UserError(
            f"cfg_options must be a dict such as {{'train_cfg.max_iters': 9}}, got {options!r}"
        )
    cfg.setdefault('default_scope', 'mmengine')
    hosts.of(cfg).require(path)
    warn_of_misspelt(cfg)
    if options:
        _set_options(cfg, dict(options))
    check_values(cfg)
    if cfg.get('randomness') is not None:
        cfg.randomness.setdefault('seed', None)  # mmengine refuses deterministic=True alone
    add_preprocessor(cfg)
    return cfg


def read_config(path: StrPath, **options: Any) -> Config:
    """Read a config, a file or a name such as ``mmdet::fcos/fcos_r50...py``, by `Config.fromfile`.

    Raises `UserError` if there is no such file, or it is not a config or has a syntax error.
    """
    file = hosts.find_config(path)
    if file.suffix not in ('.py', '.yml', '.yaml', '.json'):
        raise UserError(f'{path} is no config; a config is a .py, .yml, .yaml or .json file')
    try:
        return Config.fromfile(str(file), **options)
    except RecursionError as error:
        raise UserError(f'{path} is its own _base_, by itself or by one of its bases') from error
    except SyntaxError as error:
        if error.filename not in (None, '<unknown>'):
            raise
        raise UserError(
            f'{path}, or one of its bases, is no Python: line {error.lineno}: {error.msg}'
        ) from error
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        merging = Path(mmengine.__file__).parent in Path(frame.f_code.co_filename).parents
        if file.suffix == '.py' and not (merging or isinstance(error, UnicodeDecodeError)):
            raise  # raised by the code of the config: keep its traceback
        text = ' '.join(str(error).split())
        raise UserError(f'{path}, or one of its bases, cannot be read: {text}') from error


def _set_options(cfg: Config, options: dict[str, Any]) -> None:
    _set_data_root(cfg, options)
    warn_of_unused(cfg, options)
    before = cfg._to_lazy_dict()
    try:
        _clear_in_lists(cfg, options)
        cfg.merge_from_dict(options)
    except (LookupError, TypeError, AttributeError) as error:  # key in a list or a number
        raise UserError(
            f'--cfg-options {" ".join(options)}: there is no such place in the config '
            f'({error.args[0]:.300}); an index, from 0, names a dict that is in a list: give '
            'any other list as a whole, key="[a,b]"'
        ) from error
    warn_of_new(cfg, before, options)
    if any(key.partition('.')[0] == 'custom_imports' for key in options):
        wanted, known = cfg.custom_imports, arguments(import_modules_from_strings)
        names: Any = ()
        if isinstance(wanted, Mapping) and {'imports'} <= wanted.keys() <= known:
            names = wanted['imports'] or []
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(
                f'custom_imports={wanted} in the config must be a dict with imports=[...], names '
                'of modules'
            )
        try:
            import_modules_from_strings(**wanted)
        except ImportError as error:
            raise UserError(
                f'custom_imports in the config: {error} ({error.__context__}); name a module '
                'that is installed or in a folder of PYTHONPATH'
            ) from error


def add_preprocessor(cfg: Any) -> None:
    """Give the model of a config the data_preprocessor that stands beside it, as runners do."""
    if cfg.get('data_preprocessor') and isinstance(cfg.get('model'), dict):
        cfg['model'].setdefault('data_preprocessor', cfg['data_preprocessor'])


def build_runner(cfg: Config, kinds: tuple[str, ...]) -> Runner:
    """Check the data and the checkpoint, set up the processes, and build the runner.

    Args:
        cfg: the config.
        kinds: which of ``'train'``, ``'val'``, ``'test'`` will be used.

    Raises:
        UserError: if a file or folder of the data is missing.
        CheckpointError: if a local ``load_from`` is missing, truncated or unsafe.
    """
    check_groups(cfg)
    hosts.check_data(cfg, kinds)
    if 'train' in kinds:
        _check_runner(cfg)
        check_units(cfg)
        _log_iterations(cfg)
    else:  # evaluation needs one whole model in every process
        cfg.pop('strategy', None)
    if 'train' not in kinds or _runner(cfg) is Runner:
        cfg.pop('runner_type', None)
    if (path := cfg.get('load_from')) and '://' not in path:
        local = fetch(path)  # `path` may be the name of published weights
        cfg.load_from = str(local) if path in PUBLISHED else path
        look_at_checkpoint(cfg, local)
    hosts.of(cfg).apply()
    if 'train' in kinds and 'runner_type' not in cfg:  # strategies register more
        check_optimizers(cfg)
    held = None
    if 'train' in kinds and _is_first_process(cfg.launcher):
        held = prepare_work_dir(cfg)
    use_whole_files()
    _set_up_processes(cfg)
    with _keep_config(cfg, 'train' in kinds):
        if 'runner_type' in cfg:
            cfg.setdefault('env_cfg', {})  # FlexibleRunner takes none from a config without it
            runner = RUNNERS.build(cfg)
        else:
            options = cfg.pop('compile', None)
            runner = Runner.from_cfg(cfg)
            if options:
                compile_features(runner.model, {} if options is True else dict(options))
                runner.cfg.compile = options  # for the copy in the work dir
                runner.dump_config()
                runner.cfg.pop('compile')  # mmengine would compile the training step
    print_log(f'{COMMAND}{command_line()}', logger='current')
    runner.register_hook(CheckDatasetHook())
    if 'train' in kinds:
        check_shared(cfg)
        _scale_rates(runner, cfg)
        follow_config(runner)
        runner.work_dir_lock = held
        runner.register_hook(RepeatableHook())
        for kind in (CheckInvalidLossHook, LoRAHook):  # the config may have its own
            if not any(isinstance(hook, kind) for hook in runner.hooks):
                runner.register_hook(kind())
        runner.register_hook(ScoresHook())  # behind LoRAHook
    return runner


def _log_iterations(cfg: Config) -> None:
    """Let the log of a training by iterations count these, and have a loss of a short one.

    By its defaults mmengine counts epochs there too, and writes all scores at epoch 0.
    """
    if not by_iterations(cfg):
        return
    cfg.log_processor = {**(cfg.get('log_processor') or {}), 'by_epoch': False}
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


def _runner(cfg: Config) -> type:
    """The class of a config's runner; `object` for a name that is not registered."""
    kind = cfg.get('runner_type') or Runner
    return kind if isinstance(kind, type) else RUNNERS.get(kind) or object


@contextmanager
def _keep_config(cfg: Config, trains: bool) -> Iterator[None]:
    """Keep mmengine from copying a config over itself, or that of a test over another.

    Every run has its config in its own folder too, in ``vis_data``.
    """
    file = cfg.filename or ''
    copy = Path(cfg.work_dir, Path(file).name)
    same = os.path.exists(file) and copy.exists() and os.path.samefile(file, copy)
    kept = same or (not trains and copy.is_file())
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
    runner = _runner(cfg)
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


def set_mixed_precision(cfg: Config, dtype: str) -> None:
    """Train with automatic mixed precision: float16, whose losses are scaled, or bfloat16.

    Raises `UserError` if the config leaves precision to a strategy, or no GPU supports `dtype`.
    """
    wrappers = [cfg.optim_wrapper]
    if 'optimizer' not in cfg.optim_wrapper:  # one for each of several optimizers
        named = cfg.optim_wrapper.values()
        wrappers = [w for w in named if isinstance(w, dict) and 'optimizer' in w] or wrappers
    for wrapper in wrappers:
        kind = hosts.type_name(wrapper) if wrapper.get('type') else 'OptimWrapper'
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(
                f'--amp sets optim_wrapper.type to AmpOptimWrapper, and the config has {kind}, '
                'whose precision its strategy sets (see docs/scale.md); leave --amp out'
            )
    if not torch.cuda.is_available():
        raise UserError('--amp needs a GPU, and there is none; leave it out')
    if dtype == 'bfloat16' and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f'--amp-dtype bfloat16 needs a GPU of the Ampere generation or newer, and this is '
            f'{torch.cuda.get_device_name()}; use --amp-dtype float16'
        )
    for wrapper in wrappers:
        before = hosts.dtype_name(wrapper)
        wrapper.update(type='AmpOptimWrapper', dtype=dtype)
        if dtype == 'bfloat16':
            wrapper.loss_scale = 1.0
        elif before == 'bfloat16':  # its scale of 1 does not suit float16
            wrapper.loss_scale = 'dynamic'
        else:
            wrapper.setdefault('loss_scale', 'dynamic')


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


def _is_first_process(launcher: str) -> bool:
    """Whether this is rank 0 by the launcher's variables, before a process group exists.

    A job of Slurm has its variables also in processes that mpirun starts.
    """
    return launcher == 'none' or os.environ.get(_VARIABLES[launcher][0], '0') == '0'


def _set_up_processes(cfg: Config) -> None:
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
    if issubclass(_runner(cfg), FlexibleRunner):
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


def _clear_in_lists(cfg: Config, options: dict[str, Any]) -> None:
    """Apply ``_delete_=True`` to dicts in lists, where mmengine takes it for a setting."""
    for path in [path for path in options if re.search(r'\.\d+\._delete_$', path)]:
        node = cfg._cfg_dict
        for key in path.split('.')[:-1]:
            node = node[int(key) if isinstance(node, list) else key]
        if options[path]:
            node.clear()
        del options[path]


def _set_data_root(cfg: Config, options: dict[str, Any]) -> None:
    """Let ``data_root=...`` on the command line reach the data sets and evaluators too."""
    if 'data_root' not in options:
        return
    if options['data_root'] is None:
        raise UserError('data_root=None in --cfg-options must be a folder')
    if not isinstance(cfg.get('data_root') or None, str):
        raise UserError(
            "the config has no data_root of its own; set the data sets' instead, for instance "
            '--cfg-options train_dataloader.dataset.data_root=...'
        )
    # a folder may have a number for a name
    root, old = os.path.join(str(options['data_root']), ''), os.path.join(cfg.data_root, '')

    def replace(node: Any) -> Any:
        if isinstance(node, dict):
            # as they are written: classes of pure Python configs stay names
            for key, value in dict(dict.items(node)).items():
                if key not in _NO_DATA and (new := replace(value)) is not value:
                    dict.__setitem__(node, key, new)
        elif isinstance(node, (list, tuple)):
            return type(node)(replace(item) for item in node)
        elif isinstance(node, str) and os.path.join(node, '').startswith(old):
            return root + node[len(old) :]
        return node

    replace(cfg._cfg_dict)
    options['data_root'] = root
