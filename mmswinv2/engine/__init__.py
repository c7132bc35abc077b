"""Hooks, strategies and an optimizer constructor for training."""

from .. import hosts  # noqa: F401, applies the patches that every use needs
from .dataset_checks import CheckDatasetHook
from .hooks import CheckInvalidLossHook, LoadCheckpointHook, LoRAHook
from .layer_decay import SwinLayerDecayOptimWrapperConstructor
from .repeatable import RepeatableHook
from .scores import ScoresHook
from .strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy

__all__ = [
    'CheckDatasetHook',
    'CheckInvalidLossHook',
    'DDPStrategy',
    'DeepSpeedStrategy',
    'FSDPStrategy',
    'LoRAHook',
    'LoadCheckpointHook',
    'RepeatableHook',
    'ScoresHook',
    'SwinLayerDecayOptimWrapperConstructor',
]
