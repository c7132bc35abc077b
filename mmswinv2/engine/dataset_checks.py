"""Checks of the data sets and metrics of a run, once they are built."""

from collections.abc import Mapping, Sequence, Set, Sized
from itertools import zip_longest
from typing import Any

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, TestLoop, ValLoop
from torch import Tensor

from .. import hosts
from ..checkpoints.pickles import check_restorable
from ..checks import class_names, is_count
from ..errors import UserError
from ..log import warn
from ..registry import HOOKS
from .schedules import all_schedulers
from .strategies import unwrap_model


@HOOKS.register_module()
class CheckDatasetHook(Hook):
    """Refuses data that does not fit the classes of the config.

    Host packages silently drop categories they cannot match, which gives mAP 0, and do not check
    label maps (see `mmswinv2.hosts.mmseg_label_maps`).
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.classes: list[tuple[str, Sequence[str]]] = []
        self.of_checkpoint: Sequence[str] = ()
        self.without_scores = 0  # samples of an epoch whose predictions are NaN

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check that classes have the same numbers in the checkpoint as in the data sets."""
        meta = (checkpoint.get('meta') or {}).get('dataset_meta')
        is_text = isinstance(meta, Mapping) and isinstance(meta.get('classes'), str)
        self.of_checkpoint = () if is_text else _classes(meta)  # refused in data sets alone
        self._check_classes(runner)

    def _check_classes(self, runner: Any) -> None:
        named = list(self.classes)
        if runner._resume or not any(name == 'train_dataloader' for name, _ in named):
            named.append(('the checkpoint', self.of_checkpoint))  # fine-tuning may change classes
        check_class_numbers(named)

    def before_run(self, runner: Any) -> None:
        """Look at every data set the runner will use."""
        for name in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{name}_loop')
            if loop is not None and not isinstance(loop, dict):
                self._check_loop(name, loop, unwrap_model(runner.model))
        self._check_classes(runner)

    def _check_loop(self, name: str, loop: Any, model: Any) -> None:
        """Check the data set and the metrics of a loop: ``'train'``, ``'val'`` or ``'test'``."""
        loader, where = loop.dataloader, f'{name}_dataloader'
        _check_batches(loop, where)
        if name == 'train':  # mmengine puts it into checkpoints
            meta = getattr(loader.dataset, 'metainfo', None)
            check_restorable(meta, "the metainfo of train_dataloader's data set")
        if not hasattr(model, 'language_model'):
            self._note_classes(loader.dataset, where)
        hosts.check_dataset(loader.dataset, where, model)
        evaluator = getattr(loop, 'evaluator', None)
        hosts.check_evaluator(evaluator, loader.dataset, f'{name}_evaluator', model)
        if name != 'train':
            for host in hosts.HOSTS:
                host.check_batch(model, loader.batch_size or 1, where)

    def before_train(self, runner: Any) -> None:
        """Raise `UserError` for a hook that would fail, or change a wrapper and not its data.

        Warns if the data set is so small that the training ends before its warm-up.
        """
        self._watch_strides(runner)
        _warn_of_long_warm_ups(runner)
        dataset = runner.train_dataloader.dataset
        kinds = {type(hook).__name__ for hook in runner.hooks}
        switches = (pair for host in hosts.HOSTS for pair in host.switches.items())
        for kind, part in switches:
            if kind in kinds and not hasattr(dataset, part):
                raise UserError(
                    f'{kind} needs {part} of train_dataloader.dataset, which '
                    f'{type(dataset).__name__} has not; change this wrapper, or leave the hook out'
                )

    def before_test(self, runner: Any) -> None:
        """See `hosts.watch_strides`."""
        self._watch_strides(runner)

    def _watch_strides(self, runner: Any) -> None:
        model = unwrap_model(runner.model)
        if not runner.cfg.get('compile'):
            hosts.watch_strides(getattr(model, 'module', model))  # that of test-time augmentation

    def _note_classes(self, dataset: Any, where: str) -> None:
        """Remember the classes of all data sets in a wrapper, and warn if they differ by name."""
        joined = hasattr(dataset, 'datasets')
        sets = hosts.inner_datasets(dataset) if joined else [dataset]
        metas = (getattr(inner, 'metainfo', None) for inner in sets)
        parts = [classes for meta in metas if (classes := _classes(meta))]
        self.classes += [(where, classes) for classes in parts]
        for number, names in enumerate(zip_longest(*parts)):
            known = sorted({str(name) for name in names if name is not None})
            if len(known) > 1:
                warn(
                    f'{where}: label {number} is {" and ".join(map(repr, known))} in different '
                    'data sets, one class for the model; if they are several, give all data sets '
                    'the metainfo=dict(classes=...) of all classes'
                )
                return

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count samples with NaN among their scores, which metrics take for a class."""
        fields = {host.class_scores for host in hosts.HOSTS}  # a config may mix hosts
        for sample in outputs if isinstance(outputs, (list, tuple)) else ():
            self.without_scores += any(_has_nan(getattr(sample, field, None)) for field in fields)

    after_test_iter = after_val_iter

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Warn of predictions that are NaN."""
        self._warn_of_nan()

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Warn of predictions that are NaN, and refuse names of scores that there are not.

        Raises:
            UserError: for a ``save_best`` or ``monitor`` that is not among the scores.
        """
        self._warn_of_nan()
        best = [(hook, getattr(hook, 'key_indicators', ())) for hook in runner.hooks]
        used = [(hook, 'save_best', name) for hook, names in best for name in names]
        stops = [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
        parts = (*all_schedulers(runner), *stops)  # which would never stop the training
        used += [(part, 'monitor', part.monitor) for part in parts if hasattr(part, 'monitor')]
        for owner, setting, name in used:
            if metrics and name not in (*metrics, 'auto'):
                raise UserError(
                    f'{setting}={name!r} of {type(owner).__name__} is none of the scores: '
                    f'{", ".join(metrics)}'
                )

    def _warn_of_nan(self) -> None:
        if self.without_scores:
            warn(
                f'the predictions on {self.without_scores} samples are NaN, and count in scores '
                'as some class; test without mixed precision, or take weights of an earlier epoch'
            )
        self.without_scores = 0


def _has_nan(scores: Any) -> bool:
    """Whether scores, in a tensor or in mmengine's PixelData, have NaN among them."""
    scores = getattr(scores, 'data', scores)
    # a maximum takes NaN from anywhere, and no memory as a mask does
    return isinstance(scores, Tensor) and scores.numel() > 0 and bool(scores.max().isnan())


def _warn_of_long_warm_ups(runner: Any) -> None:
    """Warn of a learning rate that stays low, as its warm-up outlasts the training."""
    for number, scheduler in enumerate(all_schedulers(runner)):
        # a class of the user's own need not have what mmengine's have
        if getattr(scheduler, 'start_factor', 1) >= 1 or scheduler.param_name != 'lr':
            continue
        if not scheduler.by_epoch and runner.max_iters < scheduler.end < INF:
            end = max(2, runner.max_iters // 10)
            warn(
                f'the warm-up takes {scheduler.end} iterations, and the training has '
                f'{runner.max_iters}, so that the learning rate stays low; end it earlier, as '
                f'with --cfg-options param_scheduler.{number}.end={end}'
            )


def _check_batches(loop: BaseLoop, where: str) -> None:
    """Raise `UserError` for a loader whose batches are none, without end, or not all samples."""
    batches = getattr(loop.dataloader, 'batch_sampler', None)
    sampler: Any = getattr(batches, 'sampler', None)
    size: Any = getattr(batches, 'batch_size', None)
    if isinstance(loop.dataloader.dataset, Sized) and not len(loop.dataloader.dataset):
        raise UserError(f'{where}: the data set has no samples; see its annotations and filters')
    endless = {name for host in hosts.HOSTS for name in host.endless_samplers}
    if endless & class_names(sampler):
        walks = {EpochBasedTrainLoop.run_epoch, ValLoop.run, TestLoop.run}  # users' own may stop
        if walks & {getattr(type(loop), name, None) for name in ('run', 'run_epoch')}:
            raise UserError(
                f'{where}: {type(sampler).__name__} has no end; take DefaultSampler, or train by '
                'iterations (train_cfg.by_epoch=False, max_iters)'
            )
        return
    if not (getattr(batches, 'drop_last', False) and isinstance(sampler, Sized) and is_count(size)):
        return
    if len(sampler) < size:
        raise no_batch(where, size)
    left_out = len(sampler) % size
    if left_out and not where.startswith('train'):
        raise UserError(
            f'{where}: drop_last=True leaves {left_out} samples of each process out of the '
            'scores; set drop_last=False'
        )


def no_batch(where: str, batch_size: int) -> UserError:
    """The error for a data loader that drops the one batch that it has."""
    return UserError(
        f'{where}: there are fewer samples than a batch of all processes (batch_size={batch_size}'
        '), and drop_last=True leaves that out; lower batch_size, or set drop_last=False'
    )


def check_class_numbers(named: list[tuple[str, Sequence[str]]]) -> None:
    """Raise `UserError` if a class has different numbers in several lists of classes."""
    places: dict[str, tuple[list[int], str]] = {}
    for name, classes in named:
        own: dict[str, list[int]] = {}  # two classes of ImageNet are called crane
        for i, label in enumerate(map(str, classes)):
            own.setdefault(label, []).append(i)
        for label, numbers in own.items():
            others, where = places.setdefault(label, (numbers, name))
            if not set(numbers) & set(others):
                raise UserError(
                    f'the class {label!r} is number {numbers[0]} of {name} and number {others[0]} '
                    f'of {where}: a model knows classes by their numbers; give '
                    'metainfo=dict(classes=...) the same order everywhere'
                )


def _classes(meta: Any) -> Sequence[str]:
    """The classes of a ``metainfo``, or of several if all are equal; else empty."""
    given = [m['classes'] for m in hosts.as_list(meta or ()) if m and m.get('classes')]
    if unordered := [classes for classes in given if isinstance(classes, (Set, Mapping, str))]:
        raise UserError(
            f'classes must be a list or tuple of names, whose places are the labels, got '
            f'{unordered[0]!r:.100}'
        )
    found = [list(classes) for classes in given]
    return found[0] if found and all(classes == found[0] for classes in found) else ()
