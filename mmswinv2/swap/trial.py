"""Build and run a model or its parts: what maps they give, and whether they fit together."""

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from .. import hosts
from ..errors import UserError
from ..hosts import Host, dicts_in
from ..hosts.configs import built, init_weights, without_weights

_IMAGE = 128  # side of the square images that parts are run on, in pixels


@dataclass(frozen=True)
class Level:
    """One map of a pyramid."""

    channels: int
    stride: int


def _run(part: Any, inputs: Any, where: str) -> list[Level]:
    """Run a part, which may be a config, on an image of `_IMAGE` pixels, or on maps of one.

    Raises `UserError` if it cannot be built or run; `where` names it.
    """
    try:
        module = part if isinstance(part, nn.Module) else MODELS.build(without_weights(part))
        module.eval()  # not chained, as some backbones return None
        with torch.no_grad():
            maps = module(inputs)
    except Exception as error:  # parts of any host, with any way to fail
        raise UserError(f'{where} cannot be built and run: {_last_line(error)}') from error
    maps = (maps,) if isinstance(maps, Tensor) else maps
    if not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
        raise UserError(f'{where} ({type(module).__name__}) does not give maps (B, C, H, W)')
    return [Level(m.shape[1], round(_IMAGE / m.shape[-1])) for m in maps]


def run_backbone(backbone: Any, where: str) -> list[Level]:
    """The maps of a backbone, or of its config; see `_run`."""
    return _run(backbone, torch.zeros(1, 3, _IMAGE, _IMAGE), where)


def run_neck(neck: Any, levels: Sequence[Level], where: str) -> list[Level]:
    """The maps that a neck, given by its config, makes of maps `levels`; see `_run`."""
    maps = [torch.zeros(1, m.channels, _IMAGE // m.stride, _IMAGE // m.stride) for m in levels]
    return _run(neck, tuple(maps), where)


def build(model: Any, what: str = 'the new model', *, without_memory: bool = False) -> nn.Module:
    """Build a model of a config without its pre-trained weights; `what` names it in errors.

    `without_memory` is for a backbone of this package: parts of hosts may compute values when they
    are built. Raises `UserError` with the error of the part that cannot be built.
    """
    model = without_weights(model)
    try:
        if without_memory:
            for owner in [node for _, node in dicts_in(model) if hosts.own_backbone(node)]:
                with torch.device('meta'):
                    backbone = MODELS.build(owner.backbone)
                owner.backbone = built(backbone)
        return MODELS.build(model)
    except Exception as error:  # parts of any host, with any way to fail
        raise UserError(f'{what} cannot be built: {_last_line(error)}') from error


def backbone_of(model: nn.Module) -> nn.Module | None:
    """What a model has as its `backbone`; `UserError` if it builds several, as for a teacher."""
    modules = dict(model.named_modules())
    kinds = tuple(type(m) for name, m in modules.items() if name.split('.')[-1] == 'backbone')
    found: list[str] = []
    for name, module in modules.items():
        if isinstance(module, kinds) and not any(name.startswith(f'{n}.') for n in found):
            found.append(name)
    if len(found) > 1:
        raise UserError(
            f'{type(model).__name__} builds {len(found)} backbones ({", ".join(found)}), '
            'as a teacher and its student, and what is to become of each cannot be told; swap the '
            'backbone of the detector or segmentor by itself, in a config without the others'
        )
    return modules[found[0]] if found else None


def predict(model: Any, host: Host, what: str = 'the new model') -> None:
    """Run a detector or segmentor on a random image; `what` names it in errors.

    Raises `UserError` with the name of the part that does not fit.
    """
    model.eval()
    for module in model.modules():  # hundreds of regions, and their masks, would take a minute
        for _, node in dicts_in(getattr(module, 'test_cfg', None)):
            if (node.get('max_per_img') or 0) > 10:
                node['max_per_img'] = 10
    init_weights(model)  # Sparse R-CNN needs it for its proposal boxes
    size = (host.swap_image_size or 0,) * 2
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), img_id=0)
    sample = host.inference_sample(model, meta)
    batch = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    errors = []
    # Random weights may give boxes from which no masks can be made; then raw outputs are enough.
    for mode in ('predict', 'tensor'):
        try:
            with torch.no_grad():
                model(**copy.deepcopy(batch), mode=mode)
            return
        except Exception as error:  # as above
            errors.append(error)
    raise UserError(
        f'{what} does not run on an image: {_last_line(errors[0])} (in '
        f'{_innermost_module(model, errors[0])}); --no-check writes the config all the same'
    ) from errors[0]


def _innermost_module(model: nn.Module, error: Exception) -> str:
    """Name and class of the innermost module that was running when the error was raised."""
    names = {id(module): name for name, module in model.named_modules()}
    running = [
        (names[id(module)], type(module).__name__)
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if id(module := frame.f_locals.get('self')) in names
    ]
    name, kind = running[-1] if running else ('', type(model).__name__)
    return f'{name or "the model"}, a {kind}'


def _last_line(error: Exception) -> str:
    """Class and last line of a host's exception (it may hold a traceback), or its line of code."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = str(error).strip().splitlines() or [f.line or '' for f in frames] or ['']
    return f'{type(error).__name__}: {lines[-1]}'
