"""Warnings, in the log of a run, and the messages of OpenCV, which have no place in it."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log

from .errors import printable


def warn(text: str) -> None:
    """Log a warning."""
    print_log(printable(text), logger='current', level=logging.WARNING)


@contextlib.contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV from printing what it also returns or raises."""
    import cv2

    opencv: Any = cv2
    own = opencv if hasattr(cv2, 'setLogLevel') else opencv.utils.logging  # since OpenCV 5
    before = own.setLogLevel(0)
    try:
        yield
    finally:
        own.setLogLevel(before)
