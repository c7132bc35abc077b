"""Registries of mmswinv2, children of mmengine's.

``type='mmswinv2.X'`` in a config of any host package finds them by the prefix, without
``custom_imports``; the modules are imported at the first look-up.
"""

from importlib import import_module

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry


class _Datasets(Registry):
    """Imports a data set's module only at its look-up, as each needs another host package."""

    modules = {  # noqa: RUF012, a constant
        'VideoDataset': 'mmswinv2.datasets.video_dataset',
        'ImageNetV2': 'mmswinv2.datasets.imagenet_v2',
    }

    def get(self, key: str) -> type | None:
        if module := self.modules.get(key.removeprefix('mmswinv2.')):
            import_module(module)
        return super().get(key)


def _child(name: str, location: str, kind: type[Registry] = Registry) -> Registry:
    parent = getattr(mmengine_registry, name)
    return kind(parent.name, parent=parent, scope='mmswinv2', locations=[f'mmswinv2.{location}'])


MODELS = _child('MODELS', 'models')
OPTIM_WRAPPER_CONSTRUCTORS = _child('OPTIM_WRAPPER_CONSTRUCTORS', 'engine')
STRATEGIES = _child('STRATEGIES', 'engine')
HOOKS = _child('HOOKS', 'engine')
TRANSFORMS = _child('TRANSFORMS', 'datasets')
DATASETS = _child('DATASETS', 'datasets', _Datasets)
