"""Swin Transformer V2 for OpenMMLab. Importing this imports nothing else."""

from typing import Any

__version__ = '0.15.2'


def __getattr__(name: str) -> Any:
    if name == 'predict':  # imported on demand, as it imports torch
        from .inference.predict import predict

        return predict
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
