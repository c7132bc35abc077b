"""Registries of mmswinv2, children of mmengine's.

``type='mmswinv2.X'`` in a config of any host package finds them by the prefix alone; the modules
are imported at the first look-up.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from . import compat

__all__ = ['DATASETS', 'HOOKS', 'MODELS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'STRATEGIES', 'TRANSFORMS']

compat.apply()


def _child(name: str, parent: Registry, location: str) -> Registry:
    return Registry(name, parent=parent, scope='mmswinv2', locations=[location])


MODELS = _child('model', MMENGINE_MODELS, 'mmswinv2.models')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'mmswinv2.engine'
)
STRATEGIES = _child('strategy', MMENGINE_STRATEGIES, 'mmswinv2.engine')
HOOKS = _child('hook', MMENGINE_HOOKS, 'mmswinv2.engine')
TRANSFORMS = _child('transform', MMENGINE_TRANSFORMS, 'mmswinv2.datasets')
# apart from the transforms, as it imports host packages
DATASETS = _child('dataset', MMENGINE_DATASETS, 'mmswinv2.datasets.of_hosts')
