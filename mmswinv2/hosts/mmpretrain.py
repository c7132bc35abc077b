"""mmpretrain: image classifiers and SimMIM."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from mmengine.model import BaseTTAModel

from ..errors import UserError
from ..log import warn
from .configs import as_list, inner_datasets, package_of, training_pipeline, type_name
from .host import Host
from .patching import log_patch, patch, patches_in, replace

# a line of a list of images with the numbers of their classes
_LINE = (r'.* [+-]?\d+', '"path number", with the path of an image and the number of its class')
_ENDINGS = ('.webp', '.tiff', '.jfif', '.jpe')  # of images that every OpenCV reads
_VECTOR_HEADS = ('LinearClsHead', 'ArcFaceClsHead', 'VisionTransformerClsHead')
# metrics of images with one label
_SINGLE_LABEL = ('Accuracy', 'SingleLabelMetric', 'ConfusionMatrix')


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


def import_torchvision() -> None:
    """Import torchvision, as mmpretrain will, with or without its compiled part.

    Raises `UserError` if it is not installed.
    """
    if importlib.util.find_spec('torchvision') is None:
        raise UserError(
            'mmpretrain needs torchvision, which is not installed: pip install torchvision'
        )
    declare_operators.apply()


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


class MMPretrain(Host):
    """mmpretrain."""

    name = 'mmpretrain'
    extra = 'pretrain'
    patches = (declare_operators, *Host.patches, *patches_in(name, sys.modules[__name__]))
    draw_option = 'enable'
    draw_folder = 'default_hooks.visualization.out_dir'
    visualizer = 'UniversalVisualizer'
    kind_of_model = 'Image classifier'
    lists = dict.fromkeys(('CustomDataset', 'ImageNet', 'ImageNet21k', 'Places205'), _LINE)
    scores = (('Accuracy', 'accuracy', *(f'top{k}' for k in range(1, 101))),)
    analysis_tools = ('confusion_matrix', 'analyze_results', 'analyze_logs')

    def require(self, path: str) -> None:
        """Check as `Host` does, and import torchvision before mmpretrain does."""
        super().require(path)
        import_torchvision()

    def downloads(self, dataset: Any) -> bool:
        """Look at the argument ``download``, which some classes set by default."""
        try:
            self.apply()  # importing the host may need its patches
            found = self.dataset_class(dataset)
        except (ImportError, KeyError, RuntimeError):
            return False
        known = inspect.signature(found).parameters if isinstance(found, type) else {}
        return 'download' in known and bool(dataset.get('download', known['download'].default))

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Refuse labels that the head cannot learn, and heads that cannot take maps."""
        head = getattr(model, 'head', None)
        num_classes = getattr(head, 'num_classes', None)
        if num_classes is None or not hasattr(dataset, 'get_gt_labels'):
            return False
        if hasattr(model, 'prototype') and where != 'train_dataloader':
            return True  # a retriever, whose labels are then numbers of the images that it searches
        check_image_labels(dataset, num_classes, where)
        of_host = package_of(head) == self.name  # users' may do what they like
        takes_vector = of_host and type(head).__name__.endswith(_VECTOR_HEADS)
        unpooled = package_of(model) == self.name and getattr(model, 'neck', 0) is None
        if takes_vector and unpooled and package_of(model.backbone) == 'mmswinv2':
            raise UserError(
                f'model.head ({type(head).__name__}) takes a vector, and model.backbone gives '
                "maps; set model.neck=dict(type='GlobalAveragePooling')"
            )
        multi_label = any(kind.__name__ == 'MultiLabelClsHead' for kind in type(head).__mro__)
        if multi_label or getattr(head, 'cal_acc', False):
            _check_topk(head, 'model.head', num_classes)
        if where != 'train_dataloader':
            return True
        if not getattr(model.data_preprocessor, 'to_onehot', False):
            if of_host and not multi_label and (image := _image_of_several_labels(dataset)):
                raise UserError(
                    f'{where}: {image} has none or several labels, and model.head '
                    f'({type(head).__name__}) takes one for each image; take a head such as '
                    'MultiLabelLinearClsHead'
                )
            return True
        # one-hot labels are for Mixup and the like
        known = getattr(model.data_preprocessor, 'num_classes', None)
        given = dataset.get_data_info(0) if len(dataset) else {}
        needless = known is None and ('gt_score' in given or 'num_classes' in given)
        if known != num_classes and not needless:
            raise UserError(
                f'data_preprocessor.num_classes={known}, and model.head.num_classes={num_classes}; '
                'set both to the number of classes'
            )
        return True

    def check_metric(self, metric: Any, dataset: Any, where: str, model: Any = None) -> None:
        """Refuse more best classes than there are, and scores of single labels for several."""
        if package_of(metric) != self.name:
            return
        kind, name = type(metric).__name__, f'{type(metric).__name__} of {where}'
        num_classes = getattr(getattr(model, 'head', None), 'num_classes', None)
        if num_classes is not None and not kind.startswith('Retrieval'):  # these rank images
            _check_topk(metric, name, num_classes)
        for inner in inner_datasets(dataset) if kind in _SINGLE_LABEL else ():
            if hasattr(inner, 'get_gt_labels') and (image := _image_of_several_labels(inner)):
                raise UserError(
                    f'{name} is for images with one label, and {image} has none or several; '
                    'take MultiLabelMetric or AveragePrecision'
                )

    def default_tta_model(self, cfg: Any) -> dict[str, Any]:
        """Average the scores."""
        return dict(type='AverageClsScoreTTA')

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Images with a class each, and a mask where the pipeline makes one (SimMIM)."""
        from mmpretrain.structures import DataSample

        inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(count)]
        samples = [DataSample().set_gt_label(0) for _ in inputs]
        masks = [t for t in training_pipeline(cfg) if 'MaskGenerator' in type_name(t)]
        for transform in masks:
            patch = transform.get('model_patch_size', 4)
            for sample in samples:
                sample.mask = torch.zeros([n // patch for n in size], dtype=torch.long)
        # SimMIM's preprocessor takes a batch, a classifier's a list
        return dict(inputs=torch.stack(inputs) if masks else inputs, data_samples=samples)


def check_image_labels(dataset: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if images have other classes than the head."""
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
        names = set(dataset.CLASSES)  # ImageNet-21k has too many to search a tuple for each
        for name, label in dataset.folder_to_idx.items():  # in the order of the alphabet
            if name in names and name != dataset.CLASSES[label]:
                raise UserError(
                    f'{where}: the images in the folder {name!r} have label {label}, which is '
                    f'{dataset.CLASSES[label]!r} in classes of the data set; write classes in the '
                    f'order of the folders, {[*dataset.folder_to_idx]!r:.200}, or leave them out'
                )
        _warn_of_numbered_folders(dataset, where)
        return
    given = _labels(dataset)
    several = bool(given) and isinstance(given[0], list)
    labels = np.hstack(given).astype(int) if several else np.array(given, int)
    if not labels.size:
        return
    counts = [np.size(label) for label in given] if several else 1
    images = np.repeat(np.arange(len(given)), counts)
    if unlabelled := int((labels < 0).sum()):
        finding = f'{where}: {unlabelled} of {len(given)} images have a label below 0'
        if where == 'train_dataloader' or several:
            raise UserError(f'{finding}, which is no class; take them out of the list')
        warn(f'{finding} and count as wrong in scores')
    if labels.max() >= num_classes:
        image = dataset.get_data_info(int(images[labels.argmax()]))['img_path']
        raise UserError(
            f'{where}: label {labels.max()} of {image}, but model.head has num_classes='
            f'{num_classes}, labels 0 to {num_classes - 1}'
        )


def _warn_of_numbered_folders(dataset: Any, where: str) -> None:
    """Warn of folders that are numbers in the order of the alphabet, where classes are words."""
    folders, classes = [*dataset.folder_to_idx], dataset.CLASSES
    if not all(map(str.isdecimal, folders)) or set(folders) <= set(classes):
        return
    for name, place in zip(folders, sorted(folders, key=int), strict=True):
        if name != place:
            label = dataset.folder_to_idx[name]
            warn(
                f'{where}: folders of classes are sorted as text, so that the images in the folder '
                f'{name!r} have label {label}, which is {classes[label]!r} in classes of the data '
                'set; if that is wrong, write all numbers of folders with as many digits, such as '
                '02 beside 10'
            )
            return


def _labels(dataset: Any) -> list[Any]:
    """The label of each image, a list where an image may have several; empty if unlabelled."""
    if not len(dataset) or not isinstance(dataset.get_data_info(0).get('gt_label'), (int, list)):
        return []
    return [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]


def _image_of_several_labels(dataset: Any) -> str:
    """The first image that has not exactly one label; empty if there is none."""
    if not len(dataset) or not isinstance(dataset.get_data_info(0).get('gt_label'), list):
        return ''  # without reading all of a large data set
    found = (i for i, label in enumerate(_labels(dataset)) if np.size(label) != 1)
    return next((dataset.get_data_info(i)['img_path'] for i in found), '')


def _check_topk(owner: Any, name: str, num_classes: int) -> None:
    """Raise `UserError` if a head or metric looks for more best classes than there are."""
    unused = getattr(owner, 'thr', None) is not None  # which goes before topk
    if not unused and max(as_list(getattr(owner, 'topk', None) or 0)) > num_classes:
        raise UserError(
            f'{name} has topk={owner.topk}, and model.head num_classes={num_classes}; set topk to '
            f'at most {num_classes}'
        )
