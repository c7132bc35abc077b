"""Prepare images for drawing: enlarge small images for readable labels, write text on frames."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..log import warn

LEAST_WIDTH = 640
_MOST = 10  # largest factor by which an image is enlarged
LARGEST_JPEG = 65500  # pixels of a side


def picture_of(cfg: Any, path: str) -> np.ndarray:
    """Read an image (H, W, 3), uint8 RGB, rotated by EXIF if the config's test pipeline does so."""
    from .. import hosts
    from ..datasets.images import read_picture

    return read_picture(path, hosts.loads_as_stored(hosts.testing_pipeline(cfg)))


def enlarge(image: np.ndarray, result: Any) -> tuple[np.ndarray, Any]:
    """Enlarge a narrow image (H, W, 3) and a copy of its data sample, for readable labels."""
    times = min(-(-LEAST_WIDTH // image.shape[1]), _MOST, LARGEST_JPEG // max(image.shape[:2]))
    if times <= 1:
        return image, result
    large = result.clone()
    if (found := getattr(large, 'pred_instances', None)) is not None:
        large.pred_instances = found = found.clone()  # `result` must stay unchanged
        found.bboxes = found.bboxes * times
        if 'masks' in found:
            found.masks = _repeat(torch.as_tensor(np.asarray(found.masks)), times)
    for key in ('pred_sem_seg', 'pred_panoptic_seg'):
        if (maps := getattr(large, key, None)) is not None:
            repeated = {name: _repeat(values, times) for name, values in maps.items()}
            large.set_data({key: type(maps)(metainfo=maps.metainfo, **repeated)})
    import cv2

    size = (image.shape[1] * times, image.shape[0] * times)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), large


def _repeat(maps: torch.Tensor, times: int) -> torch.Tensor:
    return maps.repeat_interleave(times, -1).repeat_interleave(times, -2)


def font_of(text: str) -> str:
    """Path of the font to write a text in: DejaVu Sans, or an installed one that has more of it."""
    return _font_with(frozenset(ord(letter) for letter in text if letter.isprintable()))


@lru_cache(maxsize=16)  # computers may have a thousand fonts, and films have few texts
def _font_with(letters: frozenset[int]) -> str:
    from matplotlib import font_manager, ft2font

    def lacking(path: str) -> str:
        found: Collection[int] = ()
        with suppress(OSError, RuntimeError):  # matplotlib remembers fonts, gone or damaged by now
            found = ft2font.FT2Font(path).get_charmap()
        return ''.join(map(chr, sorted(letters.difference(found))))

    font = font_manager.findfont('DejaVu Sans')
    if lacking(font):
        # matplotlib 3.11 brings "Last Resort", which has a symbol for each script, and no letters
        entries = font_manager.fontManager.ttflist
        installed = sorted(e.fname for e in entries if not e.name.startswith('Last Resort'))
        font = min([font, *installed], key=lambda path: len(lacking(path)))
        if lack := lacking(font):
            warn(
                f'no font here has {lack[:5]!r}, which are drawn as boxes; install one, such as '
                'the package fonts-noto-cjk for Chinese, Japanese and Korean'
            )
    return font


def caption(frames: Iterable[np.ndarray], lines: Sequence[str]) -> Iterator[np.ndarray]:
    """Write lines of text into the top left corner of frames (H, W, 3), uint8."""
    path = font_of(''.join(lines))
    words: Image.Image | None = None
    for frame in frames:
        picture = Image.fromarray(frame)
        if words is None or words.size != picture.size:  # a transparent picture of the text
            words, height = Image.new('RGBA', picture.size), max(10, round(min(picture.size) / 22))
            ImageDraw.Draw(words).multiline_text(
                (height // 2, height // 2),
                '\n'.join(lines),
                fill='white',
                font=ImageFont.truetype(path, height),
                stroke_width=max(1, height // 12),
                stroke_fill='black',
            )
        picture.paste(words, mask=words)
        yield np.asarray(picture)
