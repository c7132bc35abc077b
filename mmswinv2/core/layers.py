"""Linear layers, norms, patch embedding and patch merging, for any number of axes and any size."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import ops
from ..ops.windows import windows_first

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether computing with the module's weights is equivalent to calling the module.

    This holds for exactly the class `kind`, without a replaced `forward` and without hooks.
    """
    return type(module) is kind and not (
        'forward' in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._has_any_global_hook()
    )


def linear(x: Tensor, layer: nn.Module, bias: Tensor | None = None) -> Tensor:
    """``layer(x) + bias``, computed by `ops.linear` where that is equivalent to a call of `layer`.

    Args:
        x: ``(..., C)``.
        layer: a `torch.nn.Linear`, or a module that replaces one.
        bias: ``(D,)``, for a layer without one of its own.

    Returns:
        ``(..., D)``.
    """
    own = getattr(layer, 'bias', None)
    one_bias = own is None or bias is None
    if isinstance(layer, nn.Linear) and is_plain(layer, nn.Linear) and one_bias:
        return ops.linear(x, layer.weight, own if bias is None else bias)
    if isinstance(layer, LoRALinear) and one_bias:
        return layer(x, bias)
    y: Tensor = layer(x)
    return y if bias is None else y + bias.to(y.dtype)


class LoRALinear(nn.Linear):
    """``W x + b + alpha / rank * up(down(dropout(x)))``; initially equal to the original layer.

    The input is multiplied by two thin matrices in turn. Their product is never added to ``W``, so
    no gradient of the size of ``W`` is computed. Weight and bias are those of `layer` and keep
    their names; the adapter's are ``lora_down.weight`` and ``lora_up.weight``, as in mmpretrain.

    Args:
        layer: the layer to replace.
        rank: rank of the adapter, the number of channels between ``down`` and ``up``.
        alpha: the adapter's output is multiplied by ``alpha / rank``.
        drop_rate: dropout of the adapter's input.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, drop_rate: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.rank, self.alpha = rank, alpha
        self.weight = layer.weight
        self.register_parameter('bias', layer.bias)
        like: dict[str, Any] = dict(device=layer.weight.device, dtype=layer.weight.dtype)
        self.lora_dropout = nn.Dropout(drop_rate)
        self.lora_down = nn.Linear(self.in_features, rank, bias=False, **like)
        self.lora_up = nn.Linear(rank, self.out_features, bias=False, **like)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(..., C) -> (..., D)``; `bias` is for a layer without one of its own."""
        y = ops.linear(x, self.weight, self.bias if bias is None else bias)
        thin = self.lora_down(self.lora_dropout(x)) * (self.alpha / self.rank)
        return y + self.lora_up(thin)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer whose weight is the sum of ``W`` and the adapter's product."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device='meta')
        product = self.lora_up.weight.double() @ self.lora_down.weight.double()
        total = self.weight.double() + product * (self.alpha / self.rank)
        total = total.to(self.weight.dtype)
        layer.weight = nn.Parameter(total, requires_grad=self.weight.requires_grad)
        layer.register_parameter('bias', self.bias)
        return layer

    def extra_repr(self) -> str:
        """Show rank and alpha in the module's printout."""
        return f'{super().extra_repr()}, rank={self.rank}, alpha={self.alpha:g}'


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32, regardless of autocast, and returned in its weights' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of `x`."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


def pad_to_multiple(x: Tensor, multiple: tuple[int, ...], first_axis: int) -> Tensor:
    """Append zeros so that the axes from `first_axis` on are divisible by `multiple`."""
    sizes = x.shape[first_axis : first_axis + len(multiple)]
    missing = [(n + m - 1) // m * m - n for n, m in zip(sizes, multiple, strict=True)]
    # in a graph for any size, the padding is not known when it is compiled
    if not torch.compiler.is_compiling() and not any(missing):
        return x
    trailing = x.ndim - first_axis - len(multiple)
    # F.pad counts axes from the last one backwards, two numbers for each
    return F.pad(x, [0, 0] * trailing + [n for m in reversed(missing) for n in (0, m)])


class PatchEmbed(nn.Module):
    """Non-overlapping patches, projected and normalised.

    Args:
        in_channels: channels of the input.
        dim: channels C of the output.
        patch_size: pixels (and frames) in a patch along each axis.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: tuple[int, ...]) -> None:
        super().__init__()
        self.patch_size = patch_size
        conv = _CONV[len(patch_size)]
        self.proj = conv(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, *pixels) -> (B, *S, C)``; S is rounded up."""
        x = pad_to_multiple(x, self.patch_size, first_axis=2)
        if self.projects_patches() and not torch.jit.is_tracing():
            return self.norm(ops.embed(x, self.proj.weight, self.proj.bias))
        return self.norm(self.proj(x).movedim(1, -1))

    def projects_patches(self) -> bool:
        """Whether the projection is a plain convolution with the settings it was built with."""
        proj: Any = self.proj
        ones, zeros = (1,) * len(self.patch_size), (0,) * len(self.patch_size)
        return (
            is_plain(proj, _CONV[len(self.patch_size)])
            and proj.kernel_size == proj.stride == self.patch_size
            and (proj.padding, proj.dilation, proj.groups) == (zeros, ones, 1)
        )


class PatchMerging(nn.Module):
    """Concatenate neighbouring tokens, project to twice the channels, normalise (last in V2).

    Args:
        dim: channels C of the input; the output has 2 C.
        stride: tokens merged along each axis, ``(2, 2)`` for images and ``(1, 2, 2)`` for video.
    """

    def __init__(self, dim: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        merged = torch.Size(stride).numel()
        self.reduction = nn.Linear(merged * dim, 2 * dim, bias=False)
        self.norm = LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *S, C) -> (B, *ceil(S / stride), 2 C)``."""
        x = pad_to_multiple(x, self.stride, first_axis=1)
        axes = len(self.stride)
        x = windows_first(x, tuple((s, -1) for s in self.stride))  # [B, S1 / s1, ..., s1, ..., C]
        # the authors' order of offsets: (0, 0), (1, 0), (0, 1), (1, 1), the first axis runs fastest
        x = x.permute(*range(1 + axes), *range(2 * axes, axes, -1), 1 + 2 * axes)
        return self.norm(linear(x.flatten(1 + axes), self.reduction))
