"""Converted weights of published implementations give the same numbers as the originals.

Runs in the environment of `make peers`. Image sizes are multiples of the window: otherwise,
published implementations pad and mask differently (docs/numerics.md).
"""

import pytest
import torch

from benchmarks import peers
from mmswinv2.checkpoints import CheckpointError, load_pretrained
from mmswinv2.core import SwinV2

TOLERANCE = 1e-5  # relative to the largest value

# image, windows, pre-trained windows (0: none, the window itself sets the scale)
SETTINGS = {
    'w8': (256, (8, 8, 8, 8), (0, 0, 0, 0)),
    'w16': (256, (16, 16, 16, 8), (0, 0, 0, 0)),
    'w12to16': (256, (16, 16, 16, 8), (12, 12, 12, 6)),
}


def outputs(run, stages, norm, image):
    """Maps ``(B, C, H, W)`` at the end of each stage, and the last one normalized."""
    seen = []

    def keep(module, args, out):
        out = out[0] if isinstance(out, tuple) else out
        if out.ndim == 3:  # (B, H * W, C)
            side = round(out.shape[1] ** 0.5)
            out = out.unflatten(1, (side, side))
        seen.append(out.permute(0, 3, 1, 2))

    handles = [m.register_forward_hook(keep) for m in (*stages, norm)]
    with torch.no_grad():
        run(image)
    for handle in handles:
        handle.remove()
    return seen


CASES = [
    (peer, size, setting)
    for peer in ('timm', 'transformers', 'torchvision', 'mmpretrain')
    for size in ('tiny', 'small', 'base')
    for setting in SETTINGS
    if (peer, setting) != ('torchvision', 'w12to16')  # it has no pre-trained windows
]


@pytest.mark.parametrize(('peer', 'size', 'setting'), CASES)
def test_parity(peer, size, setting, tmp_path, record_property):
    image, windows, pretrained = SETTINGS[setting]
    if peer == 'torchvision':
        # torchvision pads maps smaller than the window with zeros, so use no such maps
        image, windows = 32 * windows[0], (windows[0],) * 4
    model, stages, norm, run = getattr(peers, peer)(size, image, windows, pretrained)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'peer.pth')
    scale = [p or w for p, w in zip(pretrained, windows, strict=True)]
    net = SwinV2(size, window_size=windows, pretrained_window_sizes=scale).eval()
    report = load_pretrained(net, tmp_path / 'peer.pth')
    assert report.format == peer
    assert set(report.missing) == {f'norm{i}.{p}' for i in range(3) for p in ('weight', 'bias')}
    assert report.unexpected == []

    x = torch.randn(1, 3, image, image, generator=torch.Generator().manual_seed(1))
    theirs = outputs(run, stages, norm, x)
    ours = outputs(net, list(net.layers), net.norm3, x)
    assert len(ours) == len(theirs) == 5
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)]
    record_property('largest error of the largest value', max(errors))
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize('prefix', ['', 'encoder.model.'])
def test_parity_of_timms_feature_extractor(prefix, tmp_path):
    """``features_only=True`` has other keys than timm's classifiers."""
    peers.import_torchvision()
    import timm

    theirs = timm.create_model('swinv2_tiny_window8_256', features_only=True, pretrained=False)
    peers.randomise(theirs)
    state = {prefix + key: value for key, value in theirs.state_dict().items()}
    torch.save({'model_state_dict': state}, tmp_path / 'features.pth')
    net = SwinV2('tiny', window_size=8).eval()
    report = load_pretrained(net, tmp_path / 'features.pth')
    assert (report.format, report.prefix) == ('timm', prefix)
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    ours = outputs(net, list(net.layers), net.norm3, x)
    with torch.no_grad():
        for a, b in zip(ours, theirs(x), strict=False):
            assert (a - b.permute(0, 3, 1, 2)).abs().max() < TOLERANCE * b.abs().max()


@pytest.mark.parametrize('peer', ['timm', 'transformers'])
def test_folders_of_peers_tell_the_windows(peer, tmp_path):
    """Their weights do not, and a window of 16 is one of 8 in the last stage at 256 pixels."""
    peers.import_torchvision()
    if peer == 'timm':
        import timm
        from timm.models import save_for_hf

        net = timm.create_model('swinv2_tiny_window16_256', num_classes=3)
        save_for_hf(net, str(tmp_path), safe_serialization=True)
        scale = net.layers[3].blocks[0].attn
    else:
        from transformers import Swinv2Config, Swinv2Model

        net = Swinv2Model(Swinv2Config(image_size=256, window_size=16))
        net.save_pretrained(tmp_path)
        scale = net.encoder.layers[3].blocks[0].attention.self
    assert tuple(scale.window_size) == (8, 8)
    with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[16, 16, 16, 8\]'):
        load_pretrained(SwinV2('tiny', window_size=16), tmp_path)
    ours = SwinV2('tiny', window_size=16, pretrained_window_sizes=[16, 16, 16, 8])
    assert load_pretrained(ours, tmp_path).format == peer
