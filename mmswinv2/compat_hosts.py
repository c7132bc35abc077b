"""What is broken or missing in the one host package that a config stands on; see `compat`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .compat import name_unreadable_images, say
from .errors import UserError

__all__ = [
    'let_heads_score_bfloat16',
    'let_mmaction_write_videos',
    'let_mmdet_draw_labels',
    'let_mmseg_draw_labels',
    'let_torchvision_import',
    'mend_host',
    'name_wrong_crops',
]

_KEPT: list[Any] = []


def mend_host(scope: str | None) -> None:
    """Mend the host that a ``default_scope`` names; calling it again changes nothing."""
    name_unreadable_images()
    if scope == 'mmdet':
        let_mmdet_draw_labels()
    if scope == 'mmseg':
        let_mmseg_draw_labels()
    if scope == 'mmaction':
        let_heads_score_bfloat16()
        let_mmaction_write_videos()
    if scope == 'mmpretrain':
        name_wrong_crops()


def let_heads_score_bfloat16() -> None:
    """Let mmaction2's heads take scores in bfloat16, which NumPy does not know."""
    from mmaction.models.heads import BaseHead

    if hasattr(BaseHead.loss_by_feat, '__wrapped__'):
        return

    def in_float32(method: Any) -> Any:
        @functools.wraps(method)
        def call(self: Any, cls_scores: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return method(self, cls_scores.float(), *args, **kwargs)

        return call

    BaseHead.loss_by_feat = in_float32(BaseHead.loss_by_feat)
    BaseHead.predict_by_feat = in_float32(BaseHead.predict_by_feat)


def let_mmdet_draw_labels() -> None:
    """Let mmdet draw semantic maps that tell more apart than there are classes, as those of HTC."""
    from mmdet.visualization import DetLocalVisualizer
    from mmdet.visualization.palette import get_palette

    draw = DetLocalVisualizer._draw_sem_seg
    if hasattr(draw, '__wrapped__'):
        return

    @functools.wraps(draw)
    def draw_all(
        self: Any, image: np.ndarray, sem_seg: Any, classes: Any, palette: Any
    ) -> np.ndarray:
        values = np.asarray(sem_seg.sem_seg)
        ignored = sem_seg.metainfo.get('ignore_index', 255)
        number = int(values[values != ignored].max(initial=0)) + 1
        if classes and palette and number > min(len(classes), len(palette)):
            classes = [*classes, *map(str, range(len(classes), number))]
            palette = [*palette, *get_palette('random', number)[len(palette) :]]
        return draw(self, image, sem_seg, classes, palette)

    DetLocalVisualizer._draw_sem_seg = draw_all


def let_mmseg_draw_labels() -> None:
    """Let mmseg 1.2.2 write names of classes on images that are views on their memory.

    OpenCV refuses to; mmseg's own `browse_dataset.py` hands it such images.
    """
    from mmseg.visualization import SegLocalVisualizer

    draw = SegLocalVisualizer._draw_sem_seg
    if hasattr(draw, '__wrapped__'):
        return

    @functools.wraps(draw)
    def draw_on_copy(self: Any, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        return draw(self, np.ascontiguousarray(image), *args, **kwargs)

    SegLocalVisualizer._draw_sem_seg = draw_on_copy


def let_mmaction_write_videos() -> None:
    """Let mmaction2 write videos by PyAV where moviepy, which it asks for, is not installed."""
    from mmaction.visualization.video_backend import LocalVisBackend

    from .datasets import write_video

    add_video = LocalVisBackend.add_video
    if importlib.util.find_spec('moviepy') or add_video.__name__ == 'add_video_by_pyav':
        return

    def add_video_by_pyav(
        self: Any,
        name: str,
        frames: np.ndarray,
        step: int = 0,
        fps: int = 4,
        out_type: str = 'img',
        **kwargs: Any,
    ) -> None:
        if out_type != 'video':
            add_video(self, name, frames, step=step, fps=fps, out_type=out_type, **kwargs)
            return
        path = Path(self._save_dir, name).with_suffix('.mp4')
        height, width = (side // 2 * 2 for side in frames.shape[1:3])  # as H.264 wants them
        write_video(str(path), np.ascontiguousarray(frames[:, :height, :width, ::-1]), fps)

    LocalVisBackend.add_video = add_video_by_pyav


def let_torchvision_import() -> None:
    """Import torchvision, which mmpretrain does, where its compiled half is not for this torch.

    Its Python half then misses two operators, which mmpretrain does not call.

    Raises:
        UserError: if torchvision is not installed.
    """
    if importlib.util.find_spec('torchvision') is None:
        raise UserError(
            'mmpretrain needs torchvision, which is not installed: pip install torchvision'
        )
    try:
        importlib.import_module('torchvision')
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        library = torch.library.Library('torchvision', 'DEF')
        library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _KEPT.append(library)  # its operators go with it
        importlib.import_module('torchvision')
        say('torchvision is without its compiled operators')


def name_wrong_crops() -> None:
    """Let mmpretrain say what is wrong with crops and masks that do not fit their images."""
    from mmpretrain.datasets.transforms import CenterCrop, SimMIMMaskGenerator

    if hasattr(CenterCrop.transform, '__wrapped__'):
        return
    crop, make_masks = CenterCrop.transform, SimMIMMaskGenerator.__init__

    @functools.wraps(crop)
    def transform(self: Any, results: dict) -> dict | None:
        height, width = results['img'].shape[:2]
        wanted_width, wanted_height = self.crop_size
        if (height < wanted_height or width < wanted_width) and not self.auto_pad:
            raise UserError(
                f'{results.get("img_path", "an image")} is {width}x{height} where CenterCrop wants '
                f'{wanted_width}x{wanted_height}; enlarge images first (ResizeEdge), or set '
                'auto_pad=True'
            )
        return crop(self, results)

    @functools.wraps(make_masks)
    def __init__(
        self: Any,
        input_size: int = 192,
        mask_patch_size: int = 32,
        model_patch_size: int = 4,
        mask_ratio: float = 0.6,
    ) -> None:
        if input_size % mask_patch_size or mask_patch_size % model_patch_size:
            raise UserError(
                f'SimMIMMaskGenerator: masks of {mask_patch_size} pixels must divide images of '
                f'{input_size} (input_size), and patches of {model_patch_size} (model_patch_size) '
                'the masks'
            )
        make_masks(self, input_size, mask_patch_size, model_patch_size, mask_ratio)

    CenterCrop.transform, SimMIMMaskGenerator.__init__ = transform, __init__
