"""The network: patches, stages, one norm per output; for images (2 axes) and video (3 axes)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from ..ops.modes import is_transformed
from .arguments import IntOrInts, check_arguments, per_stage
from .attention import WindowAttention
from .block import Block
from .layers import LayerNorm, PatchEmbed, PatchMerging


class Stage(nn.Module):
    """Blocks of one resolution; every second one is shifted. `downsample` follows, if any.

    In training, the first `recomputed` blocks keep only their input for backward.
    """

    def __init__(
        self, blocks: Sequence[Block], downsample: PatchMerging | None, recomputed: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.recomputed = recomputed

    def forward(self, x: Tensor) -> Tensor:
        """``(B, *S, C) -> (B, *S, C)``, before merging."""
        # torch.func does not support activation checkpointing
        saves = self.recomputed and self.training and torch.is_grad_enabled()
        recomputed = self.recomputed if saves and not is_transformed() else 0
        for j, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if j < recomputed else block(x)
        return x


class SwinV2(nn.Module):
    """Swin Transformer V2 (https://arxiv.org/abs/2111.09883) as a feature pyramid.

    State-dict keys are the authors', plus ``norm0`` .. ``norm3`` for the outputs. No parameter or
    buffer depends on `window_size` or on the size of the input. Layers after the last output are
    not built, and weights for them are ignored when loading.

    Args:
        arch: a name of `arguments.VARIANTS` or a dict, see `arguments.get_variant`.
        in_channels: channels of the input.
        patch_size: patch along each axis; its length says how many axes there are.
        merge_stride: tokens merged along each axis between stages.
        window_size: window M: an int, one per axis, one per stage, or per stage and axis.
        pretrained_window_sizes: the windows that the weights were first trained with, in the same
            forms; they fix the scale of the position bias. ``None``: `window_size`.
        mlp_ratio: hidden width of the MLPs over C.
        drop_rate: dropout after patch embedding, projections and MLPs.
        attn_drop_rate: dropout of attention probabilities.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        out_indices: stages to return.
        with_cp: recompute the blocks' activations in backward (activation checkpointing, paper,
            section 3.5); a bool, or one per stage.
        checkpoint_blocks: where `with_cp` is set, recompute only this many blocks at the start of
            the stage; an int, or one per stage. ``None``: all.
        windows_at_once: maximum number of windows that attend at a time (sequential self-attention,
            paper, section 3.5); an int, or one per stage, ``None`` for all at once.
        extra_norm_every_n_blocks: see `arguments.Variant`; ``None``: as `arch` has it.
        block: the class of the blocks; see `mmswinv2.paths`.

    Raises:
        UserError: if an argument has the wrong length or value.
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        in_channels: int = 3,
        patch_size: Sequence[int] = (4, 4),
        merge_stride: Sequence[int] = (2, 2),
        window_size: int | Sequence[IntOrInts] = 8,
        pretrained_window_sizes: int | Sequence[IntOrInts] | None = None,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        with_cp: bool | Sequence[bool] = False,
        checkpoint_blocks: int | Sequence[int] | None = None,
        windows_at_once: int | Sequence[int | None] | None = None,
        extra_norm_every_n_blocks: int | None = None,
        block: type[Block] = Block,
    ) -> None:
        super().__init__()
        given = check_arguments(
            arch, in_channels, patch_size, merge_stride, window_size, pretrained_window_sizes,
            mlp_ratio, drop_rate, attn_drop_rate, drop_path_rate, out_indices, with_cp,
            checkpoint_blocks, windows_at_once, extra_norm_every_n_blocks,
        )  # fmt: skip
        variant = given.variant
        self.variant, self.depths = variant, variant.depths
        self._windows, self.pretrained_window_sizes = given.windows, given.pretrained
        self.in_channels, self.out_indices = in_channels, given.out_indices
        self.num_features = tuple(variant.embed_dims * 2**i for i in range(len(self.depths)))

        self.patch_embed = PatchEmbed(in_channels, variant.embed_dims, given.patch_size)
        self.pos_drop = nn.Dropout(drop_rate)
        last = max(sum(self.depths) - 1, 1)
        rates = [drop_path_rate * i / last for i in range(sum(self.depths))]
        every = variant.extra_norm_every
        self.layers = nn.ModuleList()
        last_stage = max(self.out_indices)
        for i, dim in enumerate(self.num_features[: last_stage + 1]):
            blocks = [
                block(
                    dim,
                    variant.num_heads[i],
                    given.windows[i],
                    given.pretrained[i],
                    shifted=j % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=rates.pop(0),
                    extra_norm=bool(every) and (j + 1) % every == 0,
                    windows_at_once=given.windows_at_once[i],
                )
                for j in range(self.depths[i])
            ]
            merging = PatchMerging(dim, given.merge_stride) if i < last_stage else None
            self.layers.append(Stage(blocks, merging, given.recomputed[i]))
        for i in self.out_indices:
            self.add_module(f'norm{i}', LayerNorm(self.num_features[i]))
        self._init_blocks_and_linear_layers()  # the others have initialised themselves

    @property
    def window_size(self) -> tuple[tuple[int, ...], ...]:
        """Window M of each stage, per axis; may be set, in any form that the constructor takes."""
        return self._windows

    @window_size.setter
    def window_size(self, value: int | Sequence[IntOrInts]) -> None:
        ndim = len(self.patch_embed.patch_size)
        self._windows = per_stage(value, len(self.depths), ndim, 'window_size')
        for stage, window in zip(self.layers, self._windows, strict=False):
            for module in stage.modules():
                if isinstance(module, Block):
                    module.window = window

    def is_unbuilt(self, key: str) -> bool:
        """Whether a state-dict key belongs to a layer after the last output, which is not built."""
        match = re.match(r'(?:layers\.|norm)(\d+)\.(downsample\.)?', key)
        stage = int(match[1]) + bool(match[2]) if match else 0  # merging counts as the next stage
        return max(self.out_indices) < stage < len(self.depths)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # beside the version that torch notes of every module: no weight tells these windows
        if hasattr(destination, '_metadata'):
            windows = self.pretrained_window_sizes[: len(self.layers)]
            noted = destination._metadata.setdefault(prefix[:-1], {})
            noted['pretrained_window_sizes'] = dict(enumerate(windows))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if self.is_unbuilt(key[len(prefix) :]):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reset_parameters(self) -> None:
        """Give every parameter an initial value, as the constructor does."""
        for module in self.modules():
            if isinstance(module, (LayerNorm, WindowAttention)):
                module.reset_parameters()
        self.patch_embed.proj.reset_parameters()
        self._init_blocks_and_linear_layers()

    def _init_blocks_and_linear_layers(self) -> None:
        """As the authors do: truncated normal 0.02; blocks start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Block):
                module.init_res_post_norm()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            x: ``(B, in_channels, *pixels)`` of any size.

        Returns:
            One ``(B, C_i, *S_i)`` per output index, normalised.

        Raises:
            UserError: if the input has a wrong number of axes or channels.
        """
        channels, ndim = self.in_channels, len(self.patch_embed.patch_size)
        if x.ndim != 2 + ndim or x.shape[1] != channels:
            axes = 'height, width' if ndim == 2 else 'frames, height, width'
            raise UserError(
                f'the input must be (batch, {channels}, {axes}), {channels} being in_channels of '
                f'the backbone, got a tensor of shape {tuple(x.shape)}'
            )
        return self.forward_tokens(self.patch_embed(x))

    def forward_tokens(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid from embedded patches ``(B, *S, C)``; see `forward`."""
        x = self.pos_drop(x)
        outs = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self.out_indices:
                # not movedim(-1, 1): torch's older exporter to ONNX writes the -1 into the file;
                # not contiguous(), by which torch.export would refuse maps one token wide
                out = self.get_submodule(f'norm{i}')(x).movedim(x.ndim - 1, 1)
                outs.append(out.clone(memory_format=torch.contiguous_format))
            if i + 1 < len(self.layers):
                x = stage.get_submodule('downsample')(x)
        return tuple(outs)


def layer_id(name: str, depths: tuple[int, ...], merging_layers: bool = True) -> int:
    """Layer index of a backbone's parameter, as in AiT (``ait/code/model/optimizer.py``).

    The patch embedding is 0, then every block and every patch merging is a layer of its own, and
    the norms of the outputs share the last number with everything after the backbone.

    Args:
        name: the parameter's name inside the backbone.
        depths: blocks per stage.
        merging_layers: ``False`` counts a patch merging with the block before it, as the authors'
            code for classification and SimMIM (microsoft/Swin-Transformer, ``optimizer.py``).
    """
    if name.startswith('patch_embed.'):
        return 0
    slots = [depth + merging_layers for depth in depths[:-1]] + [depths[-1]]
    if match := re.match(r'layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.', name):
        stage = int(match[1])
        block = int(match[2]) if match[2] else depths[stage] - (not merging_layers)
        return 1 + sum(slots[:stage]) + block
    return 1 + sum(slots)
