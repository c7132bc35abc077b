"""Label maps of segmentation data sets that cannot be right, told before they do harm.

mmseg looks at no label map: a map of another size than its image trains on the wrong pixels, and
a label beyond the classes ends in a failed assertion on the GPU that names no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations
from PIL import Image

from ..errors import UserError

__all__ = ['SegMapGuard', 'guard_seg_maps', 'has_seg_maps', 'want_seg_maps']

_NOT_LABELLED = 255
_WIDE_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'F')  # Pillow's for more than 8 bits


class SegMapGuard:
    """Loads a label map as `load` does, and refuses one that is damaged, misfits or has bad labels.

    Args:
        load: mmseg's ``LoadAnnotations``.
        num_classes: classes of the data set; labels are 0 to ``num_classes - 1``. ``None`` where it
            does not say: labels are not looked at.
        ignore_index: the label that counts as none, beside 255.
    """

    def __init__(
        self, load: Any, num_classes: int | None = None, ignore_index: int = _NOT_LABELLED
    ) -> None:
        self.load, self.num_classes, self.ignore_index = load, num_classes, ignore_index

    def __call__(self, results: dict) -> dict:
        """Add ``gt_seg_map`` (H, W), or raise `UserError` naming the file."""
        path = results['seg_map_path']
        try:
            _want_8_bits(path)
            results = self.load(results)
        except FileNotFoundError as error:
            raise UserError(f'the label map {path} does not exist') from error
        except (OSError, SyntaxError, ValueError, AttributeError) as error:  # of the decoders
            raise UserError(f'cannot read the label map {path}: {error}; fetch it again') from error
        labels, image = results['gt_seg_map'], results.get('ori_shape')
        if labels.ndim != 2:
            raise UserError(
                f'the label map {path} has the shape {labels.shape}; (height, width) is wanted, '
                'with the class of each pixel in one channel'
            )
        if image is not None and labels.shape != tuple(image[:2]):
            height, width = labels.shape
            raise UserError(
                f'the label map {path} is {width}x{height} pixels, and its image '
                f'{results.get("img_path")} is {image[1]}x{image[0]}'
            )
        self._check_labels(path, labels, results)
        return results

    def _check_labels(self, path: str, labels: np.ndarray, results: dict) -> None:
        if self.num_classes is None:
            return
        none = (_NOT_LABELLED, self.ignore_index)
        bad = np.unique(labels[(labels >= self.num_classes) & ~np.isin(labels, none)])
        if not bad.size:
            return
        # a choice of classes is made out of all that the files have
        last = len(results.get('label_map') or range(self.num_classes)) - 1
        if results.get('reduce_zero_label'):
            told = f'{bad[0] + 1}, which reduce_zero_label makes class {bad[0]}'
            way = f'labels in the file must be 1 to {last + 1}, or 0 where nothing is labelled'
        else:
            told = str(bad[0])
            way = (
                f'labels must be 0 to {last}, or {self.ignore_index} where nothing is labelled; if '
                'they count from 1, as those of ADE20K do, set reduce_zero_label=True in the data '
                'set'
            )
        raise UserError(
            f'the label map {path} has the label {told}, but there are {last + 1} classes; {way}'
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.load!r}, num_classes={self.num_classes})'


def _want_8_bits(path: str) -> None:
    """Raise `UserError` if labels would be cut to 8 bits, as mmseg does without a word."""
    if '://' in path:
        return
    with Image.open(path) as image:
        if image.mode in _WIDE_MODES and (largest := np.array(image).max()) > _NOT_LABELLED:
            raise UserError(
                f'the label map {path} has the label {largest}; mmseg reads labels of 8 bits, up '
                'to 255'
            )


def has_seg_maps(dataset: Any) -> bool:
    """Whether it is one of mmseg's data sets of images and names label maps."""
    return hasattr(dataset, 'reduce_zero_label') and 'seg_map_path' in dataset.data_prefix


def want_seg_maps(dataset: Any, where: str) -> None:
    """Raise `UserError` if images of a data set of mmseg have no label map.

    Args:
        dataset: the data set.
        where: the name of its data loader, for the message.
    """
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    paths = [info['seg_map_path'] for info in infos if 'seg_map_path' in info]
    if dataset.backend_args or (paths and '://' in paths[0]):
        return  # not on this disk
    if missing := [path for path in paths if not Path(path).exists()]:
        raise UserError(
            f'{where}: {len(missing)} of {len(paths)} images have no label map, first of all '
            f'{missing[0]}; a map has the name of its image, and ends in '
            f'{dataset.seg_map_suffix} (seg_map_suffix)'
        )


def guard_seg_maps(dataset: Any) -> list[SegMapGuard]:
    """Let a data set of mmseg load its label maps through `SegMapGuard`; returns the guards.

    Args:
        dataset: the data set; its pipeline is changed in place.
    """
    classes = dataset.metainfo.get('classes')
    num_classes = None if classes is None else len(classes)
    guards = []
    for steps in _step_lists(dataset.pipeline):
        for i, step in enumerate(steps):
            if isinstance(step, LoadAnnotations):
                steps[i] = SegMapGuard(step, num_classes, dataset.ignore_index)
            if isinstance(steps[i], SegMapGuard):
                guards.append(steps[i])
    return guards


def _step_lists(step: Any) -> Iterator[list]:
    """The lists of transforms in a pipeline, those inside other transforms included."""
    inner: Any = getattr(step, 'subroutines', None) or getattr(step, 'transforms', None)
    if isinstance(inner, list):
        yield inner
        for item in inner:
            yield from _step_lists(item)
    elif inner is not None:  # a transform around a pipeline of its own
        yield from _step_lists(inner)
