"""Load weights into a backbone or a whole model.

If a check fails, no weight has been changed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..core.lora import DOWN, UP, is_adapter
from ..core.swin_v2 import SwinV2
from ..errors import CheckpointError
from ..files import StrPath
from .adapters import networks
from .class_map import HEAD, check_classes, choose_classes
from .convert import Converted, convert_checkpoint, describe, recorded_windows
from .entries import entries_note, open_entry, unwrap
from .files import read_checkpoint
from .formats import PATCHES, State, unwrapped
from .inputs import adapt_channels, inflate, is_2d
from .model_keys import BACKBONE, is_backbone, weights_for
from .report import LoadReport, compare_keys, short_windows

_OUTPUT_NORM = re.compile(r'norm\d\.(weight|bias)')


def load_pretrained(
    model: SwinV2,
    path: StrPath,
    format: str | None = None,
    prefix: str | None = None,
    pretrained2d: bool = False,
    key: str | None = None,
) -> LoadReport:
    """Load a checkpoint of any format into a backbone.

    Norms of outputs may be missing (classification files have only the last) or superfluous, and
    weights for RGB are adapted to other channels (`adapt_channels`); everything else must fit.

    Args:
        model: the backbone.
        path: a local file, see `read_checkpoint`; `fetch` gets one from an address or a name.
        format: key of `FORMATS`; detected when ``None``.
        prefix: what precedes the backbone's keys in the file; detected when ``None``.
        pretrained2d: inflate the weights of an image network for a video network, see `inflate`;
            those of a video network are loaded as they are.
        key: the entry of the file that holds the weights, see `unwrap`.

    Raises:
        CheckpointError: if the file cannot be read, is no SwinV2, is one of another architecture,
            or was trained with other windows than ``model.pretrained_window_sizes``.
    """
    checkpoint = read_checkpoint(path)
    state, report = _fit_backbone(model, checkpoint, path, pretrained2d, format, prefix, key)
    _assign(model, state, report)
    return report


def _fit_backbone(
    model: SwinV2, checkpoint: Any, path: StrPath, pretrained2d: bool, *where: Any
) -> tuple[State, LoadReport]:
    """Prepare what was read from a file for a backbone; `where` is format, prefix and key."""
    converted = convert_checkpoint(checkpoint, path, *where)
    state, windows, unused = converted.state, converted.windows, converted.left_out
    token = converted.heads.get('backbone.mask_token')
    if hasattr(model, 'mask_token') and token is not None:
        state = {**state, 'mask_token': token}
        unused = [key for key in unused if not key.endswith('mask_token')]
    frames = model.patch_embed.patch_size[:-2]
    inflated = pretrained2d and bool(frames) and is_2d(state)
    if inflated:
        state = inflate(state, frames[0])
        # The file has no windows in time: they are the model's own.
        frames_of = dict(enumerate(own[0] for own in model.pretrained_window_sizes))
        windows = {s: (frames_of[s], *w) for s, w in windows.items() if s in frames_of}
    channels = model.patch_embed.proj.in_channels
    for_rgb, state = state, adapt_channels(state, channels)
    own = model.state_dict()
    report = compare_keys(path, own, state, (DOWN, UP), unbuilt=_find_unbuilt(model))
    _note_source(report, converted)
    report.unused, report.windows, report.inflated = unused + report.unused, windows, inflated
    if state is not for_rgb:
        how = 'their sum' if channels == 1 else f'in turn, times 3/{channels}'
        report.notes.append(f'adapted from RGB to in_channels={channels}: kernels {how}')
    if problems := report.problems(optional=_OUTPUT_NORM.fullmatch):
        variant, arch = model.variant, describe(state)
        raise CheckpointError(
            f'{path} does not fit the backbone ({problems}). The file is {arch}, '
            f'which arch={arch.get("name", arch)!r} would build; '
            f'the config asks for embed_dims={variant.embed_dims}, depths={variant.depths}, '
            f'num_heads={variant.num_heads}, extra_norm_every={variant.extra_norm_every} '
            f'on {model.patch_embed.proj.in_channels} input channels{_hint(model, state)}'
        )
    _check_windows(report, model)
    return state, report


def load_whole_model(
    model: nn.Module,
    path: StrPath,
    new: Sequence[str] = (),
    class_map: Sequence[int] | None = None,
    advice: str = '',
) -> LoadReport:
    """Load a checkpoint into a whole model, except for the parts that are to be new.

    Everything else must be in the file, with its shape, and everything in the file must be in the
    model. Classifiers and SimMIM load from files of any format of `FORMATS` too, with head, decoder
    and final norm.

    Args:
        model: the detector, segmentor, recognizer, classifier or SimMIM.
        path: a local file, see `read_checkpoint`.
        new: parts of names; parameters with one of them in their names are not loaded.
        class_map: for each class of the model's linear head, the class in the file's head; see
            `read_class_map`.
        advice: what the error advises if the file does not fit; if empty, advice for training.

    Raises:
        CheckpointError: if the file cannot be read or does not fit, if an entry of `new` is in no
            parameter's name, or if next to nothing is left to load.
    """
    named = isinstance(new, Iterable) and not isinstance(new, str)
    if not named or not all(isinstance(part, str) and part for part in new):
        raise CheckpointError(f'new must be a list of parts of names, none empty, got {new!r}')
    checkpoint, own = read_checkpoint(path), model.state_dict()
    meta = checkpoint.get('meta') or {}
    given, converted, notes, _ = weights_for(model, own, checkpoint, path, meta.get('lora'))
    if class_map is not None:
        if any(part in key for part in new for key in HEAD):
            raise CheckpointError(f'new={list(new)} and class_map both say how the head starts')
        given = choose_classes(own, given, class_map, path)
    for part in new:
        if not any(part in key for key in own):
            raise CheckpointError(f'new: no parameter of the model has {part!r} in its name')
    report = compare_keys(path, own, given, new, _find_unbuilt(model))
    report.meta, report.notes = meta, [*notes, *filter(None, [entries_note(checkpoint)])]
    if problems := report.problems():
        if not advice:
            check_classes(own, given, path, new)
            advice = (
                'Train it with the config of the same size, or name the parts that it is not to '
                f'give in new (now {list(new)}); for the backbone alone give the file to '
                'model.backbone.init_cfg'
            )
        raise CheckpointError(f'{path} does not fit the model ({problems}). {advice}')
    _check_source(report, converted, model, meta, open_entry(checkpoint))
    _assign(model, given, report)
    return report


def fit_weights(
    model: nn.Module, checkpoint: Any, path: StrPath = 'checkpoint'
) -> tuple[State, LoadReport]:
    """Prepare weights for a whole model that loads what fits, as with mmengine's ``load_from``.

    Heads may differ. A backbone of this package must fit, except for the norms of its outputs; if
    the model is one, see `load_pretrained`. So must others of the model, such as a student's and a
    teacher's, if the file has any of their weights.

    `checkpoint` has weights, wrapped or not, of the model or in any format of `FORMATS`.

    Returns:
        weights under the model's keys, and the report.

    Raises:
        CheckpointError: if the backbone does not fit, if the file holds a backbone alone, or if
            next to nothing fits.
    """
    own = model.state_dict()
    meta = getattr(getattr(checkpoint, '_metadata', None), 'meta', None) or {}
    given, converted, notes, alone = weights_for(model, own, checkpoint, path, meta.get('lora'))
    if (
        isinstance(model, SwinV2)
        and any(key not in given or given[key].shape != own[key].shape for key in own)
        and not any(map(is_adapter, unwrap(checkpoint)))
    ):
        found = {'state_dict': checkpoint, 'meta': meta}
        inflates = getattr(model, 'pretrained2d', False)
        given, report = _fit_backbone(model, found, path, inflates)
        _check_report(report, own, given)
        return given, report
    names = dict(given)
    if type(model)._load_from_state_dict is not nn.Module._load_from_state_dict:
        model._load_from_state_dict(names, '', {}, False, [], [], [])  # which may rename keys
    report = compare_keys(path, own, names, unbuilt=_find_unbuilt(model))
    if converted is not None:
        alone = all(map(is_backbone, own.keys() & given.keys()))
    reason = ''
    if alone and not all(map(is_backbone, own)):
        reason = 'it holds a backbone alone, where a whole model belongs'
        if converted is not None and converted.unknown:
            reason = f'nothing but its backbone fits, and {converted.unknown[0]} is unknown'
    _check_backbones(report, model, names, reason)
    _check_source(report, converted, model, meta, open_entry(checkpoint))
    report.notes += notes
    _check_report(report, own, names)
    return given, report


def _check_backbones(
    report: LoadReport, model: nn.Module, given: Mapping[str, Tensor], alone: str
) -> None:
    """Raise `CheckpointError` if a backbone inside a model does not fit.

    `alone` says that a file has nothing for the rest of a detector, segmentor or classifier.
    """
    for start, net in {} if isinstance(model, SwinV2) else _networks(model).items():
        inside = {unwrapped(key): value for key, value in given.items()}
        inside = {k.removeprefix(start): v for k, v in inside.items() if k.startswith(start)}
        problems = report.problems(partial(_may_differ, start=start))
        problems = problems or (alone if start == BACKBONE else '')
        if problems and (inside or start == BACKBONE):  # else it keeps its own weights
            raise CheckpointError(
                f'{report.path} does not fit the model of the config ({problems}); for the weights '
                "of a backbone alone: model.backbone.init_cfg=dict(type='Pretrained', "
                f'checkpoint=...){_hint(net, inside)}'
            )


def _may_differ(key: str, start: str) -> bool:
    """Whether a key is not of the backbone at `start`, or one of the norms of its outputs."""
    plain = unwrapped(key)
    inside = plain.startswith(start)
    return not inside or _OUTPUT_NORM.fullmatch(plain.removeprefix(start)) is not None


def unshard(value: Any, keep: bool = True) -> Any:
    """Join a tensor that is sharded over ranks, on the CPU; other values are returned as they are.

    Collective: call on every rank. Ranks with ``keep=False`` get an empty tensor.
    """
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if keep else torch.empty(0)


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a `value` that all ranks have, if `like` is sharded and of its shape."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    device = like.to_local().device
    mesh, places = like.device_mesh, like.placements
    return distribute_tensor(value.to(device), mesh, places, src_data_rank=None)


def _find_unbuilt(model: nn.Module) -> Callable[[str], bool]:
    """A function that tells whether a key belongs to a stage that the backbones do not build."""
    nets = _networks(model)
    return lambda key: any(
        unwrapped(key).startswith(start) and net.is_unbuilt(unwrapped(key).removeprefix(start))
        for start, net in nets.items()
    )


def _networks(model: nn.Module) -> dict[str, SwinV2]:
    """The backbones in a model, by the prefix of their keys without those of torch's wrappers."""
    return {unwrapped(start): net for start, net in networks(model).items()}


def _note_source(report: LoadReport, converted: Converted) -> None:
    report.format, report.prefix = converted.format, converted.prefix
    report.windows, report.notes = converted.windows, converted.notes


def _check_source(
    report: LoadReport, converted: Converted | None, model: nn.Module, meta: Any, state: Any
) -> None:
    """Note the source of weights, and refuse those trained with other windows."""
    if converted is not None:
        _note_source(report, converted)
    known = report.windows
    biases = [unwrapped(name) for name in report.loaded if '.cpb_mlp.' in name]
    for start, net in _networks(model).items():
        if any(name.startswith(start) for name in biases):  # else the backbone is to be new
            report.windows = known or recorded_windows(meta, state, start[:-1])
            _check_windows(report, net)


def _check_report(report: LoadReport, own: State, given: Mapping[str, Tensor]) -> None:
    report.require_match()
    for key in report.loaded:
        _check_numbers(report.path, key, own[key], given[key])


def _assign(model: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> None:
    own = model.state_dict()
    _check_report(report, own, state)
    loaded = {key: shard_like(state[key], own[key]) for key in report.loaded}
    model.load_state_dict(loaded, strict=False)


def _check_numbers(path: Path, key: str, own: Tensor, given: Tensor) -> None:
    """Raise an error for a weight that is no real, finite number."""
    if own.is_floating_point() and not (given.is_floating_point() and given.itemsize > 1):
        raise CheckpointError(
            f'{path}: {key} has numbers of {given.dtype}, where floating point of 16 bits or more '
            'belongs; a file of quantized weights has to be written anew from the original ones'
        )
    if not own.is_floating_point():
        return
    numbers = given.to(own.dtype)
    # a finite sum has finite terms alone; to find it takes a tenth of the time
    if numbers.sum(dtype=torch.float32).isfinite():
        return
    if bad := int((~numbers.isfinite()).sum()):
        if bool(given.isfinite().all()):
            advice = 'those of the file are not: load them into a model of float32 or bfloat16'
        else:
            advice = 'the training that wrote it has diverged: take an earlier checkpoint'
        raise CheckpointError(
            f'{path}: {bad} of the {given.numel()} numbers of {key} are NaN or infinite as '
            f'{own.dtype}; {advice}'
        )


def _check_windows(report: LoadReport, model: SwinV2) -> None:
    """Raise `CheckpointError` if a file was pre-trained with other windows than the model has."""

    def scales(windows: Iterable[Sequence[int]]) -> list[list[int]]:
        return [[max(w - 1, 1) for w in window] for window in windows]  # as `log_coordinates`

    ours = model.pretrained_window_sizes
    # windows of other axes are left from an image network whose weights a script has inflated
    theirs = {s: window for s, window in report.windows.items() if len(window) == len(ours[0])}
    report.assumed = short_windows(ours)
    right = [theirs.get(stage, window) for stage, window in enumerate(ours)]
    built = len(model.layers)
    if scales(right[:built]) != scales(ours[:built]):
        raise CheckpointError(
            f'{report.path} was trained with other windows than the config says: set '
            f'pretrained_window_sizes={short_windows(right)}, it is {report.assumed}. They fix '
            'the scale of the position bias; window_size itself is free'
        )


def _hint(model: SwinV2, state: Mapping[str, Tensor]) -> str:
    """What to set if the number of axes or another argument is wrong."""
    if is_2d(state) == (len(model.patch_embed.patch_size) == 2):
        return _arguments_hint(model, state)
    if is_2d(state):
        done = getattr(model, 'pretrained2d', False)
        rest = ' (it is set) and name the file in init_cfg, which alone inflates' if done else ''
        return f'. Weights of an image network for a video network: set pretrained2d=True{rest}'
    return '. These are weights of a video network, and the backbone takes images'


def _arguments_hint(model: SwinV2, state: Mapping[str, Tensor]) -> str:
    """The arguments beside ``arch`` that weights ask for, where the backbone has others."""
    ours = model.state_dict()
    hidden = 'layers.0.blocks.0.mlp.fc1.weight'
    found = {}
    for name, weights in (('config', ours), ('file', state)):
        kernel, first = weights.get(PATCHES), weights.get(hidden)
        if kernel is None or first is None or kernel.ndim < 4 or first.ndim != 2:
            return ''
        found[name] = dict(
            in_channels=kernel.shape[1],
            patch_size=tuple(kernel.shape[2:]),
            mlp_ratio=first.shape[0] / first.shape[1],
        )
    wrong = [key for key, value in found['file'].items() if value != found['config'][key]]
    if not wrong:
        return ''
    wanted = ', '.join(f'{key}={found["file"][key]}' for key in wrong)
    is_now = ', '.join(f'{key}={found["config"][key]}' for key in wrong)
    return f'. The file is of {wanted}, and the config has {is_now}'
