"""The video backbone in mmengine."""

import pytest
import torch
from mmengine.registry import MODELS

from mmswinv2.checkpoints import CheckpointError
from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2


def build(**kwargs):
    return MODELS.build(dict(type='mmswinv2.VideoSwinTransformerV2', arch='nano', **kwargs))


def test_one_frame_is_an_image():
    """Contract C1: with one frame, patch (1, 4, 4) and window (1, w, w), equals the 2D backbone."""
    torch.manual_seed(0)
    image = SwinTransformerV2('nano', window_size=5)
    for p in image.parameters():
        torch.nn.init.normal_(p, std=0.3)
    video = build(patch_size=(1, 4, 4), window_size=(1, 5, 5), out_indices=(0, 1, 2, 3))
    state = {k: v.clone() for k, v in image.state_dict().items()}
    for key in state:
        if key == 'patch_embed.proj.weight':
            state[key] = state[key].unsqueeze(2)
        if key.endswith('cpb_mlp.0.weight'):
            state[key] = torch.cat([torch.randn(512, 1), state[key]], dim=1)  # the time offset is 0
    video.load_state_dict(state)
    x = torch.rand(2, 3, 45, 70)
    for out, expected in zip(video.eval()(x.unsqueeze(2)), image.eval()(x), strict=True):
        torch.testing.assert_close(out.squeeze(2), expected, atol=1e-5, rtol=1e-5)


def test_a_single_output_is_the_map_itself():
    """Heads of mmaction2 take a tensor, not a tuple."""
    x = torch.rand(1, 3, 5, 40, 36)
    out = build(window_size=(2, 4, 4))(x)
    assert out.shape == (1, 256, 3, 2, 2)
    outs = build(window_size=(2, 4, 4), out_indices=(1, 3))(x)
    assert [o.shape for o in outs] == [(1, 64, 3, 5, 5), (1, 256, 3, 2, 2)]


def test_pretrained_is_short_for_init_cfg(tmp_path):
    path = tmp_path / '2d.pth'
    torch.save({'state_dict': SwinTransformerV2('nano', window_size=4).state_dict()}, path)
    for kwargs in (
        dict(pretrained=str(path)),
        dict(init_cfg=dict(type='Pretrained', checkpoint=str(path))),
    ):
        net = build(window_size=(2, 4, 4), **kwargs)
        net.init_weights()
        patches = torch.load(path)['state_dict']['patch_embed.proj.weight']
        torch.testing.assert_close(net.patch_embed.proj.weight.sum(2), patches)
    net = build(window_size=(2, 4, 4), pretrained=str(path), pretrained2d=False)
    with pytest.raises(CheckpointError, match='set pretrained2d=True'):
        net.init_weights()
    with pytest.raises(ValueError, match='both say what to load'):
        VideoSwinTransformerV2('nano', pretrained='a.pth', init_cfg=dict(type='Pretrained'))


@pytest.mark.parametrize('patch_size', [4, (4, 4)])
def test_patches_have_a_time_axis(patch_size):
    with pytest.raises(ValueError, match='patch_size must be .frames, height, width.'):
        VideoSwinTransformerV2('nano', patch_size=patch_size)


def test_the_published_windows_of_mmaction2_are_read_per_axis():
    assert build(window_size=(8, 7, 7)).window_size == ((8, 7, 7),) * 4
    windows = [(8, 12, 12)] * 3 + [(8, 6, 6)]
    assert build(pretrained_window_sizes=windows).pretrained_window_sizes == tuple(windows)


def test_a_window_of_a_net_of_three_stages_says_what_it_is_of():
    three = dict(embed_dims=8, depths=(1, 1, 1), num_heads=(1, 2, 4))
    with pytest.raises(UserError, match='can be read as one per axis or as one per stage'):
        VideoSwinTransformerV2(three, window_size=(8, 7, 7), out_indices=(2,))
    net = VideoSwinTransformerV2(three, window_size=[(8, 7, 7)] * 3, out_indices=(2,))
    assert net.window_size == ((8, 7, 7),) * 3


@pytest.mark.parametrize('kwargs', [dict(pretrained2d=1), dict(pretrained2d='no')])
def test_pretrained2d_is_a_bool(kwargs):
    with pytest.raises(UserError, match='pretrained2d must be True or False'):
        VideoSwinTransformerV2('nano', **kwargs)
