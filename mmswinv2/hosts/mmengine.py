"""mmengine: data loaders and pictures, which all hosts share; the host of other configs."""

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor

from ..errors import CheckpointError, UserError
from ..files import is_of_system, turn_backslashes, undecodable
from . import config_files, mmengine_checkpoints, pipelines
from .configs import check_numbers
from .host import Host
from .patching import patch, patches_in, replace


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
        except (UnicodeDecodeError, json.JSONDecodeError) as error:  # the former of YAML too
            raise undecodable(file, error) from error
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
def list_no_folders_of_systems() -> None:
    """Folders that systems write, such as __MACOSX, are no classes, and their files no images."""
    from mmengine.fileio import LocalBackend

    @replace(LocalBackend, 'list_dir_or_file')
    def list_dir_or_file(original: Any, *args: Any, **kwargs: Any) -> Iterator[str]:
        found = original(*args, **kwargs)
        return (path for path in found if not any(map(is_of_system, path.split(os.sep))))


@patch('mmengine', '>=0.7')
def read_lists_of_windows() -> None:
    """Lists of files that were written on Windows, with backslashes, can be used elsewhere."""
    from mmengine.dataset import BaseDataset

    @replace(BaseDataset, 'get_data_info')
    def get_data_info(original: Any, self: Any, idx: int) -> dict:
        info = original(self, idx)
        turn_backslashes([info])
        return info


@patch('mmengine', '>=0.7')
def number_classes_as_files_do() -> None:
    """Labels by number are those of the classes in the file, whose order metainfo cannot change."""
    from mmengine.dataset import BaseDataset

    @replace(BaseDataset, 'load_data_list')
    def load_data_list(original: Any, self: Any) -> list[dict]:
        readers = 'load_data_list', 'parse_data_info'
        if any(getattr(type(self), name) is not getattr(BaseDataset, name) for name in readers):
            return original(self)  # a class of the user's own may read labels by name
        given = self._metainfo.pop('classes', None)  # else mmengine does not take those of the file
        samples = original(self)
        if given is not None:
            own = list(self._metainfo.get('classes') or ())
            self._metainfo['classes'] = given
            check_numbers(self.ann_file, own, given)
        return samples


@patch('mmengine', '>=0.7')
def balance_joined_sets() -> None:
    """Classes of joined data sets can be balanced, by ClassBalancedDataset around ConcatDataset."""
    from mmengine.dataset import ConcatDataset

    def get_cat_ids(self: Any, idx: int) -> list[int]:
        number, inner = self._get_ori_dataset_idx(idx)
        return self.datasets[number].get_cat_ids(inner)

    ConcatDataset.get_cat_ids = get_cat_ids


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
def normalize_any_channels() -> None:
    """Images of any number of channels can be normalized by channel.

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
        # mmseg repeats gray images for three means
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
    """Images of any number of channels can be drawn on, as their first three or as gray.

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
        *patches_in(
            'mmengine', mmengine_checkpoints, config_files, pipelines, sys.modules[__name__]
        ),
        register_deepspeed_optimizers,
    )
