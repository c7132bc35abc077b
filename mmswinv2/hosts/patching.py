"""Patches of other packages, each applied only to the versions that need it."""

import functools
import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
from mmengine.logging import print_log
from packaging.specifiers import SpecifierSet

# import name: distributions that provide it, the maintained fork first
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmaction': ('mmaction2',),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
PACKAGES = (*DISTRIBUTIONS, 'mmswinv2')  # whose types need no custom_imports
_MARK = '_mmswinv2_patches'  # attribute of a replacement: which functions replace the original


@dataclass(frozen=True)
class Patch:
    """A repair of a package, for the versions of it that need one; see `patch`."""

    name: str  #: what works with the patch and did not work before
    package: str  #: import name of the package
    versions: str  #: the versions to patch, such as ``'<0.10.8'``
    change: Callable[[], None]  #: makes the change; called again, it must change nothing
    condition: Callable[[], bool]  #: what else must hold of the environment

    def needed(self) -> bool:
        """Whether the installed version needs the patch."""
        return is_installed(self.package, self.versions) and self.condition()

    def apply(self) -> None:
        """Make the change if it is needed."""
        if self.needed():
            self.change()


def patch(
    package: str, versions: str, condition: Callable[[], bool] = lambda: True
) -> Callable[[Callable[[], None]], Patch]:
    """Make a `Patch` of a function, named by the first line of its docstring."""

    def decorate(change: Callable[[], None]) -> Patch:
        name = (change.__doc__ or '').split('\n')[0].rstrip('.')
        return Patch(name, package, versions, change, condition)

    return decorate


def patches_in(package: str, *modules: ModuleType) -> tuple[Patch, ...]:
    """The patches of a package that modules define, in their order there."""
    found = (value for module in modules for value in vars(module).values())
    return tuple(each for each in found if isinstance(each, Patch) and each.package == package)


@functools.cache
def is_installed(package: str, versions: str) -> bool:
    """Whether one of some versions of a package, such as ``'>=1.8'``, is installed."""
    for name in DISTRIBUTIONS.get(package, (package,)):
        with suppress(PackageNotFoundError):
            return SpecifierSet(versions).contains(version(name), True)
    return False


def replace(owner: Any, *names: str) -> Callable[[Callable[..., Any]], None]:
    """Replace ``owner.name`` by the decorated function, unless it is replaced by it already.

    The function is called with the original as its first argument. `owner` may be a tuple of
    classes and modules, in whose order they are patched.
    """

    def decorate(function: Callable[..., Any]) -> None:
        mark = f'{function.__module__}.{function.__qualname__}'
        for each, name in product(owner if isinstance(owner, tuple) else (owner,), names):
            original = getattr(each, name)
            marks = getattr(original, _MARK, ())
            if mark not in marks:
                replacement = _replacement(function, original)
                setattr(replacement, _MARK, (*marks, mark))
                setattr(each, name, replacement)

    return decorate


def _replacement(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    with suppress(ValueError):  # mmengine inspects signatures, without following wrappers
        replacement.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return replacement


def restore_numpy_names(*modules: str) -> None:
    """Give modules that can be imported the names that NumPy 1.24 and 2 have taken away."""
    for name in modules:
        with suppress(ImportError):
            module: Any = import_module(name)
            module.np = _OldNumPy()


class _OldNumPy:
    """NumPy, of which it has all else, also what is only imported when it is used (np.random)."""

    float, Inf, NAN = float, np.inf, np.nan

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def log_patch(text: str) -> None:
    """Log what a patch did."""
    print_log(f'mmswinv2.hosts: {text}', logger='current', level=logging.INFO)
