"""The table of published weights against configs, metafiles and documentation."""

import re

import pytest
import yaml
from mmengine.config import Config

from mmswinv2.checkpoints import PUBLISHED, CheckpointError
from mmswinv2.checkpoints.published import find_published, published_weights
from mmswinv2.core import VARIANTS
from tests.test_tools.conftest import ROOT

CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)


def per_stage(windows):
    """Pre-trained windows of a config in space, one per stage."""
    if isinstance(windows, int) or (len(windows) == 3 and isinstance(windows[0], int)):
        windows = [windows] * 4
    return tuple(w if isinstance(w, int) else w[-1] for w in windows)


@pytest.mark.parametrize('name', PUBLISHED)
def test_an_entry_agrees_with_its_name(name):
    weights = PUBLISHED[name]
    assert weights.url.endswith(f'/{name}.pth') and weights.arch in VARIANTS
    # the authors' names contain variant, window and image size
    match = re.fullmatch(
        r'swinv2_(\w+?)_patch4_window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?(_22k)?(_22kto1k_ft)?', name
    )
    if match:
        arch, first, last, first_side, side = match.groups()[:5]
        assert (weights.arch, weights.window) == (arch, int(last or first))
        assert weights.image_size == int(side or first_side)
        whole_map = int(first_side) // 32  # limits the last stage's window
        assert weights.pretrained_windows == (int(first),) * 3 + (min(int(first), whole_map),)
        assert weights.sha256 == '' and 'SwinTransformer/storage' in weights.url
    else:
        size, digits = re.fullmatch(r'swin_v2_(\w)-([0-9a-f]{8})', name).groups()
        assert weights.arch[0] == size and weights.sha256 == digits
        assert weights.pretrained_windows == (8,) * 4 == (weights.window,) * 4
        assert weights.image_size == 256


def test_unknown_names():
    with pytest.raises(CheckpointError, match='close to it: swinv2_tiny_patch4_window16_256'):
        published_weights('swinv2_tiny_patch4_window16_255')
    with pytest.raises(CheckpointError, match='swinv2_large_patch4_window12_192_22k'):
        published_weights('resnet')  # no similar name: all are listed


@pytest.mark.parametrize(
    ('arch', 'window', 'name'),
    [
        ('tiny', None, 'swinv2_tiny_patch4_window16_256'),
        ('tiny', 8, 'swinv2_tiny_patch4_window8_256'),
        ('base', 16, 'swinv2_base_patch4_window16_256'),
        ('base', 24, 'swinv2_base_patch4_window12to24_192to384_22kto1k_ft'),
        ('large', None, 'swinv2_large_patch4_window12to24_192to384_22kto1k_ft'),
        ('large', 16, 'swinv2_large_patch4_window12to16_192to256_22kto1k_ft'),
        ('large', 48, 'swinv2_large_patch4_window12to24_192to384_22kto1k_ft'),
        ('giant', 16, None),
    ],
)
def test_weights_of_a_size(arch, window, name):
    assert find_published(arch, window) == name


def pretrained(cfg):
    """The checkpoints that initialize a config's backbone."""
    init = cfg.model.get('backbone', {}).get('init_cfg') or {}
    hooks = [hook for hook in cfg.get('custom_hooks', []) if 'checkpoint' in hook]
    return [node['checkpoint'] for node in [init, *hooks] if 'checkpoint' in node]


def test_configs_take_weights_by_name_and_with_their_windows():
    for path in (ROOT / 'configs').rglob('*.py'):
        assert not re.search(r'://\S+\.(pth|safetensors)', path.read_text()), path
    seen = set()
    for path in CONFIGS:
        if 'nano' in path.name or '_test' in path.name:
            continue  # from scratch, or initialized by another config
        cfg = Config.fromfile(path)
        for checkpoint in pretrained(cfg):
            if '/' in checkpoint:
                continue  # a checkpoint of the user
            weights, backbone = PUBLISHED[checkpoint], cfg.model.backbone
            assert weights.arch == backbone.arch, path
            assert per_stage(backbone.pretrained_window_sizes) == weights.pretrained_windows, path
            seen.add(checkpoint)
    assert len(seen) == 8


def test_metafiles_and_commands_name_published_files():
    urls = {weights.url for weights in PUBLISHED.values()}
    listed = set()
    for path in (ROOT / 'configs').rglob('metafile.yml'):
        listed |= {
            m['Weights'] for m in yaml.safe_load(path.read_text())['Models'] if 'Weights' in m
        }
    assert listed <= urls and len(listed) == 12
    for path in CONFIGS:
        for name in re.findall(r'CONFIG (swin\w*)\.pth', path.read_text()):
            assert name in PUBLISHED, path


def test_documentation_has_the_table():
    rows = re.findall(
        r'^\| `(swin[\w-]+)` \| (\w+) \| (\d+) \| (\d+) \| `(.+?)` \|$',
        (ROOT / 'docs/checkpoints.md').read_text(),
        re.M,
    )
    assert rows == [
        (name, w.arch, str(w.window), str(w.image_size), str(list(w.pretrained_windows)))
        for name, w in PUBLISHED.items()
    ]
