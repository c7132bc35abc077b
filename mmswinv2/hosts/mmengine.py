"""mmengine, and what every host package has in common: `Host`, `Patch`."""

from __future__ import annotations

import functools
import inspect
import logging
import runpy
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import checkpoint
from packaging.specifiers import SpecifierSet
from torch import Tensor

from ..errors import CheckpointError, UserError

# the keys of a sample under which host packages keep the name of its file
FILE_KEYS = ('img_path', 'filename', 'frame_dir')
# distributions that may stand behind an import name, where it is not their own
_DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine',),
    'mmcv': ('onedl-mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection',),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmaction': ('mmaction2',),
    'mmpretrain': ('onedl-mmpretrain',),
}
_MARK = '_mmswinv2_patch'


@dataclass(frozen=True)
class Patch:
    """A repair of a package, for the versions of it that need one; see `patch`.

    Attributes:
        name: what works with it that did not before.
        package: import name of the package.
        versions: the versions it is for, such as ``'<0.10.8'``.
        change: makes the change; called again, it must change nothing.
        condition: what else must hold of the environment.
    """

    name: str
    package: str
    versions: str
    change: Callable[[], None]
    condition: Callable[[], bool]

    def needed(self) -> bool:
        """Whether what is installed needs it."""
        version = installed_version(self.package)
        known = version is not None and SpecifierSet(self.versions).contains(version, True)
        return known and self.condition()

    def apply(self) -> None:
        """Make the change if it is needed."""
        if self.needed():
            self.change()


def patch(
    package: str, versions: str, condition: Callable[[], bool] = lambda: True
) -> Callable[[Callable[[], None]], Patch]:
    """Make a `Patch` of a function, named by the first line of its docstring."""

    def decorate(change: Callable[[], None]) -> Patch:
        name = (change.__doc__ or '').split('\n')[0].rstrip('.')
        return Patch(name, package, versions, change, condition)

    return decorate


@functools.cache
def installed_version(package: str) -> str | None:
    """Version of the distribution behind an import name, without importing it."""
    for name in (*_DISTRIBUTIONS.get(package, ()), package):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def replace(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Let the decorated function take the place of ``owner.name``, unless one of ours has it.

    It is called with the original as its first argument.
    """

    def decorate(function: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        if hasattr(original, _MARK):
            return

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        with suppress(ValueError):  # classes of mmengine look for arguments, and follow no wrapper
            replacement.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        setattr(replacement, _MARK, True)
        setattr(owner, name, replacement)

    return decorate


def warn(text: str) -> None:
    """Log a warning."""
    print_log(text, logger='current', level=logging.WARNING)


def log_patch(text: str) -> None:
    """Log what a patch did."""
    print_log(f'mmswinv2.hosts: {text}', logger='current', level=logging.INFO)


@patch('mmengine', '<0.10.8')
def read_own_checkpoints() -> None:
    """Checkpoints of mmengine can be read by mmengine.

    Since torch 2.6 `torch.load` restores listed classes only, and mmengine's `HistoryBuffer`,
    which stands in every checkpoint it writes, is not listed.
    """
    from ..checkpoints.files import harmless_globals

    known = torch.serialization.get_safe_globals()
    if missing := [entry for entry in harmless_globals() if entry not in known]:
        torch.serialization.add_safe_globals(missing)
        log_patch("mmengine's HistoryBuffer may be restored from checkpoints")


@patch('mmengine', '>=0.10.8', lambda: hasattr(checkpoint, '_safe_torch_load'))
def read_without_code() -> None:
    """Reading a checkpoint runs no code from the file.

    Where torch refuses, mmengine reads it a second time with ``weights_only=False``; and it allows
    `getattr`, with which a file can reach any function.
    """
    from ..checkpoints.files import load_without_code

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

    @replace(checkpoint, 'load_from_http')  # which the loaders of other prefixes call
    def load_from_http(original: Any, filename: str, *_: Any, **__: Any) -> Any:
        return load(filename)

    @replace(checkpoint.CheckpointLoader, 'load_checkpoint')
    def load_checkpoint(original: Any, *args: Any, **kwargs: Any) -> Any:
        return without_config(original(*args, **kwargs))


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
        lora: what the file says of its adapters.
    """

    path = Path('checkpoint')
    lora: Any = None


def with_state_dict(found: Any, path: Path) -> Any:
    """A checkpoint whose weights stand where mmengine looks for them, under ``state_dict``."""
    from ..checkpoints.convert import entries_note, holds_weights, open_entry

    weights = open_entry(found)
    if not isinstance(found, dict) or not ('state_dict' in found or holds_weights(weights)):
        return found
    if note := entries_note(found):
        print_log(f'{path}: {note}', logger='current')
    state = OrderedDict(weights)
    state.pop('state_dict', None)  # one without weights
    state._metadata = Origin(getattr(weights, '_metadata', {}))  # type: ignore[attr-defined]
    state._metadata.path = path  # type: ignore[attr-defined]
    found['state_dict'] = state
    meta = found.setdefault('meta', {})  # for mmseg's
    lora = meta.get('lora') if isinstance(meta, dict) else None
    state._metadata.lora = lora  # type: ignore[attr-defined]
    return found


@patch('mmengine', '>=0.10')
def report_what_is_loaded() -> None:
    """Weights of any format are loaded with one report, and refused if next to nothing fits.

    mmengine logs what does not fit and goes on, be it everything. Runners, strategies, hooks and
    inferencers all load with this function.
    """
    from ..checkpoints.load import fit_weights

    @replace(checkpoint, 'load_state_dict')
    def load_state_dict(
        original: Any, module: Any, state_dict: Any, strict: bool = False, logger: Any = None
    ) -> None:
        while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
            module = module.module
        metadata = getattr(state_dict, '_metadata', Origin())
        path = getattr(metadata, 'path', Origin.path)
        state, report = fit_weights(module, state_dict, path)
        state = OrderedDict(state)
        state._metadata = metadata  # type: ignore[attr-defined]
        try:
            original(module, state, strict, 'silent')
        except RuntimeError as error:
            if not strict or 'state_dict' not in str(error):
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
        yield from dataloader  # which starts them, when the first batch is asked for

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
    """Images of any number of channels can be normalised by channel.

    mmengine takes a mean and a std for 1 or 3, and keeps three channels where it swaps R and B.
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

    Every visualizer of a host has an `add_datasample` of its own.
    """
    from mmengine.visualization import Visualizer

    @replace(Visualizer, '__init__')
    def init(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        draw = self.add_datasample

        def add_datasample(name: str, image: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(image, 'ndim', 0) == 3:
                image = image[..., [0, 1, 2] if image.shape[2] > 2 else [0, 0, 0]]
            return draw(name, image, *args, **kwargs)

        self.add_datasample = add_datasample


@patch('mmcv', '>=2')
def name_unreadable_images() -> None:
    """Errors for images that cannot be read name the file.

    So do those for images that mmcv would read and not give as they are. Where it is called without
    a format, to draw on the image, it gets one that can be seen.
    """
    import mmcv
    from mmcv.transforms import LoadImageFromFile

    from ..datasets.images import loss, name_file, picture

    read = threading.local()

    @replace(mmcv, 'imfrombytes')
    def imfrombytes(decode: Any, content: bytes, *args: Any, **kwargs: Any) -> Any:
        read.content = content
        if args or kwargs.keys() - {'channel_order'} or (seen := picture(content)) is None:
            return decode(content, *args, **kwargs)
        return seen if kwargs.get('channel_order') == 'rgb' else seen[..., ::-1]

    @replace(LoadImageFromFile, 'transform')
    def transform(load: Any, self: Any, results: dict) -> dict | None:
        path, read.content = results['img_path'], b''
        with name_file(path):
            try:
                loaded = load(self, results)
            finally:
                backend = self.imdecode_backend or mmcv.image.io.imread_backend
                if does := loss(read.content, self.color_type, backend):
                    raise UserError(
                        f"{path} is a {does}; write dict(type='mmswinv2.LoadImage', ...) in the "
                        'place of LoadImageFromFile, see docs/data.md'
                    )
            if loaded is not None:
                check_size(loaded, loaded['img'].shape)
            return loaded


@patch('mmcv', '>=2')
def keep_a_pixel() -> None:
    """Strips keep a pixel of their shorter side when they are made smaller.

    Its size is rounded, to 0 for 700x2 in 64x64, and OpenCV refuses that.
    """
    from mmcv.image import geometric
    from mmcv.transforms import processing  # noqa: F401, has one of them

    def visible(size: Any) -> Any:
        return tuple(max(1, n) for n in size) if isinstance(size, tuple) else size

    changes: dict[str, Callable[..., Any]] = {
        '_scale_size': lambda scaled, *args: visible(scaled(*args)),
        'rescale_size': lambda f, old, scale, *args, **kw: f(old, visible(scale), *args, **kw),
        'imresize': lambda f, img, size, *args, **kw: f(img, visible(size), *args, **kw),
    }
    for name, change in changes.items():
        original = getattr(geometric, name)
        for module in list(sys.modules.values()):  # wherever it has been imported by name
            if getattr(module, '__dict__', {}).get(name) is original:
                replace(module, name)(change)


class Host:
    """What the package needs to know of a host package, with plain defaults.

    Hosts have no state. Methods that take ``cfg`` take a whole config of this host.

    Args:
        name: import name of a package that has no class of its own here.

    Attributes:
        name: import name, and scope of its registries.
        extra: the extra of our setup.py that installs it.
        early_patches: applied in every process, before the host is imported.
        patches: applied by `apply`; they import the host and what it builds on.
        input_axes: axes of a sample without channels: 2 of an image, 3 of a video.
        heads_autocast: whether heads run under autocast on a CPU.
        swap_image_size: side of an image to try a swapped backbone on; ``None``: no swapping.
        draw_option: setting of its visualization hook that switches it on.
        draw_interval: whether that hook has to be told to leave no picture out.
        draw_folder: setting for the folder of its pictures, with dots.
        dump_metric: metric that writes predictions to a file; ``None``: they are label maps.
        finds_boxes: whether predictions are boxes with scores.
        visualizer: what draws predictions.
        kind_of_model: for a reader.
        analysis_tools: names of the host's own, in its folder ``.mim/tools/analysis_tools``.
    """

    name = 'mmengine'
    extra: str | None = None
    early_patches: tuple[Patch, ...] = ()
    patches: tuple[Patch, ...] = (name_unreadable_images, keep_a_pixel)
    input_axes = 2
    heads_autocast = False
    swap_image_size: int | None = None
    draw_option = 'draw'
    draw_interval = True
    draw_folder = 'default_hooks.visualization.test_out_dir'
    dump_metric: str | None = 'DumpResults'
    finds_boxes = False
    visualizer = 'Visualizer'
    kind_of_model = 'Training'
    analysis_tools: tuple[str, ...] = ()

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

    def apply(self) -> None:
        """Apply the patches; repeated calls do nothing."""
        for patch in self.patches:
            patch.apply()

    def require(self, path: str) -> None:
        """Raise `UserError` if the host of the config at `path` is not installed."""
        if find_spec(self.name) is None:
            hint = f": pip install '.[{self.extra}]' in a checkout" if self.extra else ''
            raise UserError(
                f'{path} needs {self.name} (its default_scope), which is not installed{hint}'
            )

    def use_registries(self) -> None:
        """Let types without a prefix be looked up in this host."""
        init_default_scope(self.name)

    def run_script(self, name: str, arguments: Sequence[str]) -> None:
        """Run a script that the host brings along in this process, with its own command line.

        Scripts in ``analysis_tools`` come before those of the same name in other folders.

        Raises:
            UserError: if the host has none of that name.
        """
        spec = find_spec(self.name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        found = [path for place in places for path in Path(place, '.mim', 'tools').rglob(name)]
        if not found:
            raise UserError(f'{self.name} brings no {name} along; reinstall it from its wheel')
        script = str(min(found, key=lambda path: (path.parent.name != 'analysis_tools', str(path))))
        before, sys.argv = sys.argv, [script, *arguments]
        try:
            runpy.run_path(script, run_name='__main__')
        finally:
            sys.argv = before

    def folder_hint(self, dataset: Any, key: str) -> str:
        """What to add to the error for a missing folder, `key` of the ``data_prefix``."""
        return ''

    def explain_empty(self, dataset: Any, where: str) -> UserError | None:
        """The reason why a data set, given by its config, has no samples, if it is known."""
        return None

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Raise `UserError` if annotations and model do not fit; see `hosts.check_dataset`.

        Returns:
            whether it is a data set of this host.
        """
        return False

    def check_batch(self, model: Any, batch_size: int, where: str) -> None:
        """Raise `UserError` if a model cannot be tested on so many samples at a time."""

    def check_metric(self, metric: Any, dataset: Any, where: str) -> None:
        """Raise `UserError` if a metric cannot score the samples of a data set."""

    def keep_file_names(self, dataset: Any) -> None:
        """Let the samples of a data set keep the names of their files (`FILE_KEYS`)."""

    def default_tta_model(self, cfg: Any) -> dict[str, Any] | None:
        """Config of a wrapper that merges the predictions on an image and on its mirror image.

        Returns:
            ``None`` if the host has none. Raises `UserError` if this model's cannot be merged.
        """
        return None

    def frames(self, cfg: Any, sampling: Any) -> int:
        """Frames of a sample, by the config of the transform that samples them."""
        return int(sampling['clip_len'])

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Random inputs and annotations for a training step, as a data loader hands them over.

        Args:
            cfg: the config.
            size: ``(H, W)`` or ``(T, H, W)``.
            count: number of samples.
        """
        raise UserError(f'no inputs are known for the models of {self.name} (default_scope)')

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """A data sample without annotations; `meta` has ``img_shape`` and the like."""
        raise NotImplementedError

    def run_head(self, model: Any, outputs: Any) -> None:
        """Run the head where a forward pass with ``mode='tensor'`` stops before it."""


class MMEngine(Host):
    """mmengine: the host of configs that name no other."""

    early_patches = (
        read_own_checkpoints,
        read_without_code,
        read_by_our_reader,
        take_no_config_from_weights,
        report_what_is_loaded,
        start_workers_late,
        normalize_any_channels,
        draw_three_channels,
        register_deepspeed_optimizers,
    )


def as_list(value: Any) -> list[Any]:
    """A setting that may be one thing or several, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_size(sample: dict, shape: Sequence[int], prefix: str = '') -> None:
    """Raise `UserError` if an image is not of the ``height`` and ``width`` of its annotations.

    Args:
        sample: with ``img_path`` and, where annotations give them, ``height`` and ``width``.
        shape: (H, W, ...) of the image as it is loaded.
        prefix: what the message is to begin with.
    """
    height, width = sample.get('height'), sample.get('width')
    if height is None or width is None or (height, width) == tuple(shape[:2]):
        return
    swapped = (
        '. The two are swapped: in the file, or the photo is turned by its EXIF orientation and '
        'was annotated as it is stored; annotate it as it is shown, or load it with color_type='
        "'color_ignore_orientation'"
    )
    raise UserError(
        f'{prefix}the image {sample["img_path"]} has {shape[1]}x{shape[0]} pixels, and its '
        f'annotations are for {width}x{height}'
        + (swapped if (width, height) == tuple(shape[:2]) else '; annotate the images you load')
    )


def step_lists(step: Any) -> Iterator[list]:
    """The lists of transforms in a pipeline, those inside other transforms included."""
    inner: Any = getattr(step, 'subroutines', None) or getattr(step, 'transforms', None)
    if isinstance(inner, list):
        yield inner
        for item in inner:
            yield from step_lists(item)
    elif inner is not None:  # a transform around a pipeline of its own
        yield from step_lists(inner)


def without_annotations(steps: Sequence[Any]) -> list[Any]:
    """A pipeline, or the transforms of TestTimeAug, without the loading of annotations."""
    kept: list[Any] = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            if alternatives := without_annotations(step):
                kept.append(alternatives)
        elif step['type'].split('.')[-1] != 'LoadAnnotations':
            if 'transforms' in step:
                step = {**step, 'transforms': without_annotations(step['transforms'])}
            kept.append(step)
    return kept


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets, or the configs of them, inside wrappers such as ConcatDataset."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if not inner:
        yield dataset
        return
    for item in as_list(inner):
        yield from inner_datasets(item)


def training_pipeline(cfg: Any) -> Sequence[Any]:
    """Configs of the transforms of the training set; of several sets, the first's.

    Raises:
        UserError: if the config has none.
    """
    loader = cfg.get('train_dataloader') or {}
    for dataset in inner_datasets(loader.get('dataset') or {}):
        if pipeline := dataset.get('pipeline'):
            return pipeline
    raise UserError('this config has no train_dataloader with a pipeline to take inputs from')
