"""The host packages: mmengine, mmdet, mmseg, mmaction2, mmpretrain.

Each host has a module, and some have others for patches and annotations. All other code gets the
host of a config from `of`. Importing this package imports no host but mmengine, and applies the
patches that every use needs (`apply`).
"""

import codecs
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmengine.runner.runner import _SlicedDataset

from ..errors import UserError
from .host import (
    Host,
    as_list,
    dicts_in,
    dtype_name,
    inner_datasets,
    loads_as_stored,
    own_backbone,
    testing_pipeline,
    training_pipeline,
    type_name,
    without_annotations,
)
from .mmaction import MMAction
from .mmdet import MMDet
from .mmdet_patches import outline_masks
from .mmengine import MMEngine, find_config
from .mmpretrain import MMPretrain
from .mmseg import MMSeg
from .patching import Patch
from .pipelines import check_normalized, check_order, not_packed
from .strides import watch_strides
from .workers import patch_workers

__all__ = [
    'HOSTS',
    'PATCHES',
    'Host',
    'apply',
    'as_list',
    'building',
    'check_data',
    'check_dataset',
    'check_evaluator',
    'dicts_in',
    'dtype_name',
    'find_config',
    'inner_datasets',
    'input_size',
    'loads_as_stored',
    'not_packed',
    'of',
    'own_backbone',
    'sample_batch',
    'testing_pipeline',
    'training_pipeline',
    'type_in',
    'type_name',
    'use_registries',
    'watch_strides',
    'without_annotations',
]

# in the order in which they are asked whether a data set is theirs
HOSTS: tuple[Host, ...] = (MMEngine(), MMSeg(), MMAction(), MMPretrain(), MMDet())
# every patch there is; `outline_masks` is applied by mmswinv2.InstaBoost
PATCHES: tuple[Patch, ...] = (
    *dict.fromkeys(p for host in HOSTS for p in (*host.early_patches, *host.patches)),
    outline_masks,
)
_BUILDING = threading.RLock()


def of(cfg: Any) -> Host:
    """The host of a config, by its ``default_scope``; a plain `Host` for an unknown scope.

    Without a scope, the types of the model and the data sets decide, by their prefix or class.
    """
    scope = cfg.get('default_scope') or MMEngine.name
    if scope == MMEngine.name:
        scope = next(_origins(cfg), scope)
    return next((host for host in HOSTS if host.name == scope), Host(scope))


def use_registries(cfg: Any) -> None:
    """Set the default scope of a config, so that types without a prefix are found as in a run."""
    init_default_scope(cfg.get('default_scope') or MMEngine.name)


@contextmanager
def building(cfg: Any) -> Iterator[None]:
    """Use the registries of a config, while other threads wait to do so with theirs.

    mmengine has one default scope and one cache of visualizers for all threads.
    """
    with _BUILDING:
        use_registries(cfg)
        yield


def type_in(cfg: Any, name: str) -> str:
    """A type of the host of a config, with a prefix if the default scope is not that host."""
    host = of(cfg)
    own = '.' in name or cfg.get('default_scope') == host.name
    return name if own else f'{host.name}.{name}'


def _origins(cfg: Any) -> Iterator[str]:
    """Names of the hosts that define the types of the model and of the data sets."""
    loaders = [cfg.get(f'{kind}_dataloader') for kind in ('train', 'val', 'test')]
    sets = [loader.get('dataset') for loader in loaders if isinstance(loader, Mapping)]
    inner = (d for dataset in sets if isinstance(dataset, Mapping) for d in inner_datasets(dataset))
    names = {host.name for host in HOSTS} - {MMEngine.name}
    for node in (cfg.get('model'), *inner):
        kind = node.get('type') if isinstance(node, Mapping) else None
        origin = str(getattr(kind, '__module__', kind)).partition('.')[0]
        if origin in names:
            yield origin


def apply() -> None:
    """Apply the patches that every use needs (`Host.early_patches`); repeated calls do nothing.

    Called when this package is imported, and so at the first look-up of one of our types.
    """
    for host in HOSTS:
        for patch in host.early_patches:
            patch.apply()


def check_data(cfg: Any, kinds: Sequence[str]) -> None:
    """Check that the files that the data loaders of a config name exist.

    `kinds` are those of ``'train'``, ``'val'``, ``'test'`` that will be used.

    Raises:
        UserError: if a folder or file is missing; it names the path and its setting.
    """
    for where, dataset in _dataset_configs(cfg, kinds):
        _check_files(dataset, where, of(cfg))


def check_dataset(dataset: Any, where: str, model: Any = None) -> None:
    """Check, by its host's rules, that a data set, or each one inside a wrapper, fits the model.

    `where` is the name of its data loader; without a `model`, heads are not checked.

    Raises:
        UserError: if annotations lack a class, or label maps or the heads do not fit.
    """
    if isinstance(dataset, _SlicedDataset) and len(dataset) > (size := len(dataset._dataset)):
        raise UserError(
            f'{where}.num_batch_per_epoch asks for {len(dataset)} samples, and the data set '
            f'has {size}; lower it, or leave it out'
        )
    for inner in inner_datasets(dataset):
        if where == 'train_dataloader':
            check_order(inner, where)
        check_normalized(inner, where, model)
        for host in HOSTS:
            if host.check_dataset(inner, where, model):
                break


def check_evaluator(evaluator: Any, dataset: Any, where: str, model: Any = None) -> None:
    """Raise `UserError` if a metric of an evaluator cannot score a model on a data set."""
    metrics = getattr(evaluator, 'metrics', ())
    scored_sets: Sequence[Any] = [dataset] * len(metrics)
    if hasattr(evaluator, 'dataset_prefixes'):  # mmdet's MultiDatasetsEvaluator
        scored_sets, prefixes = getattr(dataset, 'datasets', ()), evaluator.dataset_prefixes
        if not len(metrics) == len(prefixes) == len(scored_sets):
            raise UserError(
                f'{where}: {type(evaluator).__name__} takes one metric and one of dataset_prefixes '
                f'for each data set of a ConcatDataset, and there are {len(metrics)} metrics, '
                f'{len(prefixes)} prefixes and {len(scored_sets)} data sets'
            )
    for metric, scored in zip(metrics, scored_sets, strict=True):
        for host in HOSTS:
            host.check_metric(metric, scored, where, model)


def input_size(cfg: Any, given: Sequence[int] | None = None) -> tuple[int, ...]:
    """The size that a config trains at, or `given`: ``(H, W)``, or ``(T, H, W)`` for video.

    This is the largest of several scales, padded as the model pads it.

    Raises:
        UserError: if there is no model, the pipeline names no size, or `given` has another number
            of axes.
    """
    if cfg.get('model') is None:
        raise UserError(f'{cfg.filename} has no model; name the config of a training')
    if given is not None:
        axes = of(cfg).input_axes
        if len(given) != axes or min(given) < 1:
            raise UserError(f'--shape must be {axes} sizes for this config, got {list(given)}')
        return tuple(given)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    for augment in preprocessor.get('batch_augments') or ():
        if 'size' in augment:
            return tuple(augment['size'])
    if preprocessor.get('size'):
        return tuple(preprocessor['size'])
    pipeline = training_pipeline(cfg)
    frames = [of(cfg).frames(cfg, t) for t in pipeline if 'clip_len' in t]
    height, width = _last_size(pipeline)
    if not frames:
        divisor = preprocessor.get('pad_size_divisor', 1)
        height, width = (-(-n // divisor) * divisor for n in (height, width))
    return (*frames, height, width)


def sample_batch(cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
    """`Host.sample_batch` with as many channels as the backbone takes."""
    batch = of(cfg).sample_batch(cfg, size, count)
    channels = cfg.model.backbone.get('in_channels', 3)
    if channels != 3:
        order = torch.arange(channels) % 3
        images = [image.index_select(-1 - len(size), order) for image in batch['inputs']]
        batch['inputs'] = images if isinstance(batch['inputs'], list) else torch.stack(images)
    return batch


def _last_size(pipeline: Sequence[Any]) -> tuple[int, int]:
    for transform in reversed(pipeline):
        for branch in transform.get('transforms', ()):
            if isinstance(branch, (list, tuple)):
                return max((_last_size(b) for b in transform['transforms']), key=_area)
        if 'crop_size' in transform and 'Crop' in type_name(transform):
            size = transform['crop_size']
            return (size, size) if isinstance(size, int) else tuple(size)
        scale = transform.get('scale')
        if isinstance(scale, int):  # the side of a square, in mmpretrain
            return scale, scale
        several = scale or transform.get('scales') or ()
        several = [pair for pair in several if isinstance(pair, (list, tuple))]
        scale = max(several, key=_area, default=scale)
        if scale and min(scale) > 0:
            return min(scale), max(scale)  # a landscape image
    raise UserError('the pipeline takes images at the sizes of their files; give --shape')


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]


def _dataset_configs(cfg: Any, kinds: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The data sets of the loaders of some kinds, each with its loader's name."""
    for kind in kinds:
        loader = cfg.get(f'{kind}_dataloader') or {}
        for dataset in inner_datasets(loader.get('dataset') or {}):
            yield f'{kind}_dataloader', dataset


def _check_files(dataset: Any, where: str, host: Host) -> None:
    root, part = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    prefix = dataset.get('data_prefix') or {}
    folders = prefix if isinstance(prefix, dict) else {'data_prefix': prefix}
    if any('://' in text for text in (root, part, *filter(None, folders.values()))) or dataset.get(
        'backend_args'
    ):
        return  # not on this disk
    places = (root, *(Path(root, name) for name in folders.values() if name))
    if not all(Path(place).is_dir() for place in places if place) and host.downloads(dataset):
        return
    if root and not Path(root).is_dir():
        raise UserError(
            f'{where}: the folder {root} does not exist; put the data there, or name another with '
            f'--cfg-options data_root=... (set in every data loader and evaluator)'
        )
    for key, name in folders.items():
        if name and not (folder := Path(root, name)).is_dir():
            hint = host.folder_hint(dataset, key)
            raise UserError(f'{where}: the folder {folder} ({key}) does not exist{hint}')
    host.check_prefix(dataset, where)
    if not part:
        return
    path = Path(root, part)
    if not path.exists():
        raise UserError(f'{where}: the annotation file {path} does not exist')
    if not path.is_file() and not path.is_dir():  # reading a pipe would wait for ever
        raise UserError(
            f'{where}: the annotation file {path} is a pipe or a device; write its content to a '
            'file and name that'
        )
    if path.suffix == '.json' and path.is_file() and not _has_ends_of_json(path):
        raise UserError(f'{where}: {path} is not JSON, or cut short; fetch or export it again')
    if path.is_file():
        host.check_list(path, dataset, where)


_MARKS = codecs.BOM_UTF8 + codecs.BOM_UTF16 + b'\xfe\xff\0 \t\r\n'


def _has_ends_of_json(path: Path) -> bool:
    """Whether a file begins and ends like JSON of several entries, or like lines of JSON.

    Not all readers of the hosts name a file that is none, and to parse it here takes too long.
    """
    with path.open('rb') as file:
        first = file.read(4096).lstrip(_MARKS)[:1]
        file.seek(max(0, path.stat().st_size - 4096))
        last = file.read().rstrip(_MARKS)[-1:]
    return (first, last) in ((b'{', b'}'), (b'[', b']'))


apply()
patch_workers(every=False)
