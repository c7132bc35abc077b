"""What is drawn on: small images enlarged, so that labels can be read, and frames with text."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

LEAST_WIDTH = 640
_MOST = 8  # times


def enlarge(image: np.ndarray, result: Any) -> tuple[np.ndarray, Any]:
    """An image and what was found in it, a whole number of times as large where it is narrow.

    Args:
        image: ``(H, W, 3)``.
        result: the data sample of a host; it stays as it is.
    """
    times = min(-(-LEAST_WIDTH // image.shape[1]), _MOST)
    if times == 1:
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
    import cv2

    for frame in frames:
        frame = frame.copy()
        scale = max(0.3, min(frame.shape[:2]) / 600)
        for row, line in enumerate(lines, start=1):
            place = round(12 * scale), round(34 * scale * row)
            for colour, stroke in ((0, 0, 0), 3), ((255, 255, 255), 1):
                cv2.putText(frame, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, stroke,
                            cv2.LINE_AA)  # fmt: skip
        yield frame
