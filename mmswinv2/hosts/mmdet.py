"""mmdet: detectors and instance segmentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .mmengine import Host, as_list, log_patch, patch, replace, training_pipeline

_SEMANTIC_MAPS = (
    '; it holds the semantic maps of HTC: see docs/data.md for COCO-stuff, draw maps with '
    'tools/dataset_converters/coco_stuff_maps.py, or train the config without semantic branch '
    '(htc++-without-semantic_...)'
)


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
    patches = (*Host.patches, draw_semantic_maps)
    swap_image_size = 384  # strides up to 128, and kernels of 3 x 3 on top
    draw_interval = False
    dump_metric = 'DumpDetResults'

    def folder_hint(self, dataset: Any, key: str) -> str:
        """Say where the semantic maps of HTC come from."""
        return _SEMANTIC_MAPS if key == 'seg' and dataset.get('type') == 'CocoDataset' else ''

    def explain_empty(self, dataset: Any, where: str) -> UserError | None:
        """Look at the annotation file."""
        path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
        if path.suffix != '.json':
            return None
        content = json.loads(path.read_text())
        names = {category['name'] for category in content.get('categories', [])}
        classes = (dataset.get('metainfo') or {}).get('classes') or names
        if not set(classes) <= names:
            return _categories_differ(where, str(path), list(classes))
        images, annotations = (content.get(key, []) for key in ('images', 'annotations'))
        if annotations and images:
            return None
        return UserError(
            f'{where}: {path} has {len(images)} images and {len(annotations)} annotations; '
            'training needs both'
        )

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Refuse annotations that lack a class: mmdet leaves it out, which ends in mAP 0."""
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        category_ids = getattr(dataset, 'cat_ids', None)
        if classes is None or category_ids is None:
            return False
        if len(category_ids) != len(classes):
            raise _categories_differ(where, getattr(dataset, 'ann_file', ''), classes)
        return True

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


def _categories_differ(where: str, ann_file: str, classes: Sequence[str]) -> UserError:
    """The error for an annotation file that lacks some of the classes."""
    names = [c['name'] for c in json.loads(Path(ann_file).read_text()).get('categories', [])]
    missing = [name for name in classes if name not in names]
    return UserError(
        f'{where}: {ann_file} lacks {len(missing)} of the {len(classes)} classes '
        f"({_some(missing)}); it has {_some(names)}. Set the data set's metainfo=dict(classes="
        '(...)) to the names in the file and num_classes in the heads to their number; or, if the '
        "model is to tell all of these classes apart, add the missing ones to the file's "
        'categories (they need no annotations)'
    )


def _some(names: Sequence[str]) -> str:
    return ', '.join(map(repr, names[:4])) + (', ...' if len(names) > 4 else '')


def _num_classes(node: Any) -> int:
    """The smallest number of classes of any head."""
    found, children = [], node
    if isinstance(node, dict):
        found = [node[k] for k in ('num_classes', 'num_things_classes') if k in node]
        children = node.values()
    found += [_num_classes(child) for child in children if isinstance(child, (dict, list))]
    return min([n for n in found if n], default=0)
