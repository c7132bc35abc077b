"""Weights of image networks in video networks."""

import pytest
import torch

from mmswinv2.checkpoints import CheckpointError, inflate, load_pretrained
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2
from tests.test_checkpoints.test_load import weights

WINDOW, W_P = 5, 7


def image_net(**kwargs):
    """With weights far from their initialisation, so that every part matters."""
    torch.manual_seed(0)
    net = SwinTransformerV2('nano', window_size=WINDOW, pretrained_window_sizes=W_P, **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def video_net(t=4, **kwargs):
    arguments = dict(
        window_size=(t, WINDOW, WINDOW),
        pretrained_window_sizes=(t, W_P, W_P),
        out_indices=(0, 1, 2, 3),
    )
    return VideoSwinTransformerV2('nano', **{**arguments, **kwargs}).eval()


@pytest.fixture
def path(tmp_path):
    torch.save({'state_dict': image_net().state_dict()}, tmp_path / '2d.pth')
    return tmp_path / '2d.pth'


@pytest.mark.parametrize('t', [1, 2, 3, 4])
def test_a_still_clip_gives_what_the_frame_gives(path, t):
    """At every time step; the windows in time, whole, cut or shifted, do not matter."""
    net = video_net(t)
    report = load_pretrained(net, path, pretrained2d=True)
    assert report.inflated and 'inflated from 2D' in str(report)
    frame = torch.rand(2, 3, 50, 61)
    with torch.no_grad():
        expected = image_net()(frame)
        outs = net(frame.unsqueeze(2).expand(-1, -1, 10, -1, -1))
    for out, wanted in zip(outs, expected, strict=True):
        assert out.shape[2] == 5
        scale = wanted.abs().max()
        for step in out.unbind(2):
            torch.testing.assert_close(step / scale, wanted / scale, atol=2e-6, rtol=0)


def test_the_order_of_frames_matters_once_it_is_learnt(path):
    """An odd function of time makes a difference between a clip and its reverse."""
    net = video_net()
    load_pretrained(net, path, pretrained2d=True)
    clip = torch.rand(1, 3, 8, 40, 40)

    def asymmetry():
        with torch.no_grad():
            out, back = net.eval()(clip)[2], net(clip.flip(2))[2].flip(2)
        return float((out - back).abs().max() / out.abs().max())

    assert asymmetry() < 1e-5
    with torch.no_grad():
        net.layers[2].blocks[0].attn.cpb_mlp[0].weight[:, 0] = torch.randn(512)
    assert asymmetry() > 1e-2


def test_what_becomes_of_each_weight():
    state = image_net().state_dict()
    inflated = inflate(state, 2)
    expected = video_net().state_dict()
    assert {k: v.shape for k, v in inflated.items()} == {k: v.shape for k, v in expected.items()}
    patches = inflated['patch_embed.proj.weight']
    torch.testing.assert_close(patches.sum(2), state['patch_embed.proj.weight'])
    assert torch.equal(patches[:, :, 0], patches[:, :, 1])
    changed = {k for k in state if inflated[k].shape != state[k].shape}
    assert len(changed) == 1 + 8 and all('cpb_mlp.0.weight' in k for k in changed if 'layers' in k)
    assert all(torch.equal(inflated[k], state[k]) for k in state.keys() - changed)
    with pytest.raises(CheckpointError, match='video network; there is nothing to inflate'):
        inflate(inflated, 2)


def test_any_format_inflates_and_windows_are_compared_in_space(tmp_path):
    torch.save({'model': weights(tables=[(8, 8)] * 3 + [(4, 4)])}, tmp_path / 'a.pth')
    windows = [(2, 8, 8)] * 3 + [(2, 4, 4)]
    right = video_net(window_size=(2, 6, 6), pretrained_window_sizes=windows)
    report = load_pretrained(right, tmp_path / 'a.pth', pretrained2d=True)
    assert report.windows == dict(enumerate(windows))
    with pytest.raises(CheckpointError) as error:
        load_pretrained(video_net(), tmp_path / 'a.pth', pretrained2d=True)
    wanted = [(4, 8, 8)] * 3 + [4]
    assert f'set pretrained_window_sizes={wanted}' in str(error.value)


def test_video_weights_load_as_they_are(path, tmp_path):
    net = video_net()
    load_pretrained(net, path, pretrained2d=True)
    torch.save({'state_dict': net.state_dict()}, tmp_path / '3d.pth')
    for pretrained2d in (True, False):
        other = video_net()
        report = load_pretrained(other, tmp_path / '3d.pth', pretrained2d=pretrained2d)
        assert not report.inflated and not report.missing
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())


def test_the_wrong_kind_is_told(path, tmp_path):
    with pytest.raises(CheckpointError, match='image network.*set pretrained2d=True'):
        load_pretrained(video_net(), path)
    torch.save({'state_dict': video_net().state_dict()}, tmp_path / '3d.pth')
    with pytest.raises(CheckpointError, match='weights of a video network, and the backbone takes'):
        load_pretrained(image_net(), tmp_path / '3d.pth')
