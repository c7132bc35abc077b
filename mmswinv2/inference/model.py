"""A model of a config with its weights, and the names and colors of its classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

TASKS = 'detectors, segmentors, image and video classifiers'


def name_of(cfg: Any) -> str:
    """The file of a config, for messages."""
    return cfg.filename or 'the config'


def load_model(
    cfg: Any, checkpoint: str | Path, device: str, tta: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Build a model with its weights.

    Args:
        cfg: the config, which `tta` changes.
        checkpoint: file, name or address of weights for the whole model.
        device: such as ``'cuda:1'``.
        tta: use test-time augmentation.

    Returns:
        the model, for evaluation, and the metadata of its classes.

    Raises:
        UserError: if the config, the weights or the device cannot be used.
    """
    from mmengine.registry import MODELS

    from .. import hosts
    from ..checkpoints import fetch, load_whole_model
    from ..engine.settings import set_tta

    dataset = _check_task(cfg)
    of_text = _is_of_text(cfg)  # of the model itself, before `set_tta` wraps it
    host = hosts.of(cfg)
    hosts.use_registries(cfg)
    path = fetch(checkpoint)
    if tta:
        set_tta(cfg)
    model = MODELS.build(cfg.model)
    advice = (
        f'Predict with the config that it was trained with, which {name_of(cfg)} is not; the work '
        'dir of a training has a copy'
    )
    inner = model.module if tta else model
    report = load_whole_model(inner, path, advice=advice)
    _move(model, device)
    of_type, own = getattr(host.dataset_class(dataset), 'METAINFO', {}), dataset.get('metainfo')
    saved, own = ({}, {**of_type, **(own or {})}) if of_text else (report.meta, own)
    return model.eval(), _meta(inner, of_type, saved, own)


def _is_of_text(cfg: Any) -> bool:
    """Whether the model of a config detects the classes that a text names."""
    return 'language_model' in cfg.model


def _check_task(cfg: Any) -> Any:
    """The config of the test set; raises `UserError` if predict does not support the model."""
    from .. import hosts

    if cfg.get('model') is None or not hosts.testing_pipeline(cfg):
        raise UserError(f'{name_of(cfg)} has no model and test pipeline: predict is for {TASKS}')
    if hosts.is_tracker(cfg.model):
        raise UserError(f'{name_of(cfg)} follows objects through videos; predict is for {TASKS}')
    dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
    if _is_of_text(cfg) and not dataset.get('return_classes'):
        raise UserError(
            f'{name_of(cfg)} finds what a text names: set return_classes=True in '
            'test_dataloader.dataset, and metainfo.classes there to the names'
        )
    return dataset


def _move(model: Any, device: str) -> None:
    """Move a model to a device; raises `UserError` if it cannot be used."""
    try:
        model.to(place := torch.device(device))
        if place.type == 'meta':
            raise RuntimeError('its tensors have no values')
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f'the device {device!r} cannot be used ({error}); name cpu or cuda:0'
        ) from error


def _meta(model: Any, of_type: Any, saved: Mapping, own: Any) -> dict[str, Any]:
    """Metadata of the classes of a model, such as names and colors.

    Args:
        model: the model.
        of_type: ``METAINFO`` of the data set's type, which may describe other classes.
        saved: the ``meta`` of the weights; mmdet 2 and mmseg 0 kept names as ``CLASSES``.
        own: ``metainfo`` of the data set; a string as ``classes`` is a file with one name a line.

    Raises:
        UserError: if a class has one number in the weights and another in the data set.
    """
    from ..engine.dataset_checks import check_class_numbers

    meta: dict[str, Any] = {}
    counts = {
        module.num_classes
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int)
        and not name.endswith('data_preprocessor')  # which mixes labels in training
    }
    if not counts or len(of_type.get('classes') or ()) in counts:
        meta.update(of_type)
    kept = {key: saved[key] for key in ('CLASSES', 'PALETTE') if saved.get(key)}
    named: list[tuple[str, Any]] = []
    sources = ('the checkpoint', saved.get('dataset_meta') or kept), ('test_dataloader', own)
    for where, known in sources:
        if not isinstance(known, Mapping):  # a list of metadata for several data sets
            continue
        known = {key.lower(): value for key, value in known.items()}
        if isinstance(text := known.get('classes'), str):
            known['classes'] = _lines(text) if where == 'test_dataloader' else [text]
        if 'classes' in known:
            meta.pop('palette', None)  # its colors belong to other classes
            named.append((where, known['classes'] or ()))
        meta.update(known)
    check_class_numbers(named)
    if type(model).__name__ == 'RPN':  # its proposals are of no class; all have the number 0
        meta.update(classes=['object'], palette=None)
    _fit_visualizers(meta, getattr(model, 'num_classes', 0))
    return meta


def _fit_visualizers(meta: dict[str, Any], num_classes: int) -> None:
    """Give names and colors of classes in `meta` the form that the hosts' visualizers take.

    `num_classes` is that of a segmentor, 0 for other models, whose classes may have no names.
    """
    from ..analysis.confusion import palette

    names = list(map(str, meta.get('classes') or ()))  # visualizers draw text alone
    if num_classes:  # the visualizer leaves out classes without names and colors
        meta['classes'] = [*names, *map(str, range(len(names), num_classes))]
        meta['palette'] = palette(meta).tolist()
    elif names:
        meta['classes'] = names
        colors = meta.get('palette')
        # mmdet's takes one color for all classes as a tuple, but no lists, and none too few
        if isinstance(colors, (list, tuple)) and not all(isinstance(c, int) for c in colors):
            known = len(colors) >= len(names) and not any(isinstance(c, str) for c in colors)
            meta['palette'] = list(map(tuple, colors)) if known else None


def _lines(file: str) -> list[str]:
    """The lines of a file, as mmengine's data sets read names of classes."""
    from mmengine.fileio import list_from_file

    try:
        return list_from_file(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f'metainfo.classes={file!r} of test_dataloader is no file with a line for each class '
            f'({error})'
        ) from error
