"""Reading video files, and the five crops of the paper's test on Kinetics-400."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from ..errors import UserError
from ..registry import TRANSFORMS

__all__ = [
    'FiveCrop',
    'ShuffleFrames',
    'UnreadableVideo',
    'VideoDecode',
    'VideoInit',
    'open_video',
    'read_frames',
]


class UnreadableVideo(Exception):
    """A video file that no decoder can read; says which and why."""


class _PyAVReader:
    """Frames of a file by PyAV, with the part of decord's interface that is needed here."""

    def __init__(self, path: str) -> None:
        import av

        self.path = path
        with av.open(path) as container:
            stream = container.streams.video[0]
            self.fps = float(stream.average_rate or 0)
            # not every container says how many frames it has
            self.frames = stream.frames or sum(1 for _ in container.decode(stream))

    def __len__(self) -> int:
        return self.frames

    def read(self, indices: Sequence[int]) -> np.ndarray:
        import av

        indices = [int(i) for i in indices]
        wanted, found = set(indices), {}
        with av.open(self.path) as container:
            for i, frame in enumerate(container.decode(video=0)):
                if i in wanted:
                    # turned as the file asks, which decord does by itself
                    image = frame.to_ndarray(format='rgb24')
                    found[i] = np.rot90(image, round(frame.rotation / 90))
                if i >= max(wanted):
                    break
        if missing := wanted - found.keys():
            raise EOFError(f'frame {min(missing)} of {self.frames} is missing')
        return np.stack([found[i] for i in indices])


class _DecordReader:
    def __init__(self, path: str, num_threads: int) -> None:
        import decord

        self.reader = decord.VideoReader(path, num_threads=num_threads)
        self.fps = float(self.reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        return self.reader.get_batch(indices).asnumpy()


def open_video(path: str, num_threads: int = 1) -> Any:
    """Open a video with decord, or with PyAV where decord is not installed or fails.

    Args:
        path: the file.
        num_threads: threads of decord.

    Returns:
        A reader with ``len()``, ``fps`` and ``read(indices) -> (N, H, W, 3)``, uint8 RGB.

    Raises:
        UnreadableVideo: if neither can open it, or it has no frames.
    """
    reasons = []
    for kind in (lambda: _DecordReader(path, num_threads), lambda: _PyAVReader(path)):
        try:
            reader = kind()
        except Exception as error:  # decord's errors have no common class
            reasons.append(_first_line(error))
            continue
        if len(reader):
            return reader
        reasons.append('no frames')
    raise UnreadableVideo(f'{path}: {"; ".join(reasons)}')


def read_frames(reader: Any, path: str, indices: Sequence[int]) -> np.ndarray:
    """Frames (N, H, W, 3), uint8 RGB; by PyAV where the reader fails in the middle of a file.

    Raises:
        UnreadableVideo: if a frame cannot be had.
    """
    try:
        return reader.read(indices)
    except Exception as error:
        try:
            return _PyAVReader(path).read(indices)
        except Exception as second:
            reasons = f'{_first_line(error)}; {_first_line(second)}'
            raise UnreadableVideo(f'{path}: {reasons}') from second


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


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
        frames = read_frames(results.pop('video_reader'), results['filename'], indices)
        results.update(imgs=list(frames), frame_inds=indices)
        results['original_shape'] = results['img_shape'] = frames.shape[1:3]
        return results


@TRANSFORMS.register_module()
class FiveCrop(BaseTransform):
    """The four corners and the centre of every frame.

    The paper tests Kinetics-400 with "4 x 5 views", 4 clips of 5 crops, and does not say where the
    crops lie; these are the places of mmaction2's ``TenCrop`` without its mirror images.

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
        results['frame_inds'] = np.asarray(results['frame_inds']).reshape(-1, length)[:, order]
        results['frame_inds'] = results['frame_inds'].reshape(-1)
        return results
