"""A file beside the model it came from: on pictures, and by the host's own metric."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..progress import track

_NEAR = 1e-4  # scores whose order may differ
TOLERANCE = 1e-3  # of scores, and of the metric; boxes are in pixels and may differ by 100 times it


def differences(task: str, ours: Any, theirs: Any) -> dict[str, float]:
    """The largest differences of two data samples for one picture.

    Each box is compared with the nearest of its class, as of two with almost one score either may
    come first; the last ones of a list are left out where their score is almost that of its end,
    which may have cut off others. ``mask`` and ``label`` are shares of pixels, and ``number`` is
    how many boxes one has more than the other.
    """
    if task == 'segmentation':
        a, b = (sample.pred_sem_seg.data for sample in (ours, theirs))
        return dict(label=(a != b).float().mean().item())
    if task != 'detection':
        a, b = (_scores(sample) for sample in (ours, theirs))
        return dict(score=(a - b).abs().max().item())
    a, b = ours.pred_instances, theirs.pred_instances
    out = dict(number=float(abs(len(a) - len(b))), box=0.0, score=0.0)
    if len(a) and len(b):
        b = b[b.scores > b.scores.min() + _NEAR] if len(b) > 1 else b
        far = (a.bboxes[None] - b.bboxes[:, None]).abs().amax(-1)
        far = far.masked_fill(a.labels[None] != b.labels[:, None], torch.inf)
        a = a[far.argmin(1)]
        out['box'] = _largest(far.amin(1))
        out['score'] = _largest((a.scores - b.scores).abs())
        if 'masks' in a and 'masks' in b:
            own, other = (torch.as_tensor(x.masks).bool() for x in (a, b))
            out['mask'] = _largest((own != other).float().mean((1, 2)))
    return out


def _largest(values: torch.Tensor) -> float:
    return values.max().item() if len(values) else 0.0


def _scores(sample: Any) -> Any:
    return sample.pred_score if hasattr(sample, 'pred_score') else sample.pred_scores.item


def too_large(found: dict[str, float]) -> dict[str, float]:
    """Those of `differences` that are more than rounding."""
    bounds = dict(box=100 * TOLERANCE, number=0.0, mask=10 * TOLERANCE)
    # not a number is more than any bound
    return {key: value for key, value in found.items() if not value <= bounds.get(key, TOLERANCE)}


# what mmseg and mmpretrain give in percent
_PERCENT = re.compile('(aAcc|mIoU|mAcc|mDice|mFscore|mPrecision|mRecall)$|(accuracy|.*-label)/')


def scores_differ(key: str, a: float, b: float) -> bool:
    """Whether two scores of one name differ by more than rounding; both may be no numbers."""
    bound = TOLERANCE * (100 if _PERCENT.match(key) else 1)
    return not (abs(a - b) <= bound or (math.isnan(a) and math.isnan(b)))


def metrics(cfg: Any, models: Iterable[Any]) -> Iterator[dict[str, float]]:
    """What the config's evaluator says of each model on its validation set.

    Args:
        cfg: a config with ``val_dataloader`` and ``val_evaluator``.
        models: with ``test_step``.
    """
    from mmengine.evaluator import Evaluator
    from mmengine.runner import Runner

    loader = Runner.build_dataloader(
        dict(cfg.val_dataloader, num_workers=0, persistent_workers=False), seed=0
    )
    for model in models:
        evaluator = Evaluator(cfg.val_evaluator)
        evaluator.dataset_meta = loader.dataset.metainfo
        for batch in track(loader, 'validation set'):
            with torch.no_grad():
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        yield evaluator.evaluate(len(loader.dataset))
