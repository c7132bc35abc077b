"""mmdet: detectors and instance segmentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import ExifTags, Image

from ..errors import UserError
from .mmengine import (
    Host,
    as_list,
    check_size,
    log_patch,
    patch,
    replace,
    step_lists,
    training_pipeline,
)

_SEMANTIC_MAPS = (
    '; it holds the semantic maps of HTC: see docs/data.md for COCO-stuff, draw maps with '
    'tools/dataset_converters/coco_stuff_maps.py, or train the config without semantic branch '
    '(htc++-without-semantic_...)'
)


# what they are called in a detector, or in its roi_head
_HEADS = ('bbox_head', 'mask_head')


@patch('mmdet', '>=3')
def draw_semantic_maps() -> None:
    """Semantic maps with more values than classes can be drawn."""
    from mmdet.visualization import DetLocalVisualizer
    from mmdet.visualization.palette import get_palette

    @replace(DetLocalVisualizer, '_draw_sem_seg')
    def draw_all(
        draw: Any, self: Any, image: np.ndarray, sem_seg: Any, classes: Any, palette: Any
    ) -> np.ndarray:
        values = np.asarray(sem_seg.sem_seg)
        ignored = sem_seg.metainfo.get('ignore_index', 255)
        number = int(values[values != ignored].max(initial=0)) + 1
        if classes and palette and number > min(len(classes), len(palette)):
            classes = [*classes, *map(str, range(len(classes), number))]
            palette = [*palette, *get_palette('random', number)[len(palette) :]]
        return draw(self, image, sem_seg, classes, palette)


@patch('mmdet', '>=3')
def check_annotations() -> None:
    """COCO annotations are held to rules when they are read; labels go by the names of classes.

    mmdet numbers labels in the order of the file's categories, whatever the order of ``classes``.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO

    from ..datasets.coco import get_category_ids, read_coco

    @replace(COCO, '__init__')
    def read(original: Any, self: Any, annotation_file: str | None = None) -> None:
        if annotation_file is None or type(self) is not COCO:  # those of panoptic segmentation
            original(self, annotation_file)
            return
        original(self)
        self.dataset, self.path = read_coco(annotation_file), annotation_file
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    @replace(COCO, 'get_cat_ids')
    def get_cat_ids(
        original: Any, self: Any, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()
    ) -> list:
        if not cat_names or isinstance(cat_names, str) or sup_names or cat_ids:
            return original(self, cat_names or (), sup_names, cat_ids)
        path = getattr(self, 'path', 'the annotations')
        return get_category_ids(path, self.dataset['categories'], cat_names)

    @replace(CocoDataset, 'load_data_list')
    def load_data_list(original: Any, self: Any) -> list[dict]:
        images = original(self)
        check_instances(self, images)
        return images


@patch('mmdet', '>=3')
def name_class_scores() -> None:
    """Scores of single classes (classwise) go by their names, whatever the order of their ids.

    pycocotools sorts the ids that it is given.
    """
    from mmdet.evaluation.metrics.coco_metric import COCOeval, COCOevalMP

    for kind in (COCOeval, COCOevalMP):

        @replace(kind, 'evaluate')
        def evaluate(original: Any, self: Any) -> None:
            self.given_ids = list(self.params.catIds)
            original(self)

    @replace(COCOeval, 'accumulate')
    def accumulate(original: Any, self: Any, p: Any = None) -> None:
        original(self, p)
        ids = list(self.params.catIds)
        if self.params.useCats and sorted(self.given_ids) == ids != self.given_ids:
            order = [ids.index(i) for i in self.given_ids]
            for key, axis in (('precision', 2), ('recall', 1), ('scores', 2)):
                self.eval[key] = self.eval[key].take(order, axis)


@patch('instaboostfast', '<=0.1.2')
def outline_masks() -> None:
    """Masks of several parts can be treated by InstaBoost.

    Subtracting 1 from a list of contours of different lengths, it fails since NumPy 1.24. Made by
    `mmswinv2.InstaBoost`, in every worker of a data loader.
    """
    from instaboostfast import affine_transform

    if affine_transform.binary_mask_to_polygon is not mask_to_polygons:
        affine_transform.binary_mask_to_polygon = mask_to_polygons
        log_patch('InstaBoost can outline masks of several parts')


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a binary mask (H, W) as COCO polygons [[x0, y0, x1, y1, ...], ...]."""
    from skimage.measure import find_contours

    # Half a pixel: the centre of pixel 0 is 0 to skimage and 0.5 to COCO; and one for the padding.
    contours = find_contours(np.pad(mask, 1), 0.5)
    return [(contour[:, ::-1] - 0.5).ravel().tolist() for contour in contours]


class MMDet(Host):
    """mmdet."""

    name = 'mmdet'
    extra = 'det'
    patches = (*Host.patches, draw_semantic_maps, check_annotations, name_class_scores)
    swap_image_size = 384  # strides up to 128, and kernels of 3 x 3 on top
    draw_interval = False
    dump_metric = 'DumpDetResults'

    def folder_hint(self, dataset: Any, key: str) -> str:
        """Say where the semantic maps of HTC come from."""
        return _SEMANTIC_MAPS if key == 'seg' and dataset.get('type') == 'CocoDataset' else ''

    def explain_empty(self, dataset: Any, where: str) -> UserError | None:
        """Say that the filter has left no image; other reasons were found when it was read."""
        if not str(dataset.get('ann_file')).endswith('.json'):
            return None
        return UserError(
            f'{where}: filter_cfg={dict(dataset.get("filter_cfg") or {})} leaves none of the '
            f'images in {dataset["ann_file"]}'
        )

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Refuse images of other sizes than their annotations say, and heads of other classes."""
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if classes is None or getattr(dataset, 'cat_ids', None) is None:
            return False
        from ..datasets.coco import get_category_ids, read_coco

        if len(dataset.cat_ids) != len(classes):  # mmdet, unpatched, leaves out what it lacks
            content = read_coco(dataset.ann_file)
            get_category_ids(dataset.ann_file, content['categories'], classes)
        check_image_sizes(dataset, where)
        check_heads(model, len(classes), where)
        return True

    def check_metric(self, metric: Any, dataset: Any, where: str) -> None:
        """Refuse annotations of other images than those of the data set; see `check_dataset`."""
        annotations = getattr(metric, '_coco_api', None)
        if annotations is None:
            return
        known = set(annotations.getImgIds())
        ids = [dataset.get_data_info(i).get('img_id') for i in range(len(dataset))]
        if unknown := [i for i in ids if i not in known]:
            raise UserError(
                f'{where}: the annotations of the evaluator (ann_file={annotations.path}) lack '
                f'{len(unknown)} of the {len(ids)} images of the data set, first of all image_id='
                f'{unknown[0]!r}; give the evaluator the ann_file of the data set'
            )
        if 'segm' in metric.metrics:
            ignore_without_masks(annotations)

    def default_tta_model(self, cfg: Any) -> dict[str, Any]:
        """Merge boxes by NMS, and masks where there is a mask head."""
        if cfg.model.get('roi_head', {}).get('mask_head') is not None:
            return dict(type='mmswinv2.InstanceSegTTAModel')
        metrics = [e.get('metric', ()) for e in as_list(cfg.test_evaluator)]
        if any('segm' in as_list(metric) for metric in metrics):
            raise UserError(
                f'--tta: masks of {cfg.model.type} cannot be merged, only those of two-stage '
                'detectors with a mask head; name a tta_model and a tta_pipeline in the config'
            )
        nms = dict(type='nms', iou_threshold=0.5)
        return dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Images with 64 boxes, so that samplers find as many matches as they take."""
        from mmdet.testing import demo_mm_inputs

        pipeline = training_pipeline(cfg)
        loading: Any = next((t for t in pipeline if 'LoadAnnotations' in t['type']), {})
        return demo_mm_inputs(
            count,
            [(3, *size)] * count,
            num_items=[64] * count,
            num_classes=_num_classes(cfg.model),
            with_mask=loading.get('with_mask', False),
            with_semantic=loading.get('with_seg', False),
            sem_seg_output_strides=8 if 'semantic_head' in cfg.model.get('roi_head', {}) else 1,
        )

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """With proposals for Fast R-CNN, which gets them from outside."""
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        sample = DetDataSample(metainfo=meta)
        boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [32.0, 16.0, 320.0, 256.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(2, dtype=torch.long))
        if getattr(model, 'with_rpn', True) is False:
            sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(2))
        return sample


def check_instances(dataset: Any, images: Sequence[dict]) -> None:
    """Look at the instances that mmdet made of annotations, before they are packed.

    Those without a mask where masks are loaded are ignored in training, as mmdet does with masks
    that it cannot read, and counted in a warning.

    Raises:
        UserError: if there is none to train with, or none has a mask.
    """
    instances = [instance for image in images for instance in image.get('instances', ())]
    if not instances:
        if dataset.test_mode:
            return
        raise UserError(
            f'{dataset.ann_file} has {len(images)} images and 0 annotations of the classes '
            f'{dataset.metainfo.get("classes")!r:.80}; training needs both'
        )
    steps = [step for steps in step_lists(dataset.pipeline) for step in steps]
    if not any(getattr(step, 'with_mask', False) for step in steps):
        return
    without = [instance for instance in instances if not instance.get('mask')]
    if len(without) == len(instances):
        raise UserError(
            f'{dataset.ann_file} has boxes and no masks (segmentation), and the pipeline loads '
            'masks; take a config without masks, or set with_mask=False in LoadAnnotations'
        )
    for instance in without:
        instance['mask'] = []  # which mmdet takes for damaged, and ignores
    if without:
        print_log(
            f'{dataset.ann_file}: {len(without)} of {len(instances)} annotations have no mask '
            '(segmentation); they are ignored in training',
            logger='current',
            level=logging.WARNING,
        )


def ignore_without_masks(annotations: Any) -> None:
    """Let annotations without a mask count as ignored regions in scores of masks.

    Args:
        annotations: the evaluator's; changed in place.

    Raises:
        UserError: if none has a mask.
    """
    without = [a for a in annotations.anns.values() if not a.get('segmentation')]
    if annotations.anns and len(without) == len(annotations.anns):
        raise UserError(
            f'{annotations.path} has boxes and no masks (segmentation), and the evaluator is to '
            "score masks; set its metric='bbox'"
        )
    for annotation in without:
        annotation.update(iscrowd=1, segmentation=[[0.0] * 6])


def check_image_sizes(dataset: Any, where: str) -> None:
    """Raise `UserError` if images have other sizes than the annotation file says.

    The headers of at most 500 are read; every image is looked at again when it is loaded.
    """
    steps = [step for steps in step_lists(dataset.pipeline) for step in steps]
    loaders: Any = [s for s in steps if type(s).__name__ in ('LoadImageFromFile', 'LoadImage')]
    if not loaders or dataset.backend_args:
        return
    upright = getattr(loaders[0], 'color_type', 'color') in ('color', 'grayscale')
    for i in range(0, len(dataset), -(-len(dataset) // 500)):
        info = dataset.get_data_info(i)
        if 'height' not in info:
            return
        try:
            with Image.open(info['img_path']) as image:
                width, height = image.size
                if upright and image.getexif().get(ExifTags.Base.Orientation, 1) > 4:
                    width, height = height, width
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # which the loader reports
        check_size(info, (height, width), f'{where}: ')


def check_heads(model: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a head of a detector has fewer classes than its data.

    More than in the data are an error where they are scored, as mmdet has no category for them.
    """
    if model is None or hasattr(model, 'language_model'):  # classes are what its prompt says
        return
    for name, head in model.named_modules():
        known = getattr(head, 'num_classes', None)
        part = name.rpartition('roi_head.')[2].split('.')[0]
        if (
            part not in _HEADS
            or not isinstance(known, int)
            or getattr(head, 'class_agnostic', False)
        ):
            continue
        if known < num_classes or (known > num_classes and where != 'train_dataloader'):
            raise UserError(
                f'model.{name} has num_classes={known}, and the data set of {where} has '
                f'{num_classes} classes; set num_classes={num_classes} in every box and mask head'
            )


def _num_classes(node: Any) -> int:
    """The smallest number of classes of any head."""
    found, children = [], node
    if isinstance(node, dict):
        found = [node[k] for k in ('num_classes', 'num_things_classes') if k in node]
        children = node.values()
    found += [_num_classes(child) for child in children if isinstance(child, (dict, list))]
    return min([n for n in found if n], default=0)
