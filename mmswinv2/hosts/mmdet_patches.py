"""Patches of mmdet and InstaBoost, with the versions that need them."""

import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import fileio
from mmengine.dataset import BaseDataset
from packaging.specifiers import SpecifierSet

from ..errors import UserError
from ..log import warn
from .host import steps_in
from .label_maps import check_file, named
from .patching import installed_version, log_patch, patch, replace


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
def keep_every_picture() -> None:
    """Pictures of images with one name in several folders get names of their own."""
    from mmdet.visualization import DetLocalVisualizer

    @replace(DetLocalVisualizer, 'add_datasample')
    def add_datasample(draw: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        if out := kwargs.get('out_file'):
            sample = kwargs.get('data_sample', args[2] if len(args) > 2 else None)
            image, first = getattr(sample, 'img_path', None), Path(out)
            drawn, numbers = vars(self).setdefault('drawn', ({}, {}))
            if (out, image) not in numbers:
                number, place = numbers.get(out, 1), out
                while drawn.setdefault(place, image) != image:
                    number += 1
                    place = str(first.with_stem(f'{first.stem}_{number}'))
                numbers[out], numbers[out, image] = number, place
            kwargs['out_file'] = numbers[out, image]
        draw(self, *args, **kwargs)


def refuse_masks_of(kind: Any) -> None:
    """Refuse what transforms of a class leave behind, unless a class of the user calls them."""
    left = ('gt_seg_map',) if 'Cached' in kind.__name__ else ('gt_masks', 'gt_seg_map')

    @replace(kind, 'transform')
    def transform(original: Any, self: Any, results: dict, *args: Any) -> Any:
        own = type(self).transform is not kind.transform
        for key in () if own else left:
            if results.get(key) is not None:
                raise UserError(
                    f'{kind.__name__} moves boxes and leaves {key} where they are: take it out of '
                    'the pipeline, or load neither (with_mask, with_seg of LoadAnnotations); '
                    'CachedMosaic and CachedMixUp move masks'
                )
        return original(self, results, *args)


@patch('mmdet', '>=3')
def refuse_masks_that_stay_behind() -> None:
    """Transforms that leave masks or semantic maps behind when they move boxes are refused."""
    from mmdet.datasets import transforms

    for name in ('Mosaic', 'MixUp', 'RandomShift', 'RandomAffine', 'CachedMosaic', 'CachedMixUp'):
        refuse_masks_of(getattr(transforms, name))

    @replace(transforms.CopyPaste, '_copy_paste')
    def copy_paste(original: Any, self: Any, onto: dict, source: dict) -> dict:
        sizes = [results['img'].shape[:2] for results in (onto, source)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f'CopyPaste needs images of one size, got {sizes[0]} and {sizes[1]}: put Resize, '
                'RandomCrop and Pad before it'
            )
        return original(self, onto, source)


@patch('mmdet', '>=3')
def check_annotations() -> None:
    """COCO annotations are held to rules when they are read; labels go by the names of classes."""
    from mmdet.datasets import BaseDetDataset, WIDERFaceDataset, XMLDataset
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.evaluation.metrics import CocoMetric

    from ..datasets.coco import get_category_ids, read_coco

    written = set()  # files that CocoMetric made from other formats, without names of images

    @replace(CocoMetric, 'gt_to_coco_json')
    def write(original: Any, self: Any, *args: Any, **options: Any) -> str:
        path = original(self, *args, **options)
        written.add(path)
        return path

    @replace(COCO, '__init__')
    def read(original: Any, self: Any, annotation_file: str | None = None) -> None:
        # panoptic segmentation has a subclass of its own
        if annotation_file is None or type(self) is not COCO or annotation_file in written:
            written.discard(annotation_file)  # only for the metric that wrote it
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
        if not isinstance(cat_names, (list, tuple)):
            raise UserError(
                f'classes must be a list or tuple of names, got {cat_names!r}; a tuple of one name '
                'needs a comma, a set has no order'
            )
        if not cat_names or sup_names or cat_ids:
            return original(self, cat_names or (), sup_names, cat_ids)
        path = getattr(self, 'path', 'the annotations')
        return get_category_ids(path, self.dataset['categories'], cat_names)

    @replace(BaseDetDataset, '__init__')
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        self.load_data_list = functools.partial(load_checked, self)
        original(self, *args, **options)

    @replace(BaseDetDataset, 'load_data_list')
    def load_data_list(original: Any, self: Any) -> list[dict]:
        """Labels are numbers of the file's classes, which mmengine replaces by the config's."""
        load = super(BaseDetDataset, self).load_data_list  # another base class may come first
        own_reader = type(self).parse_data_info is not BaseDataset.parse_data_info
        if own_reader or load.__func__ is not BaseDataset.load_data_list:
            return load()
        given = self._metainfo.pop('classes', None)
        try:
            images = original(self)
        except (TypeError, ValueError) as error:
            if not str(error).startswith(('Annotation must', 'The annotations loaded')):
                raise
            raise UserError(
                f'{self.ann_file} is no file for {type(self).__name__} ({error}); a file of COCO '
                "is one for type='CocoDataset'"
            ) from error
        own = list(self._metainfo.get('classes') or ())
        if given is not None:
            self._metainfo['classes'] = given
            for i, name in enumerate(given):
                if name in own and own.index(name) != i:
                    raise UserError(
                        f'{self.ann_file}: labels are numbers of the classes in the file, where '
                        f'{name!r} is number {own.index(name)}, and metainfo of the data set has '
                        f'it as number {i}; write classes as there, {own!r:.200}, or leave them out'
                    )
        return images

    for kind in (XMLDataset, WIDERFaceDataset):

        @replace(kind, 'parse_data_info')
        def parse_data_info(original: Any, self: Any, info: dict) -> dict:
            try:
                image = original(self, info)
            except (OSError, SyntaxError, AttributeError, TypeError, ValueError) as error:
                raise UserError(
                    f'{self.ann_file} names {info["img_id"]!r}, whose annotations cannot be read '
                    f'({error!s:.200}); a line is the name of an XML file without .xml, and an '
                    'object has name and bndbox with xmin, ymin, xmax, ymax'
                ) from error
            if not image['height'] or not image['width']:  # some tools write 0
                from ..datasets.to_coco import image_size

                size = image_size(Path(image['img_path']), decode=False)
                image['width'], image['height'] = size or (0, 0)
            return image

    @replace(XMLDataset, '_parse_instance_info')
    def parse_instance_info(original: Any, self: Any, tree: Any, *args: Any, **kw: Any) -> list:
        names = {node.findtext('name') for node in tree.findall('object')}
        others = vars(self).setdefault('names_of_no_class', set())
        others |= names - {None} - set(self._metainfo['classes'])
        return original(self, tree, *args, **kw)

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
    """COCO scores are computed by faster-coco-eval where it is installed."""
    from mmdet.evaluation.metrics import coco_metric

    coco_metric.COCOeval = fast_evaluator()
    with suppress(ImportError):  # of the maintained fork
        from mmdet.evaluation.metrics import faster_coco_metric

        faster_coco_metric.COCOeval_faster = fast_evaluator()

        # it takes the ids of classes in the order of the file
        @replace(faster_coco_metric.FasterCocoMetric, 'compute_metrics')
        def compute_metrics(original: Any, self: Any, results: list) -> dict:
            if self.cat_ids is None and hasattr(self._coco_api, 'get_cat_ids'):
                self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
                self.img_ids = self._coco_api.getImgIds()
            return original(self, results)


@functools.cache
def fast_evaluator() -> Any:
    """A class that replaces pycocotools' ``COCOeval`` and computes in C++."""
    from faster_coco_eval import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    class FastCOCOeval(COCOeval_faster):
        """Evaluates as faster-coco-eval does, and summarizes as pycocotools does."""

        def __init__(self, truth: Any, found: Any, kind: str = 'segm') -> None:
            super().__init__(truth, found, kind, print_function=print)

        def accumulate(self, p: Any = None) -> None:
            super().accumulate()

        # faster-coco-eval's has AP over all detections where pycocotools has AP over 100
        summarize = COCOeval.summarize

    return FastCOCOeval


@patch('mmdet', '>=3')
def name_class_scores() -> None:
    """Scores of single classes (classwise) go by their names, whatever the order of their ids.

    In scores of masks, the box of an annotation without a mask is ignored.
    """
    from mmdet.evaluation.metrics.coco_metric import COCOeval, COCOevalMP

    for kind in (COCOeval, COCOevalMP):

        @replace(kind, 'evaluate')
        def evaluate(original: Any, self: Any) -> None:
            self.given_ids = list(self.params.catIds)
            with ignored_without_masks(self.cocoGt.anns.values(), self.params.iouType):
                original(self)

        @replace(kind, 'accumulate')  # nothing is done where the second class inherits it
        def accumulate(original: Any, self: Any, p: Any = None) -> None:
            original(self, p)
            ids = list(self.params.catIds)
            if self.params.useCats and sorted(self.given_ids) == ids != self.given_ids:
                order = [ids.index(i) for i in self.given_ids]
                for key, axis in (('precision', 2), ('recall', 1), ('scores', 2)):
                    self.eval[key] = self.eval[key].take(order, axis)


@patch('mmdet', '>=3')
def keep_coordinates_precise() -> None:
    """Boxes, regions and scores are computed in float32 where maps are in bfloat16."""
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

    module = importlib.import_module('mmcv.ops.nms')  # mmcv.ops.nms is a function
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

    InstaBoost subtracts 1 from a list of contours of different lengths, which fails since NumPy
    1.24. `mmswinv2.InstaBoost` applies this patch in every worker of a data loader.
    """
    from instaboostfast import affine_transform

    if affine_transform.binary_mask_to_polygon is not mask_to_polygons:
        affine_transform.binary_mask_to_polygon = mask_to_polygons
        log_patch('InstaBoost can outline masks of several parts')


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a binary mask (H, W) as COCO polygons [[x0, y0, x1, y1, ...], ...]."""
    from skimage.measure import find_contours

    # -0.5: +0.5, as the center of pixel 0 is 0 in skimage and 0.5 in COCO, and -1 for the padding.
    contours = find_contours(np.pad(mask, 1), 0.5)
    return [(contour[:, ::-1] - 0.5).ravel().tolist() for contour in contours]


def load_checked(dataset: Any) -> list[dict]:
    """Load the list of a data set, once, and check it."""
    from mmdet.datasets import CocoDataset

    del dataset.load_data_list  # that of the class is called
    try:
        images = dataset.load_data_list()
    except KeyError as error:
        if error.args != ('img',) or 'img' in dataset.data_prefix:
            raise
        raise UserError(
            f'{dataset.ann_file}: data_prefix={dataset.data_prefix} of {type(dataset).__name__} '
            'has no img, the folder of the images, such as dict(img="train2017/")'
        ) from error
    if not isinstance(dataset, CocoDataset):  # its file is checked when it is read
        check_boxes(dataset, images)
    check_instances(dataset, images)
    return images


def check_boxes(dataset: Any, images: Sequence[dict]) -> None:
    """Leave out boxes of other formats than COCO's that cannot be used; refuse wrong labels."""
    from ..datasets.coco import check_corners

    classes = dataset.metainfo.get('classes')
    for image in images:
        for instance in image.setdefault('instances', []):
            instance.setdefault('ignore_flag', 0)
    if classes is None or not (found := [(i, o) for i in images for o in i['instances']]):
        return  # phrases in place of classes
    first = found[0][1]
    if np.size(first.get('bbox')) in (5, 8) or not {'bbox', 'bbox_label'} & first.keys():
        return  # turned boxes, lines
    labels = set(range(len(classes)))
    for image, instance in found:
        label = instance.get('bbox_label')
        if not instance['ignore_flag'] and label not in labels:
            raise UserError(
                f'{dataset.ann_file}: an object of {image.get("img_path")} has bbox_label={label!r}'
                f', and the labels of {len(classes)} classes are 0 to {len(classes) - 1}'
            )
    keep = check_corners(
        dataset.ann_file,
        [instance.get('bbox') for _, instance in found],
        [(image.get('width') or np.inf, image.get('height') or np.inf) for image, _ in found],
        lambda i: f'on {found[i][0].get("img_path")} with bbox={found[i][1]["bbox"]}',
    )
    used = iter(keep)
    for image in images:
        image['instances'] = [o for o in image['instances'] if next(used)]


def check_instances(dataset: Any, images: Sequence[dict]) -> None:
    """Check the instances that mmdet made of annotations.

    Those without a mask, where masks are loaded, are ignored in training and counted in a warning.
    `UserError` is raised if none is left.
    """
    if any('segments_info' in image for image in images):  # panoptic: masks come from maps
        return
    from ..datasets.coco import some

    instances = [instance for image in images for instance in image.get('instances', ())]
    classes = dataset.metainfo.get('classes')
    others = some(sorted(getattr(dataset, 'names_of_no_class', ())))
    if all(instance.get('ignore_flag') for instance in instances):
        if dataset.test_mode and not others:
            return
        told = (
            f'{dataset.ann_file} has {len(images)} images and 0 annotations (crowds left aside) of '
            f'the classes {classes!r:.80}'
        )
        if others and (dataset.filter_cfg or {}).get('filter_empty_gt', True):
            raise UserError(
                f'{told}; its objects are {others}: name these in metainfo, or set '
                'filter_cfg=dict(filter_empty_gt=False) if the images are to be background'
            )
        if (dataset.filter_cfg or {}).get('filter_empty_gt'):
            raise UserError(f'{told}; training needs both')
        warn(f'{told}: they are background')
    seen = {instance.get('bbox_label') for instance in instances}
    if others and (lacking := [name for i, name in enumerate(classes) if i not in seen]):
        warn(
            f'{dataset.ann_file}: no object is of the classes {some(lacking)}, and objects of '
            f'{others} are left out; classes in metainfo are the names in the label files'
        )
    loaders = [step for step in steps_in(dataset.pipeline) if getattr(step, 'with_mask', False)]
    if not loaders:
        return
    objects = [instance for instance in instances if not instance.get('ignore_flag')]
    runs = sum(isinstance(instance.get('mask'), dict) for instance in objects)
    if runs and not dataset.test_mode and not all(getattr(s, 'poly2mask', True) for s in loaders):
        told = (
            f'{dataset.ann_file}: {runs} of {len(objects)} masks are run lengths, and '
            'poly2mask=False of LoadAnnotations takes polygons alone'
        )
        if runs == len(objects):
            raise UserError(f'{told}; leave it out: there is nothing to train with')
        warn(f'{told}: their objects are ignored; leave it out to train with them')
    without = [instance for instance in instances if not instance.get('mask')]
    if instances and len(without) == len(instances):
        raise UserError(
            f'{dataset.ann_file} has boxes and no masks (segmentation), and the pipeline loads '
            'masks; take a config without masks, or set with_mask=False in LoadAnnotations'
        )
    for instance in without:
        instance['mask'] = []  # mmdet ignores it as damaged
    if without:
        warn(
            f'{dataset.ann_file}: {len(without)} of {len(instances)} annotations have no mask '
            '(segmentation); they are ignored in training and in scores of masks'
        )


@contextmanager
def ignored_without_masks(annotations: Iterable[dict], kind: str) -> Iterator[None]:
    """Let annotations without a mask count as ignored boxes while masks are scored (``'segm'``)."""
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

    Values are not checked without `num_classes`, those of the semantic head.
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
