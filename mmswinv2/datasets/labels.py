"""Labels of images and videos against the classes of the model."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log

from ..errors import UserError

__all__ = ['check_image_labels', 'check_video_labels']


def check_image_labels(dataset: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a data set of mmpretrain has other classes than the model.

    Args:
        dataset: the data set.
        num_classes: of the model's head.
        where: the name of its data loader, for the message.
    """
    if not getattr(dataset, 'with_label', True):
        return
    known = len(dataset.CLASSES or ())
    if known and known != num_classes:
        raise UserError(
            f'{where}: the data set has {known} classes, and model.head num_classes={num_classes}; '
            f'set num_classes={known} in model.head and data_preprocessor, or give the data a '
            'folder for every class, be it empty'
        )
    if known and hasattr(dataset, 'folder_to_idx'):
        return  # labels are places among the folders
    if not len(dataset) or not isinstance(dataset.get_data_info(0).get('gt_label'), int):
        return  # several labels an image
    labels = dataset.get_gt_labels()
    if labels.max() >= num_classes:
        image = dataset.get_data_info(int(labels.argmax()))['img_path']
        raise UserError(
            f'{where}: label {labels.max()} of {image}, but model.head has num_classes='
            f'{num_classes}, labels 0 to {num_classes - 1}'
        )


def check_video_labels(dataset: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a video of a data set of mmaction2 has a label that is no class.

    mmaction2 itself would end in a failed assertion on the GPU, or count the video as wrong.

    Args:
        dataset: the data set.
        num_classes: of the model's head.
        where: the name of its data loader, for the message.
    """
    if dataset.multi_class:
        if dataset.num_classes != num_classes:
            raise UserError(
                f'{where}: the data set has num_classes={dataset.num_classes}, and model.cls_head '
                f'{num_classes}'
            )
        return
    unlabelled = 0
    for i in range(len(dataset)):
        video = dataset.get_data_info(i)
        label = video.get('label')
        unlabelled += isinstance(label, int) and label < 0
        if isinstance(label, int) and label >= num_classes:
            entry = video.get('where') or f'{dataset.ann_file}, video {i + 1}'
            name = video.get('filename') or video.get('frame_dir')
            raise UserError(
                f'{where}: {entry}: label {label} of {name}, but model.cls_head has num_classes='
                f'{num_classes}, labels 0 to {num_classes - 1}'
            )
    if unlabelled:
        print_log(
            f'{where}: {unlabelled} of {len(dataset)} videos have no label and count as wrong in '
            'scores; only what --dump writes means something for them',
            logger='current',
            level=logging.WARNING,
        )
