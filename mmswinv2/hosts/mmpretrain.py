"""mmpretrain: image classifiers and SimMIM."""

import importlib.util
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..checks import class_names
from ..errors import UserError
from ..log import warn
from . import mmpretrain_patches
from .configs import (
    as_list,
    inner_datasets,
    package_of,
    training_pipeline,
    type_name,
)
from .host import Host
from .patching import patches_in

# a line of a list of images with the numbers of their classes
_LINE = (r'.* [+-]?\d+', '"path number", with the path of an image and the number of its class')
_VECTOR_HEADS = ('LinearClsHead', 'ArcFaceClsHead', 'VisionTransformerClsHead')
# metrics of images with one label
_SINGLE_LABEL = ('Accuracy', 'SingleLabelMetric', 'ConfusionMatrix')


def import_torchvision() -> None:
    """Import torchvision, as mmpretrain will, with or without its compiled part.

    Raises `UserError` if it is not installed.
    """
    if importlib.util.find_spec('torchvision') is None:
        raise UserError(
            'mmpretrain needs torchvision, which is not installed: pip install torchvision'
        )
    mmpretrain_patches.declare_operators.apply()


class MMPretrain(Host):
    """mmpretrain."""

    name = 'mmpretrain'
    extra = 'pretrain'
    patches = (
        mmpretrain_patches.declare_operators,
        *Host.patches,
        *patches_in(name, mmpretrain_patches),
    )
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
        multi_label = 'MultiLabelClsHead' in class_names(head)
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
