"""Swin Transformer V2 for OpenMMLab. Importing this imports nothing else."""

__version__ = '0.4.0'
