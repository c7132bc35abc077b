"""Video files: reading by decord or PyAV, and writing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


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
        try:
            return self.decode([int(i) for i in indices])
        except Exception as error:
            raise UnreadableVideo(f'{self.path}: {_first_line(error)}') from error

    def decode(self, indices: list[int]) -> np.ndarray:
        import av

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
    """Frames of a file by decord, and by PyAV where that fails in the middle of it."""

    def __init__(self, path: str, num_threads: int) -> None:
        import decord

        self.path = path
        self.reader = decord.VideoReader(path, num_threads=num_threads)
        self.fps = float(self.reader.get_avg_fps())

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        try:
            return self.reader.get_batch(indices).asnumpy()
        except Exception as error:  # decord's errors have no common class
            try:
                return _PyAVReader(self.path).decode([int(i) for i in indices])
            except Exception as second:
                reasons = f'{_first_line(error)}; {_first_line(second)}'
                raise UnreadableVideo(f'{self.path}: {reasons}') from second


def open_video(path: str, num_threads: int = 1) -> Any:
    """Open a video with decord, or with PyAV where decord is not installed or fails.

    Args:
        path: the file.
        num_threads: threads of decord.

    Returns:
        A reader with ``len()``, ``fps`` and ``read(indices) -> (N, H, W, 3)``, uint8 RGB, which
        raises `UnreadableVideo` if a frame cannot be had.

    Raises:
        UnreadableVideo: if neither can open it, or it has no frames.
    """
    reasons = []
    for kind in (lambda: _DecordReader(path, num_threads), lambda: _PyAVReader(path)):
        try:
            reader = kind()
        except Exception as error:
            reasons.append(_first_line(error))
            continue
        if len(reader):
            return reader
        reasons.append('no frames')
    raise UnreadableVideo(f'{path}: {"; ".join(reasons)}')


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: int,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write frames as H.264.

    Args:
        path: the file.
        frames: (H, W, 3) uint8 RGB, with even sides.
        fps: frames per second.
        options: of x264, such as ``crf``.
    """
    import av

    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=fps, options=dict(options or {}))
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.thread_count = 1
        for frame in frames:
            stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
