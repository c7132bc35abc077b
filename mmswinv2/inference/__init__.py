"""Inference: predict on pictures, videos and cameras, and write the results."""
