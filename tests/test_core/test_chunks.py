import pytest
import torch

from mmswinv2.core import SwinV2, chunks
from mmswinv2.core.block import MLP, Block
from mmswinv2.core.chunks import in_chunks, without_chunks

NANO = dict(embed_dims=12, depths=(2, 2), num_heads=(2, 3))


def network(**kwargs):
    torch.manual_seed(0)
    net = SwinV2(NANO, out_indices=(0, 1), window_size=4, **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def outputs_and_gradients(net, x, dtype=None):
    net.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # of dropping paths
    with torch.autocast('cpu', dtype, dtype is not None):
        outs = net(x)
    sum(out.float().square().sum() for out in outs).backward()
    return [*outs, x.grad, *(p.grad for p in net.parameters() if p.requires_grad)]


@pytest.fixture(params=[3, 2048], ids=['3 rows', '2048 rows'])
def rows(request, monkeypatch):
    monkeypatch.setattr(chunks, '_ROWS_PER_THREAD', request.param)
    monkeypatch.setattr(chunks, '_KEPT_ROWS', 0)


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
def test_the_same_numbers_and_gradients_as_all_at_once(setting, rows):
    options = SETTINGS[setting]
    net = network(**options)
    size = (5, 29, 42) if setting == 'video' else (61, 42)
    x = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2))
    got = outputs_and_gradients(net, x)
    with without_chunks():
        want = outputs_and_gradients(net, x)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    net.eval()
    with torch.no_grad():
        got = net(x)
        with without_chunks():
            want = net(x)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_same_under_autocast(rows):
    net = network()
    x = torch.randn(2, 3, 61, 42, generator=torch.Generator().manual_seed(2))
    got = outputs_and_gradients(net, x, torch.bfloat16)
    with without_chunks():
        want = outputs_and_gradients(net, x, torch.bfloat16)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= 0.05 * b.abs().max()


def test_sums_over_chunks_are_not_rounded_in_between(monkeypatch):
    monkeypatch.setattr(chunks, '_ROWS_PER_THREAD', 16)
    monkeypatch.setattr(chunks, '_KEPT_ROWS', 0)
    torch.manual_seed(0)
    block = Block(12, 2, (4, 4), (4, 4), shifted=False)
    x = 1 + torch.randn(1, 60, 60, 12)
    for p in block.parameters():
        torch.nn.init.normal_(p, mean=0.1, std=0.1)

    def gradient(dtype):
        block.zero_grad()
        with torch.autocast('cpu', dtype, dtype is not None):
            out = block(x)
        (out * out.detach()).sum().backward()  # all of one sign, as many small steps would be
        return block.mlp.fc2.bias.grad.clone()

    exact = gradient(None)
    chunked = gradient(torch.bfloat16)
    with without_chunks():
        whole = gradient(torch.bfloat16)
    error = (chunked - exact).norm() / exact.norm()
    assert error < 1.5 * (whole - exact).norm() / exact.norm() + 1e-3


def block_and_tokens():
    torch.manual_seed(0)
    block = Block(12, 2, (4, 4), (4, 4), shifted=False)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return block, torch.randn(1, 8, 8, 12)


LAYERS = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2', 'norm1', 'norm2', 'mlp', 'drop_path']


@pytest.mark.parametrize('name', [*LAYERS, 'attn.proj_drop', 'mlp.drop', 'attn'])
def test_hooks_are_heeded(name):
    block, x = block_and_tokens()
    block.eval()
    with torch.no_grad():
        before = block(x)
        seen = []
        block.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
        torch.testing.assert_close(block(x), before)
    assert seen


@pytest.mark.parametrize('name', LAYERS)
def test_other_layers_are_heeded(name, monkeypatch):
    monkeypatch.setattr(chunks, '_KEPT_ROWS', 0)  # large maps in training, too
    block, x = block_and_tokens()
    before = block(x)
    layer = block.get_submodule(name)
    block.set_submodule(name, torch.nn.Sequential(layer, torch.nn.Hardshrink(0.3)))
    assert not torch.allclose(block(x), before)
    block.set_submodule(name, layer)
    torch.testing.assert_close(block(x), before)
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)
    assert not torch.allclose(block(x), before)


def test_a_subclass_is_trained(monkeypatch):
    class Adapted(MLP):
        def __init__(self, *args):
            super().__init__(*args)
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * super().forward(x)

    monkeypatch.setattr(chunks, '_KEPT_ROWS', 0)
    block, x = block_and_tokens()
    block.mlp, block.norm2 = Adapted(12, 48), torch.nn.Identity()
    block(x).sum().backward()
    assert block.mlp.gain.grad.abs() > 0


@pytest.mark.filterwarnings('ignore:.*torch.jit.*:DeprecationWarning')
def test_tracing_says_what_to_do():
    block, x = block_and_tokens()
    with pytest.raises(RuntimeError, match='use torch.export inside'):
        torch.jit.trace(block.eval(), x)


def test_dropout_set_later_is_heeded(monkeypatch):
    monkeypatch.setattr(chunks, '_KEPT_ROWS', 0)
    block = Block(12, 2, (4, 4), (4, 4), shifted=False).train()
    torch.nn.init.ones_(block.norm2.weight)
    x = torch.randn(1, 8, 8, 12)
    torch.testing.assert_close(block(x), block(x))
    block.mlp.drop.p = 0.5
    assert not torch.allclose(block(x), block(x))


def test_frozen_weights_get_no_gradient(rows):
    net = network()
    net.patch_embed.requires_grad_(False)
    net.layers[0].requires_grad_(False)
    net.layers[1].blocks[0].attn.proj.weight.requires_grad_(False)
    x = torch.randn(1, 3, 61, 42)
    sum(out.sum() for out in net(x)).backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in net.named_parameters() if p.requires_grad}


def test_a_block_keeps_its_input_and_its_middle(monkeypatch):
    """For backward, as maps of the block's size; a small one keeps its activations."""
    monkeypatch.setattr(chunks, '_KEPT_ROWS', 89)
    block = Block(12, 2, (4, 4), (4, 4), shifted=True).train()
    x = torch.randn(1, 9, 10, 12, requires_grad=True)
    kept = {}

    def pack(tensor):
        if tensor.numel() % x.numel() == 0:
            kept[tensor.data_ptr()] = tensor.numel() // x.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(x)
    chunked = sum(kept.values())
    kept.clear()
    monkeypatch.setattr(chunks, '_KEPT_ROWS', 90)  # the map's
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(x)
    assert chunked == 2
    assert sum(kept.values()) > 10


def test_rows_keep_their_place():
    x = torch.arange(12.0).reshape(6, 2).requires_grad_()
    factors = [torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)]
    parts = [(torch.tensor([4, 0, 2]), (0,)), (torch.tensor([1, 5]), (1,)), (slice(3, 4), (1,))]
    scale = torch.arange(6.0)[:, None]
    out = in_chunks(lambda x, s, f: x * s * f, x, scale, parts, factors)
    factor = torch.tensor([2.0, 3, 2, 3, 2, 3])[:, None]
    torch.testing.assert_close(out, x * scale * factor)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (scale * factor).expand(6, 2))
    per_row = (x * scale).sum(1).detach()
    assert [f.grad.item() for f in factors] == [per_row[::2].sum(), per_row[1::2].sum()]
