"""Changes to a config by options of `train` and `test`: length, precision, output, augmentation."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from .. import hosts
from ..checkpoints import read_class_map
from ..checks import want
from ..errors import UserError
from ..files import check_writable, is_inside
from .config_checks import LENGTHS, LISTS_OF_LENGTHS, all_hooks, of_several_optimizers

_STARTS = {'Linear': 'start_factor', 'Constant': 'factor'}  # of warm-ups
_BEGINS = (  # of hooks; that of YOLOXModeSwitchHook counts from the end
    'begin_epoch', 'switch_epoch', 'action_epoch', 'num_last_epochs', 'begin_iter', 'save_begin',
)  # fmt: skip
_FOR_EVER = 10**9  # mmengine's end of a schedule that has none


def set_length(cfg: Config, max_iters: int | None, max_epochs: int | None) -> None:
    """Make a training shorter or longer, and scale its schedules to the new length.

    Begins, ends, milestones and patience of schedulers, and the begins of validation, checkpoints,
    averages (EMAHook) and pipeline switches (PipelineSwitchHook, YOLOXModeSwitchHook), are
    multiplied by the new length over the old. Intervals of validation and checkpoints become at
    most the new length.

    Raises:
        UserError: if the config counts in the other unit, or a length is below 1.
    """
    for unit, length in (('max_iters', max_iters), ('max_epochs', max_epochs)):
        if length is None:
            continue
        option = '--' + unit.replace('_', '-')
        old = (cfg.get('train_cfg') or {}).get(unit)
        if old is None:
            other = '--max-epochs' if unit == 'max_iters' else '--max-iters'
            raise UserError(f'{option}: this config does not train by {unit[4:]}; use {other}')
        want(option, length, 'at least 1', length >= 1)
        cfg.train_cfg[unit] = length
        interval = cfg.train_cfg.get('val_interval')
        if interval is not None:
            cfg.train_cfg.val_interval = min(interval, length)
        checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
        if checkpoint is not None and checkpoint.get('by_epoch', True) == (unit == 'max_epochs'):
            checkpoint.interval = min(checkpoint.get('interval') or -1, length)
        starts = [(cfg.train_cfg, 'val_begin')]
        hooks = all_hooks(cfg)
        for hook in list(hooks):  # SwitchRecipeHook of mmpretrain
            steps = hosts.as_list(hook.get('schedule') or ())
            hooks += [step for step in steps if isinstance(step, Mapping)]
        for hook in hooks:  # each begins at one place
            starts += [(hook, key) for key in _BEGINS if hook.get(key)][:1]
        for node, key in starts:
            if node.get(key):
                node[key] = _scaled(node[key], length / old)
        if cfg.train_cfg.get('dynamic_intervals'):
            cfg.train_cfg.dynamic_intervals = [
                (_scaled(start, length / old), interval)
                for start, interval in cfg.train_cfg.dynamic_intervals
            ]
        if cfg.get('param_scheduler'):
            cfg.param_scheduler = _scale(cfg.param_scheduler, length / old)
        nodes = [node for _, node in hosts.dicts_in(cfg.get('param_scheduler')) if 'type' in node]
        schedulers = '; '.join(map(_lengths, nodes))
        print_log(f'{option} {length} (the config has {old}); schedulers: {schedulers}', 'current')


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


def set_class_map(cfg: Config, path: str) -> None:
    """Let LoadCheckpointHook choose classes of its checkpoint by a file.

    Raises `UserError` if the config has no such hook, or the file cannot be read.
    """
    hooks = [h for h in cfg.get('custom_hooks') or () if hosts.type_name(h) == 'LoadCheckpointHook']
    if not hooks:
        raise UserError(
            '--class-map needs a checkpoint to take classes from: custom_hooks=[dict(type='
            "'mmswinv2.LoadCheckpointHook', checkpoint=...)] in the config"
        )
    read_class_map(path)
    hooks[0].class_map = path


def set_lora(cfg: Config, rank: int) -> None:
    """Train adapters of this rank in the backbone; raises `UserError` if that is not ours."""
    if (backbone := hosts.own_backbone(cfg.get('model') or {})) is None:
        raise UserError('--lora: the model of this config has no backbone of mmswinv2')
    backbone.lora = {**(backbone.get('lora') or {}), 'rank': rank}


def set_visualization(cfg: Config, show: bool, folder: str | None, wait_time: float) -> None:
    """Draw the predictions of a test, in a window or a folder inside the work dir.

    Raises `UserError` if the config has nothing that draws.
    """
    host = hosts.of(cfg)
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None or 'visualizer' not in cfg:
        raise UserError(
            "--show and --show-dir need a visualizer and a 'visualization' hook in the config"
        )
    hook[host.draw_option] = True
    if show:
        hook.update(show=True, wait_time=wait_time)
    if host.draw_interval:
        hook['interval'] = 1
    if folder:
        adds = host.draw_folder == hosts.Host.draw_folder  # mmdet adds the folder of the run
        if not adds and not is_inside(Path(folder), Path(cfg.work_dir)):
            folder = str(Path(cfg.work_dir, folder))
        cfg.merge_from_dict({host.draw_folder: folder})


def set_out(cfg: Config, out: str) -> None:
    """Write the predictions of a test: a ``.pkl`` file, or a segmentor's folder of label maps.

    Raises `UserError` if the config has several test sets or no metric, or `out` cannot be written.
    """
    host = hosts.of(cfg)
    evaluators = hosts.as_list(cfg.test_evaluator)
    if evaluators and 'dataset_prefixes' in evaluators[0]:
        raise UserError(
            f'--out is for one test set, and test_evaluator ({hosts.type_name(evaluators[0])}) is '
            'for several; test one at a time, or leave --out out'
        )
    if evaluators and 'metrics' in evaluators[0]:
        cfg.test_evaluator = evaluators = hosts.as_list(evaluators[0]['metrics'])
    if host.dump_metric is None and not evaluators:
        raise UserError('--out: test_evaluator has no metric, which writes label maps')
    if host.dump_metric is None:
        evaluators[0].update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out must end in .pkl or .pickle, got {out}')
    check_writable(Path(out).absolute().parent, 'folder', '--out')  # before the test, not after
    cfg.test_evaluator = [
        *evaluators,
        dict(type=hosts.type_in(cfg, host.dump_metric), out_file_path=out),
    ]


def set_format_only(cfg: Config, out: str | None) -> None:
    """Write a segmentor's label maps alone, and take out all that needs annotations.

    Raises `UserError` if the model is no segmentor, or there is no folder to write to.
    """
    if hosts.of(cfg).dump_metric is not None or not out:
        raise UserError('--format-only is for segmentors, and needs --out FOLDER')
    cfg.test_evaluator = hosts.as_list(cfg.test_evaluator)[0]  # that of --out
    cfg.test_evaluator['format_only'] = True
    for dataset in hosts.inner_datasets(cfg.test_dataloader.dataset):
        dataset.get('data_prefix', {}).pop('seg_map_path', None)
        dataset.pipeline = hosts.without_annotations(dataset.pipeline)


def set_tta(cfg: Config) -> None:
    """Test with the config's test-time augmentation, or else with the host's, which flips images.

    The model becomes a wrapper that has the given one as its ``module``.

    Raises:
        UserError: if neither the config nor the host has an augmentation for this model, or it
            cannot merge what the model predicts.
    """
    datasets = list(hosts.inner_datasets(cfg.test_dataloader.dataset))
    host = hosts.of(cfg)
    if 'tta_model' not in cfg and (model := host.default_tta_model(cfg)):
        cfg.tta_model = {**model, 'type': hosts.type_in(cfg, model['type'])}
        flip = hosts.type_in(cfg, 'RandomFlip')
        cfg.tta_pipeline = _with_mirror_images(datasets[0].pipeline, flip)
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise UserError('--tta needs tta_model and tta_pipeline in the config')
    host.check_tta_model(cfg)
    wrapper = deepcopy(cfg.tta_model)
    wrapper['module'] = cfg.model
    cfg.model = wrapper
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline


def _with_mirror_images(pipeline: Sequence[Any], flip: str) -> list[Any]:
    """A pipeline with two views, flipped before they are padded, as hosts flip results back."""
    *steps, pack = pipeline
    if 'meta_keys' in pack:  # the default meta_keys have both
        pack = {**pack, 'meta_keys': (*pack['meta_keys'], 'flip', 'flip_direction')}
    place = next((i for i, s in enumerate(steps) if 'Pad' in hosts.type_name(s)), len(steps))
    # the unflipped view first: visualizations draw its annotations
    flips = [dict(type=flip, prob=prob) for prob in (0.0, 1.0)]
    views = [flips, *([step] for step in (*steps[place:], pack))]
    return [*steps[:place], dict(type='TestTimeAug', transforms=views)]


def _scaled(value: float, factor: float, parts: bool = False) -> float:
    """Scale a length in epochs or iterations, and round it.

    With `parts`, a fractional length, as of a warm-up of 2.5 epochs, is not rounded, unless it
    becomes shorter than an epoch, which could leave few iterations.
    """
    if not 0 < value < _FOR_EVER:
        return value
    exact = value * factor
    return exact if parts and value % 1 and exact > 1 else max(1, round(exact))


def _scale(schedulers: Any, factor: float) -> Any:
    """Scale the schedulers of each optimizer, and drop those with no steps left.

    A warm-up of one step would end at its low start value, from which the next scheduler would
    continue, so it gets a start factor of 1.
    """
    if of_several_optimizers(schedulers):
        return {name: _scale(those, factor) for name, those in schedulers.items()}
    schedulers = hosts.as_list(schedulers)
    for scheduler in schedulers:
        before = _steps(scheduler)
        in_parts = scheduler.get('convert_to_iter_based', False)
        for key in LENGTHS:
            if scheduler.get(key) is not None:
                parts = in_parts and key in ('begin', 'end')
                scheduler[key] = _scaled(scheduler[key], factor, parts)
        for key in LISTS_OF_LENGTHS:
            if key in scheduler:
                scheduler[key] = [_scaled(value, factor) for value in scheduler[key]]
        start = _STARTS.get(hosts.type_name(scheduler)[: -len('LR')])
        if start and _steps(scheduler) < 2 <= before and not in_parts:
            scheduler[start] = 1.0
    return [scheduler for scheduler in schedulers if _steps(scheduler) > 0]


def _steps(scheduler: Any) -> float:
    return scheduler.get('end', _FOR_EVER) - scheduler.get('begin', 0)


def _lengths(scheduler: Any) -> str:
    lengths = [f'{k}={scheduler[k]}' for k in (*LENGTHS, *LISTS_OF_LENGTHS) if k in scheduler]
    return ' '.join((str(scheduler['type']), *lengths))
