"""Checks of the data of a run: its files, its data sets, and the metrics that score them."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.runner.runner import _SlicedDataset

from ..errors import UserError
from .configs import inner_datasets, reads_elsewhere
from .host import Host
from .lookup import HOSTS, of
from .pipelines import check_normalized, check_order


def check_data(cfg: Any, kinds: Sequence[str]) -> None:
    """Check that the files that the data loaders of a config name exist.

    `kinds` are those of ``'train'``, ``'val'``, ``'test'`` that will be used.

    Raises:
        UserError: if a folder or file is missing; it names the path and its setting.
    """
    for where in (f'{kind}_dataloader' for kind in kinds):
        for dataset in inner_datasets((cfg.get(where) or {}).get('dataset') or {}):
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
    datasets = list(inner_datasets(dataset))
    model = getattr(model, 'module', model)  # inside test-time augmentation
    for inner in datasets:
        if where == 'train_dataloader':
            check_order(inner, where)
        check_normalized(inner, where, model)
        for host in HOSTS:
            if host.check_dataset(inner, where, model):
                break
    for host in HOSTS:
        host.check_joined(datasets, where)


def check_evaluator(evaluator: Any, dataset: Any, where: str, model: Any = None) -> None:
    """Raise `UserError` if a metric of an evaluator cannot score a model on a data set."""
    metrics = getattr(evaluator, 'metrics', ())
    model = getattr(model, 'module', model)  # inside test-time augmentation
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


def _check_files(dataset: Any, where: str, host: Host) -> None:
    """Raise `UserError` if a folder or file of a data set, given by its config, is missing."""
    root, part = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    prefix = dataset.get('data_prefix') or {}
    folders = prefix if isinstance(prefix, dict) else {'data_prefix': prefix}
    if any('://' in text for text in (root, part, *filter(None, folders.values()))) or dataset.get(
        'backend_args'
    ):
        return  # not on this disk
    if reads_elsewhere(dataset):
        folders = {}
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


# what may stand before or after JSON: byte order marks, padding of UTF-16, white space
_AROUND_JSON = codecs.BOM_UTF8 + codecs.BOM_UTF16 + b'\xfe\xff\0 \t\r\n'


def _has_ends_of_json(path: Path) -> bool:
    """Whether a file begins and ends like JSON of several entries, or like lines of JSON.

    Not all readers of the hosts name a file that is none, and to parse it here takes too long.
    """
    with path.open('rb') as file:
        first = file.read(4096).lstrip(_AROUND_JSON)[:1]
        file.seek(max(0, path.stat().st_size - 4096))
        last = file.read().rstrip(_AROUND_JSON)[-1:]
    return (first, last) in ((b'{', b'}'), (b'[', b']'))
