"""Patches of mmaction2, with the versions that need them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .patching import patch, replace, restore_numpy_names


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
def name_unreadable_videos() -> None:
    """A video that decord, PyAV or OpenCV cannot read is named."""
    from mmaction.datasets import transforms

    from ..datasets.video_files import UnreadableVideo

    libraries = ('Decord', 'PyAV', 'OpenCV')
    steps = [f'{library}{part}' for library in libraries for part in ('Init', 'Decode')]

    @replace(tuple(getattr(transforms, step) for step in steps), 'transform')
    def transform(original: Any, self: Any, results: dict) -> dict:
        try:
            opened = original(self, results)
            if opened.get('total_frames') == 0:  # mmaction2 would repeat the first
                raise IndexError('it has no frames, or does not say how many, as of Matroska')
        except Exception as error:
            of_library = type(error).__module__.startswith(('av.', 'decord.'))
            # decord raises RuntimeError, too; IndexError is for a stream or frame that is not there
            if not of_library and type(error) not in (RuntimeError, IndexError):
                raise
            raise UnreadableVideo(
                f'{type(self).__name__} cannot read the video {results["filename"]}: {error}; try '
                'mmswinv2.VideoInit and mmswinv2.VideoDecode in the pipeline'
            ) from error
        return opened


@patch('mmaction', '>=1')
def refuse_unknown_actions() -> None:
    """Labels of AVA that are no class of the data set are named."""
    from mmaction.datasets import AVADataset, AVAKineticsDataset

    @replace((AVADataset, AVAKineticsDataset), 'parse_img_record')
    def parse_img_record(original: Any, self: Any, img_records: list[dict]) -> tuple:
        for record in img_records:
            if not 0 <= record['label'] < self.num_classes:  # -1 would be the last class
                raise UserError(
                    f'{self.ann_file}: label {record["label"]} of {record["video_id"]} at '
                    f'{record["timestamp"]}, and the data set has num_classes={self.num_classes}, '
                    f'labels up to {self.num_classes - 1}; mend it, or num_classes'
                )
        return original(self, img_records)


@patch('mmaction', '>=1')
def refuse_wide_frames() -> None:
    """Frames in files of more than 8 bits are refused, as images are.

    Missing ones are named, with what says which frames there are.
    """
    from mmaction.datasets.transforms import RawFrameDecode
    from mmengine import fileio

    from ..datasets.image_headers import decoding_loss

    @replace(RawFrameDecode, 'transform')
    def transform(original: Any, self: Any, results: dict) -> dict:
        if results['modality'] == 'RGB':
            number = results['frame_inds'].flat[0] + results.get('offset', 0)
            path = Path(results['frame_dir'], results['filename_tmpl'].format(number))
            content = fileio.get(path) if path.is_file() else b''
            if does := decoding_loss(content, 'color', self.decoding_backend):
                raise UserError(f'{path} is a {does}; save the frames with 8 bits, or as a video')
        try:
            return original(self, results)
        except FileNotFoundError as error:
            keys = ('total_frames', 'start_index', 'offset', 'filename_tmpl')
            known = ', '.join(f'{key}={results[key]!r}' for key in keys if key in results)
            raise UserError(
                f'the frame {error.filename} does not exist ({known}); mend the list of the data '
                'set or its options, or extract the frames again, without gaps'
            ) from error


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
def average_videos_with_labels() -> None:
    """The mean average precision of videos (MMIT) is over those that have a label."""
    from mmaction.evaluation.metrics import acc_metric

    @replace(acc_metric, 'mmit_mean_average_precision')
    def average(original: Any, scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Any:
        pairs = [pair for pair in zip(scores, labels, strict=True) if np.any(pair[1] == 1)]
        return original(*zip(*pairs, strict=True)) if pairs else np.nan


@patch('mmaction', '>=1')
def compact_poses() -> None:
    """Skeletons can be cropped by PoseCompact with NumPy 2, which has no np.Inf."""
    restore_numpy_names('mmaction.datasets.transforms.pose_transforms', 'mmaction.utils.misc')


@patch('mmaction', '>=1')
def score_actions_as_ava() -> None:
    """AVAMetric leaves out excluded frames, and counts classes that are never predicted, with 0.

    It also works with NumPy 2, which has no np.NAN, where a class that is predicted has no object.
    """
    from mmaction.evaluation.functional.ava_utils import make_image_key, read_exclusions
    from mmaction.evaluation.metrics import ava_metric

    restore_numpy_names('mmaction.evaluation.functional.ava_evaluation.metrics')

    @replace(ava_metric, 'ava_eval')
    def ava_eval(
        original: Any, found: str, kind: str, labels: str, truth: str, excluded: str | None,
        **options: Any,
    ) -> dict[str, float]:  # fmt: skip
        lines = Path(excluded).read_text().splitlines() if excluded else ()
        keys = read_exclusions(iter(lines))  # it fails on an empty list
        rows = [line.split(',') for line in Path(truth).read_text().splitlines() if line]
        rows = [row for row in rows if make_image_key(*row[:2]) not in keys]
        with Path(found).open('a') as file:  # a box of no size and score, the last of its class
            for label, row in {row[6]: row for row in rows}.items():  # on a frame that has it
                file.write(f'{row[0]},{row[1]},0,0,0,0,{label},0\n')
        if not keys:
            return original(found, kind, labels, truth, excluded, **options)
        with TemporaryDirectory() as folder:
            counted = Path(folder, 'counted.csv')
            counted.write_text(''.join(f'{",".join(row)}\n' for row in rows))
            return original(found, kind, labels, str(counted), excluded, **options)


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
        # (clips, 3, T, H, W), or (frames, 3, H, W) for 2-D recognizers, to (3, frames, H, W), which
        # those with boxes, of AVA, are already
        videos = [
            clips if 'gt_instances' in sample else clips.transpose(0, 1).flatten(1, -3)
            for clips, sample in zip(data_batch['inputs'], data_samples, strict=True)
        ]
        named = [sample.new() for sample in data_samples]
        for sample in named:
            if 'gt_label' in sample:
                sample.set_data(dict(gt_labels=sample.gt_label))
            if 'pred_label' in sample:
                found = LabelData(item=sample.pred_label, score=sample.pred_score)
                sample.set_data(dict(pred_labels=found))
        original(self, batch_idx, {**data_batch, 'inputs': videos}, named, *args, **kwargs)
