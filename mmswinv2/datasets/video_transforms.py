"""Frames of a video in a pipeline, and the five crops of the paper's test on Kinetics-400."""

from __future__ import annotations

import zlib

import numpy as np
from mmcv.transforms import BaseTransform

from ..errors import UserError
from ..registry import TRANSFORMS
from .video_files import open_video

__all__ = ['FiveCrop', 'ShuffleFrames', 'VideoDecode', 'VideoInit']


@TRANSFORMS.register_module()
class VideoInit(BaseTransform):
    """Opens ``filename``, as mmaction2's ``DecordInit`` does, by decord or else PyAV.

    Adds ``video_reader``, ``total_frames``, ``avg_fps``.

    Args:
        num_threads: threads of decord.
    """

    def __init__(self, num_threads: int = 1) -> None:
        self.num_threads = num_threads

    def transform(self, results: dict) -> dict:
        """Raise `UnreadableVideo` if no decoder can open the file."""
        reader = open_video(results['filename'], self.num_threads)
        results.update(video_reader=reader, total_frames=len(reader), avg_fps=reader.fps)
        return results


@TRANSFORMS.register_module()
class VideoDecode(BaseTransform):
    """Decodes the frames ``frame_inds``, as mmaction2's ``DecordDecode`` does.

    Adds ``imgs``, a list of (H, W, 3) uint8 RGB, ``original_shape`` and ``img_shape``. Where decord
    fails in the middle of a file PyAV tries the same frames.
    """

    def transform(self, results: dict) -> dict:
        """Raise `UnreadableVideo` if a frame cannot be had."""
        indices = np.asarray(results['frame_inds']).reshape(-1)
        frames = results.pop('video_reader').read(indices)
        results.update(imgs=list(frames), frame_inds=indices)
        results['original_shape'] = results['img_shape'] = frames.shape[1:3]
        return results


@TRANSFORMS.register_module()
class FiveCrop(BaseTransform):
    """The four corners and the centre of every frame.

    The paper tests Kinetics-400 with "4 x 5 views", 4 clips of 5 crops, and does not say where the
    crops lie; these are those of mmaction2's ``TenCrop`` without its mirror images, to 3 pixels,
    as that one rounds to fours.

    Args:
        crop_size: pixels, an int or (width, height).
    """

    def __init__(self, crop_size: int | tuple[int, int]) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else tuple(crop_size)
        if len(self.crop_size) != 2 or min(self.crop_size) < 1:
            raise ValueError(f'crop_size must be an int or (width, height), got {crop_size!r}')

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

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={self.crop_size})'


@TRANSFORMS.register_module()
class ShuffleFrames(BaseTransform):
    """Puts the frames of every clip into random order, the same for all clips of a video.

    A control: what a network still knows then, it does not know from motion. It comes after
    ``SampleFrames``. The order depends on the file name alone.
    """

    def transform(self, results: dict) -> dict:
        """Reorder ``frame_inds``."""
        length = results['clip_len']
        seed = zlib.crc32(str(results.get('filename')).encode())
        order = np.random.default_rng(seed).permutation(length)
        clips = np.asarray(results['frame_inds']).reshape(-1, length)
        results['frame_inds'] = clips[:, order].reshape(-1)
        return results
