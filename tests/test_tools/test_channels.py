"""Training, test and drawing with images of four channels and 16 bits, through the tools."""

import shutil

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from mmswinv2.checkpoints import read_checkpoint
from tests.test_tools.conftest import ROOT, scores

DETECTOR = 'configs/detection/mask-rcnn_swinv2-nano_coco-320-4-channels.py'
SEGMENTOR = 'configs/segmentation/swinv2-nano_upernet_ade20k-128x128-4-channels.py'
# the drawn shapes have four classes, COCO has eighty
OF_SHAPES = """
_base_ = {base!r}
classes = dict(metainfo=dict(_delete_=True, classes=('circle', 'square', 'triangle', 'star')))
train_dataloader = dict(dataset=classes)
val_dataloader = dict(dataset=classes)
test_dataloader = val_dataloader
model = dict(roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)))
"""


def four_channels(path):
    """Convert a picture to a TIFF of four channels, planar if its number is even."""
    rgb = np.asarray(Image.open(path).convert('RGB'))
    image = np.dstack([rgb, 255 - rgb[..., :1]]).astype(np.uint16) * 257
    if planes := int(path.stem.split('_')[-1]) % 2 == 0:
        image = np.moveaxis(image, 2, 0)
    tifffile.imwrite(
        path.with_suffix('.tif'),
        image,
        photometric='minisblack',
        planarconfig='separate' if planes else 'contig',
        compression='zlib',
    )
    path.unlink()


@pytest.fixture(scope='module')
def multispectral(shapes, tmp_path_factory):
    """The drawn shapes, in COCO's layout, with a fourth channel."""
    root = shutil.copytree(shapes, tmp_path_factory.mktemp('data') / 'multispectral')
    for path in sorted(root.glob('*2017/*.jpg')):
        four_channels(path)
    for path in root.glob('annotations/*.json'):
        path.write_text(path.read_text().replace('.jpg', '.tif'))
    return root


@pytest.fixture(scope='module')
def land(multispectral, tmp_path_factory):
    """The data of `multispectral` in ADE20K's layout."""
    root = tmp_path_factory.mktemp('data') / 'land'
    for split, name in (('train2017', 'training'), ('val2017', 'validation')):
        shutil.copytree(multispectral / split, root / 'images' / name)
        shutil.copytree(multispectral / 'stuffthingmaps' / split, root / 'annotations' / name)
        for path in root.glob(f'annotations/{name}/*.png'):
            labels = np.asarray(Image.open(path))
            Image.fromarray(labels % 7 + 1).save(path)
    return root


@pytest.mark.slow
def test_a_detector_of_four_channels(train, evaluate, multispectral, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(OF_SHAPES.format(base=str(ROOT / DETECTOR)))
    train(tmp_path, config=config, data_root=multispectral).succeeded()
    weights = read_checkpoint(tmp_path / 'iter_2.pth')['state_dict']
    assert weights['backbone.patch_embed.proj.weight'].shape == (32, 4, 4, 4)
    test, pictures = tmp_path / 'test', ('--show-dir', 'pictures')
    evaluate(config, tmp_path / 'iter_2.pth', test, *pictures, data_root=multispectral).succeeded()
    assert 'coco/bbox_mAP' in scores(test)
    check_pictures(test, 'pictures/*', multispectral / 'val2017')


def check_pictures(folder, pattern, images):
    """Check that every image is drawn and shows its own colors."""
    drawn = sorted(folder.rglob(pattern))
    assert len(drawn) == len(list(images.iterdir())) == 4
    for path in drawn:
        assert cv2.imread(str(path)).std() > 20


@pytest.mark.slow  # also tests test-time augmentation
def test_a_segmentor_of_four_channels(train, evaluate, land, tmp_path):
    train(tmp_path, config=SEGMENTOR, data_root=land).succeeded()
    test, pictures = tmp_path / 'test', ('--show-dir', tmp_path / 'pictures')
    evaluate(SEGMENTOR, tmp_path / 'iter_2.pth', test, *pictures, data_root=land).succeeded()
    assert 'mIoU' in scores(test)
    check_pictures(tmp_path, '*.png', land / 'images' / 'validation')
    evaluate(
        SEGMENTOR, tmp_path / 'iter_2.pth', tmp_path / 'tta', '--tta', data_root=land
    ).succeeded()
