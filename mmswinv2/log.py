"""Warnings, in the log of a run."""

import logging

from mmengine.logging import print_log

from .errors import printable


def warn(text: str) -> None:
    """Log a warning."""
    print_log(printable(text), logger='current', level=logging.WARNING)
