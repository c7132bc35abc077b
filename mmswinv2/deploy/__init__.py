"""Export of whole models to files that run without PyTorch."""
