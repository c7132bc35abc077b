"""What is broken or missing in mmpretrain and what it imports; see `mmswinv2.compat`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import Any

import torch

from .compat import say
from .errors import UserError

__all__ = ['let_torchvision_import', 'name_wrong_crops']

_KEPT: list[Any] = []


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
