import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmswinv2.errors import UserError
from mmswinv2.models import GlobalSelfAttention


@pytest.fixture
def levels():
    torch.manual_seed(0)
    return [torch.rand(2, 32 * 2**i, 9 - 2 * i, 11 - 2 * i) for i in range(3)]


def test_equals_torch_and_leaves_the_other_levels(levels):
    """Equals a pre-norm encoder layer of torch with the same weights."""
    neck = GlobalSelfAttention(128, num_heads=4)
    torch.manual_seed(1)
    for parameter in neck.parameters():
        nn.init.normal_(parameter, std=0.3)
    layer = nn.TransformerEncoderLayer(
        128, 4, 512, dropout=0.0, activation='gelu', batch_first=True, norm_first=True
    )
    renamed = {
        'qkv.': 'self_attn.in_proj_',
        'proj.': 'self_attn.out_proj.',
        'mlp.fc1.': 'linear1.',
        'mlp.fc2.': 'linear2.',
        'norm1.': 'norm1.',
        'norm2.': 'norm2.',
    }
    own = neck.state_dict()
    layer.load_state_dict(
        {
            key.replace(old, new): value
            for key, value in own.items()
            for old, new in renamed.items()
            if key.startswith(old)
        }
    )
    outs = neck(levels)
    assert outs[0] is levels[0] and outs[1] is levels[1]
    expected = layer(levels[2].flatten(2).transpose(1, 2)).transpose(1, 2).view_as(levels[2])
    torch.testing.assert_close(outs[2], expected)


def test_twelve_channels_squared():
    """The attention has 4 C^2 parameters, the MLP 8 C^2, norms and biases 13 C."""
    neck = GlobalSelfAttention(64)
    assert sum(p.numel() for p in neck.parameters()) == 12 * 64**2 + 13 * 64
    assert neck.num_heads == 2


def test_starts_as_the_backbone_does():
    for module in GlobalSelfAttention(256).modules():
        if isinstance(module, nn.Linear):
            assert 0.018 < module.weight.std() < 0.022 and not module.bias.any()


def test_before_an_fpn(levels):
    init_default_scope('mmdet')
    neck = MODELS.build([
        dict(type='mmswinv2.GlobalSelfAttention', in_channels=128, drop_path_rate=0.1),
        dict(type='FPN', in_channels=[32, 64, 128], out_channels=16, num_outs=4),
    ])  # fmt: skip
    outs = neck(levels)
    assert [tuple(o.shape[2:]) for o in outs] == [(9, 11), (7, 9), (5, 7), (3, 4)]
    sum(o.sum() for o in outs).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_bad_channels(levels):
    with pytest.raises(ValueError, match='divisible by num_heads, got 100 and 3'):
        GlobalSelfAttention(100)
    with pytest.raises(ValueError, match='last level has 128 channels and in_channels=64'):
        GlobalSelfAttention(64)(levels)


@pytest.mark.parametrize(
    ('name', 'value', 'rule'),
    [
        ('in_channels', 0, 'an int of at least 1'),
        ('in_channels', '64', 'an int of at least 1'),
        ('num_heads', 0, 'an int of at least 1, or None'),
        ('num_heads', -2, 'an int of at least 1, or None'),
        ('mlp_ratio', 0, 'a number that gives an MLP'),
        ('mlp_ratio', -1, 'a number that gives an MLP'),
        ('drop_path_rate', 1.0, 'a number from 0 to below 1'),
        ('drop_path_rate', '0.1', 'a number from 0 to below 1'),
    ],
)
def test_numbers_that_cannot_be(name, value, rule):
    with pytest.raises(UserError, match=f'{name} must be {rule}.*, got {value!r}'):
        GlobalSelfAttention(**{'in_channels': 64, name: value})
