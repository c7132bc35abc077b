"""Heads that place boxes in the image by strides, which must be those of the maps they take."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..errors import UserError


def watch_strides(model: nn.Module) -> None:
    """Let the next forward pass of a model with a SwinV2 backbone check the strides of its heads.

    With other strides than those of the maps, anchors cover a part of the image, and regions are
    pooled at wrong places, in silence. The forward pass raises `UserError` then.
    """
    from ..core import SwinV2

    handles: list[Any] = []

    def stop(*_: Any) -> None:
        for handle in handles:
            handle.remove()

    for prefix, owner in model.named_modules():
        if not isinstance(backbone := getattr(owner, 'backbone', None), SwinV2):
            continue
        size: list[int] = []  # of the last image, (H, W)
        handles.append(backbone.register_forward_pre_hook(partial(_note, size)))
        for name, part in owner.named_modules(prefix=prefix):
            setting, strides = _strides_of(part)
            if strides:
                check = partial(_check, f'{name}.{setting}', strides, size)
                handles.append(part.register_forward_pre_hook(check))
    if handles:
        handles.append(model.register_forward_hook(stop, always_call=True))


def _note(size: list[int], module: nn.Module, arguments: tuple) -> None:
    size[:] = arguments[0].shape[-2:] if arguments else ()


def _strides_of(part: Any) -> tuple[str, Sequence[Any]]:
    """Name and value of the strides of a head or an extractor of regions; empty for others."""
    if hasattr(part, 'featmap_stride'):  # of mmaction, for a single map
        return 'featmap_stride', [part.featmap_stride]
    if hasattr(part, 'featmap_strides'):
        return 'featmap_strides', part.featmap_strides
    return 'prior_generator.strides', getattr(getattr(part, 'prior_generator', None), 'strides', ())


def _check(
    name: str, strides: Sequence[Any], size: Sequence[int], module: nn.Module, arguments: tuple
) -> None:
    """Raise `UserError` if the maps that a module takes have other strides."""
    maps = arguments[0] if arguments else ()
    maps = [maps] if isinstance(maps, Tensor) else maps
    if not size or not all(isinstance(m, Tensor) and m.ndim >= 4 for m in maps):
        return
    if len(maps) != len(strides):  # CondInst's mask head takes all maps and makes one of them
        return
    shapes = [tuple(m.shape[-2:]) for m in maps]
    for stride, shape in zip(strides, shapes, strict=True):
        pair = stride[::-1] if isinstance(stride, (list, tuple)) else (stride, stride)
        # maps are a little larger or smaller, by rounding at each halving
        if any(abs(n / s - m) > max(2, 0.3 * m) for n, s, m in zip(size, pair, shape, strict=True)):
            found = [round(max(size) / max(shape)) for shape in shapes]
            raise UserError(
                f'{name} is {list(strides)}, and its maps have strides {found}, so boxes would be '
                'at wrong places of the image; set these strides, or other out_indices of the '
                'backbone'
            )
