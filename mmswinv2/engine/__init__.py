"""What training needs around the models."""

from .hooks import CheckDatasetHook
from .layer_decay import SwinLayerDecayOptimWrapperConstructor

__all__ = ['CheckDatasetHook', 'SwinLayerDecayOptimWrapperConstructor']
