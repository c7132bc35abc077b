"""Images of any number of bits and channels: decoding, display, and the transform `LoadImage`."""

import io
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio

from ..errors import UserError
from ..files import StrPath
from ..hosts.mmcv import check_size, name_file, open_image, orientation
from ..log import warn
from ..registry import TRANSFORMS
from .image_headers import Header, decoding_loss, read_header


class DecodeError(Exception):
    """An image of an unsupported kind, which the message names. `name_file` adds the file."""


def decode(content: bytes, stored: bool = False) -> np.ndarray:
    """Decode an image of any kind; (H, W, C) with the numbers and channels of the file, RGB first.

    Pixmaps (PNM) with a largest number below 255 are scaled to 255.

    Args:
        content: of the file.
        stored: do not turn the image by its EXIF orientation, unless it is a TIFF.

    Raises:
        Exception: of any kind, if it cannot be decoded.
    """
    header = read_header(content)
    if header.form == 'NumPy array':
        return _channels_last(np.load(io.BytesIO(content), allow_pickle=False))
    plain = not header.wide and 'pages' not in header.layout
    if header.form == 'TIFF' and not (plain and (header.channels in (1, 3) or header.coded)):
        return _decode_tiff(content, header)
    if header.wide:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise DecodeError(f'OpenCV cannot decode it ({header})')
        image = image[..., None] if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
        if header.form == 'PNG' and b'eXIf' in content and not stored:
            with open_image(io.BytesIO(content)) as file:
                image = upright(image, orientation(file))
        return image[..., [0, 3]] if header.channels == 2 else image  # OpenCV makes RGBA of it
    with open_image(io.BytesIO(content)) as file:
        file.load()  # turns a TIFF, which has no orientation then
        colors = 'RGBA' if 'transparency' in file.info else 'RGB'
        kept = file.mode in ('L', 'LA', 'RGB', 'RGBA', 'RGBX')
        plain = file if kept else file.convert('L' if file.mode == '1' else colors)
        image = upright(np.array(plain), 1 if stored else orientation(file))
    return image[..., None] if image.ndim == 2 else image


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W, ...) as its EXIF orientation, 1 to 8, has it shown."""
    if orientation > 4:
        image = image.swapaxes(0, 1)
    down, right = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return image[::down, ::right]


def _decode_tiff(content: bytes, header: Header) -> np.ndarray:
    import tifffile

    if header.coded or 'turned' in header.layout:
        raise DecodeError(f'a TIFF with these numbers is neither turned nor converted ({header})')
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = [s for s in file.series if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
        if len(series) != 1:
            raise DecodeError(f'it holds {len(series)} images')
        if None in series[0].pages:  # OME-TIFF; tifffile would give zeros
            raise DecodeError('it is one of several files of an image; put their planes into one')
        return _channels_last(series[0].asarray(), series[0].axes)


def _channels_last(array: np.ndarray, axes: str = '') -> np.ndarray:
    """An array of pixels as (H, W, C); see `LoadImage` for where its channels lie."""
    if array.ndim == 4 and len(array) == 1:
        array, axes = array[0], axes[1:]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in 'buif' or not array.size:
        raise DecodeError(f'it holds {array.dtype} of shape {array.shape}, not (H, W, C) numbers')
    known = [axes.find(name) for name in 'SC' if name in axes]
    first, last = array.shape[0], array.shape[2]
    if not known and first == last > 1:
        raise DecodeError(f'of its shape {array.shape} both ends may be the channels')
    return np.moveaxis(array, known[0] if known else (0 if first < last else 2), 2)


def picture(content: bytes, stored: bool = False) -> np.ndarray | None:
    """A displayable image, (H, W, 3) uint8 RGB, if mmcv's would be wrong; else ``None``.

    It has the first three channels, or one, with the smallest number black and the largest white.
    """
    if not decoding_loss(content, 'color', 'cv2'):
        return None
    image = decode(content, stored)
    image = np.nan_to_num(image[..., : 3 if image.shape[2] > 2 else 1].astype(np.float32))
    image = (image - image.min()) * (255 / max(float(np.ptp(image)), 1e-9))
    return np.repeat(image.astype(np.uint8), 3 // image.shape[2], axis=2)


def read_picture(path: StrPath, stored: bool = False) -> np.ndarray:
    """An image to draw on, (H, W, 3) uint8 RGB.

    Args:
        path: a file, or an address of mmengine's file backends.
        stored: do not rotate the image by its EXIF orientation; see `hosts.loads_as_stored`.

    Raises:
        UserError: if it cannot be read.
    """
    with name_file(str(path)):
        content = fileio.get(path)
        image = picture(content, stored)
        if image is None:
            # mmcv reverses the channels of the flag 'color' alone
            flag = 'color_ignore_orientation' if stored else 'color'
            image = mmcv.imfrombytes(content, flag)
            if image is None:  # as a TGA, which Pillow reads for the model
                image = mmcv.imfrombytes(content, flag, backend='pillow')
            image = image[..., ::-1]
    return image


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """Loads images of any number of bits and channels and brings them to the range 0 to 255.

    It replaces mmcv's ``LoadImageFromFile`` and reads PNG, TIFF (by tifffile if it is more than an
    8-bit image), JPEG, JPEG 2000, PNM, ``.npy`` (without pickle) and all else that Pillow reads.
    Palettes and CMYK become RGB, transparency is a channel, and EXIF orientation is applied.

    Adds ``img``, (H, W, C): **three channels are B, G, R**, as mmcv's are; any other number of
    channels has the order of the file. In a TIFF or ``.npy`` file whose axes have no names the
    channels are the shorter of the first and the last axis.

    Args:
        scale: the numbers that become 0 and 255; numbers beyond them are clipped. ``None``: the
            whole range of the integer type, so that 65535 of 16 bits becomes 255; floating point
            numbers and integers of 32 bits and more need a `scale`.
        channels: number of channels; gray images are repeated, others refused. ``None``: as in the
            file.
        to_float32: keep fractions in float32; else ``img`` is rounded to uint8.
        backend_args: of mmengine's file backends.

    Raises:
        UserError: naming the file, if it cannot be read, has NaN, or other channels.
    """

    def __init__(
        self,
        scale: Sequence[float] | None = None,
        channels: int | None = None,
        to_float32: bool = False,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(to_float32=to_float32, backend_args=backend_args)
        pair = isinstance(scale, (list, tuple)) and len(scale) == 2
        pair = pair and all(isinstance(n, (int, float, np.number)) for n in scale or ())
        if scale is not None and not (pair and -np.inf < scale[0] < scale[1] < np.inf):
            raise UserError(f'LoadImage: scale must be (low, high), low < high, got {scale!r}')
        if channels is not None and not (isinstance(channels, int) and channels > 0):
            raise UserError(f'LoadImage: channels must be 1 or more, got {channels!r}')
        self.scale, self.channels = scale, channels
        self._warned = False

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape`` and ``ori_shape``."""
        path = results['img_path']
        with name_file(path):
            image = decode(fileio.get(path, backend_args=self.backend_args))
        image = self._scaled(image, path)
        if self.channels and image.shape[2] == 1:
            image = np.repeat(image, self.channels, axis=2)
        if self.channels not in (None, image.shape[2]):
            raise UserError(
                f'{path} has {image.shape[2]} channels, and LoadImage wants {self.channels}; take '
                'it out of the data, or set channels, in_channels of the backbone and a mean and a '
                'std for each'
            )
        if image.shape[2] == 3:
            image = image[..., ::-1]
        check_size(results, image.shape)
        results['img'] = np.ascontiguousarray(image)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _scaled(self, image: np.ndarray, path: str) -> np.ndarray:
        if image.dtype == bool:
            image = image * np.uint8(255)
        floats = image.dtype.kind == 'f'
        if floats and (count := int(np.isnan(image).sum())):
            raise UserError(
                f'{path} has {count} NaN among {image.size} numbers; give these a value'
            )
        if self.scale is None and (floats or image.dtype.itemsize > 2):
            raise UserError(
                f'{path} holds {image.dtype} from {image.min():g} to {image.max():g}; set '
                'scale=(low, high) of LoadImage to the numbers that are to become 0 and 255'
            )
        if image.dtype == np.uint8 and self.scale and self.scale[1] > 2 * 255 and not self._warned:
            self._warned = True
            warn(
                f'{path} has numbers of 8 bits, from {image.min()} to {image.max()}, and '
                f'scale={self.scale} of LoadImage is for more: little contrast is left of it; '
                'load such files without scale'
            )
        if image.dtype != np.uint8 or self.scale is not None:
            low, high = self.scale or (np.iinfo(image.dtype).min, np.iinfo(image.dtype).max)
            image = image.astype(np.float64 if image.dtype.itemsize > 2 else np.float32)
            image = (image - low) * (255 / (high - low))
        image = image.clip(0, 255)
        return image.astype(np.float32) if self.to_float32 else np.rint(image).astype(np.uint8)
