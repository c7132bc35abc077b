"""Whole models in files that run without PyTorch."""
