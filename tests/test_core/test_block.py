import pytest
import torch

from mmswinv2.core.attention import WindowAttention
from mmswinv2.core.block import MLP, Block, DropPath
from mmswinv2.core.layers import is_plain
from mmswinv2.ops import onednn, reference
from mmswinv2.paths import PATHS
from tests.operators import called_modules

LAYERS = ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2', 'norm1', 'norm2', 'mlp', 'drop_path']


@pytest.fixture(autouse=True)
def every_short_cut(monkeypatch):
    monkeypatch.setattr(onednn, 'is_faster', lambda: True)
    monkeypatch.setattr('mmswinv2.paths.chunked._TOKENS_PER_THREAD', 16)
    monkeypatch.setattr('mmswinv2.paths.chunked._FASTER_FROM', 1)


@pytest.fixture(params=PATHS)
def block(request):
    torch.manual_seed(0)
    block = PATHS[request.param](12, 2, (4, 4), (4, 4), shifted=False)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return block


@pytest.fixture
def x():
    return torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', [*LAYERS, 'attn.proj_drop', 'mlp.drop', 'attn', 'attn.cpb_mlp'])
def test_hooks_are_heeded(block, x, name):
    block.eval()
    with torch.no_grad():
        before = block(x)
        seen = []
        block.get_submodule(name).register_forward_hook(lambda *_: seen.append(1))
        torch.testing.assert_close(block(x), before)
    assert seen


def test_hooks_of_all_modules_are_heeded(block, x):
    assert called_modules(block, x) == set(block.modules())


@pytest.mark.parametrize('name', LAYERS)
def test_other_layers_are_heeded(block, x, name):
    before = block(x)
    layer = block.get_submodule(name)
    block.set_submodule(name, torch.nn.Sequential(layer, torch.nn.Hardshrink(0.3)))
    assert not torch.allclose(block(x), before)
    block.set_submodule(name, layer)
    torch.testing.assert_close(block(x), before)
    plain = layer.forward
    layer.forward = lambda x: 2 * plain(x)
    assert not torch.allclose(block(x), before)


def test_a_layer_with_a_bias_of_its_own_keeps_it(block, x):
    before = block(x)
    layer = torch.nn.Linear(12, 36)
    layer.load_state_dict({'weight': block.attn.qkv.weight, 'bias': torch.zeros(36)})
    block.attn.qkv = layer
    torch.testing.assert_close(block(x), before)
    torch.nn.init.ones_(layer.bias)
    assert not torch.allclose(block(x), before)


def test_hooks_change_no_random_numbers(block, x):
    block.drop_path.rate = 0.5
    x = x.expand(8, -1, -1, -1)
    outs = []
    for name in (None, 'norm1', 'norm2', 'drop_path', 'mlp'):
        handle = name and block.get_submodule(name).register_forward_hook(lambda *_: None)
        torch.manual_seed(0)
        outs.append(block.train()(x))
        if handle:
            handle.remove()
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0])


@pytest.mark.parametrize('name', ['', 'mlp', 'mlp.fc1'])
def test_autocast_casts_the_input_of_the_mlp_once(monkeypatch, name):
    """By `add_norm`, unless someone watches what the MLP gets."""
    asked, seen = [], []
    monkeypatch.setattr(
        'mmswinv2.ops.add_norm', lambda *args: asked.append(args[6]) or reference.add_norm(*args)
    )
    block = Block(12, 2, (4, 4), (4, 4), shifted=False)
    if name:
        layer = block.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast('cpu', torch.bfloat16):
        block(torch.randn(1, 4, 4, 12))
    assert asked == [None if name else torch.bfloat16, None]
    assert seen == ([torch.float32] if name else [])


def test_an_empty_batch(block, x):
    assert block(x[:0]).shape == (0, *x.shape[1:])


def test_a_subclass_is_trained(block, x):
    class Adapted(MLP):
        def __init__(self, *args):
            super().__init__(*args)
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * super().forward(x)

    block.mlp, block.norm2 = Adapted(12, 48), torch.nn.Identity()
    block(x).sum().backward()
    assert block.mlp.gain.grad.abs() > 0


def test_dropout_set_later_is_heeded(block, x):
    block.train()
    torch.testing.assert_close(block(x), block(x))
    block.mlp.drop.p = 0.5
    assert not torch.allclose(block(x), block(x))


@pytest.mark.parametrize(
    'hook', ['forward_hook', 'forward_pre_hook', 'full_backward_hook', 'full_backward_pre_hook']
)
def test_a_watched_layer_is_not_plain(hook):
    layer = torch.nn.Linear(2, 2)
    assert is_plain(layer, torch.nn.Linear)
    handle = getattr(layer, f'register_{hook}')(lambda *_: None)
    assert not is_plain(layer, torch.nn.Linear)
    handle.remove()
    assert is_plain(layer, torch.nn.Linear)


def test_drop_path_comes_after_the_norm():
    torch.manual_seed(0)
    block = Block(8, 2, (4, 4), (4, 4), shifted=False, drop_path=0.5)
    for norm in (block.norm1, block.norm2):
        torch.nn.init.ones_(norm.weight)
        torch.nn.init.constant_(norm.bias, 3.0)  # a dropped branch must drop its bias too
    x = torch.randn(64, 4, 4, 8)
    change = (block.train()(x) - x).abs().amax((1, 2, 3))
    assert 5 < int((change == 0).sum()) < 30  # both branches dropped: 1 in 4


def test_drop_path_keeps_the_mean():
    torch.manual_seed(0)
    assert DropPath(0.3).train()(torch.ones(20000, 1)).mean() == pytest.approx(1, abs=0.03)
    assert DropPath(0.3).eval().draw(torch.ones(5, 1)) is None


def test_hidden_width_and_dropout_of_the_mlp():
    mlp = Block(8, 2, (4, 4), (4, 4), shifted=False, mlp_ratio=2.6, drop=0.5).mlp
    assert mlp.fc1.out_features == mlp.fc2.in_features == 20
    assert mlp.drop.p == 0.5


def test_a_block_drops_nothing_unless_asked_to():
    block = Block(8, 2, (4, 4), (4, 4), shifted=False).train()
    assert block.mlp.fc1.out_features == block.mlp.fc2.in_features == 32
    assert block.attn.attn_drop == block.attn.proj_drop.p == block.mlp.drop.p == 0
    assert block.drop_path.rate == 0
    assert isinstance(block.enorm, torch.nn.Identity)
    assert block.attn.windows_at_once is None
    assert MLP(8, 16).drop.p == WindowAttention(8, 2, (4, 4)).proj_drop.p == 0


def test_stochastic_depth_drops_at_its_rate_and_scales_up_what_is_kept():
    torch.manual_seed(0)
    drawn = DropPath(0.25).train().draw(torch.empty(4000, 2, 2, 3))
    assert drawn.shape == (4000, 1, 1, 1)
    assert sorted(set(drawn.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert (drawn == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert DropPath(0.25).eval().draw(torch.empty(4, 3)) is None
    assert DropPath(0.0).train().draw(torch.empty(4, 3)) is None


def test_a_table_that_is_given_is_taken(block, x):
    grid = block.grid(x)
    table = block.attn.table(grid)
    torch.testing.assert_close(block.compute(x, grid, table), block.compute(x, grid))
    assert not torch.allclose(block.compute(x, grid, 0 * table), block.compute(x, grid))


def test_dropout_switched_on_alone_acts():
    """Dropout layers in training mode in a network in evaluation mode (Monte Carlo dropout)."""
    torch.manual_seed(0)
    mlp, x = MLP(8, 16, drop=0.5).eval(), torch.randn(4, 8)
    assert torch.equal(mlp(x), mlp(x))
    mlp.drop.train()
    assert not torch.equal(mlp(x), mlp(x))
