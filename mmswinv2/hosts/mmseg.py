"""mmseg: segmentors, their heads and losses, and where their metrics write."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..log import warn
from . import mmseg_patches
from .configs import as_list, inner_datasets, package_of, steps_in
from .host import Host
from .label_maps import NOT_LABELLED, check_map_names
from .mmcv import build_sync_norms_alone
from .mmseg_label_maps import (
    SegMapGuard,
    check_scored_size,
    guard_seg_maps,
    has_seg_maps,
    refuse_missing_prefix,
    require_seg_maps,
    warn_of_absent_classes,
    warn_of_other_endings,
)
from .patching import patches_in
from .pipelines import has_own_steps, loads_annotations

# losses, or their cls_criterion, that use softmax and have no attribute use_sigmoid
_SOFTMAX_LOSSES = ('OhemCrossEntropy', 'TverskyLoss', 'lovasz_softmax', 'HuasdorffDisstanceLoss')
_IOU_METRICS = ('mIoU', 'mDice', 'mFscore')


class MMSeg(Host):
    """mmseg."""

    name = 'mmseg'
    extra = 'seg'
    patches = (*Host.patches, build_sync_norms_alone, *patches_in(name, mmseg_patches))
    heads_autocast = True
    swap_image_size = 64
    draw_folder = 'visualizer.save_dir'
    dump_metric = None
    class_scores = 'seg_logits'
    visualizer = 'SegLocalVisualizer'
    kind_of_model = 'Segmentor'
    lists = {'.txt': (r'\S.*', 'the name of an image without its suffix')}  # noqa: RUF012
    scores = (
        ('IoUMetric', '', 'mIoU', 'mAcc', 'aAcc', 'mDice', 'mFscore', 'mPrecision', 'mRecall'),
    )
    analysis_tools = ('confusion_matrix', 'analyze_logs', 'benchmark')

    def _is_read_by_mmseg(self, dataset: Any) -> bool:
        from mmseg.datasets import BaseSegDataset

        read = getattr(self.dataset_class(dataset), 'load_data_list', None)
        return read is BaseSegDataset.load_data_list

    def check_list(self, path: Path, dataset: Any, where: str) -> None:
        """Require the name of an image on every line, unless a class reads its list itself."""
        if self._is_read_by_mmseg(dataset):
            super().check_list(path, dataset, where)

    def check_prefix(self, dataset: Any, where: str) -> None:
        """Require a folder of images under the key that mmseg looks up, and one ending of files."""
        if not self._is_read_by_mmseg(dataset):
            return
        prefix = dataset.get('data_prefix') or dict(img_path='', seg_map_path='')
        if 'img_path' not in prefix:
            raise UserError(
                f'{where}: data_prefix={dict(prefix) if isinstance(prefix, dict) else prefix!r}, '
                'and mmseg wants dict(img_path=..., seg_map_path=...), the folders of the images '
                'and of the label maps'
            )
        for key in ('img_suffix', 'seg_map_suffix') if 'seg_map_path' in prefix else ():
            if not isinstance(suffix := dataset.get(key, ''), str):
                raise UserError(
                    f"{where}: {key}={suffix!r} is no text such as '.png'; for files of several "
                    'endings, join a data set for each by ConcatDataset'
                )

    def check_joined(self, datasets: Sequence[Any], where: str) -> None:
        """Warn of images that none of the data sets uses for their ending."""
        ours = [dataset for dataset in datasets if has_seg_maps(dataset)]
        for dataset in ours:
            if any(isinstance(step, SegMapGuard) for step in steps_in(dataset.pipeline)):
                warn_of_other_endings(dataset, where, ours)

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Require a label map for every image, check maps while they load, and count classes."""
        if not has_seg_maps(dataset):
            refuse_missing_prefix(dataset, where)
            return False
        if guards := guard_seg_maps(dataset):
            require_seg_maps(dataset, where)
            warn_of_absent_classes(dataset, guards[0], where)
        check_heads(model, len(dataset.metainfo.get('classes') or ()), where)
        check_pieces(model)
        if where == 'train_dataloader':
            for name, head in heads_of(model):
                check_ignored(head, name, dataset, where)
                label = getattr(head, 'ignore_index', None)
                # steps of the user's own may give them another label
                if label not in (None, NOT_LABELLED) and not has_own_steps(dataset):
                    for guard in guards:
                        guard.ignores = f'{name} ignores {label} alone'
        return True

    def check_metric(self, metric: Any, dataset: Any, where: str, model: Any = None) -> None:
        """Refuse to score ignored pixels, or to write the maps of two pictures into one file."""
        scored = () if getattr(metric, 'format_only', False) else inner_datasets(dataset)
        name = f'{type(metric).__name__} of {where}'
        loader = where.replace('evaluator', 'dataloader')
        for inner in scored:
            if not hasattr(inner, 'reduce_zero_label') or not hasattr(metric, 'ignore_index'):
                continue  # of another host, or no metric of label maps
            if type(metric).__name__ == 'IoUMetric' and not has_own_steps(inner):
                if not any(map(loads_annotations, steps_in(inner.pipeline))):
                    raise UserError(
                        f'{name} compares predictions with label maps, and the pipeline of '
                        f'{loader} loads none: put LoadAnnotations into it, or, for predictions '
                        'alone, set format_only=True and output_dir in the evaluator'
                    )
                check_scored_size(inner, name, loader)
            if has_seg_maps(inner):
                check_ignored(metric, name, inner, loader)
                if metric.ignore_index not in (None, NOT_LABELLED):
                    warn(
                        f'{name} ignores {metric.ignore_index} alone: what is predicted where '
                        f'label maps have {NOT_LABELLED} counts as wrong'
                    )
        asked = as_list(metric.metrics) if type(metric).__name__ == 'IoUMetric' else []
        if asked and not (getattr(dataset, 'metainfo', None) or {}).get('classes'):
            raise UserError(f'{name} needs metainfo=dict(classes=...) of the data set of {loader}')
        if not set(_IOU_METRICS).issuperset(asked):
            raise UserError(f'{name} has iou_metrics={asked}; it takes {", ".join(_IOU_METRICS)}')
        if getattr(metric, 'output_dir', None) is not None and hasattr(dataset, 'get_data_info'):
            check_map_names(dataset, where)

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Images with a random class for each pixel."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        num_classes = as_list(cfg.model.decode_head)[-1].num_classes
        meta = dict(img_shape=tuple(size), ori_shape=tuple(size), pad_shape=tuple(size))
        inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(count)]
        labels = [PixelData(data=torch.randint(num_classes, (1, *size))) for _ in inputs]
        samples = [SegDataSample(metainfo=meta, gt_sem_seg=label) for label in labels]
        return dict(inputs=inputs, data_samples=samples)

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """A sample with the metadata of the image."""
        from mmseg.structures import SegDataSample

        return SegDataSample(metainfo=meta)


def heads_of(model: Any) -> Iterator[tuple[str, Any]]:
    """The heads of a segmentor, each with the name of its setting."""
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            yield f'model.{name}', head


def check_heads(model: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a head of a segmentor cannot tell the classes of its data apart.

    A head with more classes than its data only logs a warning.
    """
    for name, head in heads_of(model):
        known = getattr(head, 'num_classes', None)
        # STDC's head for borders has classes of its own
        if not num_classes or known is None or hasattr(head, 'boundary_threshold'):
            continue
        data = f'the data set of {where} has {num_classes} classes'
        one_channel = getattr(head, 'threshold', None) is not None
        if one_channel and (num_classes > 2 or any(map(_is_softmax, head.modules()))):
            raise UserError(
                f'{name} has out_channels=1, which is for two classes and losses with '
                f'use_sigmoid=True, and {data}; mend loss_decode, or leave out_channels out '
                f'and set num_classes={num_classes}'
            )
        if known < num_classes and not one_channel:
            raise UserError(
                f'{name} has num_classes={known}, and {data}; set '
                f'num_classes={num_classes} in every head'
            )
        losses = getattr(head, 'loss_decode', None)
        for loss in losses if isinstance(losses, nn.ModuleList) else [losses]:
            _check_loss(loss, head, name)
        if known > num_classes:
            warn(f'{name} has num_classes={known}, and {data}: it learns never to say the others')


def check_pieces(model: Any) -> None:
    """Raise `UserError` if the ``test_cfg`` of a segmentor does not cover whole images."""
    test_cfg = getattr(model, 'test_cfg', None) or {}
    mode = test_cfg.get('mode', 'whole')
    # depth estimators have modes of their own
    if mode == 'whole' or package_of(model) != 'mmseg' or type(model).__name__ == 'DepthEstimator':
        return
    if mode != 'slide':
        raise UserError(f"model.test_cfg has mode={mode!r}, which is 'whole' or 'slide'")
    crop: Any = test_cfg.get('crop_size')
    stride: Any = test_cfg.get('stride')
    pairs = [isinstance(size, (list, tuple)) and len(size) == 2 for size in (crop, stride)]
    if not all(pairs) or not all(0 < s <= c for s, c in zip(stride, crop, strict=True)):
        raise UserError(
            f"model.test_cfg has mode='slide', crop_size={crop} and stride={stride}; both are "
            '(height, width), and a stride beyond the crop would leave pixels out'
        )


def _check_loss(loss: Any, head: Any, name: str) -> None:
    """Raise `UserError` for a loss that does not fit its head; warn of one that trains nothing."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    kind, known = type(loss).__name__, head.num_classes
    weights = getattr(loss, 'class_weight', None)
    wanted = 1 if getattr(head, 'out_channels', None) == 1 else known
    if isinstance(weights, (list, tuple)) and len(weights) not in (wanted, known + 1):
        raise UserError(
            f'{name} has num_classes={known}, and class_weight of its loss_decode {len(weights)} '
            f'numbers; give {"one for each class" if wanted > 1 else "that of the second"}, or None'
        )
    if 'loss' not in getattr(loss, 'loss_name', 'loss'):
        warn(
            f'{name}: {kind} has loss_name={loss.loss_name!r}, which is logged and trains nothing; '
            "losses have names with 'loss', as in 'loss_dice'"
        )
    own, given = getattr(loss, 'ignore_index', None), getattr(head, 'ignore_index', None)
    # their forward uses the ignore_index of the loss, not that of the head
    if kind in ('TverskyLoss', 'HuasdorffDisstanceLoss') and own == NOT_LABELLED != given:
        raise UserError(
            f'{name} has ignore_index={given}, and its {kind} {own}; set ignore_index={given} there'
        )
    plain = getattr(type(head), 'loss_by_feat', None) is BaseDecodeHead.loss_by_feat
    if loss is None or not plain or package_of(head) != 'mmseg':
        return
    try:  # as this head calls it
        inspect.signature(loss.forward).bind(None, None, weight=None, ignore_index=given)
    except TypeError as error:
        raise UserError(
            f'{name} has {kind}, no loss for all classes at once; take CrossEntropyLoss, or '
            "LovaszLoss with loss_type='multi_class' and reduction='none' (for hard pixels, "
            "sampler=dict(type='OHEMPixelSampler') of the head)"
        ) from error


def check_ignored(part: Any, name: str, dataset: Any, where: str) -> None:
    """Raise `UserError` if a head or a metric takes ignored pixels of a data set for a class.

    A data set that names none but 255 may have a head that ignores a class.
    """
    own, given = getattr(part, 'ignore_index', None), dataset.ignore_index
    if own is not None and given not in (own, NOT_LABELLED):
        raise UserError(
            f'the data set of {where} has ignore_index={given}, and {name} {own}: it would take '
            f'pixels that are not labeled for a class; set ignore_index={given} there too'
        )


def _is_softmax(loss: nn.Module) -> bool:
    made_of = getattr(loss, 'cls_criterion', type(loss)).__name__
    return not getattr(loss, 'use_sigmoid', made_of not in _SOFTMAX_LOSSES)
