"""What configs say, and the data sets and pipelines that are built from them."""

import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner.runner import _SlicedDataset

from ..errors import UserError


def as_list(value: Any) -> list[Any]:
    """A setting that may be one thing or several, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def join_path(path: str, key: Any) -> str:
    """The dotted path of an entry of the node at `path`."""
    return f'{path}.{key}' if path else str(key)


def walk(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """All values inside dicts and lists, `node` itself included, each with its dotted path."""
    yield path, node
    listed = enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, value in list(node.items() if isinstance(node, Mapping) else listed):
        yield from walk(value, join_path(path, key))


def dicts_in(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """All dicts inside `node`, itself included, each with its dotted path."""
    return (found for found in walk(node, path) if isinstance(found[1], dict))


def type_name(node: Any) -> str:
    """The last part of the ``type`` of a config node, which may be a name or a class."""
    kind = node.get('type')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def package_of(part: Any) -> str:
    """The package that defines the class of a part of a run, such as ``'mmdet'``."""
    return type(part).__module__.partition('.')[0]


def dtype_name(wrapper: Any) -> str:
    """The name of the dtype of an AmpOptimWrapper, which its config gives as a name or a type."""
    return str(wrapper.get('dtype') or 'float16').removeprefix('torch.')


def own_backbone(model_cfg: Any) -> Any:
    """The backbone of a model's config if it is of this package, by name or class, or ``None``."""
    backbone = model_cfg.get('backbone') or {}
    kind = backbone.get('type')
    bases = kind.__mro__ if isinstance(kind, type) else ()
    names = [str(kind), *(base.__module__ for base in bases)]
    return backbone if any(name.startswith('mmswinv2.') for name in names) else None


def inits_of(node: Any) -> list[Any]:
    """The entries of a module's ``init_cfg``, which is one dict or a list of them."""
    return as_list(node.get('init_cfg') or [])


def without_weights(part: Any) -> Any:
    """A copy of a part's config that loads no weights."""
    part = copy.deepcopy(part)
    for _, node in dicts_in(part):
        if pretrained := node.get('pretrained'):  # a file or URL; True for timm's models
            node['pretrained'] = False if pretrained is True else None
        weights = ('Pretrained', 'PretrainedInit')
        kept = [init for init in inits_of(node) if type_name(init) not in weights]
        if len(kept) < len(inits_of(node)):
            node.pop('init_cfg')  # an empty list would not be the type's default
            if kept:
                node['init_cfg'] = kept
    return part


def built(module: Any) -> dict[str, Any]:
    """The config of a part of a model that is built already."""
    return dict(type=lambda module: module, module=module)


def init_weights(model: Any) -> None:
    """Initialize the weights of a model, without mmengine's list of all of them in the log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def is_tracker(model_cfg: Any) -> bool:
    """Whether a model, given by its config, follows objects through videos."""
    return 'Track' in str((model_cfg.get('data_preprocessor') or {}).get('type'))


def wrapped_datasets(dataset: Any) -> list[Any]:
    """The data sets, or the configs of them, directly inside a wrapper; none inside another."""
    if isinstance(dataset, _SlicedDataset):  # by num_batch_per_epoch
        return [dataset._dataset]
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    return as_list(inner) if inner else []


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets, or the configs of them, inside wrappers such as ConcatDataset."""
    if not (inner := wrapped_datasets(dataset)):
        yield dataset
    for item in inner:
        yield from inner_datasets(item)


def training_pipeline(cfg: Any) -> Sequence[Any]:
    """Configs of the transforms of the training set, or of the first of several sets.

    Raises `UserError` if the config has none.
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    if pipeline := _steps_of(dataset):
        return pipeline
    raise UserError('this config has no train_dataloader with a pipeline to take inputs from')


def _steps_of(dataset: Any) -> list[Any]:
    """The pipeline of a data set; in a wrapper, as MultiImageMixDataset, that of both."""
    inner = filter(None, map(_steps_of, wrapped_datasets(dataset)))
    return [*next(inner, ()), *(dataset.get('pipeline') or ())]


def testing_pipeline(cfg: Any) -> Sequence[Any]:
    """Configs of the transforms of the test set, or of the first of several; empty without one."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    return next(inner_datasets(dataset)).get('pipeline') or ()


def step_lists(step: Any) -> Iterator[list]:
    """The lists of transforms in a pipeline, those inside other transforms included."""
    inner: Any = getattr(step, 'subroutines', None) or getattr(step, 'transforms', None)
    if isinstance(inner, list):
        yield inner
        for item in inner:
            yield from step_lists(item)
    elif inner is not None:  # a transform around a pipeline of its own
        yield from step_lists(inner)


def steps_in(pipeline: Any) -> list[Any]:
    """The transforms of a pipeline, those inside other transforms included."""
    return [step for steps in step_lists(pipeline) for step in steps]


def check_numbers(path: str, own: Sequence[str], given: Sequence[str]) -> None:
    """Raise `UserError` if a class has another number in a file than in ``metainfo``."""
    if (i := first_renumbered(own, given)) is not None:
        raise UserError(
            f'{path}: labels are numbers of the classes in the file, where {given[i]!r} is number '
            f'{own.index(given[i])}, and metainfo of the data set has it as number {i}; write '
            f'classes as there, {list(own)!r:.200}, or leave them out'
        )


def first_renumbered(own: Sequence[str], given: Sequence[str]) -> int | None:
    """The first number at which `given` has a class that has another number in `own`."""
    known = set(own)
    others = (i for i, c in enumerate(given) if c in known and list(own[i : i + 1]) != [c])
    return next(others, None)


def reads_elsewhere(dataset: Any) -> bool:
    """Whether a data set, given by its config or not, reads files of another place than this disk.

    mmengine's ``backend_args`` of it or of a step of its pipeline names the place, such as an LMDB.
    """
    if isinstance(dataset, Mapping):
        return any(node.get('backend_args') for _, node in dicts_in(dataset))
    parts = (dataset, *steps_in(getattr(dataset, 'pipeline', None)))
    return any(getattr(part, 'backend_args', None) for part in parts)


def loads_as_stored(pipeline: Sequence[Any]) -> bool:
    """Whether a pipeline, or its config, ignores EXIF orientation, by which mmcv rotates images."""
    for step in pipeline:
        kind = step.get('color_type') if isinstance(step, dict) else vars(step).get('color_type')
        if kind is not None:
            return kind == 'unchanged' or kind.endswith('ignore_orientation')
    return False


def without_annotations(steps: Sequence[Any]) -> list[Any]:
    """A pipeline, or the transforms of TestTimeAug, without the loading of annotations."""
    kept: list[Any] = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            if alternatives := without_annotations(step):
                kept.append(alternatives)
        elif not re.match('Load.*Annotation', type_name(step)):  # also LoadPanopticAnnotations
            if 'transforms' in step:
                step = {**step, 'transforms': without_annotations(step['transforms'])}
            kept.append(step)
    return kept
