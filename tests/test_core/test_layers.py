import pytest
import torch
from torch import nn

from mmswinv2 import ops
from mmswinv2.core.layers import (
    LayerNorm,
    PatchEmbed,
    PatchMerging,
    is_plain,
    linear,
    pad_to_multiple,
)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_is_plain():
    layer = nn.Linear(2, 2)
    assert is_plain(layer, nn.Linear)
    assert not is_plain(layer, LayerNorm)
    assert not is_plain(Doubled(2, 2), nn.Linear)
    layer.forward = Doubled(2, 2).forward
    assert not is_plain(layer, nn.Linear)


@pytest.mark.parametrize(
    'register',
    ['register_forward_hook', 'register_forward_pre_hook',
     'register_full_backward_hook', 'register_full_backward_pre_hook'],
)  # fmt: skip
def test_a_layer_with_a_hook_is_not_plain(register):
    layer = nn.Linear(2, 2)
    handle = getattr(layer, register)(lambda *_: None)
    assert not is_plain(layer, nn.Linear)
    handle.remove()
    assert is_plain(layer, nn.Linear)


@pytest.mark.parametrize(
    'register',
    ['register_module_forward_hook', 'register_module_forward_pre_hook',
     'register_module_full_backward_hook', 'register_module_full_backward_pre_hook'],
)  # fmt: skip
def test_no_layer_is_plain_while_all_are_watched(register):
    layer = nn.Linear(2, 2)
    handle = getattr(nn.modules.module, register)(lambda *_: None)
    try:
        assert not is_plain(layer, nn.Linear)
    finally:
        handle.remove()
    assert is_plain(layer, nn.Linear)


@pytest.mark.parametrize('layer', [nn.Linear(3, 4, bias=False), Doubled(3, 4, bias=False)])
def test_linear_adds_the_bias_in_the_dtype_of_the_layer(layer):
    x, bias = torch.randn(2, 5, 3), torch.randn(4)
    torch.testing.assert_close(linear(x, layer, bias), layer(x) + bias)
    torch.testing.assert_close(linear(x, layer), layer(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(x, layer, bias).dtype == torch.bfloat16


def test_plain_layers_are_computed_by_the_operator(monkeypatch):
    calls, plain = [], ops.linear
    monkeypatch.setattr(ops, 'linear', lambda *args: calls.append(args) or plain(*args))
    x, bias = torch.randn(2, 3), torch.randn(4)
    for layer, more in ((nn.Linear(3, 4), None), (nn.Linear(3, 4, bias=False), bias)):
        linear(x, layer, more)
        assert calls.pop()[1] is layer.weight
    linear(x, nn.Linear(3, 4), bias)  # two biases
    linear(x, Doubled(3, 4))
    assert calls == []


def test_linear_adds_a_bias_to_that_of_the_layer():
    layer, x, bias = nn.Linear(3, 4), torch.randn(2, 3), torch.randn(4)
    torch.testing.assert_close(linear(x, layer, bias), layer(x) + bias)


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7), (1, 1)])
def test_padding_appends_zeros(size):
    x = torch.randn(2, *size, 3)
    y = pad_to_multiple(x, (2, 3), first_axis=1)
    height, width = (-(-n // m) * m for n, m in zip(size, (2, 3), strict=True))
    assert y.shape == (2, height, width, 3)
    assert torch.equal(y[:, : size[0], : size[1]], x)
    assert y.count_nonzero() == x.count_nonzero()


def test_merging_takes_neighbours_row_by_row_and_normalises_last():
    merging = PatchMerging(1, (2, 2))
    nn.init.eye_(merging.reduction.weight)  # selects the first two of four neighbors
    x = torch.arange(16.0).view(1, 4, 4, 1)
    out = merging(x)
    # the authors' order: rows first, then columns: (0, 0), (1, 0), (0, 1), (1, 1)
    raw = torch.stack([x[:, ::2, ::2, 0], x[:, 1::2, ::2, 0]], -1)
    torch.testing.assert_close(out, merging.norm(raw))
    torch.testing.assert_close(out.mean(-1), torch.zeros(1, 2, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(('patch', 'size'), [((4, 4), (9, 12)), ((2, 4, 4), (3, 8, 5))])
def test_patches_of_any_size_are_embedded_and_normalised(patch, size):
    embed = PatchEmbed(3, 8, patch)
    out = embed(torch.randn(2, 3, *size))
    assert out.shape == (2, *(-(-n // m) for n, m in zip(size, patch, strict=True)), 8)
    torch.testing.assert_close(out.mean(-1), torch.zeros(out.shape[:-1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_norms_compute_in_float32(dtype):
    norm, x = LayerNorm(64), 300 * torch.randn(4, 64)
    want = nn.functional.layer_norm(x.to(dtype).float(), (64,))
    torch.testing.assert_close(norm(x.to(dtype)), want)
    assert norm.to(dtype)(x.to(dtype)).dtype == dtype
