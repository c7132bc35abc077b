"""Fixtures for tests with mmpretrain, in the environment of `make peers`."""

import cv2
import numpy as np
import pytest
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mmswinv2 import hosts
from mmswinv2.engine.configs import config_with_options
from mmswinv2.hosts.mmpretrain import import_torchvision
from tests.test_tools.conftest import ROOT, tool  # noqa: F401, a fixture

CLASSIFIER = 'configs/classification/swinv2-nano_shapes.py'
SIMMIM = 'configs/pretraining/simmim_swinv2-nano_shapes.py'


@pytest.fixture(scope='session', autouse=True)
def importable_mmpretrain():
    """Patch what importing mmpretrain needs, only for tests here, as others import this file."""
    import_torchvision()
    hosts.of(dict(default_scope='mmpretrain')).apply()


@pytest.fixture(scope='module', autouse=True)
def default_scope():
    """Leave the default scope as it was, by which backbones return one map or all."""
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def build(path, **changes):
    """The model of a config; keys of `changes` have double underscores for dots."""
    options = {key.replace('__', '.'): value for key, value in changes.items()}
    cfg = config_with_options(str(ROOT / path), options)
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model)


def draw(path, label, size=64):
    """Write a picture of one brightness, set by the label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), 20 * label, np.uint8))


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """12 + 8 pictures of 4 classes."""
    root = tmp_path_factory.mktemp('data') / 'folders'
    for split, number in (('train2017', 3), ('val2017', 2)):
        for label in range(4):
            for i in range(number):
                draw(root / split / f'class{label}' / f'{i}.png', label)
    return root
