"""mmengine: checkpoints, data loaders, pictures and config files, which all hosts share."""

import copy
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint
from torch import Tensor

from ..errors import CheckpointError, UserError
from ..files import StrPath, find
from .host import Host
from .patching import patch, replace
from .pipelines import name_keys_that_steps_lack

_PACKAGE = Path(__file__).parents[1]


@patch('mmengine', '>=0.10.8', lambda: hasattr(checkpoint, '_safe_torch_load'))
def read_without_code() -> None:
    """Reading a checkpoint runs no code from the file.

    If torch refuses a file, mmengine reads it again with ``weights_only=False``. It also allows
    `getattr`, with which a file can reach any function.
    """
    from ..checkpoints.pickles import load_without_code

    @replace(checkpoint, '_safe_torch_load')
    def load(original: Any, file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        try:
            return load_without_code(file, map_location)
        except UnpicklingError as error:
            raise CheckpointError(
                f'{file} is no checkpoint, or restoring what it holds would run code from the file '
                f'({str(error).splitlines()[0]}); see docs/checkpoints.md'
            ) from error


@patch('mmengine', '>=0.7')
def read_by_our_reader() -> None:
    """Reading a file or an address runs no code from it, nor the config that it holds.

    mmengine reads addresses with ``weights_only=False``, and resuming runs the Python text that
    stands in a checkpoint as its config. The config is left out of what is read.
    """
    from ..checkpoints import fetch_together, read_checkpoint

    def load(filename: str, *_: Any, **__: Any) -> Any:
        path = fetch_together(filename)
        return with_state_dict(read_checkpoint(path), path)

    prefixes = ['', 'http://', 'https://', 'hf://']
    checkpoint.CheckpointLoader.register_scheme(prefixes=prefixes, loader=load, force=True)

    @replace(checkpoint, '_load_checkpoint_with_prefix')
    def load_part(original: Any, prefix: str, filename: str, map_location: Any = None) -> Any:
        found = checkpoint._load_checkpoint(filename, map_location)
        state, start = found.get('state_dict', found), f'{prefix.removesuffix(".")}.'
        part = OrderedDict({k.removeprefix(start): state[k] for k in state if k.startswith(start)})
        if not part:
            starts = ', '.join(sorted({key.split('.')[0] for key in state})[:5])
            raise CheckpointError(
                f'{filename} has no weights under prefix={prefix!r}; its keys begin {starts}'
            )
        part._metadata = getattr(state, '_metadata', Origin())  # type: ignore[attr-defined]
        return part

    @replace(checkpoint, 'load_from_http')  # loaders of other prefixes call it
    def load_from_http(original: Any, filename: str, *_: Any, **__: Any) -> Any:
        return load(filename)

    @replace(checkpoint.CheckpointLoader, 'load_checkpoint')
    def load_checkpoint(original: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        name = os.fspath(filename) if isinstance(filename, os.PathLike) else filename
        try:
            return without_config(original(name, *args, **kwargs))
        except ModuleNotFoundError as error:  # torchvision:// reads the addresses there
            raise CheckpointError(
                f'{name} needs {error.name}, which is not installed; install it, or give the '
                'address or the file itself'
            ) from error
        except KeyError as error:
            if '://' not in name or not name.endswith(str(error.args[0])):
                raise
            raise CheckpointError(
                f'{name}: mmengine knows no weights of the name {error}; give the address or the '
                'file itself'
            ) from error


@patch('mmengine', '>=0.7')
def read_data_without_code() -> None:
    """Reading data from a pickle or a YAML file runs no code from it.

    Annotations, proposals, weights of classes and configs in YAML all go through `mmengine.load`.
    """
    import mmengine
    import mmengine.dataset.base_dataset as base_dataset
    from mmengine import fileio
    from mmengine.fileio.handlers import YamlHandler, pickle_handler

    from ..checkpoints.pickles import PlainPickle

    pickle_handler.pickle = PlainPickle

    @replace(YamlHandler, 'load_from_fileobj')
    def load_from_fileobj(original: Any, self: Any, file: Any, **kwargs: Any) -> Any:
        return original(self, file, **{**kwargs, 'Loader': _YamlLoader})

    @replace((fileio.io, fileio, mmengine, base_dataset), 'load')
    def load(original: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(file, *args, **kwargs)
        except UnicodeDecodeError as error:  # of JSON or YAML
            raise UserError(f'{file} is not in UTF-8 ({error}); save it as UTF-8') from error
        except json.JSONDecodeError as error:
            raise UserError(
                f'{file} is not JSON, or cut short ({error}); fetch or export it again'
            ) from error
        except (CheckpointError, yaml.YAMLError) as error:  # they do not name the file
            words = ' '.join(str(error).split())
            raise UserError(f'{file}: {words}') from error


class _YamlLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
    """Loads plain data, and the tuples that mmengine writes."""


_YamlLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple',
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)


@patch('mmengine', '>=0.7')
def explain_empty_data() -> None:
    """Errors for a data set without samples say where it looked for them."""
    from mmengine.dataset import BaseDataset

    keys = ('ann_file', 'data_root', 'data_prefix', 'img_suffix', 'filter_cfg')

    @replace(BaseDataset, '_serialize_data')
    def serialize(original: Any, self: Any) -> Any:
        if not self.data_list:
            settings = [f'{key}={v!r:.200}' for key in keys if (v := getattr(self, key, None))]
            raise UserError(
                f'{type(self).__name__} has no samples with {", ".join(settings)}; see whether '
                'there are such files, and what a filter leaves of them'
            )
        return original(self)


@patch('mmengine', '>=0.7')
def take_no_config_from_weights() -> None:
    """An inferencer runs no config that stands in a file of weights."""
    from mmengine.infer import BaseInferencer

    @replace(BaseInferencer, '_init_model')
    def init_model(original: Any, self: Any, cfg: Any, weights: Any, device: str = 'cpu') -> Any:
        if not cfg:
            raise UserError(
                f'no model was given, and its config would be taken from {weights}, which would '
                'run code from that file; give model=CONFIG'
            )
        return original(self, cfg, weights, device)


def without_config(found: Any) -> Any:
    """A checkpoint without the Python text of a config, which mmengine would run."""
    if isinstance(found, dict) and isinstance(found.get('meta'), dict):
        found['meta'].pop('config', None)
    return found


class Origin(OrderedDict):
    """The ``_metadata`` of a state dict, which mmengine passes on; it also names the file.

    Attributes:
        path: the file.
        meta: the entry ``meta`` of the file.
    """

    path = Path('checkpoint')
    meta: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Files that these weights are written to get a plain dict, which runs no code."""
        return OrderedDict, (list(self.items()),)

    def __deepcopy__(self, memo: dict) -> 'Origin':
        """Such as EMAHook's copy, which is loaded too."""
        twin = Origin(copy.deepcopy(dict(self), memo))
        twin.path, twin.meta = self.path, self.meta
        return twin


def with_state_dict(found: Any, path: Path) -> Any:
    """A checkpoint with its weights under ``state_dict``, where mmengine looks for them."""
    from ..checkpoints.entries import entries_note, of_file, open_entry

    with of_file(path):
        weights = open_entry(found)
    if note := entries_note(found):
        print_log(f'{path}: {note}', logger='current')
    state = OrderedDict(weights)
    state.pop('state_dict', None)  # an entry without weights
    found['state_dict'] = state
    origin = Origin(getattr(weights, '_metadata', {}))
    origin.path, origin.meta = path, found.setdefault('meta', {})  # mmseg's init_model reads it
    state._metadata = origin  # type: ignore[attr-defined]
    return found


@patch('mmengine', '>=0.10')
def report_what_is_loaded() -> None:
    """Weights of any format are loaded with one report, and refused if next to nothing fits.

    mmengine logs what does not fit and continues, even if nothing fits. Runners, strategies, hooks
    and inferencers all load with this function.
    """
    from ..checkpoints.load import fit_weights, shard_like

    @replace(checkpoint, 'load_state_dict')
    def load_state_dict(
        original: Any, module: Any, state_dict: Any, strict: bool = False, logger: Any = None
    ) -> None:
        while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
            module = module.module
        module = getattr(module, '_orig_mod', module)  # which torch.compile has wrapped
        metadata = getattr(state_dict, '_metadata', Origin())
        path = getattr(metadata, 'path', Origin.path)
        state, report = fit_weights(module, state_dict, path)
        own = module.state_dict()
        state = OrderedDict((k, shard_like(v, own[k]) if k in own else v) for k, v in state.items())
        state._metadata = metadata  # type: ignore[attr-defined]
        try:
            original(module, state, strict, 'silent')
        except RuntimeError as error:
            # torch writes the one, mmengine the other
            if not strict or not re.search('state[ _]dict', str(error)):
                raise
            raise CheckpointError(
                f'{path} does not fit the model of the config ({report.problems() or error})'
            ) from error
        level = logging.WARNING if report.problems() else logging.INFO
        print_log(str(report), logger=logger or 'current', level=level)


@patch('mmengine', '<0.10.8')
def start_workers_late() -> None:
    """Workers of a training by iterations start after hooks have checked their data set."""
    from mmengine.runner.loops import _InfiniteDataloaderIterator

    def batches(dataloader: Any) -> Iterator[Any]:
        yield from dataloader  # starts the workers when the first batch is requested

    @replace(_InfiniteDataloaderIterator, '__init__')
    def start(original: Any, self: Any, dataloader: Any) -> None:
        self._dataloader, self._epoch = dataloader, 0
        self._iterator = batches(dataloader)


@patch('deepspeed', '>=0.13.2', lambda: not find_spec('deepspeed.runtime.fp16.onebit'))
def register_deepspeed_optimizers() -> None:
    """Optimizers of DeepSpeed are registered without the one-bit ones, which are gone."""
    from mmengine._strategy import deepspeed as strategy
    from mmengine.registry import OPTIMIZERS

    @replace(strategy, 'register_deepspeed_optimizers')
    def register(original: Any) -> list[str]:
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
        from deepspeed.ops.lamb import FusedLamb

        optimizers = (DeepSpeedCPUAdam, FusedAdam, FusedLamb)
        for optimizer in optimizers:
            OPTIMIZERS.register_module(module=optimizer, force=True)
        return [optimizer.__name__ for optimizer in optimizers]


@patch('mmengine', '>=0.7')
def find_own_configs() -> None:
    """Configs of mmswinv2 can be a base by their prefix, as those of the hosts can.

    Example: ``_base_ = 'mmswinv2::_base_/strategies/zero1.py'``. mmengine has a fixed list.
    """

    @replace(Config, '_get_cfg_path')
    def get_cfg_path(original: Any, cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, prefix, name = cfg_path.partition('::')
        if not prefix:
            return original(cfg_path, filename)
        folders = config_folders(package)
        for path in (folder / name for folder in folders):
            if path.is_file():
                # types in our configs are found by default_scope, as in any config
                return str(path), None if package == 'mmswinv2' else package
        if package == 'mmswinv2':
            raise UserError(f'{cfg_path}: there is no config {name} in {folders[0]}')
        return original(cfg_path, filename)


@patch('mmengine', '>=0.8')
def format_configs_once() -> None:
    """A config that is logged and written into every checkpoint is formatted once.

    yapf takes a second for one of a few hundred lines, and mmengine calls it six times in a run.
    """
    Config.pretty_text = property(_pretty_text)


_format: Any = Config.pretty_text.fget


def _pretty_text(cfg: Config) -> str:
    key = repr((cfg.to_dict(), cfg._format_python_code))
    known, text = vars(cfg).get('_mmswinv2_text', (None, ''))
    if known != key:
        text = _format(cfg)
        vars(cfg)['_mmswinv2_text'] = key, text  # setattr would make it a key of the config
    return text


def config_folders(package: str) -> list[Path]:
    """The folders that may hold the configs of a package; empty if it is not installed.

    mmengine looks for a distribution by a fixed name, which the maintained forks do not use; the
    name of the package folder is the same in all of them.
    """
    if package == 'mmswinv2':
        return [_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs']  # or a checkout
    spec = None
    with suppress(ValueError):  # of modules without a spec, such as __main__
        spec = find_spec(package) if package.isidentifier() else None
    places = (spec and spec.submodule_search_locations) or ()
    return [Path(place, '.mim', 'configs') for place in places]


def find_config(name: StrPath) -> Path:
    """The file behind a path or a ``package::config``.

    Raises:
        UserError: if there is no such file, the package is not installed, brings no configs, or has
            none or several of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    package, prefix, config = os.fspath(name).partition('::')
    if not prefix:
        known = [p.name for p in find(path.parent, '*.py')[:5]]
        beside = f'; there are {", ".join(known)}' if known else ''
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise UserError(f'the config {name} {what}{beside}')
    folders = config_folders(package)
    if not folders:
        raise UserError(f'{name}: the package {package} is not installed')
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(f'{name}: {package} brings no configs ({folders[0]} does not exist)')
    file = folder / (config if config.endswith('.py') else f'{config}.py')
    if file.is_file():
        return file
    named = sorted(path for path in folder.rglob('*.py') if path.name == file.name)
    if len(named) != 1 or '/' in config:
        family = ', '.join(p.name for p in find(file.parent, '*.py')[:5]) or '-'
        others = f'there is {", ".join(map(str, named))}'
        seen = others if named else f'no such file; beside it: {family}'
        raise UserError(f'{name} is not one config of {package}: {seen}')
    return named[0]


@patch('mmengine', '>=0.7')
def normalize_any_channels() -> None:
    """Images of any number of channels can be normalised by channel.

    mmengine accepts mean and std of 1 or 3 channels only, and keeps 3 when it swaps R and B.
    """
    from mmengine.model import ImgDataPreprocessor

    @replace(ImgDataPreprocessor, '__init__')
    def init(
        original: Any, self: Any, mean: Any = None, std: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        counts = {len(mean or ()), len(std or ())}
        if counts <= {0, 1, 3}:
            return original(self, mean, std, *args, **kwargs)
        if len(counts) > 1:
            raise UserError(f'mean and std need a value for each channel, got {mean} and {std}')
        original(self, mean[:1], std[:1], *args, **kwargs)
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), False)

    @replace(ImgDataPreprocessor, 'cast_data')
    def cast_data(original: Any, self: Any, data: Any) -> Any:
        data, known = original(self, data), len(getattr(self, 'mean', ' '))
        found = _channels(data) if isinstance(data, dict) else set()
        # mmseg repeats grey images for three means
        if len(found) > 1 or (known > 1 and found - ({1, 3} if known == 3 else {known})):
            raise UserError(
                f'images have {" or ".join(map(str, sorted(found)))} channels, and mean and std of '
                f'data_preprocessor {known} values; all images need as many channels (channels of '
                'mmswinv2.LoadImage), mean and std a value for each, and the backbone in_channels'
            )
        return data

    @replace(ImgDataPreprocessor, 'forward')
    def forward(original: Any, self: Any, data: Any, training: bool = False) -> Any:
        swaps = self._channel_conversion
        self._channel_conversion = swaps and not _channels(data) - {3}
        try:
            return original(self, data, training)
        finally:
            self._channel_conversion = swaps


def _channels(data: dict[str, Any]) -> set[int]:
    """Numbers of channels of a batch, whose images are (C, H, W)."""
    return {x.shape[-3] for x in data.get('inputs', ()) if isinstance(x, Tensor) and x.ndim > 2}


@patch('mmengine', '>=0.7')
def draw_three_channels() -> None:
    """Images of any number of channels can be drawn on, as their first three or as grey.

    The visualizers of the hosts override `add_datasample`, so each instance gets its own wrapper.
    """
    from mmengine.visualization import Visualizer

    @replace(Visualizer, '__init__')
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        draw = self.add_datasample

        def add_datasample(*args: Any, **kwargs: Any) -> Any:
            args = (*args[:1], *map(_three_channels, args[1:2]), *args[2:])  # after the name
            if 'image' in kwargs:
                kwargs['image'] = _three_channels(kwargs['image'])
            return draw(*args, **kwargs)

        self.add_datasample = add_datasample


def _three_channels(image: Any) -> Any:
    if getattr(image, 'ndim', 0) != 3 or image.shape[2] == 3:
        return image
    return np.ascontiguousarray(image[..., [0, 1, 2] if image.shape[2] > 2 else [0, 0, 0]])


@patch('mmengine', '>=0.7')
def draw_masks_in_their_boxes() -> None:
    """Drawing a mask takes the time of its box, not of the whole image."""
    from mmengine.visualization import Visualizer

    @replace(Visualizer, 'draw_binary_masks')
    def draw(
        original: Any, self: Any, binary_masks: Any, colors: Any = 'g', alphas: Any = 0.8
    ) -> Any:
        image = self.get_image()
        usual = (
            (type(binary_masks), type(colors), type(alphas)) == (np.ndarray, list, float)
            and binary_masks.dtype == bool
            and binary_masks.shape == (len(colors), *image.shape[:2])
            and all(type(color) is tuple and len(color) == 3 for color in colors)
            and all(0 <= channel <= 255 for color in colors for channel in color)
        )
        if not usual:  # also what mmengine refuses, such as masks of another image
            return original(self, binary_masks, colors, alphas)
        for mask, color in zip(binary_masks, colors, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if rows.size:
                box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                painted = np.where(mask[box][..., None], np.uint8(color), image[box])
                image[box] = cv2.addWeighted(image[box], 1 - alphas, painted, alphas, 0)
        self.ax_save.imshow(image, extent=(0, self.width, self.height, 0), interpolation='nearest')
        return self


class MMEngine(Host):
    """mmengine: the host of configs that name no other."""

    early_patches = (
        read_without_code, read_by_our_reader, read_data_without_code, explain_empty_data,
        take_no_config_from_weights,
        report_what_is_loaded, start_workers_late, normalize_any_channels, draw_three_channels,
        draw_masks_in_their_boxes, find_own_configs, format_configs_once,
        name_keys_that_steps_lack, register_deepspeed_optimizers,
    )  # fmt: skip
