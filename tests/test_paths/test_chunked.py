import pytest
import torch
from torch.distributed.fsdp import FullyShardedDataParallel

from mmswinv2.core import SwinV2
from mmswinv2.core.block import Block
from mmswinv2.ops import WindowGrid
from mmswinv2.paths import AutoBlock, ChunkedBlock, chunked
from mmswinv2.paths.chunked import split_grid
from tests.reference import window_labels

NANO = dict(embed_dims=12, depths=(2, 2), num_heads=(2, 3))


def network(block, **kwargs):
    torch.manual_seed(0)
    net = SwinV2(NANO, out_indices=(0, 1), window_size=4, block=block, **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def outputs_and_gradients(net, x, dtype=None):
    net.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # for drop path
    with torch.autocast('cpu', dtype, dtype is not None):
        outs = net(x)
    sum(out.float().square().sum() for out in outs).backward()
    return [*outs, x.grad, *(p.grad for p in net.parameters() if p.requires_grad)]


@pytest.fixture(params=[3, 100, 2048], ids=['a window', '100 tokens', '2048 tokens'])
def tokens(request, monkeypatch):
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', request.param)


@pytest.mark.parametrize('budget', [1, 20, 50, 1000, 10**6])
@pytest.mark.parametrize(
    ('size', 'window', 'shift'),
    [
        ((8, 8), (4, 4), (0, 0)),
        ((9, 14), (4, 4), (2, 2)),
        ((3, 11), (4, 5), (2, 2)),
        ((5, 7, 11), (4, 4, 4), (2, 2, 2)),
        ((1, 7, 9), (1, 4, 4), (0, 2, 2)),
    ],
    ids=str,
)
def test_chunks_are_boxes_of_whole_windows(size, window, shift, budget):
    labels = window_labels(size, window, shift).view(1, *size)
    labels = torch.cat([labels, labels + 1000])  # two maps
    seen = torch.zeros_like(labels)
    whole = dict(zip(*(t.tolist() for t in labels.unique(return_counts=True)), strict=True))
    for box, grid in split_grid(2, WindowGrid(size, window, shift), budget):
        seen[box] += 1
        some = labels[box]
        assert grid.size == tuple(some.shape[1:])
        counts = dict(zip(*(t.tolist() for t in some.unique(return_counts=True)), strict=True))
        assert all(whole[label] == count for label, count in counts.items())
        assert some.numel() <= budget or len(counts) == 1
        within = window_labels(grid.size, grid.window, grid.shift)
        for one in some.flatten(1):  # the grid of the box has the windows of the map
            pairs = set(zip(one.tolist(), within.tolist(), strict=True))
            assert len(pairs) == len(set(one.tolist())) == len(set(within.tolist()))
    assert bool((seen == 1).all())


SETTINGS = {
    'plain': {},
    'dropped paths': dict(drop_path_rate=0.5),
    'checkpointing': dict(with_cp=True),
    'a window at a time': dict(windows_at_once=1),
    'extra norms': dict(extra_norm_every_n_blocks=2),
    'dropout': dict(drop_rate=0.3, attn_drop_rate=0.3),
    'video': dict(patch_size=(2, 4, 4), merge_stride=(1, 2, 2)),
}


@pytest.mark.parametrize('setting', SETTINGS)
def test_the_same_numbers_and_gradients_as_all_at_once(setting, tokens):
    options = SETTINGS[setting]
    size = (5, 29, 42) if setting == 'video' else (61, 42)
    x = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2))
    nets = [network(block, **options) for block in (ChunkedBlock, Block)]
    got, want = (outputs_and_gradients(net, x) for net in nets)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    with torch.no_grad():
        got, want = (net.eval()(x) for net in nets)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_same_under_autocast(tokens):
    x = torch.randn(2, 3, 61, 42, generator=torch.Generator().manual_seed(2))
    got, want = (
        outputs_and_gradients(network(block), x, torch.bfloat16) for block in (ChunkedBlock, Block)
    )
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= 0.05 * b.abs().max()


def test_sums_over_chunks_are_not_rounded_in_between(monkeypatch):
    torch.manual_seed(0)
    block = ChunkedBlock(12, 2, (4, 4), (4, 4), shifted=False)
    x = 1 + torch.randn(1, 60, 60, 12)
    for p in block.parameters():
        torch.nn.init.normal_(p, mean=0.1, std=0.1)

    def gradient(tokens, dtype=None):
        monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', tokens)
        block.zero_grad()
        with torch.autocast('cpu', dtype, dtype is not None):
            out = block(x)
        (out * out.detach()).sum().backward()  # gradients of one sign, so rounding accumulates
        return block.mlp.fc2.bias.grad.clone()

    exact = gradient(10**6)
    error = (gradient(16, torch.bfloat16) - exact).norm() / exact.norm()
    assert error < 1e-2  # rounding gives 1.4e-3, and once for each chunk 7e-2


def test_frozen_weights_get_no_gradient(tokens):
    net = network(ChunkedBlock)
    net.patch_embed.requires_grad_(False)
    net.layers[0].requires_grad_(False)
    net.layers[1].blocks[0].attn.proj.weight.requires_grad_(False)
    x = torch.randn(1, 3, 61, 42)
    sum(out.sum() for out in net(x)).backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in net.named_parameters() if p.requires_grad}


def test_a_block_keeps_its_input(monkeypatch):
    """Of maps of the block's size, only the input is kept for backward, not the activations."""
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 16)
    x = torch.randn(1, 9, 10, 12, requires_grad=True)

    def kept_by(block):
        kept = {}

        def pack(tensor):
            if tensor.numel() % x.numel() == 0:
                kept[tensor.data_ptr()] = tensor.numel() // x.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            block(12, 2, (4, 4), (4, 4), shifted=True).train()(x)
        return sum(kept.values())

    assert kept_by(ChunkedBlock) == 1
    assert kept_by(Block) > 10


def count_chunks(monkeypatch, block, x, backward=False):
    """Number of chunks in a forward pass, or in both passes; 1 without chunks."""
    calls, compute = [], Block.compute

    def counted(self, *args, **kwargs):
        calls.append(1)
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Block, 'compute', counted)
        out = block(x)
        if out.requires_grad and backward:
            out.sum().backward()
    return len(calls)


def test_chunks_are_taken_where_they_are_asked_for_or_win_time(monkeypatch):
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 64)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    x = torch.randn(2, 16, 16, 12)
    asked, auto = (kind(12, 2, (4, 4), (4, 4), shifted=False) for kind in (ChunkedBlock, AutoBlock))
    for large in (True, False):
        monkeypatch.setattr(chunked, '_FASTER_FROM', 512 + (not large))
        assert count_chunks(monkeypatch, asked, x) == 8
        assert count_chunks(monkeypatch, auto, x) == 1  # in training, chunks save only memory
        with torch.no_grad():
            assert count_chunks(monkeypatch, asked, x) == 8
            assert count_chunks(monkeypatch, auto, x) == (8 if large else 1)
        auto.requires_grad_(False)  # frozen, so it is not in training
        assert count_chunks(monkeypatch, auto, x) == (8 if large else 1)
        auto.requires_grad_()
    assert count_chunks(monkeypatch, asked, x[:, :4, :4], backward=True) == 1  # not computed twice
    assert count_chunks(monkeypatch, asked, x, backward=True) == 16
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    assert count_chunks(monkeypatch, asked, x) == 4


def test_gradients_belong_to_the_parameters_of_the_forward_pass(monkeypatch):
    """`torch.func.functional_call` restores the original parameters before the backward pass."""
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 16)
    x = torch.randn(1, 20, 20, 12)
    gradients = []
    for kind in (ChunkedBlock, Block):
        torch.manual_seed(0)
        block = kind(12, 2, (4, 4), (4, 4), shifted=True)
        other = {name: torch.randn_like(p).requires_grad_() for name, p in block.named_parameters()}
        torch.func.functional_call(block, other, (x,)).square().sum().backward()
        assert all(p.grad is None for p in block.parameters())
        gradients.append([p.grad for p in other.values()])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.fixture
def alone(tmp_path):
    """A process group of one process."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning')
@pytest.mark.parametrize('original', [True, False])
def test_gradients_in_the_older_fsdp(original, alone, tokens):
    x = torch.randn(1, 3, 61, 42, generator=torch.Generator().manual_seed(2))
    norms = []
    for wrap in (False, True):
        net = network(ChunkedBlock)
        if wrap:
            net = FullyShardedDataParallel(
                net, use_orig_params=original, device_id=torch.device('cpu')
            )
        sum(out.square().sum() for out in net(x)).backward()
        norms.append(torch.stack([p.grad.norm() for p in net.parameters()]).norm())
    # rounding gives 8e-7, a block without its gradients 5e-2
    torch.testing.assert_close(*norms, rtol=1e-4, atol=0)


@pytest.mark.parametrize('training', [True, False])
def test_backward_computes_what_forward_computed_whatever_the_mode_by_then(training, monkeypatch):
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 16)
    torch.manual_seed(0)
    block = ChunkedBlock(12, 2, (4, 4), (4, 4), shifted=True, drop_path=0.9)
    x = torch.randn(8, 8, 8, 12, requires_grad=True)
    torch.nn.init.ones_(block.norm1.weight)
    gradients = []
    for changed in (False, True):
        block.train(training)
        torch.manual_seed(1)
        out = block(x).square().sum()
        block.train(training != changed)
        gradients.append(torch.autograd.grad(out, x)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize('drop_path', [0.0, 0.5])
def test_second_derivatives(drop_path, monkeypatch):
    """Autograd leaves out what has no second derivative, without an error, where only an input's
    is asked for."""
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 16)
    found = []
    for block in (Block, ChunkedBlock):
        net = network(block, drop_path_rate=drop_path).double().requires_grad_()
        net.norm0.weight.requires_grad_(False)
        net.layers[0].blocks[0].mlp.fc1.weight.requires_grad_(False)
        torch.manual_seed(1)  # for drop path
        x = torch.randn(2, 3, 35, 43, dtype=torch.double, requires_grad=True)
        inputs = [x, *(p for p in net.parameters() if p.requires_grad)]
        loss = sum(out.square().sum() for out in net(x))
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        norm = sum(d.square().sum() for d in first)
        found.append([*first, *torch.autograd.grad(norm, inputs, allow_unused=True)])
    for want, got in zip(*found, strict=True):
        assert (want is None) == (got is None)
        assert want is None or (want - got).abs().max() <= 1e-10 * want.abs().max()
