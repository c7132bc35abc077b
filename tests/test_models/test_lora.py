import pytest
import torch
from mmengine.model import Sequential
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmswinv2.core import LoRA, add_lora, find_lora, merge_lora
from mmswinv2.core.layers import LoRALinear
from mmswinv2.core.lora import is_adapter
from mmswinv2.errors import UserError
from mmswinv2.models import SimMIMSwinTransformerV2, SwinTransformerV2, VideoSwinTransformerV2
from mmswinv2.paths import PATHS, chunked

SMALL = dict(embed_dims=12, depths=(2, 2), num_heads=(2, 3))
IMAGE = (SwinTransformerV2, dict(window_size=4, out_indices=(0, 1)), (2, 3, 50, 62))
VIDEO = (VideoSwinTransformerV2, dict(window_size=(2, 4, 4), out_indices=(0, 1)), (1, 3, 6, 33, 30))
each_kind = pytest.mark.parametrize('kind', [IMAGE, VIDEO], ids=['image', 'video'])


def network(kind=IMAGE, std=0.2, **options):
    """A network with random parameters; adapters are drawn last, so that others do not change."""
    make, defaults, _ = kind
    net = make(SMALL, **{'drop_path_rate': 0.0, **defaults, **options})
    torch.manual_seed(0)
    for name, p in sorted(net.named_parameters(), key=lambda pair: is_adapter(pair[0])):
        if std or not is_adapter(name):
            nn.init.normal_(p, std=0.2)
    return net


def pixels(kind=IMAGE):
    torch.manual_seed(1)
    return torch.rand(kind[2])


def outputs_and_gradients(net, x, dtype=None):
    net.zero_grad()
    with torch.autocast('cpu', dtype, dtype is not None):
        outs = net(x)
    sum(out.float().square().mean() for out in outs).backward()
    return list(outs), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, '_TOKENS_PER_THREAD', 40)


@each_kind
@pytest.mark.parametrize('path', PATHS)
def test_adapters_start_without_effect(kind, path, small_chunks):
    plain, adapted = network(kind, path=path), network(kind, 0, path=path, lora=dict(rank=4))
    assert len(find_lora(adapted)) == 4 * 4
    state = adapted.state_dict()
    assert {k for k in state if not is_adapter(k)} == set(plain.state_dict())
    assert all(torch.equal(state[k], v) for k, v in plain.state_dict().items())
    for train in (True, False):
        for a, b in zip(
            plain.train(train)(pixels(kind)), adapted.train(train)(pixels(kind)), strict=True
        ):
            assert torch.equal(a, b)


@each_kind
def test_all_paths_agree(kind, small_chunks, monkeypatch):
    monkeypatch.setattr(chunked, '_FASTER_FROM', 0)
    x = pixels(kind)
    found = {path: network(kind, path=path, lora=dict(rank=4)) for path in PATHS}
    outs, grads = outputs_and_gradients(found['plain'], x)
    for net in found.values():
        others, other_grads = outputs_and_gradients(net, x)
        assert grads.keys() == other_grads.keys()
        for a, b in [
            *zip(outs, others, strict=True),
            *((g, other_grads[k]) for k, g in grads.items()),
        ]:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)
        with torch.no_grad():  # here the automatic path uses chunks
            for a, b in zip(outs, net.eval()(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_chunks_are_taken_with_adapters(small_chunks):
    block = network(lora=dict(rank=4), path='chunked').layers[0].blocks[1]
    assert block.fits(torch.rand(1, 16, 16, 12))
    block.attn.qkv.register_forward_hook(lambda *args: None)  # a hook must see all calls
    assert not block.fits(torch.rand(1, 16, 16, 12))


@each_kind
def test_gradients_are_those_of_the_sum_of_weights(kind):
    """With ``V = W + U D a / r``, those of U and D follow from that of V in a plain network."""
    adapted, plain = network(kind, lora=dict(rank=4, alpha=6)), network(kind)
    for name, layer in find_lora(adapted).items():
        plain.get_submodule(name).weight.data = layer.merged().weight.data
    outs, grads = outputs_and_gradients(adapted, pixels(kind))
    others, full = outputs_and_gradients(plain, pixels(kind))
    torch.testing.assert_close(outs, others, rtol=1e-5, atol=1e-5)
    for name, layer in find_lora(adapted).items():
        v = full[f'{name}.weight'] * 6 / 4
        up, down = layer.lora_up.weight, layer.lora_down.weight
        torch.testing.assert_close(
            grads[f'{name}.lora_up.weight'], v @ down.T, rtol=1e-3, atol=1e-6
        )
        torch.testing.assert_close(
            grads[f'{name}.lora_down.weight'], up.T @ v, rtol=1e-3, atol=1e-6
        )


@each_kind
@pytest.mark.parametrize('train_norms', [True, False])
@pytest.mark.parametrize('with_cp', [True, False])
def test_only_what_is_to_learn_has_gradients(kind, train_norms, with_cp):
    lora = dict(rank=2, targets=['attn.qkv', 'mlp.fc1'], train_norms=train_norms)
    net = network(kind, lora=lora, with_cp=with_cp).train()
    for _ in range(2):
        _, grads = outputs_and_gradients(net, pixels(kind))
        net.train()  # freezes again
    names = {n for n, _ in net.named_parameters()}
    norms = {n for n in names if 'norm' in n}
    outputs = {n for n in norms if n.startswith('norm')}
    adapters = {n for n in names if is_adapter(n)}
    assert set(grads) == adapters | (norms if train_norms else outputs)
    assert {n.split('.lora_')[0].split('.', 4)[-1] for n in adapters} == {'attn.qkv', 'mlp.fc1'}
    assert {n for n, p in net.named_parameters() if p.requires_grad} == set(grads)


@each_kind
def test_merged_equals_adapted(kind):
    net, plain = network(kind, lora=dict(rank=4, alpha=2)).eval(), network(kind)
    with torch.no_grad():
        before = net(pixels(kind))
        assert merge_lora(net) == 16
        assert not find_lora(net) and merge_lora(net) == 0
        plain.load_state_dict(net.state_dict())  # strict
        for a, b in zip(before, plain.eval()(pixels(kind)), strict=True):
            # rounding gives 6e-7, an adapter that is wrong by a hundredth 9e-5
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))
            assert not torch.equal(a, network(kind)(pixels(kind))[0])


def test_merging_rounds_once():
    layer = LoRALinear(nn.Linear(8, 6).bfloat16(), 2, 3.0)
    nn.init.normal_(layer.lora_up.weight)
    weight, up, down = (m.weight.detach().double() for m in (layer, layer.lora_up, layer.lora_down))
    assert torch.equal(layer.merged().weight, (weight + 1.5 * up @ down).bfloat16())


def test_under_autocast_and_with_checkpointing():
    outs, grads = outputs_and_gradients(network(lora=dict(rank=4)), pixels(), torch.bfloat16)
    others, again = outputs_and_gradients(
        network(lora=dict(rank=4), with_cp=True).train(), pixels(), torch.bfloat16
    )
    assert all(torch.equal(a, b) for a, b in zip(outs, others, strict=True))
    assert grads.keys() == again.keys() and all(torch.equal(g, again[k]) for k, g in grads.items())
    exact, _ = outputs_and_gradients(network(lora=dict(rank=4)), pixels())
    assert not torch.equal(outs[1], exact[1])
    torch.testing.assert_close(outs, exact, rtol=0.1, atol=0.1)


def test_dropout_is_of_adapters_alone():
    x = pixels()
    net = network(lora=dict(rank=4, drop_rate=0.9)).train()
    first, second = net(x)[1], net(x)[1]
    assert not torch.equal(first, second)
    for layer in find_lora(net).values():
        nn.init.zeros_(layer.lora_up.weight)
    assert torch.equal(net(x)[1], network()(x)[1])


def test_windows_are_free():
    net, other = network(lora=dict(rank=4)), network(lora=dict(rank=4), window_size=7)
    other.load_state_dict(net.state_dict())
    net.window_size = 7
    other.pretrained_window_sizes = net.pretrained_window_sizes
    for module, same in zip(other.modules(), net.modules(), strict=True):
        if hasattr(module, 'pretrained_window'):
            module.pretrained_window = same.pretrained_window
    assert torch.equal(net(pixels())[1], other(pixels())[1])


def test_layers_may_differ():
    targets = ['attn.proj', dict(type=r'layers\.1\.blocks\.\d\.mlp\.fc[12]', rank=2, alpha=1)]
    found = find_lora(network(lora=dict(rank=3, alpha=6, targets=targets)))
    assert {(n.split('.', 4)[-1], m.rank, m.alpha) for n, m in found.items()} == {
        ('attn.proj', 3, 6), ('mlp.fc1', 2, 1), ('mlp.fc2', 2, 1),
    }  # fmt: skip
    assert sum('mlp' in name for name in found) == 4
    merging = network(lora=dict(rank=3, targets=[dict(type='downsample.reduction', rank=2)]))
    ((name, layer),) = find_lora(merging).items()
    assert (name, layer.rank, layer.alpha) == ('layers.0.downsample.reduction', 2, 2)


def test_learning_rates_decay_over_adapters():
    model = nn.ModuleDict(dict(backbone=network(lora=dict(rank=2)), head=nn.Linear(24, 3)))
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(p)]: g['lr'] for g in wrapper.optimizer.param_groups for p in g['params']}
    assert set(rates) == {n for n, p in model.named_parameters() if p.requires_grad}
    last = 2 + 2 + 1 + 1  # blocks, a merging, later layers
    for name, rate in rates.items():
        if is_adapter(name):
            stage, block = (int(part) for part in name.split('.')[2:5:2])
            assert rate == 0.5 ** (last - (1 + 3 * stage + block)), name
    assert rates['head.weight'] == 1 and sum(map(is_adapter, rates)) == 32


@each_kind
def test_initializers_of_a_model_leave_adapters_without_effect(kind):
    """Those of mmpretrain's configs for SwinV2, which stand at the classifier."""
    backbone = network(kind, lora=dict(rank=4), init_cfg=dict(type='TruncNormal', layer='Linear'))
    linear = dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0)
    model = Sequential(backbone, init_cfg=[linear])
    model.init_weights()
    plain = network(kind)
    plain.load_state_dict(
        {k: v for k, v in backbone.state_dict().items() if not is_adapter(k)}, strict=True
    )
    for a, b in zip(plain.eval()(pixels(kind)), backbone.eval()(pixels(kind)), strict=True):
        assert torch.equal(a, b)
    learnt = find_lora(backbone)['layers.0.blocks.0.attn.qkv'].lora_up.weight
    nn.init.ones_(learnt)
    backbone.init_weights()  # once more changes nothing
    assert bool((learnt == 1).all())
    loaded = Sequential(network(kind, lora=dict(rank=4)))
    loaded.load_state_dict({f'0.{k}': v for k, v in backbone.state_dict().items()})
    loaded.init_weights()
    learnt = find_lora(loaded[0])['layers.0.blocks.0.attn.qkv'].lora_up.weight
    assert bool((learnt == 1).all())


@each_kind
@pytest.mark.parametrize('path', PATHS)
def test_frozen_stages_leave_no_graph(kind, path):
    net = network(kind, frozen_stages=1, path=path).train()
    seen = {}
    for name, module in net.named_modules():
        if name.count('.') <= 1:
            module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    first, second = net(pixels(kind))
    frozen = {n for n in seen if n.startswith(('patch_embed', 'pos_drop', 'layers.0', 'norm0'))}
    assert len(frozen) >= 5 and first.grad_fn is None
    assert all(not seen[n].requires_grad and seen[n].grad_fn is None for n in frozen)
    assert seen['layers.1'].grad_fn is not None and second.requires_grad
    whole = network(kind, frozen_stages=2, path=path).train()
    assert all(out.grad_fn is None for out in whole(pixels(kind)))


def test_frozen_stages_keep_nothing_for_backward():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(frozen_stages=2).train()(pixels())
        assert kept == []
        network(frozen_stages=1).train()(pixels())
        assert kept != []


def test_frozen_stages_get_no_adapters():
    net = network(lora=dict(rank=4), frozen_stages=1).train()
    assert {name.split('.')[1] for name in find_lora(net)} == {'1'}
    assert net(pixels())[0].grad_fn is None and not any(
        p.requires_grad for p in net.norm0.parameters()
    )
    with pytest.raises(UserError, match='frozen_stages=2 leaves no stage for adapters; lower it'):
        network(lora=dict(rank=4), frozen_stages=2)


def test_norms_are_trained_unless_told_otherwise():
    targets = [dict(type='mlp.fc1', rank=3, alpha=6.0, drop_rate=0.5)]
    net = network(lora=dict(rank=2, targets=targets))
    assert all(p.requires_grad for name, p in net.named_parameters() if 'norm' in name)
    for layer in find_lora(net).values():
        assert (layer.rank, layer.alpha, layer.lora_dropout.p) == (3, 6.0, 0.5)


@pytest.mark.parametrize(
    ('lora', 'words'),
    [
        (16, r'lora must be dict\(rank=...\), got 16'),
        ({}, r'lora must be dict\(rank=...\), got {}'),
        (dict(rank=0), 'rank must be a whole number from 1, got 0'),
        (dict(rank=True), 'rank must be a whole number from 1, got True'),
        (dict(rank=13), r'rank must be at most 12 for layers.0.blocks.0.attn.qkv \(12 to 36'),
        (dict(rank=2, alpha=0), 'alpha must be a number above 0, got 0'),
        (dict(rank=2, drop_rate=1), 'drop_rate must be a number from 0 to below 1, got 1'),
        (dict(rank=2, train_norms=1), 'train_norms must be True or False, got 1'),
        (dict(rank=2, dropout=0.1), "no option 'dropout'"),
        (dict(rank=2, target=['qkv']), r"no option 'target' \(close to it: targets\)"),
        (dict(rank=2, targets=[]), 'targets must be a list of names'),
        (dict(rank=2, targets='qkv'), 'targets must be a list of names'),
        (dict(rank=2, targets=[dict(type='qkv', r=1)]), 'targets must be a list of names'),
        (dict(rank=2, targets=[dict(type='qkv', rank=0)]), 'rank must be a whole number from 1'),
        (
            dict(rank=2, targets=['attn.query']),
            "ends with, or is, 'attn.query'; there are attn.proj, attn.qkv, downsample.reduction, "
            'mlp.fc1, mlp.fc2',
        ),
        (dict(rank=2, targets=['kv']), "ends with, or is, 'kv'; there are attn.proj"),
        (dict(rank=2, targets=['cpb_mlp.0']), "'cpb_mlp.0'; there are attn.proj"),
        (dict(rank=2, targets=['qkv', 'attn.qkv']), 'two of the targets are layers.0.blocks.0'),
        (dict(rank=2, targets=['(']), 'is no regular expression'),
    ],
    ids=str,
)
def test_wrong_options(lora, words):
    with pytest.raises(UserError, match=words):
        network(lora=lora)


def test_the_rank_may_be_the_full_one_of_the_narrowest_layer():
    net = network(lora=dict(rank=12))
    layer = net.layers[0].blocks[0].attn.qkv
    assert layer.lora_down.weight.shape == (12, 12) and layer.lora_up.weight.shape == (36, 12)


def test_adapters_are_added_once():
    net = network(lora=dict(rank=2))
    with pytest.raises(UserError, match='has adapters; merge them before it gets others'):
        add_lora(net, LoRA(rank=4))
    merge_lora(net)
    add_lora(net, LoRA(rank=4))
    assert {layer.rank for layer in find_lora(net).values()} == {4}
    assert 'rank=4, alpha=4' in repr(net.layers[0].blocks[0].attn.qkv)


def test_other_dtypes_and_devices():
    layer = LoRALinear(nn.Linear(6, 5, dtype=torch.float64), 2, 1)
    assert layer(torch.rand(3, 6, dtype=torch.float64)).dtype == torch.float64
    assert layer.merged().weight.dtype == torch.float64
    assert LoRALinear(nn.Linear(6, 5, device='meta'), 2, 1).lora_up.weight.is_meta


def test_pretraining_has_no_use_for_adapters():
    with pytest.raises(UserError, match='SimMIM trains the whole backbone; leave lora out'):
        SimMIMSwinTransformerV2(arch='nano', lora=dict(rank=2))


def test_all_may_be_trained_once_adapters_are_merged():
    net = SwinTransformerV2('nano', lora=dict(rank=2))
    trained = {name for name, p in net.named_parameters() if p.requires_grad and 'norm' in name}
    merge_lora(net)
    assert {name for name, p in net.named_parameters() if p.requires_grad} == trained
    net.train()
    assert all(parameter.requires_grad for parameter in net.parameters())
    net.layers[0].requires_grad_(False)  # by hand
    assert not any(parameter.requires_grad for parameter in net.train().layers[0].parameters())
    with pytest.raises(UserError, match='alpha must be a number above 0, got inf'):
        SwinTransformerV2('nano', lora=dict(rank=2, alpha=float('inf')))
