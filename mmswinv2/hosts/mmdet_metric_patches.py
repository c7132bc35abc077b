"""Patches of the metrics of mmdet, with the versions that need them."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .label_maps import count_areas, f_scores
from .patching import is_installed, log_patch, patch, replace, restore_numpy_names


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
    Of boxes and masks each has scores of its own (``bbox_cat_precision``), and so has each IoU
    threshold, as mmdet keeps the last alone.
    """
    _keep_order_of_classes()
    _score_boxes_and_masks_each()
    _name_classes_of_panoptic_and_voc()
    _score_thresholds_each()


def _keep_order_of_classes() -> None:
    """COCO's evaluators sort the ids; and the boxes of annotations without masks are ignored."""
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


def _score_boxes_and_masks_each() -> None:
    from mmdet.evaluation import metrics

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


def _name_classes_of_panoptic_and_voc() -> None:
    from mmdet.datasets import VOCDataset
    from mmdet.evaluation import metrics

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
        if self.metric == 'recall':  # of the boxes of all classes; mmdet takes those of the first
            results = [(truth, [np.concatenate(found)]) for truth, found in results]
        try:
            return original(self, results)
        finally:
            self.dataset_meta = meta


def _score_thresholds_each() -> None:
    """0.57 and 0.58 are AP57 and AP58; mmdet calls both AP57, and keeps the last."""
    from mmdet.evaluation.metrics import OpenImagesMetric, VOCMetric

    @replace((VOCMetric, OpenImagesMetric), 'compute_metrics')
    def compute_each(original: Any, self: Any, results: list) -> dict:
        if getattr(self, 'metric', 'mAP') != 'mAP':
            return original(self, results)
        before, scores = dict(vars(self)), {}
        try:
            for i, threshold in enumerate(before['iou_thrs']):
                self.iou_thrs = [threshold]
                self.ioa_thrs = before.get('ioa_thrs', [])[i : i + 1]
                scores[f'AP{threshold * 100:02.10g}'] = original(self, results)['mAP']
        finally:
            vars(self).update(before)
        rounded = {name: round(score, 3) for name, score in scores.items()}
        return {'mAP': float(np.mean([*scores.values()])), **rounded}


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
def score_images_without_persons() -> None:
    """CrowdHumanMetric scores images without a person, and a model that finds nothing."""
    from mmdet.evaluation.metrics import crowdhuman_metric

    @replace(crowdhuman_metric.Image, 'load_gt_boxes')
    def load_gt_boxes(original: Any, self: Any, record: dict, *args: Any) -> tuple:
        none = np.empty((0, 5)), np.empty((0, 5))
        return original(record, *args) if record['gtboxes'] else none

    @replace(crowdhuman_metric.CrowdHumanMetric, 'eval_mr')
    def eval_mr(original: Any, self: Any, scores: list, *args: Any) -> float:
        return original(self, scores, *args) if scores else 1.0


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
            scores.update(f_scores(common, found, wanted, self.beta))
        return scores


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
