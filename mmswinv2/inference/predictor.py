"""A predictor: a model with its weights and its test pipeline."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..errors import UserError
from .sources import OTHER_IMAGES, RAW_PHOTOS, Item

_TASKS = 'detectors, segmentors, image and video classifiers'
# scores of every pixel take 1.2 GB for a full HD frame with 150 classes, so they are dropped
_LARGE = ('seg_logits', 'pred_score_map')
_KINDS = ('pred_instances', 'pred_sem_seg', 'pred_score')


class Predictor:
    """A model with its weights and its test pipeline: built once, predicts many times.

    Args:
        cfg: a config with a ``test_dataloader``: a path, or mmengine's `Config`, which is copied.
        checkpoint: file, name or address of weights for the whole model.
        device: such as ``'cuda:1'``; ``None``: a GPU if one is available.
        amp: run under autocast.
        tta: use test-time augmentation.

    Attributes:
        cfg: the config, with the changes of test-time augmentation.
        model: the model.
        meta: names and colors of the classes, as far as known.
        of_clips: whether the model takes whole videos.

    Raises:
        UserError: if the config, the weights or the device cannot be used.
    """

    def __init__(
        self,
        cfg: Any,
        checkpoint: str | Path,
        device: str | None = None,
        amp: bool = False,
        tta: bool = False,
    ) -> None:
        from .. import hosts
        from ..engine.configs import config_with_options

        self.cfg = cfg = config_with_options(cfg, None)
        self._amp = amp
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        with hosts.building(cfg):
            self.model, self.meta = load_model(cfg, checkpoint, device, tta)
            self._pipeline = Pipeline(cfg, self.meta.get('classes'))
            self._numbers = itertools.count()
        self.of_clips = self._pipeline.of_clips

    def outcomes(
        self, items: Iterable[Item], batch_size: int = 1, keep_errors: bool = False
    ) -> Iterator[tuple[Item, Any]]:
        """Each item with the host's data sample of its predictions, on the CPU.

        Args:
            items: the items.
            batch_size: number of items per forward pass.
            keep_errors: whether an item that cannot be read has its `UserError` in place of a
                data sample; else it is raised, after the results of the items before.

        Raises:
            UserError: if an item cannot be read, the kind of prediction is not supported, or
                `batch_size` is no number from 1.
        """
        check_count('batch_size', batch_size)
        rest = iter(items)
        while batch := list(itertools.islice(rest, batch_size)):
            prepared = list(map(self._prepare, batch))
            results = self._results([it for it in prepared if not isinstance(it, UserError)])
            for item, sample in zip(batch, prepared, strict=True):
                if isinstance(sample, UserError):
                    if not keep_errors:
                        raise sample
                    yield item, sample
                    continue
                result = next(results)
                if not any(hasattr(result, key) for key in _KINDS):
                    raise UserError(
                        f'{type(self.model).__name__} of {name_of(self.cfg)} predicts nothing that '
                        f'is known here; predict is for {_TASKS}'
                    )
                for key in _LARGE:
                    if hasattr(result, key):
                        delattr(result, key)
                yield item, result.cpu()

    def _prepare(self, item: Item) -> Any:
        """A sample of an item for the model, or the error if it cannot be read."""
        try:
            return self._pipeline(item, next(self._numbers))
        except UserError as error:
            return error

    def _results(self, samples: list[Any]) -> Iterator[Any]:
        """Results of samples; a batch holds neighbors of one size only, as segmentors require."""
        for _, alike in itertools.groupby(samples, _shapes):
            yield from predict_batch(self.model, list(alike), self._amp)


def name_of(cfg: Any) -> str:
    """The file of a config, for messages."""
    return cfg.filename or 'the config'


def check_count(name: str, number: Any) -> None:
    """Raise `UserError` for what is no whole number from 1."""
    if not (isinstance(number, Integral) and int(number) >= 1):
        raise UserError(f'{name} must be at least 1, got {number!r}')


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
    from mmengine.registry import DATASETS, MODELS

    from .. import hosts
    from ..checkpoints import fetch, load_whole_model
    from ..engine.settings import set_tta

    if cfg.get('model') is None or not hosts.testing_pipeline(cfg):
        raise UserError(f'{name_of(cfg)} has no model and test pipeline: predict is for {_TASKS}')
    if hosts.is_tracker(cfg.model):
        raise UserError(f'{name_of(cfg)} follows objects through videos; predict is for {_TASKS}')
    dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
    of_text = 'language_model' in cfg.model  # detects the classes that a text names
    if of_text and not dataset.get('return_classes'):
        raise UserError(
            f'{name_of(cfg)} finds what a text names: set return_classes=True in '
            'test_dataloader.dataset, and metainfo.classes there to the names'
        )
    host = hosts.of(cfg)
    host.apply()
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
    try:
        model.to(place := torch.device(device))
        if place.type == 'meta':
            raise RuntimeError('its tensors have no values')
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f'the device {device!r} cannot be used ({error}); name cpu or cuda:0'
        ) from error
    with DATASETS.switch_scope_and_registry(host.name) as datasets:
        kind = datasets.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    of_type, own = getattr(kind, 'METAINFO', {}), dataset.get('metainfo')
    saved, own = ({}, {**of_type, **(own or {})}) if of_text else (report.meta, own)
    return model.eval(), _meta(inner, of_type, saved, own)


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


def _needs_loader(path: str) -> UserError:
    return UserError(
        f'cannot read the image {path}: {Path(path).suffix.lower()} files need a loader of their '
        'own in the pipeline; save it as JPEG'
    )


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


def _shapes(sample: Any) -> list[Any]:
    """The shapes of the inputs of a sample; with test-time augmentation it has several views."""
    from .. import hosts

    if 'inputs' not in sample:
        raise hosts.not_packed('test_dataloader')
    inputs = sample['inputs']
    return [view.shape for view in (inputs if isinstance(inputs, list) else [inputs])]


class Pipeline:
    """The test pipeline of a config, for files and for frames that are loaded already.

    Args:
        cfg: the config.
        classes: names of the classes, which detectors such as Grounding DINO look for.

    Attributes:
        of_clips: whether samples are whole videos.
    """

    def __init__(self, cfg: Any, classes: Sequence[str] | None = None) -> None:
        from mmengine.dataset import Compose

        from .. import hosts

        dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
        load, *steps = hosts.without_annotations(hosts.testing_pipeline(cfg))
        self.of_clips = hosts.of(cfg).input_axes == 3
        self._kind = np.float32 if load.get('to_float32') else np.uint8
        self._grey = load.get('color_type') == 'grayscale'
        # mmcv takes the small preview in a raw photo for the photo
        self._takes_previews = hosts.type_name(load) == 'LoadImageFromFile'
        self._text: dict[str, Any] = {}
        if dataset.get('return_classes'):  # as mmdet's data sets add them to a sample
            self._text = dict(text=tuple(classes or ()), custom_entities=True)
            self._text['caption_prompt'] = dataset.get('caption_prompt')
        self._of_files = Compose([load, *steps])
        hosts.of(cfg).check_views(self._of_files, 'the test pipeline')
        self._of_frames = Compose([self._take, *steps])

    def _take(self, results: dict) -> dict:
        """Take the place of image loading for a frame: converts it to BGR, as mmcv loads images."""
        image = results.pop('frame')[:, :, ::-1]
        if self._grey:
            image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)
        results['img'] = np.ascontiguousarray(image, self._kind)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __call__(self, item: Item, number: int) -> Any:
        """A sample for the model."""
        try:
            if self.of_clips:
                sample = dict(filename=item.path, label=-1, start_index=0, modality='RGB')
                return self._of_files(sample)
            sample = dict(self._text, img_path=item.path, img_id=number)
            if item.image is not None:
                return self._of_frames(dict(sample, frame=item.image))
            ending = Path(item.path).suffix.lower()
            if self._takes_previews and ending in RAW_PHOTOS:
                raise _needs_loader(item.path)
            try:
                return self._of_files(sample)
            except UserError as error:
                unknown = re.search('UnidentifiedImageError|failed to load image', str(error))
                if unknown and ending in OTHER_IMAGES:  # no damage, and no other step
                    raise _needs_loader(item.path) from error
                raise
        except FileNotFoundError as error:
            raise UserError(f'{item.path} does not exist') from error
        except (KeyError, UserError) as error:
            missing = error.__cause__ if isinstance(error, UserError) else error
            if not isinstance(missing, KeyError):
                raise
            raise UserError(
                f'a step of the pipeline of test_dataloader looks for {missing} in vain; if it is '
                'what only a data set gives to a sample, take the step out '
                f'(MMSWINV2_TRACEBACK=1 shows which). predict is for {_TASKS}'
            ) from error


def predict_batch(model: Any, samples: list[Any], amp: bool) -> list[Any]:
    """Predict on samples of a `Pipeline`; returns the host's data samples."""
    from mmengine.dataset import pseudo_collate

    device = next(model.parameters()).device.type
    kind = torch.bfloat16
    if device == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        kind = torch.float16
    with torch.no_grad(), torch.autocast(device, kind, enabled=amp):
        return model.test_step(pseudo_collate(samples))
