"""Patches of mmpretrain and torchvision, with the versions that need them."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import torch
from mmengine.model import BaseTTAModel

from ..errors import UserError
from .patching import is_installed, log_patch, patch, replace

_ENDINGS = ('.webp', '.tiff', '.jfif', '.jpe')  # of images that every OpenCV reads


def _lacks_compiled_half() -> bool:
    """Whether torchvision fails to import because its compiled part is not for this torch."""
    try:
        importlib.import_module('torchvision')
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        return True
    return False


@patch('torchvision', '>=0', _lacks_compiled_half)
def declare_operators() -> None:
    """Importing torchvision works without its compiled half.

    Its Python code needs two operators to be declared, which mmpretrain does not call.
    """
    library = torch.library.Library('torchvision', 'DEF')
    library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    torchvision: Any = importlib.import_module('torchvision')
    torchvision._mmswinv2_library = library  # operators live as long as it
    log_patch('torchvision is without its compiled operators')


def _has_multimodal_models_of_transformers_4() -> bool:
    """Whether mmpretrain takes its multimodal models for importable, which they are not."""
    return is_installed('pycocotools', '>=0') and is_installed('transformers', '>=5')


@patch('mmpretrain', '>=1', _has_multimodal_models_of_transformers_4)
def leave_out_multimodal_models() -> None:
    """Importing mmpretrain works beside transformers 5, without its multimodal models."""
    from mmpretrain.utils import dependency

    if dependency.WITH_MULTIMODAL:
        dependency.WITH_MULTIMODAL = False
        log_patch('mmpretrain is without its multimodal models, which need transformers below 5')


@patch('mmpretrain', '>=1')
def explain_wrong_crops() -> None:
    """Errors for crops larger than their image say which and what to set."""
    from mmpretrain.datasets.transforms import CenterCrop

    @replace(CenterCrop, 'transform')
    def transform(crop: Any, self: Any, results: dict) -> dict | None:
        height, width = results['img'].shape[:2]
        wanted_width, wanted_height = self.crop_size
        if (height < wanted_height or width < wanted_width) and not self.auto_pad:
            raise UserError(
                f'{results.get("img_path", "an image")} is {width}x{height} where CenterCrop wants '
                f'{wanted_width}x{wanted_height}; enlarge images first (ResizeEdge), or set '
                'auto_pad=True'
            )
        return crop(self, results)


@patch('mmpretrain', '>=1')
def label_merged_views() -> None:
    """Classes of merged views are those of the merged scores, not of the first view."""
    from mmpretrain.models import AverageClsScoreTTA, MultiLabelClsHead

    @replace(AverageClsScoreTTA, '_merge_single_sample')
    def merge(original: Any, self: Any, data_samples: Sequence[Any]) -> Any:
        merged, head = original(self, data_samples), getattr(self.module, 'head', None)
        score = merged.pred_score
        if not isinstance(head, MultiLabelClsHead):
            label = score.argmax(-1, keepdim=True)
        elif head.thr is not None:
            label = torch.where(score >= head.thr)[0]
        else:
            label = score.topk(head.topk).indices
        return merged.set_pred_label(label)


@patch('mmpretrain', '>=1')
def average_the_model_of_views() -> None:
    """Averaged weights are loaded where the model is wrapped for test-time augmentation.

    Those of the wrapper have other names than those in the file, and were left as initialized.
    """
    from mmpretrain.engine import EMAHook

    @replace(EMAHook, 'before_run')
    def before_run(original: Any, self: Any, runner: Any) -> None:
        original(self, runner)
        if isinstance(self.src_model, BaseTTAModel):
            self.src_model = self.src_model.module
            self.ema_model.module = self.ema_model.module.module


@patch('mmpretrain', '>=1')
def average_classes_with_images() -> None:
    """The mean average precision of classes is over those that some image has."""
    from mmpretrain.evaluation import AveragePrecision

    @replace(AveragePrecision, 'compute_metrics')
    def compute_metrics(original: Any, self: Any, results: list[dict]) -> dict:
        known = (torch.stack([scores['gt_score'] for scores in results]) == 1).any(0)
        if self.average is not None and known.any():
            results = [{key: value[known] for key, value in s.items()} for s in results]
        return original(self, results)


@patch('mmpretrain', '>=1')
def average_classes_that_occur() -> None:
    """Mean precision, recall and F1 are over the classes that images or predictions have."""
    from mmpretrain.evaluation.metrics import multi_label, single_label

    @replace((single_label, multi_label), '_precision_recall_f1_support')
    def averages(original: Any, found: torch.Tensor, truth: torch.Tensor, average: Any) -> tuple:
        if average != 'macro':
            return original(found, truth, average)
        *scores, support = original(found, truth, None)  # which clears what is not to be scored
        occurs = found.any(0) | truth.any(0)
        if occurs.any():
            scores = [each[occurs] for each in scores]
        return (*(each.mean(0) for each in scores), support.sum(0))


@patch('mmpretrain', '>=1')
def find_images_of_other_endings() -> None:
    """Images in folders of classes are found whose names end in .webp, .tiff, .jfif or .jpe."""
    from mmpretrain.datasets import CustomDataset, ImageNet

    @replace(CustomDataset, 'is_valid_file')
    def is_valid_file(original: Any, self: Any, filename: str) -> bool:
        if (found := original(self, filename)) or not filename.lower().endswith(_ENDINGS):
            return found
        return {*self.extensions} == {*ImageNet.IMG_EXTENSIONS}  # none that the user has set


@patch('mmpretrain', '>=1')
def read_labels_of_voc() -> None:
    """Labels of Pascal VOC have no blanks around them, and may lack the word difficult."""
    from mmpretrain.datasets import VOC

    from ..datasets.labels.voc import is_difficult

    @replace(VOC, '_get_labels_from_xml')
    def labels(_: Any, self: Any, img_id: str) -> tuple[list[int], list[int]]:
        path = self.backend.join_path(self.ann_prefix, f'{img_id}.xml')
        found: tuple[set[int], set[int]] = (set(), set())
        for node in ElementTree.fromstring(self.backend.get(path)).findall('object'):
            name = (node.findtext('name') or '').strip()
            if name in self.CLASSES:
                difficult = is_difficult(node.findtext('difficult'), f'{path}, {name!r}')
                found[difficult].add(self.class_to_idx[name])
        return list(found[0]), list(found[1])


@patch('mmpretrain', '>=1')
def read_pickles_without_code() -> None:
    """Reading CIFAR or lists of tags (RAM) from pickles runs no code from them."""
    import mmpretrain.datasets.cifar
    import mmpretrain.models

    from ..checkpoints.pickles import PlainPickle

    mmpretrain.datasets.cifar.pickle = PlainPickle
    if ram := sys.modules.get('mmpretrain.models.multimodal.ram.ram'):  # else transformers is not
        ram.pickle = PlainPickle  # type: ignore[attr-defined]


@patch('mmpretrain', '>=1')
def look_up_dtypes() -> None:
    """The dtype of a transform of torchvision is looked up, and not evaluated as code."""
    from mmpretrain.datasets.transforms import processing

    @replace(processing, '_str_to_torch_dtype')
    def dtype(original: Any, name: str) -> torch.dtype:
        if not isinstance(found := getattr(torch, name, None), torch.dtype):
            raise UserError(f'dtype={name!r} in the config is no dtype of torch, such as float32')
        return found
