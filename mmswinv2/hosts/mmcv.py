"""mmcv: reading and resizing of images, which every host builds on."""

import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch.distributed as dist
from PIL import UnidentifiedImageError

from ..errors import UserError
from .patching import patch, replace

_UNDECODED = "AttributeError: 'NoneType' object has no attribute 'squeeze'"  # of a label map
_OPENING = threading.Lock()
# part of an error message: advice for the user
_WAYS = {
    'ImportError': 'install that, or take it out of the config',
    'DecompressionBomb': "cut it into tiles, or, if you trust it, set imdecode_backend='cv2' of "
    'the step that loads it',
    'MAX_IMAGE_PIXELS': 'cut it into tiles, or set the environment variable of that name to more',
    "requires the 'imagecodecs' package": "pip install 'mmswinv2[images]'",
    "No module named 'tifffile'": "pip install 'mmswinv2[images]'",
    "'NoneType' object has no attribute 'decode'": 'install what imdecode_backend names',
    "'NoneType' object has no attribute 'imread'": 'install what imdecode_backend names',
    '': 'fetch it again, or take it out of the data',
}


@patch('mmcv', '>=2')
def name_unreadable_images() -> None:
    """Errors for images that cannot be read name the file.

    This includes images whose values mmcv would change. Calls of `imfrombytes` without a format,
    which are for drawing on the image, return a version of it that can be displayed. WebP and AVIF,
    whose EXIF orientation OpenCV ignores, are turned as JPEGs are.
    """
    import mmcv
    from mmcv.image import io as mmcv_io
    from mmcv.transforms import LoadImageFromFile

    from ..datasets.image_headers import decoding_loss
    from ..datasets.images import picture, upright

    read = threading.local()

    @replace(mmcv_io, 'imfrombytes')
    def turned(
        decode: Any, content: bytes, flag: Any = 'color', channel_order: str = 'bgr',
        backend: str | None = None,
    ) -> Any:  # fmt: skip
        if not len(content):  # an array has no truth
            raise OSError('the file is empty')
        used, form = backend or mmcv_io.imread_backend, bytes(content[:12])
        ignored = form[8:] == b'WEBP' or form[4:] in (b'ftypavif', b'ftypavis')
        if not ignored or used != 'cv2' or flag not in ('color', 'grayscale'):
            return decode(content, flag, channel_order, backend)
        image = decode(content, f'{flag}_ignore_orientation', backend=backend)
        if image is None:  # damaged: callers report it
            return None
        # Pillow before 11.3 knows no AVIF
        with suppress(UnidentifiedImageError), open_image(io.BytesIO(content)) as file:
            image = upright(image, orientation(file))
        reverse = flag == 'color' and channel_order == 'rgb'
        return np.ascontiguousarray(image[..., ::-1] if reverse else image)

    @replace(mmcv, 'imfrombytes')
    def imfrombytes(_: Any, content: bytes, *args: Any, **kwargs: Any) -> Any:
        read.content = content
        if args or kwargs.keys() - {'channel_order'} or (seen := picture(content)) is None:
            return mmcv_io.imfrombytes(content, *args, **kwargs)
        return seen if kwargs.get('channel_order') == 'rgb' else seen[..., ::-1]

    @replace(LoadImageFromFile, 'transform')
    def transform(load: Any, self: Any, results: dict) -> dict | None:
        path, read.content = results['img_path'], b''
        with name_file(path):
            try:
                loaded = load(self, results)
            finally:
                backend = self.imdecode_backend or mmcv.image.io.imread_backend
                if does := decoding_loss(read.content, self.color_type, backend):
                    raise UserError(
                        f"{path} is a {does}; write dict(type='mmswinv2.LoadImage', ...) in the "
                        'place of LoadImageFromFile, see docs/data.md'
                    )
            if loaded is not None:
                check_size(loaded, loaded['img'].shape)
            return loaded


@contextmanager
def name_file(path: str, what: str = 'image', decodes: bool = True) -> Iterator[None]:
    """Turn errors of reading and decoding a file into a `UserError` that names the file.

    Any error means a damaged file where it is decoded (`decodes`), else only those of reading.
    """
    try:
        yield
    except Exception as error:  # decoders raise errors of any kind
        if isinstance(error, UserError) or not (decodes or isinstance(error, OSError)):
            raise
        words = re.sub(r' <_io\.\w+ object at \w+>', '', str(error))  # Pillow's file object
        text = f'{type(error).__name__}: {" ".join(words.split())}'
        text = text.replace(_UNDECODED, 'OpenCV cannot decode it')
        way = next(way for part, way in _WAYS.items() if part in text)
        raise UserError(f'cannot read the {what} {path}: {text}; {way}') from error


def open_image(file: Any) -> Any:
    """Open an image with Pillow, without decoding it; as many pixels as OpenCV takes are allowed.

    Pillow's own limit is a sixth of that, and satellite images and scans are beyond it.

    Raises:
        Exception: of any kind, if it is no image, or has more pixels.
    """
    from PIL import Image

    with _OPENING:  # the limit is the same for all threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    given = os.environ.get(name := 'OPENCV_IO_MAX_IMAGE_PIXELS') or ''  # MB and KB may follow
    found = re.fullmatch(r'(\d+)\s*(?:([MK])B)?', given.strip(), re.IGNORECASE)
    unit = {'M': 2**20, 'K': 2**10}
    most = int(found[1]) * unit.get((found[2] or '').upper(), 1) if found else 2**30
    if image.width * image.height > most:
        image.close()
        raise OSError(f'{image.width}x{image.height} pixels are more than {name}={most}')
    return image


def orientation(image: Any) -> int:
    """EXIF orientation, 1 to 8, of a Pillow image; without XMP, which only Pillow reads.

    That of a TIFF is 1 once it is decoded, as Pillow turns it then.
    """
    from PIL import ExifTags, Image

    tags = image.getexif() if image.format == 'TIFF' else Image.Exif()
    if image.format == 'PNG' and 'exif' not in image.info:
        image.load()  # EXIF data may follow the pixels
    if image.format != 'TIFF':
        tags.load(image.info.get('exif') or b'')
    value = tags.get(ExifTags.Base.Orientation, 1)
    return value if type(value) is int and 1 <= value <= 8 else 1


def shown_size(image: Any) -> tuple[int, int]:
    """Width and height of a Pillow image once it is turned; Pillow gives those of a TIFF so."""
    width, height = image.size
    turns = image.format != 'TIFF' and orientation(image) > 4
    return (height, width) if turns else (width, height)


@patch('mmcv', '>=2')
def keep_a_pixel() -> None:
    """Strips keep a pixel of their shorter side when they are made smaller.

    mmcv rounds the size, to 0 for 700x2 scaled into 64x64, and OpenCV refuses a size of 0.
    """
    from mmcv.image import geometric
    from mmcv.transforms import processing  # noqa: F401, has one of them

    def visible(size: Any) -> Any:
        return tuple(max(1, n) for n in size) if isinstance(size, tuple) else size

    changes: dict[str, Callable[..., Any]] = {
        '_scale_size': lambda scaled, *args: visible(scaled(*args)),
        'rescale_size': lambda f, old, scale, *args, **kw: f(old, visible(scale), *args, **kw),
        'imresize': lambda f, img, size, *args, **kw: f(img, visible(size), *args, **kw),
    }
    for name, change in changes.items():
        original = getattr(geometric, name)
        for module in list(sys.modules.values()):  # wherever it has been imported by name
            if getattr(module, '__dict__', {}).get(name) is original:
                replace(module, name)(change)


@patch('mmcv', '>=2', lambda: find_spec('mmcv._ext') is not None)  # mmcv-lite has no operators
def build_sync_norms_alone() -> None:
    """MMSyncBN layers can be built in a single process, for which they are made BatchNorm then.

    mmcv asks torch for the group of all processes, which is not there.
    """
    from mmcv.ops import SyncBatchNorm

    @replace(SyncBatchNorm, '__init__')
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        if dist.is_initialized():
            return original(self, *args, **kwargs)
        # a group whose size torch gives without asking for others
        original(self, *args, **kwargs | dict(group=dist.GroupMember.NON_GROUP_MEMBER))
        self.group, self.group_size = None, 1


def check_size(sample: dict, shape: Sequence[int], prefix: str = '') -> None:
    """Raise `UserError` if an image is not of the ``height`` and ``width`` of its annotations.

    `shape` is (H, W, ...) of the image as it is loaded, `prefix` begins the message.
    """
    height, width = sample.get('height'), sample.get('width')
    # 0 of Pascal VOC: the labelling tool did not know
    if not (height and width) or (height, width) == tuple(shape[:2]):
        return
    swapped = (
        '. The two are swapped: in the file, or the photo is turned by its EXIF orientation and '
        'was annotated as it is stored; annotate it as it is shown, or load it with color_type='
        "'color_ignore_orientation'"
    )
    raise UserError(
        f'{prefix}the image {sample["img_path"]} has {shape[1]}x{shape[0]} pixels, and its '
        f'annotations are for {width}x{height}'
        + (swapped if (width, height) == tuple(shape[:2]) else '; annotate the images you load')
    )
