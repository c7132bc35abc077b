"""Patches of mmseg, with the versions that need them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot as one_hot_labels

from ..log import warn
from .label_maps import NOT_LABELLED, count_areas, f_scores
from .patching import patch, replace


@patch('mmseg', '>=1')
def find_endings_in_capitals() -> None:
    """Images in a folder are found whose endings are in capitals, or img_suffix is."""
    from mmseg.datasets import BaseSegDataset

    @replace(BaseSegDataset, 'load_data_list')
    def load_data_list(original: Any, self: Any) -> list[dict]:
        images, ending = original(self), self.img_suffix
        # else of a list, of several endings, or of one with a part of the name or without letters
        plain = isinstance(ending, str) and ending.startswith('.') and ending.swapcase() != ending
        if os.path.isfile(self.ann_file) or not plain:
            return images
        self.img_suffix = ending.swapcase()
        try:
            return sorted(images + original(self), key=lambda image: image['img_path'])
        finally:
            self.img_suffix = ending


@patch('mmseg', '>=1')
def draw_label_maps() -> None:
    """Label maps are drawn on any image, whose pixels of no class keep their color.

    OpenCV refuses images that are views on their memory, as mmseg's own browse_dataset.py has them.
    """
    from mmseg.visualization import SegLocalVisualizer

    @replace(SegLocalVisualizer, '_draw_sem_seg')
    def draw(
        original: Any, self: Any, image: np.ndarray, sem_seg: Any, classes: Any, *args: Any,
        **kwargs: Any,
    ) -> np.ndarray:  # fmt: skip
        image = np.ascontiguousarray(image)
        drawn = original(self, image, sem_seg, classes, *args, **kwargs)
        # mmseg blends them with black; names that stand on them stay
        black = (drawn == (image * (1 - self.alpha)).astype(np.uint8)).all(-1)
        none = np.asarray(sem_seg.cpu().data[0]) >= len(classes)
        drawn = np.where((none & black)[..., None], image, drawn)
        self.set_image(drawn)
        return drawn


@patch('mmseg', '>=1.2')
def place_names() -> None:
    """Placing the name of a class on an image makes no list of all its pixels."""
    from mmseg.visualization import SegLocalVisualizer

    @replace(SegLocalVisualizer, '_get_center_loc')
    def middle_of_longest_row(original: Any, self: Any, mask: np.ndarray) -> np.ndarray:
        row = np.count_nonzero(mask, 1).argmax()
        columns = mask[row].nonzero()[0]
        return np.array([columns[len(columns) // 2], row])


@patch('mmseg', '>=1')
def read_volumes_without_code() -> None:
    """Reading a volume from a pickle runs no code from it."""
    import mmseg.utils.io

    from ..checkpoints.pickles import PlainPickle

    mmseg.utils.io.pickle = PlainPickle


@patch('mmseg', '>=1.2')
def mend_losses() -> None:
    """Losses take one channel, ignored pixels beside weights of classes, and tensors on a CPU."""
    from mmseg.models.losses import cross_entropy_loss, dice_loss, focal_loss

    @replace(dice_loss, '_expand_onehot_labels_dice')
    def one_hot(expand: Any, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # mmseg takes the first class for the only channel, which stands for the second
        return (target == 1)[:, None].long() if pred.shape[1] == 1 else expand(pred, target)

    @replace(cross_entropy_loss, 'cross_entropy')
    def cross_entropy(original: Any, pred: Any, label: Any, *args: Any, **options: Any) -> Any:
        weights, mean = options.get('class_weight'), options.get('reduction', 'mean') == 'mean'
        if weights is not None and options.get('avg_factor') is None and mean:
            labelled = label[label != options.get('ignore_index', -100)]
            options['avg_factor'] = weights[labelled].sum()
        return original(pred, label, *args, **options)

    @replace(cross_entropy_loss, 'binary_cross_entropy')
    def binary(
        original: Any, pred: Any, label: Any, weight: Any = None, *args: Any, **options: Any
    ) -> Any:
        if pred.shape[1] == 1 and (label == options.get('ignore_index', -100)).all():
            label = weight = torch.zeros_like(label)  # mmseg looks for the largest of no labels
        if (weights := options.get('class_weight')) is not None and pred.ndim == 4:
            options['class_weight'] = weights[:, None, None]  # mmseg takes them for columns
        return original(pred, label, weight, *args, **options)

    @replace(focal_loss.FocalLoss, 'forward')
    def forward(
        original: Any, self: Any, pred: Any, target: Any, weight: Any = None, *args: Any,
        **options: Any,
    ) -> Any:  # fmt: skip
        if not pred.is_cuda and target.ndim < pred.ndim:  # mmseg keeps a column of zeros alone
            labelled = target != options.get('ignore_index', NOT_LABELLED)
            target = one_hot_labels(torch.where(labelled, target, 0), max(pred.shape[1], 2))
            target = target.movedim(-1, 1)[:, -pred.shape[1] :]
            mask = labelled.reshape(-1, 1)
            weight = mask if weight is None else mask * weight.reshape(len(mask), -1)
        return original(self, pred, target, weight, *args, **options)


@patch('mmseg', '>=1')
def pack_sizes() -> None:
    """Segmentors predict whatever meta_keys of PackSegInputs has."""
    from mmseg.datasets.transforms import PackSegInputs

    @replace(PackSegInputs, 'transform')
    def transform(original: Any, self: Any, results: dict) -> dict:
        packed = original(self, results)
        needed = ('ori_shape', 'img_shape', 'pad_shape', 'flip', 'flip_direction')
        known = {key: results[key] for key in needed if key in results}
        packed['data_samples'].set_metainfo(known)
        return packed


@patch('mmseg', '>=1')
def gather_at_one_size() -> None:
    """OCRHead takes the scores of a head whose maps are larger or smaller than its own."""
    from mmseg.models.decode_heads.ocr_head import SpatialGatherModule
    from mmseg.models.utils import resize

    @replace(SpatialGatherModule, 'forward')
    def forward(original: Any, self: Any, feats: torch.Tensor, probs: torch.Tensor) -> Any:
        return original(self, feats, resize(probs, feats.shape[2:], mode='bilinear'))


@patch('mmseg', '>=1')
def merge_probabilities() -> None:
    """Views of a segmentor with one channel are merged by their probabilities."""
    from mmseg.models import SegTTAModel

    @replace(SegTTAModel, 'merge_preds')
    def merge_preds(original: Any, self: Any, data_samples_list: Any) -> Any:
        if self.module.out_channels == 1:
            for view in [view for views in data_samples_list for view in views]:
                view.seg_logits.data = view.seg_logits.data.logit()  # mmseg takes the sigmoid again
        return original(self, data_samples_list)


@patch('mmseg', '>=1')
def keep_files() -> None:
    """CityscapesMetric deletes no folder that has held files before."""
    from mmseg.evaluation.metrics.citys_metric import CityscapesMetric

    @replace(CityscapesMetric, '__init__')
    def init(original: Any, self: Any, output_dir: str, *args: Any, **kwargs: Any) -> None:
        held = Path(output_dir).is_dir() and any(Path(output_dir).iterdir())
        original(self, output_dir, *args, **kwargs)
        if held and not self.keep_results:
            self.keep_results = True  # else it deletes the folder in the end
            warn(f'{output_dir} (output_dir of CityscapesMetric) holds files, so it is kept')


@patch('mmseg', '>=1')
def count_every_pixel() -> None:
    """All pixels of a large image count in its mIoU."""
    from mmseg.evaluation import IoUMetric

    IoUMetric.intersect_and_union = staticmethod(count_areas)


@patch('mmseg', '>=1')
def count_classes_never_found() -> None:
    """Classes that a model never gets right count in mFscore and mPrecision, with 0."""
    from mmseg.evaluation import IoUMetric

    @replace(IoUMetric, 'total_area_to_metrics')
    def total_area_to_metrics(
        original: Any, total_area_intersect: Any, total_area_union: Any, total_area_pred_label: Any,
        total_area_label: Any, metrics: Any = ('mIoU',), nan_to_num: Any = None, beta: float = 1,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        areas = (total_area_intersect, total_area_union, total_area_pred_label, total_area_label)
        scores = original(*areas, metrics, nan_to_num, beta)
        if 'Fscore' in scores:
            for name, own in f_scores(areas[0], *areas[2:], beta).items():
                scores[name] = own if nan_to_num is None else np.nan_to_num(own, nan=nan_to_num)
        return scores

    IoUMetric.total_area_to_metrics = staticmethod(IoUMetric.total_area_to_metrics)
