"""Models with random weights, pictures and a clip."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmswinv2 import hosts
from tests.test_tools.conftest import ROOT, clips, shapes, tool, train  # noqa: F401  fixtures


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A function that returns a file of random weights for a config."""
    folder = tmp_path_factory.mktemp('weights')

    def make(config):
        path = folder / f'{config.replace("/", "-")}.pth'
        if not path.exists():
            cfg = Config.fromfile(ROOT / config)
            host = hosts.of(cfg)
            host.apply()
            hosts.use_registries(cfg)
            torch.manual_seed(0)
            torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path)
        return str(path)

    return make


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Three images in a folder and its subfolder, two of them with the same stem."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    (folder / 'more').mkdir()
    for name, size in (('a.jpg', (60, 80)), ('b.png', (70, 50)), ('more/a.png', (40, 40))):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    from mmswinv2.datasets import write_video

    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    frames = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
    write_video(path, frames, 10)
    return path
