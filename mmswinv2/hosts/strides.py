"""Heads that place boxes in the image by strides, which must be those of the maps they take."""

from collections.abc import Callable, Sequence
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

    for prefix, owner in model.named_modules():
        if not isinstance(getattr(owner, 'backbone', None), SwinV2):
            continue
        size: list[int] = []
        _once(owner.backbone, lambda image, size=size: size.extend(image.shape[-2:]))
        for name, part in owner.named_modules(prefix=prefix):
            setting, strides = _strides_of(part)
            if strides:
                _once(part, partial(_check, f'{name}.{setting}', strides, size))


def _once(module: nn.Module, check: Callable[[Any], None]) -> None:
    """Call `check` with the first argument of the next forward pass of a module."""

    def hook(module: nn.Module, arguments: tuple) -> None:
        handle.remove()
        if arguments:
            check(arguments[0])

    handle = module.register_forward_pre_hook(hook)


def _strides_of(part: nn.Module) -> tuple[str, Sequence[Any]]:
    """Name and value of the strides of a head or an extractor of regions; empty for others."""
    if hasattr(part, 'featmap_stride'):  # of mmaction, for a single map
        return 'featmap_stride', [part.featmap_stride]
    if hasattr(part, 'featmap_strides'):
        return 'featmap_strides', part.featmap_strides
    return 'prior_generator.strides', getattr(getattr(part, 'prior_generator', None), 'strides', ())


def _check(name: str, strides: Sequence[Any], size: Sequence[int], maps: Any) -> None:
    """Raise `UserError` if `maps` of an image of `size` (H, W) have other strides."""
    maps = [maps] if isinstance(maps, Tensor) else maps
    if not size or not all(isinstance(m, Tensor) and m.ndim >= 4 for m in maps):
        return
    shapes = [tuple(m.shape[-2:]) for m in maps]
    for stride, shape in zip(strides, shapes, strict=False):
        pair = stride[::-1] if isinstance(stride, (list, tuple)) else (stride, stride)
        # maps are a little larger or smaller, by rounding at each halving
        if any(abs(n / s - m) > max(2, 0.3 * m) for n, s, m in zip(size, pair, shape, strict=True)):
            found = [round(max(size) / max(shape)) for shape in shapes]
            raise UserError(
                f'{name} is {list(strides)}, and its maps have strides {found}, so boxes would be '
                'at wrong places of the image; set these strides, or other out_indices of the '
                'backbone'
            )
