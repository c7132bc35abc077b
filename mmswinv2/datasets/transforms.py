"""Transforms that the host packages lack: InstaBoost made safe, and frames of videos."""

import zlib
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from ..errors import UserError
from ..hosts.mmdet_patches import outline_masks
from ..log import warn
from ..registry import TRANSFORMS
from .video_files import open_video


@TRANSFORMS.register_module()
class InstaBoost(BaseTransform):
    """Moves, scales and rotates instances slightly, and inpaints the background behind them.

    This is mmdet's ``InstaBoost`` (https://arxiv.org/abs/1908.07801, package ``instaboostfast``),
    but an image is left unchanged where that fails or loses a box (mmdetection issue 4657). It must
    come before ``LoadAnnotations``. Ignored instances and crowds are not moved.

    As in mmdet, the semantic map is not changed: at the edges of moved instances it is off by up to
    about a sixth of their side, with the default options.

    Args:
        aug_ratio: the probability that an image is augmented.
        color_prob: the probability that the colors of an augmented image change too.
        **options: of mmdet's ``InstaBoost``, such as ``scale`` and ``theta``.
    """

    def __init__(self, aug_ratio: float = 0.5, color_prob: float = 0.5, **options: Any) -> None:
        from mmdet.datasets.transforms import InstaBoost as MMDetInstaBoost

        for name, value in (('aug_ratio', aug_ratio), ('color_prob', color_prob)):
            if not (isinstance(value, (int, float, np.number)) and 0 <= value <= 1):
                raise UserError(f'InstaBoost: {name} is a probability from 0 to 1, got {value!r}')
        self.boost = MMDetInstaBoost(**options, color_prob=color_prob, aug_ratio=1)
        self.aug_ratio = aug_ratio
        self.left_alone = 0  # images of this process that could not be augmented

    def transform(self, results: dict) -> dict:
        """Augment an image and its instances, or return them unchanged."""
        instances = results.get('instances', [])
        movable = [instance for instance in instances if not instance['ignore_flag']]
        if not movable or np.random.rand() >= self.aug_ratio:
            return results
        if results['img'].shape[2:] != (3,):
            return self._leave(results, f'its shape is {results["img"].shape}, not (H, W, 3)')
        # InstaBoost fails on compressed RLE, and moves uncompressed RLE without flipping it
        if not all(isinstance(instance.get('mask'), list) for instance in movable):
            return self._leave(results, 'an instance has no polygons')
        outline_masks.apply()  # here, as loader workers may be new processes
        try:
            new = self.boost.transform({**results, 'instances': movable})
        except Exception as error:  # of whatever kind: one image must not end a training
            return self._leave(results, repr(error))
        height, width = new['img'].shape[:2]
        boxes = [instance['bbox'] for instance in new['instances']]
        if len(boxes) < len(movable) or not all(  # mmdet keeps boxes of a pixel in the image
            0 <= x1 <= x2 - 1 and x2 <= width and 0 <= y1 <= y2 - 1 and y2 <= height
            for x1, y1, x2, y2 in boxes
        ):
            return self._leave(results, 'an instance would be lost')
        new['instances'] += [instance for instance in instances if instance['ignore_flag']]
        return new

    def _leave(self, results: dict, why: str) -> dict:
        self.left_alone += 1
        if self.left_alone == 1:
            warn(
                f'InstaBoost leaves {results.get("img_path", "an image")} as it is ({why}), and '
                'others like it without a further word in this process'
            )
        return results


@TRANSFORMS.register_module()
class VideoInit(BaseTransform):
    """Opens ``filename``, in place of mmaction2's ``DecordInit``; frame numbers are exact.

    Adds ``video_reader`` (`VideoReader`), ``total_frames``, ``avg_fps``.

    Args:
        num_threads: threads that decode the slices of a frame.
    """

    def __init__(self, num_threads: int = 1) -> None:
        self.num_threads = num_threads

    def transform(self, results: dict) -> dict:
        """Raise `UnreadableVideo` if the file cannot be opened."""
        reader = open_video(results['filename'], self.num_threads)
        results.update(video_reader=reader, total_frames=len(reader), avg_fps=reader.fps)
        return results


@TRANSFORMS.register_module()
class VideoDecode(BaseTransform):
    """Decodes the frames ``frame_inds``, in place of mmaction2's ``DecordDecode``.

    Adds ``imgs``, a list of (H, W, 3) uint8 RGB, and their shapes. Boxes become pixels.
    """

    def transform(self, results: dict) -> dict:
        """Raise `UnreadableVideo` if a frame cannot be read."""
        indices = np.asarray(results['frame_inds']).reshape(-1)
        frames = results.pop('video_reader').read(indices)
        results.update(imgs=list(frames), frame_inds=indices)
        height, width = results['original_shape'] = results['img_shape'] = frames.shape[1:3]
        for key in ('gt_bboxes', 'proposals'):  # shares of the frame, in data sets of actions
            if results.get(key) is not None:
                sides = np.array([width, height, width, height])
                results[key] = (results[key] * sides).astype(np.float32)
        return results


@TRANSFORMS.register_module()
class FiveCrop(BaseTransform):
    """Crops the four corners and the center of every frame.

    The paper tests with "4 x 5 views", 4 clips of 5 crops, and does not say where these lie. Here
    they are the unflipped crops of mmaction2's ``TenCrop``, which rounds to multiples of 4.

    Args:
        crop_size: pixels, an int or (width, height).
    """

    def __init__(self, crop_size: int | tuple[int, int]) -> None:
        size = crop_size if isinstance(crop_size, (list, tuple)) else (crop_size, crop_size)
        if len(size) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
            raise UserError(f'crop_size must be an int or (width, height), got {crop_size!r}')
        self.crop_size = tuple(size)

    def transform(self, results: dict) -> dict:
        """``imgs`` becomes all frames of the first crop, then of the second, ..."""
        frames = results['imgs']
        height, width = frames[0].shape[:2]
        w, h = self.crop_size
        if w > width or h > height:
            raise UserError(
                f'FiveCrop: crop_size {self.crop_size} is larger than the frames of '
                f'{results.get("filename")}, {width}x{height}; a Resize must come before'
            )
        right, bottom = width - w, height - h
        corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
        results['imgs'] = [f[y : y + h, x : x + w] for x, y in corners for f in frames]
        boxes = [(x, y, x + w, y + h) for x, y in corners for _ in frames]
        results.update(crop_bbox=np.array(boxes), img_shape=(h, w))
        return results


@TRANSFORMS.register_module()
class ShuffleFrames(BaseTransform):
    """Puts the frames of every clip into random order, the same for all clips of a video.

    For control experiments: what a network still recognizes does not depend on motion. It must come
    after ``SampleFrames``. The order depends on the file name alone.
    """

    def transform(self, results: dict) -> dict:
        """Reorder ``frame_inds``."""
        length = results['clip_len']
        seed = zlib.crc32(str(results.get('filename')).encode())
        order = np.random.default_rng(seed).permutation(length)
        clips = np.asarray(results['frame_inds']).reshape(-1, length)
        results['frame_inds'] = clips[:, order].reshape(-1)
        return results
