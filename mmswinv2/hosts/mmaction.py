"""mmaction2: video classifiers.

mmaction2 1.2.0 refuses mmcv 2.2 and newer when it is imported. Its patch must be in place before
that: import `mmswinv2.hosts` first.
"""

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.utils import digit_version

from ..errors import UserError
from ..log import warn
from .host import FILE_KEYS, Host, as_list, inner_datasets, package_of, steps_in, type_name
from .patching import log_patch, patch, replace, restore_numpy_names
from .pipelines import has_own_steps

_MMCV_TOO_NEW = '2.2.0'  # mmaction2 1.2.0 refuses it and later ones at import


@patch('mmaction', '<=1.2.0')
def make_importable() -> None:
    """Importing mmaction2 works beside mmcv 2.2 and newer, and without localizers.drn.

    mmaction2 refuses newer versions of mmcv, although it works with them, and its published package
    lacks the module `mmaction.models.localizers.drn`.
    """
    if 'mmaction' not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `mmaction` as usual, and patches its import."""

    searching = False

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != 'mmaction' or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = functools.partial(self.import_patched, loader.exec_module)
        return spec

    def import_patched(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Import mmaction2 with a version of mmcv that it accepts, and remove the import hooks."""
        import mmcv

        sys.meta_path.remove(self)
        vars(module.__loader__).pop('exec_module')
        version = mmcv.__version__
        if digit_version(version) >= digit_version(_MMCV_TOO_NEW):
            mmcv.__version__ = '2.1.99'
            log_patch(f'mmaction2 accepts mmcv {version}')
        try:
            exec_module(module)
        finally:
            mmcv.__version__ = version
        _stand_in_for_drn(Path(module.__path__[0]))


def _stand_in_for_drn(mmaction: Path) -> None:
    localizers = mmaction / 'models' / 'localizers'
    if not localizers.exists() or (localizers / 'drn').exists():
        return

    class DRN:
        """The localizer that the published package lacks."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError('DRN is missing from mmaction2 1.2.0 as published')

    package = ModuleType('mmaction.models.localizers.drn')
    package.__path__ = []
    module = ModuleType(f'{package.__name__}.drn')
    module.DRN = DRN  # type: ignore[attr-defined]
    sys.modules[package.__name__] = package
    sys.modules[module.__name__] = module
    log_patch('mmaction2 can do without its missing module localizers.drn')


@patch('mmaction', '>=1')
def score_in_float32() -> None:
    """Scores in bfloat16, which NumPy does not know, can be taken by heads of mmaction2."""
    from mmaction.models.heads import BaseHead

    @replace(BaseHead, 'loss_by_feat', 'predict_by_feat')
    def in_float32(
        method: Any, self: Any, cls_scores: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        return method(self, cls_scores.float(), *args, **kwargs)


@patch('mmaction', '>=1', lambda: importlib.util.find_spec('moviepy') is None)
def write_videos_by_pyav() -> None:
    """Videos can be written by mmaction2 without moviepy."""
    from mmaction.visualization.video_backend import LocalVisBackend

    from ..datasets.video_files import write_video

    @replace(LocalVisBackend, 'add_video')
    def add_video_by_pyav(
        add_video: Any,
        self: Any,
        name: str,
        frames: np.ndarray,
        step: int = 0,
        fps: int = 4,
        out_type: str = 'img',
        **kwargs: Any,
    ) -> None:
        if out_type != 'video':
            add_video(self, name, frames, step=step, fps=fps, out_type=out_type, **kwargs)
            return
        path = Path(self._save_dir, name).with_suffix('.mp4')
        write_video(path, frames[..., ::-1], fps)


@patch('mmaction', '>=1')
def refuse_wide_frames() -> None:
    """Frames in files of more than 8 bits are refused, as images are."""
    from mmaction.datasets.transforms import RawFrameDecode
    from mmengine import fileio

    from ..datasets.images import decoding_loss

    @replace(RawFrameDecode, 'transform')
    def transform(original: Any, self: Any, results: dict) -> dict:
        if results['modality'] == 'RGB':
            number = results['frame_inds'].flat[0] + results.get('offset', 0)
            path = Path(results['frame_dir'], results['filename_tmpl'].format(number))
            content = fileio.get(path) if path.is_file() else b''
            if does := decoding_loss(content, 'color', self.decoding_backend):
                raise UserError(f'{path} is a {does}; save the frames with 8 bits, or as a video')
        return original(self, results)


@patch('mmaction', '>=1')
def turn_hues_either_way() -> None:
    """Hues of clips can be turned either way by ColorJitter."""
    import cv2
    from mmaction.datasets.transforms import ColorJitter

    def adjust_hue(image: np.ndarray, factor: float) -> Any:
        hsv = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
        # OpenCV's hues are 0 to 179; mmaction2 adds in uint8, which is too small for the sum
        hsv[..., 0] = (hsv[..., 0].astype(int) + int(factor * 255)) % 180
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)

    ColorJitter.adjust_hue = staticmethod(adjust_hue)


@patch('mmaction', '>=1')
def average_classes_with_videos() -> None:
    """The mean accuracy of classes is over those that have videos, whatever is predicted."""
    from mmaction.evaluation.metrics import acc_metric

    def mean_class_accuracy(scores: Sequence[np.ndarray], labels: Sequence[int]) -> Any:
        right = np.argmax(scores, axis=1) == labels
        classes, places = np.unique(labels, return_inverse=True)  # mmaction2 adds predicted ones
        return np.mean([right[places == i].mean() for i in range(len(classes))])

    acc_metric.mean_class_accuracy = mean_class_accuracy


@patch('mmaction', '>=1')
def compact_poses() -> None:
    """Skeletons can be cropped by PoseCompact with NumPy 2, which has no np.Inf."""
    restore_numpy_names('mmaction.datasets.transforms.pose_transforms', 'mmaction.utils.misc')


@patch('mmaction', '>=1')
def draw_clips() -> None:
    """Videos can be drawn in a test: all clips of a sample, one after another.

    mmaction2's hook takes a sample to have no axis of clips, and its visualizer takes arguments and
    labels by other names than there are.
    """
    from mmaction.engine.hooks import VisualizationHook
    from mmengine.structures import LabelData

    @replace(VisualizationHook, '_draw_samples')
    def draw_samples(
        original: Any,
        self: Any,
        batch_idx: int,
        data_batch: dict,
        data_samples: Sequence[Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if not self.enable:
            return
        if 'show' in self.draw_args:
            self.draw_args['show_frames'] = self.draw_args.pop('show')
        # (clips, 3, T, H, W), or (frames, 3, H, W) for 2-D recognizers, to (3, frames, H, W)
        videos = [clips.transpose(0, 1).flatten(1, -3) for clips in data_batch['inputs']]
        named = [sample.new() for sample in data_samples]
        for sample in named:
            if 'gt_label' in sample:
                sample.set_data(dict(gt_labels=sample.gt_label))
            if 'pred_label' in sample:
                found = LabelData(item=sample.pred_label, score=sample.pred_score)
                sample.set_data(dict(pred_labels=found))
        original(self, batch_idx, {**data_batch, 'inputs': videos}, named, *args, **kwargs)


class MMAction(Host):
    """mmaction2."""

    name = 'mmaction'
    extra = 'video'
    beside = ', and pip install --no-deps mmaction2==1.2.0'
    early_patches = (make_importable,)
    patches = (
        *Host.patches, score_in_float32, write_videos_by_pyav, refuse_wide_frames,
        turn_hues_either_way, average_classes_with_videos, compact_poses, draw_clips,
    )  # fmt: skip
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
    analysis_tools = ('confusion_matrix', 'report_accuracy', 'analyze_logs', 'benchmark')

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
        kinds = [kind.__name__ for kind in type(model).__mro__]
        if views and batch_size > 1 and 'Recognizer3D' in kinds:
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
    kinds = {kind.__name__ for step in steps_in(dataset.pipeline) for kind in type(step).__mro__}
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
    kinds = {kind.__name__ for kind in type(dataset).__mro__}  # names of other kinds are no paths
    if kinds.isdisjoint(('VideoDataset', 'RawframeDataset')) or has_own_steps(dataset):
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
            f'{num_classes}'
        )
    info = dataset.get_data_info
    if dataset.multi_class:  # mmaction2's own makes a vector, and fails on wrong labels
        info = functools.partial(BaseDataset.get_data_info, dataset)
    unlabelled = 0
    for i, video in enumerate(map(info, range(len(dataset)))):
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
        told = f'{where}: {unlabelled} of {len(dataset)} videos have no label'
        if where == 'train_dataloader' and not dataset.multi_class:  # else it is of no class
            raise UserError(f'{told}; give them one, or take them out of the list')
        if where != 'train_dataloader':
            warn(f'{told} and count as wrong in scores; only what --dump writes means something')
