"""Small images are drawn on enlarged, so that labels can be read."""

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
