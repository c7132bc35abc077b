"""Every implementation of `ops.attend` against the reference, output and all gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo import compiled_autograd
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmswinv2 import ops
from mmswinv2.ops import WindowGrid, padded, reference, sdpa, sdpa_padded
from tests.operators import Operators

IMPLEMENTATIONS = {
    'sdpa': sdpa.attend,
    'sdpa_padded': sdpa_padded.attend,
    'padded': padded.attend,
    'chosen': ops.attend,
}
HEADS, WIDTH, BATCH = 3, 8, 2
GRIDS = {
    'even': ((8, 8), (4, 4), (0, 0)),
    'ragged': ((7, 11), (4, 4), (2, 2)),
    'one window': ((3, 2), (4, 4), (2, 2)),
    'as large as the window': ((4, 5), (4, 4), (2, 2)),
    'two sizes of window': ((9, 13), (4, 5), (2, 2)),
    'one axis': ((60,), (12,), (0,)),
    'video': ((5, 3, 6), (2, 7, 4), (1, 3, 2)),
}


def inputs(name, dtype, scale=10.0, seed=0):
    """qkv, grid, table and scale."""
    size, window, shift = GRIDS[name]
    generator = torch.Generator().manual_seed(seed)
    wide = torch.double if dtype == torch.double else torch.float
    grid = WindowGrid(size, window, shift)
    extent = [m + 1 for m in grid.extent]  # a table larger than the windows
    qkv = torch.randn(BATCH, *size, 3 * HEADS * WIDTH, generator=generator).to(dtype)
    table = 4 * torch.randn(HEADS, *(2 * m - 1 for m in extent), generator=generator).to(wide)
    scales = scale + torch.rand(HEADS, 1, 1, generator=generator).to(wide)
    qkv, table, scales = (t.requires_grad_() for t in (qkv, table, scales))
    return qkv, grid, table, scales


def gradients(attend, qkv, grid, table, scale, **kwargs):
    """The output, and the gradients of qkv, table and scale."""
    out = attend(qkv, grid, table, scale, **kwargs)
    seed = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=seed).to(out.dtype)
    return [out, *torch.autograd.grad(out, (qkv, table, scale), weight)]


@pytest.mark.parametrize('at_once', [None, 2], ids=['no bound', 'two windows at once'])
@pytest.mark.parametrize(
    ('dtype', 'tolerance'),
    [(torch.double, 1e-12), (torch.float, 1e-5), (torch.bfloat16, 3e-2), (torch.half, 4e-3)],
    ids=str,
)
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_equals_the_reference(name, grid, dtype, tolerance, at_once):
    attend = IMPLEMENTATIONS[name]
    wide = torch.promote_types(dtype, torch.float)
    qkv, windows, table, scale = inputs(grid, dtype)
    exact = qkv.detach().to(wide).requires_grad_()
    want = gradients(reference.attend, exact, windows, table, scale)
    got = gradients(attend, qkv, windows, table, scale, windows_at_once=at_once)
    with torch.no_grad():
        alone = attend(qkv, windows, table, scale, windows_at_once=at_once)
    assert [t.dtype for t in got] == [dtype, dtype, table.dtype, scale.dtype]
    torch.testing.assert_close(alone, got[0])
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() / b.abs().max() < tolerance


@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_only_wanted_gradients_are_asked_for(name):
    qkv, grid, table, scale = inputs('ragged', torch.double)
    want = gradients(reference.attend, qkv, grid, table, scale)[1]
    got = IMPLEMENTATIONS[name](qkv, grid, table.detach(), scale.detach())
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(got.dtype)
    torch.testing.assert_close(torch.autograd.grad(got, qkv, weight)[0], want)


def test_float64_tokens_beside_a_float32_bias():
    qkv, grid, table, scale = inputs('ragged', torch.double)
    table, scale = table.detach().float(), scale.detach().float()
    want = reference.attend(qkv, grid, table.double(), scale.double())
    assert torch.allclose(sdpa.attend(qkv, grid, table, scale), want, atol=1e-5)


@pytest.mark.parametrize('autocast', [False, True], ids=['plain', 'autocast'])
@pytest.mark.parametrize('name', IMPLEMENTATIONS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.06), (torch.half, 0.008)])
def test_half_precision_gradients_at_the_largest_scale(name, dtype, tolerance, autocast):
    """Also with autocast around the backward pass, which must not round the scores again."""
    weight = torch.ones(BATCH, 60, HEADS * WIDTH).cumsum(-1)
    errors = []
    for seed in range(8):
        qkv, grid, table, scale = inputs('one axis', dtype, scale=100, seed=seed)
        full = [t.detach().double().requires_grad_() for t in (qkv, table, scale)]
        with torch.autocast('cpu', dtype, autocast):
            IMPLEMENTATIONS[name](qkv, grid, table, scale).backward(weight.to(dtype))
        reference.attend(full[0], grid, *full[1:]).backward(weight.double())
        errors.append(
            [
                float((half.grad - exact.grad).abs().max() / exact.grad.abs().max())
                for half, exact in zip((qkv, table, scale), full, strict=True)
            ]
        )
    for error, factor in zip(torch.tensor(errors).mean(0), (1, 1, 1.5), strict=True):
        assert error < factor * tolerance  # the gradient of the scale is a long sum


@pytest.mark.parametrize('autocast', [False, True], ids=['plain', 'autocast'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.01), (torch.half, 0.0015)])
def test_a_large_bias_is_not_rounded(dtype, tolerance, autocast):
    """Rounding to bfloat16 would have steps of 0.06 at 16."""
    torch.manual_seed(0)
    grid, table = WindowGrid((16, 16), (8, 8), (4, 4)), 16 * torch.rand(2, 15, 15)
    qkv, scale = torch.randn(1, 16, 16, 48).to(dtype), torch.full((2, 1, 1), 1e-3)
    want = reference.attend(qkv.double(), grid, table.double(), scale.double())
    with torch.autocast('cpu', dtype, autocast):
        got = sdpa.attend(qkv, grid, table, scale)
    assert got.dtype == dtype and float((got - want).abs().max()) < tolerance


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_autocast_leaves_the_dtype_of_the_tokens(name, training):
    """Layers that do not follow autocast, such as those of other libraries, give float32."""
    qkv, grid, table, scale = inputs('ragged', torch.float)
    want = reference.attend(qkv, grid, table, scale)
    with torch.autocast('cpu', torch.bfloat16), torch.set_grad_enabled(training):
        got = IMPLEMENTATIONS[name](qkv, grid, table, scale)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_second_derivatives(name):
    size = (3, 5)
    grid = WindowGrid(size, (2, 3), (1, 1))
    torch.manual_seed(0)
    qkv = torch.randn(1, *size, 6, dtype=torch.double, requires_grad=True)
    table = torch.randn(1, 3, 5, dtype=torch.double, requires_grad=True)
    scale = torch.full((1, 1, 1), 2.0, dtype=torch.double, requires_grad=True)
    attend = IMPLEMENTATIONS[name]
    # fast: one random direction of all numbers instead of each by itself
    torch.autograd.gradgradcheck(
        lambda *t: attend(t[0], grid, *t[1:]), (qkv, table, scale), fast_mode=True
    )


@pytest.mark.filterwarnings('ignore:There is a performance drop because:UserWarning')
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float, 1e-5), (torch.bfloat16, 3e-2), (torch.half, 4e-3)]
)
@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_gradients_of_several_losses_at_a_time(name, dtype, tolerance):
    qkv, grid, table, scale = inputs('ragged', dtype)
    out = IMPLEMENTATIONS[name](qkv, grid, table, scale)
    grads = torch.randn(2, *out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def gradients(grad, **options):
        return torch.autograd.grad(out, (qkv, table, scale), grad, retain_graph=True, **options)

    qkv.register_hook(lambda grad: 2 * grad)  # it runs once
    for got, want in zip(gradients(grads, is_grads_batched=True), gradients(grads[1]), strict=True):
        assert (got[1] - want).abs().max() / want.abs().max() < tolerance


def test_second_derivatives_of_several_losses_at_a_time():
    qkv, grid, table, scale = inputs('even', torch.double)
    out = sdpa.attend(qkv, grid, table, scale)
    grads = torch.randn(2, *out.shape, dtype=torch.double)

    def second(grad, **options):
        options.update(retain_graph=True, create_graph=True)
        found = torch.autograd.grad(out, (qkv, table, scale), grad, **options)
        return [t.square().sum() for t in found]

    got = sum(second(grads, is_grads_batched=True))
    want = sum(sum(second(grad)) for grad in grads)
    leaves = qkv, table, scale
    for pair in zip(*(torch.autograd.grad(t, leaves) for t in (got, want)), strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning:torch')  # of its own functions
def test_kernels_of_torchs_compiler():
    tensors = inputs('ragged', torch.float)
    torch._dynamo.reset()
    compiled = torch.compile(ops.attend, fullgraph=True, dynamic=False)
    results = (gradients(attend, *tensors) for attend in (compiled, reference.attend))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


# of torch, which makes fake tensors of those inside of the graph
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning')
def test_compiled_autograd_follows_the_backward_pass():
    qkv, grid, table, scale = inputs('even', torch.float)
    wanted = qkv, table, scale = [t.detach().requires_grad_() for t in (qkv, table, scale)]
    loss = sdpa.attend(qkv, grid, table, scale).square().sum()
    want = torch.autograd.grad(loss, wanted, retain_graph=True)
    compiler = partial(torch.compile, backend='eager', fullgraph=True)
    with compiled_autograd._enable(compiler):
        loss.backward()
    for tensor, one in zip(wanted, want, strict=True):
        torch.testing.assert_close(tensor.grad, one)


@pytest.mark.parametrize('training', [True, False])
def test_the_forward_pass_makes_no_scores(training):
    # torch silently skips its fused kernels if the mask requires a gradient
    tensors = inputs('even', torch.float)
    with Operators() as operators, torch.set_grad_enabled(training):
        ops.attend(*tensors)
    assert '_scaled_dot_product_flash_attention_for_cpu' in operators.names
    assert not set(operators.names) & {'bmm', '_softmax', '_safe_softmax'}


def test_backward_goes_in_steps_of_bounded_size(monkeypatch):
    tensors = inputs('even', torch.double)
    want = gradients(sdpa.attend, *tensors)
    with Operators() as at_once:
        gradients(sdpa.attend, *tensors)
    monkeypatch.setattr(sdpa, '_SCORES_AT_ONCE', 2 * HEADS * 16**2)
    with Operators() as in_steps:
        got = gradients(sdpa.attend, *tensors)
    assert at_once.names.count('_softmax') == 1
    assert in_steps.names.count('_softmax') == 4  # 8 windows, 2 at a time
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_but_the_inputs_is_kept_for_backward():
    qkv, grid, table, scale = inputs('ragged', torch.float)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sdpa.attend(qkv, grid, table, scale)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (qkv, table, scale)}


@pytest.mark.parametrize('name', ['reference', 'sdpa', 'sdpa_padded'])
def test_so_many_windows_attend_at_once(name, monkeypatch):
    calls = []
    for module, function in ((reference, 'softmax_attention'), (F, 'scaled_dot_product_attention')):
        plain = getattr(module, function)
        monkeypatch.setattr(
            module,
            function,
            lambda x, *a, plain=plain, **k: calls.append(len(x)) or plain(x, *a, **k),
        )
    qkv, grid, table, scale = inputs('even', torch.double)  # 8 windows
    attend = {**IMPLEMENTATIONS, 'reference': reference.attend}[name]
    out = attend(qkv, grid, table, scale, windows_at_once=3)
    assert calls == [3, 3, 2]
    if name != 'reference':
        with Operators() as backward:
            out.sum().backward()
        assert backward.names.count('_softmax') == 3


@pytest.mark.parametrize(('grid', 'width'), [('even', WIDTH), ('ragged', WIDTH + 8)])
def test_only_padded_maps_have_marks_of_the_padding(grid, width, monkeypatch):
    """Torch's fused kernels for GPUs take heads whose width 8 divides."""
    plain, seen = F.scaled_dot_product_attention, []

    def attention(q, k, v, **options):
        seen.append((q.shape[-1], k.shape[-1], v.shape[-1]))
        return plain(q, k, v, **options)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', attention)
    sdpa_padded.attend(*inputs(grid, torch.float))
    assert seen == [(width, width, WIDTH)]


def test_no_call_has_more_windows_than_a_kernel_takes(monkeypatch):
    calls, plain = [], F.scaled_dot_product_attention

    def attention(q, *others, **options):
        calls.append(len(q))
        return plain(q, *others, **options)

    want = sdpa_padded.attend(*inputs('even', torch.float))
    monkeypatch.setattr(F, 'scaled_dot_product_attention', attention)
    monkeypatch.setattr(sdpa_padded, '_MOST', 5)
    torch.testing.assert_close(sdpa_padded.attend(*inputs('even', torch.float)), want)
    assert calls == [5, 3]


@pytest.mark.parametrize('device', ['cuda', 'xpu', 'cpu', 'meta'])
def test_one_call_for_all_windows_is_for_gpus(device):
    def tensor(*shape):  # fake, as no GPU is needed then
        return FakeTensor(FakeTensorMode(), torch.empty(shape, device='meta'), torch.device(device))

    qkv, others = tensor(1, 4, 4, 24), (tensor(1, 7, 7), tensor(1, 1, 1))
    assert sdpa_padded.fits_attend(qkv, *others, 0.0) == (device in ('cuda', 'xpu'))
    assert not sdpa_padded.fits_attend(tensor(0, 4, 4, 24), *others, 0.0)
    assert not sdpa_padded.fits_attend(qkv, *others, 0.5)


@pytest.mark.parametrize('name', ['padded', 'reference'])
def test_probabilities_are_dropped(name):
    qkv, grid, table, scale = inputs('even', torch.double)
    attend = {**IMPLEMENTATIONS, 'reference': reference.attend}[name]
    whole = attend(qkv, grid, table, scale)
    outs = torch.stack([attend(qkv, grid, table, scale, dropout=0.5) for _ in range(200)])
    assert not torch.allclose(outs[0], whole)
    assert (outs.mean(0) - whole).abs().mean() < 0.15


def test_dropped_probabilities_take_the_reference():
    qkv, grid, table, scale = inputs('even', torch.float)
    with Operators() as operators:
        ops.attend(qkv, grid, table, scale, dropout=0.5)
    assert '_scaled_dot_product_flash_attention_for_cpu' not in operators.names
