"""mmdet: detectors and instance segmentation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..log import warn
from ..progress import track
from . import mmdet_patches
from .host import Host, as_list, dicts_in, inner_datasets, steps_in, training_pipeline, type_name
from .mmcv import check_size, open_image, shown_size
from .mmdet_annotations import check_annotations
from .patching import patches_in
from .pipelines import has_own_steps

_SEMANTIC_MAPS = (
    '; it holds the semantic maps of HTC: see docs/data.md for COCO-stuff, draw maps with '
    'tools/dataset_converters/coco_stuff_maps.py, or train the config without semantic branch '
    '(htc++-without-semantic_...)'
)

# names of the heads in detectors
_HEADS = {'bbox_head', 'mask_head', 'panoptic_head', 'mask_iou_head', 'point_head'}
_COCO_ITEMS = (
    *('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@100', 'AR@300', 'AR@1000'),
    *('AR_s@1000', 'AR_m@1000', 'AR_l@1000'),
)
_LOADERS = ('LoadImageFromFile', 'LoadImage')
_COCO_METRICS = ('CocoMetric', 'FasterCocoMetric')
_COCO_SCORES = [f'{kind}_{item}' for kind in ('bbox', 'segm') for item in _COCO_ITEMS]


class MMDet(Host):
    """mmdet."""

    name = 'mmdet'
    extra = 'det'
    patches = (*Host.patches, *patches_in(mmdet_patches, name), check_annotations)
    swap_image_size = 384  # strides up to 128, and kernels of 3 x 3 on top
    draw_interval = False
    dump_metric = 'DumpDetResults'
    finds_boxes = True
    visualizer = 'DetLocalVisualizer'
    kind_of_model = 'Detector'
    scores = tuple((kind, 'coco', *_COCO_SCORES) for kind in _COCO_METRICS)
    lists = {'ReIDDataset': (r'\S+ -?\d+', '"path label"')}  # noqa: RUF012, a constant
    analysis_tools = (
        'confusion_matrix',
        'analyze_results',
        'coco_error_analysis',
        'analyze_logs',
        'benchmark',
    )

    def folder_hint(self, dataset: Any, key: str) -> str:
        """Say where the semantic maps of HTC come from."""
        return _SEMANTIC_MAPS if key == 'seg' and type_name(dataset) == 'CocoDataset' else ''

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Refuse images of other sizes than their annotations say, and heads of other classes."""
        from ..datasets.coco import get_category_ids, read_categories

        meta = getattr(dataset, 'metainfo', None) or {}
        classes = meta.get('classes')
        if classes is None:
            return False
        things = meta.get('thing_classes') or classes
        if not set(things) <= set(classes):  # still those of COCO
            things = ()
        check_heads(model, classes, things, where)
        if not any(kind.__name__ == 'BaseDetDataset' for kind in type(dataset).__mro__):
            return False
        ids = getattr(dataset, 'cat_ids', classes)  # of COCO's format
        if len(ids) != len(classes):  # unpatched mmdet drops missing ones
            get_category_ids(dataset.ann_file, read_categories(dataset.ann_file), classes)
        check_image_sizes(dataset, where)
        semantic = getattr(getattr(model, 'roi_head', None), 'semantic_head', None)
        self.check_views(dataset.pipeline, where)
        if where == 'train_dataloader' and not has_own_steps(dataset):
            check_targets(dataset, model, where)
        for step in steps_in(dataset.pipeline):
            if getattr(step, 'with_seg', False) and semantic is not None:
                step.semantic_classes = semantic.num_classes
        return True

    def check_views(self, pipeline: Any, where: str) -> None:
        """Refuse views that are padded before they are flipped."""
        before: list[Any] = []
        for step in getattr(pipeline, 'transforms', ()):
            for branch in getattr(step, 'subroutines', ()):  # of TestTimeAug
                used = (s for s in (*before, *steps_in(branch)) if getattr(s, 'prob', 1) != 0)
                names = [type(inner).__name__ for inner in used]
                if 'Pad' in names and 'RandomFlip' in names[names.index('Pad') :]:
                    raise UserError(
                        f'{where}: Pad stands before RandomFlip in the views of TestTimeAug, and '
                        'boxes are flipped back without the padding; write Pad after RandomFlip'
                    )
            before += [step, *steps_in(step)]

    def check_metric(self, metric: Any, dataset: Any, where: str, model: Any = None) -> None:
        """Refuse annotations of other images or classes than those of the data set."""
        kinds = {kind.__name__ for kind in type(metric).__mro__}  # users derive their own
        without_file = 'FasterCocoMetric' in kinds and metric._coco_api is None
        if 'VOCMetric' in kinds or without_file:
            for inner in inner_datasets(dataset):
                if hasattr(inner, 'pipeline') and not has_own_steps(inner):
                    check_loaded_boxes(inner, type(metric).__name__, where)
        if (lvis := getattr(metric, '_lvis_api', None)) is not None:
            keep_loaded_images(lvis, infos_by_id(dataset, metric, where), where)
        if kinds.isdisjoint(_COCO_METRICS) or hasattr(metric, '_lvis_api'):
            return
        if isinstance(meta := getattr(dataset, 'metainfo', None), list):
            raise _several_metainfo(meta, where)
        if type(metric).__name__ in _COCO_METRICS:  # others may have options of their own
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
        own = cfg.model.get('test_cfg') or {}
        most = (own.get('rcnn') or own).get('max_per_img', 100)  # 300 for LVIS
        most = None if most == -1 else most  # as DetTTAModel slices by it
        nms = dict(type='nms', iou_threshold=0.5)
        return dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=most))

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Images with 64 boxes, so that samplers find as many matches as they take."""
        from mmdet.testing import demo_mm_inputs

        pipeline = training_pipeline(cfg)
        keys = ('num_classes', 'num_things_classes')
        numbers = (node.get(key) for _, node in dicts_in(cfg.model) for key in keys)
        loading: Any = next((t for t in pipeline if 'LoadAnnotations' in type_name(t)), {})
        classes = min(filter(None, numbers), default=1)  # of the smallest head
        batch = demo_mm_inputs(
            count,
            [(3, *size)] * count,
            num_items=[64] * count,
            num_classes=max(classes, 2),  # labels begin at 1
            with_mask=loading.get('with_mask', False),
            with_semantic=loading.get('with_seg', False),
            sem_seg_output_strides=8 if 'semantic_head' in cfg.model.get('roi_head', {}) else 1,
        )
        for sample in batch['data_samples']:
            objects = sample.gt_instances
            objects.labels.clamp_(max=classes - 1)
            if 'masks' in objects:  # float64, and uint8 when they come from a data set
                objects.masks.masks = objects.masks.masks.astype('uint8')
        return batch

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """A sample with boxes, and with proposals for Fast R-CNN, which has no RPN."""
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        sample = DetDataSample(metainfo=meta)
        boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [32.0, 16.0, 320.0, 256.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(2, dtype=torch.long))
        if getattr(model, 'with_rpn', True) is False:
            sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(2))
        return sample


def check_targets(dataset: Any, model: Any, where: str) -> None:
    """Raise `UserError` if masks or semantic maps, of which a head learns, are not loaded."""
    steps = [step for step in steps_in(dataset.pipeline) if hasattr(step, 'with_mask')]
    by_boxes = any(kind.__name__ == 'BoxInst' for kind in type(model).__mro__)
    masks = getattr(model, 'with_mask', False) and not by_boxes
    maps = getattr(getattr(model, 'roi_head', None), 'with_semantic', False)
    for key, head, needed in (('mask', 'mask_head', masks), ('seg', 'semantic_head', maps)):
        if needed and steps and not any(getattr(step, f'with_{key}') for step in steps):
            raise UserError(
                f'{where}: the model has a {head}, and the pipeline loads nothing that it could '
                f'learn; set with_{key}=True of LoadAnnotations, or {head}=None'
            )
    if maps and steps and not dataset.data_prefix.get('seg'):
        raise UserError(f'{where}: data_prefix of the data set has no seg{_SEMANTIC_MAPS}')


def check_image_sizes(dataset: Any, where: str) -> None:
    """Raise `UserError` if images have other sizes than the annotation file says, or are missing.

    The headers of at most 500 images are read; every image is checked again when it is loaded.
    """
    loaders: Any = [s for s in steps_in(dataset.pipeline) if type(s).__name__ in _LOADERS]
    if not loaders or dataset.backend_args:
        return
    upright = getattr(loaders[0], 'color_type', 'color') in ('color', 'grayscale')
    looked_at = range(0, len(dataset), -(-len(dataset) // 500))
    for i in track(looked_at, f'sizes of images of {where}'):
        info = dataset.get_data_info(i)
        if 'height' not in info or '://' in info['img_path']:
            return
        try:
            with open_image(info['img_path']) as image:
                width, height = shown_size(image) if upright else image.size
        except FileNotFoundError as error:
            raise UserError(
                f'{where}: cannot read the image {info["img_path"]}: it does not exist; fetch it '
                'again, or take it out of the annotation file'
            ) from error
        except (OSError, ValueError, SyntaxError):
            continue  # the loader reports these
        check_size(info, (height, width), f'{where}: ')


def _several_metainfo(given: Sequence[dict], where: str) -> UserError:
    """The error for a ConcatDataset whose data sets have different ``metainfo``."""
    names = set().union(*given)
    keys = sorted(k for k in names if any(m.get(k, ...) != given[0].get(k, ...) for m in given))
    return UserError(
        f'{where}: the data sets of ConcatDataset differ in {", ".join(keys)}, and CocoMetric '
        'takes one metainfo; give all the same metainfo=dict(classes=...), and name in ignore_keys '
        'of ConcatDataset what else may differ'
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
            'LoadAnnotations behind Resize, as predictions have the size of the image file'
        )


def infos_by_id(dataset: Any, metric: Any, where: str) -> dict[Any, dict]:
    """What a data set knows of each image, by the id under which a metric scores it.

    Nothing for a data set of the user's own, whose pipeline may add ids and paths.

    Raises:
        UserError: if two images have one id.
    """
    infos: dict[Any, dict] = {}
    if not hasattr(dataset, 'get_data_info'):
        return infos
    for info in map(dataset.get_data_info, range(len(dataset))):
        if not {'img_id', 'img_path'} <= info.keys():
            return {}
        first = infos.setdefault(info['img_id'], info)
        paths = {os.path.normpath(one['img_path']) for one in (first, info) if first is not info}
        if len(paths) > 1 and not metric.format_only:
            raise UserError(
                f'{where}: {first["img_path"]} and {info["img_path"]} of the data set both '
                f'have image_id={info["img_id"]!r}, by which scores are computed; give each '
                'annotation file ids of its own, or use MultiDatasetsEvaluator'
            )
    return infos


def check_same_images(infos: dict[Any, dict], annotations: Any, where: str) -> None:
    """Raise `UserError` if an image of a data set is none, or another, of an annotation file."""
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


def check_scored(
    metric: Any, infos: dict[Any, dict], annotations: Any, classes: Sequence[str], where: str
) -> None:
    """Raise `UserError` if an annotation file has nothing that a metric can score.

    The metric is kept to the images of the data set, with a warning if the file has others.
    """
    told = f'{where}: ann_file={annotations.path}'
    ids = set(annotations.get_cat_ids(classes))
    scored = [a for a in annotations.anns.values() if a['category_id'] in ids]
    if not metric.format_only and not any(
        not a['iscrowd'] and a['image_id'] in infos for a in scored
    ):
        raise UserError(
            f'{told} has no annotations of the classes on the images of the data set: there is '
            'nothing to score; for predictions alone set format_only=True and outfile_prefix '
            'in the evaluator'
        )
    if left := set(annotations.imgs) - set(infos):
        metric.img_ids = sorted(infos)
        number = len(left & {a['image_id'] for a in scored})
        warn(
            f'{told} has annotations on {number} images that the data set does not load; '
            f'scores are those of the other {len(infos)}'
            + f'. {len(left) - number} more have no object: false alarms there do not count '
            '(with test_mode=True no filter leaves them out)' * (number < len(left))
        )
    if 'segm' in metric.metrics and not any(a.get('segmentation') for a in scored):
        raise UserError(
            f'{told} has boxes and no masks (segmentation), and the evaluator is to score '
            "masks; set its metric='bbox'"
        )


def keep_loaded_images(annotations: Any, infos: dict[Any, dict], where: str) -> None:
    """Keep LVIS's scores to the images of a data set, where others count as missed."""
    if infos and (others := annotations.imgs.keys() - infos):
        annotations.imgs = {i: annotations.imgs[i] for i in annotations.imgs if i in infos}
        warn(
            f'{where}: ann_file has {len(others)} images that the data set does not load; scores '
            f'are those of the other {len(annotations.imgs)}'
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
    if isinstance(items, str) or not set(map(str, items or ())) <= set(_COCO_ITEMS):
        raise refuse('metric_items', f'it is a list of some of {", ".join(_COCO_ITEMS)}')
    numbers, whole = metric.proposal_nums, summed - {'proposal'}
    right = len(numbers) > 0 and all(type(n) is int and n > 0 for n in numbers)
    # the other evaluator takes mAP at the last number, however many there are
    right = right and ((metric.use_mp_eval and summed == whole) or len(numbers) > 2)
    if (summed and not right) or (whole and 100 not in numbers and not metric.use_mp_eval):
        rule = 'there must be three whole numbers, one of them 100, at which mAP is taken'
        raise refuse('proposal_nums', rule)
    try:
        thresholds = np.atleast_1d(np.array(metric.iou_thrs, np.float64))
    except (TypeError, ValueError):
        thresholds = np.zeros(0)
    inside = (thresholds > 0) & (thresholds <= 1)
    if thresholds.ndim > 1 or not thresholds.size or not inside.all():
        raise refuse('iou_thrs', 'it is a number above 0, up to 1, or a list of them')
    if metric.classwise and whole and len(thresholds) < 6:
        raise UserError(
            f'{where}: {type(metric).__name__} has classwise=True and {len(thresholds)} iou_thrs; '
            'mmdet takes the sixth for mAP_75 of a class: leave iou_thrs out, or classwise'
        )
    metric.iou_thrs = thresholds


def check_heads(model: Any, classes: Sequence[str], things: Sequence[str], where: str) -> None:
    """Raise `UserError` if a head of a detector has fewer classes than its data.

    More classes than in the data are an error except in training, as mmdet cannot score them.
    `things` are the classes that have boxes and masks; empty if these are not known.
    """
    model = getattr(model, 'module', model)
    if model is None or hasattr(model, 'language_model'):  # its prompt sets the classes
        return
    for name, head in model.named_modules():
        for key, wanted in _wanted_classes(name, head, classes, things).items():
            known = getattr(head, key, None)
            # labels of stuff follow those of things
            exact = where != 'train_dataloader' or key == 'num_things_classes'
            if isinstance(known, int) and (known < wanted or (exact and known > wanted)):
                raise UserError(
                    f'model.{name} has {key}={known}, and the data set of {where} has {wanted} '
                    f'{key.split("_")[1]}; set {key}={wanted} in every box and mask head'
                )


def _wanted_classes(
    name: str, module: Any, classes: Sequence[str], things: Sequence[str]
) -> dict[str, int]:
    """The numbers of classes that a module of a detector needs, by its attributes."""
    wanted: dict[str, int] = {}
    if name and things and len(things) < len(classes):  # panoptic
        stuff = len(classes) - len(things)
        wanted.update(num_things_classes=len(things), num_stuff_classes=stuff)
    *_, inside = path = name.split('.')
    is_head = inside in _HEADS or inside.isdigit()  # heads in a list have numbers as names
    if 'RPN' in type(module).__name__ or getattr(module, 'class_agnostic', False) or not is_head:
        return wanted
    if 'panoptic_head' in path:
        wanted['num_classes'] = len(classes)
    elif things and not _HEADS.isdisjoint(path):
        wanted['num_classes'] = len(things)
    return wanted
