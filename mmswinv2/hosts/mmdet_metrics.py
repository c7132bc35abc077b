"""Metrics of mmdet: options, annotations and images that they cannot score."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import class_names
from ..errors import UserError
from ..files import refuse_shared
from ..log import warn
from .configs import as_list, inner_datasets, steps_in
from .pipelines import has_own_steps

COCO_ITEMS = (
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100', 'AR@300', 'AR@1000'),
    *('AR_s@1000', 'AR_m@1000', 'AR_l@1000'),
)
COCO_METRICS = ('CocoMetric', 'FasterCocoMetric')


def check_metric(metric: Any, dataset: Any, where: str) -> None:
    """Raise `UserError` if the options of a metric, or its annotations, cannot score a data set.

    IoU thresholds get the form that the metric takes, and its scores are kept to the images of the
    data set.
    """
    kinds = class_names(metric)
    if 'VOCMetric' in kinds:
        metric.iou_thrs = _thresholds(metric, where).tolist()  # it takes no tuple
    without_file = 'FasterCocoMetric' in kinds and metric._coco_api is None
    if 'VOCMetric' in kinds or without_file:
        for inner in inner_datasets(dataset):
            if hasattr(inner, 'pipeline') and not has_own_steps(inner):
                check_loaded_boxes(inner, type(metric).__name__, where)
    if 'CrowdHumanMetric' in kinds and metric.eval_mode != 0:
        raise UserError(
            f'{where}: CrowdHumanMetric has eval_mode={metric.eval_mode}, which scores boxes of '
            'heads, and mmdet gives it those of bodies alone; set eval_mode=0'
        )
    if 'CocoPanopticMetric' in kinds:
        _check_names_of_maps(metric, dataset, where)
    if (lvis := getattr(metric, '_lvis_api', None)) is not None:
        keep_loaded_images(lvis, infos_by_id(dataset, metric, where), where)
    if kinds & set(COCO_METRICS) and not hasattr(metric, '_lvis_api'):
        _check_coco_metric(metric, dataset, where)


def _check_coco_metric(metric: Any, dataset: Any, where: str) -> None:
    """`check_metric` for the metrics of COCO."""
    if isinstance(meta := getattr(dataset, 'metainfo', None), list):
        names = set().union(*meta)
        keys = sorted(k for k in names if any(m.get(k, ...) != meta[0].get(k, ...) for m in meta))
        raise UserError(
            f'{where}: the data sets of ConcatDataset differ in {", ".join(keys)}, and CocoMetric '
            'takes one metainfo; give all the same metainfo=dict(classes=...), and name in '
            'ignore_keys of ConcatDataset what else may differ'
        )
    if type(metric).__name__ in COCO_METRICS:  # others may have options of their own
        check_coco_options(metric, where)
    if type(metric).__name__ == 'CocoMetric' and metric._coco_api is None:
        for inner in inner_datasets(dataset):
            if not has_own_steps(inner):
                _check_instances(inner, where)
    infos = infos_by_id(dataset, metric, where)
    annotations: Any = getattr(metric, '_coco_api', None)
    if infos and hasattr(annotations, 'path'):
        check_same_images(infos, annotations, where)
        check_scored(metric, infos, annotations, dataset.metainfo['classes'], where)


def _check_names_of_maps(metric: Any, dataset: Any, where: str) -> None:
    """Raise `UserError` if CocoPanopticMetric would take the map of another image, or find none.

    It writes and reads maps by the names of images, without their folders.
    """
    if not hasattr(dataset, 'get_data_info'):
        return
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    images = [info.get('img_path', '') for info in infos]
    names = [os.path.basename(path).replace('.jpg', '.png') for path in images]
    refuse_shared(where, zip(images, names, strict=True))
    folder = metric.seg_prefix or ''
    if metric.tmp_dir is None:  # with outfile_prefix
        if metric.format_only or metric._coco_api is not None:
            return  # no maps, or by the names in the annotations
        maps = [info.get('seg_map_path') or '' for info in infos]
        folder, names = os.path.dirname(maps[0]), [os.path.basename(path) for path in maps]
    if metric.backend_args or '://' in folder or not all(images):
        return  # elsewhere than on this disk
    for image, name in zip(images, names, strict=True):
        if not os.path.isfile(path := os.path.join(folder, name)):
            raise UserError(
                f'{where}: CocoPanopticMetric looks for the map of {image} at {path}, where there '
                'is none; set seg_prefix to the folder of the maps, with none in a folder below'
            )


def _check_instances(dataset: Any, where: str) -> None:
    """Raise `UserError` if samples lack the objects that CocoMetric needs without ``ann_file``.

    mmdet asserts it in the first validation, after an epoch.
    """
    for step in steps_in(getattr(dataset, 'pipeline', None)):
        if type(step).__name__ == 'PackDetInputs' and 'instances' not in step.meta_keys:
            raise UserError(
                f'{where}: CocoMetric without ann_file takes the objects from the samples, and '
                "meta_keys of PackDetInputs lacks 'instances'; add it, or give ann_file"
            )


def check_loaded_boxes(dataset: Any, metric: str, where: str) -> None:
    """Raise `UserError` if samples have no boxes, or moved ones, and a metric scores these."""
    for i in range(len(dataset)):
        objects = dataset.get_data_info(i)['instances']
        if boxes := [o['bbox'] for o in objects if not o['ignore_flag']]:
            break
    else:
        return
    instances = as_list(dataset[i]['data_samples'])[0].gt_instances  # of the first of some views
    loaded = instances.get('bboxes')
    array = np.asarray(getattr(loaded, 'tensor', loaded))
    if array.shape != np.shape(boxes) or not np.allclose(array, boxes, atol=0.01):
        how = 'does not load; add' if loaded is None else 'moves; put'
        raise UserError(
            f'{where}: {metric} scores the boxes of the samples, which the pipeline {how} '
            'LoadAnnotations after Resize, as predictions have the size of the image file'
        )


def infos_by_id(dataset: Any, metric: Any, where: str) -> dict[Any, dict]:
    """What a data set knows of each image, by the id under which a metric scores it.

    Nothing for a data set of the user's own, whose pipeline may add ids and paths.

    Raises:
        UserError: if two images have one id, or an image of an annotation file stands in the data
            set twice.
    """
    infos: dict[Any, dict] = {}
    has_file = any(getattr(metric, name, None) for name in ('_coco_api', '_lvis_api'))
    if not hasattr(dataset, 'get_data_info'):
        return infos
    for info in map(dataset.get_data_info, range(len(dataset))):
        if not {'img_id', 'img_path'} <= info.keys():
            return {}
        first = infos.setdefault(info['img_id'], info)
        if first is info or metric.format_only:
            continue
        if os.path.normpath(first['img_path']) == os.path.normpath(info['img_path']):
            if not has_file:  # objects come from the samples, each as often as its image
                continue
            raise UserError(
                f'{where}: {info["img_path"]} (image_id={info["img_id"]!r}) stands in the data set '
                'twice, and the boxes that are found on it again would count as false alarms; name '
                'it once, in one of joined annotation files, and take RepeatDataset for training '
                'alone'
            )
        raise UserError(
            f'{where}: {first["img_path"]} and {info["img_path"]} of the data set both '
            f'have image_id={info["img_id"]!r}, by which scores are computed; give each '
            'annotation file ids of its own, or use MultiDatasetsEvaluator'
        )
    return infos


def _check_known(infos: dict[Any, dict], annotations: Any, source: str) -> None:
    """Raise `UserError` if an annotation file, named by `source`, lacks images of a data set."""
    if unknown := [i for i in infos if i not in annotations.imgs]:
        raise UserError(
            f'{source} lacks {len(unknown)} of the {len(infos)} images of the data set, first of '
            f'all image_id={unknown[0]!r}; give the evaluator the ann_file of the data set'
        )


def check_same_images(infos: dict[Any, dict], annotations: Any, where: str) -> None:
    """Raise `UserError` if an image of a data set is none, or another, of an annotation file."""
    source = f'{where}: ann_file={annotations.path}'
    _check_known(infos, annotations, source)
    for number, info in infos.items():
        other = annotations.imgs[number]
        names = [
            Path(str(name).replace('\\', '/')).name
            for name in (info['img_path'], other['file_name'])
        ]
        if names[0] != names[1]:
            raise UserError(
                f'{source}: image_id={number!r} is {names[1]} there and {names[0]} in the data '
                'set; give the evaluator the ann_file of the data set'
            )


def check_scored(
    metric: Any, infos: dict[Any, dict], annotations: Any, classes: Sequence[str], where: str
) -> None:
    """Raise `UserError` if an annotation file has nothing that a metric can score.

    The metric is kept to the images of the data set, with a warning if the file has others.
    """
    source = f'{where}: ann_file={annotations.path}'
    ids = set(annotations.get_cat_ids(classes))
    scored = [a for a in annotations.anns.values() if a['category_id'] in ids]
    if not metric.format_only and not any(
        not a['iscrowd'] and a['image_id'] in infos for a in scored
    ):
        raise UserError(
            f'{source} has no annotations of the classes on the images of the data set: there is '
            'nothing to score; for predictions alone set format_only=True and outfile_prefix '
            'in the evaluator'
        )
    if left := set(annotations.imgs) - set(infos):
        metric.img_ids = sorted(infos)
        number = len(left & {a['image_id'] for a in scored})
        warn(
            f'{source} has annotations on {number} images that the data set does not load; '
            f'scores are those of the other {len(infos)}'
            + f'. {len(left) - number} more have no object: false alarms there do not count '
            '(with test_mode=True no filter leaves them out)' * (number < len(left))
        )
    masks = 'segm' in metric.metrics and not metric.format_only
    if masks and not any(a.get('segmentation') for a in scored):
        raise UserError(
            f'{source} has boxes and no masks (segmentation), and the evaluator is to score '
            "masks; set its metric='bbox'"
        )


def keep_loaded_images(annotations: Any, infos: dict[Any, dict], where: str) -> None:
    """Keep LVIS's scores to the images of a data set, where others count as missed.

    Raises:
        UserError: if an image of the data set is none of the annotation file.
    """
    _check_known(infos, annotations, f'{where}: ann_file')
    if infos and (others := annotations.imgs.keys() - infos):
        annotations.imgs = {i: annotations.imgs[i] for i in infos}
        warn(
            f'{where}: ann_file has {len(others)} images that the data set does not load; scores '
            f'are those of the other {len(infos)}'
        )


def check_coco_options(metric: Any, where: str) -> None:
    """Raise `UserError` for options of mmdet's CocoMetric with which it fails after all images.

    IoU thresholds become an array, as pycocotools finds single ones in no list.
    """
    if metric.format_only:
        return

    def refuse(option: str, rule: str) -> UserError:
        found = f'{option}={getattr(metric, option)!r:.80}'
        return UserError(f'{where}: {type(metric).__name__} has {found}; {rule}')

    items, summed = metric.metric_items, set(metric.metrics) - {'proposal_fast'}
    if isinstance(items, str) or not set(map(str, items or ())) <= set(COCO_ITEMS):
        raise refuse('metric_items', f'it is a list of some of {", ".join(COCO_ITEMS)}')
    numbers, whole = metric.proposal_nums, summed - {'proposal'}
    right = len(numbers) > 0 and all(type(n) is int and n > 0 for n in numbers)
    # the other evaluator takes mAP at the last number, however many there are
    right = right and ((metric.use_mp_eval and summed == whole) or len(numbers) > 2)
    if (summed and not right) or (whole and 100 not in numbers and not metric.use_mp_eval):
        rule = 'there must be three whole numbers, one of them 100, at which mAP is taken'
        raise refuse('proposal_nums', rule)
    thresholds = _thresholds(metric, where)
    if metric.classwise and whole and len(thresholds) < 6:
        raise UserError(
            f'{where}: {type(metric).__name__} has classwise=True and {len(thresholds)} iou_thrs; '
            'mmdet takes the sixth for mAP_75 of a class: leave iou_thrs out, or classwise'
        )
    metric.iou_thrs = thresholds


def _thresholds(metric: Any, where: str) -> np.ndarray:
    """The IoU thresholds of a metric; raises `UserError` if they are none."""
    try:
        thresholds = np.atleast_1d(np.array(metric.iou_thrs, np.float64))
    except (TypeError, ValueError):
        thresholds = np.zeros(0)
    inside = (thresholds > 0) & (thresholds <= 1)
    if thresholds.ndim > 1 or not thresholds.size or not inside.all():
        raise UserError(
            f'{where}: {type(metric).__name__} has iou_thrs={metric.iou_thrs!r:.80}; it is a '
            'number above 0, up to 1, or a list of them'
        )
    return thresholds
