"""What training needs around the models."""

from .hooks import CheckDatasetHook, LoadCheckpointHook
from .layer_decay import SwinLayerDecayOptimWrapperConstructor

__all__ = ['CheckDatasetHook', 'LoadCheckpointHook', 'SwinLayerDecayOptimWrapperConstructor']
