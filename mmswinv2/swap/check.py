"""Building the new model and running it once."""

from __future__ import annotations

import copy
import logging
import traceback
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn

from ..errors import UserError
from .notes import last_line, runnable

__all__ = ['build', 'predict']

# pixels of the image; detectors have strides up to 128 and 3 x 3 kernels on top
_IMAGE = {'mmdet': 384, 'mmseg': 64}


def build(model: Any, device: str = 'cpu') -> nn.Module:
    """Build a model of a config without its pre-trained weights.

    Raises:
        UserError: with the words of the part that cannot be built.
    """
    try:
        with torch.device(device):
            return MODELS.build(runnable(model))
    except Exception as error:  # parts of any host, with any way to fail
        raise UserError(f'the new model cannot be built: {last_line(error)}') from error


def predict(model: Any, scope: str) -> None:
    """Run a detector or segmentor on a random image.

    Raises:
        UserError: naming the part that does not fit.
    """
    size = (_IMAGE[scope], _IMAGE[scope])
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), img_id=0)
    sample: Any
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample

        sample = DetDataSample(metainfo=meta)
        boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [32.0, 16.0, 320.0, 256.0]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(2, dtype=torch.long))
        if getattr(model, 'with_rpn', True) is False:  # Fast R-CNN gets its proposals from outside
            sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(2))
    else:
        from mmseg.structures import SegDataSample

        sample = SegDataSample(metainfo=meta)
    model.eval()
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # or it lists all parameters
    try:
        model.init_weights()  # before, the boxes that Sparse R-CNN starts from are none
    finally:
        logger.setLevel(level)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    errors = []
    # random weights may end in boxes that cannot be drawn as masks; then raw outputs have to do
    for mode in ('predict', 'tensor'):
        try:
            with torch.no_grad():
                model(**copy.deepcopy(batch), mode=mode)
            return
        except Exception as error:  # as above
            errors.append(error)
    raise UserError(
        f'the new model does not run on an image: {last_line(errors[0])} (in '
        f'{_part(model, errors[0])}); --no-check writes the config all the same'
    ) from errors[0]


def _part(model: nn.Module, error: Exception) -> str:
    """The innermost part of the model that was running when the error came."""
    names = {id(module): name for name, module in model.named_modules()}
    running = [
        (names[id(module)], type(module).__name__)
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if id(module := frame.f_locals.get('self')) in names
    ]
    name, kind = running[-1] if running else ('', type(model).__name__)
    return f'{name or "the model"}, a {kind}'
