"""Patches of mmdet and InstaBoost, with the versions that need them."""

import functools
import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.logging import MessageHub

from ..errors import UserError
from .label_maps import count_areas, f_scores
from .patching import is_installed, log_patch, patch, replace, restore_numpy_names


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
def draw_readable_names() -> None:
    """Names of classes are drawn large enough to read, at small boxes and in large photos."""
    from mmdet.visualization import DetLocalVisualizer, local_visualizer

    @replace(local_visualizer, '_get_adaptive_scales')
    def scales_of(_: Any, areas: Any, min_area: int = 800, max_area: int = 30000) -> Any:
        share = (np.asarray(areas) - min_area) / (max_area - min_area)  # mmdet rounds it down
        return np.clip(0.5 + share / 2, 0.5, 1.0)

    @replace(DetLocalVisualizer, 'draw_texts')
    def draw(original: Any, self: Any, *args: Any, **options: Any) -> Any:
        if isinstance(points := options.get('font_sizes'), int):
            options['font_sizes'] = points * max(1, max(self.width, self.height) / 1000)
        return original(self, *args, **options)


@functools.cache
def _takes_colors(ending: str) -> bool:
    """Whether OpenCV, by its version and settings, writes colors to files of an ending."""
    before = cv2.setLogLevel(0)  # else it prints an error at .pgm
    try:
        return cv2.imencode(ending, np.zeros((64, 64, 3), np.uint8))[0]
    except cv2.error:
        return False
    finally:
        cv2.setLogLevel(before)


@patch('mmdet', '>=3')
def keep_every_picture() -> None:
    """Pictures of images with one name in several folders get names of their own.

    Those of images such as ``1.jfif`` and ``1.npy``, which OpenCV does not write, become JPEGs.
    """
    from mmdet.visualization import DetLocalVisualizer

    @replace(DetLocalVisualizer, 'add_datasample')
    def add_datasample(draw: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        if out := kwargs.get('out_file'):
            if not _takes_colors(Path(out).suffix.lower()):
                out = f'{out}.jpg'
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


@patch('mmdet', '>=3.1')
def join_any_sets() -> None:
    """Data sets can be joined if the first lacks a key of metainfo, as if another one does."""
    from mmdet.datasets import ConcatDataset

    def first(self: Any) -> dict:  # mmdet looks up the keys of all in it
        return defaultdict(lambda: None, vars(self)['_metainfo_first'])

    def keep(self: Any, metainfo: dict) -> None:
        vars(self)['_metainfo_first'] = metainfo

    ConcatDataset._metainfo_first = property(first, keep)


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
        if onto.get('gt_seg_map') is not None:  # mmdet leaves it as it was below what is pasted
            if source.get('gt_seg_map') is None:
                raise UserError(
                    'CopyPaste: an image has a semantic map, and the one that is pasted has none; '
                    'set data_prefix.seg in all data sets, or in none'
                )
            pasted = source['gt_masks'].masks.any(0)
            onto['gt_seg_map'] = np.where(pasted, source['gt_seg_map'], onto['gt_seg_map'])
        return original(self, onto, source)


@patch('mmdet', '>=3')
def move_masks_with_images() -> None:
    """CachedMixUp moves the masks of an image as far as the image."""
    import mmcv
    from mmdet.datasets.transforms import CachedMixUp
    from mmdet.structures.mask import BitmapMasks

    @replace(vars(CachedMixUp)['get_indexes'], 'func')  # a descriptor of mmcv
    def get_indexes(original: Any, self: Any, cache: list) -> int:
        index = original(self, cache)
        if (masks := cache[index].get('gt_masks')) is not None:  # mmdet turns them within the
            image = cache[index]['img']  # image, and the image within that of all
            sides = np.array(self.dynamic_scale[::-1])
            shape = np.rint(sides / np.min(sides / image.shape[:2])).astype(int).tolist()
            image = mmcv.impad(image, shape=shape, pad_val=self.pad_val)
            cache[index].update(img=image, gt_masks=masks.pad(shape))
        return index

    @replace(BitmapMasks, 'translate')
    def translate(original: Any, self: Any, out_shape: tuple, *args: Any, **kwargs: Any) -> Any:
        whole = np.maximum(out_shape, (self.height, self.width))  # mmdet cuts before it moves
        moved = original(self, tuple(whole), *args, **kwargs)
        return (
            moved.crop(np.array([0, 0, *out_shape[::-1]])) if (whole > out_shape).any() else moved
        )


@patch('mmdet', '>=3')
def resize_whole_batches() -> None:
    """BatchSyncRandomResize resizes masks and semantic maps too, and resumes with its size."""
    from mmdet.models.data_preprocessors import BatchSyncRandomResize

    @replace(BatchSyncRandomResize, 'forward')
    def forward(original: Any, self: Any, inputs: torch.Tensor, data_samples: list) -> tuple:
        hub = MessageHub.get_current_instance()  # is saved in checkpoints
        if self._input_size is None:
            self._input_size = hub.runtime_info.get('batch_resize')
        before = inputs.shape[-2:]
        inputs, data_samples = original(self, inputs, data_samples)
        hub.update_info('batch_resize', self._input_size)
        if (after := inputs.shape[-2:]) == before:
            return inputs, data_samples

        def scaled(sizes: Iterable[int]) -> list[int]:
            return [round(n * new / old) for n, new, old in zip(sizes, after, before, strict=True)]

        for sample in data_samples:
            if (masks := sample.gt_instances.get('masks')) is not None:
                sample.gt_instances.masks = masks.resize(scaled((masks.height, masks.width)))
            if 'gt_sem_seg' in sample:
                labels = sample.gt_sem_seg.pop('sem_seg')
                size = scaled(labels.shape[-2:])
                resized = torch.nn.functional.interpolate(labels[None].float(), size)
                sample.gt_sem_seg.sem_seg = resized[0].to(labels.dtype)
        return inputs, data_samples


@patch('mmdet', '>=3')
def resume_measures() -> None:
    """Dynamic R-CNN and DDOD resume with what they have measured for their losses."""
    from mmdet.models.dense_heads import DDODHead
    from mmdet.models.roi_heads import DynamicRoIHead

    @replace(DDODHead, 'calc_reweight_factor')
    def factors(original: Any, self: Any, *args: Any, **options: Any) -> list[float]:
        with _resumed(self, 'cls_num_pos_samples_per_level'):
            return original(self, *args, **options)

    @replace(DynamicRoIHead, 'loss')
    def loss(original: Any, self: Any, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
        thresholds = (f'bbox_assigner.{n}' for n in ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou'))
        names = ('iou_history', 'beta_history', *thresholds, 'bbox_head.loss_bbox.beta')
        with _resumed(self, *names):
            return original(self, *args, **options)


@contextmanager
def _resumed(module: Any, *names: str) -> Iterator[None]:
    """Save attributes that no state dict has, and restore them at the first call of a run."""
    hub = MessageHub.get_current_instance()  # is saved in checkpoints
    key = f'state of {type(module).__name__}'
    places = [
        (functools.reduce(getattr, owners, module), name)
        for *owners, name in (name.split('.') for name in names)
    ]
    if not hasattr(module, 'is_resumed'):
        module.is_resumed = True
        for (owner, name), value in zip(places, hub.runtime_info.get(key, ()), strict=False):
            setattr(owner, name, value)
    yield
    # without the types of NumPy
    hub.update_info(key, [np.asarray(getattr(owner, name)).tolist() for owner, name in places])


def has_fast_evaluator() -> bool:
    """Whether faster-coco-eval, which `fast_evaluator` needs, is installed."""
    return is_installed('faster-coco-eval', '>=1.8')


@patch('mmdet', '>=3', has_fast_evaluator)
def score_faster() -> None:
    """COCO scores are computed by faster-coco-eval where it is installed."""
    from mmdet.evaluation.metrics import coco_metric

    coco_metric.COCOeval = fast_evaluator()
    with suppress(ImportError):  # of the maintained fork
        from mmdet.evaluation.metrics import faster_coco_metric

        faster_coco_metric.COCOeval_faster = fast_evaluator()


@functools.cache
def fast_evaluator() -> Any:
    """A class that replaces pycocotools' ``COCOeval`` and computes in C++."""
    from faster_coco_eval import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    class FastCOCOeval(COCOeval_faster):
        """Evaluates as faster-coco-eval does, and summarizes as pycocotools does."""

        def __new__(cls, truth: Any, found: Any, kind: str = 'segm') -> Any:
            # faster-coco-eval takes numbers alone, in float64; those of Pascal VOC are names
            if any(isinstance(i, str) or abs(i) > 2**53 for i in (*truth.imgs, *truth.cats)):
                return COCOeval(truth, found, kind)
            return super().__new__(cls)

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

    PQ and VOCMetric, too. In scores of masks, the box of an annotation without a mask is ignored.
    Of boxes and masks each has scores of its own (``bbox_cat_precision``), as mmdet keeps the last
    alone.
    """
    from mmdet.datasets import VOCDataset
    from mmdet.evaluation import metrics
    from mmdet.evaluation.metrics.coco_metric import COCOeval, COCOevalMP
    from pycocotools.cocoeval import COCOeval as PlainCOCOeval

    kinds = (COCOeval, PlainCOCOeval, COCOevalMP)

    @replace(kinds, 'evaluate')
    def evaluate(original: Any, self: Any) -> None:
        self.given_ids = list(self.params.catIds)
        with ignored_without_masks(self.cocoGt.anns.values(), self.params.iouType):
            original(self)

    @replace(kinds, 'accumulate')  # nothing is done where a later class inherits it
    def accumulate(original: Any, self: Any, p: Any = None) -> None:
        original(self, p)
        ids = list(self.params.catIds)
        if self.params.useCats and sorted(self.given_ids) == ids != self.given_ids:
            order = [ids.index(i) for i in self.given_ids]
            for key, axis in (('precision', 2), ('recall', 1), ('scores', 2)):
                self.eval[key] = self.eval[key].take(order, axis)

    names = ('CocoMetric', 'FasterCocoMetric', 'LVISMetric', 'OVCocoMetric')

    @replace(tuple(getattr(metrics, n) for n in names if hasattr(metrics, n)), 'compute_metrics')
    def compute_each(original: Any, self: Any, results: list) -> dict:
        faster = isinstance(self, getattr(metrics, 'FasterCocoMetric', ()))
        if faster and self.cat_ids is None and hasattr(self._coco_api, 'get_cat_ids'):
            # it takes them in the order of the file
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
        every: Any = self.metrics
        if self.format_only or not self.classwise or not {'bbox', 'segm'} <= set(every):
            return original(self, results)
        scores: dict = {}
        try:
            for kind in every:
                self.metrics = [kind]
                found = original(self, results)
                own = (name for name in found if name.endswith('_precision'))
                scores |= found | {f'{kind}_{name}': found[name] for name in own}
        finally:
            self.metrics = every
        return scores

    @replace(metrics.CocoPanopticMetric, 'compute_metrics')
    def compute_metrics(original: Any, self: Any, results: list) -> dict:
        if (api := self._coco_api) is not None:
            place = {name: i for i, name in enumerate(self.dataset_meta['classes'])}
            known = sorted(api.cats.items(), key=lambda c: place.get(c[1]['name'], len(place)))
            api.cats = self.categories = dict(known)
        return original(self, results)

    @replace(metrics.VOCMetric, 'compute_metrics')
    def compute_voc(original: Any, self: Any, results: list) -> dict:
        meta = self.dataset_meta
        if tuple(meta['classes']) != VOCDataset.METAINFO['classes']:
            # data of one's own in a folder VOC2007, whose classes mmdet names as those of VOC
            self.dataset_meta = {**meta, 'dataset_type': None}
        try:
            return original(self, results)
        finally:
            self.dataset_meta = meta


@patch('mmdet', '>=3')
def measure_recalls() -> None:
    """Recalls of proposals are measured, whatever the number of boxes on each image."""
    from mmdet.evaluation.functional import recall
    from mmdet.evaluation.metrics import coco_metric, lvis_metric, voc_metric

    @replace((coco_metric.CocoMetric, lvis_metric.LVISMetric), 'fast_eval_recall')
    def fast_eval_recall(original: Any, self: Any, results: Any, *args: Any, **kw: Any) -> Any:
        self.img_ids = [result['img_id'] for result in results]  # paired by their places
        return original(self, results, *args, **kw)

    @replace((coco_metric, lvis_metric, voc_metric), 'eval_recalls')
    def eval_recalls(
        original: Any, gts: list, found: list, proposal_nums: Any = None, iou_thrs: Any = 0.5,
        logger: Any = None, **options: Any,
    ) -> Any:  # fmt: skip
        numbers, thresholds = recall.set_recall_param(proposal_nums, iou_thrs)
        ious = np.empty(len(gts), object)  # NumPy 1.24 and later make none of several shapes
        for i, (boxes, own) in enumerate(zip(gts, found, strict=True)):
            if own.shape[1] == 5:
                own = own[own[:, 4].argsort()[::-1]]
            ious[i] = recall.bbox_overlaps(boxes, own[: numbers[-1], :4], **options)
        recalls = recall._recalls(ious, numbers, thresholds)
        recall.print_recall_summary(recalls, numbers, thresholds, logger=logger)
        return recalls


@patch('mmdet', '>=3')
def keep_folders() -> None:
    """CityScapesMetric and MOTChallengeMetric delete no folder before they write into it."""
    from mmdet.evaluation.metrics import cityscapes_metric, mot_challenge_metric

    def keep(folder: str) -> None:
        # objects of an earlier test, which may have been one of other images
        Path(folder, 'gtInstances.json').unlink(missing_ok=True)
        log_patch(f'{folder} (outfile_prefix) is kept; files of the same names are replaced')

    for module in (cityscapes_metric, mot_challenge_metric):
        module.shutil = SimpleNamespace(rmtree=keep)


def _scored_by_old_numpy() -> bool:
    return is_installed('lvis', '<=0.5.3') or is_installed('mmdet', '<3.5')


@patch('mmdet', '>=3', _scored_by_old_numpy)
def score_with_new_numpy() -> None:
    """LVIS and YouTube-VIS can be scored with NumPy 1.24 and later, which has no np.float."""
    restore_numpy_names('lvis.eval', 'mmdet.evaluation.functional.ytviseval')


@patch('mmdet', '>=3')
def paste_masks_beside_images() -> None:
    """Masks of boxes beside their image are empty on CPUs, as they are on GPUs."""
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    @replace(fcn_mask_head, '_do_paste_mask')
    def paste(
        original: Any, masks: Any, boxes: Any, height: int, width: int, skip_empty: bool = True
    ) -> tuple:
        on_image = (boxes[:, 2:] >= 0) & (boxes[:, :2] < boxes.new_tensor([width, height]))
        return original(masks, boxes, height, width, skip_empty and bool(on_image.all()))


@patch('mmdet', '>=3')
def pack_without_resize() -> None:
    """Detectors predict on images that no step of the pipeline has resized."""
    from mmdet.datasets.transforms import PackDetInputs, Pad

    @replace((Pad, PackDetInputs), 'transform')
    def transform(original: Any, self: Any, results: dict) -> dict:
        if np.shape(results.get('img', ()))[:2] == results.get('ori_shape'):
            results.setdefault('scale_factor', (1.0, 1.0))
        return original(self, results)


@patch('mmdet', '>=3')
def keep_coordinates_precise() -> None:
    """Boxes, regions and scores are computed in float32 where maps are in bfloat16."""
    from mmdet.models.roi_heads.roi_extractors import GenericRoIExtractor, SingleRoIExtractor
    from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator

    @replace((AnchorGenerator, MlvlPointGenerator), 'grid_priors')
    def grid_priors(
        make: Any, self: Any, featmap_sizes: Any, dtype: Any = torch.float32, *args: Any,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        return make(self, featmap_sizes, _precise(dtype), *args, **kwargs)

    @replace((SingleRoIExtractor, GenericRoIExtractor), 'forward')
    def forward(original: Any, self: Any, feats: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, [x.to(_precise(x.dtype)) for x in feats], *args, **kwargs)

    # mmcv.ops.nms is a function
    @replace(importlib.import_module('mmcv.ops.nms'), 'nms', 'soft_nms')
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


@patch('mmdet', '>=3')
def name_last_image() -> None:
    """The last image of Open Images is the one that its boxes are of."""
    from mmdet.datasets import OpenImagesDataset

    @replace(OpenImagesDataset, 'load_data_list')
    def load(original: Any, self: Any) -> list[dict[str, Any]]:
        *_, last = samples = original(self)
        last['img_path'] = str(Path(self.data_prefix['img'], f'{last["img_id"]}.jpg'))
        return samples


@patch('mmdet', '>=3.1')
def count_every_pixel() -> None:
    """All pixels of a large image count in the mIoU of SemSegMetric."""
    from mmdet.evaluation.metrics import SemSegMetric

    @replace(SemSegMetric, '_compute_pred_stats')
    def areas(original: Any, self: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        names = ('area_intersect', 'area_union', 'area_pred_label', 'area_label')
        return dict(zip(names, count_areas(*args, **kwargs), strict=True))


@patch('mmdet', '>=3.1')
def average_right_pixels() -> None:
    """SemSegMetric has aAcc over all pixels, and mFscore with classes that are never right.

    Pixels that `LoadAnnotations` ignores (ignore_index) do not count, of which the metric was told
    by no model.
    """
    from mmdet.evaluation.metrics import SemSegMetric

    @replace(SemSegMetric, 'process')
    def process(original: Any, self: Any, batch: Any, samples: Iterable[dict]) -> None:
        for sample in samples:
            if 'ignore_index' in (truth := sample.get('gt_sem_seg', ())):
                sample['pred_sem_seg'].setdefault('ignore_index', truth['ignore_index'])
        original(self, batch, samples)

    @replace(SemSegMetric, 'get_return_metrics')
    def get_return_metrics(original: Any, self: Any, results: list[dict]) -> dict[str, np.ndarray]:
        scores = original(self, results)
        names = ('area_intersect', 'area_pred_label', 'area_label')
        common, found, wanted = (sum(result[name] for result in results) for name in names)
        scores['aAcc'] = (common.sum() / wanted.sum()).cpu().numpy()
        if 'Fscore' in scores:
            scores['Fscore'] = f_scores(common, found, wanted, self.beta).cpu().numpy()
        return scores


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
