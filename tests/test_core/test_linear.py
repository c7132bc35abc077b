import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmswinv2.core.linear import linear
from tests.operators import Operators


def operators(function):
    with Operators() as seen:
        function()
    return seen.names


@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
@pytest.mark.parametrize(('width_in', 'width_out'), [(12, 20), (20, 12)])
@pytest.mark.parametrize('shape', [(7,), (2, 3, 5)], ids=str)
def test_equals_torch_with_all_gradients(shape, width_in, width_out, bias):
    torch.manual_seed(0)
    tensors = [torch.randn(*shape, width_in), torch.randn(width_out, width_in)]
    tensors += [torch.randn(width_out)] * bias
    grad = torch.randn(*shape, width_out)
    results = []
    for function, dtype in ((linear, torch.float), (F.linear, torch.double)):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in tensors]
        out = function(*leaves)
        with torch.no_grad():
            torch.testing.assert_close(function(*leaves), out)
        out.backward(grad.to(dtype))
        results.append([out, *(t.grad for t in leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('wanted', [(True, False), (False, True), (True, True)], ids=str)
def test_gradients_that_nobody_wants_are_not_made(wanted):
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    leaves = [t.requires_grad_(w) for t, w in zip((x, weight), wanted, strict=True)]
    out = linear(x, weight).sum()
    seen = operators(lambda: torch.autograd.grad(out, [t for t in leaves if t.requires_grad]))
    assert seen.count('_linear_pointwise') == sum(wanted)


def test_takes_onednn_for_float32_on_cpus_and_torch_elsewhere(monkeypatch):
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    assert '_linear_pointwise' in operators(lambda: linear(x, weight))
    assert '_linear_pointwise' not in operators(lambda: linear(x.double(), weight.double()))
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
        assert '_linear_pointwise' not in operators(lambda: linear(x, weight))
    with FakeTensorMode() as mode:
        fake = linear(mode.from_tensor(x), mode.from_tensor(weight))
        assert fake.shape == (4, 3)
