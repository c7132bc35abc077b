"""Patch embedding by a matrix product, compared with a convolution."""

import pytest
import torch

from mmswinv2.core.layers import PatchEmbed
from mmswinv2.ops import patches, reference

CASES = [
    ((2, 3, 8, 12), (4, 4)),
    ((1, 2, 4, 6, 9), (2, 2, 3)),
    ((1, 1, 5, 5), (5, 5)),
    ((0, 3, 8, 12), (4, 4)),
]


@pytest.mark.parametrize('biased', [True, False])
@pytest.mark.parametrize(('shape', 'patch'), CASES, ids=str)
def test_the_product_is_the_convolution(shape, patch, biased):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw, dtype=torch.double, requires_grad=True)
    weight = torch.randn(
        7, shape[1], *patch, generator=draw, dtype=torch.double, requires_grad=True
    )
    bias = torch.randn(7, generator=draw, dtype=torch.double, requires_grad=True)
    inputs = (x, weight, bias) if biased else (x, weight)
    got, want = (module.embed(x, weight, *inputs[2:]) for module in (patches, reference))
    grads = torch.randn(want.shape, generator=draw, dtype=torch.double)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(got, inputs, grads), torch.autograd.grad(want, inputs, grads)
    )


def test_autocast_decides_the_dtype():
    weight = torch.randn(6, 3, 4, 4)
    with torch.autocast('cpu', torch.bfloat16):
        out = patches.embed(torch.randn(1, 3, 8, 8), weight, None)
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize(
    'options',
    [dict(kernel_size=7, stride=4, padding=3), dict(kernel_size=4, stride=2),
     dict(kernel_size=4, stride=4, dilation=2), dict(kernel_size=4, stride=4, groups=3)],
    ids=str,
)  # fmt: skip
def test_another_convolution_in_its_place_stays_one(options):
    embed, x = PatchEmbed(3, 6, (4, 4)), torch.randn(1, 3, 32, 32)
    embed.proj = torch.nn.Conv2d(3, 6, **options)
    torch.testing.assert_close(embed(x), embed.norm(embed.proj(x).movedim(1, -1)))


def test_what_a_hook_of_the_convolution_changes_is_seen(monkeypatch):
    """If the convolution has a hook, the embedding calls the convolution, on any device."""
    monkeypatch.setattr(patches, 'fits_embed', lambda x, weight: True)
    embed, x = PatchEmbed(3, 8, (4, 4)), torch.randn(1, 3, 8, 8)
    want = embed(x)
    calls = []
    embed.proj.register_forward_hook(lambda *args: calls.append(args))
    torch.testing.assert_close(embed(x), want)
    assert len(calls) == 1
