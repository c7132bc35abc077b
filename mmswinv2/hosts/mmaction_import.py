"""The import of mmaction2, which refuses a current mmcv and lacks a module.

The patch must be in place before mmaction2 is imported: import `mmswinv2.hosts` first.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.utils import digit_version

from .patching import log_patch, patch

_MMCV_TOO_NEW = '2.2.0'  # mmaction2 1.2.0 refuses it and later ones at import


@patch('mmaction', '<=1.2.0')
def make_importable() -> None:
    """Importing mmaction2 works beside mmcv 2.2 and newer, and without localizers.drn.

    mmaction2 refuses newer versions of mmcv, although it works with them, and its published package
    lacks the module `mmaction.models.localizers.drn`.
    """
    if 'mmaction' not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds `mmaction` as usual, and patches its import."""

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
            loader: Any = spec.loader
            loader.exec_module = functools.partial(self.import_patched, loader.exec_module)
        return spec

    def import_patched(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Import mmaction2 with a version of mmcv that it accepts, and remove the import hooks."""
        import mmcv

        sys.meta_path.remove(self)
        vars(module.__loader__).pop('exec_module')
        version = mmcv.__version__
        if digit_version(version) >= digit_version(_MMCV_TOO_NEW):
            mmcv.__version__ = '2.1.99'
            log_patch(f'mmaction2 accepts mmcv {version}')
        try:
            exec_module(module)
        finally:
            mmcv.__version__ = version
        _stand_in_for_drn(Path(module.__path__[0]))


def _stand_in_for_drn(mmaction: Path) -> None:
    """Give mmaction2 the module that its package lacks; only building a DRN fails then."""
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
    log_patch('mmaction2 can do without its missing module localizers.drn')
