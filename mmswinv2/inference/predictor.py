"""A predictor: a model with its weights and its test pipeline."""

import itertools
from collections.abc import Iterable, Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from ..checks import want
from ..errors import UserError
from .model import TASKS, load_model, name_of
from .pipeline import Pipeline
from .sources import Item

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
                if not isinstance(sample, UserError):
                    sample = self._reduced(next(results))
                elif not keep_errors:
                    raise sample
                yield item, sample

    def _prepare(self, item: Item) -> Any:
        """A sample of an item for the model, or the error if it cannot be read."""
        try:
            return self._pipeline(item, next(self._numbers))
        except UserError as error:
            return error

    def _reduced(self, result: Any) -> Any:
        """A data sample on the CPU, without its large parts; refuses other kinds of predictions."""
        if not any(hasattr(result, key) for key in _KINDS):
            raise UserError(
                f'{type(self.model).__name__} of {name_of(self.cfg)} predicts nothing that '
                f'is known here; predict is for {TASKS}'
            )
        for key in _LARGE:
            if hasattr(result, key):
                delattr(result, key)
        return result.cpu()

    def _results(self, samples: list[Any]) -> Iterator[Any]:
        """Results of samples; a batch holds neighbors of one size only, as segmentors require."""
        for _, alike in itertools.groupby(samples, _shapes):
            yield from predict_batch(self.model, list(alike), self._amp)


def check_count(name: str, number: Any) -> None:
    """Raise `UserError` for what is no whole number from 1."""
    want(name, number, 'at least 1', isinstance(number, Integral) and int(number) >= 1)


def _shapes(sample: Any) -> list[Any]:
    """The shapes of the inputs of a sample; with test-time augmentation it has several views."""
    from .. import hosts

    if 'inputs' not in sample:
        raise hosts.not_packed('test_dataloader')
    inputs = sample['inputs']
    return [view.shape for view in (inputs if isinstance(inputs, list) else [inputs])]


def predict_batch(model: Any, samples: list[Any], amp: bool) -> list[Any]:
    """Predict on samples of a `Pipeline`; returns the host's data samples."""
    from mmengine.dataset import pseudo_collate

    device = next(model.parameters()).device.type
    kind = torch.bfloat16
    if device == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        kind = torch.float16
    with torch.no_grad(), torch.autocast(device, kind, enabled=amp):
        return model.test_step(pseudo_collate(samples))
