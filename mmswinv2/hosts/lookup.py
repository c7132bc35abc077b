"""All hosts, and which of them a config is for."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.registry import init_default_scope

from .configs import inner_datasets
from .host import Host
from .mmaction import MMAction
from .mmdet import MMDet
from .mmdet_patches import outline_masks
from .mmengine import MMEngine
from .mmpretrain import MMPretrain
from .mmseg import MMSeg
from .patching import Patch

# in the order in which they are asked whether a data set is theirs
HOSTS: tuple[Host, ...] = (MMEngine(), MMSeg(), MMAction(), MMPretrain(), MMDet())
# every patch there is; `outline_masks` is applied by mmswinv2.InstaBoost
PATCHES: tuple[Patch, ...] = (
    *dict.fromkeys(p for host in HOSTS for p in (*host.early_patches, *host.patches)),
    outline_masks,
)
_BUILDING = threading.RLock()


def of(cfg: Any) -> Host:
    """The host of a config, by its ``default_scope``; a plain `Host` for an unknown scope.

    Without a scope, the types of the model and the data sets decide, by their prefix or class.
    """
    scope = cfg.get('default_scope') or MMEngine.name
    if scope == MMEngine.name:
        scope = next(_origins(cfg), scope)
    return next((host for host in HOSTS if host.name == scope), Host(scope))


def use_registries(cfg: Any) -> None:
    """Find types without a prefix as in a run of the config, with the host's patches applied."""
    of(cfg).apply()
    init_default_scope(cfg.get('default_scope') or MMEngine.name)


@contextmanager
def building(cfg: Any) -> Iterator[None]:
    """Use the registries of a config, while other threads wait to do so with theirs.

    mmengine has one default scope and one cache of visualizers for all threads.
    """
    with _BUILDING:
        use_registries(cfg)
        yield


def type_in(cfg: Any, name: str) -> str:
    """A type of the host of a config, with a prefix if the default scope is not that host."""
    host = of(cfg)
    own = '.' in name or cfg.get('default_scope') == host.name
    return name if own else f'{host.name}.{name}'


def _origins(cfg: Any) -> Iterator[str]:
    """Names of the hosts that define the types of the model and of the data sets."""
    loaders = [cfg.get(f'{kind}_dataloader') for kind in ('train', 'val', 'test')]
    sets = [loader.get('dataset') for loader in loaders if isinstance(loader, Mapping)]
    inner = (d for dataset in sets if isinstance(dataset, Mapping) for d in inner_datasets(dataset))
    names = {host.name for host in HOSTS} - {MMEngine.name}
    for node in (cfg.get('model'), *inner):
        kind = node.get('type') if isinstance(node, Mapping) else None
        origin = str(getattr(kind, '__module__', kind)).partition('.')[0]
        if origin in names:
            yield origin


def apply() -> None:
    """Apply the patches that every use needs (`Host.early_patches`); repeated calls do nothing.

    Called when this package is imported, and so at the first look-up of one of our types.
    """
    for host in HOSTS:
        for patch in host.early_patches:
            patch.apply()
