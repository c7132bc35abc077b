"""mmengine, and what every host package has in common: `Host`, `Patch`."""

from __future__ import annotations

import functools
import importlib.util
import logging
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from packaging.specifiers import SpecifierSet

from ..errors import UserError

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
    """A repair of a package, for the versions of it that need one.

    Attributes:
        name: what works with it that did not before; docs/compatibility.md lists it.
        package: import name of the package it changes.
        versions: the versions it is for, such as ``'<0.10.8'``.
        change: makes the change; called again, it must change nothing.
        condition: what else must hold of the environment; ``None``: nothing.
    """

    name: str
    package: str
    versions: str
    change: Callable[[], None]
    condition: Callable[[], bool] | None = None

    def needed(self) -> bool:
        """Whether what is installed needs it."""
        found = installed_version(self.package)
        return (
            found is not None
            and SpecifierSet(self.versions).contains(found, prereleases=True)
            and (self.condition is None or self.condition())
        )

    def apply(self) -> None:
        """Make the change where it is needed."""
        if self.needed():
            self.change()


@functools.cache
def installed_version(package: str) -> str | None:
    """Version of the distribution behind an import name, without importing it."""
    for name in (*_DISTRIBUTIONS.get(package, ()), package):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace ``owner.name`` by ``make(owner.name)``, unless that was done before."""
    original = getattr(owner, name)
    if not hasattr(original, _MARK):
        replacement = functools.wraps(original)(make(original))
        setattr(replacement, _MARK, True)
        setattr(owner, name, replacement)


def log_patch(text: str) -> None:
    """Log what a patch did."""
    print_log(f'mmswinv2.hosts: {text}', logger='current', level=logging.INFO)


def _allow_logged_scalars() -> None:
    """List the classes in mmengine's checkpoints for `torch.load`, which restores listed ones."""
    from ..checkpoints.files import harmless_globals

    known = torch.serialization.get_safe_globals()
    if missing := [entry for entry in harmless_globals() if entry not in known]:
        torch.serialization.add_safe_globals(missing)
        log_patch("mmengine's HistoryBuffer may be restored from checkpoints")


class _LateIterator:
    """The iterator of a data loader, made when its first batch is asked for."""

    def __init__(self, dataloader: Any) -> None:
        self.dataloader = dataloader
        self.iterator: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self.iterator is None:
            self.iterator = iter(self.dataloader)
        return next(self.iterator)


def _start_workers_late() -> None:
    """Start the workers of a training by iterations after the hooks' `before_run`."""
    from mmengine.runner.loops import _InfiniteDataloaderIterator

    def make(original: Any) -> Any:
        def __init__(self: Any, dataloader: Any) -> None:
            self._dataloader, self._epoch = dataloader, 0
            self._iterator = _LateIterator(dataloader)

        return __init__

    wrap(_InfiniteDataloaderIterator, '__init__', make)


def _lacks_one_bit_optimizers() -> bool:
    return importlib.util.find_spec('deepspeed.runtime.fp16.onebit') is None


def _register_deepspeed_optimizers() -> None:
    """Register DeepSpeed's optimizers without the one-bit ones."""
    from mmengine._strategy import deepspeed as strategy
    from mmengine.registry import OPTIMIZERS

    def make(original: Any) -> Any:
        def register() -> list[str]:
            from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
            from deepspeed.ops.lamb import FusedLamb

            optimizers = (DeepSpeedCPUAdam, FusedAdam, FusedLamb)
            for optimizer in optimizers:
                OPTIMIZERS.register_module(module=optimizer, force=True)
            return [optimizer.__name__ for optimizer in optimizers]

        return register

    wrap(strategy, 'register_deepspeed_optimizers', make)


def _name_unreadable_images() -> None:
    """Let mmcv's image loader, which the hosts' build on, name the file it cannot read."""
    from mmcv.transforms import LoadImageFromFile

    def make(load: Any) -> Any:
        def transform(self: Any, results: dict) -> dict | None:
            try:
                return load(self, results)
            except (OSError, AssertionError, SyntaxError) as error:  # Pillow's on damaged PNGs
                raise UserError(
                    f'cannot read the image {results["img_path"]}: {error}; fetch it again, or '
                    'take it out of the annotation file'
                ) from error

        return transform

    wrap(LoadImageFromFile, 'transform', make)


NAME_UNREADABLE_IMAGES = Patch(
    'the error for an image that cannot be read names its file',
    'mmcv',
    '>=2',
    _name_unreadable_images,
)


class Host:
    """What the package needs to know of a host package, with plain defaults.

    Hosts have no state. Methods that take ``cfg`` take a whole config of this host.

    Args:
        name: import name of a package that has no class of its own here.

    Attributes:
        name: import name, which is the scope of its registries too.
        extra: the extra of our setup.py that installs it.
        early_patches: patches that every use of ours needs, made before the host is imported.
        patches: patches of the host and of what it builds on, which import both.
        input_axes: axes of a sample without channels: 2 of an image, 3 of a video.
        heads_autocast: whether heads run under autocast on a CPU.
        swap_image_size: side of an image to try a model on, ``None`` if backbones of this host
            cannot be swapped.
        draw_option: the option of its visualization hook that switches it on.
        draw_folder_option: that for the folder of pictures.
        draws_at_intervals: whether that hook leaves out most pictures of a test by default.
        dump_metric: type of its metric that writes predictions to a ``.pkl`` file.
        converts_checkpoints: whether tools/test.py takes checkpoints of any format.
    """

    name = 'mmengine'
    extra: str | None = None
    early_patches: tuple[Patch, ...] = ()
    patches: tuple[Patch, ...] = (NAME_UNREADABLE_IMAGES,)
    input_axes = 2
    heads_autocast = False
    swap_image_size: int | None = None
    draw_option = 'draw'
    draw_folder_option = 'test_out_dir'
    draws_at_intervals = True
    dump_metric = 'DumpResults'
    converts_checkpoints = False

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self.name

    def apply(self) -> None:
        """Make the patches; calling it again changes nothing."""
        for patch in self.patches:
            patch.apply()

    def require(self, path: str) -> None:
        """Raise `UserError` if the host of the config at `path` is not installed."""
        if importlib.util.find_spec(self.name) is None:
            hint = f": pip install '.[{self.extra}]' in a checkout" if self.extra else ''
            raise UserError(
                f'{path} needs {self.name} (its default_scope), which is not installed{hint}'
            )

    def use_registries(self) -> None:
        """Let types without a prefix be looked up in this host."""
        init_default_scope(self.name)

    # Scripts that the host brings along

    def find_script(self, name: str) -> Path:
        """Path of a script of the host; the folder ``analysis_tools`` comes before others.

        Raises:
            UserError: if the host has none of that name.
        """
        spec = importlib.util.find_spec(self.name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        found = [path for place in places for path in Path(place, '.mim', 'tools').rglob(name)]
        if not found:
            raise UserError(f'{self.name} brings no {name} along; reinstall it from its wheel')
        return min(found, key=lambda path: (path.parent.name != 'analysis_tools', str(path)))

    def run_script(self, name: str, arguments: Sequence[str]) -> None:
        """Run a script of the host in this process, with its own command line."""
        path = self.find_script(name)
        before, sys.argv = sys.argv, [str(path), *arguments]
        try:
            runpy.run_path(str(path), run_name='__main__')
        finally:
            sys.argv = before

    # Data

    def folder_hint(self, dataset: Any, key: str) -> str:
        """What to add to the error for a missing folder, `key` of the ``data_prefix``."""
        return ''

    def explain_empty(self, dataset: Any, where: str) -> UserError | None:
        """The reason why a data set, given by its config, has no samples, if it is known."""
        return None

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Look whether annotations and model fit together.

        Args:
            dataset: the data set, which may be another host's.
            where: name of its data loader, for the message.
            model: the model, or ``None``.

        Returns:
            whether it is a data set of this host.

        Raises:
            UserError: if they do not fit.
        """
        return False

    def keep_file_names(self, dataset: Any) -> None:
        """Let the samples of a data set keep the names of their files (`FILE_KEYS`)."""

    # Options of tools/test.py

    def show_predictions(self, cfg: Any, show: bool, folder: str | None, wait_time: float) -> None:
        """Set up ``--show`` and ``--show-dir`` in a config.

        Raises:
            UserError: if the config has no visualizer or no visualization hook.
        """
        hook = cfg.get('default_hooks', {}).get('visualization')
        if hook is None or 'visualizer' not in cfg:
            raise UserError(
                "--show and --show-dir need a visualizer and a 'visualization' hook in the config"
            )
        hook[self.draw_option] = True
        if self.draws_at_intervals:
            hook['interval'] = 1
        if show:
            hook.update(show=True, wait_time=wait_time)
        if folder:
            hook[self.draw_folder_option] = folder

    def save_predictions(self, cfg: Any, out: str) -> None:
        """Set up ``--out`` in a config.

        Raises:
            UserError: if `out` is of another kind than the host writes.
        """
        if not out.endswith(('.pkl', '.pickle')):
            raise UserError(f'--out must end in .pkl or .pickle, got {out}')
        dump = dict(type=self.dump_metric, out_file_path=out)
        cfg.test_evaluator = [*as_list(cfg.test_evaluator), dump]

    def format_only(self, cfg: Any, out: str | None) -> None:
        """Set up ``--format-only`` in a config: take out all that needs annotations.

        Raises:
            UserError: if the host has nothing of the kind, or there is no ``--out``.
        """
        raise UserError('--format-only is for segmentors, and needs --out FOLDER')

    def default_tta_model(self, cfg: Any) -> dict[str, Any] | None:
        """Test-time augmentation by mirror images, for configs that name none.

        Returns:
            config of the model around the model, or ``None`` if the host has none.

        Raises:
            UserError: if the predictions of this model cannot be merged.
        """
        return None

    # Samples and networks

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Random inputs and annotations for a training step, as a data loader hands them over.

        Args:
            cfg: the config.
            size: ``(H, W)`` or ``(T, H, W)``.
            count: number of samples.

        Raises:
            UserError: if the host is none of those that are known here.
        """
        raise UserError(f'no inputs are known for the models of {self.name} (default_scope)')

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """A data sample without annotations, for a host whose backbones can be swapped.

        Args:
            model: the model it is for.
            meta: what the transforms note of an image: ``img_shape`` and the like.
        """
        raise NotImplementedError

    def run_head(self, model: Any, outputs: Any) -> None:
        """Run the head where a forward pass with ``mode='tensor'`` stops before it."""

    def swin_v1(self, net: Any) -> dict[str, Any]:
        """The config of a backbone of Swin V1 of the size of a network of `core.SwinV2`."""
        variant = net.variant
        return dict(
            type='SwinTransformer',
            embed_dims=variant.embed_dims,
            window_size=net.window_sizes[0][0],
            depths=list(variant.depths),
            num_heads=list(variant.num_heads),
        )


class MMEngine(Host):
    """mmengine: the host of configs that name no other."""

    early_patches = (
        Patch('mmengine reads its own checkpoints', 'mmengine', '<0.10.8', _allow_logged_scalars),
        Patch(
            'workers of a training by iterations start after hooks have checked their data set',
            'mmengine',
            '<0.10.8',
            _start_workers_late,
        ),
        Patch(
            "mmengine does without DeepSpeed's one-bit optimizers",
            'deepspeed',
            '>=0.13.2',
            _register_deepspeed_optimizers,
            _lacks_one_bit_optimizers,
        ),
    )


def as_list(value: Any) -> list[Any]:
    """A setting that may be one thing or several, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


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
