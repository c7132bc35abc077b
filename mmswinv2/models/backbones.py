"""The thin layer between `core.SwinV2` and mmengine."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..checkpoints import LoadReport, fetch_together, load_pretrained
from ..checkpoints.adapters import Base, mark
from ..checks import is_count, want
from ..core import LoRA, SwinV2, add_lora, get_variant, layer_id
from ..core.arguments import IntOrInts, per_axis
from ..core.layers import LayerNorm
from ..core.lora import UP, find_lora, is_adapter
from ..errors import UserError, nearest
from ..hosts import type_name
from ..paths import PATHS
from ..registry import MODELS

_LOADER_KEYS = {'checkpoint', 'prefix', 'format', 'key'}
_NETWORK = set(inspect.signature(SwinV2).parameters) - {'block', 'merge_stride'}


class _Backbone(SwinV2, BaseModule):
    """The network with what mmengine expects: frozen stages, modes, and pre-trained weights.

    For its arguments see `SwinTransformerV2`.
    """

    pretrained2d = False
    single_output = False

    def __init__(
        self,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | None = None,
        path: str = 'auto',
        lora: dict | None = None,
        **kwargs: Any,
    ) -> None:
        named = isinstance(path, str) and path in PATHS
        want('path', path, f'one of {", ".join(map(repr, PATHS))}', named)
        super().__init__(block=PATHS[path], **kwargs)
        most = len(self.depths)
        known = is_count(frozen_stages, -1, most)
        want('frozen_stages', frozen_stages, f'from -1 (none) to {most}', known)
        want('norm_eval', norm_eval, 'True or False', isinstance(norm_eval, bool))
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        if pretrained is not None:
            if init_cfg is not None:
                raise UserError(
                    f'pretrained={pretrained!r} and init_cfg={init_cfg!r} both say what to load; '
                    'take one of them out'
                )
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        self.init_cfg = _checked_init_cfg(init_cfg)
        self.base: Base | None = None
        self._frozen: set[str] = set()
        if lora is not None:
            self._add_lora(LoRA.of(lora))
        self._freeze()
        if unbuilt := [*range(len(self.layers), len(self.depths))]:
            why = f'out_indices={self.out_indices} needs no stage after {self.out_indices[-1]}'
            print_log(f'{why}; stages {unbuilt} are not built', logger='current')

    def init_weights(self) -> None:
        """Load the pre-trained weights that `init_cfg` names, after its other initializers."""
        configs = self.init_cfg
        pretrained = [c for c in configs if _is_pretrained(c)]
        self.init_cfg = [c for c in configs if c not in pretrained]
        first = not self.is_init and not getattr(self, '_adapters_loaded', True)
        try:
            super().init_weights()
        finally:
            self.init_cfg = configs
        if first:  # initializers of linear layers, a whole model's too, reach adapters
            for layer in find_lora(self).values():
                nn.init.zeros_(layer.lora_up.weight)
        self._load_base(pretrained)

    def restore_base(self) -> Base | None:
        """Load the weights below the adapters as `init_cfg` says, if that is not done yet.

        Returns the record of them; ``None`` without adapters, or weights in `init_cfg`.
        """
        if self.base is None:
            self._load_base([c for c in self.init_cfg if _is_pretrained(c)])
        return self.base

    def _load_base(self, pretrained: Sequence[dict]) -> None:
        reports = [self._load(**_loader_arguments(config)) for config in pretrained]
        if reports and self._frozen:
            loaded = frozenset(key for report in reports for key in report.loaded)
            source = ', '.join(str(config['checkpoint']) for config in pretrained)
            keys = loaded & self._frozen
            self.base = Base(keys, mark(self.state_dict(), keys), source)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        """``(B, C, *pixels)`` to a map ``(B, C_i, *S_i)`` per output; a tuple or the only map."""
        if not isinstance(x, Tensor):
            raise UserError(
                f'the backbone takes a batch in one tensor, got a {type(x).__name__}; set '
                'data_preprocessor in the config of the model, which makes batches'
            )
        outs = super().forward(x)
        return outs[0] if self.single_output else outs

    def train(self, mode: bool = True) -> _Backbone:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer index of a parameter and number of layers, for mmpretrain's layer decay."""
        inside = param_name.startswith(prefix)
        layer = layer_id(param_name[len(prefix) :] if inside else '', self.depths)
        return layer, 1 + layer_id('', self.depths)

    def _load(
        self,
        checkpoint: str,
        prefix: str | None = None,
        format: str | None = None,
        key: str | None = None,
    ) -> LoadReport:
        """Load pre-trained weights, wherever they are, and log the report."""
        path = fetch_together(checkpoint)
        report = load_pretrained(self, path, format, prefix, self.pretrained2d, key)
        print_log(str(report), logger='current')
        return report

    def _add_lora(self, lora: LoRA) -> None:
        """Add adapters, and freeze what is not trained beside them."""
        add_lora(self, lora, first_stage=self.frozen_stages)
        self._adapters_loaded = False
        self.register_load_state_dict_post_hook(_note_adapters)
        outputs = {f'norm{i}' for i in self.out_indices}
        for name, module in self.named_modules():
            norm = isinstance(module, LayerNorm) and (lora.train_norms or name in outputs)
            for key, parameter in module.named_parameters(name, recurse=False):
                parameter.requires_grad_(norm or is_adapter(key))
        self._freeze()
        # noted once, as copies of the model may freeze everything
        self._frozen = {name for name, p in self.named_parameters() if not p.requires_grad}

    def _freeze(self) -> None:
        """Freeze the first stages, and below adapters what is not trained."""
        if self._frozen:
            adapted = bool(find_lora(self))
            for name, parameter in self.named_parameters():
                if name in self._frozen:
                    parameter.requires_grad_(not adapted)
            if not adapted:  # adapters were merged, so every weight may be trained
                self._frozen.clear()
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.pos_drop, *self.layers[: self.frozen_stages]]
        for i in self.out_indices:
            if i < self.frozen_stages:
                frozen.append(getattr(self, f'norm{i}'))
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def _note_adapters(backbone: Any, keys: Any) -> None:
    backbone._adapters_loaded |= not any(key.endswith(UP) for key in keys.missing_keys)


def _check_names(kind: type[SwinV2], kwargs: Mapping[str, Any]) -> None:
    """Raise `UserError` if a backbone has no arguments of these names."""
    known = {*_NETWORK, *inspect.signature(_Backbone).parameters}
    if unknown := [name for name in kwargs if name not in known]:
        names = {*known, *inspect.signature(kind).parameters}
        if len(unknown) > 2:
            hint = nearest(unknown[0], names, 0.78)
            raise UserError(
                f'{kind.__name__} has no arguments {", ".join(unknown)}{hint}; if they are those '
                'of the backbone in a _base_, leave them out with backbone=dict(_delete_=True, ...)'
            )
        any_size = '; leave it out, as images of any size are taken'
        hint = any_size if unknown[0] == 'img_size' else nearest(unknown[0], names)
        raise UserError(f'{kind.__name__} has no argument {unknown[0]!r}{hint}')


def _checked_init_cfg(init_cfg: Any) -> list[dict]:
    """The entries of an ``init_cfg``, copied."""
    entries = [] if init_cfg is None or init_cfg is False else init_cfg  # as in mmengine
    entries = [entries] if isinstance(entries, Mapping) else entries
    whole = isinstance(entries, Sequence) and all(
        isinstance(entry, Mapping) and 'type' in entry for entry in entries
    )
    want('init_cfg', init_cfg, "dict(type='Pretrained', checkpoint=...) or a list of such", whole)
    return [copy.deepcopy(dict(entry)) for entry in entries]


def _is_pretrained(init: Mapping[str, Any]) -> bool:
    return type_name(init) in ('Pretrained', 'PretrainedInit')


def _loader_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `_load` from an ``init_cfg``; ``map_location`` is ignored."""
    arguments = {k: v for k, v in config.items() if k not in ('type', 'map_location')}
    if 'checkpoint' not in arguments or arguments.keys() - _LOADER_KEYS:
        raise UserError(
            'init_cfg of a pre-trained backbone needs checkpoint (with a key, if it holds several '
            f'weights) and may have prefix and format, got {dict(config)}'
        )
    for name in arguments.keys() - {'checkpoint'}:
        value = arguments[name]
        want(f'init_cfg: {name}', value, 'text', value is None or isinstance(value, str))
    if arguments.get('prefix'):
        arguments['prefix'] = arguments['prefix'].rstrip('.') + '.'  # mmengine's has no dot
    return arguments


@MODELS.register_module()
class SwinTransformerV2(_Backbone):
    """Swin Transformer V2 for images; ``(B, C, H, W)`` of any size to one map per output.

    Paper: https://arxiv.org/abs/2111.09883. State-dict keys are the authors'.

    Args:
        arch: a name of `core.VARIANTS` or its first letter (not of nano), or a dict with
            ``embed_dims``, ``depths`` and ``num_heads``.
        patch_size: pixels of a patch; an int or ``(height, width)``.
        window_size: an int, ``(h, w)``, one per stage, or ``(h, w)`` per stage.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        out_indices: stages to return. ``None``: only the last one with `single_output` or if
            mmpretrain is the default scope, as its heads need; else all of them.
        single_output: return the map of the only output instead of a tuple, as mmaction2's
            ``Recognizer2D`` needs it.
        frozen_stages: patch embedding and this many stages are not trained; 0 freezes only the
            patch embedding, -1 nothing.
        norm_eval: keep norms in evaluation mode while training.
        init_cfg: mmengine's; ``dict(type='Pretrained', checkpoint=..., prefix=...)`` takes a file
            or address of any format of `mmswinv2.checkpoints` and may carry a ``format``, and the
            ``key`` of the weights in the file, such as ``'model_ema'``.
        pretrained: a file or address of weights; short for an `init_cfg` of type Pretrained.
        path: how blocks are computed, see `mmswinv2.paths`: ``'auto'`` takes the fastest way,
            ``'plain'`` all windows at once, ``'chunked'`` a few windows at a time on CPUs, which
            saves memory in training, ``'padded'`` is for export.
        lora: ``dict(rank=16)`` trains adapters of that rank and freezes the rest of the backbone;
            further options: `core.lora.LoRA`.
        **kwargs: of `core.SwinV2`: ``pretrained_window_sizes``, ``in_channels``, ``with_cp``, ...

    Raises:
        UserError: if an argument is unknown or has a wrong value.

    Example:
        >>> import torch
        >>> backbone = SwinTransformerV2(arch='nano', window_size=8)
        >>> [tuple(x.shape) for x in backbone(torch.rand(1, 3, 100, 75))]
        [(1, 32, 25, 19), (1, 64, 13, 10), (1, 128, 7, 5), (1, 256, 4, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        *,
        patch_size: int | Sequence[int] = 4,
        window_size: int | Sequence[IntOrInts] = 8,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] | None = None,
        single_output: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_names(type(self), kwargs)
        if out_indices is None:
            scope, stages = DefaultScope.get_current_instance(), len(get_variant(arch).depths)
            last = single_output is True or (scope is not None and scope.scope_name == 'mmpretrain')
            out_indices = range(stages)[-1 if last else 0 :]
        super().__init__(
            arch=arch,
            patch_size=per_axis(patch_size, 2, 'patch_size'),
            merge_stride=(2, 2),
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            **kwargs,
        )
        if not isinstance(single_output, bool) or (single_output and len(self.out_indices) > 1):
            raise UserError(
                'single_output must be True or False, and True goes with one stage in '
                f'out_indices, got {single_output!r} and {self.out_indices}'
            )
        self.single_output = single_output


@MODELS.register_module()
class VideoSwinTransformerV2(_Backbone):
    """Swin Transformer V2 for video: windows, patches and position bias have a time axis too.

    Papers: https://arxiv.org/abs/2111.09883 (section 4.2, Kinetics-400; no code was published) and,
    for patches of two frames and merging in space alone, https://arxiv.org/abs/2106.13230.
    State-dict keys are those of `SwinTransformerV2`. With one frame, patch ``(1, 4, 4)`` and window
    ``(1, w, w)`` it computes the same result.

    Args:
        arch: see `SwinTransformerV2`.
        pretrained2d: inflate weights of an image network (`mmswinv2.checkpoints.inflate`); those of
            a video network load unchanged. ``False``: accept only weights of a video network.
        patch_size: frames and pixels of a patch.
        window_size: an int, ``(t, h, w)`` in tokens, one int per stage, or ``(t, h, w)`` per stage.
            A window of 8 tokens in time spans 16 frames. With weights of an image network, the time
            entry of ``pretrained_window_sizes`` is free to choose: ``[(8, 12, 12), ...]``.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        out_indices: stages to return; if only one, its map without a tuple, as mmaction2's heads
            need it.
        **kwargs: as for `SwinTransformerV2`.

    Example:
        >>> import torch
        >>> backbone = VideoSwinTransformerV2(arch='nano', window_size=(4, 4, 4))
        >>> tuple(backbone(torch.rand(1, 3, 8, 64, 48)).shape)
        (1, 256, 4, 2, 2)
    """

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        *,
        pretrained2d: bool = True,
        patch_size: Sequence[int] = (2, 4, 4),
        window_size: int | Sequence[IntOrInts] = (8, 8, 8),
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (3,),
        **kwargs: Any,
    ) -> None:
        _check_names(type(self), kwargs)
        three = isinstance(patch_size, (list, tuple)) and len(patch_size) == 3
        want('patch_size', patch_size, '(frames, height, width)', three)
        want('pretrained2d', pretrained2d, 'True or False', isinstance(pretrained2d, bool))
        super().__init__(
            arch=arch,
            patch_size=patch_size,
            merge_stride=(1, 2, 2),
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            **kwargs,
        )
        self.pretrained2d = pretrained2d
        self.single_output = len(self.out_indices) == 1
