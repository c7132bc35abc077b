"""Compare files of predictions with the test set of a config."""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS, registry

from .. import hosts
from ..checkpoints import read_pickle
from ..errors import UserError
from ..explanations import registered_types
from ..hosts.patching import PACKAGES
from .confusion import analyse_classes, analyse_maps
from .detections import analyse
from .findings import Findings, mismatch

_OF_TORCH = ('torch.nn.', 'torch.optim.', 'torch.utils.data.')  # where configs may take types from


def examine(cfg: Any, path: Path, score: float, max_examples: int, work_dir: Path) -> Findings:
    """Compare predictions from ``tools/test.py --out`` with the annotations of ``test_dataloader``.

    Args:
        cfg: the config of the test.
        path: a pickle, or the folder of label maps of a segmentor.
        score: for detectors, lowest score of a box in confusion matrix, counts and pictures.
        max_examples: how many of the worst pictures to keep.
        work_dir: where the config is from; nothing in it is run.

    Raises:
        UserError: if the file cannot be read, or is of another data set or task, or if a label map
            is missing or of another size.
    """
    if not path.exists():
        raise UserError(f'the predictions {path} do not exist; write them with --predict')
    if cfg.get('test_dataloader') is None:
        raise UserError(f'the config {cfg.filename} has no test_dataloader to compare {path} with')
    host = hosts.of(cfg)
    maps = host.dump_metric is None
    if path.is_dir() and not maps:
        raise UserError(f'{path} is a folder; the predictions of a {host.kind_of_model} are a .pkl')
    samples = [] if maps else read_pickle(path)
    are_samples = isinstance(samples, list) and all(isinstance(s, dict) for s in samples)
    if not maps and not (samples and are_samples):
        raise mismatch(path, 'they are no list of samples, or an empty one')
    if samples and 'pred_panoptic_seg' in samples[0] and _is_panoptic(cfg):
        raise UserError(
            f'{path} holds panoptic predictions, of which a report shows nothing; it tells the '
            'scores of the validation without --predict and --predictions'
        )
    check_types(cfg, cfg.test_dataloader, 'test_dataloader')
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        with only_registered_types(work_dir):
            hosts.check_data(cfg, ('test',))
            hosts.use_registries(cfg)
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
        if maps:
            metric = hosts.as_list(cfg.get('test_evaluator') or {})[0]
            return analyse_maps(dataset, path, metric.get('ignore_index', 255), max_examples)
        if 'pred_score' in samples[0]:
            return analyse_classes(dataset, samples, str(path), max_examples)
        return analyse(dataset, samples, str(path), score, max_examples)


def _is_panoptic(cfg: Any) -> bool:
    """Whether the annotations of the test set are panoptic, and not boxes of objects."""
    datasets = hosts.inner_datasets(cfg.test_dataloader.dataset)
    return any('Panoptic' in hosts.type_name(dataset) for dataset in datasets)


@contextlib.contextmanager
def only_registered_types(folder: Path) -> Iterator[None]:
    """Restrict types to those that are registered, and imports to hosts and packages in use.

    Otherwise mmengine resolves ``type='os.system'`` to that function, and imports what stands
    before the last dot of a type, or as a scope, from Python's path, so that the config of an
    untrusted work dir, `folder`, could run code.
    """
    find, load = registry.get_object_from_string, registry.import_module

    def find_type(name: str) -> Any:
        module, _, attribute = name.rpartition('.')
        found = getattr(sys.modules.get(module), attribute, None)
        of_torch = name.startswith(_OF_TORCH) and isinstance(found, type)
        return found if of_torch or any(found is kind for kind in registered_types()) else None

    def import_allowed(name: str) -> Any:
        top = name.partition('.')[0]
        if top not in PACKAGES and (top not in sys.modules or stands_in(folder, name)):
            raise ImportError(f'{name} is neither of a host nor of a package in use')
        return load(name)

    registry.get_object_from_string, registry.import_module = find_type, import_allowed
    try:
        yield
    finally:
        registry.get_object_from_string, registry.import_module = find, load


def stands_in(folder: Path, module: str) -> bool:
    """Whether a module is in a folder, found without importing the packages that it is in."""
    top, *rest = module.split('.')
    spec = find_spec(top) if all((top, *rest)) else None
    places = [Path(p, *rest) for p in (spec and spec.submodule_search_locations) or ()]
    places += [Path(spec.origin)] if spec and spec.origin else []
    resolved = (place.resolve() for place in places)
    return any(folder.resolve() in (place, *place.parents) for place in resolved)


def check_types(cfg: Any, node: Any, where: str) -> None:
    """Raise `UserError` for types in a part of `cfg` that are of no package which is allowed."""
    imports = hosts.as_list((cfg.get('custom_imports') or {}).get('imports') or [])
    packages = {*PACKAGES, *(str(name).partition('.')[0] for name in imports)}
    types = (part.get('type') for _, part in hosts.dicts_in(node))
    for name in (kind for kind in types if isinstance(kind, str)):
        known = name.partition('.')[0] in packages or name.startswith(_OF_TORCH)
        # mmcv evaluates the type of a non-maximum suppression
        if not re.fullmatch(r'[\w./-]*', name) or ('.' in name and not known):
            raise UserError(
                f'type={name!r} of {where} in {cfg.filename} is of no package that custom_imports '
                f'names; {", ".join(PACKAGES)} are known without'
            )
