"""The Triton kernels against the reference, on a GPU or in Triton's interpreter on a CPU.

The interpreter does not show whether the kernels compile; tests/test_benchmarks.py tests that.
"""

import contextlib
import dataclasses
import importlib
import itertools
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mmswinv2.core import SwinV2
from mmswinv2.core.attention import ContinuousPositionBias
from mmswinv2.ops import WindowGrid, reference, triton
from tests.tool_server import run_program

pytest.importorskip('triton', reason='Triton is for Linux on x86-64 alone')
# Triton's interpreter converts NumPy arrays to scalars
pytestmark = pytest.mark.filterwarnings(
    'ignore:Conversion of an array with ndim:DeprecationWarning'
)
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture(scope='module', autouse=True)
def quick_interpreter():
    """Leave out two thirds of the interpreter's work, which say nothing about our kernels.

    At every call of a function inside a kernel it patches Triton's language, which the launch has
    done already, and it computes integers again in 64 bits, to see that small ones fit into 32.
    """
    if DEVICE == 'cuda':
        yield
        return
    from triton.runtime import interpreter

    patched = set()

    def call(self, *args, **kwargs):
        module = self.fn.__module__
        if not module.startswith('mmswinv2.') and module not in patched:  # Triton's own functions
            patched.add(module)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    builder = interpreter.interpreter_builder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, '__call__', call)
        options = dataclasses.replace(builder.options, sanitize_overflow=False)
        patch.setattr(builder, 'options', options)
        yield


def error(got, want, least=0.0):
    """Largest error relative to the largest value, or to `least` if that is larger."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).abs().max() / want.abs().max().clamp(min=least))


def random_case(ndim, seed):
    """Random size, window, shift, number of heads and width of a head."""
    draw = random.Random(f'{ndim} {seed}')
    longest, widest = (7, 4) if ndim == 2 else (4, 3)
    size = tuple(draw.randint(1, longest) for _ in range(ndim))
    window = tuple(draw.randint(2, widest) for _ in range(ndim))
    shift = tuple(m // 2 * draw.randint(0, 1) for m in window)
    return size, window, shift, draw.randint(1, 4 - ndim), draw.choice((16, 24, 32))


def inputs(size, window, shift, heads, width, batch=1, dtype=torch.float, seed=0):
    """qkv, grid, table and scale."""
    draw = torch.Generator().manual_seed(seed)
    grid = WindowGrid(size, window, shift)
    qkv = torch.randn(batch, *size, 3 * heads * width, generator=draw).to(dtype)
    table = torch.randn(heads, *(2 * m - 1 for m in grid.extent), generator=draw)
    scale = 5 + torch.rand(heads, 1, 1, generator=draw)
    qkv, table, scale = (t.to(DEVICE).requires_grad_() for t in (qkv, table, scale))
    return qkv, grid, table, scale


def compare(qkv, grid, table, scale):
    """Largest error of the output and the gradients of qkv, table and scale.

    The gradient of the scale is a sum over scores of gradient times cosine, of either sign. Its
    error is relative to the table's gradient, the sum of the gradients of the scores.
    """
    out = triton.attend(qkv, grid, table, scale)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    got = [out, *torch.autograd.grad(out, (qkv, table, scale), weight)]
    exact = [t.detach().double().requires_grad_() for t in (qkv, table, scale)]
    out = reference.attend(exact[0], grid, *exact[1:])
    want = [out, *torch.autograd.grad(out, exact, weight.double())]
    assert [t.dtype for t in got] == [qkv.dtype, qkv.dtype, torch.float, torch.float]
    assert [t.shape for t in got] == [t.shape for t in want]
    # gradients of a map of one token are only rounding errors
    errors = [error(*pair, least=0.1) for pair in zip(got[:3], want, strict=False)]
    return max(*errors, float((got[3] - want[3]).abs().max() / want[2].abs().sum().clamp(min=0.1)))


@pytest.mark.parametrize('seed', range(30))
def test_attention_on_random_images(seed):
    assert compare(*inputs(*random_case(2, seed))) < 1e-5


@pytest.mark.parametrize('seed', range(20))
def test_attention_on_random_videos(seed):
    assert compare(*inputs(*random_case(3, seed))) < 1e-5


BLOCKS = [
    ((7, 9), (6, 8), (3, 4), 1, 16),  # several blocks of queries and keys
    ((6, 6), (4, 4), (2, 2), 3, 8),  # heads narrower than the smallest block
    ((5, 7), (8, 8), (4, 4), 2, 20),  # a width that is no power of two; larger than the map
    ((4, 5), (4, 4), (2, 2), 1, 16),  # an axis as large as the window
    ((13,), (4,), (2,), 1, 128),  # one axis, the widest heads
    ((3, 5), (16, 16), (8, 8), 1, 16),  # a window several times as large as the map
    ((2, 3, 2), (4, 8, 8), (2, 4, 4), 1, 16),
    ((1, 40), (2, 36), (0, 18), 1, 16),  # more offsets than one program sums
]


@pytest.mark.parametrize('case', BLOCKS, ids=str)
def test_attention_in_blocks_of_any_size(case):
    assert compare(*inputs(*case, batch=2)) < 1e-5


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.half, 4e-3), (torch.bfloat16, 3e-2)])
def test_attention_in_half_precision(dtype, tolerance):
    if DEVICE == 'cpu' and dtype == torch.bfloat16:
        pytest.skip('needs a GPU: the interpreter multiplies the bits of bfloat16 as integers')
    assert compare(*inputs((5, 6), (4, 4), (2, 2), 2, 16, dtype=dtype)) < tolerance


def test_vectors_of_zeros_have_no_direction():
    qkv, *others = inputs((4, 4), (4, 4), (0, 0), 1, 16)
    with torch.no_grad():
        qkv[0, 1] = 0
    assert compare(qkv, *others) < 1e-5


def test_gradients_of_several_losses_at_a_time():
    qkv, grid, table, scale = inputs((5, 6), (4, 4), (2, 2), 2, 16)
    out = triton.attend(qkv, grid, table, scale)
    grads = torch.randn(2, *out.shape, device=DEVICE)
    wanted = (qkv, table, scale)
    both = torch.autograd.grad(out, wanted, grads, retain_graph=True, is_grads_batched=True)
    for i, grad in enumerate(grads):
        one = torch.autograd.grad(out, wanted, grad, retain_graph=True)
        assert all(error(got[i], want) < 1e-6 for got, want in zip(both, one, strict=True))


def test_attention_sums_in_a_repeatable_order():
    case = inputs((4, 3), (3, 2), (1, 1), 1, 16, batch=2)
    out = triton.attend(*case)
    weight = torch.randn_like(out)
    grads = [torch.autograd.grad(out, case[2], weight, retain_graph=True) for _ in range(2)]
    assert torch.equal(*(g for (g,) in grads))


def test_without_gradients_autograd_is_bypassed(monkeypatch):
    """A call of an autograd function takes the host as long as a launch."""
    case = inputs((4, 3), (3, 2), (1, 1), 1, 16)
    want = triton.attend(*case)
    monkeypatch.setattr(torch.autograd.Function, 'apply', None)
    with torch.no_grad():
        assert torch.equal(triton.attend(*case), want)


def test_second_derivatives_are_refused():
    """Autograd would leave them out without an error where only an input's are asked for."""
    qkv, grid, table, scale = inputs((5, 5), (4, 4), (0, 0), 1, 16)
    loss = triton.attend(qkv, grid, table, scale).square().sum()
    with pytest.raises(RuntimeError, match='have no second derivatives'):
        torch.autograd.grad(loss, qkv, create_graph=True)
    x, y = (torch.randn(4, 32, device=DEVICE, requires_grad=True) for _ in range(2))
    loss = triton.add_norm(x, y, *torch.ones(2, 32, device=DEVICE), 1e-5)[0].square().sum()
    with pytest.raises(RuntimeError, match='have no second derivatives'):
        torch.autograd.grad(loss, y, create_graph=True)


def test_no_gradient_of_a_border_window_overflows():
    """With the largest possible bias, whose exponential exceeds float16."""
    qkv, grid, table, scale = inputs((5, 6), (4, 4), (2, 2), 2, 16, dtype=torch.half)
    with torch.no_grad():
        table.fill_(16)
    out = triton.attend(qkv, grid, table, scale)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    got = torch.autograd.grad(out, (qkv, table), weight)
    exact = [t.detach().double().requires_grad_() for t in (qkv, table, scale)]
    want = reference.attend(exact[0], grid, *exact[1:])
    want = torch.autograd.grad(want, exact[:2], weight.double())
    assert error(got[0], want[0]) < 4e-3
    assert error(got[1], want[1]) < 4e-3


@pytest.mark.parametrize(
    'case',
    [((4, 3), (3, 2), (1, 1), 2, 16), ((2, 5, 6), (2, 4, 4), (1, 2, 2), 1, 16)],
    ids=str,
)
def test_a_table_of_more_offsets_than_a_window_has(case):
    qkv, grid, table, scale = inputs(*case)
    sizes = [t + 2 * more for t, more in zip(table.shape[1:], (1, 3, 2), strict=False)]
    wide = torch.randn(len(table), *sizes, generator=torch.Generator().manual_seed(2))
    assert compare(qkv, grid, wide.to(DEVICE).requires_grad_(), scale) < 1e-5


def test_the_gradient_of_the_table_some_heads_at_a_time(monkeypatch):
    """Needed for windows whose pairs for all heads at once would take too much memory."""
    attention = importlib.import_module('mmswinv2.ops.triton.attention')
    monkeypatch.setattr(attention, '_PAIRS', 2 * 6**2)
    assert compare(*inputs((4, 3), (3, 2), (1, 1), 3, 16)) < 1e-5


@pytest.mark.parametrize('watched', [False, True], ids=['eager', 'operator'])
def test_a_frozen_table_costs_no_gradient(monkeypatch, watched):
    """With adapters, the position bias is frozen and its gradient must not be computed."""
    attention = importlib.import_module('mmswinv2.ops.triton.attention')
    qkv, grid, table, scale = inputs((4, 3), (3, 2), (1, 1), 2, 16)

    def gradient(table):
        with FlopCounterMode(display=False) if watched else contextlib.nullcontext():
            out = triton.attend(qkv, grid, table, scale)
            return torch.autograd.grad(out.square().sum(), (qkv, scale))

    want = gradient(table)
    monkeypatch.setattr(attention._Call, 'table_gradient', None)
    assert all(map(torch.equal, gradient(table.detach()), want))
    with pytest.raises(TypeError, match='not callable'):
        gradient(table)


def test_memory_is_that_of_the_map_where_the_window_is_larger(monkeypatch):
    attention = importlib.import_module('mmswinv2.ops.triton.attention')
    made = []
    monkeypatch.setattr(attention._Call, '__init__', lambda *args: made.append(args[4:]))
    qkv, grid, table, scale = inputs((3, 8, 9), (1, 64, 12), (0, 32, 6), 1, 16)
    with pytest.raises(AttributeError):  # from the emptied __init__
        triton.attend(qkv, grid, table, scale)
    assert made == [([1, 8, 12], [0, 0, 6])]


def dropped(qkv, grid, table, scale, dropout, seed=0):
    torch.manual_seed(seed)
    return triton.attend(qkv, grid, table, scale, dropout)


def test_dropped_probabilities():
    """The values are unit vectors, so that the output is the probabilities."""
    heads, tokens = 2, 16
    qkv, grid, table, scale = inputs((4, 8), (4, 4), (0, 0), heads, tokens)
    with torch.no_grad():
        qkv.mul_(0.3)
        table.mul_(0.1)
        scale.fill_(1)
        qkv.unflatten(-1, (3, heads, tokens))[..., 2, :, :] = (
            torch.eye(tokens, device=DEVICE).view(4, 4, 1, tokens).repeat(1, 2, 1, 1)
        )
    out = dropped(qkv, grid, table, scale, 0.25)
    kept = (out.detach() > 0).double().unflatten(-1, (heads, tokens))  # [1, 4, 8, h, keys]
    assert kept.mean() == pytest.approx(0.75, abs=0.05)
    assert not torch.equal(kept[:, :, :4], kept[:, :, 4:])
    assert not torch.equal(kept[..., 0, :], kept[..., 1, :])
    assert torch.equal(out, dropped(qkv, grid, table, scale, 0.25))
    assert not torch.equal(out, dropped(qkv, grid, table, scale, 0.25, seed=1))

    exact = [t.detach().double().requires_grad_() for t in (qkv, table, scale)]
    x = exact[0].unflatten(2, (2, 4)).transpose(1, 2).reshape(2, tokens, -1)
    q, k, v = reference.split_heads(x, heads)
    cosines = reference.cosine_directions(q) @ reference.cosine_directions(k).mT
    p = torch.softmax(cosines * exact[2] + reference.expand(exact[1], (4, 4)), -1)
    mask = kept.unflatten(2, (2, 4)).movedim(2, 1).reshape(2, tokens, heads, tokens).transpose(1, 2)
    want = ((p * mask / 0.75) @ v).transpose(1, 2).reshape(1, 2, 4, 4, -1).transpose(1, 2)
    want = want.reshape(out.shape)
    weight = torch.randn_like(out)
    pairs = [
        (out, want),
        *zip(
            torch.autograd.grad(out, (qkv, table, scale), weight),
            torch.autograd.grad(want, exact, weight.double()),
            strict=True,
        ),
    ]
    assert max(error(*pair) for pair in pairs) < 1e-5


@pytest.mark.parametrize('cast', [None, torch.half], ids=['', 'cast'])
@pytest.mark.parametrize('scaled', [False, True], ids=['', 'stochastic depth'])
@pytest.mark.parametrize('kind', [torch.float, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [(2, 5, 7, 96), (3, 4, 24), (2, 3, 2, 2, 40), (1, 3, 2500)])
def test_residual_and_norm(shape, kind, scaled, cast):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw)
    y = (3 * torch.randn(shape, generator=draw) + 1).to(kind)
    weight, bias = torch.randn(2, shape[-1], generator=draw).unbind()
    scale = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=draw) if scaled else None
    grad, d_cast = torch.randn(2, *shape, generator=draw).to(DEVICE)
    d_cast = d_cast.to(cast or torch.float)
    x, y, weight, bias = (t.to(DEVICE) for t in (x, y, weight, bias))
    scale = scale if scale is None else scale.to(DEVICE)
    results = []
    for add_norm, dtype in ((triton.add_norm, None), (reference.add_norm, torch.double)):
        leaves = [t.to(dtype or t.dtype).requires_grad_() for t in (x, y, weight, bias)]
        factors = scale if dtype is None or scale is None else scale.double()
        outs = add_norm(*leaves, 0.1, factors, cast)
        grads = [d.to(out.dtype) for out, d in zip(outs, (grad, d_cast), strict=True)]
        results.append([outs[0], *torch.autograd.grad(outs, leaves, grads)])
        assert torch.equal(outs[1], outs[0].to(cast or outs[0].dtype))
    assert [t.dtype for t in results[0]] == [torch.float, torch.float, kind, *[torch.float] * 2]
    tolerance = 1e-5 if kind == torch.float else 8e-3  # the gradient of y is rounded
    assert max(map(error, *results)) < tolerance


@pytest.mark.parametrize('like', [torch.float, torch.half], ids=str)
@pytest.mark.parametrize(
    ('window', 'pretrained', 'heads'),
    [((4, 4), (4, 4), 3), ((5, 7), (8, 12), 17), ((2, 3, 4), (8, 7, 7), 3), ((6,), (1,), 2)],
)
def test_position_bias(window, pretrained, heads, like):
    torch.manual_seed(0)
    bias = ContinuousPositionBias(heads, pretrained).to(DEVICE)
    torch.nn.init.normal_(bias[0].bias)
    bias[0].bias.data[:9] = 0  # as in a new network: units that are 0 at the offset 0
    weights = [p.detach().to(like, copy=True).requires_grad_() for p in bias.parameters()]
    got = triton.position_bias(*weights, window, pretrained)
    bias.load_state_dict(dict(zip(bias.state_dict(), weights, strict=True)))
    want = bias.double()(window)
    grad = torch.randn_like(got)
    pairs = zip(
        [got, *torch.autograd.grad(got, weights, grad)],
        [want, *torch.autograd.grad(want, list(bias.parameters()), grad.double())],
        strict=True,
    )
    tolerance = 1e-5 if like == torch.float else 1e-3  # gradients are rounded
    assert max(error(*pair) for pair in pairs) < tolerance


def test_weights_that_are_not_contiguous():
    """As `torch.func.functional_call` gives those of one network of an ensemble."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    shapes = dict(
        norm=[(2, 3, 24)] * 2 + [(24,)] * 2,
        bias=[(64, 2), (64,), (3, 64)],
        attention=[(1, 3, 4, 144), (3, 5, 7), (3, 1, 1)],
    )
    tensors = {
        name: [torch.randn(shape, generator=draw, device=DEVICE) for shape in some]
        for name, some in shapes.items()
    }
    apart = {
        name: [torch.stack([t, -t], -1)[..., 0] for t in some] for name, some in tensors.items()
    }

    def results(norm, bias, attention):
        qkv, table, scale = attention
        grid = WindowGrid((3, 4), (3, 4), (0, 0))
        yield triton.add_norm(*norm, 1e-5)[0]
        yield triton.position_bias(*bias, (3, 4), (4, 4))
        yield triton.attend(qkv, grid, table, scale)

    for got, want in zip(results(**apart), results(**tensors), strict=True):
        torch.testing.assert_close(got, want)


@pytest.fixture
def kernels_everywhere(monkeypatch):
    monkeypatch.setattr(triton, 'runs_on', lambda device: True)


@pytest.mark.parametrize('ndim', [2, 3])
def test_a_whole_network(ndim, monkeypatch):
    """Outputs and gradients of all parameters are the same with and without the kernels."""
    torch.manual_seed(0)
    arch = dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2))
    axes = dict(patch_size=(2, 4, 4), merge_stride=(1, 2, 2), window_size=(2, 3, 3))
    net = SwinV2(arch, out_indices=(0, 1), **(axes if ndim == 3 else dict(window_size=3)))
    net = net.to(DEVICE)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x = torch.randn(1, 3, *((3,) if ndim == 3 else ()), 16, 18, device=DEVICE)
    results = []
    for kernels in (False, True):
        monkeypatch.setattr(triton, 'runs_on', lambda device, kernels=kernels: kernels)
        outs = net(x)
        loss = sum(o.square().sum() for o in outs)
        results.append([*outs, *torch.autograd.grad(loss, list(net.parameters()))])
    for got, want in zip(*results[::-1], strict=True):
        assert error(got, want) < 2e-4


@pytest.mark.slow
@pytest.mark.parametrize('training', [False, True], ids=['inference', 'training'])
def test_compile_makes_one_graph_for_any_size_but_the_first(training, kernels_everywhere):
    torch.manual_seed(0)
    arch = dict(embed_dims=16, depths=(2,), num_heads=(1,))
    net = SwinV2(arch, out_indices=(0,), window_size=3).to(DEVICE).train(training)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    for size in ((12, 16), (16, 20), (23, 18)):
        x = torch.randn(1, 3, *size, device=DEVICE, requires_grad=training)
        with torch.set_grad_enabled(training):
            got, want = compiled(x), net(x)
        assert max(map(error, got, want)) < 1e-5
        if training:
            grads = [torch.autograd.grad(out[0].cumsum(-1).sum(), x)[0] for out in (got, want)]
            assert error(*grads) < 1e-4
    assert counter.frame_count <= 2


def test_graphs_name_the_version_of_the_kernels(kernels_everywhere):
    """The version is part of the key of torch.compile's cache on disk."""
    direct = importlib.import_module('mmswinv2.ops.triton.direct')
    net = SwinV2(dict(embed_dims=16, depths=(1,), num_heads=(1,)), out_indices=(0,), window_size=3)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(net.to(DEVICE), fullgraph=True, backend=keep)(
        torch.randn(1, 3, 12, 12, device=DEVICE)
    )
    versions = {
        node.target._opname: node.args[-1]
        for node in graphs[0].graph.nodes
        if getattr(node.target, 'namespace', '') == 'mmswinv2'
    }
    assert versions == dict.fromkeys(('attend', 'add_norm', 'position_bias'), direct.SOURCES)


def test_the_version_is_made_of_all_files_of_the_kernels(tmp_path):
    direct = importlib.import_module('mmswinv2.ops.triton.direct')
    shutil.copytree(Path(direct.__file__).parent, tmp_path / 'triton')
    assert direct.digest(tmp_path / 'triton') == direct.SOURCES
    for name in ('attention_kernels.py', 'blocks.json'):
        before = direct.digest(tmp_path / 'triton')
        with (tmp_path / 'triton' / name).open('a') as file:
            file.write('\n')
        assert direct.digest(tmp_path / 'triton') != before


@pytest.mark.parametrize('name', ['attend', 'add_norm', 'position_bias'])
def test_operators_are_registered_as_torch_wants_them(name):
    """`torch.library.opcheck` checks schema, autograd registration and fake tensors."""
    qkv, grid, table, scale = inputs((3, 4), (3, 2), (1, 1), 1, 16)
    weights = ContinuousPositionBias(2, (4, 4)).to(DEVICE)
    x, y, w, b = (
        torch.randn(*n, 8, device=DEVICE, requires_grad=True) for n in ((2, 3),) * 2 + ((),) * 2
    )
    arguments = {
        'attend': (qkv, table, scale.flatten(), None, 0.0, grid.window, grid.shift),
        'add_norm': (x, y, w, b, 1e-5, None, torch.half),
        'position_bias': (*weights.parameters(), (2, 3), (4, 4)),
    }
    for module in ('attention', 'norm', 'bias_mlp'):  # importing registers the operators
        importlib.import_module(f'mmswinv2.ops.triton.{module}')
    checks = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    operator = getattr(torch.ops.mmswinv2, name).default
    torch.library.opcheck(operator, arguments[name], test_utils=checks)


@pytest.mark.parametrize('window', [4, 8])
def test_flops_are_counted(window, monkeypatch):
    """Counts equal those without kernels; the backward pass has twice those of the forward pass."""
    arch = dict(embed_dims=16, depths=(2,), num_heads=(1,))
    net = SwinV2(arch, out_indices=(0,), window_size=window)
    totals = []
    for kernels in (True, False):
        monkeypatch.setattr(triton, 'runs_on', lambda device, kernels=kernels: kernels)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            x = mode.from_tensor(torch.rand(1, 3, 64, 64))
            with FlopCounterMode(display=False) as forward:
                (out,) = net(x)
            with FlopCounterMode(display=False) as backward:
                out.backward(torch.empty_like(out))
        totals.append((forward.get_total_flops(), backward.get_total_flops()))
    assert totals[0][0] == totals[1][0]
    assert 1.8 < totals[0][1] / totals[0][0] < 2.2


FIRST = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from mmswinv2.core import SwinV2
from mmswinv2.ops import triton

triton.runs_on = lambda device: True
net = SwinV2(dict(embed_dims=16, depths=(2,), num_heads=(1,)), out_indices=(0,), window_size=4)
for _ in range(2):
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        (out,) = net(torch.empty(1, 3, 64, 64))
        out.backward(torch.empty_like(out))
    print(counter.get_total_flops())
"""


def test_flops_of_the_first_call_are_counted():
    """It registers the operators, while the counter counts already."""
    run = run_program([sys.executable, '-W', 'ignore', '-c', FIRST])
    first, second = map(int, run.stdout.split())
    assert first == second > 0, run.stderr


def test_what_the_kernels_fit(kernels_everywhere):
    qkv, _, table, scale = inputs((4, 4), (4, 4), (0, 0), 2, 16)
    assert triton.fits_attend(qkv, table, scale, 0.5)
    assert triton.fits_attend(qkv.bfloat16(), table, scale, 0.0)
    assert not triton.fits_attend(qkv.double(), table.double(), scale.double(), 0.0)
    assert not triton.fits_attend(torch.empty(0, 4, 4, 96), table, scale, 0.0)
    assert not triton.fits_attend(torch.empty(1, 4, 4, 2 * 3 * 136), table, scale, 0.0)
    assert not triton.fits_attend(torch.empty(1, 2, 2, 2, 2, 96), table, scale, 0.0)
    x, y, weight = torch.empty(2, 4, 8), torch.empty(2, 4, 8), torch.empty(8)
    assert triton.fits_add_norm(x, y.bfloat16(), weight)
    assert not triton.fits_add_norm(x.bfloat16(), y, weight)  # the sum is float32
    seen = []
    torch.vmap(lambda x: seen.append(triton.fits_add_norm(x, y, weight)) or x)(x)
    assert seen == [False]


def test_a_cpu_takes_none():
    qkv, _, table, scale = inputs((4, 4), (4, 4), (0, 0), 2, 16)
    assert not triton.fits_attend(qkv.cpu(), table.cpu(), scale.cpu(), 0.0)
    assert not triton.runs_on(torch.device('meta'))


def test_blocks_are_there_for_every_size():
    from mmswinv2.ops.triton.blocks import _look_up

    cards, widths, tokens = (75, 80, 86, 90, 120), (16, 32, 64, 128), (1, 49, 64, 256, 1024, 4096)
    kernels = ('forward', 'backward_q', 'backward_kv', 'backward_table')
    for kernel, card, n, width, size in itertools.product(kernels, cards, tokens, widths, (2, 4)):
        queries, keys, warps, stages = _look_up(kernel, card, n, width, size)
        assert {queries, keys} <= {16, 32, 64, 128} and warps in (4, 8) and stages in (1, 2, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a Triton that finds no driver')
def test_a_driver_that_does_not_start_is_told():
    with pytest.warns(RuntimeWarning, match='Triton cannot be used .*apt install gcc'):
        assert not triton.driver_starts()
