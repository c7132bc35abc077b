"""Label map files: loaded labels equal those in the file, or the file is refused by name."""

import importlib.util
import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from torch import nn

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from mmswinv2.hosts import check_dataset
from mmswinv2.hosts.mmseg import check_heads
from mmswinv2.hosts.mmseg_label_maps import SegMapGuard

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|seg)')
HEIGHT, WIDTH = 8, 12
LABELS = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3).astype(np.uint8)
BACKENDS = ['pillow', 'cv2', *(['tifffile'] if importlib.util.find_spec('tifffile') else [])]


def image(labels, kind='png', **options):
    """The bytes of an image file, by Pillow."""
    file = io.BytesIO()
    picture = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
    picture.save(file, kind, **options)
    return file.getvalue()


def with_label(label, dtype):
    labels = LABELS.astype(dtype)
    labels[2, 3] = label
    return labels


def tiff(*pages, black=1, subfile=0):
    """A TIFF of uncompressed arrays; pages after the first have the subfile type `subfile`."""
    content, last = bytearray(b'II*\0\0\0\0\0'), 4
    for i, page in enumerate(pages):
        start = len(content)
        content += page.tobytes()
        sample = {'u': 1, 'i': 2, 'f': 3}[page.dtype.kind]
        tags = {
            254: subfile if i else 0, 256: page.shape[1], 257: page.shape[0],
            258: 8 * page.itemsize, 259: 1, 262: black, 273: start, 277: 1, 278: page.shape[0],
            279: page.nbytes, 339: sample,
        }  # fmt: skip
        struct.pack_into('<I', content, last, len(content))
        content += struct.pack('<H', len(tags))
        for tag, value in tags.items():
            content += struct.pack('<HHII', tag, 4, 1, value)
        last = len(content)
        content += bytes(4)
    return bytes(content)


def gray_png(bits):
    """A gray PNG with few bits, whose samples are the labels."""
    rows = b''
    for row in LABELS:
        text = ''.join(f'{label:0{bits}b}' for label in row)
        rows += b'\0' + int(text, 2).to_bytes(len(text) // 8, 'big')
    content = b'\x89PNG\r\n\x1a\n'
    header = struct.pack('>IIBBBBB', WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    for name, data in ((b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')):
        content += struct.pack('>I', len(data)) + name + data
        content += struct.pack('>I', zlib.crc32(name + data))
    return content


def colored(shift=0):
    picture = Image.fromarray((LABELS + shift) % 3)
    picture.putpalette([0, 0, 0, 200, 10, 10, 20, 220, 30])
    return picture


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


PGM = b'P5\n%d %d\n%d\n'
PALETTE = "other labels, or none, for imdecode_backend='cv2'"
# file; words of the error, '' if labels load unchanged; labels that cv2 returns
FILES = {
    'gray png': (image(LABELS), '', ''),
    'palette png': (image(colored()), '', PALETTE),
    'palette png of 4 bits': (image(colored(), bits=4), '', PALETTE),
    'gray png of 16 bits': (image(LABELS.astype(np.uint16)), '', ''),
    'bmp': (image(LABELS, 'bmp'), '', ''),
    'gif': (image(colored(), 'gif'), '', PALETTE),
    'pgm': (image(LABELS, 'ppm'), '', ''),
    'tiff, packed': (image(LABELS, 'tiff', compression='tiff_lzw'), '', ''),
    'tiff uint8': (tiff(LABELS), '', ''),
    'tiff int8': (tiff(LABELS.astype(np.int8)), '', ''),
    'tiff uint16': (tiff(LABELS.astype(np.uint16)), '', ''),
    'tiff int32': (tiff(LABELS.astype(np.int32)), '', ''),
    'tiff float32': (tiff(LABELS.astype(np.float32)), '', ''),
    'tiff with an overview': (tiff(LABELS, LABELS[::2, ::2].copy(), subfile=1), '', ''),
    'tiff with a mask': (tiff(LABELS, LABELS[::2].copy(), subfile=4), '', ''),
    'fraction': (tiff(with_label(1.5, np.float32)), 'has the label 1.5; labels are whole', None),
    'NaN': (tiff(with_label(np.nan, np.float32)), 'has the label nan; labels are whole', None),
    'infinity': (tiff(with_label(np.inf, np.float32)), 'the label inf; a label has 8 bits', None),
    'float -1': (tiff(with_label(-1, np.float32)), 'the label -1; labels are whole numbers from 0',
                 None),
    'float 256': (tiff(with_label(256, np.float32)), 'the label 256; a label has 8 bits', None),
    'int8 -1': (tiff(with_label(-1, np.int8)), 'has the label -1; ', None),
    'int16 -250': (tiff(with_label(-250, np.int16)), 'has the label -250; ', None),
    'int32 -250': (tiff(with_label(-250, np.int32)), 'has the label -250; ', None),
    'uint16 257': (image(with_label(257, np.uint16)), 'the label 257; a label has 8 bits',
                   None),
    'int32 65536': (tiff(with_label(65536, np.int32)), 'the label 65536; a label has 8 bits', None),
    'RGB': (image(np.stack([LABELS] * 3, -1)), 'has the shape (8, 12, 3); (height, width)', None),
    'RGBA': (image(np.stack([LABELS] * 4, -1)), 'has the shape (8, 12, 4); (height, width)', None),
    'gray and alpha': (image(Image.fromarray(LABELS).convert('LA')), 'the shape (8, 12, 2)', None),
    'jpeg': (image(LABELS, 'jpeg'), 'is a JPEG file; labels are safe in PNG', None),
    'jpeg in a tiff': (image(LABELS, 'tiff', compression='jpeg'), 'is compressed with loss', None),
    'jpeg 2000': (image(LABELS, 'jpeg2000'), 'is a JPEG2000 file', None),
    'webp': (image(LABELS, 'webp'), 'is a WEBP file; labels are safe in PNG', None),
    'animated gif': (image(colored(), 'gif', save_all=True, append_images=[colored(1)]),
                     'holds several images', None),
    'animated png': (image(LABELS, save_all=True, append_images=[Image.fromarray(LABELS[::-1])]),
                     'holds several images', None),
    'pages': (tiff(LABELS, LABELS), 'holds several images', None),
    'gray png of 2 bits': (gray_png(2), 'has samples that decoders scale or invert', None),
    'gray png of 4 bits': (gray_png(4), 'has samples that decoders scale or invert', None),
    'pgm up to 2': (PGM % (WIDTH, HEIGHT, 2) + LABELS.tobytes(), 'samples that decoders scale',
                    None),
    '0 for white': (tiff(LABELS, black=0), 'has samples that decoders scale or invert', None),
    'upside down': (image(LABELS, exif=turned(3)), 'is to be turned (EXIF orientation)', None),
    'on its side': (image(LABELS, 'tiff', tiffinfo={0x112: 6}), 'is to be turned', None),
    'empty': (b'', 'cannot identify image file; fetch it again', None),
    'text': (b'hello', 'cannot identify image file; fetch it again', None),
    'a tiff of no width': (tiff(LABELS).replace(struct.pack('<HH', 256, 4), b'\xf0\xf0\4\0'),
                           'cannot read the label map', None),
    'cut short': (image(np.random.default_rng(0).integers(0, 3, (90, 90), np.uint8))[:900],
                  'image file is truncated; fetch it again',
                  'OpenCV cannot decode it; fetch it again'),
}  # fmt: skip


def load(path, backend='pillow', **results):
    guard = SegMapGuard(LoadAnnotations(imdecode_backend=backend), 3)
    known = dict(seg_map_path=str(path), reduce_zero_label=False, seg_fields=[])
    return guard(known | results)['gt_seg_map']


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', FILES)
def test_labels_are_those_of_the_file(tmp_path, name, backend):
    content, said, by_cv2 = FILES[name]
    path = tmp_path / 'map'
    path.write_bytes(content)
    said = by_cv2 if backend == 'cv2' and by_cv2 is not None else said
    if backend == 'tifffile' and (content[:2] != b'II' or 'packed' in name):
        with pytest.raises(UserError, match=str(path)):  # tifffile reads only TIFFs
            load(path, backend)
    elif said:
        with pytest.raises(UserError) as error:
            load(path, backend)
        assert str(path) in str(error.value) and said in str(error.value)
    else:
        np.testing.assert_array_equal(load(path, backend), LABELS)
    assert path.read_bytes() == content


@pytest.mark.parametrize('name', FILES)
def test_semantic_maps_of_detectors_are_held_to_the_same_rules(tmp_path, name):
    from mmdet.datasets.transforms import LoadAnnotations as LoadDetections

    hosts.of(dict(default_scope='mmdet')).apply()
    content, said, by_cv2 = FILES[name]
    path = tmp_path / 'map'
    path.write_bytes(content)
    load = LoadDetections(with_bbox=False, with_label=False, with_seg=True, imdecode_backend='cv2')
    results = dict(seg_map_path=str(path), img_shape=(HEIGHT, WIDTH))
    if said := said if by_cv2 is None else by_cv2:
        with pytest.raises(UserError) as error:
            load(results)
        assert str(path) in str(error.value) and said in str(error.value)
    else:
        assert np.array_equal(load(results)['gt_seg_map'], LABELS)


def test_maps_that_opencv_cannot_decode(tmp_path):
    """It gives None, and what is wrong is the file, not the backend."""
    path = tmp_path / 'map.png'
    path.write_bytes(image(LABELS)[:60])
    with pytest.raises(UserError, match='map.png: OpenCV cannot decode it; fetch it again'):
        load(path, 'cv2')


def test_masks_of_one_bit(tmp_path):
    path = tmp_path / 'map.png'
    path.write_bytes(image(LABELS > 0))
    np.testing.assert_array_equal(load(path), LABELS > 0)
    with pytest.raises(UserError, match='leave that setting out'):
        load(path, 'cv2')  # it turns 1 into 255


def test_maps_of_more_pixels_than_pillow_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40)
    path = tmp_path / 'map.png'
    path.write_bytes(image(LABELS))
    np.testing.assert_array_equal(load(path, 'cv2'), LABELS)
    with pytest.raises(UserError, match="exceeds limit.*; cut it.*imdecode_backend='cv2' of the"):
        load(path)
    monkeypatch.setenv('OPENCV_IO_MAX_IMAGE_PIXELS', '90')
    with pytest.raises(
        UserError, match='12x8 pixels are more than .*=90; cut it into tiles, or set'
    ):
        load(path, 'cv2')


def test_an_image_that_is_turned_and_a_map_that_is_not(tmp_path):
    path = tmp_path / 'map.png'
    path.write_bytes(image(LABELS))
    with pytest.raises(UserError, match='has 8x12 pixels.* are for 12x8. The two are swapped'):
        load(path, ori_shape=(WIDTH, HEIGHT))
    with pytest.raises(UserError, match='has 8x13 pixels.* are for 12x8; annotate'):
        load(path, ori_shape=(WIDTH + 1, HEIGHT))


def test_maps_that_are_not_on_this_disk(tmp_path, address):
    (tmp_path / 'map.png').write_bytes(image(LABELS))
    (tmp_path / 'map.jpg').write_bytes(image(LABELS, 'jpeg'))
    np.testing.assert_array_equal(load(f'{address}/map.png'), LABELS)
    with pytest.raises(UserError, match=f'{address}/map.jpg is a JPEG file'):
        load(f'{address}/map.jpg')


class Colors(LoadAnnotations):
    """Converts colors to classes, as users do for their own data."""

    def _load_seg_map(self, results):
        colors = np.array(Image.open(results['seg_map_path']).convert('RGB'))
        results['gt_seg_map'] = (colors[..., 0] > 0).astype(np.int64)


def test_what_a_loader_of_ones_own_makes_of_files_is_its_business(tmp_path):
    (tmp_path / 'map.png').write_bytes(image(np.stack([LABELS] * 3, -1)))
    results = SegMapGuard(Colors(), 2)(dict(seg_map_path=str(tmp_path / 'map.png')))
    np.testing.assert_array_equal(results['gt_seg_map'], LABELS > 0)
    with pytest.raises(UserError, match='has the label 1, but there are 1 classes'):
        SegMapGuard(Colors(), 1)(dict(seg_map_path=str(tmp_path / 'map.png')))


def build(root, maps, classes, **options):
    """Build a data set of mmseg with these label maps."""
    init_default_scope('mmseg')
    for i, labels in enumerate(maps):
        for kind, array in (('images', np.zeros((*labels.shape, 3), np.uint8)), ('maps', labels)):
            (root / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(root / f'{kind}/{i:03d}.png')
    return DATASETS.build(
        dict(
            type='BaseSegDataset', data_root=str(root), img_suffix='.png', seg_map_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='maps'),
            metainfo=dict(classes=classes) if classes else None,
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            serialize_data=False,
        )
        | options
    )  # fmt: skip


BINARY, MANY = ('ground', 'object'), tuple(f'c{i}' for i in range(150))
MASK = (LABELS > 0).astype(np.uint8)
# maps, classes, options of the data set, and words of the error; none for valid data
SURVEYS = {
    'good': ([MASK], BINARY, {}, None),
    'all 255': ([MASK * 0 + 255] * 3, BINARY, {},
                '2 of 2 classes occur in none of the 3 label maps looked at, of 3 (pixels: ground '
                '0, object 0; not labeled 288); 255 counts as not labeled'),
    '0 and 255': ([MASK * 255], BINARY, {},
                  '1 of 2 classes occur in none of the 1 label maps looked at, of 1 (pixels: '
                  'ground 32, object 0; not labeled 64); 255 counts as not labeled'),
    'all 0, reduced': ([MASK * 0], BINARY, dict(reduce_zero_label=True),
                       'object 0; not labeled 96); reduce_zero_label=True takes 0'),
    '0 and 1, reduced': ([MASK], BINARY, dict(reduce_zero_label=True),
                         '(pixels: ground 64, object 0; not labeled 32); reduce_zero_label=True'),
    'all ground': ([MASK * 0] * 2, BINARY, {}, 'object 0; not labeled 0); look at the values'),
    'an object in the last map': ([MASK * 0] * 30 + [MASK], BINARY, {}, None),
    'some classes of ADE20K': ([MASK], ('sky', 'wall'), dict(type='ADE20KDataset'),
                               '(pixels: sky 0, wall 64; not labeled 32); reduce_zero_label=True '
                               'takes 0 in a file for not labeled, and 1 for wall'),
    'another label for none': ([MASK * 200], BINARY, dict(ignore_index=200),
                               'object 0; not labeled 64)'),
    'few of many classes': ([LABELS], MANY, {}, None),
    'one of many classes': ([LABELS * 0], MANY, {},
                            '149 of 150 classes occur in none of the 1 label maps looked at, of 1 '
                            '(pixels: c0 96; not labeled 0)'),
    'none of many classes': ([LABELS * 0 + 255], MANY, {}, '(pixels: none; not labeled 96); 255'),
    'one class': ([LABELS * 0], ('ground',), {}, None),
    'no names': ([LABELS], None, {}, None),
}  # fmt: skip


@pytest.mark.parametrize('name', SURVEYS)
def test_classes_that_occur_nowhere(tmp_path, warned, name):
    maps, classes, options, said = SURVEYS[name]
    check_dataset(build(tmp_path, maps, classes, **options), 'train_dataloader')
    told = [text for text in warned if 'classes occur in none' in text]
    assert len(told) == (said is not None)
    if said:
        assert told[0].startswith('train_dataloader: ') and said in told[0]


@pytest.mark.parametrize('together', [False, True], ids=['apart', 'together'])
def test_images_of_other_endings(tmp_path, warned, together):
    """They are told where they have a label map of their own, and are no map."""
    hosts.of(dict(default_scope='mmseg')).apply()
    images, maps = ((tmp_path / name) for name in (('maps', 'maps') if together else 'ab'))
    names = ['0.jpg', '1.JPG', 'x/2.jpg', '2.png', 'x/3.JPEG', '4.txt', '0.webp', 'without.png']
    for name in names:
        (images / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new('RGB', (WIDTH, HEIGHT)).save(images / name, 'PNG')
    for name in ('0', '1', 'x/2', '2', 'x/3', '4'):
        (maps / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(MASK).save(maps / f'{name}.png')
    folders = dict(img_path=images.name, seg_map_path=maps.name)
    data = build(tmp_path, [], BINARY, data_prefix=folders, img_suffix='.jpg')
    assert len(data) == 3
    check_dataset(data, 'train_dataloader')
    (told,) = (text for text in warned if 'img_suffix' in text)
    number = 1 if together else 2  # 2.png is a map then
    assert told.startswith(f'train_dataloader: {number} images that have a label map are not used')
    assert f'first of all {images}/x/3.JPEG;' in told or f'{images}/2.png;' in told
    (tmp_path / 'list.txt').write_text('0\n')
    data = build(tmp_path, [], BINARY, data_prefix=folders, img_suffix='.jpg', ann_file='list.txt')
    check_dataset(data, 'val_dataloader')
    assert not any(text.startswith('val_dataloader: ') for text in warned)


def test_joined_data_sets_use_images_of_several_endings(tmp_path, warned):
    """As the warning advises; mmseg has no ConcatDataset of its own."""
    from mmengine.dataset import ConcatDataset

    data = build(tmp_path, [MASK], BINARY)
    Image.new('RGB', (WIDTH, HEIGHT)).save(tmp_path / 'images/b.jpg')
    Image.fromarray(MASK).save(tmp_path / 'maps/b.png')
    other = build(tmp_path, [], BINARY, img_suffix='.jpg')
    assert (len(data), len(other)) == (1, 1)
    check_dataset(ConcatDataset([data, other]), 'val_dataloader')
    assert not any('img_suffix' in text for text in warned)
    check_dataset(other, 'val_dataloader')
    assert any('img_suffix' in text for text in warned)


def test_a_list_of_ones_own_has_no_other_endings(tmp_path):
    from mmseg.datasets import BaseSegDataset

    build(tmp_path, [MASK], BINARY)

    class Own(BaseSegDataset):
        def load_data_list(self):
            paths = dict(
                img_path=f'{tmp_path}/images/000.png', seg_map_path=f'{tmp_path}/maps/000.png'
            )
            return [dict(paths, label_map=None, reduce_zero_label=False, seg_fields=[])]

    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    data = Own(data_prefix=dict(seg_map_path='maps'), metainfo=dict(classes=BINARY), pipeline=steps)
    del data.img_suffix
    assert check_dataset(data, 'train_dataloader') is None and len(data) == 1


def test_a_bad_map_is_found_before_the_run(tmp_path):
    dataset = build(tmp_path, [MASK * 0, MASK * 7], BINARY)
    with pytest.raises(UserError, match='001.png has the label 7, but there are 2 classes'):
        check_dataset(dataset, 'train_dataloader')


CE, SOFTMAX = dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='CrossEntropyLoss')
DICE = dict(type='DiceLoss')
# settings of a head, number of classes in the data, result: 'fine', a warning or an error
HEADS = {
    'as many': (dict(num_classes=3), 3, None),
    'fewer': (dict(num_classes=2), 3, 'has num_classes=2, and the data set of train has 3'),
    'more': (dict(num_classes=4), 3, 'num_classes=4, and the data set of train has 3 classes: it'),
    'two channels': (dict(num_classes=2), 2, None),
    'one channel': (dict(num_classes=2, out_channels=1, loss_decode=CE), 2, None),
    'one channel, one class': (dict(num_classes=1, loss_decode=CE), 2, None),
    'several losses': (dict(num_classes=2, out_channels=1, loss_decode=[CE, DICE]), 2, None),
    'softmax': (dict(num_classes=2, out_channels=1, loss_decode=SOFTMAX), 2, 'has out_channels=1'),
    'one softmax': (dict(num_classes=2, out_channels=1, loss_decode=[CE, SOFTMAX]), 2,
                    'losses with use_sigmoid=True'),
    'hard pixels': (dict(num_classes=2, out_channels=1, loss_decode=dict(type='OhemCrossEntropy')),
                    2, 'losses with use_sigmoid=True'),
    'Lovasz': (dict(num_classes=2, out_channels=1, loss_decode=dict(
        type='LovaszLoss', reduction='none')), 2, 'losses with use_sigmoid=True'),
    'Lovasz, binary': (dict(num_classes=2, out_channels=1, loss_decode=dict(
        type='LovaszLoss', reduction='none', loss_type='binary')), 2, None),
    'distances': (dict(num_classes=2, out_channels=1, loss_decode=dict(
        type='HuasdorffDisstanceLoss')), 2, 'losses with use_sigmoid=True'),
    'depths': (dict(num_classes=3, loss_decode=dict(type='SiLogLoss')), 3, 'SiLogLoss, no loss'),
    'hard pixels, all classes': (dict(num_classes=3, loss_decode=dict(type='OhemCrossEntropy')), 3,
                                 'has OhemCrossEntropy, no loss .* sampler=dict'),
    'borders': (dict(num_classes=3, loss_decode=[SOFTMAX, dict(type='BoundaryLoss')]), 3,
                'has BoundaryLoss, no loss'),
    'a name': (dict(num_classes=3, loss_decode=dict(type='DiceLoss', loss_name='dice')), 3,
               "loss_name='dice', which is logged and trains nothing"),
    'ignored elsewhere': (dict(num_classes=3, ignore_index=200, loss_decode=dict(
        type='TverskyLoss')), 3, 'ignore_index=200, and its TverskyLoss 255; set ignore_index=200'),
    'ignored': (dict(num_classes=3, ignore_index=200, loss_decode=dict(
        type='TverskyLoss', ignore_index=200)), 3, None),
    'three classes': (dict(num_classes=3, out_channels=1, loss_decode=CE), 3,
                      'which is for two classes .* leave out_channels out and set num_classes=3'),
    'no names of classes': (dict(num_classes=3, out_channels=1, loss_decode=CE), 0, None),
}  # fmt: skip


@pytest.mark.parametrize('stacked', [False, True], ids=['one', 'cascade'])
@pytest.mark.parametrize('name', HEADS)
def test_heads(warned, name, stacked):
    settings, num_classes, said = HEADS[name]
    init_default_scope('mmseg')
    head = MODELS.build(dict(type='FCNHead', in_channels=8, channels=8) | settings)
    model = SimpleNamespace(decode_head=head)
    if stacked:
        good = dict(type='FCNHead', in_channels=8, channels=8, num_classes=max(num_classes, 2))
        model.decode_head = nn.ModuleList([MODELS.build(good), head])
    if said is None or name in ('more', 'a name'):
        check_heads(model, num_classes, 'train')
        told = [text for text in warned if 'model.decode_head' in text]
        assert len(told) == (said is not None) and (said or '') in ''.join(told)
    else:
        with pytest.raises(UserError, match=f'model.decode_head .*{said}'):
            check_heads(model, num_classes, 'train')


@pytest.mark.parametrize('shape', [(4200, 4200), (5, 7)])
def test_pixels_of_a_map(shape):
    """Those of two classes, an unknown one and ignored ones, beside numpy's count."""
    hosts.of(dict(default_scope='mmseg')).apply()
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.evaluation import SemSegMetric
    from mmseg.evaluation import IoUMetric

    pred, label = torch.zeros(2, *shape, dtype=torch.uint8)
    pred[0], pred[1, 2], label[1], label[2] = 1, 3, 1, 255
    a, b = (labels.numpy()[label.numpy() != 255] for labels in (pred, label))
    wanted = [((a == i) & (b == i), (a == i) | (b == i), a == i, b == i) for i in (0, 1)]
    wanted = np.count_nonzero(wanted, axis=2).T.tolist()
    for kind in (torch.uint8, torch.float32):
        found = IoUMetric.intersect_and_union(pred.to(kind), label, 2, 255)
        assert [x.tolist() for x in found] == wanted
    found = SemSegMetric()._compute_pred_stats(pred, label, 2, 255)
    assert [x.tolist() for x in found.values()] == wanted


@pytest.mark.parametrize('ignored', [None, 255])
def test_labels_that_are_no_class_count_nowhere(ignored):
    hosts.of(dict(default_scope='mmseg')).apply()
    from mmseg.evaluation import IoUMetric

    pred, label = torch.tensor([[0, 1, 1, 7]]), torch.tensor([[0, 1, -1, 255]])
    found = IoUMetric.intersect_and_union(
        pred_label=pred, label=label, num_classes=2, ignore_index=ignored
    )
    assert [x.tolist() for x in found] == [[1, 1], [1, 2], [1, 2], [1, 1]]


@pytest.mark.parametrize('beta', [1, 2])
@pytest.mark.parametrize('nan_to_num', [None, -1])
def test_f_scores_of_classes_that_are_never_right(beta, nan_to_num):
    """Against a count of pixels; of class 5 there is none, and 2 to 4 are never right."""
    hosts.of(dict(default_scope='mmseg')).apply()
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.evaluation import SemSegMetric
    from mmseg.evaluation import IoUMetric

    label = np.array([0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 255])
    pred = np.array([0, 0, 0, 1, 1, 1, 3, 4, 0, 4, 2])
    used = label < 255
    wanted, precisions = [], []
    for k in range(5):
        right = np.sum((pred == k) & (label == k))
        extra = np.sum((pred == k) & (label != k) & used)
        missed = np.sum((pred != k) & (label == k))
        wanted.append((1 + beta**2) * right / ((1 + beta**2) * right + beta**2 * missed + extra))
        precisions.append(right / max(right + extra, 1))  # class 2 is never predicted
    assert wanted[2:] == [0, 0, 0] and 0 < wanted[1] < wanted[0] < 1
    areas = IoUMetric.intersect_and_union(torch.tensor(pred), torch.tensor(label), 6, 255)
    found = IoUMetric.total_area_to_metrics(*areas, ['mFscore', 'mDice'], nan_to_num, beta)
    for name, own in (('Fscore', wanted), ('Precision', precisions)):
        np.testing.assert_allclose(found[name][:5], own, rtol=1e-6)
        assert found[name][5] == -1 if nan_to_num else np.isnan(found[name][5])
    assert beta > 1 or np.allclose(found['Dice'], found['Fscore'], equal_nan=True)
    metric = SemSegMetric(['mFscore', 'mIoU'], beta=beta)
    metric.dataset_meta = dict(classes=list('abcdef'))
    halves = [torch.tensor(map_).split([4, 7]) for map_ in (pred, label)]
    scores = metric.compute_metrics(
        [metric._compute_pred_stats(*h, 6, 255) for h in zip(*halves, strict=True)]
    )
    assert scores['mFscore'] == pytest.approx(100 * np.mean(wanted), abs=0.01)
    assert scores['mPrecision'] == pytest.approx(100 * np.mean(precisions), abs=0.01)
    assert scores['aAcc'] == pytest.approx(100 * 5 / 10, abs=0.01)
