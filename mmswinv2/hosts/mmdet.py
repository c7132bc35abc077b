"""mmdet: detectors and instance segmentation."""

from collections.abc import Sequence
from typing import Any

import torch

from ..checks import class_names
from ..errors import UserError
from ..progress import track
from . import mmdet_annotation_patches, mmdet_metric_patches, mmdet_patches
from .configs import (
    as_list,
    dicts_in,
    first_renumbered,
    reads_elsewhere,
    steps_in,
    training_pipeline,
    type_name,
)
from .host import Host
from .mmcv import build_sync_norms_alone, check_size, open_image, shown_size
from .mmdet_metrics import COCO_ITEMS, COCO_METRICS, check_metric
from .patching import patches_in
from .pipelines import has_own_steps

_SEMANTIC_MAPS = (
    '; it holds the semantic maps of HTC: see docs/data.md for COCO-stuff, draw maps with '
    'tools/dataset_converters/coco_stuff_maps.py, or train the config without semantic branch '
    '(htc++-without-semantic_...)'
)

# names of the heads in detectors
_HEADS = {'bbox_head', 'mask_head', 'panoptic_head', 'mask_iou_head', 'point_head'}
_LOADERS = ('LoadImageFromFile', 'LoadImage')
_COCO_SCORES = [f'{kind}_{item}' for kind in ('bbox', 'segm') for item in COCO_ITEMS]


class MMDet(Host):
    """mmdet."""

    name = 'mmdet'
    extra = 'det'
    patches = (
        *Host.patches,
        build_sync_norms_alone,
        *patches_in(name, mmdet_patches, mmdet_metric_patches, mmdet_annotation_patches),
    )
    swap_image_size = 384  # strides up to 128, and kernels of 3 x 3 on top
    draw_interval = False
    dump_metric = 'DumpDetResults'
    finds_boxes = True
    visualizer = 'DetLocalVisualizer'
    kind_of_model = 'Detector'
    scores = tuple((kind, 'coco', *_COCO_SCORES) for kind in COCO_METRICS)
    analysis_tools = (
        'confusion_matrix',
        'analyze_results',
        'coco_error_analysis',
        'analyze_logs',
        'benchmark',
    )
    endless_samplers = ('MultiSourceSampler',)
    switches = {  # noqa: RUF012, a constant
        'YOLOXModeSwitchHook': 'update_skip_type_keys',
        'PipelineSwitchHook': 'pipeline',
    }
    lists = {'ReIDDataset': (r'\S+ -?\d+', '"path label"')}  # noqa: RUF012, a constant

    def folder_hint(self, dataset: Any, key: str) -> str:
        """Say where the semantic maps of HTC come from."""
        return _SEMANTIC_MAPS if key == 'seg' and type_name(dataset) == 'CocoDataset' else ''

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Refuse heads, images and steps of a pipeline that do not fit the annotations.

        Steps that load semantic maps are told the number of classes of the semantic head.
        """
        from ..datasets.coco import get_category_ids, read_categories

        meta = getattr(dataset, 'metainfo', None) or {}
        classes = meta.get('classes')
        if classes is None:
            return False
        things = meta.get('thing_classes') or classes
        if not set(things) <= set(classes):  # still those of COCO
            things = ()
        check_heads(model, classes, things, where)
        check_numbers_of_maps(dataset, classes, where)
        if 'BaseDetDataset' not in class_names(dataset):
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
        """See `mmdet_metrics.check_metric`."""
        check_metric(metric, dataset, where)

    def default_tta_model(self, cfg: Any) -> dict[str, Any]:
        """Merge boxes by NMS, and masks where there is a mask head."""
        if cfg.model.get('roi_head', {}).get('mask_head') is not None:
            return dict(type='mmswinv2.InstanceSegTTAModel')
        own = cfg.model.get('test_cfg') or {}
        most = (own.get('rcnn') or own).get('max_per_img', 100)  # 300 for LVIS
        most = None if most == -1 else most  # as DetTTAModel slices by it
        nms = dict(type='nms', iou_threshold=0.5)
        return dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=most))

    def check_tta_model(self, cfg: Any) -> None:
        """Refuse DetTTAModel, which merges boxes alone, where masks are scored."""
        metrics = [e.get('metric', ()) for e in as_list(cfg.get('test_evaluator') or [])]
        scored = any('segm' in as_list(metric) for metric in metrics)
        if type_name(cfg.tta_model) == 'DetTTAModel' and scored:
            raise UserError(
                f'--tta: masks of {type_name(cfg.model)} cannot be merged by DetTTAModel, which '
                'merges boxes alone. Two-stage detectors with a mask head take '
                "tta_model=dict(type='mmswinv2.InstanceSegTTAModel'); test others without --tta"
            )

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Images with 64 boxes, so that samplers find as many matches as they take."""
        from mmdet.testing import demo_mm_inputs, demo_mm_proposals

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
        if type_name(cfg.model) == 'FastRCNN':  # without an RPN of its own
            proposals = demo_mm_proposals([(3, *size)] * count, 2000)
            for sample, proposed in zip(batch['data_samples'], proposals, strict=True):
                sample.proposals = proposed
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
    masks = getattr(model, 'with_mask', False) and 'BoxInst' not in class_names(model)
    maps = getattr(getattr(model, 'roi_head', None), 'with_semantic', False)
    for key, head, needed in (('mask', 'mask_head', masks), ('seg', 'semantic_head', maps)):
        if needed and steps and not any(getattr(step, f'with_{key}') for step in steps):
            raise UserError(
                f'{where}: the model has a {head}, and the pipeline loads nothing that it could '
                f'learn; set with_{key}=True of LoadAnnotations, or {head}=None'
            )
    if maps and steps and not dataset.data_prefix.get('seg'):
        raise UserError(f'{where}: data_prefix of the data set has no seg{_SEMANTIC_MAPS}')


def check_numbers_of_maps(dataset: Any, classes: Sequence[str], where: str) -> None:
    """Raise `UserError` if labels in semantic maps would be taken for other classes."""
    known = getattr(dataset, 'METAINFO', {}).get('classes') or ()  # whose numbers maps have
    if not known or not hasattr(dataset, 'get_label_map') or hasattr(dataset, 'reduce_zero_label'):
        return  # no semantic maps, or those of mmseg, which maps labels by itself
    name, known = type(dataset).__name__, list(known)
    if dataset.label_map is None:
        if first_renumbered(known, classes) is not None:
            raise UserError(
                f'{where}: labels of {name} are numbers of its classes, {known!r:.200}, and '
                f'metainfo has {list(classes)!r:.200}; set use_label_map=True of the data set'
            )
    elif not set(known) <= set(classes) and 'background' not in classes[0]:
        raise UserError(
            f'{where}: with use_label_map=True pixels of the classes of {name} that metainfo does '
            f'not name become the first, {classes[0]!r}; name all classes, or make maps of your own'
        )


def check_image_sizes(dataset: Any, where: str) -> None:
    """Raise `UserError` if images have other sizes than the annotation file says, or are missing.

    The headers of at most 500 images are read; every image is checked again when it is loaded.
    """
    loaders: Any = [s for s in steps_in(dataset.pipeline) if type(s).__name__ in _LOADERS]
    if not loaders or reads_elsewhere(dataset):
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


def check_heads(model: Any, classes: Sequence[str], things: Sequence[str], where: str) -> None:
    """Raise `UserError` if a head of a detector has fewer classes than its data.

    More classes than in the data are an error except in training, as mmdet cannot score them.
    `things` are the classes that have boxes and masks; empty if these are not known.
    """
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
