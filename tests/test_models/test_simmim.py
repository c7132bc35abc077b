import pytest
import torch
from torch import nn

from mmswinv2.models import (
    NormalizedPixelLoss,
    SimMIMSwinTransformerV2,
    SwinTransformerV2,
    VideoSwinTransformerV2,
)

NANO = dict(arch='nano', window_size=4, drop_path_rate=0.0)


def randomised(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


@pytest.fixture
def net():
    return randomised(SimMIMSwinTransformerV2(**NANO))


def test_without_a_mask_it_is_the_backbone(net):
    plain = SwinTransformerV2(**NANO, out_indices=(3,)).eval()
    state = net.state_dict()
    assert set(state) - set(plain.state_dict()) == {'mask_token'}
    plain.load_state_dict({k: v for k, v in state.items() if k != 'mask_token'})
    x = torch.rand(2, 3, 64, 96)
    assert torch.equal(net(x)[0], plain(x)[0])


def test_masked_patches_are_not_seen(net):
    mask = torch.zeros(2, 16, 16, dtype=torch.long)
    mask[0, :8], mask[1, :, 8:] = 1, 1
    a, b = torch.rand(2, 2, 3, 64, 64)
    seen = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None] == 0
    b = torch.where(seen, a, b)
    assert torch.equal(net(a, mask)[0], net(b, mask)[0])
    assert not torch.allclose(net(a)[0], net(b)[0])


def test_the_token_stands_in_for_the_embedding(net):
    x, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 16, 16)
    mask[0, 3, 5] = 1
    embedded = []
    net.layers[0].register_forward_pre_hook(lambda module, inputs: embedded.append(inputs[0]))
    net(x, mask)
    net(x)
    masked, plain = embedded
    assert torch.equal(masked[0, 3, 5], net.mask_token[0, 0])
    plain[0, 3, 5] = net.mask_token
    assert torch.equal(masked, plain)


def test_the_token_is_trained(net):
    net.train()
    mask = torch.ones(1, 16, 16)
    net(torch.rand(1, 3, 64, 64), mask)[0].square().sum().backward()
    assert net.mask_token.grad.abs().sum() > 0
    assert net.patch_embed.proj.weight.grad.abs().sum() == 0  # the whole image is masked


def test_wrong_mask(net):
    with pytest.raises(ValueError, match=r'mask is \(1, 8, 8\).*\(1, 16, 16\)'):
        net(torch.rand(1, 3, 64, 64), torch.zeros(1, 8, 8))
    assert net(torch.rand(1, 3, 64, 64))[0].shape == (1, 256, 2, 2)  # the bad mask is discarded


@pytest.mark.parametrize('patch_size', [3, 5, 47])
def test_loss_is_what_a_slow_computation_says(patch_size):
    torch.manual_seed(0)
    pred, target = torch.randn(2, 2, 3, 12, 10, dtype=torch.float64)
    mask = (torch.rand(2, 1, 12, 10) < 0.6).double()
    half, total, count = patch_size // 2, 0.0, 0
    for b in range(2):
        for y in range(12):
            for x in range(10):
                if not mask[b, 0, y, x]:
                    continue
                count += 1
                around = target[
                    b, :, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1
                ].flatten(1)
                normal = (target[b, :, y, x] - around.mean(1)) / (
                    around.var(1, unbiased=True) + 1e-6
                ).sqrt()
                total += (pred[b, :, y, x] - normal).abs().sum()
    loss = NormalizedPixelLoss(patch_size)(pred, target, mask)
    assert loss.item() == pytest.approx(float(total) / count / 3, rel=1e-5)


def test_the_neighbourhood_of_the_authors():
    """``norm_target_patch_size`` of their configs."""
    pred, target, mask = (
        torch.randn(1, 3, 50, 60),
        torch.rand(1, 3, 50, 60),
        torch.ones(1, 1, 50, 60),
    )
    assert NormalizedPixelLoss()(pred, target, mask) == NormalizedPixelLoss(47)(pred, target, mask)
    assert NormalizedPixelLoss()(pred, target, mask) != NormalizedPixelLoss(45)(pred, target, mask)


def test_loss_looks_at_masked_pixels_alone():
    torch.manual_seed(0)
    loss = NormalizedPixelLoss(5)
    pred, target, mask = torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    before = loss(pred, target, mask)
    pred[..., 4:] += 1
    assert loss(pred, target, mask) == before
    pred[..., :4] += 1
    assert loss(pred, target, mask) != before


def test_loss_of_a_single_pixel():
    pixel = torch.ones(1, 3, 1, 1)
    assert NormalizedPixelLoss(3)(pixel, pixel, pixel[:, :1]).isfinite()


def test_it_starts_from_its_own_checkpoint(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    other = SimMIMSwinTransformerV2(**NANO, init_cfg=init_cfg)
    other.init_weights()
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in net.state_dict().items())


def test_one_stage_is_returned():
    with pytest.raises(ValueError, match='out_indices must be one stage for SimMIM'):
        SimMIMSwinTransformerV2(**NANO, out_indices=(2, 3))


@pytest.mark.parametrize('patch_size', [1, 46, '47', 47.0, True])
def test_wrong_neighbourhood(patch_size):
    with pytest.raises(ValueError, match=f'odd and at least 3, got {patch_size!r}'):
        NormalizedPixelLoss(patch_size)


@pytest.mark.parametrize('backbone', [SwinTransformerV2, VideoSwinTransformerV2])
def test_every_backbone_starts_from_its_checkpoint(net, backbone, tmp_path, log):
    # as saved by training: backbone and decoder
    decoder = nn.Sequential(nn.Conv2d(256, 3072, 1))
    state = {f'backbone.{k}': v for k, v in net.state_dict().items()}
    state |= {f'neck.decoder.{k}': v for k, v in decoder.state_dict().items()}
    torch.save(dict(meta={}, state_dict=state), tmp_path / 'epoch_1.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'epoch_1.pth'))
    other = backbone(arch='nano', window_size=4, init_cfg=init_cfg)
    other.init_weights()
    key = 'layers.2.blocks.1.mlp.fc1.weight'
    assert torch.equal(other.state_dict()[key], net.state_dict()[key])
    assert 'unexpected 0' in log() and '3 of the file not used' in log()
