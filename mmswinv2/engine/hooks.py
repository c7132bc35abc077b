"""Hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import nn

from ..checkpoints import fetch_together, load_but, read_class_map
from ..datasets import (
    check_image_labels,
    check_video_labels,
    guard_seg_maps,
    has_seg_maps,
    want_seg_maps,
)
from ..errors import UserError, categories_differ, leaves
from ..registry import HOOKS
from .weights import bare, whole_weights

__all__ = ['CheckDatasetHook', 'LoadCheckpointHook']


@HOOKS.register_module()
class CheckDatasetHook(Hook):
    """Refuses data that does not fit the classes of the config.

    Host packages drop categories they cannot match and go on, which ends in mAP 0, and look at no
    label map (see `mmswinv2.datasets.seg_maps`).
    """

    def before_run(self, runner: Any) -> None:
        """Look at every data set the runner will use."""
        for name in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{name}_loop')
            if loop is not None and not isinstance(loop, dict):
                self.check(loop.dataloader.dataset, f'{name}_dataloader', bare(runner.model))

    def check(self, dataset: Any, where: str, model: Any = None) -> None:
        """Raise `UserError` if annotations lack a class, or label maps or the heads do not fit."""
        for inner in leaves(dataset):
            self._check_one(inner, where, model)

    def _check_one(self, dataset: Any, where: str, model: Any) -> None:
        if has_seg_maps(dataset):
            if guard_seg_maps(dataset):
                want_seg_maps(dataset, where)
            _check_heads(model, len(dataset.metainfo.get('classes') or ()), where)
            return
        num_classes = getattr(getattr(model, 'cls_head', None), 'num_classes', None)
        if num_classes is not None and hasattr(dataset, 'multi_class'):
            check_video_labels(dataset, num_classes, where)
            return
        num_classes = getattr(getattr(model, 'head', None), 'num_classes', None)
        if num_classes is not None and hasattr(dataset, 'get_gt_labels'):
            check_image_labels(dataset, num_classes, where)
            if where == 'train_dataloader':
                _check_one_hot(model, num_classes)
            return
        ann_file = getattr(dataset, 'ann_file', '')
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        category_ids = getattr(dataset, 'cat_ids', None)
        if classes is not None and category_ids is not None and len(category_ids) != len(classes):
            raise categories_differ(where, ann_file, classes)


@HOOKS.register_module()
class LoadCheckpointHook(Hook):
    """Starts training from the checkpoint of an earlier stage, all but the parts that are new.

    mmengine's ``load_from`` passes over whatever does not fit; this wants every parameter that is
    not named in `new`, and logs a report. A resumed run has its weights already and is left alone.

    Args:
        checkpoint: file or address of the earlier stage.
        new: parts of names of the parameters that keep their initialisation.
        class_map: a file with a line for each class of a classifier: its number among the classes
            of the checkpoint, from which its row of the head is taken.
    """

    def __init__(
        self, checkpoint: str, new: Sequence[str] = (), class_map: str | None = None
    ) -> None:
        self.checkpoint, self.new, self.class_map = checkpoint, new, class_map

    def before_train(self, runner: Any) -> None:
        """Load, unless the run goes on from one of its own checkpoints."""
        if runner.iter > 0:
            return
        if runner._load_from is not None:
            raise UserError(
                f'load_from={runner._load_from} and LoadCheckpointHook (custom_hooks) both give '
                f'the weights to start from; take one of them out'
            )
        class_map = None if self.class_map is None else read_class_map(self.class_map)
        path = fetch_together(self.checkpoint)
        with whole_weights(runner.model) as model:
            report = load_but(model, path, self.new, class_map)
        print_log(str(report), logger='current')


def _check_one_hot(model: Any, num_classes: int) -> None:
    """Raise `UserError` if Mixup and the like would make labels of other classes than the head."""
    preprocessor = model.data_preprocessor
    known = getattr(preprocessor, 'num_classes', None)
    if getattr(preprocessor, 'to_onehot', False) and known not in (None, num_classes):
        raise UserError(
            f'data_preprocessor.num_classes={known}, and model.head.num_classes={num_classes}; '
            'set both to the number of classes'
        )


def _check_heads(model: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a head of a segmentor has fewer classes than its data."""
    model = getattr(model, 'module', model)  # inside test-time augmentation
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            known = getattr(head, 'num_classes', num_classes)
            # one channel tells two classes apart, and STDC's tells borders
            binary = getattr(head, 'out_channels', 0) == 1 or hasattr(head, 'boundary_threshold')
            if known < num_classes and not binary:
                raise UserError(
                    f'model.{name} has num_classes={known}, and the data set of {where} has '
                    f'{num_classes} classes; set num_classes={num_classes} in every head'
                )
