"""What training needs around the models."""

from .check_loss import CheckInvalidLossHook
from .ddp import DDPStrategy
from .deepspeed import DeepSpeedStrategy
from .fsdp import FSDPStrategy
from .hooks import CheckDatasetHook, LoadCheckpointHook
from .layer_decay import SwinLayerDecayOptimWrapperConstructor
from .repeatable import RepeatableHook

__all__ = [
    'CheckDatasetHook',
    'CheckInvalidLossHook',
    'DDPStrategy',
    'DeepSpeedStrategy',
    'FSDPStrategy',
    'LoadCheckpointHook',
    'RepeatableHook',
    'SwinLayerDecayOptimWrapperConstructor',
]
