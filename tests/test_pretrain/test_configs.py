"""Every config of mmpretrain builds."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from tests.test_configs.test_configs import CONFIGS, OF_MMPRETRAIN, check_config
from tests.test_tools.conftest import ROOT

SIMMIM = 'configs/pretraining/simmim_swinv2-base-w12_16xb128-800e_in1k-192px.py'


@pytest.mark.parametrize('path', [p for p in CONFIGS if p.startswith(OF_MMPRETRAIN)])
def test_config_builds(path):
    check_config(path, ('train',) if path.startswith('configs/pre') else ('train', 'val', 'test'))


def test_crops_of_simmim_are_smoothed_as_theirs_are():
    """The pixels are the target; Pillow averages all source pixels, cv2 uses only a few."""
    from torchvision.transforms.functional import InterpolationMode, resized_crop

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (600, 800, 3), np.uint8)  # the finest detail there is
    (crop,) = [
        t for t in Config.fromfile(ROOT / SIMMIM).train_pipeline if t['type'] == 'RandomResizedCrop'
    ]
    init_default_scope('mmpretrain')
    ours = TRANSFORMS.build(crop)
    ours.rand_crop_params = lambda img: (30, 50, 500, 480)
    theirs = resized_crop(
        Image.fromarray(image), 30, 50, 500, 480, [192, 192], InterpolationMode.BILINEAR
    )
    difference = ours({'img': image})['img'].astype(float) - np.asarray(theirs, float)
    assert np.sqrt((difference**2).mean()) < 1


@pytest.mark.parametrize(
    ('dataset', 'fetched'),
    [
        (dict(type='CIFAR10', data_root='nowhere'), True),
        (dict(type='CIFAR10', data_prefix='nowhere'), True),
        (dict(type='mmpretrain.CIFAR10', data_root='nowhere', download=False), False),
        (dict(type='ImageNet', data_root='nowhere'), False),
        (dict(type='NoSuchType', data_root='nowhere'), False),
    ],
)
def test_data_sets_that_fetch_themselves_need_no_folder(dataset, fetched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dataset)))
    if fetched:
        hosts.check_data(cfg, ('train',))
        return
    with pytest.raises(UserError, match='the folder nowhere does not exist'):
        hosts.check_data(cfg, ('train',))
