"""What is broken or missing in host packages, and only that.

Each function does nothing where nothing is needed and imports no host of its own accord. `apply`
is called when `mmswinv2.registry` is imported and at the start of our tools.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import loops as mmengine_loops
from mmengine.utils import digit_version

from .checkpoints.files import harmless_globals
from .errors import UserError

__all__ = [
    'apply',
    'let_instaboost_outline_masks',
    'name_unreadable_images',
    'say',
]

_MMCV_TOO_NEW = '2.2.0'  # mmaction2 1.2.0 refuses it and later ones at import


def apply() -> None:
    """Mend what needs it; calling it again changes nothing."""
    _allow_logged_scalars()
    _start_workers_late()
    _register_optimizers_of_deepspeed()
    _make_mmaction_importable()


def name_unreadable_images() -> None:
    """Let mmcv's image loader say which image it cannot read; ours and the hosts' build on it."""
    from mmcv.transforms import LoadImageFromFile

    if hasattr(LoadImageFromFile.transform, '__wrapped__'):
        return
    load = LoadImageFromFile.transform

    @functools.wraps(load)
    def transform(self: Any, results: dict) -> dict | None:
        try:
            return load(self, results)
        except (OSError, AssertionError, SyntaxError) as error:  # Pillow's on damaged PNGs
            raise UserError(
                f'cannot read the image {results["img_path"]}: {error}; fetch it again, or take it '
                'out of the annotation file'
            ) from error

    LoadImageFromFile.transform = transform


def let_instaboost_outline_masks() -> None:
    """Let instaboostfast outline masks of several parts; call it after importing that package.

    It subtracts 1 from a list of contours of different lengths, which NumPy refuses since 1.24.
    """
    from instaboostfast import affine_transform

    if affine_transform.binary_mask_to_polygon is not _outline:
        affine_transform.binary_mask_to_polygon = _outline
        say('InstaBoost can outline masks of several parts')


def say(text: str) -> None:
    """Log what was mended."""
    print_log(f'mmswinv2.compat: {text}', logger='current', level=logging.INFO)


def _allow_logged_scalars() -> None:
    """Let mmengine 0.10.7 read its own checkpoints.

    Since torch 2.6 `torch.load` restores listed classes only, and mmengine's `HistoryBuffer`,
    which stands in every checkpoint it writes, is not listed. Maintained mmengine deals with it.
    """
    if digit_version(torch.__version__.split('+')[0]) < digit_version('2.6'):
        return
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        return
    known = torch.serialization.get_safe_globals()
    if missing := [entry for entry in harmless_globals() if entry not in known]:
        torch.serialization.add_safe_globals(missing)
        say("mmengine's HistoryBuffer may be restored from checkpoints")


class _LateIterator:
    """The iterator of a data loader, made when its first batch is asked for."""

    def __init__(self, dataloader: Any) -> None:
        self.dataloader, self.iterator = dataloader, None

    def __next__(self) -> Any:
        if self.iterator is None:
            self.iterator = iter(self.dataloader)
        return next(self.iterator)


def _start_workers_late() -> None:
    """Let workers of an iteration-based training start after `before_run`, as maintained mmengine.

    mmengine 0.10.7 starts them while the loop is built, so that they do not see what hooks do to
    the data set there.
    """
    iterators = mmengine_loops._InfiniteDataloaderIterator
    if '_iterator = iter(' not in inspect.getsource(iterators.__init__):
        return

    def start(self: Any, dataloader: Any) -> None:
        self._dataloader, self._epoch = dataloader, 0
        self._iterator = _LateIterator(dataloader)

    iterators.__init__ = start


def _register_optimizers_of_deepspeed() -> None:
    """Let mmengine do without the one-bit optimizers, which DeepSpeed 0.19 has no more."""
    from mmengine._strategy import deepspeed as strategy

    if strategy.deepspeed is None or importlib.util.find_spec('deepspeed.runtime.fp16.onebit'):
        return

    def register() -> list[str]:
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
        from deepspeed.ops.lamb import FusedLamb

        optimizers = (DeepSpeedCPUAdam, FusedAdam, FusedLamb)
        for optimizer in optimizers:
            OPTIMIZERS.register_module(module=optimizer, force=True)
        return [optimizer.__name__ for optimizer in optimizers]

    strategy.register_deepspeed_optimizers = register


def _make_mmaction_importable() -> None:
    """Let mmaction2 1.2.0 be imported, when somebody imports it.

    It refuses mmcv 2.2 and newer, of which it needs nothing that has changed, and its published
    package lacks the module `mmaction.models.localizers.drn`.
    """
    if 'mmaction' in sys.modules or any(isinstance(f, _MMActionFinder) for f in sys.meta_path):
        return
    if importlib.util.find_spec('mmaction') is not None:
        sys.meta_path.insert(0, _MMActionFinder())


class _MMActionFinder(MetaPathFinder):
    """Finds `mmaction` as ever, with a loader that mends it around its import."""

    searching = False

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != 'mmaction' or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _MMActionLoader(spec.loader, self)
        return spec


class _MMActionLoader(Loader):
    def __init__(self, loader: Loader, finder: _MMActionFinder) -> None:
        self.loader, self.finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        import mmcv

        sys.meta_path.remove(self.finder)
        # the module is to look as if it had been imported without us
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        version = mmcv.__version__
        if digit_version(version) >= digit_version(_MMCV_TOO_NEW):
            mmcv.__version__ = '2.1.99'
            say(f'mmaction2 accepts mmcv {version}')
        try:
            self.loader.exec_module(module)
        finally:
            mmcv.__version__ = version
        _stand_in_for_drn(Path(module.__path__[0]))


def _stand_in_for_drn(mmaction: Path) -> None:
    localizers = mmaction / 'models' / 'localizers'
    if not localizers.exists() or (localizers / 'drn').exists():
        return

    class DRN:
        """The localizer that the published package lacks."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError('DRN is missing from mmaction2 1.2.0 as published')

    package = ModuleType('mmaction.models.localizers.drn')
    package.__path__ = []
    module = ModuleType(f'{package.__name__}.drn')
    module.DRN = DRN  # type: ignore[attr-defined]
    sys.modules[package.__name__] = package
    sys.modules[module.__name__] = module
    say('mmaction2 can do without its missing module localizers.drn')


def _outline(mask: np.ndarray) -> list[list[float]]:
    """The outlines of a binary mask (H, W) as COCO polygons [[x0, y0, x1, y1, ...], ...]."""
    from skimage.measure import find_contours

    # Half a pixel: the centre of pixel 0 is 0 to skimage and 0.5 to COCO; and one for the padding.
    contours = find_contours(np.pad(mask, 1), 0.5)
    return [(contour[:, ::-1] - 0.5).ravel().tolist() for contour in contours]
