import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmswinv2 import ops
from mmswinv2.ops import onednn
from tests.operators import Operators


@pytest.fixture(autouse=True)
def faster(monkeypatch):
    """Act as on a processor on which oneDNN is faster."""
    monkeypatch.setattr(onednn, 'is_faster', lambda: True)


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
    for function, dtype in ((ops.linear, torch.float), (F.linear, torch.double)):
        leaves = [t.to(dtype, copy=True).requires_grad_() for t in tensors]
        out = function(*leaves)
        with torch.no_grad():
            torch.testing.assert_close(function(*leaves), out)
        out.backward(grad.to(dtype))
        results.append([out, *(t.grad for t in leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


STRIDED = {
    'every second': lambda *shape: torch.randn(*(2 * n for n in shape))[
        (slice(None, None, 2),) * len(shape)
    ],
    'transposed': lambda *shape: torch.randn(*shape[::-1]).permute(*range(len(shape))[::-1]),
    'expanded': lambda *shape: torch.randn(*shape[:-1], 1).expand(shape),
    'not aligned': lambda *shape: torch.randn(1 + math.prod(shape))[1:].view(shape),
}


@pytest.mark.parametrize('layout', STRIDED)
@pytest.mark.parametrize('strided', ['x', 'weight', 'bias'])
def test_tensors_that_are_not_contiguous(strided, layout):
    shapes = dict(x=(2, 3, 6), weight=(5, 6), bias=(5,))
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    tensors[strided] = STRIDED[layout](*shapes[strided])
    leaves = [t.requires_grad_() for t in tensors.values()]
    got, want = (
        [out, *torch.autograd.grad(out.sin().sum(), leaves)]
        for out in (ops.linear(*leaves), F.linear(*leaves))
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('wanted', [(True, False), (False, True), (True, True)], ids=str)
def test_gradients_that_nobody_wants_are_not_made(wanted):
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    leaves = [t.requires_grad_(w) for t, w in zip((x, weight), wanted, strict=True)]
    out = ops.linear(x, weight).sum()
    seen = operators(lambda: torch.autograd.grad(out, [t for t in leaves if t.requires_grad]))
    assert seen.count('linear') == sum(wanted)


class Subclass(torch.Tensor):
    """A tensor subclass, as of another library."""


# torch warns whenever its oneDNN switch is set
@pytest.mark.filterwarnings('ignore:TF32 acceleration on top of oneDNN:UserWarning')
def test_what_fits():
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    assert onednn.fits_linear(x, weight)
    assert not onednn.fits_linear(x[0], weight)
    assert not onednn.fits_linear(x[:0], weight)
    assert not onednn.fits_linear(x.half(), weight)
    assert not onednn.fits_linear(x, weight.half())
    assert not onednn.fits_linear(x.as_subclass(Subclass), weight)
    assert not onednn.fits_linear(x, weight.as_subclass(Subclass))
    assert not onednn.fits_linear(x.to('meta'), weight.to('meta'))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not onednn.fits_linear(x, weight)
    with torch.autocast('cpu', torch.bfloat16):
        assert not onednn.fits_linear(x, weight)
    seen = []
    torch.vmap(lambda row: seen.append(onednn.fits_linear(row[None], weight)) or row)(x)
    assert seen == [False]


@pytest.mark.filterwarnings('ignore:.*torch.jit')
def test_a_trace_holds_operators_of_torch_alone():
    weight = torch.randn(3, 6)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(lambda x: ops.linear(x, weight), torch.randn(4, 6))
    assert 'mmswinv2::' not in str(traced.graph)


def test_takes_onednn_for_float32_on_cpus_and_torch_elsewhere(monkeypatch):
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    assert 'linear' in operators(lambda: ops.linear(x, weight))
    assert 'linear' not in operators(lambda: ops.linear(x.double(), weight.double()))
    with torch.autocast('cpu', torch.bfloat16):
        assert ops.linear(x, weight).dtype == torch.bfloat16
    with FakeTensorMode() as mode:
        fake = ops.linear(mode.from_tensor(x), mode.from_tensor(weight))
        assert fake.shape == (4, 3)
    meta = ops.linear(x.to('meta'), weight.to('meta'))
    assert meta.shape == (4, 3)
    monkeypatch.setattr(onednn, 'is_faster', lambda: False)
    assert 'linear' not in operators(lambda: ops.linear(x, weight))


@pytest.mark.parametrize(
    ('vendor', 'capability', 'faster'),
    [
        ('AuthenticAMD', 'AVX512', True),
        ('AuthenticAMD', 'AVX2', False),
        ('GenuineIntel', 'AVX512', False),
        ('', 'DEFAULT', False),
    ],
)
def test_the_processor_decides(vendor, capability, faster, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(onednn, 'cpu_vendor', lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    assert onednn.is_faster.__wrapped__() == faster
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    assert not onednn.is_faster.__wrapped__()


def test_is_a_good_citizen_among_operators():
    x, weight, bias = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3)
    tensors = [t.requires_grad_() for t in (x, weight, bias)]
    tests = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    torch.library.opcheck(torch.ops.mmswinv2.linear, (*tensors,), test_utils=tests)
    torch.library.opcheck(torch.ops.mmswinv2.linear, (*tensors[:2], None), test_utils=tests)


def test_counts_as_many_operations_as_torch():
    x, weight, bias = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3)
    with FlopCounterMode(display=False) as ours:
        ops.linear(x, weight, bias)
    with FlopCounterMode(display=False) as theirs:
        F.linear(x, weight, bias)
    assert ours.get_total_flops() == theirs.get_total_flops() == 2 * 4 * 6 * 3
