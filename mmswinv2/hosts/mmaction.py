"""mmaction2: video classifiers."""

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from ..checks import class_names
from ..errors import UserError
from ..log import warn
from . import mmaction_patches
from .configs import as_list, inner_datasets, package_of, steps_in, type_name
from .host import FILE_KEYS, Host
from .mmaction_import import make_importable
from .patching import patches_in
from .pipelines import has_own_steps


class MMAction(Host):
    """mmaction2."""

    name = 'mmaction'
    extra = 'video'
    beside = ', and pip install --no-deps mmaction2==1.2.0'
    early_patches = (make_importable,)
    patches = (*Host.patches, *patches_in(name, mmaction_patches))
    input_axes = 3
    draw_option = 'enable'
    draw_folder = 'default_hooks.visualization.out_dir'
    visualizer = 'ActionVisualizer'
    kind_of_model = 'Video classifier'
    lists = {  # noqa: RUF012, a constant
        'RawframeDataset': (
            r'\S+(\s+-?[0-9]+)+',
            '"folder frames label", the latter whole numbers',
        ),
        'VideoDataset': (r'\S.*', '"path label"'),
    }
    scores = (('AccMetric', 'acc', 'mean1', *(f'top{k}' for k in range(1, 101))),)
    analysis_tools = ('confusion_matrix', 'report_accuracy', 'analyze_logs')

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Refuse labels that are no class of the head, and steps that do not fit together."""
        if hasattr(dataset, 'modality'):  # a data set of mmaction2
            check_decoding(dataset, where)
        num_classes = getattr(getattr(model, 'cls_head', None), 'num_classes', None)
        if num_classes is None or not hasattr(dataset, 'multi_class'):
            return False
        check_video_labels(dataset, num_classes, where)
        check_axes(dataset, model, where)
        if where == 'train_dataloader':
            check_single_view(dataset, model, where)
            check_targets(dataset, model, where)
        elif not getattr(dataset, 'skip_unreadable', False):
            require_videos(dataset, where)
        return True

    def check_batch(self, model: Any, batch_size: int, where: str) -> None:
        """Require a batch size of 1 where views are tested in groups.

        A 3-D recognizer with ``max_testing_views`` takes the views of a single video, and fails an
        assertion on a larger batch.
        """
        views = (getattr(model, 'test_cfg', None) or {}).get('max_testing_views')
        if views and batch_size > 1 and 'Recognizer3D' in class_names(model):
            raise UserError(
                f'{where} has batch_size={batch_size}, and model.test_cfg max_testing_views='
                f'{views}, which is for one video at a time; set {where}.batch_size=1, or leave '
                'max_testing_views out'
            )

    def check_metric(self, metric: Any, dataset: Any, where: str, model: Any = None) -> None:
        """Refuse scores of single labels for videos with several, and of single views."""
        if type(metric).__name__ != 'AccMetric':
            return
        single = {'top_k_accuracy', 'mean_class_accuracy'}.intersection(metric.metrics)
        several = any(getattr(d, 'multi_class', False) for d in inner_datasets(dataset))
        if single and several:
            raise UserError(
                f'AccMetric of {where} has {", ".join(sorted(single))}, for videos with one label, '
                "and the data set multi_class=True; set metric_list=('mean_average_precision',)"
            )
        head = getattr(model, 'cls_head', None)
        merged = getattr(head, 'average_clips', '')
        if merged is None and package_of(head) == self.name:  # users' may merge by themselves
            raise UserError(
                f'AccMetric of {where} takes one view, and average_clips=None keeps all of them: '
                f'set average_clips={"score" if several else "prob"!r} in model.cls_head'
            )
        if several and merged == 'prob':
            warn(
                f"AccMetric of {where} ranks by average_clips='prob', a softmax by which labels of "
                "one video lower each other: set average_clips='score' in model.cls_head"
            )

    def default_tta_model(self, cfg: Any) -> None:
        """Raise `UserError`, as the views of a video come from the test pipeline itself."""
        raise UserError(
            '--tta: the views of a video are those of the test pipeline, whose scores are averaged '
            'anyhow: raise num_clips of SampleFrames or crop by ThreeCrop in test_dataloader, and '
            'leave --tta out'
        )

    def keep_file_names(self, dataset: Any) -> None:
        """Add `FILE_KEYS` to the ``meta_keys`` of ``PackActionInputs``, which has none of them."""
        for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
            if type(transform).__name__ == 'PackActionInputs':
                transform.meta_keys = tuple(dict.fromkeys((*transform.meta_keys, *FILE_KEYS)))

    def frames(self, cfg: Any, sampling: Any) -> int:
        """Number of frames: of a clip, or of all clips for 2-D recognizers."""
        clips = sampling.get('num_clips', 1) if _of_images(cfg) else 1
        return int(sampling['clip_len']) * int(clips)

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Clips with a class each."""
        from mmaction.structures import ActionDataSample

        frames, *pixels = size
        shape = (frames, 3, *pixels) if _of_images(cfg) else (1, 3, *size)
        inputs = [torch.randint(256, shape, dtype=torch.uint8) for _ in range(count)]
        samples = [ActionDataSample().set_gt_label(0) for _ in inputs]
        return dict(inputs=inputs, data_samples=samples)

    def run_head(self, model: Any, outputs: Any) -> None:
        """Run the head on the maps of the backbone, for one sample."""
        if type(model).__name__ == 'Recognizer2D':
            model.cls_head(outputs, len(outputs))
        else:
            model.cls_head(outputs)


def _of_images(cfg: Any) -> bool:
    return type_name(cfg.model) == 'Recognizer2D'


def check_decoding(dataset: Any, where: str) -> None:
    """Raise `UserError` if frames are not read as the data set and the other steps want it."""
    kinds = {name for step in steps_in(dataset.pipeline) for name in class_names(step)}
    decoders = '(Decord|PyAV|OpenCV|Video)(Init|Decode)'
    steps = sorted(kind for kind in kinds if re.fullmatch(decoders, kind))
    if len({re.sub('Init|Decode', '', step) for step in steps}) > 1:
        raise UserError(
            f'{where}: the pipeline has {", ".join(steps)}; take both mmswinv2.VideoInit '
            'and mmswinv2.VideoDecode, or both of the others'
        )
    if steps and hasattr(dataset, 'filename_tmpl') and getattr(dataset, 'use_frames', True):
        raise UserError(
            f'{where}: {type(dataset).__name__} lists folders of frames, and the pipeline opens '
            'videos; take RawFrameDecode alone, or a VideoDataset'
        )
    if getattr(dataset, 'start_index', 0) and steps:
        raise UserError(
            f'{where}: the data set has start_index={dataset.start_index}, and frames of videos '
            'are counted from 0; set start_index=0'
        )


def check_axes(dataset: Any, model: Any, where: str) -> None:
    """Raise `UserError` if means are taken from another axis than that of the channels."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    wanted = getattr(preprocessor, 'format_shape', None)
    if not any(getattr(preprocessor, key, False) for key in ('_enable_normalize', 'to_rgb')):
        return
    for step in steps_in(dataset.pipeline):
        given = getattr(step, 'input_format', wanted)
        if {given, wanted} == {'NCHW', 'NCTHW'}:
            raise UserError(
                f'{where}: {type(step).__name__} has input_format={given!r}, and '
                f'model.data_preprocessor format_shape={wanted!r}; give both NCTHW for a '
                'Recognizer3D, NCHW for a Recognizer2D'
            )


def check_single_view(dataset: Any, model: Any, where: str) -> None:
    """Raise `UserError` if a 3-D recognizer is trained on several views of a video at a time."""
    if type(model).__name__ != 'Recognizer3D':  # others may train on several
        return
    views = []
    for step in steps_in(dataset.pipeline):
        name, clips = type(step).__name__, getattr(step, 'num_clips', 1)
        if clips > 1:
            views.append(f'{name} with num_clips={clips}')
        elif name in ('ThreeCrop', 'FiveCrop', 'TenCrop', 'UntrimmedSampleFrames'):
            views.append(name)
    if views:
        raise UserError(
            f'{where}: the pipeline has {" and ".join(views)}, several views of a video, and '
            'Recognizer3D trains on one; set num_clips=1 of SampleFrames, crop by '
            'RandomResizedCrop, and keep the views for the test'
        )


def check_targets(dataset: Any, model: Any, where: str) -> None:
    """Raise `UserError` if the loss gets labels of another form than it takes."""
    head = model.cls_head
    for step in steps_in(dataset.pipeline):
        changed: dict = getattr(step, 'flip_label_map', None) or {}
        known = set(range(head.num_classes)).issuperset((*changed, *changed.values()))
        if changed and (dataset.multi_class or not known):
            raise UserError(
                f'{where}: Flip has flip_label_map={changed}, which maps the labels 0 to '
                f'{head.num_classes - 1} of videos with one label; mend it, or leave it out'
            )
    mixing = getattr(getattr(model, 'data_preprocessor', None), 'blending', None)
    for part in getattr(mixing, 'augments', [mixing]):  # of RandomBatchAugment
        number = getattr(part, 'num_classes', None)
        if number not in (None, head.num_classes) and not dataset.multi_class:
            raise UserError(
                f'model.data_preprocessor.blending has num_classes={number}, and model.cls_head '
                f'{head.num_classes}; give them the same'
            )
    one = not (dataset.multi_class or mixing or getattr(head, 'label_smooth_eps', 0))
    takes_several = type(getattr(head, 'loss_cls', None)).__name__ == 'BCELossWithLogits'
    if one and takes_several and not has_own_steps(dataset):
        raise UserError(
            f'model.cls_head has BCELossWithLogits, for videos with several labels, and those of '
            f'{where} have one; take CrossEntropyLoss, or set multi_class=True and num_classes in '
            'the data sets'
        )


def require_videos(dataset: Any, where: str) -> None:
    """Raise `UserError` if videos, or folders of their frames, do not exist."""
    listed = {'VideoDataset', 'RawframeDataset'} & class_names(dataset)
    if not listed or has_own_steps(dataset):  # names of other kinds are no paths
        return
    if any(getattr(step, 'io_backend', 'disk') != 'disk' for step in steps_in(dataset.pipeline)):
        return
    videos = [BaseDataset.get_data_info(dataset, i) for i in range(len(dataset))]
    names = [video.get('filename') or video.get('frame_dir') or '://' for video in videos]
    if missing := [name for name in names if not ('://' in name or os.path.exists(name))]:
        skip = ', or set skip_unreadable=True' if hasattr(dataset, 'skip_unreadable') else ''
        raise UserError(
            f'{where}: {len(missing)} of {len(names)} videos do not exist, first of all '
            f'{missing[0]}; mend {dataset.ann_file} or data_prefix{skip}'
        )


def check_video_labels(dataset: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a video has a label that is no class of the head.

    mmaction2 itself would end in a failed assertion on the GPU, or count the video as wrong.
    """
    if dataset.multi_class and dataset.num_classes != num_classes:
        raise UserError(
            f'{where}: the data set has num_classes={dataset.num_classes}, and model.cls_head '
            f'{num_classes}; give both the same'
        )
    info = dataset.get_data_info
    if dataset.multi_class:  # mmaction2's own makes a vector, and fails on wrong labels
        info = functools.partial(BaseDataset.get_data_info, dataset)
    unlabelled = 0
    for i, video in enumerate(map(info, range(len(dataset)))):
        if (frames := video.get('total_frames', 1)) < 1:
            raise UserError(
                f'{where}: {dataset.ann_file}, video {i + 1}: {video.get("frame_dir")} has '
                f'{frames} frames, of which no clip can be made; mend the list'
            )
        given = video.get('label')
        labels = [label for label in as_list(given) if isinstance(label, (int, np.integer))]
        one = not isinstance(given, list)  # -1 is none then
        if (labels and labels[0] < 0) if one else not given:
            unlabelled += 1
        elif wrong := [label for label in labels if not 0 <= label < num_classes]:
            entry = video.get('where') or f'{dataset.ann_file}, video {i + 1}'
            name = video.get('filename') or video.get('frame_dir')
            raise UserError(
                f'{where}: {entry}: label {wrong[0]} of {name}, but model.cls_head has num_classes='
                f'{num_classes}, labels 0 to {num_classes - 1}'
            )
    if unlabelled:
        finding = f'{where}: {unlabelled} of {len(dataset)} videos have no label'
        if where == 'train_dataloader' and not dataset.multi_class:  # else it is of no class
            raise UserError(f'{finding}; give them one, or take them out of the list')
        if where != 'train_dataloader':
            effect = 'count as wrong in scores; only what --dump writes means something'
            if dataset.multi_class:
                effect = 'are of no class'
            warn(f'{finding} and {effect}')
