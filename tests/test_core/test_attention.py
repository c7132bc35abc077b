import math

import pytest
import torch
import torch.nn.functional as F

from mmswinv2.core import attention as attention_module
from mmswinv2.core.attention import (
    WindowAttention,
    attention,
    attention_reference,
    cosine_directions,
)
from mmswinv2.core.padded import padded_window_attention
from mmswinv2.core.windows import cut, join, window_grid
from tests import reference
from tests.operators import Operators

WINDOWS, HEADS, TOKENS, WIDTH = 5, 3, 12, 8


def inputs(dtype, scale=10, **kwargs):
    """qkv, scale and bias."""
    torch.manual_seed(0)
    wide = torch.double if dtype == torch.double else torch.float
    tensors = (
        torch.randn(WINDOWS * TOKENS, 3 * HEADS * WIDTH).to(dtype),
        scale + torch.rand(HEADS, 1, 1).to(wide),
        4 * torch.randn(HEADS, TOKENS, TOKENS).to(wide),
    )
    return [t.requires_grad_(**kwargs) for t in tensors]


@pytest.mark.parametrize('training', [True, False])
def test_the_forward_pass_makes_no_scores(training):
    # torch leaves its fused kernels, without a word, where the mask requires a gradient
    tensors = inputs(torch.float, requires_grad=True)
    with Operators() as operators, torch.set_grad_enabled(training):
        attention(*tensors)
    assert '_scaled_dot_product_flash_attention_for_cpu' in operators.names
    assert not set(operators.names) & {'bmm', '_softmax', '_safe_softmax'}


@pytest.mark.parametrize(
    'at_once', [2**21, 2 * HEADS * TOKENS**2], ids=['one step', 'two windows a step']
)
@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [(torch.double, 1e-12), (torch.float, 1e-5), (torch.bfloat16, 3e-2), (torch.half, 4e-3)],
    ids=str,
)
def test_fast_path_equals_reference(dtype, tolerance, at_once, monkeypatch):
    monkeypatch.setattr(attention_module, '_SCORES_AT_ONCE', at_once)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(WINDOWS * TOKENS, HEADS * WIDTH, generator=generator).to(dtype)
    results = []
    for function in (attention_reference, attention):
        tensors = inputs(dtype, requires_grad=True)
        out = function(*tensors)
        out.backward(grad)
        results.append([out, *(t.grad for t in tensors)])
    with torch.no_grad():
        results.append([attention(*inputs(dtype))])
    expected = results[0]
    for result in results[1:]:
        for got, want in zip(result, expected, strict=False):
            assert got.dtype == want.dtype
            error = (got - want).abs().max() / want.abs().max()
            assert error < tolerance


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.06), (torch.half, 0.008)])
def test_half_precision_gradients_at_the_largest_scale(dtype, tolerance):
    half = inputs(dtype, scale=100, requires_grad=True)
    full = [t.detach().double().requires_grad_() for t in half]
    for tensors, function in ((half, attention), (full, attention_reference)):
        out = function(*tensors)
        out.backward(torch.ones_like(out).cumsum(-1))
    for got, want, factor in zip(half, full, (1, 1.5, 1), strict=True):  # scale's is a long sum
        assert (got.grad - want.grad).abs().max() / want.grad.abs().max() < factor * tolerance


def test_scale_is_bounded():
    attn = WindowAttention(16, 2, (4, 4)).double()
    grid = window_grid(1, (4, 4), (4, 4), (0, 0), torch.device('cpu'))
    tokens = torch.randn(16, 16, dtype=torch.double)
    outs = []
    for scale in (100, 1000):
        torch.nn.init.constant_(attn.logit_scale, math.log(scale))
        outs.append(attn(tokens, grid))
    torch.testing.assert_close(*outs)


def test_recomputation_keeps_no_probabilities():
    tensors = inputs(torch.float, requires_grad=True)
    node = attention(*tensors).grad_fn
    assert {t.data_ptr() for t in node.saved_tensors} == {t.data_ptr() for t in tensors}


def test_dropout_drops_in_training_only():
    for rates in (dict(attn_drop=0.5), dict(proj_drop=0.5)):
        attn = WindowAttention(16, 2, (4, 4), **rates)
        grid = window_grid(1, (4, 4), (4, 4), (0, 0), torch.device('cpu'))
        tokens = torch.randn(16, 16)
        assert not torch.equal(attn(tokens, grid), attn(tokens, grid))
        attn.eval()
        assert torch.equal(attn(tokens, grid), attn(tokens, grid))


def test_dropout_is_the_share_that_is_dropped():
    torch.manual_seed(0)
    zeros = torch.zeros(200 * 10, 20)
    v = torch.eye(10).repeat(200, 1)  # the output is then the probabilities
    qkv = torch.cat([zeros, v], dim=1)
    out = attention(qkv, torch.ones(1, 1, 1), torch.zeros(1, 10, 10), dropout=0.2)
    assert (out == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert out.max() == pytest.approx(0.1 / 0.8)


@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('size', [(8, 8), (7, 11), (3, 11), (2, 5, 7)], ids=str)
def test_layer_equals_masked_attention_over_the_whole_map(size, shift):
    ndim = len(size)
    torch.manual_seed(0)
    attn = WindowAttention(12, 3, (4,) * ndim).double()
    for p in attn.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, *size, 12, dtype=torch.double, requires_grad=True)
    grid = window_grid(2, size, (4,) * ndim, (shift,) * ndim, x.device)
    ours = join(attn(cut(x, grid), grid), grid, size)
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


@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('size', [(8, 8), (7, 11), (3, 11), (4, 9), (2, 5, 7)], ids=str)
def test_padded_windows_give_the_same(size, shift):
    ndim = len(size)
    torch.manual_seed(0)
    attn = WindowAttention(12, 3, (4,) * ndim).double().eval()
    for p in attn.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(2, *size, 12, dtype=torch.double)
    window, shifts = (4,) * ndim, (shift,) * ndim
    grid = window_grid(2, size, window, shifts, x.device)
    padded = padded_window_attention(attn, x, window, shifts)
    torch.testing.assert_close(padded, join(attn(cut(x, grid), grid), grid, size))


def test_zero_vector_has_zero_cosine_and_zero_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    y = cosine_directions(x)
    assert torch.allclose(y, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    y.backward(torch.ones(2, 2))
    assert torch.equal(x.grad[1], torch.zeros(2))
    torch.testing.assert_close(F.normalize(x, dim=-1), y)


def textbook_and_ours(dtype, size):
    """Gradients of one layer under autocast, in the published formulation and in ours."""
    torch.manual_seed(0)
    attn = WindowAttention(32, 2, (8, 8))
    x = torch.randn(1, *size, 32)
    grid = window_grid(1, size, (8, 8), (0, 0), x.device)
    for layer in (
        lambda: reference.textbook_attention(attn, x, 8),
        lambda: join(attn(cut(x, grid), grid), grid, size),
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
