"""Patches of mmdet and InstaBoost, with the versions that need them."""

import copy
import functools
import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.logging import MessageHub

from ..errors import UserError
from ..log import silent_opencv
from .patching import log_patch, patch, replace


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
    with suppress(cv2.error), silent_opencv():  # it prints an error at .pgm
        return cv2.imencode(ending, np.zeros((64, 64, 3), np.uint8))[0]
    return False


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
def keep_the_last_box() -> None:
    """One-stage detectors keep all boxes with max_per_img=-1, as others do."""
    from mmdet.models.dense_heads import RTMDetInsHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    def keep(original: Any, *args: Any, **kwargs: Any) -> Any:
        if (kwargs.get('cfg') or {}).get('max_per_img') == -1:
            kwargs['cfg'] = copy.copy(kwargs['cfg'])
            kwargs['cfg'].max_per_img = None  # mmdet cuts the list of boxes there
        return original(*args, **kwargs)

    replace(BaseDenseHead, '_bbox_post_process')(keep)
    replace(RTMDetInsHead, '_bbox_mask_post_process')(keep)


@patch('mmdet', '>=3')
def keep_all_of_few_queries() -> None:
    """Detectors with few queries, as DETR and Mask2Former, may have a larger max_per_img."""
    from mmdet.models import DETRHead, MaskFormerFusionHead

    def predict(original: Any, self: Any, scores: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        key, most, known = 'max_per_image', 100, scores[:, :-1].numel()
        if isinstance(self, DETRHead):
            key, most = 'max_per_img', 0
            known = scores.numel() if self.loss_cls.use_sigmoid else len(scores)
        own = self.test_cfg
        if own.get(key, most) > known:
            self.test_cfg = copy.copy(own)
            self.test_cfg[key] = known
        try:
            return original(self, scores, *args, **kwargs)
        finally:
            self.test_cfg = own  # the next image may have more queries, as in DDQ

    replace(DETRHead, '_predict_by_feat_single')(predict)
    replace(MaskFormerFusionHead, 'instance_postprocess')(predict)


@patch('mmdet', '>=3')
def refuse_sources_without_images() -> None:
    """Sampling from several sources says which of them gives no image."""
    from mmdet.datasets.samplers import GroupMultiSourceSampler, MultiSourceSampler

    @replace(MultiSourceSampler, '__init__')
    def check_shares(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if min(self.num_per_source) < 1:
            raise UserError(
                f'batch_size={self.batch_size} with source_ratio={self.source_ratio} takes '
                f'{self.num_per_source} images from the data sets, and the sampler would wait for '
                'ever; set a batch_size that gives each at least one'
            )

    @replace(GroupMultiSourceSampler, '_get_source_group_info')
    def check_groups(original: Any, self: Any) -> None:
        original(self)
        for group, shape in enumerate(('higher than wide', 'at least as wide as high')):
            sizes = [of_source[group] for of_source in self.group2size_per_source]
            if sum(sizes) and not all(sizes):
                raise UserError(
                    f'of the images that are {shape}, which GroupMultiSourceSampler puts into one '
                    f'batch, the data sets have {sizes}, and it would wait for ever; take '
                    'MultiSourceSampler, or a data set that has such images'
                )


@patch('mmdet', '>=3')
def pack_without_resize() -> None:
    """Detectors predict on images that no step of the pipeline has resized."""
    from mmdet.datasets.transforms import PackDetInputs, Pad

    @replace((Pad, PackDetInputs), 'transform')
    def transform(original: Any, self: Any, results: dict) -> dict:
        if np.shape(results.get('img', ()))[:2] == results.get('ori_shape'):
            results.setdefault('scale_factor', (1.0, 1.0))
        packed = original(self, results)
        if isinstance(self, PackDetInputs):  # detectors predict by these, whatever meta_keys has
            needed = ('ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
            known = {key: results[key] for key in needed if key in results}
            packed['data_samples'].set_metainfo(known)
        return packed


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
        # with a single box it has the path of the one before
        last['img_path'] = fileio.join_path(self.data_prefix['img'], f'{last["img_id"]}.jpg')
        return samples


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
