"""What the header of an image says, and what mmcv's loader would lose of such an image."""

import io
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..hosts.mmcv import open_image

_PHOTOMETRIC = {0: 'white is 0', 1: '', 2: 'RGB', 3: 'palette', 5: 'CMYK', 6: 'YCbCr', 8: 'Lab'}
_KINDS = {1: 'unsigned', 2: 'signed', 3: 'float'}


class Header(NamedTuple):
    """Properties of an image before it is decoded; the defaults are those of a JPEG."""

    form: str = ''
    bits: int = 8  # per number
    kind: str = 'unsigned'
    channels: int = 3
    color: str = ''  # of `_PHOTOMETRIC`
    layout: str = ''  # contains any of 'planes', 'turned', 'pages', 'scaled'

    @property
    def wide(self) -> bool:
        """Whether numbers are not those of 8-bit images."""
        return self.bits > 8 or self.kind != 'unsigned'

    @property
    def coded(self) -> bool:
        """Whether numbers have to be converted to get gray, RGB or other channels."""
        return self.color not in ('', 'RGB') or self.bits == 1

    def __str__(self) -> str:
        what = ' '.join(part for part in (self.kind, self.color, self.layout) if part)
        numbers = f' of {self.channels} x {self.bits} bits ({what})'
        return self.form + numbers if self.channels else self.form


def _png(content: bytes) -> Header:
    channels, color = {0: 1, 4: 2, 6: 4}.get(content[25], 3), 'palette' * (content[25] == 3)
    return Header('PNG', content[24], channels=channels, color=color)


def _tiff(content: bytes) -> Header:
    file = io.BytesIO(content)
    tags = ImageFileDirectory_v2(content[: 16 if b'+' in content[2:4] else 8])
    file.seek(tags.next)
    tags.load(file)
    bits, kind, channels, color, planes, turned = (
        int(np.max(tags.get(tag, 1))) for tag in (258, 339, 277, 262, 284, 274)
    )
    layout = ' planes' * (planes > 1 and channels > 1) + ' turned' * (turned > 1)
    seen: set[int] = set()
    while tags.next and tags.next not in seen:
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        if not int(np.max(tags.get(254, 0))) & 0b101:  # neither a smaller copy nor a mask
            layout += ' pages'
            break
    kinds, colors = _KINDS.get(kind, 'complex'), _PHOTOMETRIC.get(color, 'other colors')
    return Header('TIFF', bits, kinds, channels, colors, layout.strip())


def _pnm(content: bytes) -> Header:
    words = re.sub(rb'#[^\n\r]*', b'', content[:4096]).split(maxsplit=4)
    largest, channels = int(words[3]), 3 if words[0] in (b'P3', b'P6') else 1
    layout = 'scaled' if largest not in (255, 65535) else ''
    return Header('PNM', 8 if largest < 256 else 16, channels=channels, layout=layout)


def _jpeg_2000(content: bytes) -> Header:
    at = content.index(b'\xff\x4f\xff\x51') + 40  # offset of the number of components
    channels, depth = int.from_bytes(content[at : at + 2], 'big'), content[at + 2]
    return Header('JPEG2000', (depth & 127) + 1, _KINDS[1 + (depth >> 7)], channels)


def _other(content: bytes) -> Header:
    with open_image(io.BytesIO(content)) as image:
        known = {'I': (32, 'signed'), 'F': (32, 'float'), '1': (1, 'unsigned')}
        bits, kind = known.get(image.mode, (16 if image.mode[:2] == 'I;' else 8, 'unsigned'))
        color = image.mode if image.mode in ('P', 'CMYK') else ''
        return Header(image.format or '', bits, kind, len(image.getbands()), color)


def read_header(content: bytes) -> Header:
    """Read the header of an image; a damaged one gives the defaults, and its decoder reports it."""
    try:
        if content.startswith(b'\x89PNG'):
            return _png(content)
        if content.startswith((b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')):
            return _tiff(content)
        if content.startswith((b'P2', b'P3', b'P5', b'P6')):
            return _pnm(content)
        if content.startswith((b'\0\0\0\x0cjP  ', b'\xff\x4f\xff\x51')):
            return _jpeg_2000(content)
        if content.startswith(b'\x93NUMPY'):
            return Header('NumPy array', channels=0)
        if content.startswith((b'PF', b'#?R', b'v/1\x01')):
            return Header('HDR image', 32, 'float')
        return _other(content)
    except Exception:  # of any kind
        return Header()


_BOTH, _PILLOW, _CV2, _TIFFFILE = ('pillow', 'cv2'), ('pillow',), ('cv2',), ('tifffile',)
_SIGNS = ((8, 'signed'), (32, 'unsigned'))  # which Pillow reads with the other sign
# backends of mmcv's loader, whether color_type is 'unchanged' (None: either), the images that the
# loader changes, and what it does to them
_LOSSES: tuple[tuple[Sequence[str], bool | None, Callable[[Header], bool], str], ...] = (
    ((*_BOTH, *_TIFFFILE), None, lambda h: not h.channels, 'cannot read'),
    ((*_BOTH, *_TIFFFILE), None, lambda h: 'pages' in h.layout, 'takes for one image'),
    (_BOTH, False, lambda h: h.wide, 'cuts to 8 bits'),
    (
        _BOTH,
        None,
        lambda h: h.form == 'TIFF' and h.channels not in (1, 3, 4),
        'gives in part or not at all',
    ),
    (_CV2, False, lambda h: 'scaled' in h.layout and not h.wide, 'does not bring to 255'),
    (_CV2, None, lambda h: h.color == 'Lab', 'does not convert'),
    (
        _CV2,
        False,
        lambda h: h.form == 'TIFF' and h.channels == 4 and h.color != 'CMYK',
        'blends with the fourth channel',
    ),
    (_PILLOW, True, lambda h: h.coded, 'does not convert'),
    (_PILLOW, True, lambda h: h.wide and h.channels > 1, 'cuts to 8 bits'),
    (_PILLOW, True, lambda h: h.form == 'TIFF' and h.channels == 4, 'gives in part or blended'),
    (_PILLOW, True, lambda h: (h.bits, h.kind) in _SIGNS, 'gives with another sign'),
    (_TIFFFILE, None, lambda h: h.coded, 'does not convert'),
    (_TIFFFILE, None, lambda h: bool(h.layout), 'neither turns nor puts together'),
    (_TIFFFILE, False, lambda h: (h.channels, h.color) == (3, 'RGB'), 'gives in the order RGB'),
)


def decoding_loss(content: bytes, color_type: str, backend: str) -> str:
    """How mmcv's loader would change an image, as text for a message; empty if it does not."""
    header, raw = read_header(content), color_type == 'unchanged'
    for backends, applies, holds, does in _LOSSES:
        if backend in backends and applies in (None, raw) and holds(header):
            which = f'imdecode_backend={backend!r} with color_type={color_type!r}'
            return f'{header}, which {which} {does}'
    return ''
