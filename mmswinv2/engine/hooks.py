"""Hooks."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from ..errors import UserError
from ..registry import HOOKS

__all__ = ['CheckDatasetHook']


@HOOKS.register_module()
class CheckDatasetHook(Hook):
    """Refuses data sets that are empty or whose categories are not the model's classes.

    Host packages drop categories they cannot match and go on, which ends in mAP 0.
    """

    def before_run(self, runner: Any) -> None:
        """Look at every data set the runner will use."""
        for name in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{name}_loop')
            if loop is not None and not isinstance(loop, dict):
                self.check(loop.dataloader.dataset, f'{name}_dataloader')

    def check(self, dataset: Any, where: str) -> None:
        """Raise `UserError` if `dataset` cannot be meant."""
        if inner := getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None):
            for item in inner if isinstance(inner, (list, tuple)) else [inner]:
                self.check(item, where)
            return
        ann_file = getattr(dataset, 'ann_file', '')
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        category_ids = getattr(dataset, 'cat_ids', None)
        if classes is not None and category_ids is not None and len(category_ids) != len(classes):
            raise UserError(
                f'{where}: {ann_file} has {len(category_ids)} of the {len(classes)} classes '
                f"{_some(classes)}; its category names must match. Set the data set's "
                'metainfo=dict(classes=(...)) to the names in the file, and num_classes in the '
                'heads to their number'
            )
        if len(dataset) == 0:
            raise UserError(
                f'{where}: no image of {ann_file} is left after filter_cfg='
                f'{getattr(dataset, "filter_cfg", None)}; does the file have annotations?'
            )


def _some(names: Any) -> str:
    return ', '.join(map(repr, names[:4])) + (', ...' if len(names) > 4 else '')
