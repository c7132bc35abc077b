"""Video files: frames by their number, by PyAV, and writing."""

from __future__ import annotations

import math
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, needed
from ..files import StrPath, atomic_file

# Seek to a key frame at least so many frames ahead; up to there, decoding on is as fast.
_SEEK = 16
# Color matrices of ITU-T H.273 other than BT.601, which is swscale's default.
_OTHER_MATRICES = (1, 4, 7, 9, 10)
_FULL_RANGE = 2
_OF_FIELDS = 1 / 40  # seconds between two fields, at most
# Seconds; the unit of times of frames at a varying rate. A frame in MP4 lasts at most 2**31 units.
_TICK = Fraction(1, 10000)
_REPEATS = 24  # a packet of fewer bytes may repeat the frame before it


class UnreadableVideo(UserError):
    """A video file that cannot be read, or not to the end; the message says which and why."""


class _NotAsIndexed(Exception):
    """Decoding from a key frame gives other frames than the packets promise."""


class _Key(NamedTuple):
    """A key frame: its number, or that of the next one shown, and times of display and decoding."""

    number: int
    time: int
    decoded: int


class VideoReader:
    """Frames of a video by number: frame i is the i-th that decoding from the start gives.

    Opening reads all packets, without decoding them, for the times of the frames and the key
    frames. If these are not certain, all frames are decoded once and counted. Reading starts at key
    frames and checks the time of each decoded frame. After a mismatch, and in files without
    reliable times, it decodes from the beginning. Damage inside a packet that is not decoded is not
    detected.

    The file is open only while it is read, so that a reader can be kept, pickled and shared.

    Args:
        path: the file.
        num_threads: threads that decode the slices of a frame, 0 for one on each processor.

    Attributes:
        fps: frames per second, on average; 0 if the file does not say.
        times: seconds from the first frame to each, where the rate varies; ``None``: it does not.

    Raises:
        UserError: if PyAV is not installed.
        UnreadableVideo: if the file cannot be opened, or has no frames.
    """

    def __init__(self, path: str, num_threads: int = 1) -> None:
        self.path, self.num_threads = path, num_threads
        with self._open() as (container, stream):
            average, unit = float(stream.average_rate or 0), float(stream.time_base)
            self._times, self._keys, sure = _index(container, stream)
            # packets as frequent as the fields of 24 frames/s may be fields
            often = len(self._times) > 1 and np.median(np.diff(self._times)) * unit < _OF_FIELDS
            fields = often and stream.codec_context.name == 'h264'
        if not sure or (
            fields and any(frame.interlaced_frame for _, frame in islice(self._decode_all(), 1))
        ):
            times = [frame.pts for _, frame in self._decode_all()]
            if times != self._times:
                self._times, self._keys = times, []
        if not self._times:
            raise self._unreadable('no frames')
        steps = np.zeros(0) if None in self._times else np.diff(self._times)
        onwards = steps[steps >= 0]  # times begin anew where files have been joined
        # in AVI frames that were reordered have times of others
        known = onwards.any() and len(onwards) > 0.9 * len(steps)
        measured = float(1 / (onwards.mean() * unit)) if known else average
        # the file's own number is exact where times are rounded, and wrong for uneven ones
        self.fps = average if math.isclose(average, measured, rel_tol=0.02) else measured
        self.times: list[float] | None = None
        if len(steps) and 0 < 1.5 * steps.min() < steps.max():  # rounding changes steps by less
            self.times = [0.0, *(np.cumsum(steps) * unit).tolist()]

    def __len__(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[np.ndarray]:
        for _, image in _images(self._decode_all(), range(len(self))):
            yield image

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Frames of these numbers, in any order.

        Args:
            indices: numbers from 0, less than ``len()``.

        Returns:
            (N, H, W, 3) uint8 RGB, rotated and flipped as the file says, and converted with its
            color matrix and range (BT.601, limited, if it has none).

        Raises:
            UnreadableVideo: if there is no such frame.
        """
        numbers = [int(i) for i in indices]
        wanted = set(numbers)
        for i in wanted:
            if not 0 <= i < len(self):
                raise self._unreadable(f'no frame {i}, only 0 to {len(self) - 1}')
        found: dict[int, np.ndarray] = {}
        if self._keys:
            with suppress(_NotAsIndexed):
                found = dict(_images(self._decode_near(sorted(wanted)), wanted))
        if not found:
            if self._keys:
                self._keys, self._times = [], [frame.pts for _, frame in self._decode_all()]
            found = dict(_images(islice(self._decode_all(), max(wanted) + 1), wanted))
        if missing := wanted - found.keys():
            raise self._unreadable(f'frame {min(missing)} cannot be decoded')
        return np.stack([found[i] for i in numbers])

    def _unreadable(self, why: str) -> UnreadableVideo:
        return UnreadableVideo(f'cannot read the video {self.path}: {why}')

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        av = needed('av', 'reading videos')
        if os.path.exists(self.path) and not os.path.isfile(self.path):  # opening a pipe blocks
            raise self._unreadable('no regular file')
        try:  # metadata need not be in UTF-8
            # FFmpeg reads the text before a colon in a relative path as a protocol
            path = os.path.abspath(self.path) if os.path.exists(self.path) else self.path
            container = av.open(path, metadata_errors='replace')
        except av.error.FFmpegError as error:
            raise self._unreadable(error.strerror) from error
        with container:
            stream = container.streams.best('video')  # not a cover image
            if stream is None or stream.codec_context is None:
                raise self._unreadable('no video stream that can be decoded')
            stream.codec_context.thread_count = self.num_threads
            yield container, stream

    def _decode_all(self) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from the start; packets that cannot be decoded are skipped."""
        from av.error import FFmpegError

        number = 0
        with self._open() as (container, stream):
            for packet in _packets(container, stream):
                with suppress(FFmpegError):
                    for frame in stream.decode(packet):
                        yield number, frame
                        number += 1

    def _decode_near(self, wanted: list[int]) -> Iterator[tuple[int, Any]]:
        """Numbers and frames, from key frames on, that include the wanted frames."""
        with self._open() as (container, stream):
            at = -math.inf
            for number in wanted:
                place = bisect_right(self._keys, (number, math.inf))
                if not place:
                    raise _NotAsIndexed
                key = self._keys[place - 1]
                if key.number >= at + _SEEK:
                    frames = self._decode_from(container, stream, key)
                for at, frame in frames:
                    yield at, frame
                    if at == number:
                        break

    def _decode_from(self, container: Any, stream: Any, key: _Key) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from a key frame on."""
        from av.error import FFmpegError

        number, started = key.number, False
        try:
            container.seek(key.decoded, stream=stream)
            for packet in _packets(container, stream):
                started = started or (packet is not None and packet.pts == key.time)
                for frame in stream.decode(packet) if started else ():
                    if frame.pts is not None and frame.pts < key.time:
                        continue  # shown before the key frame, and needs frames before it
                    expected = self._times[number : number + 1] == [frame.pts]
                    whole = frame.key_frame or frame.pts != key.time
                    if not expected or not whole or frame.is_corrupt:
                        raise _NotAsIndexed
                    yield number, frame
                    number += 1
        except FFmpegError as error:
            raise _NotAsIndexed from error
        raise _NotAsIndexed  # the stream has ended before the wanted frame


open_video = VideoReader


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The readable packets of a stream, and then None, which flushes the decoder."""
    from av.error import FFmpegError

    with suppress(FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    yield None


def _index(container: Any, stream: Any) -> tuple[list[int], list[_Key], bool]:
    """Find the frames of a stream from its packets.

    Returns:
        The times of the frames, in display order; the key frames; and whether it is certain that
        each packet becomes a frame with the time of the packet.
    """
    times: list[int] = []
    hidden: list[int] = []
    keys, delays, whole = [], set(), True
    codec = stream.codec_context.name
    for packet in _packets(container, stream):
        if packet is None:
            continue
        time, when = packet.pts, packet.dts
        if time is None:
            return [], [], False
        # packets that an edit list leaves out are decoded but not shown
        (hidden if packet.is_discard else times).append(time)
        delays.add(when is None or time - when)
        if packet.is_keyframe:
            keys.append((time, time if when is None else when))
        # parts of a file that were not written or downloaded are zeros
        whole = whole and not packet.is_corrupt and any(memoryview(packet)[-16:])
        # MPEG-4 has packets that repeat a frame, for which the decoder returns none
        whole = whole and not (codec == 'mpeg4' and packet.size < _REPEATS)
    if not keys or not times:
        return [], [], False
    times.sort()
    steps = np.diff(times)
    sure = (
        whole
        # no frame comes before the first key frame
        and keys[0][0] == min(times + hidden)
        # no frame is lost, none has the time of another
        and (len(times) == 1 or steps.max() < 2 * steps.min())
        # if frames are reordered, the display order is known (it is not in AVI)
        and not (stream.codec_context.has_b_frames and len(delays) == 1 < len(times))
    )
    # leave out key frames that share their time with another frame
    found = [(bisect_left(times, key[0]), bisect_right(times, key[0]), key) for key in sorted(keys)]
    return times, [_Key(at, *key) for at, end, key in found if end - at < 2], bool(sure)


def _images(
    frames: Iterable[tuple[int, Any]], wanted: Container[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and the wanted frames, (H, W, 3) uint8 RGB, all of the size of the first."""
    from av.video.reformatter import VideoReformatter

    convert, size = VideoReformatter().reformat, None
    for number, frame in frames:
        if number in wanted:
            size = size or (frame.width, frame.height)
            image = convert(frame, *size, 'rgb24', **_colors(frame)).to_ndarray()
            yield number, _upright(image, frame)


def _colors(frame: Any) -> dict[str, int]:
    """Color arguments of PyAV's reformatter, which ignores a frame's tags before PyAV 17."""
    matrix, full = frame.colorspace in _OTHER_MATRICES, frame.color_range == _FULL_RANGE
    if not frame.format.name.startswith('yuv') or not (matrix or full):
        return {}
    colors = dict(src_colorspace=int(frame.colorspace), src_color_range=int(frame.color_range))
    return colors | dict(dst_colorspace=5, dst_color_range=0)


def _upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """An image rotated, in steps of 90 degrees, and flipped by its display matrix."""
    try:
        matrix = bytes(frame.side_data['DISPLAYMATRIX'])
    except KeyError:
        return image
    except ValueError:  # there is side data unknown to PyAV
        return np.rot90(image, round(frame.rotation / 90))
    # a point (x, y) is shown at (a x + c y, b x + d y)
    a, b, _, c, d = struct.unpack('=5i', matrix[:20])
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


class VideoWriter:
    """A context manager that writes frames as H.264; `options` are x264's, such as ``crf``."""

    def __init__(self, path: StrPath, fps: float, options: Mapping[str, str] | None = None) -> None:
        import av

        self._container = av.open(os.path.abspath(path), 'w')
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream('libx264', rate=rate, options=dict(options or {}))
        self._stream.pix_fmt = 'yuv420p'
        self._stream.codec_context.thread_count = 1
        self._ticks = -1

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Add a frame (H, W, 3), uint8 RGB; cut to even sides, as H.264 wants them.

        `time` is when it is shown, in seconds, where the rate varies.
        """
        import av

        height, width = (side // 2 * 2 for side in frame.shape[:2])
        frame = np.ascontiguousarray(frame[:height, :width])
        if not self._stream.codec_context.is_open:
            self._stream.height, self._stream.width = height, width
            if time is not None:
                self._stream.codec_context.time_base = _TICK
                self._stream.codec_context.max_b_frames = 0  # else the file ends too early
        image = av.VideoFrame.from_ndarray(frame, format='rgb24')
        if time is not None:
            self._ticks = max(round(time / _TICK), self._ticks + 1)  # encoders refuse equal times
            image.pts, image.time_base = self._ticks, _TICK
        self._container.mux(self._stream.encode(image))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream.codec_context.is_open:
            self._container.mux(self._stream.encode())
        self._container.close()


def write_video(
    path: StrPath,
    frames: Iterable[np.ndarray],
    fps: float,
    options: Mapping[str, str] | None = None,
    times: Iterable[float] | None = None,
) -> None:
    """Write frames as H.264, all of them or no file; see `VideoWriter`."""
    with atomic_file(path, keep_suffix=True) as part, VideoWriter(part, fps, options) as video:
        at = iter(times or ())
        for frame in frames:
            video.write(frame, next(at, None))
