"""Images of all formats: read without change, or refused with their name and a remedy."""

import functools
import io
import struct
import warnings
import zlib
from contextlib import nullcontext

import cv2
import mmcv
import numpy as np
import pytest
import tifffile
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import ExifTags, Image

from mmswinv2.datasets import LoadImage
from mmswinv2.datasets.image_headers import decoding_loss, read_header
from mmswinv2.datasets.images import read_picture
from mmswinv2.datasets.to_coco import image_size
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmcv import keep_a_pixel, name_unreadable_images, open_image, orientation

HEIGHT, WIDTH = 6, 8
GRAY = (np.arange(HEIGHT * WIDTH, dtype=np.uint8) * 5).reshape(HEIGHT, WIDTH)
RGB = np.stack([GRAY, 255 - GRAY, GRAY // 2], -1)
FIVE = np.dstack([RGB, GRAY, 200 - GRAY])
FLOAT = (GRAY / 255).astype(np.float32)


@pytest.fixture(autouse=True)
def patches():
    name_unreadable_images.apply()
    keep_a_pixel.apply()


def wide(image):
    """The same image with 16 bits."""
    return image.astype(np.uint16) * 257


def pillow(image, **kwargs):
    def write(path):
        given = image() if callable(image) else Image.fromarray(image)
        given.save(path, **kwargs)

    return write


def opencv(image):
    return lambda path: cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def tiff(image, **kwargs):
    return lambda path: tifffile.imwrite(path, image, **{'photometric': 'minisblack', **kwargs})


def raw(content):
    return lambda path: path.write_bytes(content)


def numpy_file(image, **kwargs):
    return lambda path: np.save(path, image, **kwargs)


def png(width, height, bits=8, color=0, rows=b''):
    """A PNG with a size in its header; without `rows` it has no pixels."""

    def chunk(name, data):
        return (
            struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        )

    size = struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0)
    parts = (b'IHDR', size), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def of(mode):
    return lambda: Image.fromarray(RGB).convert(mode)


def exif():
    tags = Image.Exif()
    tags[0x0112] = 6  # to be rotated by 90 degrees clockwise
    return tags


def two_sizes(path):
    with tifffile.TiffWriter(path) as file:
        file.write(GRAY, metadata=None)
        file.write(GRAY[:3], metadata=None)


def pyramid(path):
    with tifffile.TiffWriter(path) as file:
        file.write(RGB, photometric='rgb', metadata=None, subifds=0)
        file.write(RGB[::2, ::2], photometric='rgb', metadata=None, subfiletype=1)


def animation(path):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    first.save(path, save_all=True, append_images=[second])


CONTIG = dict(planarconfig='contig')
TURNED = np.rot90(RGB, -1)
GRAY_RGB = np.dstack([GRAY] * 3)
# 16 bits of gray and alpha, which Pillow cannot write; each row begins with its filter type
GRAY_ALPHA = b''.join(b'\0' + row.astype('>u2').tobytes() for row in wide(FIVE[..., [0, 1]]))
WIDE_PGM = b'P5\n8 6\n65535\n' + wide(GRAY).astype('>u2').tobytes()
ONE_BIT = np.where(GRAY > 100, 255, 0).astype(np.uint8)
BOTH = ('pillow', 'cv2')

# Images that mmcv loads unchanged: file, writer, backends, color_type, image in RGB, tolerance
READ = [
    ('gray.png', pillow(GRAY), BOTH, 'color', GRAY_RGB, 0),
    ('gray4bit.png', pillow(GRAY // 17 * 17, bits=4), BOTH, 'color', GRAY_RGB // 17 * 17, 0),
    ('rgb.png', pillow(RGB), BOTH, 'color', RGB, 0),
    ('alpha.png', pillow(np.dstack([RGB, GRAY])), BOTH, 'color', RGB, 0),
    ('palette.png', pillow(lambda: Image.fromarray(RGB).quantize(64)), BOTH, 'color', RGB, 0),
    ('one.png', pillow(GRAY > 100), BOTH, 'color', np.dstack([ONE_BIT] * 3), 0),
    ('one.tif', pillow(GRAY > 100), BOTH, 'color', np.dstack([ONE_BIT] * 3), 0),
    ('rgb.jpg', pillow(RGB, quality=100, subsampling=0), BOTH, 'color', RGB, 3),
    ('cmyk.jpg', pillow(of('CMYK'), quality=100), BOTH, 'color', RGB, 3),
    ('cmyk.tif', pillow(of('CMYK')), BOTH, 'color', RGB, 1),
    ('turned.jpg', pillow(RGB, quality=100, subsampling=0, exif=exif()), BOTH, 'color', TURNED, 3),
    ('turned.tif', pillow(RGB, tiffinfo={274: 6}), BOTH, 'color', TURNED, 0),
    ('rgb.tif', pillow(RGB, compression='tiff_lzw'), BOTH, 'color', RGB, 0),
    ('big.tif', tiff(RGB, photometric='rgb', bigtiff=True), BOTH, 'color', RGB, 0),
    ('planes.tif', tiff(RGB.transpose(2, 0, 1), photometric='rgb'), BOTH, 'color', RGB, 0),
    ('pyramid.tif', pyramid, BOTH, 'color', RGB, 0),
    ('inverted.tif', tiff(GRAY, photometric='miniswhite'), BOTH, 'color', 255 - GRAY_RGB, 0),
    ('palette.tif', pillow(lambda: Image.fromarray(RGB).quantize(64)), BOTH, 'color', RGB, 0),
    ('animated.gif', animation, BOTH, 'color', RGB, 0),
    ('rgb.webp', pillow(RGB, lossless=True), BOTH, 'color', RGB, 0),
    ('rgb.bmp', pillow(RGB), BOTH, 'color', RGB, 0),
    ('gray16.png', opencv(wide(GRAY)), BOTH, 'unchanged', wide(GRAY), 0),
    ('rgb16.png', opencv(wide(RGB)), ('cv2',), 'unchanged', wide(RGB), 0),
    ('five.tif', tiff(wide(FIVE), **CONTIG), ('tifffile',), 'color', wide(FIVE), 0),
    ('float.tif', tiff(FLOAT), ('pillow', 'cv2', 'tifffile'), 'unchanged', FLOAT, 0),
]  # fmt: skip
# Images that mmcv would silently change: file, writer, backends, color_type, words of the error
REFUSED = [
    ('g.png', opencv(wide(GRAY)), BOTH, 'color', 'PNG of 1 x 16 bits (unsigned)'),
    ('g.png', opencv(wide(GRAY)), BOTH, 'grayscale', 'cuts to 8 bits'),
    ('rgb.png', opencv(wide(RGB)), BOTH, 'color', 'PNG of 3 x 16 bits'),
    ('rgb.png', opencv(wide(RGB)), ('pillow',), 'unchanged', 'cuts to 8 bits'),
    ('g.tif', tiff(wide(GRAY)), BOTH, 'color', 'TIFF of 1 x 16 bits (unsigned)'),
    ('big.tif', tiff(wide(GRAY), byteorder='>'), BOTH, 'color', 'TIFF of 1 x 16 bits'),
    ('I.tif', pillow(GRAY.astype(np.int32)), BOTH, 'color', 'TIFF of 1 x 32 bits (signed)'),
    ('u32.tif', tiff(GRAY.astype(np.uint32)), ('pillow',), 'unchanged', 'with another sign'),
    ('i16.tif', tiff(GRAY.astype(np.int16) - 99), BOTH, 'color', '16 bits (signed)'),
    ('i8.tif', tiff((GRAY // 2).astype(np.int8)), BOTH, 'color', '8 bits (signed)'),
    ('f.tif', pillow(FLOAT), BOTH, 'color', 'TIFF of 1 x 32 bits (float)'),
    ('f16.tif', tiff(FLOAT.astype(np.float16)), BOTH, 'color', '16 bits (float)'),
    ('f64.tif', tiff(FLOAT.astype(np.float64)), BOTH, 'color', '64 bits (float)'),
    ('pgm.pgm', raw(WIDE_PGM), BOTH, 'color', 'cuts to 8 bits'),
    ('jp2.jp2', pillow(wide(GRAY)), BOTH, 'color', 'JPEG2000 of 1 x 16 bits'),
    ('hdr.hdr', opencv(np.dstack([FLOAT] * 3)), ('cv2',), 'color', '32 bits (float)'),
    ('two.tif', tiff(FIVE[..., :2], **CONTIG), BOTH, 'color', 'TIFF of 2 x 8 bits'),
    ('five.tif', tiff(FIVE, **CONTIG), BOTH, 'unchanged', 'in part or not at all'),
    ('four.tif', tiff(FIVE[..., :4], photometric='rgb'), ('cv2',), 'color', 'blends'),
    ('infrared.tif', tiff(FIVE[..., :4], photometric='rgb', extrasamples=[0]), ('pillow',),
     'unchanged', 'in part'),
    ('stack.tif', tiff(np.stack([GRAY] * 4)), (*BOTH, 'tifffile'), 'color', 'pages'),
    ('array.npy', numpy_file(GRAY), (*BOTH, 'tifffile'), 'color', 'NumPy array'),
    ('p.png', pillow(of('P')), ('pillow',), 'unchanged', 'does not convert'),
    ('p.gif', pillow(of('P')), ('pillow',), 'unchanged', 'does not convert'),
    ('cmyk.jpg', pillow(of('CMYK')), ('pillow',), 'unchanged', 'does not convert'),
    ('one.png', pillow(GRAY > 100), ('pillow',), 'unchanged', 'does not convert'),
    ('p.tif', pillow(of('P')), ('tifffile',), 'unchanged', 'palette'),
    ('rgb.tif', pillow(RGB), ('tifffile',), 'color', 'in the order RGB'),
    ('planes.tif', tiff(np.moveaxis(RGB, 2, 0), photometric='rgb'), ('tifffile',), 'unchanged',
     'planes'),
    ('turned.tif', pillow(RGB, tiffinfo={274: 6}), ('tifffile',), 'unchanged', 'turned'),
]  # fmt: skip
# Files that no decoder reads
BROKEN = [
    ('none.png', raw(b''), BOTH, 'color', 'the file is empty; fetch it again'),
    ('half.png', raw(b'\x89PNG\r\n\x1a\n'), BOTH, 'color', 'fetch it again'),
    ('half.tif', raw(b'II*\0\x08'), (*BOTH, 'tifffile'), 'color', 'fetch it again'),
    ('text.jpg', raw(b'<html>404</html>'), BOTH, 'color', 'fetch it again'),
    ('bomb.png', raw(png(14000, 13000)), ('pillow',), 'color', 'cut it into tiles'),
    ('bomb.png', raw(png(50000, 50000)), BOTH, 'color', 'cut it into tiles'),
    ('rgb.png', pillow(RGB), ('tifffile',), 'color', 'not a TIFF file'),
    ('rgb.jpg', pillow(RGB), ('turbojpeg',), 'color', 'install what imdecode_backend names'),
]  # fmt: skip


def cases(table):
    return pytest.mark.parametrize(
        'case',
        [(*case[:2], backend, *case[3:]) for case in table for backend in case[2]],
        ids=lambda case: f'{case[0]}-{case[2]}-{case[3]}',
    )


def load(path, backend, color_type, **kwargs):
    loader = LoadImageFromFile(imdecode_backend=backend, color_type=color_type, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow warns about truncated tags
        return loader({'img_path': str(path)})


@cases(READ)
def test_what_mmcv_gives_as_it_is(case, tmp_path):
    name, write, backend, color_type, expected, tolerance = case
    write(tmp_path / name)
    image = load(tmp_path / name, backend, color_type)['img']
    if backend != 'tifffile' and image.ndim == 3:
        image = image[..., ::-1]
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected).max() <= tolerance


@cases(REFUSED)
@pytest.mark.parametrize('ignore_empty', [False, True])
def test_what_mmcv_would_change_is_refused(case, ignore_empty, tmp_path):
    """Also with ignore_empty, which skips unreadable images and would skip all of them."""
    name, write, backend, color_type, words = case
    write(tmp_path / name)
    text = refusal(tmp_path / name, backend, color_type, ignore_empty=ignore_empty)
    assert f'{tmp_path / name} is a ' in text and words in text
    assert f"imdecode_backend='{backend}' with color_type='{color_type}'" in text
    assert "write dict(type='mmswinv2.LoadImage', ...)" in text


@cases(BROKEN)
def test_what_cannot_be_read_is_named(case, tmp_path):
    name, write, backend, color_type, words = case
    write(tmp_path / name)
    text = refusal(tmp_path / name, backend, color_type)
    assert f'cannot read the image {tmp_path / name}: ' in text and words in text


def test_sizes_that_labelling_tools_did_not_know(tmp_path):
    opencv(RGB)(tmp_path / 'a.png')
    sample = dict(img_path=str(tmp_path / 'a.png'), height=0, width=0)
    assert LoadImageFromFile()(dict(sample))['img'].shape == RGB.shape
    with pytest.raises(UserError, match='has 8x6 pixels, and its annotations are for 9x9'):
        LoadImageFromFile()(dict(sample, height=9, width=9))


def test_what_cannot_be_read_is_left_out_on_demand(tmp_path):
    (tmp_path / 'half.png').write_bytes(b'')
    assert load(tmp_path / 'half.png', 'pillow', 'color', ignore_empty=True) is None


def refusal(path, *args, **kwargs):
    with pytest.raises(UserError) as error:
        load(path, *args, **kwargs)
    return str(error.value)


def test_a_missing_file_is_named(tmp_path):
    for loader in (LoadImageFromFile(), LoadImage()):
        with pytest.raises(UserError, match=r'cannot read the image .*none\.png.*take it out'):
            loader({'img_path': str(tmp_path / 'none.png')})


@pytest.mark.parametrize(('scale', 'told'), [((0, 4095), 1), ((0, 510), 0), (None, 0)])
def test_images_of_8_bits_beside_a_scale_of_more(scale, told, tmp_path, warned):
    """Such as those of another camera in one folder; told once, and not of wider images."""
    opencv(wide(GRAY))(tmp_path / 'wide.png')
    pillow(GRAY)(tmp_path / 'gray.png')
    loader = LoadImage(scale=scale)
    loader({'img_path': str(tmp_path / 'wide.png')})
    assert warned == []
    for _ in range(2):
        loader({'img_path': str(tmp_path / 'gray.png')})
    assert len([text for text in warned if f'{tmp_path}/gray.png has numbers of 8' in text]) == told
    assert len(warned) == told


def test_images_of_other_file_backends(address, tmp_path):
    pillow(RGB)(tmp_path / 'rgb.png')
    opencv(wide(GRAY))(tmp_path / 'wide.png')
    backend = dict(backend_args=dict(backend='http'))
    image = load(f'{address}/rgb.png', 'pillow', 'color', **backend)['img']
    assert np.array_equal(image[..., ::-1], RGB)
    assert f'{address}/wide.png is a PNG of 1 x 16' in refusal(
        f'{address}/wide.png', 'pillow', 'color', **backend
    )
    image = LoadImage(**backend)({'img_path': f'{address}/wide.png'})['img']
    assert np.array_equal(image[..., 0], GRAY)


RANGE = dict(scale=(0, 1))
STEPS = wide(GRAY) + 100  # values between those of 8 bits
# file, writer, arguments of LoadImage, expected image with the file's channels
LOADED = [
    ('gray.png', pillow(GRAY), {}, GRAY[..., None]),
    ('gray3.png', pillow(GRAY), dict(channels=3), GRAY_RGB),
    ('rgb.png', pillow(RGB), dict(channels=3), RGB),
    ('rgba.png', pillow(FIVE[..., :4]), dict(channels=4), FIVE[..., :4]),
    ('la.png', pillow(FIVE[..., :2]), {}, FIVE[..., :2]),
    ('la16.png', raw(png(WIDTH, HEIGHT, 16, 4, GRAY_ALPHA)), {}, FIVE[..., :2]),
    ('palette.png', pillow(lambda: Image.fromarray(RGB).quantize(64)), {}, RGB),
    ('one.png', pillow(GRAY > 100), {}, ONE_BIT[..., None]),
    ('cmyk.tif', pillow(of('CMYK')), {}, RGB),
    ('turned.png', pillow(RGB, exif=exif()), {}, TURNED),
    ('g16.png', opencv(wide(GRAY)), {}, GRAY[..., None]),
    ('rgb16.png', opencv(wide(RGB)), {}, RGB),
    ('rgba16.png', opencv(wide(RGB)), dict(to_float32=True), RGB.astype(np.float32)),
    ('12bit.png', opencv(GRAY.astype(np.uint16) * 16), dict(scale=(0, 255 * 16)), GRAY[..., None]),
    ('clip.png', opencv(wide(GRAY)), dict(scale=(257 * 50, 257 * 101)),
     (GRAY.clip(50, 101)[..., None] - 50.0) * 5),
    ('steps.png', opencv(STEPS), dict(to_float32=True), STEPS[..., None] / np.float32(257)),
    ('scaled8.png', pillow(GRAY), dict(scale=(0, 510)), np.rint(GRAY[..., None] / 2)),
    ('i16.tif', tiff(wide(GRAY).astype(np.int32).__sub__(32768).astype(np.int16)), {},
     GRAY[..., None]),
    ('i32.tif', tiff(GRAY.astype(np.int32) * 1000 - 7), dict(scale=(-7, 254993)), GRAY[..., None]),
    ('float.tif', tiff(FLOAT), RANGE, GRAY[..., None]),
    ('double.tif', tiff(FLOAT.astype(np.float64)), RANGE, GRAY[..., None]),
    ('half.tif', tiff(np.float16(FLOAT > 0.5)), RANGE, (FLOAT > 0.5)[..., None] * 255),
    ('infinite.tif', tiff(np.where(GRAY > 100, np.inf, -np.inf).astype(np.float32)), RANGE,
     ONE_BIT[..., None]),
    ('big.tif', tiff(wide(GRAY), byteorder='>'), {}, GRAY[..., None]),
    ('two.tif', tiff(FIVE[..., :2], **CONTIG), {}, FIVE[..., :2]),
    ('five.tif', tiff(wide(FIVE), **CONTIG), dict(channels=5), FIVE),
    ('planes.tif', tiff(np.moveaxis(wide(FIVE), 2, 0), planarconfig='separate'), {}, FIVE),
    ('four.tif', tiff(FIVE[..., :4], photometric='rgb'), {}, FIVE[..., :4]),
    ('infrared.tif', tiff(FIVE[..., :4], photometric='rgb', extrasamples=[0]), {}, FIVE[..., :4]),
    ('blended.tif', tiff(FIVE[..., :4], photometric='rgb', extrasamples=[1]), {}, FIVE[..., :4]),
    ('last.tif', tiff(wide(FIVE)), {}, FIVE),
    ('first.tif', tiff(np.moveaxis(wide(FIVE), 2, 0)), {}, FIVE),
    ('zlib.tif', tiff(wide(FIVE), compression='zlib', **CONTIG), {}, FIVE),
    ('bigtiff.tif', tiff(wide(FIVE), bigtiff=True, **CONTIG), {}, FIVE),
    ('pyramid.tif', pyramid, {}, RGB),
    ('pgm.pgm', raw(WIDE_PGM), {}, GRAY[..., None]),
    ('jp2.jp2', pillow(wide(GRAY)), {}, GRAY[..., None]),
    ('gray.npy', numpy_file(GRAY), {}, GRAY[..., None]),
    ('first.npy', numpy_file(np.moveaxis(FIVE, 2, 0)), {}, FIVE),
    ('last.npy', numpy_file(wide(FIVE)), {}, FIVE),
    ('bool.npy', numpy_file(GRAY > 100), {}, ONE_BIT[..., None]),
]  # fmt: skip
# of an image in two files, as microscopes write them: a channel in each
OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
UUID="urn:uuid:0"><Image ID="Image:0"><Pixels BigEndian="false" DimensionOrder="XYCZT" ID="Pixels:0"
SizeC="2" SizeT="1" SizeX="8" SizeY="6" SizeZ="1" Type="uint16"><Channel ID="Channel:0"/><Channel
ID="Channel:1"/><TiffData FirstC="0"><UUID FileName="0.tif">urn:uuid:0</UUID></TiffData><TiffData
FirstC="1"><UUID FileName="1.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>"""
# file, writer, arguments of LoadImage, words of the error
NOT_LOADED = [
    ('float.tif', tiff(FLOAT), {}, 'holds float32 from 0 to 0.921569; set scale=(low, high)'),
    ('int.tif', tiff(GRAY.astype(np.int32)), {}, 'holds int32 from 0 to 235; set scale'),
    ('nan.tif', tiff(np.where(GRAY > 9, FLOAT, np.nan)), RANGE, 'has 2 NaN among 48 numbers'),
    ('complex.npy', numpy_file(FLOAT * 1j), RANGE, 'holds complex64 of shape (6, 8, 1)'),
    ('object.npy', numpy_file(np.array([{}], object)), {}, 'allow_pickle=False'),
    ('text.npy', numpy_file(np.array([['a']])), {}, 'holds <U1'),
    ('cube.npy', numpy_file(np.zeros((6, 8, 6))), RANGE, 'both ends may be the channels'),
    ('one.npy', numpy_file(np.zeros(6)), RANGE, 'of shape (6,)'),
    ('four.npy', numpy_file(np.zeros((2, 6, 8, 3))), RANGE, 'of shape (2, 6, 8, 3)'),
    ('empty.npy', numpy_file(np.zeros((0, 8))), RANGE, 'of shape (0, 8, 1)'),
    ('five.tif', tiff(FIVE, **CONTIG), dict(channels=4), 'has 5 channels, and LoadImage wants 4'),
    ('rgb.png', pillow(RGB), dict(channels=1), 'has 3 channels, and LoadImage wants 1'),
    ('sizes.tif', two_sizes, {}, 'it holds 2 images'),
    ('ome.tif', tiff(wide(GRAY), description=OME, metadata=None), {}, 'one of several files of an'),
    ('white.tif', tiff(wide(GRAY), photometric='miniswhite'), {}, 'white is 0'),
    ('turned.tif', tiff(wide(GRAY), extratags=[(274, 3, 1, 6, True)]), {}, 'turned'),
    ('bomb.png', raw(png(50000, 50000)), {}, 'cut it into tiles'),
    ('half.tif', raw(b'II*\0\x08'), {}, 'fetch it again'),
]  # fmt: skip


@pytest.mark.parametrize('case', LOADED, ids=lambda case: case[0])
def test_load_image(case, tmp_path):
    name, write, arguments, expected = case
    write(tmp_path / name)
    results = LoadImage(**arguments)({'img_path': str(tmp_path / name)})
    image = results['img']
    assert image.dtype == (np.float32 if arguments.get('to_float32') else np.uint8)
    assert image.shape == expected.shape and image.flags.c_contiguous
    assert results['img_shape'] == results['ori_shape'] == expected.shape[:2]
    if image.shape[2] == 3:
        image = image[..., ::-1]  # B, G, R as in mmcv
    np.testing.assert_allclose(image, expected, atol=1e-4)


@pytest.mark.parametrize('case', NOT_LOADED, ids=lambda case: case[0])
def test_what_load_image_refuses(case, tmp_path):
    name, write, arguments, words = case
    write(tmp_path / name)
    with pytest.raises(UserError) as error, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        LoadImage(**arguments)({'img_path': str(tmp_path / name)})
    assert name in str(error.value) and words in str(error.value)


@pytest.mark.parametrize(
    'arguments',
    [dict(scale=(1, 1)), dict(scale=(2, 1)), dict(scale=(0, np.nan)), dict(scale=(0,)),
     dict(scale=(0, np.inf)), dict(scale=255), dict(scale=(0, None)), dict(scale=('0', '1')),
     dict(channels=0), dict(channels='4')],
)  # fmt: skip
def test_wrong_arguments(arguments):
    with pytest.raises(UserError, match=f'LoadImage: {next(iter(arguments))} must be'):
        LoadImage(**arguments)


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>
</rdf:RDF></x:xmpmeta>"""


# EXIF orientations that are not a single short integer: type, count and value
ODD = {'text': (2, 2, b'6\0\0\0'), 'byte': (1, 1, b'\6\0\0\0')}


@pytest.mark.parametrize('value', ['XMP', *ODD, *range(10)])
def test_images_are_turned_where_mmcv_turns_them(value, tmp_path):
    """Images rotate by EXIF orientations 1 to 8, not by XMP, which edited photos have."""
    path, tags = tmp_path / 'a.jpg', Image.Exif()
    tags[ExifTags.Base.Orientation] = value if isinstance(value, int) else 6
    exif = tags.tobytes()
    if value in ODD:
        kind, count, content = ODD[value]
        at = exif.index(struct.pack('>HHI', ExifTags.Base.Orientation, 3, 1))
        entry = struct.pack('>HHI', ExifTags.Base.Orientation, kind, count) + content
        exif = exif[:at] + entry + exif[at + len(entry) :]
    options = dict(xmp=XMP) if value == 'XMP' else dict(exif=exif)
    Image.fromarray(RGB).save(path, quality=100, subsampling=0, **options)
    want = mmcv.imread(str(path))
    image = LoadImage()({'img_path': str(path)})['img']
    assert np.abs(image - want.astype(int)).max() < 8
    assert image_size(path, decode=False) == want.shape[1::-1]


@pytest.mark.parametrize('value', range(1, 9))
@pytest.mark.parametrize(
    ('ending', 'image'), [('tif', RGB), ('tif', GRAY), ('png', RGB), ('png', wide(GRAY))]
)
def test_images_without_loss_are_turned_once(ending, image, value, tmp_path):
    """Pillow turns a TIFF when it decodes it, and OpenCV no image of more than 8 bits."""
    path, tags = tmp_path / f'a.{ending}', Image.Exif()
    tags[ExifTags.Base.Orientation] = value
    Image.fromarray(image).save(path, exif=tags)
    want = mmcv.imread(str(path))
    loaded = LoadImage(channels=3)({'img_path': str(path)})['img']
    assert np.array_equal(loaded, want)
    assert np.array_equal(read_picture(path).shape, want.shape)
    for whole in (True, False):
        assert image_size(path, decode=whole) == want.shape[1::-1]
    if ending == 'png':
        assert read_picture(path, stored=True).shape[:2] == image.shape[:2]


# as viewers and Pillow's ImageOps.exif_transpose turn an image
TURNS = (
    np.array, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).swapaxes(0, 1), np.rot90,
)  # fmt: skip


@pytest.mark.parametrize('value', range(1, 9))
@pytest.mark.parametrize('ending', ['webp', 'avif'])
def test_photos_that_opencv_does_not_turn(ending, value, tmp_path):
    """All doors give the same picture: mmcv's loader, ours, that for drawing, sizes in labels."""
    photo = np.zeros((16, 32, 3), np.uint8)
    photo[:8, :16], photo[8:, :16], photo[:8, 16:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    path, tags = tmp_path / f'a.{ending}', Image.Exif()
    tags[ExifTags.Base.Orientation] = value
    Image.fromarray(photo).save(path, quality=100, exif=tags)
    shown = TURNS[value - 1](photo)

    def differs(image, want):
        return image.shape != want.shape or np.abs(image - want.astype(int)).mean() > 12

    assert not differs(LoadImage()({'img_path': str(path)})['img'][..., ::-1], shown)
    for backend in ('cv2', 'pillow'):
        for flag, want in (('color', shown), ('color_ignore_orientation', photo)):
            load = LoadImageFromFile(color_type=flag, imdecode_backend=backend)
            image = load({'img_path': str(path)})['img']
            assert not differs(image[..., ::-1], want)
            assert image.flags.c_contiguous or backend == 'pillow'
    gray = LoadImageFromFile(color_type='grayscale')({'img_path': str(path)})['img']
    assert not differs(np.squeeze(gray), np.array(Image.fromarray(shown).convert('L')))
    assert not differs(mmcv.imread(str(path), channel_order='rgb'), shown)
    assert not differs(mmcv.imfrombytes(path.read_bytes(), channel_order='rgb'), shown)
    assert not differs(read_picture(path), shown)
    assert not differs(read_picture(path, stored=True), photo)
    for whole in (True, False):
        assert image_size(path, decode=whole) == shown.shape[1::-1]


@pytest.mark.parametrize('ending', ['webp', 'avif'])
def test_damaged_photos_are_told_as_those_of_other_formats(ending):
    """OpenCV decodes to None, and the callers of mmcv have words for it."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(
        buffer, ending
    )
    content = buffer.getvalue()
    for end in (12, len(content) // 2, len(content) - 20):
        assert mmcv.imfrombytes(content[:end]) is None
    whole = mmcv.imfrombytes(content)
    for kind in (memoryview, functools.partial(np.frombuffer, dtype=np.uint8)):
        assert np.array_equal(mmcv.imfrombytes(kind(content)), whole)


def test_avif_where_pillow_reads_none(monkeypatch):
    """Pillow before 11.3 does not, and OpenCV does."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, 'avif')
    monkeypatch.setattr(Image, 'ID', [name for name in Image.ID if name != 'AVIF'])
    assert mmcv.imfrombytes(buffer.getvalue()).shape == RGB.shape


def test_images_of_more_pixels_than_pillow_reads(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
    path = tmp_path / 'a.png'
    for tags, want in ((None, RGB), (exif(), TURNED)):
        Image.fromarray(RGB).save(path, exif=tags)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
        assert (LoadImage()({'img_path': str(path)})['img'][..., ::-1] == want).all()
        for whole in (True, False):
            assert image_size(path, decode=whole) == want.shape[1::-1]
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40)  # Pillow warns of more
    assert image_size(path, decode=True) == (HEIGHT, WIDTH) and not recwarn
    path.write_bytes(png(50000, 50000))
    assert image_size(path, decode=False) is None  # mmcv reads none of that size
    assert Image.MAX_IMAGE_PIXELS == 40


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    """Pillow finds such an orientation only when it decodes the image."""
    path, tags = tmp_path / 'a.png', Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    Image.fromarray(RGB).save(path)
    content, data = path.read_bytes(), tags.tobytes().removeprefix(b'Exif\0\0')
    chunk = struct.pack('>I', len(data)) + b'eXIf' + data
    chunk += struct.pack('>I', zlib.crc32(b'eXIf' + data))
    at = content.index(b'IEND') - 4
    path.write_bytes(content[:at] + chunk + content[at:])
    want = np.rot90(RGB, -1)
    assert (LoadImage()({'img_path': str(path)})['img'][..., ::-1] == want).all()
    with Image.open(path) as image:
        assert orientation(image) == 6


def test_a_box_in_front_of_a_jpeg_2000_is_not_its_header():
    done, content = cv2.imencode('.jp2', np.tile(RGB, (8, 8, 1)))
    content = content.tobytes()
    at = content.index(b'jp2c') - 4
    box = b'uuid' + b'\xff\x51' + bytes(40)
    content = content[:at] + struct.pack('>I', len(box) + 4) + box + content[at:]
    header = read_header(content)
    assert done and (header.bits, header.channels) == (8, 3)
    assert not decoding_loss(content, 'color', 'cv2')


@pytest.mark.parametrize('ending', ['ppm', 'jp2'])
def test_color_of_more_than_8_bits(ending, tmp_path):
    image = (np.arange(48 * 64 * 3).reshape(48, 64, 3) % 4096).astype(np.uint16)
    path = tmp_path / f'a.{ending}'
    options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if ending == 'jp2' else []
    cv2.imwrite(str(path), image[..., ::-1], options)
    assert 'cuts to 8 bits' in decoding_loss(path.read_bytes(), 'color', 'cv2')
    got = LoadImage((0, 4095), to_float32=True)({'img_path': str(path)})['img']
    np.testing.assert_allclose(got[..., ::-1], image * (255 / 4095), atol=0.5)


def test_pixmaps_of_a_smaller_range(tmp_path):
    """Pillow and LoadImage scale the range to 255; OpenCV does not."""
    path = tmp_path / 'a.ppm'
    path.write_bytes(b'P6 # a note\n8 6 15\n' + (RGB // 17).tobytes())
    assert 'does not bring to 255' in decoding_loss(path.read_bytes(), 'color', 'cv2')
    assert not decoding_loss(path.read_bytes(), 'unchanged', 'cv2')  # keeps the file's numbers
    image = LoadImage()({'img_path': str(path)})['img']
    assert np.abs(image[..., ::-1].astype(int) - RGB // 17 * 17).max() < 2


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_masks_inside_of_a_tiff_are_no_images(kind, tmp_path):
    """GDAL writes such masks for pixels without data."""
    path, image = tmp_path / 'a.tif', RGB.astype(kind)
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric='rgb')
        file.write(np.ones((HEIGHT, WIDTH), bool), subfiletype=4)
    assert 'pages' not in str(read_header(path.read_bytes()))
    loaded = LoadImage((0, 255))({'img_path': str(path)})['img']
    assert (loaded[..., ::-1] == RGB).all()
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric='rgb')
        file.write(image[::2, ::2], photometric='rgb', subfiletype=1)
        file.write(image, photometric='rgb')
    assert 'pages' in str(read_header(path.read_bytes()))


def test_both_loaders_agree_on_ordinary_images(tmp_path):
    pillow(RGB)(tmp_path / 'rgb.png')
    path = {'img_path': str(tmp_path / 'rgb.png')}
    assert np.array_equal(LoadImage()(dict(path))['img'], LoadImageFromFile()(dict(path))['img'])
    assert TRANSFORMS.build(dict(type='mmswinv2.LoadImage')).channels is None


@pytest.mark.parametrize(
    'write', [opencv(wide(GRAY)), tiff(FIVE, **CONTIG), tiff(FLOAT * 3000), numpy_file(FIVE)]
)
@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_pictures_for_visualizers(write, order, tmp_path):
    """Visualization hooks read the file again: they get three channels, scaled black to white."""
    path = tmp_path / ('a.npy' if write.__qualname__.startswith('numpy_file') else 'a.png')
    write(path)
    image = mmcv.imfrombytes(path.read_bytes(), channel_order=order)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert image.min() == 0 and image.max() == 255
    if order == 'bgr' and not np.array_equal(image[..., 0], image[..., 2]):
        image = image[..., ::-1]
    assert np.corrcoef(image[..., 0].ravel(), GRAY.ravel())[0, 1] > 0.99


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_visualizers_draw_the_first_three_channels(host, channels, tmp_path):
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData, PixelData
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    if host == 'mmdet':
        visualizer = DetLocalVisualizer(alpha=0)
        found = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), scores=torch.zeros(0)
        )
        sample = DetDataSample(pred_instances=found)
    else:
        visualizer = SegLocalVisualizer(alpha=0)
        labels = PixelData(data=torch.zeros(1, 40, 50, dtype=torch.long))
        sample = SegDataSample(pred_sem_seg=labels)
    visualizer.dataset_meta = dict(classes=('a',), palette=[(1, 2, 3)])
    image = np.full((40, 50, channels), 7, np.uint8) + np.arange(channels, dtype=np.uint8)
    path = str(tmp_path / 'drawn.png')
    options = {} if host == 'mmdet' else dict(with_labels=False)
    visualizer.add_datasample('a', image, sample, out_file=path, **options)
    drawn = cv2.imread(path)[:, -50:, ::-1]
    assert drawn.shape == (40, 50, 3)
    assert (drawn == ([7, 8, 9] if channels > 2 else 7)).mean() > 0.9


def test_ordinary_images_are_left_to_mmcv():
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, 'PNG')
    assert not decoding_loss(buffer.getvalue(), 'color', 'cv2')
    assert np.array_equal(mmcv.imfrombytes(buffer.getvalue(), channel_order='rgb'), RGB)


# --- sizes ---------------------------------------------------------------------------------------

RESIZES = [
    (dict(type='Resize', scale=(64, 64), keep_ratio=True), 64),
    (dict(type='Resize', scale_factor=0.1, keep_ratio=True), 70),
    (dict(type='Resize', scale_factor=0.1, keep_ratio=False), 70),
    (dict(type='RandomChoiceResize', scales=[(48, 133)], keep_ratio=True), 133),
    (dict(type='RandomResize', scale=(90, 90), ratio_range=(0.5, 0.5), keep_ratio=True), 45),
    (dict(type='FixScaleResize', scale=(64, 64), keep_ratio=True), 64),
]


@pytest.mark.parametrize('upright', [False, True])
@pytest.mark.parametrize('polygons', [False, True])
@pytest.mark.parametrize(('transform', 'longer'), RESIZES, ids=lambda v: str(v)[:40])
def test_strips_keep_a_pixel_with_their_boxes_and_masks(transform, longer, polygons, upright):
    import mmdet.datasets.transforms  # noqa: F401
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    init_default_scope('mmdet')
    keep_a_pixel.apply()
    height, width = (700, 2) if upright else (2, 700)
    outline = np.array([0, 0, width, 0, width, height, 0, height], float)
    masks = (
        PolygonMasks([[outline]], height, width)
        if polygons
        else BitmapMasks(np.ones((1, height, width), np.uint8), height, width)
    )
    results = dict(
        img=np.zeros((height, width, 3), np.uint8),
        gt_bboxes=HorizontalBoxes(np.array([[0, 0, width, height]], np.float32)),
        gt_masks=masks,
        gt_seg_map=np.zeros((height, width), np.uint8),
    )
    results = TRANSFORMS.build(transform)(results)
    height, width = (longer, 1) if upright else (1, longer)
    assert results['img'].shape[:2] == results['img_shape'] == (height, width)
    assert results['gt_seg_map'].shape == (height, width)
    torch.testing.assert_close(
        results['gt_bboxes'].tensor, torch.tensor([[0.0, 0.0, width, height]])
    )
    assert (results['gt_masks'].height, results['gt_masks'].width) == (height, width)
    assert results['gt_masks'].areas == pytest.approx([height * width])


def test_strips_of_segmentors():
    import mmseg.datasets.transforms  # noqa: F401

    init_default_scope('mmseg')
    keep_a_pixel.apply()
    image = dict(img=np.zeros((2, 700, 3), np.uint8), gt_seg_map=np.zeros((2, 700), np.uint8))
    image.update(img_shape=(2, 700), seg_fields=['gt_seg_map'])
    results = TRANSFORMS.build(dict(type='ResizeShortestEdge', scale=64, max_size=100))(image)
    assert results['img'].shape == (1, 100, 3) and results['gt_seg_map'].shape == (1, 100)


# --- channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize('batch', ['list', 'tensor'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5])
def test_every_channel_has_a_mean_and_a_std(channels, batch):
    mean, std = list(range(channels)), list(range(1, channels + 1))
    preprocessor = ImgDataPreprocessor(mean, std, bgr_to_rgb=True)
    image = torch.arange(channels, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 4, 4) + 10
    inputs = [image] if batch == 'list' else image[None]
    found = preprocessor(dict(inputs=inputs))['inputs'][0, :, 0, 0]
    order = [2, 1, 0] if channels == 3 else range(channels)
    assert torch.allclose(found, torch.tensor([(10 + c - m) / s for c, m, s in
                                               zip(order, mean, std, strict=True)]))  # fmt: skip


@pytest.mark.parametrize(
    ('values', 'channels', 'words'),
    [
        (4, [3], 'images have 3 channels, and mean and std of data_preprocessor 4 values'),
        (4, [1], 'images have 1 channels'),
        (3, [4], 'images have 4 channels'),
        (2, [3], 'images have 3 channels'),
        (1, [3, 4], 'images have 3 or 4 channels'),
    ],
)
def test_channels_that_do_not_fit(values, channels, words):
    preprocessor = ImgDataPreprocessor([0.0] * values, [1.0] * values)
    with pytest.raises(UserError, match=words):
        preprocessor(dict(inputs=[torch.zeros(c, 4, 4) for c in channels]))


def test_mean_and_std_of_different_lengths():
    with pytest.raises(UserError, match='mean and std need a value for each channel'):
        ImgDataPreprocessor([0, 0, 0, 0], [1, 1, 1])


@pytest.mark.parametrize(
    ('text', 'most'), [('4000MB', 0), ('2 kb', 0), ('1 kb', 1024), ('100', 100), ('much', 0)]
)
def test_limits_of_pixels_as_opencv_takes_them(text, most, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENCV_IO_MAX_IMAGE_PIXELS', text)
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / 'a.png')
    if not most:
        open_image(tmp_path / 'a.png').close()
    else:
        with pytest.raises(OSError, match=f'30x40 pixels are more than .*={most}$'):
            open_image(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(png(40000, 30000))  # above 2**30, OpenCV's own limit
    with nullcontext() if text == '4000MB' else pytest.raises(OSError, match='40000x30000 pixels'):
        open_image(tmp_path / 'b.png').close()


@pytest.mark.parametrize('stored', [False, True])
@pytest.mark.parametrize('name', ['a.png', 'a.tga'])  # OpenCV reads no TGA
def test_pictures_to_draw_on_have_their_colors(name, stored, tmp_path):
    Image.new('RGB', (8, 6), (250, 20, 10)).save(tmp_path / name)
    assert read_picture(tmp_path / name, stored)[0, 0].tolist() == [250, 20, 10]
