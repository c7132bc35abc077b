"""Compare files of predictions with the test set of a config."""

import contextlib
import io
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS, TRANSFORMS

from .. import hosts
from ..checkpoints import read_pickle
from ..errors import UserError
from .confusion import analyse_classes, analyse_maps
from .detections import analyse
from .findings import Findings, mismatch
from .untrusted import check_types, only_registered_types


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
        with only_registered_types(work_dir, DATASETS, TRANSFORMS):
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
