import copy
import itertools
import math

import pytest
import torch

from mmswinv2.core.attention import ContinuousPositionBias, WindowAttention, log_coordinates
from mmswinv2.ops import WindowGrid
from tests import reference


def grid_of(size, window, shift=0):
    return WindowGrid(size, window, (shift,) * len(size))


def test_scale_is_bounded():
    attn = WindowAttention(16, 2, (4, 4)).double()
    tokens = torch.randn(1, 4, 4, 16, dtype=torch.double)
    outs = []
    for scale in (99, 100, 1000):
        torch.nn.init.constant_(attn.logit_scale, math.log(scale))
        outs.append(attn(tokens, grid_of((4, 4), (4, 4))))
    assert not torch.allclose(outs[0], outs[1], rtol=1e-6)
    torch.testing.assert_close(outs[1], outs[2])


def test_dropout_drops_in_training_only():
    for rates in (dict(attn_drop=0.5), dict(proj_drop=0.5)):
        attn = WindowAttention(16, 2, (4, 4), **rates)
        grid, tokens = grid_of((4, 4), (4, 4)), torch.randn(1, 4, 4, 16)
        assert not torch.equal(attn(tokens, grid), attn(tokens, grid))
        attn.eval()
        assert torch.equal(attn(tokens, grid), attn(tokens, grid))


@pytest.mark.parametrize('scale', [None, math.log(300)], ids=['any scale', 'beyond the bound'])
@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('size', [(8, 8), (7, 11), (3, 11), (2, 5, 7)], ids=str)
def test_layer_equals_masked_attention_over_the_whole_map(size, shift, scale):
    ndim = len(size)
    torch.manual_seed(0)
    attn = WindowAttention(12, 3, (4,) * ndim).double()
    for p in attn.parameters():
        torch.nn.init.normal_(p)
    if scale is not None:
        torch.nn.init.constant_(attn.logit_scale, scale)
    x = torch.randn(2, *size, 12, dtype=torch.double, requires_grad=True)
    ours = attn(x, grid_of(size, (4,) * ndim, shift))
    state = dict(attn.named_parameters())
    theirs = reference.attention(state, '', x, 3, (4,) * ndim, (shift,) * ndim, (4,) * ndim)
    torch.testing.assert_close(ours, theirs)
    tensors = [x, *attn.parameters()]
    weight = torch.randn_like(ours)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), tensors),
        torch.autograd.grad((theirs * weight).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def textbook_and_ours(dtype, size):
    """Whether output and gradients are finite under autocast, as published and as computed here."""
    torch.manual_seed(0)
    attn = WindowAttention(32, 2, (8, 8))
    x = torch.randn(1, *size, 32)
    for layer in (
        lambda: reference.textbook_attention(attn, x, 8),
        lambda: attn(x, grid_of(size, (8, 8))),
    ):
        attn.zero_grad()
        with torch.autocast('cpu', dtype=dtype):
            out = layer()
        out.float().square().sum().mul(64).backward()
        finite = all(p.grad is None or p.grad.isfinite().all() for p in attn.parameters())
        yield bool(out.isfinite().all()) and finite


def test_fp16_nan_of_zero_padding_and_its_absence_here():
    assert list(textbook_and_ours(torch.half, (16, 16))) == [True, True]  # nothing is padded
    assert list(textbook_and_ours(torch.half, (12, 19))) == [False, True]
    assert list(textbook_and_ours(torch.bfloat16, (12, 19))) == [True, True]


def test_coordinates_follow_equation_4():
    table = log_coordinates((8, 8), (8, 8))
    for dy, dx in itertools.product(range(-7, 8), repeat=2):
        for value, d in zip(table[dy + 7, dx + 7].tolist(), (dy, dx), strict=True):
            u = 8 * d / 7
            assert value == pytest.approx(math.copysign(math.log2(1 + abs(u)) / 3, u), abs=1e-6)


def test_pretrained_window_fixes_the_scale():
    at_8, at_16 = log_coordinates((8, 8), (8, 8)), log_coordinates((16, 16), (8, 8))
    assert torch.equal(at_16[8:-8, 8:-8], at_8)


def test_a_pretrained_window_of_one_token_has_a_scale():
    table = log_coordinates((2,), (1,), torch.double)
    assert table.flatten().tolist() == pytest.approx([-math.log2(9) / 3, 0, math.log2(9) / 3])


def test_float32_under_autocast():
    bias = ContinuousPositionBias(2, (8, 8))
    layers = torch.nn.Sequential(*bias)
    outside = 16 * torch.sigmoid(layers(log_coordinates((8, 8), (8, 8)))).movedim(-1, 0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = bias((8, 8))
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside)


@pytest.mark.parametrize(
    ('dtype', 'wide'),
    [(torch.half, torch.float), (torch.bfloat16, torch.float), (torch.double, torch.double)],
)
def test_the_table_of_weights_in_half_precision_is_computed_in_float32(dtype, wide):
    torch.manual_seed(0)
    bias = ContinuousPositionBias(2, (8, 8)).to(dtype)
    with torch.no_grad():
        for weight in bias.parameters():
            weight.mul_(4)
        table, exact = bias((8, 8)), copy.deepcopy(bias).double()((8, 8))
    assert table.dtype == wide
    torch.testing.assert_close(table.double(), exact, rtol=0, atol=1e-4)


def test_a_table_that_is_given_is_taken():
    attn = WindowAttention(16, 2, (4, 4))
    grid, x = grid_of((6, 6), (4, 4)), torch.randn(1, 6, 6, 16)
    table = attn.table(grid)
    torch.testing.assert_close(attn(x, grid, table), attn(x, grid))
    other = torch.randn_like(table)
    attn.cpb_mlp = None  # without it, no table can be computed
    assert not torch.allclose(attn(x, grid, other), attn(x, grid, table))


def load(bias):
    bias.load_state_dict({k: v + 1 for k, v in bias.state_dict().items()})


def write_in_place(bias):
    with torch.no_grad():
        bias[0].weight.add_(1)


def write_data(bias):
    for p in bias.parameters():
        p.data.mul_(0.5).add_(0.1)  # as averaging hooks do; leaves no trace in `_version`


def swap_data(bias):
    for p in bias.parameters():
        p.data = p.data + 1


@pytest.mark.parametrize('change', [load, write_in_place, write_data, swap_data])
@pytest.mark.parametrize('training', [True, False])
def test_the_table_follows_every_way_of_changing_weights(change, training):
    torch.manual_seed(0)
    bias = ContinuousPositionBias(2, (4, 4)).train(training)
    with torch.no_grad():
        first = bias((4, 4))
        change(bias)
        second = bias((4, 4))
        fresh = ContinuousPositionBias(2, (4, 4))
        fresh.load_state_dict(bias.state_dict())
        assert not torch.allclose(first, second)
        assert torch.equal(second, fresh((4, 4)))
    assert set(bias.state_dict()) == {'0.weight', '0.bias', '2.weight'}
