"""Linear layers for training, with hand-written gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmswinv2 import ops
from mmswinv2.core import SwinV2
from mmswinv2.ops import products


def reference(x, weight, bias, activated):
    return F.linear(F.gelu(x) if activated else x, weight, bias)


@pytest.mark.parametrize('frozen', ['', 'x', 'weight', 'bias'])
@pytest.mark.parametrize('biased', [True, False])
@pytest.mark.parametrize('activated', [True, False])
def test_gradients_are_those_of_autograd(activated, biased, frozen):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=draw, dtype=torch.double).requires_grad_(name != frozen)
        for name, shape in (('x', (2, 3, 4, 5)), ('weight', (6, 5)), ('bias', (6,)))
    )
    bias = bias if biased else None
    product = products.gelu_linear if activated else products.linear
    got, want = product(x, weight, bias), reference(x, weight, bias, activated)
    torch.testing.assert_close(got, want)
    inputs = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
    grad = torch.randn(want.shape, generator=draw, dtype=torch.double)
    torch.testing.assert_close(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad)
    )


@pytest.mark.parametrize('rows', [4, 12, 13, 24, 25])
@pytest.mark.parametrize('frozen', ['', 'x', 'weight'])
@pytest.mark.parametrize('strided', [False, True])
def test_parts_of_the_rows_give_the_same(strided, frozen, rows, monkeypatch):
    """On a CPU the rows are taken in parts, the last of which may be smaller."""
    draw = torch.Generator().manual_seed(rows)
    x, weight, bias = (
        torch.randn(shape, generator=draw, dtype=torch.double)
        for shape in ((5, rows), (6, 5), (6,))
    )
    x = x.t() if strided else x.t().contiguous()
    for name, t in dict(x=x, weight=weight, bias=bias).items():
        t.requires_grad_(name != frozen)
    want = reference(x, weight, bias, True)
    inputs = [t for t in (x, weight, bias) if t.requires_grad]
    grad = torch.randn(want.shape, generator=draw, dtype=torch.double)
    wanted = torch.autograd.grad(want, inputs, grad)
    monkeypatch.setattr(products, '_VALUES_PER_THREAD', 12 * 5)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    sizes = []
    gelu = F.gelu
    monkeypatch.setattr(products.F, 'gelu', lambda t: sizes.append(len(t)) or gelu(t))
    got = products.gelu_linear(x, weight, bias)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, inputs, grad), wanted)
    parts = [12] * (rows // 12) + [rows % 12] * bool(rows % 12)
    assert sizes == parts * (1 if frozen == 'weight' else 2)  # forward, gradient of the weight


def test_gradients_of_parts_are_summed_in_float32(monkeypatch):
    """A sum in half precision would round once for each part."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 5, generator=draw).bfloat16() for n in (4096, 3))
    grad = torch.rand(4096, 3, generator=draw).bfloat16()
    want = grad.double().t() @ F.gelu(x.double())
    weight.requires_grad_()

    def error():
        (found,) = torch.autograd.grad(products.gelu_linear(x, weight), weight, grad)
        assert found.dtype == torch.bfloat16
        return ((found - want).abs().max() / want.abs().max()).item()

    whole = error()
    monkeypatch.setattr(products, '_VALUES_PER_THREAD', 0)  # three rows at a time
    assert error() < 1.5 * whole


def test_compiled_autograd_follows_the_backward_pass():
    torch._dynamo.reset()
    x, weight = torch.randn(8, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    want = torch.autograd.grad(reference(x, weight, None, True).sum(), (x, weight))
    out = products.gelu_linear(x, weight).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend='eager', fullgraph=True)):
        out.backward()
    torch.testing.assert_close((x.grad, weight.grad), want)


def test_predicted_memory_does_not_depend_on_the_threads(monkeypatch):
    """Fake tensors stand for those of a GPU, which takes all rows at once."""
    monkeypatch.setattr(products, '_VALUES_PER_THREAD', 0)

    def fails(*_):
        raise AssertionError('rows were taken in parts')

    monkeypatch.setattr(products, '_parts', fails)
    with FakeTensorMode():
        x, weight = torch.randn(8, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
        assert products.fits_gelu_linear(x, weight)
        d_x, d_weight = torch.autograd.grad(products.gelu_linear(x, weight).sum(), (x, weight))
        assert (d_x.shape, d_weight.shape) == (x.shape, weight.shape)


def test_under_autocast_gradients_have_the_dtype_of_the_weights():
    weight, bias = torch.randn(6, 5, requires_grad=True), torch.randn(6, requires_grad=True)
    x = torch.randn(4, 5, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        out = products.gelu_linear(x, weight, bias)
        want = reference(x, weight, bias, True)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out, (x, weight, bias), torch.ones_like(out))
    wanted = torch.autograd.grad(want, (x, weight, bias), torch.ones_like(want))
    assert [g.dtype for g in grads] == [torch.float] * 3
    torch.testing.assert_close(grads, wanted, rtol=3e-2, atol=3e-2)


def test_autocast_does_not_round_float64():
    x, weight = (torch.randn(n, 5, dtype=torch.double, requires_grad=True) for n in (4, 6))
    with torch.autocast('cpu', torch.bfloat16):
        out = products.gelu_linear(x, weight)
    torch.testing.assert_close(out, reference(x, weight, None, True))


@pytest.mark.parametrize('activated', [True, False])
def test_second_derivatives(activated):
    product = products.gelu_linear if activated else products.linear
    inputs = [torch.randn(*s, dtype=torch.double).requires_grad_() for s in ((3, 4), (2, 4), (2,))]
    assert torch.autograd.gradcheck(product, inputs)
    assert torch.autograd.gradgradcheck(product, inputs)


@pytest.mark.parametrize(
    ('activated', 'frozen', 'want'),
    [(True, False, 'xw'), (False, False, 'xw'), (True, True, 'xw'), (False, True, 'w')],
)
def test_what_backward_does_not_need_is_not_kept(activated, frozen, want):
    """GELU's output is never kept; with a frozen weight, the input is kept only for GELU."""
    product = products.gelu_linear if activated else products.linear
    x, weight = torch.randn(8, 40, requires_grad=True), torch.randn(10, 40)
    bias = torch.randn(10, requires_grad=True)
    weight.requires_grad_(not frozen)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        product(x, weight, bias)
    assert {id(t) for t in kept} == {id(dict(x=x, w=weight)[name]) for name in want}


def test_a_network_that_takes_them_has_the_same_gradients(monkeypatch):
    torch.manual_seed(0)
    net = SwinV2('nano', window_size=4)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(1, 3, 64, 64)

    def gradients():
        loss = sum(out.square().sum() for out in net(x))
        return torch.autograd.grad(loss, list(net.parameters()))

    want = gradients()
    taken = []

    def fits(x, weight):
        taken.append(weight.shape)
        return True

    monkeypatch.setattr(ops, '_LINEAR', (products,))
    monkeypatch.setattr(products, 'fits_gelu_linear', fits)
    monkeypatch.setattr(products, 'fits_linear', fits)
    got = gradients()
    assert len(taken) == 4 * sum(net.depths) + 3  # qkv, proj, fc1, fc2, and merging
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
