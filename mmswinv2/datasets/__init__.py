"""Transforms that the host packages lack."""

from .instaboost import InstaBoost

__all__ = ['InstaBoost']
