"""Compare an exported file with its model, on pictures and by the host's own metric."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..progress import track

_NEAR = 1e-4  # boxes whose scores differ by less than this may swap places
TOLERANCE = 1e-3  # of scores and metrics; boxes, in pixels, may differ by 100 times as much


def differences(task: str, ours: Any, theirs: Any) -> dict[str, float]:
    """The largest differences between two data samples for one picture, by name.

    Each box of `theirs` is compared with the nearest box of its class in `ours`, because boxes with
    almost equal scores may swap places; of equal boxes, with that of the nearest score. Boxes that
    score almost as low as the last one are left out: `ours` may have cut them off. ``mask`` and
    ``label`` are fractions of pixels, and ``number`` is the difference in the number of boxes.
    """
    if task == 'segmentation':
        a, b = (sample.pred_sem_seg.data for sample in (ours, theirs))
        return dict(label=(a != b).float().mean().item())
    if task != 'detection':
        return dict(score=(ours.pred_score - theirs.pred_score).abs().max().item())
    a, b = ours.pred_instances, theirs.pred_instances
    out = dict(number=float(abs(len(a) - len(b))), box=0.0, score=0.0)
    if len(a) and len(b):
        b = b[b.scores > b.scores.min() + _NEAR] if len(b) > 1 else b
        far = (a.bboxes[None] - b.bboxes[:, None]).abs().amax(-1)
        far = far.masked_fill(a.labels[None] != b.labels[:, None], torch.inf)
        unlike = (a.scores[None] - b.scores[:, None]).abs()
        nearest = (far + 100 * unlike).argmin(1)  # as the tolerances of boxes and scores
        a = a[nearest]
        out['box'] = _largest(far.gather(1, nearest[:, None]))
        out['score'] = _largest((a.scores - b.scores).abs())
        if 'masks' in a and 'masks' in b:
            own, other = (torch.as_tensor(x.masks).bool() for x in (a, b))
            out['mask'] = _largest((own != other).float().mean((1, 2)))
    return out


def _largest(values: torch.Tensor) -> float:
    return values.max().item() if len(values) else 0.0


def too_large(found: dict[str, float]) -> dict[str, float]:
    """The entries of `differences` that exceed rounding errors."""
    bounds = dict(box=100 * TOLERANCE, number=0.0, mask=10 * TOLERANCE)
    # `not <=` also reports NaN
    return {key: value for key, value in found.items() if not value <= bounds.get(key, TOLERANCE)}


# metrics that mmseg and mmpretrain report in percent
_PERCENT = re.compile('(aAcc|mIoU|mAcc|mDice|mFscore|mPrecision|mRecall)$|(accuracy|.*-label)/')


def scores_differ(key: str, a: float, b: float) -> bool:
    """Whether two values of a metric differ by more than rounding; two NaN are equal."""
    bound = TOLERANCE * (100 if _PERCENT.match(key) else 1)
    return not (abs(a - b) <= bound or (math.isnan(a) and math.isnan(b)))


def metrics(cfg: Any, models: Iterable[Any]) -> Iterator[dict[str, float]]:
    """Metrics of each model (with ``test_step``) by a config's evaluator on its validation set."""
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
