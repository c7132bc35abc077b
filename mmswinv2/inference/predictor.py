"""A model with its weights and its test pipeline."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .sources import Item

_TASKS = 'detectors, segmentors, image and video classifiers'
# the scores of every pixel: 1.2 GB for each full HD frame with 150 classes
_LARGE = ('seg_logits', 'pred_score_map')
_KINDS = ('pred_instances', 'pred_sem_seg', 'pred_score', 'pred_scores')


class Predictor:
    """A model with its weights and its test pipeline: built once, predicts many times.

    Args:
        cfg: a config with a ``test_dataloader``.
        checkpoint: file, name or address of weights for the whole model.
        device: such as ``'cuda:1'``; ``None``: a GPU where there is one.
        amp: run under autocast.
        tta: test-time augmentation, which changes `cfg`.

    Attributes:
        cfg: the config.
        model: the model.
        meta: what is known of the classes.
        of_clips: whether the model takes whole videos.

    Raises:
        UserError: if the config, the weights or the device cannot be used.
    """

    def __init__(
        self,
        cfg: Any,
        checkpoint: str,
        device: str | None = None,
        amp: bool = False,
        tta: bool = False,
    ) -> None:
        device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        self.cfg, self._amp = cfg, amp
        self.model, self.meta = load_model(cfg, checkpoint, device, tta)
        self._pipeline, self._numbers = Pipeline(cfg), itertools.count()
        self.of_clips = self._pipeline.of_clips

    def outcomes(self, items: Iterable[Item], batch_size: int = 1) -> Iterator[tuple[Item, Any]]:
        """Each item with what the host found in it, on the CPU.

        Raises:
            UserError: if an item cannot be read, or the model predicts what is not known here.
        """
        rest = iter(items)
        while batch := list(itertools.islice(rest, batch_size)):
            samples = [self._pipeline(item, next(self._numbers)) for item in batch]
            for item, result in zip(batch, self._results(samples), strict=True):
                if not any(hasattr(result, key) for key in _KINDS):
                    raise UserError(
                        f'{type(self.model).__name__} of {self.cfg.filename} predicts nothing that '
                        f'is known here; predict is for {_TASKS}'
                    )
                for key in _LARGE:
                    if hasattr(result, key):
                        delattr(result, key)
                yield item, result.cpu()

    def _results(self, samples: list[Any]) -> Iterator[Any]:
        """Results of samples; neighbours of one size together, as segmentors want them."""
        for _, alike in itertools.groupby(samples, _shapes):
            yield from predict_batch(self.model, list(alike), self._amp)


def load_model(
    cfg: Any, checkpoint: str, device: str, tta: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The model with its weights, and what is known of its classes."""
    from mmengine.registry import DATASETS, MODELS

    from .. import hosts
    from ..analysis.confusion import palette
    from ..checkpoints import fetch, load_but
    from ..engine.settings import set_tta

    if cfg.get('model') is None or cfg.get('test_dataloader') is None:
        raise UserError(f'{cfg.filename} has no model and test_dataloader: predict is for {_TASKS}')
    host = hosts.of(cfg)
    host.apply()
    hosts.use_registries(cfg)
    path = fetch(checkpoint)
    if tta:
        set_tta(cfg)
    model = MODELS.build(cfg.model)
    advice = (
        f'Predict with the config that it was trained with, which {cfg.filename} is not; the work '
        'dir of a training has a copy'
    )
    report = load_but(model.module if tta else model, path, advice=advice)
    try:
        model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'the device {device!r} cannot be used: {error}') from error
    dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
    with DATASETS.switch_scope_and_registry(host.name) as datasets:
        kind = datasets.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    meta = _meta(model, getattr(kind, 'METAINFO', {}), report.meta, dataset.get('metainfo'))
    if count := getattr(model.module if tta else model, 'num_classes', 0):
        # a segmentor, whose maps are not drawn without names and colours
        meta['classes'] = meta.get('classes') or tuple(map(str, range(count)))
        meta['palette'] = palette(meta).tolist()
    return model.eval(), meta


def _meta(model: Any, of_type: Any, saved: Mapping, own: Any) -> dict[str, Any]:
    """What is known of the classes of a model.

    Args:
        model: the model.
        of_type: what the type of the data set says, which may be of other classes.
        saved: the ``meta`` of the weights; mmdet 2 and mmseg 0 kept names as ``CLASSES``.
        own: ``metainfo`` of the data set, in which a text is a file with a line for each class.

    Raises:
        UserError: if a class has one number in the weights and another in the data set.
    """
    from ..engine.hooks import check_places

    meta: dict[str, Any] = {}
    numbers = (getattr(module, 'num_classes', None) for module in model.modules())
    counts = {number for number in numbers if isinstance(number, int)}
    if not counts or len(of_type.get('classes') or ()) in counts:
        meta.update(of_type)
    kept = {key: saved[key] for key in ('CLASSES', 'PALETTE') if saved.get(key)}
    named: list[tuple[str, Any]] = []
    sources = ('the checkpoint', saved.get('dataset_meta') or kept), ('test_dataloader', own)
    for where, known in sources:
        if not isinstance(known, Mapping):  # of several data sets
            continue
        known = {key.lower(): value for key, value in known.items()}
        if isinstance(text := known.get('classes'), str):
            known['classes'] = _lines(text) if where == 'test_dataloader' else [text]
        if 'classes' in known:
            meta.pop('palette', None)  # which is that of other classes
            named.append((where, known['classes'] or ()))
        meta.update(known)
    check_places(named)
    return meta


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
    """The sizes of what a sample feeds to the model, be it several views."""
    inputs = sample['inputs']
    return [view.shape for view in (inputs if isinstance(inputs, list) else [inputs])]


class Pipeline:
    """The test pipeline of a config, for files and for frames, which are loaded already.

    Attributes:
        of_clips: whether samples are whole videos.
    """

    def __init__(self, cfg: Any) -> None:
        from mmengine.dataset import Compose

        from .. import hosts

        dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
        load, *steps = hosts.without_annotations(dataset.pipeline)
        self.of_clips = hosts.of(cfg).input_axes == 3
        self._kind = np.float32 if load.get('to_float32') else np.uint8
        self._of_files = Compose([load, *steps])
        self._of_frames = Compose([self._take, *steps])

    def _take(self, results: dict) -> dict:
        """Stands for the loading of an image: B, G, R, as mmcv loads it."""
        image = results.pop('frame')[:, :, ::-1]
        results['img'] = np.ascontiguousarray(image, self._kind)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __call__(self, item: Item, number: int) -> Any:
        """A sample for the model."""
        try:
            if self.of_clips:
                sample = dict(filename=item.path, label=-1, start_index=0, modality='RGB')
                return self._of_files(sample)
            sample = dict(img_path=item.path, img_id=number)
            if item.image is not None:
                return self._of_frames(dict(sample, frame=item.image))
            return self._of_files(sample)
        except FileNotFoundError as error:
            raise UserError(f'{item.path} does not exist') from error


def predict_batch(model: Any, samples: list[Any], amp: bool) -> list[Any]:
    """The data samples of a host for samples of a `Pipeline`."""
    from mmengine.dataset import pseudo_collate

    device = next(model.parameters()).device.type
    kind = torch.bfloat16
    if device == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        kind = torch.float16
    with torch.no_grad(), torch.autocast(device, kind, enabled=amp):
        return model.test_step(pseudo_collate(samples))
