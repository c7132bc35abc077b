"""Modules for the registries of the host packages."""

from .backbones import SwinTransformerV2

__all__ = ['SwinTransformerV2']
