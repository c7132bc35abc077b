"""What is drawn on: small images enlarged, so that labels can be read, and frames with text."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

LEAST_WIDTH = 640
_MOST = 8  # times
LARGEST_JPEG = 65500  # pixels of a side


def enlarge(image: np.ndarray, result: Any) -> tuple[np.ndarray, Any]:
    """An image and what was found in it, a whole number of times as large where it is narrow.

    Args:
        image: ``(H, W, 3)``.
        result: the data sample of a host; it stays as it is.
    """
    times = min(-(-LEAST_WIDTH // image.shape[1]), _MOST, LARGEST_JPEG // max(image.shape[:2]))
    if times <= 1:
        return image, result
    large = result.clone()
    found, labels = getattr(large, 'pred_instances', None), getattr(large, 'pred_sem_seg', None)
    if found is not None:
        large.pred_instances = found = found.clone()  # or it would be that of `result`
        found.bboxes = found.bboxes * times
        if 'masks' in found:
            masks = torch.as_tensor(np.asarray(found.masks))
            found.masks = _repeat(masks, times)
    if labels is not None:
        large.set_data(dict(pred_sem_seg=type(labels)(data=_repeat(labels.data, times))))
    import cv2

    size = (image.shape[1] * times, image.shape[0] * times)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), large


def _repeat(maps: torch.Tensor, times: int) -> torch.Tensor:
    return maps.repeat_interleave(times, -1).repeat_interleave(times, -2)


def caption(frames: Iterable[np.ndarray], lines: Sequence[str]) -> Iterator[np.ndarray]:
    """Frames with lines of text in their corner.

    Args:
        frames: ``(H, W, 3)``, uint8.
        lines: from the top.
    """
    import matplotlib

    path = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')  # more than ASCII
    for frame in frames:
        size = max(10, round(min(frame.shape[:2]) / 22))
        picture = Image.fromarray(frame)
        ImageDraw.Draw(picture).multiline_text(
            (size // 2, size // 2),
            '\n'.join(lines),
            fill='white',
            font=ImageFont.truetype(path, size),
            stroke_width=max(1, size // 12),
            stroke_fill='black',
        )
        yield np.asarray(picture)
