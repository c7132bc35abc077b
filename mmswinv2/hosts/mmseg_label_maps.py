"""Label maps of mmseg's data sets: they are there, and fit their images and classes.

mmseg checks no label map: a map of another size than its image trains on the wrong pixels, labels
that do not fit into 8 bits become other labels, and a label beyond the classes ends in a failed
assertion on the GPU that names no file.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio

from ..errors import UserError
from ..files import IMAGES
from ..log import warn
from .configs import as_list, reads_elsewhere, step_lists, steps_in
from .label_maps import NOT_LABELLED, check_file, check_map_size, check_shape
from .mmcv import name_file

# where the functions are defined that decode a file of labels by `mmcv.imfrombytes`
_READERS = ('mmseg.datasets.transforms.loading', 'mmcv.transforms.loading')

_FEW_CLASSES = 10  # with more classes, some may be too rare for a warning


class SegMapGuard:
    """Loads a label map as `load` does, and refuses one that is damaged, misfits or has bad labels.

    Files are checked only if mmseg's own method decodes them, as a subclass may read other formats.
    They are then read twice, so that every file backend of mmengine works.

    Args:
        load: mmseg's ``LoadAnnotations``.
        num_classes: classes of the data set; labels are 0 to ``num_classes - 1``. ``None`` if
            unknown: labels are not checked.
        ignore_index: the label of ignored pixels, besides 255.
    """

    with_seg = True  # as of the hosts' own steps that load label maps

    def __init__(
        self, load: Any, num_classes: int | None = None, ignore_index: int = NOT_LABELLED
    ) -> None:
        self.load, self.num_classes, self.ignore_index = load, num_classes, ignore_index
        self.backend_args = getattr(load, 'backend_args', None)
        self.decodes = type(load)._load_seg_map.__module__ in _READERS
        self.ignores = ''  # which head takes 255 for a class

    def __call__(self, results: dict) -> dict:
        """Add ``gt_seg_map`` (H, W), or raise `UserError` naming the file."""
        path, size = results['seg_map_path'], None
        with name_file(path, 'label map', self.decodes):
            if self.decodes:
                content = fileio.get(path, backend_args=self.backend_args)
                size = check_file(path, content, self.load.imdecode_backend)
            results = self.load(results)
        labels, image = results['gt_seg_map'], results.get('ori_shape')
        if size is not None and labels.ndim < 2:  # mmseg drops an axis of one pixel
            labels = results['gt_seg_map'] = labels.reshape(size)
        check_shape(path, labels)
        if image is None:  # it is loaded later, and held to these
            results['height'], results['width'] = labels.shape
        else:
            check_map_size(results, image)
        self._check_labels(path, labels, results)
        return results

    def _check_labels(self, path: str, labels: np.ndarray, results: dict) -> None:
        """Raise `UserError` for a label that is no class, or that a head takes for one."""
        if self.num_classes is None:
            return
        if self.ignores and self.num_classes <= NOT_LABELLED and (labels == NOT_LABELLED).any():
            both = '' if self.ignore_index == NOT_LABELLED else ', and that of the data set too'
            raise UserError(
                f'the label map {path} has pixels that are not labeled ({NOT_LABELLED}), and '
                f'{self.ignores}; set its ignore_index={NOT_LABELLED}{both}'
            )
        none = (NOT_LABELLED, self.ignore_index)
        bad = np.unique(labels[(labels >= self.num_classes) & ~np.isin(labels, none)])
        if not bad.size:
            return
        # if the data set selects classes, files still have the labels of all classes
        last = len(results.get('label_map') or range(self.num_classes)) - 1
        if results.get('reduce_zero_label'):
            label = f'{bad[0] + 1}, which reduce_zero_label makes class {bad[0]}'
            way = f'labels in the file must be 1 to {last + 1}, or 0 where nothing is labeled'
        else:
            label = str(bad[0])
            way = (
                f'labels must be 0 to {last}, or {self.ignore_index} where nothing is labeled; if '
                'they count from 1, as those of ADE20K do, set reduce_zero_label=True in the data '
                'set'
            )
        raise UserError(
            f'the label map {path} has the label {label}, but there are {last + 1} classes; {way}'
        )


def has_seg_maps(dataset: Any) -> bool:
    """Whether a data set is one of mmseg's for images and has label maps."""
    return hasattr(dataset, 'reduce_zero_label') and 'seg_map_path' in dataset.data_prefix


def refuse_missing_prefix(dataset: Any, where: str) -> None:
    """Raise `UserError` if a data set of mmseg is to load label maps from a folder of no name."""
    from mmcv.transforms import LoadAnnotations

    steps = steps_in(dataset.pipeline) if hasattr(dataset, 'reduce_zero_label') else ()
    loads = any(isinstance(step, LoadAnnotations) for step in steps)
    if loads and len(dataset) and 'seg_map_path' not in dataset.get_data_info(0):
        raise UserError(
            f'{where}: the pipeline has LoadAnnotations, and data_prefix of the data set no '
            'seg_map_path; set it to the folder of the label maps, or take LoadAnnotations out'
        )


def require_seg_maps(dataset: Any, where: str) -> None:
    """Raise `UserError` if images of a data set of mmseg have no label map."""
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    paths = [info['seg_map_path'] for info in infos if 'seg_map_path' in info]
    if reads_elsewhere(dataset) or (paths and '://' in paths[0]):
        return  # not on this disk
    if missing := [path for path in paths if not Path(path).exists()]:
        raise UserError(
            f'{where}: {len(missing)} of {len(paths)} images have no label map, first of all '
            f'{missing[0]}; a map has the name of its image, and ends in '
            f'{dataset.seg_map_suffix} (seg_map_suffix)'
        )


def warn_of_other_endings(dataset: Any, where: str, joined: Sequence[Any]) -> None:
    """Warn of images that have a label map and another ending than ``img_suffix``: they are unused.

    Only where mmseg lists a folder of this disk. `joined` are this data set and those joined with
    it, which may use other endings of that folder.
    """
    from mmseg.datasets import BaseSegDataset

    if type(dataset).load_data_list is not BaseSegDataset.load_data_list:
        return  # a class of the user's own may have neither prefix nor ending
    folder, maps = (dataset.data_prefix.get(key) or '' for key in ('img_path', 'seg_map_path'))
    ending, listed = dataset.img_suffix, not os.path.isfile(dataset.ann_file)
    if not listed or not isinstance(ending, str) or not os.path.isdir(folder):
        return
    shared = (other for other in joined if other.data_prefix.get('img_path') == folder)
    suffixes = (getattr(other, 'img_suffix', None) for other in shared)
    used = tuple(suffix.lower() for suffix in suffixes if isinstance(suffix, str))
    unused = []
    for name in fileio.list_dir_or_file(folder, list_dir=False, recursive=True):
        path, (stem, other) = os.path.join(folder, name), os.path.splitext(name)
        if other.lower() not in IMAGES or name.lower().endswith(used):
            continue
        seg_map = os.path.join(maps, stem + dataset.seg_map_suffix)
        twin = os.path.exists(os.path.join(folder, stem + ending))  # the same image again
        if path != seg_map and not twin and os.path.isfile(seg_map):
            unused.append(path)
    if unused:
        warn(
            f'{where}: {len(unused)} images that have a label map are not used, as they do not end '
            f'in {ending} (img_suffix), first of all {unused[0]}; join a data set for each ending '
            'by ConcatDataset, or convert them'
        )


def guard_seg_maps(dataset: Any) -> list[SegMapGuard]:
    """Let a data set of mmseg load its label maps through `SegMapGuard`; returns the guards.

    The pipeline is changed in place.
    """
    from mmcv.transforms import LoadAnnotations

    classes = dataset.metainfo.get('classes')
    num_classes = None if classes is None else len(classes)
    guards = []
    for steps in step_lists(dataset.pipeline):
        for i, step in enumerate(steps):
            if isinstance(step, LoadAnnotations):
                own = getattr(step, 'reduce_zero_label', None)
                if own is not None and own != dataset.reduce_zero_label:
                    raise UserError(
                        f'LoadAnnotations has reduce_zero_label={own}, and its data set '
                        f'{dataset.reduce_zero_label}; set it in the data set alone'
                    )
                steps[i] = SegMapGuard(step, num_classes, dataset.ignore_index)
            if isinstance(steps[i], SegMapGuard):
                guards.append(steps[i])
    return guards


def warn_of_absent_classes(
    dataset: Any, guard: SegMapGuard, where: str, seconds: float = 2.0
) -> None:
    """Log a warning if classes of a data set of mmseg have no pixel in its label maps.

    Maps are drawn at random until every class has been seen, or any two of more than 10 classes.

    `guard` loads them, for `seconds` at most; raises `UserError` if one cannot be used.
    """
    classes: Sequence[str] = dataset.metainfo.get('classes') or ()
    few = len(classes) <= _FEW_CLASSES
    pixels, looked_at, deadline = Counter[int](), 0, time.monotonic() + seconds
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    while len(seen := [i for i in range(len(classes)) if pixels[i]]) < (len(classes) if few else 2):
        if looked_at == len(order) or time.monotonic() > deadline:
            break
        labels = guard(dataset.get_data_info(order[looked_at]))['gt_seg_map']
        values, counts = np.unique(labels, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        looked_at += 1
    else:
        return
    if dataset.reduce_zero_label:
        first = (dataset.METAINFO.get('classes') or classes)[0]  # `classes` may be some of these
        why = f'reduce_zero_label=True takes 0 in a file for not labeled, and 1 for {first}'
    elif pixels[NOT_LABELLED]:
        why = '255 counts as not labeled; in masks of 0 and 255, write the class in place of 255'
    else:
        why = 'look at the values of the maps, and at the order of the classes'
    found = ', '.join(f'{classes[i]} {pixels[i]}' for i in (range(len(classes)) if few else seen))
    warn(
        f'{where}: {len(classes) - len(seen)} of {len(classes)} classes occur in none of the '
        f'{looked_at} label maps looked at, of {len(order)} (pixels: {found or "none"}; not '
        f'labeled {pixels.total() - sum(pixels[i] for i in seen)}); {why}'
    )


def check_scored_size(dataset: Any, name: str, loader: str) -> None:
    """Raise `UserError` if label maps are resized, as predictions have the size of the file."""
    steps = {type(step).__name__ for step in steps_in(dataset.pipeline)}
    if not {'LoadImageFromFile', 'PackSegInputs'} <= steps:
        return
    for sample in as_list(dataset[0]['data_samples']):
        known = {'gt_sem_seg', 'ori_shape'}.issubset(sample.all_keys())
        if known and sample.gt_sem_seg.shape != tuple(sample.ori_shape):
            raise UserError(
                f'{name} compares predictions of the size of the image file with label maps, and '
                f'{loader} resizes these; put LoadAnnotations after Resize in its pipeline'
            )
