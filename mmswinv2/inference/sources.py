"""Inputs to predict on: files, folders, patterns, frames of videos and of cameras."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageSequence

from ..errors import UserError
from ..files import IMAGES, is_of_system, walk
from ..log import silent_opencv, warn

RESULTS = ('vis', 'preds')  # subfolders of the output folder
RAW_PHOTOS = ('.dng', '.cr2', '.cr3', '.nef', '.arw', '.orf', '.rw2')
_LONGEST = 251  # bytes of a name without its ending; most systems take 255 in all
OTHER_IMAGES = ('.heic', '.heif', '.jxl', *RAW_PHOTOS, '.tga', '.psd', '.exr', '.hdr')
VIDEOS = (
    '.mp4', '.avi', '.mkv', '.mov', '.webm', '.ts', '.mts', '.m2ts', '.wmv', '.asf', '.mpg',
    '.mpeg', '.vob', '.flv', '.f4v', '.m4v', '.3gp', '.3g2', '.ogv', '.mxf',
)  # fmt: skip
_ANIMATIONS = ('.gif', '.webp')  # which may have one picture or several


@dataclass
class Item:
    """One thing to predict on: a file, or a frame of a video or camera."""

    name: str  # base name of its result files
    path: str
    image: np.ndarray | None = None  # (H, W, 3) uint8 RGB of a frame
    clip: bool = False  # a whole video, with one prediction for all its frames
    time: float | None = None  # of a frame, in seconds, where the rate of the video varies


class Camera(str):
    """The number of a camera, as `find_sources` yields it."""

    __slots__ = ()


def find_sources(
    inputs: Iterable[str | Path], out_dir: str | Path | None = None, clips: bool = False
) -> Iterator[str]:
    """Yield paths of files, and a `Camera` for each number that is no file.

    What folders and patterns bring is yielded once, what is named as often as it is named.

    Args:
        inputs: files, folders, patterns and camera numbers.
        out_dir: the output folder, where results of earlier runs are skipped; those in another
            are skipped with a warning, unless an input names their folder or has nothing else.
        clips: whether the model takes whole videos, and no pictures.

    Raises:
        UserError: for an input that is nothing of these, or of which nothing can be read.
    """
    own = {Path(out_dir).resolve() / part for part in RESULTS} if out_dir is not None else set()
    seen: set[str] = set()

    def new(paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            if (place := os.path.abspath(path)) not in seen:
                seen.add(place)
                yield path

    for given in map(str, inputs):
        path = Path(given)
        if not given.strip():
            raise UserError('an input is empty; name a file, a folder, a pattern or a camera')
        if path.is_dir():
            yield from new(_of_folder(given, own, clips))
        elif clips and (given.isdecimal() or path.suffix.lower() in IMAGES):
            raise UserError(f'{given} is no video, and the config classifies whole videos')
        elif path.is_file():
            _check_no_container(path)
            seen.add(os.path.abspath(given))
            yield given
        elif given.isdecimal() and not path.exists():
            yield Camera(given)
        elif path.exists():
            raise UserError(
                f'{given} is no regular file (a pipe or a device); write its content to one'
            )
        else:
            yield from new(_of_pattern(given, own, out_dir))


def _of_pattern(pattern: str, own: set[Path], out_dir: str | Path | None) -> list[str]:
    """The files that a pattern matches, without the results in the folders `own`."""
    files = _matching(pattern)
    if not files:
        hint = '; save what is at an address to a file first' if '://' in pattern else ''
        raise UserError(f'{pattern} is no file, folder, pattern or number of a camera{hint}')
    found = sorted(_without_results(pattern, files, own))
    if not found:
        raise UserError(f'{pattern} has nothing but results of {out_dir}; name other files')
    for file in found:
        _check_no_container(file)
    return list(map(str, found))


def _of_folder(folder: str, own: set[Path], clips: bool) -> list[str]:
    """The files of a folder that are read; warns of images of other kinds, which are left out."""
    kinds, what = (VIDEOS, 'video') if clips else (IMAGES + VIDEOS, 'image or video')
    pictures = (path for path in walk(folder) if path.suffix.lower() in (*kinds, *OTHER_IMAGES))
    files = _without_results(folder, pictures, own)
    found = sorted(str(path) for path in files if path.suffix.lower() in kinds)
    endings = [path.suffix.lower() for path in files]
    others = [] if clips else [kind for kind in OTHER_IMAGES if kind in endings]
    number = sum(map(endings.count, others))
    left_out = f'{number} images of {folder} are left out ({", ".join(others)}); save them as JPEG'
    if not found:
        also = f'; {left_out}' if others else ''
        raise UserError(f'the folder {folder} has no {what} ({", ".join(kinds)}){also}')
    if others:
        warn(left_out)
    return found


def _check_no_container(path: Path) -> None:
    """Raise `UserError` for archives and PDFs: FFmpeg takes the JPEGs in them for a video."""
    if path.suffix.lower() in (*IMAGES, *OTHER_IMAGES, *VIDEOS):
        return
    with suppress(OSError), path.open('rb') as file:  # reported when it is read
        head = file.read(512)
        if head.startswith(b'PK\3\4') or head[257:262] == b'ustar':
            raise UserError(f'{path} is an archive; unpack it, and name the folder')
        if head.startswith(b'%PDF-'):
            raise UserError(f'{path} is a PDF; save its pages as images')


def _matching(pattern: str) -> list[Path]:
    """The files that a pattern finds, without those that a system wrote and it does not name."""
    named = Path(pattern).parts
    there = next(filter(os.path.exists, Path(pattern).parents), Path())  # of an absent drive
    if there.parts:  # a folder may be called photos[1]
        end = os.sep if pattern.endswith(('/', os.sep)) else ''  # of a pattern of folders
        pattern = os.path.join(glob.escape(str(there)), *named[len(there.parts) :]) + end
    found = map(Path, glob.glob(pattern, recursive=True))
    return [
        path
        for path in found
        if path.is_file() and not any(map(is_of_system, set(path.parts).difference(named)))
    ]


def _without_results(given: str, files: Iterable[Path], own: set[Path]) -> list[Path]:
    """Files that are no results, also none of other output folders, of which it warns.

    Those are kept where `given` names such a folder, or brings nothing else.
    """
    files = [path for path in files if not own.intersection(path.resolve().parents)]
    if not set(RESULTS).isdisjoint(Path(given).parts):
        return files
    found = [path for path in files if not any(map(_is_results, path.parents))]
    if not found or len(found) == len(files):
        return files
    warn(
        f'{len(files) - len(found)} files of {given} are left out, as they are results of another '
        f'--out-dir ({" beside ".join(RESULTS)}); name their folder to predict on them'
    )
    return found


def _is_results(place: Path) -> bool:
    """Whether a folder was written by a run, which always writes both."""
    return place.name in RESULTS and all((place.parent / part).is_dir() for part in RESULTS)


def divide(sources: Sequence[str], clips: bool) -> tuple[list[Item], list[tuple[str, str]]]:
    """Divide sources into items, and ``(name, source)`` of videos and cameras to split into frames.

    With `clips`, videos are items. A file deleted since is reported when it is read.
    """
    stills: list[Item] = []
    films: list[tuple[str, str]] = []
    names: set[str] = set()
    last: dict[str, int] = {}  # of a repeated name: the last number added to it
    for source in sources:
        path = Path(source)
        stem = path.stem.lstrip('.') or 'unnamed'  # '..' would be the folder above
        name, key = _append(stem), stem.casefold()  # as macOS and Windows ignore case
        while name.casefold() in names:
            last[key] = last.get(key, 1) + 1
            name = _append(stem, f'_{last[key]}')
        names.add(name.casefold())
        if not isinstance(source, Camera) and (clips or not is_video(path)):
            stills.append(Item(name, source, clip=clips))
        else:
            films.append((name, source))
    return stills, films


def _append(stem: str, number: str = '') -> str:
    """A name with its number, cut where it would be longer than systems take."""
    while len(os.fsencode(stem + number)) > _LONGEST:
        stem = stem[:-1]
    return stem + number


def is_video(path: Path) -> bool:
    """Whether a file is a video or animation, by its ending, or by its content if that is open."""
    import cv2

    from ..datasets.video_files import open_video
    from ..hosts.mmcv import open_image

    if (ending := path.suffix.lower()) in _ANIMATIONS:
        with suppress(Exception):  # reported when it is read
            if _is_still_webp(path):
                return False
            with open_image(path) as image:
                return bool(image.is_animated)
    if ending in (*IMAGES, *OTHER_IMAGES, *VIDEOS):
        return ending in VIDEOS
    if cv2.haveImageReader(str(path)):
        return False
    try:
        with open_image(path):
            return False
    except Exception:  # decoders of many formats
        with suppress(UserError):
            open_video(str(path))
            return True
    return False


def _is_still_webp(path: Path) -> bool:
    """Whether a file is a WebP without animation by its header; Pillow would read all of it."""
    with path.open('rb') as file:
        head = file.read(21)
    return head[8:12] == b'WEBP' and not (head[12:16] == b'VP8X' and head[20] & 2)


def frames_of(
    name: str, source: str, max_frames: int | None
) -> tuple[Iterator[Item], float, int | None]:
    """The frames of a video or `Camera` as items ``name/000000``, ...

    Args:
        name: name of the video, under which its frames are.
        source: path of the video, or a `Camera`.
        max_frames: how many of the first frames to take; ``None``: all.

    Returns:
        the frames, frames per second, and the number of frames or ``None`` if unknown.

    Raises:
        UserError: if the video does not exist or cannot be read.
    """
    from ..datasets.video_files import open_video

    images: Iterable[np.ndarray]
    times: Sequence[float] | None = None
    length: int | None = None
    if isinstance(source, Camera):
        images, fps = _camera(int(source)), 25.0
    elif not Path(source).exists():
        raise UserError(f'{source} does not exist')
    elif Path(source).suffix.lower() in _ANIMATIONS:
        seconds = [duration for _, duration in itertools.islice(_animation(source), max_frames)]
        images, length = (image for image, _ in _animation(source)), len(seconds)
        fps = length / sum(seconds)
        if min(seconds) < max(seconds):
            times = [0.0, *itertools.accumulate(seconds)]
    else:
        reader = open_video(source)
        images, fps, times, length = iter(reader), reader.fps, reader.times, len(reader)
    number = min((n for n in (length, max_frames) if n is not None), default=None)
    return _numbered(name, source, itertools.islice(images, max_frames), times, number), fps, number


def _animation(path: str) -> Iterator[tuple[np.ndarray, float]]:
    """The pictures of an animation, (H, W, 3) uint8 RGB, with their durations in seconds."""
    from ..datasets.video_files import UnreadableVideo
    from ..hosts.mmcv import open_image

    try:
        with open_image(path) as image:
            for picture in ImageSequence.Iterator(image):
                pixels = np.asarray(picture.convert('RGB'))
                duration = picture.info.get('duration', 0)  # ms; WebP's is known once decoded
                yield pixels, (duration if duration > 10 else 100) / 1000  # as in browsers
    except (OSError, ValueError, SyntaxError) as error:  # of Pillow, for damaged files
        raise UnreadableVideo(f'cannot read the animation {path}: {error}') from error


def _numbered(
    name: str,
    source: str,
    images: Iterable[np.ndarray],
    times: Sequence[float] | None,
    wanted: int | None,
) -> Iterator[Item]:
    """Frames as items with numbers and times; warns if there are fewer than `wanted`."""
    number = -1
    for number, image in enumerate(images):
        path = f'{source}, frame {number}'
        time = times[number] if times else None
        yield Item(f'{name}/{number:06d}', path, np.ascontiguousarray(image), time=time)
    if number < 0:
        raise UserError(f'{source} has no frames')
    if not isinstance(source, Camera) and wanted and number + 1 < wanted:
        warn(
            f'{source} is damaged: {wanted - number - 1} of its {wanted} frames cannot be decoded, '
            'and those after them have too low numbers and times'
        )


def _camera(number: int) -> Iterator[np.ndarray]:
    """The frames of a camera (H, W, 3), uint8 RGB, until it ends."""
    import cv2

    with silent_opencv():  # else every driver without this camera prints an error
        camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise UserError(f'there is no camera {number}; the first is 0')
    while True:
        known, frame = camera.read()
        if not known:
            return
        yield frame[:, :, ::-1]
