import pytest
import torch
import torch.nn.functional as F

from mmswinv2.core.attention import ContinuousPositionBias
from mmswinv2.ops import WindowGrid
from mmswinv2.ops.reference import (
    add_norm,
    attend,
    cosine_directions,
    expand,
    layer_norm,
)
from tests.reference import pair_bias


@pytest.mark.parametrize(
    ('extent', 'window'), [((4, 5), (4, 5)), ((4, 5), (2, 3)), ((3, 4, 2),) * 2]
)
def test_every_pair_gets_the_bias_of_its_offset(extent, window):
    bias = ContinuousPositionBias(3, extent).double()
    state = {f'cpb_mlp.{k}': v for k, v in bias.state_dict().items()}
    expected = pair_bias(state, '', window, extent, torch.double)
    torch.testing.assert_close(expand(bias(extent), window), expected)


def test_zero_vector_has_zero_cosine_and_zero_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    y = cosine_directions(x)
    assert torch.allclose(y, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    y.backward(torch.ones(2, 2))
    assert torch.equal(x.grad[1], torch.zeros(2))
    torch.testing.assert_close(F.normalize(x, dim=-1), y)


def test_a_short_vector_has_a_direction():
    short = torch.tensor([[1.1e-5, 0.0], [0.0, 0.9e-5]], dtype=torch.double)
    assert cosine_directions(short).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_dropout_is_the_share_that_is_dropped():
    torch.manual_seed(0)
    zeros = torch.zeros(1, 2000, 20)
    v = torch.eye(10).repeat(200, 1)[None]  # so the output is the probabilities
    grid = WindowGrid((2000,), (10,), (0,))
    out = attend(torch.cat([zeros, v], -1), grid, torch.zeros(1, 19), torch.ones(1, 1, 1), 0.2)
    assert (out == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert out.max() == pytest.approx(0.1 / 0.8)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.float, torch.double], ids=str)
def test_norm_is_computed_in_float32_and_returned_in_the_dtype_of_its_weights(dtype):
    torch.manual_seed(0)
    x, weight, bias = 50 * torch.randn(4, 16) + 9, torch.rand(16), torch.rand(16)
    x, weight, bias = (t.to(dtype) for t in (x, weight, bias))
    got = layer_norm(x, weight, bias, 1e-5)
    want = F.layer_norm(x.double(), (16,), weight.double(), bias.double(), 1e-5)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want.to(dtype))
    assert layer_norm(x.half(), weight.float(), bias.float(), 1e-5).dtype == torch.float


def test_add_norm_scales_the_branch_after_the_norm():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    weight, bias, scale = torch.rand(8), torch.rand(8), torch.tensor([0.0, 2.0]).view(2, 1, 1)
    normed = F.layer_norm(y, (8,), weight, bias, 1e-3)
    for factors, want in ((None, x + normed), (scale, x + normed * scale)):
        got, cast = add_norm(x, y, weight, bias, 1e-3, factors, torch.half)
        torch.testing.assert_close(got, want)
        assert torch.equal(cast, got.half())
