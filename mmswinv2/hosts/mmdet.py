"""mmdet: detectors and instance segmentation."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import fileio
from packaging.specifiers import SpecifierSet
from PIL import ExifTags, Image

from ..errors import UserError
from ..log import warn
from ..progress import track
from .host import Host, as_list, step_lists, training_pipeline
from .label_maps import check_file, named
from .mmcv import check_size
from .patching import installed_version, log_patch, patch, replace

_SEMANTIC_MAPS = (
    '; it holds the semantic maps of HTC: see docs/data.md for COCO-stuff, draw maps with '
    'tools/dataset_converters/coco_stuff_maps.py, or train the config without semantic branch '
    '(htc++-without-semantic_...)'
)


# what they are called in detectors
_HEADS = {'bbox_head', 'mask_head', 'panoptic_head', 'mask_iou_head', 'point_head'}


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
    from mmdet.datasets import CocoDataset, Objects365V1Dataset, Objects365V2Dataset
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.evaluation.metrics import CocoMetric

    from ..datasets.coco import get_category_ids, read_coco

    written = set()  # files of annotations of other formats, which have no names of images

    @replace(CocoMetric, 'gt_to_coco_json')
    def write(original: Any, self: Any, *args: Any, **options: Any) -> str:
        path = original(self, *args, **options)
        written.add(path)
        return path

    @replace(COCO, '__init__')
    def read(original: Any, self: Any, annotation_file: str | None = None) -> None:
        # a class of its own: those of panoptic segmentation
        if annotation_file is None or type(self) is not COCO or annotation_file in written:
            written.discard(annotation_file)  # read once; whoever else gives it is a user
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
        if isinstance(cat_names, str):
            raise UserError(
                f'classes must be a list or tuple of names, got {cat_names!r}; a tuple of one name '
                'needs a comma'
            )
        if not cat_names or sup_names or cat_ids:
            return original(self, cat_names or (), sup_names, cat_ids)
        path = getattr(self, 'path', 'the annotations')
        return get_category_ids(path, self.dataset['categories'], cat_names)

    for kind in (CocoDataset, Objects365V1Dataset, Objects365V2Dataset):

        @replace(kind, 'load_data_list')
        def load_data_list(original: Any, self: Any) -> list[dict]:
            images = original(self)
            check_instances(self, images)
            return images

    @replace(LoadAnnotations, '_load_seg_map')
    def load_seg_map(original: Any, self: Any, results: dict) -> None:
        if (path := results.get('seg_map_path')) is None:
            return
        with named(path):
            content = fileio.get(path, backend_args=self.backend_args)
            check_file(path, content, self.imdecode_backend)
            original(self, results)
        check_semantic_map(results, getattr(self, 'semantic_classes', None))


def _has_fast_evaluator() -> bool:
    known = installed_version('faster-coco-eval')
    return known is not None and SpecifierSet('>=1.8').contains(known, True)


@patch('mmdet', '>=3', _has_fast_evaluator)
def score_faster() -> None:
    """COCO scores are computed by faster-coco-eval where it is installed.

    The figures are those of pycocotools. With ``use_mp_eval=True`` mmdet's own evaluator is taken.
    """
    from mmdet.evaluation.metrics import coco_metric

    coco_metric.COCOeval = fast_evaluator()


@functools.cache
def fast_evaluator() -> Any:
    """A class that stands for pycocotools' ``COCOeval`` and computes in C++."""
    from faster_coco_eval import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    class FastCOCOeval(COCOeval_faster):
        """Evaluates as faster-coco-eval does, and sums up as pycocotools does."""

        def __init__(self, truth: Any, found: Any, kind: str = 'segm') -> None:
            super().__init__(truth, found, kind, print_function=print)

        def accumulate(self, p: Any = None) -> None:
            super().accumulate()

        # faster-coco-eval's has AP of all detections where pycocotools has that of a hundred
        summarize = COCOeval.summarize

    return FastCOCOeval


@patch('mmdet', '>=3')
def name_class_scores() -> None:
    """Scores of single classes (classwise) go by their names, whatever the order of their ids.

    pycocotools sorts the ids that it is given. Where an annotation has no mask its box is ignored
    in scores of masks.
    """
    from mmdet.evaluation.metrics.coco_metric import COCOeval, COCOevalMP

    for kind in (COCOeval, COCOevalMP):

        @replace(kind, 'evaluate')
        def evaluate(original: Any, self: Any) -> None:
            self.given_ids = list(self.params.catIds)
            with ignored_without_masks(self.cocoGt.anns.values(), self.params.iouType):
                original(self)

    @replace(COCOeval, 'accumulate')
    def accumulate(original: Any, self: Any, p: Any = None) -> None:
        original(self, p)
        ids = list(self.params.catIds)
        if self.params.useCats and sorted(self.given_ids) == ids != self.given_ids:
            order = [ids.index(i) for i in self.given_ids]
            for key, axis in (('precision', 2), ('recall', 1), ('scores', 2)):
                self.eval[key] = self.eval[key].take(order, axis)


@patch('mmdet', '>=3')
def keep_coordinates_precise() -> None:
    """Boxes, regions and scores are computed in float32 where maps are in bfloat16.

    Its 8 bits hold no coordinate of a large image (anchors on 800x1344 pixels are up to 7 pixels
    off), and mmcv's operators on boxes and regions do not have it.
    """
    from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor
    from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator

    for generator in (AnchorGenerator, MlvlPointGenerator):

        @replace(generator, 'grid_priors')
        def grid_priors(
            make: Any, self: Any, featmap_sizes: Any, dtype: Any = torch.float32, *args: Any,
            **kwargs: Any,
        ) -> Any:  # fmt: skip
            return make(self, featmap_sizes, _precise(dtype), *args, **kwargs)

    for extractor in (SingleRoIExtractor, GenericRoIExtractor):

        @replace(extractor, 'forward')
        def forward(original: Any, self: Any, feats: Any, *args: Any, **kwargs: Any) -> Any:
            return original(self, [x.to(_precise(x.dtype)) for x in feats], *args, **kwargs)

    module = importlib.import_module('mmcv.ops.nms')  # whose name is that of a function, too
    for name in ('nms', 'soft_nms'):

        @replace(module, name)
        def nms(original: Any, boxes: Any, scores: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(scores, torch.Tensor):
                scores = scores.to(_precise(scores.dtype))
            return original(boxes, scores, *args, **kwargs)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


@patch('mmdet', '>=3')
def read_hierarchy_without_code() -> None:
    """Reading a hierarchy of classes of Open Images runs no code from it."""
    from mmdet.datasets.openimages import OpenImagesChallengeDataset

    @replace(OpenImagesChallengeDataset, '_get_relation_matrix')
    def relation_matrix(original: Any, self: Any, hierarchy_file: str) -> np.ndarray:
        with fileio.get_local_path(hierarchy_file, backend_args=self.backend_args) as path:
            try:
                return np.load(path, allow_pickle=False)[1:, 1:]
            except ValueError as error:
                raise UserError(
                    f'{hierarchy_file} is no plain array of numbers ({error}), and reading '
                    'anything else would run code from it'
                ) from error


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


_COCO_SCORES = [
    f'{kind}_{part}'
    for kind in ('bbox', 'segm')
    for part in (
        *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100', 'AR@300', 'AR@1000'),
        *('AR_s@1000', 'AR_m@1000', 'AR_l@1000'),
    )
]


class MMDet(Host):
    """mmdet."""

    name = 'mmdet'
    extra = 'det'
    patches = (
        *Host.patches,
        draw_semantic_maps,
        check_annotations,
        score_faster,
        name_class_scores,
        keep_coordinates_precise,
        read_hierarchy_without_code,
    )
    swap_image_size = 384  # strides up to 128, and kernels of 3 x 3 on top
    draw_interval = False
    dump_metric = 'DumpDetResults'
    finds_boxes = True
    visualizer = 'DetLocalVisualizer'
    kind_of_model = 'Detector'
    scores = (('CocoMetric', 'coco', *_COCO_SCORES),)
    analysis_tools = (
        'confusion_matrix',
        'analyze_results',
        'coco_error_analysis',
        'analyze_logs',
        'benchmark',
    )

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
        from ..datasets.coco import get_category_ids, read_categories

        meta = getattr(dataset, 'metainfo', None) or {}
        classes = meta.get('classes')
        if classes is None:
            return False
        check_heads(model, classes, meta.get('thing_classes') or classes, where)
        if getattr(dataset, 'cat_ids', None) is None:
            return False
        if len(dataset.cat_ids) != len(classes):  # mmdet, unpatched, leaves out what it lacks
            get_category_ids(dataset.ann_file, read_categories(dataset.ann_file), classes)
        check_image_sizes(dataset, where)
        semantic = getattr(getattr(model, 'roi_head', None), 'semantic_head', None)
        for step in _steps(dataset):
            if getattr(step, 'with_seg', False) and semantic is not None:
                step.semantic_classes = semantic.num_classes
        return True

    def check_metric(self, metric: Any, dataset: Any, where: str) -> None:
        """Refuse annotations of other images or classes than those of the data set."""
        annotations: Any = getattr(metric, '_coco_api', None)
        if not hasattr(annotations, 'path') or type(metric).__name__ != 'CocoMetric':
            return
        from ..datasets.coco import get_category_ids

        infos = {(info := dataset.get_data_info(i))['img_id']: info for i in range(len(dataset))}
        told = f'{where}: ann_file={annotations.path}'
        if unknown := [i for i in infos if i not in annotations.imgs]:
            raise UserError(
                f'{told} lacks {len(unknown)} of the {len(infos)} images of the data set, first of '
                f'all image_id={unknown[0]!r}; give the evaluator the ann_file of the data set'
            )
        for number, info in infos.items():
            other = annotations.imgs[number]
            names = [Path(str(name)).name for name in (info['img_path'], other['file_name'])]
            if names[0] != names[1]:
                raise UserError(
                    f'{told}: image_id={number!r} is {names[1]} there and {names[0]} in the data '
                    'set; give the evaluator the ann_file of the data set'
                )
        classes = dataset.metainfo['classes']
        ids = set(get_category_ids(annotations.path, annotations.dataset['categories'], classes))
        scored = [a for a in annotations.anns.values() if a['category_id'] in ids]
        if not metric.format_only and not any(
            not a['iscrowd'] and a['image_id'] in infos for a in scored
        ):
            raise UserError(
                f'{told} has no annotations of the classes on the images of the data set: there is '
                'nothing to score; for predictions alone set format_only=True in the evaluator'
            )
        if left := {a['image_id'] for a in scored} - set(infos):
            metric.img_ids = sorted(infos)
            warn(
                f'{told} has annotations on {len(left)} images that the data set does not load; '
                f'scores are those of the other {len(infos)}'
            )
        if 'segm' in metric.metrics and not any(a.get('segmentation') for a in scored):
            raise UserError(
                f'{told} has boxes and no masks (segmentation), and the evaluator is to score '
                "masks; set its metric='bbox'"
            )

    def default_tta_model(self, cfg: Any) -> dict[str, Any]:
        """Merge boxes by NMS, and masks where there is a mask head."""
        if cfg.model.get('roi_head', {}).get('mask_head') is not None:
            return dict(type='mmswinv2.InstanceSegTTAModel')
        metrics = [e.get('metric', ()) for e in as_list(cfg.get('test_evaluator') or [])]
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
    if any('segments_info' in image for image in images):  # panoptic: masks come from maps
        return
    instances = [instance for image in images for instance in image.get('instances', ())]
    if all(instance['ignore_flag'] for instance in instances):
        if dataset.test_mode:
            return
        told = (
            f'{dataset.ann_file} has {len(images)} images and 0 annotations (crowds left aside) of '
            f'the classes {dataset.metainfo.get("classes")!r:.80}'
        )
        if (dataset.filter_cfg or {}).get('filter_empty_gt'):
            raise UserError(f'{told}; training needs both')
        warn(f'{told}: they are background')
    if not any(getattr(step, 'with_mask', False) for step in _steps(dataset)):
        return
    without = [instance for instance in instances if not instance.get('mask')]
    if instances and len(without) == len(instances):
        raise UserError(
            f'{dataset.ann_file} has boxes and no masks (segmentation), and the pipeline loads '
            'masks; take a config without masks, or set with_mask=False in LoadAnnotations'
        )
    for instance in without:
        instance['mask'] = []  # which mmdet takes for damaged, and ignores
    if without:
        warn(
            f'{dataset.ann_file}: {len(without)} of {len(instances)} annotations have no mask '
            '(segmentation); they are ignored in training and in scores of masks'
        )


@contextmanager
def ignored_without_masks(annotations: Iterable[dict], kind: str) -> Iterator[None]:
    """Let annotations without a mask count as ignored boxes while masks are scored.

    Args:
        annotations: those of the truth; what is changed in them is put back.
        kind: what is scored; nothing is done unless it is ``'segm'``.
    """
    without = [a for a in annotations if kind == 'segm' and not a.get('segmentation')]
    before = [a.get('iscrowd', 0) for a in without]
    for annotation in without:
        x, y, width, height = annotation['bbox']
        right, below = x + width, y + height
        annotation.update(iscrowd=1, segmentation=[[x, y, right, y, right, below, x, below]])
    try:
        yield
    finally:
        for annotation, crowd in zip(without, before, strict=True):
            annotation.update(iscrowd=crowd, segmentation=[])


def check_semantic_map(results: dict, num_classes: int | None) -> None:
    """Raise `UserError` if the semantic map of an image has another size, or bad values.

    Args:
        results: with ``gt_seg_map``, its path and the ``img_shape`` of the image.
        num_classes: of the semantic head; ``None``: values are not looked at.
    """
    labels, path = results['gt_seg_map'], results['seg_map_path']
    shape = tuple(results.get('ori_shape') or results.get('img_shape') or labels.shape)[:2]
    if labels.ndim != 2 or labels.shape != shape:
        raise UserError(
            f'the semantic map {path} has the shape {labels.shape}, and its image {shape}; a map '
            'has one channel and the size of its image'
        )
    bad = labels[(labels != results.get('ignore_index', 255)) & (labels != 255)]
    if num_classes is not None and bad.size and (largest := int(bad.max())) >= num_classes:
        raise UserError(
            f'the semantic map {path} has the value {largest}, and the semantic head '
            f'num_classes={num_classes}, values 0 to {num_classes - 1}, or 255 for none'
        )


def check_image_sizes(dataset: Any, where: str) -> None:
    """Raise `UserError` if images have other sizes than the annotation file says, or are missing.

    The headers of at most 500 are read; every image is looked at again when it is loaded.
    """
    names = ('LoadImageFromFile', 'LoadImage')
    loaders: Any = [step for step in _steps(dataset) if type(step).__name__ in names]
    if not loaders or dataset.backend_args:
        return
    upright = getattr(loaders[0], 'color_type', 'color') in ('color', 'grayscale')
    looked_at = range(0, len(dataset), -(-len(dataset) // 500))
    for i in track(looked_at, f'sizes of images of {where}'):
        info = dataset.get_data_info(i)
        if 'height' not in info or '://' in info['img_path']:
            return
        try:
            with Image.open(info['img_path']) as image:
                width, height = image.size
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
                if turned and image.format != 'JPEG':
                    continue  # decoders differ
                if turned and upright:
                    width, height = height, width
        except FileNotFoundError as error:
            raise UserError(
                f'{where}: cannot read the image {info["img_path"]}: it does not exist; fetch it '
                'again, or take it out of the annotation file'
            ) from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # which the loader reports
        check_size(info, (height, width), f'{where}: ')


def _steps(dataset: Any) -> list[Any]:
    return [step for steps in step_lists(dataset.pipeline) for step in steps]


def check_heads(model: Any, classes: Sequence[str], things: Sequence[str], where: str) -> None:
    """Raise `UserError` if a head of a detector has fewer classes than its data.

    More than in the data are an error where they are scored, as mmdet has no category for them.

    Args:
        model: the model, or the wrapper of test-time augmentation around it.
        classes: of the data set.
        things: those that have boxes and masks.
        where: name of the data loader.
    """
    model = getattr(model, 'module', model)
    if model is None or hasattr(model, 'language_model'):  # classes are what its prompt says
        return
    for name, head in model.named_modules():
        known, part = getattr(head, 'num_classes', None), set(name.split('.')) & _HEADS
        inside = name.split('.')[-1]  # a list of heads has numbers
        if not part or not (inside in _HEADS or inside.isdigit()) or not isinstance(known, int):
            continue
        if 'RPN' in type(head).__name__ or getattr(head, 'class_agnostic', False):
            continue
        wanted = len(classes if 'panoptic_head' in part else things)
        if known < wanted or (known > wanted and where != 'train_dataloader'):
            raise UserError(
                f'model.{name} has num_classes={known}, and the data set of {where} has '
                f'{wanted} classes; set num_classes={wanted} in every box and mask head'
            )


def _num_classes(node: Any) -> int:
    """The smallest number of classes of any head."""
    found, children = [], node
    if isinstance(node, dict):
        found = [node[k] for k in ('num_classes', 'num_things_classes') if k in node]
        children = node.values()
    found += [_num_classes(child) for child in children if isinstance(child, (dict, list))]
    return min([n for n in found if n], default=0)
