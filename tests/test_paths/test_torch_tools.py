"""torch's own tools work on the network with every implementation path."""

import copy
import io
import pickle
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbols
from torch.utils.flop_counter import FlopCounterMode

from mmswinv2.core import SwinV2
from mmswinv2.ops import onednn
from mmswinv2.paths import PATHS, chunked
from tests.operators import called_modules

# blocks with and without a shift, and two stages: what torch does with more blocks takes longer
NET = dict(embed_dims=12, depths=(2, 1), num_heads=(2, 3))
SIZE = (45, 52)


@pytest.fixture(autouse=True)
def every_short_cut(monkeypatch):
    """Enable all paths of a fast processor, for small maps too."""
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 30)
    monkeypatch.setattr(chunked, '_FASTER_FROM', 1)
    monkeypatch.setattr(onednn, 'is_faster', lambda: True)


def build(path, window=4, **kwargs):
    torch.manual_seed(0)
    net = SwinV2(NET, out_indices=(0, 1), window_size=window, block=PATHS[path], **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.eval()


@pytest.fixture(params=PATHS)
def net(request):
    return build(request.param)


@pytest.fixture
def x():
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def assert_same(got, want, tolerance=1e-5):
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def formula(window):
    """Operations of one forward pass at 64 x 64 pixels: maps of 16 x 16 and 8 x 8 tokens.

    Written for windows that divide the maps.
    """
    total = 2 * 256 * 3 * 16 * 12  # patch embedding
    for tokens, dim, heads, depth in ((256, 12, 2, 2), (64, 24, 3, 1)):
        side = min(window, int(tokens**0.5))
        for shifted in (False, True)[:depth]:
            total += 2 * tokens * dim * 12 * dim  # qkv, proj, fc1, fc2
            total += 2 * (2 * side - 1) ** 2 * 512 * (2 + heads)  # position bias
            axis = int(tokens**0.5)
            pieces = [side] * (axis // side)
            if shifted and axis > side:
                pieces = [side // 2, *[side] * (axis // side - 1), side // 2]
            windows = [(a * b) for a in pieces for b in pieces]
            total += sum(2 * 2 * n * n * dim for n in windows)
    return total + 2 * 64 * 48 * 24  # patch merging


@pytest.mark.parametrize('look', ['directly', 'by module'])
@pytest.mark.parametrize('window', [4, 8])
@pytest.mark.parametrize('path', ['auto', 'plain', 'chunked'])
def test_flops_are_those_of_the_formula(path, window, look):
    net = build(path, window)
    depth = 0 if look == 'directly' else 4
    counter = FlopCounterMode(display=False, depth=depth)
    with torch.no_grad(), counter:
        net(torch.rand(1, 3, 64, 64))
    assert counter.get_total_flops() == formula(window)


def test_flops_of_windows_of_one_size():
    """Windows as large as the map need no padding."""
    with torch.no_grad(), FlopCounterMode(display=False) as padded:
        build('padded', 16)(torch.rand(1, 3, 64, 64))
    assert padded.get_total_flops() == formula(16)


def test_every_module_is_seen(net, x):
    lists = {m for m in net.modules() if isinstance(m, torch.nn.ModuleList)}
    assert called_modules(net, x) == set(net.modules()) - lists


# torch says so of modules whose inputs have no gradient: the embedding and the position bias
@pytest.mark.filterwarnings('ignore:Full backward hook is firing:UserWarning')
def test_full_backward_hooks_of_every_module(net, x):
    want, seen = gradients(net, x), set()
    for module in net.modules():
        module.register_full_backward_hook(lambda m, *_: seen.add(m))
    assert_same(gradients(net, x).values(), want.values(), 1e-4)
    lists = {m for m in net.modules() if isinstance(m, torch.nn.ModuleList)}
    assert seen == set(net.modules()) - lists


@pytest.mark.filterwarnings('ignore:.*torch.jit')
@pytest.mark.parametrize('grad', [True, False], ids=['with gradients', 'without'])
def test_trace_at_a_fixed_size(net, x, grad):
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(net, x)
    assert_same(traced(x), net(x))
    if grad:
        want = torch.autograd.grad(net(x)[-1].sum(), list(net.parameters()), allow_unused=True)
        got = torch.autograd.grad(traced(x)[-1].sum(), list(traced.parameters()), allow_unused=True)
        pairs = zip(got, want, strict=True)
        assert_same(*zip(*[p for p in pairs if p[1] is not None], strict=True), 1e-3)


@pytest.mark.filterwarnings('ignore:.*torch.jit')
@pytest.mark.parametrize('path', PATHS)
def test_trace_with_windows_larger_than_the_map(path, x):
    net = build(path, window=16)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(net, x)
    assert_same(traced(x), net(x))


@pytest.mark.parametrize('path', ['auto', 'padded'])
def test_onnx_by_the_older_exporter_at_a_fixed_size(path, x):
    """It exports by a trace; mmdeploy uses it."""
    onnxruntime = pytest.importorskip('onnxruntime')
    net, file = build(path), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch has many for this exporter
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=17, input_names=['x'])
    session = onnxruntime.InferenceSession(file.getvalue())
    assert_same(map(torch.from_numpy, session.run(None, {'x': x.numpy()})), net(x), 1e-4)


@pytest.mark.filterwarnings('ignore:.*torch.jit')
def test_trace_warns_that_it_serves_one_size(net, x):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        torch.jit._get_trace_graph(net, x)  # as mmengine's get_model_complexity_info does
    said = [str(w.message) for w in seen if w.category is torch.jit.TracerWarning]
    assert any('Converting a tensor to a Python integer' in text for text in said)


@pytest.mark.slow
@pytest.mark.parametrize('path', ['auto', 'padded'])
def test_export_at_any_size(path, x):
    net = build(path)
    auto = torch.export.Dim.AUTO
    two = x.expand(2, -1, -1, -1)
    program = torch.export.export(net, (two,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    other = torch.randn(3, 3, 61, 43)
    assert_same(program.module()(two), net(two))
    assert_same(program.module()(other), net(other))


@torch.no_grad()
def test_a_block_exported_without_gradients_takes_any_size(monkeypatch):
    """On large maps in inference it may go in chunks, which a graph cannot decide by the size."""
    monkeypatch.setattr(chunked, '_FASTER_FROM', 2**13)
    block = PATHS['auto'](12, 2, (4, 4), (4, 4), shifted=True).eval()
    torch.nn.init.ones_(block.norm1.weight)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        block, (torch.randn(2, 20, 22, 12),), dynamic_shapes=({0: auto, 1: auto, 2: auto},)
    )
    for size in ((23, 21), (93, 95)):
        other = torch.randn(2, *size, 12)
        assert_same([program.module()(other)], [block(other)])


@torch.no_grad()
@pytest.mark.parametrize('ndim', [2, 3])
def test_an_exported_network_takes_maps_of_one_window_or_one_token_wide(ndim):
    net = SwinV2(
        dict(embed_dims=8, depths=[2], num_heads=[2]), patch_size=(2,) * ndim,
        merge_stride=(2,) * ndim, window_size=3, out_indices=(0,),
    ).eval()  # fmt: skip
    for norm in (net.layers[0].blocks[0].norm1, net.layers[0].blocks[1].norm1):
        torch.nn.init.ones_(norm.weight)
    sizes = dict.fromkeys([0, *range(2, 2 + ndim)], torch.export.Dim.AUTO)
    with symbols.patch(backed_size_oblivious=True):
        image = torch.randn(2, 3, *(18, 21, 24)[:ndim])
        program = torch.export.export(net, (image,), dynamic_shapes=(sizes,))
    for size in ((6, 21, 5), (21, 5, 30), (1, 3, 2), (2, 15, 1)):
        image = torch.randn(3, 3, *size[:ndim])
        assert_same(program.module()(image), net(image))


# along each axis less than a window of 4 tokens, one window, and several with and without a rest
MAPS = {
    2: ((45, 52), (61, 70), (16, 70), (70, 9), (16, 16), (12, 33)),
    3: ((9, 45, 52), (8, 16, 70), (20, 70, 16), (5, 9, 60), (8, 16, 16)),
}


# a warning from torch's own tracing of an autograd.Function
@pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')
@pytest.mark.parametrize(
    ('ndim', 'training', 'dynamic'),
    [(2, True, None), (3, False, True)],
)
def test_compile_makes_one_graph_for_any_size_but_the_first(ndim, training, dynamic):
    sizes = dict(patch_size=(2, 4, 4), merge_stride=(1, 2, 2)) if ndim == 3 else {}
    net = build('auto', **sizes).train(training)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter, dynamic=dynamic)
    for size in MAPS[ndim]:
        image = torch.randn(1, 3, *size, requires_grad=training)
        with torch.set_grad_enabled(training):
            got, want = compiled(image), net(image)
        assert_same(got, want)
        if training:
            inputs = (image, *net.parameters())
            losses = (sum(out.sin().sum() for out in outs) for outs in (got, want))
            assert_same(*(torch.autograd.grad(loss, inputs) for loss in losses), 1e-4)
    assert counter.frame_count <= (1 if dynamic else 2)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')
def test_compile_for_any_size_at_once_with_checkpointing(x):
    net = build('auto', with_cp=True).train()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend='eager')
    for image in (x, x[..., :41, :]):
        assert_same(compiled(image), net(image))


def gradients(net, x):
    net.zero_grad()
    sum(out.sin().sum() for out in net(x)).backward()
    return {name: p.grad for name, p in net.named_parameters()}


def loss(net):
    def call(parameters, x):
        return sum(out.sin().sum() for out in torch.func.functional_call(net, parameters, (x,)))

    return call


def test_func_grad(net, x):
    got = torch.func.grad(loss(net))(dict(net.named_parameters()), x)
    want = gradients(net, x)
    assert_same(got.values(), want.values(), 1e-4)


def test_func_vmap(net):
    images = torch.randn(3, 1, 3, *SIZE)
    with torch.no_grad():
        got, want = torch.func.vmap(net)(images), net(images[:, 0])
    assert_same([out[:, 0] for out in got], want)


# torch has no batching rule for one operator in the gradient of the position bias
@pytest.mark.filterwarnings('ignore:.*batching rule for aten..unfold_backward:UserWarning')
def test_gradients_of_each_sample(net):
    images = torch.randn(2, 1, 3, *SIZE)
    parameters = dict(net.named_parameters())
    got = torch.func.vmap(torch.func.grad(loss(net)), in_dims=(None, 0))(parameters, images)
    want = gradients(net, images[1])
    assert_same([d[1] for d in got.values()], want.values(), 1e-3)


@pytest.mark.filterwarnings('ignore:.*batching rule for aten..unfold_backward:UserWarning')
@pytest.mark.parametrize('path', PATHS)
def test_gradients_of_each_sample_with_checkpointing(path):
    images = torch.randn(2, 1, 3, *SIZE)
    want, got = (
        torch.func.vmap(torch.func.grad(loss(net)), in_dims=(None, 0))(
            dict(net.named_parameters()), images
        )
        for net in (build(path, with_cp=flag).train() for flag in (False, True))
    )
    assert_same(got.values(), want.values())


# torch has no batching rule for the gradient of its fused attention, nor for our products
@pytest.mark.filterwarnings('ignore:.*batching rule for:UserWarning')
def test_gradients_of_several_losses_at_a_time(net, x):
    """As libraries for training on several tasks ask for them."""
    out = net(x)[-1]
    tensors = [p for name, p in net.named_parameters() if not name.startswith('norm0')]

    def backward(grad):
        return torch.autograd.grad(out, tensors, grad, retain_graph=True)

    grads = torch.randn(3, *out.shape)
    got, want = torch.func.vmap(backward)(grads), backward(grads[1])
    assert_same([d[1] for d in got], want, 1e-4)


@pytest.mark.filterwarnings('ignore:There is a performance drop because:UserWarning')
def test_gradients_of_several_losses_by_the_older_vmap(net, x):
    """As `torch.autograd.functional.jacobian(vectorize=True)` asks for them too."""
    out = net(x[..., :21, :25])[-1]
    tensors = [p for name, p in net.named_parameters() if not name.startswith('norm0')]
    grads = torch.randn(2, *out.shape)
    got = torch.autograd.grad(out, tensors, grads, is_grads_batched=True, retain_graph=True)
    assert_same([d[1] for d in got], torch.autograd.grad(out, tensors, grads[1]), 1e-4)


@pytest.mark.filterwarnings('ignore:torch.ao.quantization is deprecated:DeprecationWarning')
@pytest.mark.filterwarnings('ignore:torch.quantize_per_tensor:UserWarning')
def test_dynamic_quantisation(net, x):
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {torch.nn.Linear})
    left = [name for name, m in quantised.named_modules() if type(m) is torch.nn.Linear]
    assert left == []
    with torch.no_grad():
        assert_same(quantised(x), net(x), 0.2)


def test_weight_only_quantisation(net, x):
    torchao = pytest.importorskip('torchao.quantization', reason='torchao is not installed')
    quantised = copy.deepcopy(net)
    torchao.quantize_(quantised, torchao.Int8WeightOnlyConfig())
    plain = [
        name for name, m in quantised.named_modules()
        if isinstance(m, torch.nn.Linear) and type(m.weight.data) is torch.Tensor
    ]  # fmt: skip
    assert plain == []
    with torch.no_grad():
        assert_same(quantised(x), net(x), 0.2)


def test_meta_tensors(net, x):
    want = [out.shape for out in net(x)]
    assert [out.shape for out in net.to('meta')(x.to('meta'))] == want


def test_fake_tensors_leave_nothing_behind(net, x):
    with torch.no_grad():
        before = net(x)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = net(mode.from_tensor(x))
        after = net(x)
    assert [out.shape for out in fake] == [out.shape for out in before]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


def test_copies_and_pickles(net, x):
    with torch.no_grad():
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            for a, b in zip(other(x), net(x), strict=True):
                assert torch.equal(a, b)


@pytest.fixture
def short_turns():
    """Let Python switch threads often; threads release the GIL while an operator runs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_threads_may_share_a_network(net, x, short_turns):
    with torch.no_grad():
        want = net(x)
    stop = threading.Event()

    def infer():
        with torch.no_grad():
            outs = [net(x) for _ in range(10)]
        return all(torch.equal(a, b) for out in outs for a, b in zip(out, want, strict=True))

    def switch():
        while not stop.is_set():
            net.eval()

    other = threading.Thread(target=switch)
    other.start()
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(infer) for _ in range(4)]
    stop.set()
    other.join()
    assert all(run.result() for run in runs)


def test_threads_may_train_on_a_network(net, x, short_turns):
    """Each thread gets its own gradients; the parameters stay the same objects."""
    parameters = list(net.parameters())
    inputs = [x, -x]

    def gradients(x):
        return torch.autograd.grad(sum(out.square().sum() for out in net(x)), parameters)

    wanted = [gradients(x) for x in inputs]

    def train(number):
        found = [zip(gradients(inputs[number]), wanted[number], strict=True) for _ in range(4)]
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for each in found for a, b in each)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(train, range(2)))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))


def test_forward_mode_derivatives(net, x):
    change = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    net, x = net.double(), x.double()
    with torch.autograd.forward_ad.dual_level():
        outs = net(torch.autograd.forward_ad.make_dual(x, change))
        got = [torch.autograd.forward_ad.unpack_dual(out).tangent for out in outs]
    with torch.no_grad():
        ahead, behind = net(x + 1e-6 * change), net(x - 1e-6 * change)
    assert_same(got, [(a - b) / 2e-6 for a, b in zip(ahead, behind, strict=True)], 1e-4)
