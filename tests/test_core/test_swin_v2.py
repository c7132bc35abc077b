from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.peers import randomise
from mmswinv2.core import SwinV2, get_variant, layer_id
from mmswinv2.core.arguments import one_each
from mmswinv2.core.block import Block, DropPath
from mmswinv2.errors import UserError
from mmswinv2.paths import PATHS
from tests import reference

TINY = dict(embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4), extra_norm_every=2)
IMAGE = dict(patch_size=(4, 4), merge_stride=(2, 2))
VIDEO = dict(patch_size=(2, 4, 4), merge_stride=(1, 2, 2))


def build(arch=TINY, **kwargs):
    torch.manual_seed(0)
    net = SwinV2(arch, **kwargs | dict(out_indices=kwargs.get('out_indices', (0, 1, 2))))
    for p in net.parameters():  # the post-norms start at zero, which would hide everything
        torch.nn.init.normal_(p, std=0.3)
    return net.double()


@pytest.mark.parametrize(
    ('axes', 'size', 'window', 'pretrained'),
    [
        (IMAGE, (64, 64), 4, None),
        (IMAGE, (53, 70), 4, None),
        (IMAGE, (30, 75), (3, 5), (7, 4)),
        (IMAGE, (60, 75), [5, (3, 4), 2], [8, 8, 4]),
        (VIDEO, (5, 29, 38), 4, None),
        (VIDEO, (9, 22, 33), [(2, 3, 3), (3, 4, 4), (8, 2, 2)], [(4, 5, 6)] * 3),
    ],
    ids=str,
)
@pytest.mark.parametrize('path', PATHS)
def test_equals_reference(path, axes, size, window, pretrained, monkeypatch):
    monkeypatch.setattr('mmswinv2.paths.chunked._TOKENS_PER_THREAD', 24)
    monkeypatch.setattr('mmswinv2.paths.chunked._FASTER_FROM', 1)
    options = dict(window_size=window, pretrained_window_sizes=pretrained, block=PATHS[path])
    net = build(**options, **axes).eval()
    x = torch.randn(2, 3, *size, dtype=torch.double)
    outs = net(x)
    expected = reference.forward(
        dict(net.named_parameters()),
        x,
        net.variant.num_heads,
        net.window_size,
        net.pretrained_window_sizes,
        axes['patch_size'],
        axes['merge_stride'],
    )
    assert len(outs) == 3
    for got, want in zip(outs, expected, strict=True):
        torch.testing.assert_close(got, want)
    (sum(o.sin().sum() for o in outs)).backward()
    grads = {k: p.grad for k, p in net.named_parameters()}
    net.zero_grad()
    (sum(o.sin().sum() for o in expected)).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, msg=lambda m, n=name: f'{n}: {m}')


def test_video_of_one_frame_equals_image():
    image = build(window_size=4, **IMAGE)
    video = build(window_size=[(1, 4, 4)] * 3, **VIDEO | dict(patch_size=(1, 4, 4)))
    state = image.state_dict()
    assert list(state) == list(video.state_dict())
    differing = set()
    for name, value in video.state_dict().items():
        if value.shape != state[name].shape:
            differing.add(name.split('.', 1)[1] if 'patch' in name else name.split('attn.')[1])
            if 'patch_embed' in name:
                state[name] = state[name][:, :, None]
            else:  # the time coordinate comes first
                state[name] = torch.nn.functional.pad(state[name], (1, 0))
    assert differing == {'proj.weight', 'cpb_mlp.0.weight'}
    video.load_state_dict(state)
    x = torch.randn(2, 3, 50, 39, dtype=torch.double)
    for a, b in zip(image(x), video(x[:, :, None]), strict=True):
        torch.testing.assert_close(a, b[:, :, 0])


def test_changing_the_window_changes_no_parameter():
    state = build(window_size=4, pretrained_window_sizes=4).state_dict()
    net = build(window_size=[7, (3, 5), 2], pretrained_window_sizes=4)
    net.load_state_dict(state)
    assert [k for k, _ in net.named_buffers()] == []


@pytest.mark.parametrize('axes', [IMAGE, VIDEO], ids=['2D', '3D'])
@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16], ids=str)
@pytest.mark.parametrize('training', [True, False])
def test_half_precision_is_finite_on_padded_batches(axes, dtype, training):
    torch.manual_seed(0)
    net = SwinV2('nano', drop_path_rate=0.1, **axes).train(training)
    torch.nn.init.zeros_(net.patch_embed.proj.bias)  # so that padding becomes tokens of zeros
    for p in net.parameters():
        if p.ndim == 1:
            p.data += 0.02 * torch.randn_like(p)
    torch.nn.init.zeros_(net.patch_embed.proj.bias)
    torch.nn.init.zeros_(net.patch_embed.norm.bias)
    x = torch.randn(2, 3, *[3, 100, 75][-len(axes['patch_size']) :])
    x[1, ..., 50:, :] = 0
    x[1, ..., 31:] = 0
    with torch.autocast('cpu', dtype=dtype):
        outs = net(x)
    assert all(o.dtype == torch.float32 and o.isfinite().all() for o in outs)
    (sum(o.square().mean() for o in outs) * 1024).backward()
    assert [n for n, p in net.named_parameters() if not p.grad.isfinite().all()] == []
    net.to(dtype).eval()
    with torch.no_grad():
        assert all(o.dtype == dtype and o.isfinite().all() for o in net(x.to(dtype)))


def test_starts_as_the_authors_do():
    net = SwinV2('nano')
    for block in (m for m in net.modules() if isinstance(m, Block)):
        for norm in (block.norm1, block.norm2):
            assert not norm.weight.any() and not norm.bias.any()
        assert torch.allclose(block.attn.logit_scale.exp(), torch.tensor(10.0))
        assert 0.018 < block.mlp.fc1.weight.std() < 0.022
        assert not block.attn.q_bias.any() and not block.mlp.fc1.bias.any()
        x = torch.randn(1, 9, 9, block.norm1.weight.numel())
        assert torch.equal(block(x), x)


def test_parameters_without_values_are_initialised():
    """As after `to_empty`, which leaves what was in the memory."""
    torch.manual_seed(0)
    fresh = SwinV2('nano', extra_norm_every_n_blocks=2)
    with torch.device('meta'):
        net = SwinV2('nano', extra_norm_every_n_blocks=2)
    net.to_empty(device='cpu')
    for p in net.parameters():
        torch.nn.init.constant_(p, torch.nan)
    net.reset_parameters()
    for (name, got), want in zip(net.named_parameters(), fresh.parameters(), strict=True):
        if want.unique().numel() == 1:
            assert torch.equal(got, want), name
        else:
            assert got.std().item() == pytest.approx(want.std().item(), rel=0.4), name


@pytest.mark.parametrize('axes', [IMAGE, VIDEO], ids=['2D', '3D'])
@pytest.mark.parametrize(
    ('options', 'recomputed'),
    [
        (dict(with_cp=True), [2, 2, 2, 2]),
        (dict(with_cp=[True, True, False, False]), [2, 2, 0, 0]),
        (dict(with_cp=True, checkpoint_blocks=1), [1, 1, 1, 1]),
        (dict(with_cp=[True, False, True, True], checkpoint_blocks=[1, 9, 0, 9]), [1, 0, 0, 9]),
        (dict(windows_at_once=[3, 1, None, 2]), [0, 0, 0, 0]),
        (dict(windows_at_once=2, with_cp=True), [2, 2, 2, 2]),
    ],
    ids=str,
)
def test_saving_memory_changes_no_gradient(options, recomputed, axes):
    results = []
    for kwargs in ({}, options):
        torch.manual_seed(0)
        net = SwinV2('nano', window_size=4, drop_path_rate=0.3, **axes, **kwargs).double().train()
        for p in net.parameters():
            if p.ndim == 1:
                p.data += 0.1 * torch.randn_like(p)
        calls, attending = Counter(), Counter()
        for name, block in net.named_modules():
            if isinstance(block, Block):
                block.register_forward_pre_hook(lambda *_, n=name, c=calls: c.update([n]))
        with MostWindows(attending):
            x = torch.randn(2, 3, *[4, 40, 52][-len(axes['patch_size']) :], dtype=torch.double)
            outs = net(x)
            sum(o.sin().sum() for o in outs).backward()
        results.append((outs, [p.grad for p in net.parameters()]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    for i, stage in enumerate(net.layers):  # checkpointed blocks ran twice
        again = [calls[f'layers.{i}.blocks.{j}'] == 2 for j in range(len(stage.blocks))]
        assert again == [j < recomputed[i] for j in range(len(stage.blocks))]
    bounds = one_each(options.get('windows_at_once'), 4, '')
    for i, bound in enumerate(bounds):  # the number of heads identifies the stage
        assert 1 <= attending[2**i] <= (bound or attending[2**i])
    assert bounds[0] or attending[1] > 10


def test_recomputed_blocks_are_trained_where_their_input_has_no_gradient():
    """As behind frozen patches; torch's older, reentrant checkpointing gives no gradients there."""
    net = SwinV2('nano', with_cp=True).train()
    net.patch_embed.requires_grad_(False)
    sum(out.sum() for out in net(torch.randn(1, 3, 32, 32))).backward()
    trained = {name for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in net.named_parameters() if p.requires_grad}


class MostWindows(TorchFunctionMode):
    """Records the largest number of windows in one attention call, by number of heads."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            windows, heads = args[0].shape[:2]
            self.most[heads] = max(self.most[heads], windows)
        return func(*args, **(kwargs or {}))


def test_dropout_everywhere_it_belongs():
    net = SwinV2('nano', drop_rate=0.25, attn_drop_rate=0.125)
    dropouts = {n: m.p for n, m in net.named_modules() if isinstance(m, torch.nn.Dropout)}
    blocks = [f'layers.{i}.blocks.{j}' for i in range(4) for j in range(2)]
    expected = {f'{b}.{name}' for b in blocks for name in ('attn.proj_drop', 'mlp.drop')}
    assert set(dropouts) == {'pos_drop', *expected} and set(dropouts.values()) == {0.25}
    assert {m.attn.attn_drop for m in net.modules() if isinstance(m, Block)} == {0.125}
    x = torch.randn(1, 8, 8, 32)
    mlp = net.layers[0].blocks[0].mlp
    assert not torch.equal(mlp(x), mlp(x)) and torch.equal(mlp.eval()(x), mlp(x))
    calls = []
    for drop in (net.pos_drop, mlp.drop):
        drop.register_forward_hook(lambda m, *_: calls.append(m))
    net(torch.randn(1, 3, 32, 32))
    assert [calls.count(m) for m in (net.pos_drop, mlp.drop)] == [1, 2]


def test_drop_path_grows_with_depth():
    net = SwinV2('nano', drop_path_rate=0.7)
    rates = [m.rate for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([i / 10 for i in range(8)])


@pytest.mark.parametrize('shape', [(1, 3, 64), (3, 64, 64), (1, 4, 64, 64), (1, 3, 2, 64, 64)])
def test_input_of_other_axes_or_channels_is_refused(shape):
    with pytest.raises(UserError, match=r'must be \(batch, 3, height, width\), .* got .* shape \('):
        SwinV2('nano')(torch.rand(shape))
    with pytest.raises(UserError, match=r'must be \(batch, 1, frames, height, width\)'):
        SwinV2('nano', in_channels=1, **VIDEO)(torch.rand(1, 3, 4, 64, 64))


@pytest.mark.parametrize(
    ('name', 'millions', 'classes'),
    [
        ('tiny', 27.58, 0),
        # published numbers of these include the classifier
        ('small', 50, 1000),
        ('base', 88, 1000),
        ('large', 197, 1000),
        ('huge', 658, 0),
        ('giant', 3000, 0),
        # the variant that the SimMIM release calls giant
        (dict(embed_dims=448, depths=(2, 2, 18, 2), num_heads=(14, 28, 56, 112)), 1060, 0),
    ],
    ids=str,
)
def test_parameters_of_published_sizes(name, millions, classes):
    with torch.device('meta'):
        net = SwinV2(name, out_indices=(3,))
    head = classes * (net.num_features[-1] + 1)
    count = sum(p.numel() for p in net.parameters()) + head
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_extra_norms_are_counted_in_each_stage():
    def places(**kwargs):
        with torch.device('meta'):
            net = SwinV2(out_indices=(3,), **kwargs)
        keys = [k.split('.') for k in net.state_dict() if k.endswith('enorm.weight')]
        return [(int(k[1]), int(k[3])) for k in keys]

    assert places(arch='huge') == [(2, 5), (2, 11), (2, 17)]
    assert places(arch='giant') == [(2, j) for j in range(5, 42, 6)]
    assert places(arch='giant', extra_norm_every_n_blocks=21) == [(2, 20), (2, 41)]
    assert places(arch='giant', extra_norm_every_n_blocks=0) == []
    assert places(arch='nano', extra_norm_every_n_blocks=2) == [(i, 1) for i in range(4)]


@pytest.mark.parametrize(
    ('axes', 'window'),
    [
        (IMAGE, 5),
        (IMAGE, (3, 5)),
        (IMAGE, [6, 3, 2]),
        (IMAGE, [(2, 3), (5, 4), 7]),
        (VIDEO, [(2, 3, 5)] * 3),
        (VIDEO, 3),
    ],
    ids=str,
)
def test_the_window_of_a_built_network_can_be_set(axes, window):
    sizes = dict(pretrained_window_sizes=8, **axes)
    net = build(window_size=4, **sizes).eval()
    fresh = build(window_size=window, **sizes).eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    fresh.load_state_dict(state)
    x = torch.randn(1, 3, *((50, 61) if axes is IMAGE else (9, 50, 61)), dtype=torch.double)
    before = net(x)
    net.window_size = window
    for got, want, old in zip(net(x), fresh(x), before, strict=True):
        assert torch.equal(got, want) and not torch.equal(got, old)
    assert net.window_size == fresh.window_size
    assert net.pretrained_window_sizes == fresh.pretrained_window_sizes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_the_window_of_one_block_can_be_set():
    net, fresh = build(window_size=4), build(window_size=[4, 4, 6])
    for block in net.layers[2].blocks:
        block.window = (6, 6)
    assert [block.shift for block in net.layers[2].blocks] == [(0, 0), (3, 3)]
    fresh.layers[2].load_state_dict(net.layers[2].state_dict())
    for ours, theirs in zip(net.layers[2].blocks, fresh.layers[2].blocks, strict=True):
        assert (ours.window, ours.shift) == (theirs.window, theirs.shift)


@pytest.mark.parametrize(
    'window', [0, -1, 2.5, '8', (1, 2, 3, 4), [(1, 2, 3)] * 3, True, None], ids=str
)
def test_a_wrong_window_is_refused_as_by_the_constructor(window):
    net = build(window_size=4)
    with pytest.raises(UserError) as at_first:
        build(window_size=window)
    with pytest.raises(UserError) as later:
        net.window_size = window
    assert str(later.value) == str(at_first.value)
    assert net.window_size == ((4, 4),) * 3
    assert {b.window for stage in net.layers for b in stage.blocks} == {(4, 4)}


@pytest.mark.parametrize('out_indices', [(0,), (0, 1), (1,), (0, 2)], ids=str)
def test_what_no_output_needs_is_not_built(out_indices):
    whole = build()
    net = build(out_indices=out_indices)
    x = torch.randn(1, 3, 40, 40, dtype=torch.double)
    missing, unexpected = net.load_state_dict(whole.state_dict(), strict=False)
    assert missing == []
    # norms of stages without an output are not built
    assert {key.split('.')[0] for key in unexpected} == {
        f'norm{i}' for i in range(max(out_indices)) if i not in out_indices
    }
    outs = net(x)
    for i, out in zip(out_indices, outs, strict=True):
        assert torch.equal(out, whole(x)[i])
    sum(out.sin().sum() for out in outs).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    assert not any(key.startswith('layers.2.downsample') for key in whole.state_dict())


def test_weights_of_stages_that_are_not_built_are_passed_over():
    whole, net = build(), build(out_indices=(0, 1))
    assert net.load_state_dict(whole.state_dict()) == ([], [])
    assert len(whole.state_dict()) > len(net.state_dict())  # loading did not change the given dict
    with pytest.raises(RuntimeError, match='layers.3.blocks'):  # the arch has no such block
        net.load_state_dict({**whole.state_dict(), 'layers.3.blocks.0.attn.q_bias': torch.zeros(8)})


def last_map(size, window, by_shorter_side):
    """The last map of SwinV2-T on an image, optionally by the authors' classification rule.

    Their rule: in a stage whose shorter side fits into the window, windows are squares of that
    side without shift, whatever the other side.
    """
    maps = [tuple(side // 4 // 2**i for side in size) for i in range(4)]
    windows = [min(window, *sides) if by_shorter_side else window for sides in maps]
    scale = [min(window, *sides) for sides in maps]
    net = SwinV2('tiny', window_size=windows, pretrained_window_sizes=scale, out_indices=(3,))
    for stage, sides in zip(net.layers, maps, strict=True):
        for block in stage.blocks:
            if by_shorter_side and min(sides) <= window:
                block.shifted = False
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return randomise(net)(image)[0]


@pytest.mark.parametrize('window', [8, 16])
def test_windows_along_each_axis_or_by_the_shorter_side(window):
    """Checks the figure in docs/numerics.md; square images show no difference."""
    for size, low, high in (((256, 512), 1e-2, 4e-2), ((256, 256), 0, 1e-6)):
        ours, theirs = (last_map(size, window, rule) for rule in (False, True))
        assert low <= (ours - theirs).abs().max() / theirs.abs().max() <= high


def test_layers_as_the_authors_count_them():
    depths = get_variant('base').depths  # 2, 2, 18, 2: AiT has 29 layers
    assert layer_id('patch_embed.norm.bias', depths) == 0
    assert layer_id('layers.0.blocks.0.norm1.weight', depths) == 1
    assert layer_id('layers.0.blocks.1.attn.q_bias', depths) == 2
    assert layer_id('layers.0.downsample.norm.bias', depths) == 3
    assert layer_id('layers.1.blocks.0.mlp.fc1.bias', depths) == 4
    assert layer_id('layers.2.blocks.17.mlp.fc1.bias', depths) == 24
    assert layer_id('layers.2.downsample.reduction.weight', depths) == 25
    assert layer_id('layers.3.blocks.1.norm2.weight', depths) == 27
    assert layer_id('norm0.weight', depths) == layer_id('norm3.bias', depths) == 28


def test_layers_as_the_authors_code_of_classification_counts_them():
    """As in microsoft/Swin-Transformer and SimMIM: B has 26 layers, T 14; mergings add none."""
    depths = get_variant('base').depths
    expected = {
        'patch_embed.proj.weight': 0,
        'layers.0.blocks.1.norm1.weight': 2,
        'layers.0.downsample.norm.bias': 2,
        'layers.1.blocks.0.mlp.fc1.bias': 3,
        'layers.2.blocks.17.mlp.fc1.bias': 22,
        'layers.2.downsample.reduction.weight': 22,
        'layers.3.blocks.0.attn.q_bias': 23,
        'layers.3.blocks.1.attn.q_bias': 24,
        'norm3.weight': 25,
    }
    assert {name: layer_id(name, depths, merging_layers=False) for name in expected} == expected
