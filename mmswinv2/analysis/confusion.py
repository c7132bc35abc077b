"""Compare predictions of classifiers and segmentors with the ground truth by confusion matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..hosts.label_maps import check_map_names
from ..hosts.mmcv import open_image
from .findings import (
    Example,
    Findings,
    Matrix,
    Table,
    confusion,
    distinct,
    innermost_dataset,
    mismatch,
    panel,
    ratio,
    read_image,
)

_CLIP_FRAMES = 3  # frames shown of a video


def analyse_classes(dataset: Any, samples: Sequence[Any], path: str, max_examples: int) -> Findings:
    """Compare scores with the labels of mmpretrain or mmaction2; see `predictions.examine`.

    `path` is the file of the `samples`, for messages.
    """
    scores, truth, labelled = _labelled_scores(dataset, samples, path)
    known, without = scores.shape[1], len(samples) - len(labelled)
    names = distinct(dataset.metainfo.get('classes') or ())
    names += map(str, range(len(names), known))
    further = np.unique(truth[truth >= len(names)])  # labels that neither model nor data set knows
    truth = np.where(truth < len(names), truth, len(names) + np.searchsorted(further, truth))
    names += map(str, further)
    number = len(names)
    scores = np.pad(scores, ((0, 0), (0, number - known)), constant_values=-np.inf)
    found = scores.argmax(1)
    counts = confusion(truth, found, number)
    top, each = min(5, known), np.arange(len(truth))
    own, numbers = scores[each, truth, None], np.arange(number)
    # of equal scores the first is the best, as argmax has it, and NaN is above every number
    ahead = ~(scores <= own) | ((scores == own) & (numbers < truth[:, None]))
    hits = (ahead.sum(1) < top).mean()
    sure = scores[each, found]
    wrong = [i for i in np.argsort(-sure) if found[i] != truth[i]]
    examples = [
        _classifier_example(
            dataset,
            int(labelled[i]),
            f'is {names[truth[i]]} ({scores[i, truth[i]]:.2f}), '
            f'taken for {names[found[i]]} ({sure[i]:.2f})',
        )
        for i in wrong[:max_examples]
    ]
    sums = zip(counts.diagonal(), counts.sum(1), counts.sum(0), strict=True)
    rows: list[list[str | float | None]] = [
        [name, int(there), ratio(right, there), ratio(right, taken)]
        for name, (right, there, taken) in zip(names, sums, strict=True)
    ]
    return Findings(
        f'{len(truth)} samples: {np.trace(counts) / len(truth):.1%} right (top-1)'
        + (f', {hits:.1%} among the best {top}' if known > top else '')
        + (f'; {without} without a label are left out' if without else '')
        + (f'; the model has scores of the first {known} classes alone' if number > known else ''),
        Table(['class', 'samples', 'accuracy (recall)', 'precision'], rows, (2, 3)),
        Matrix(names, names, counts),
        examples,
    )


def _labelled_scores(
    dataset: Any, samples: Sequence[Any], path: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (samples, classes) and labels of all samples with a label, and their indices."""
    if not all(isinstance(s, dict) and {'pred_score', 'gt_label'} <= s.keys() for s in samples):
        raise mismatch(path, 'they are no scores of a classifier')
    if any(np.asarray(sample['gt_label']).size != 1 for sample in samples):
        raise UserError(
            f'{path} has samples with several labels, and the report on a classifier is for one; '
            'leave --predictions out'
        )
    scores = np.stack([np.asarray(sample['pred_score'], float) for sample in samples])
    truth = np.array([int(sample['gt_label']) for sample in samples])
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    labels = [info.get('gt_label', info.get('label')) for info in infos]
    if len(labels) != len(truth):
        raise mismatch(path, f'{len(truth)} samples, and it has {len(labels)}')
    if unlike := sum(int(a) != b for a, b in zip(labels, truth, strict=True)):
        raise mismatch(path, f'{unlike} of its {len(labels)} labels are others')
    labelled = np.flatnonzero(truth >= 0)
    if not labelled.size:
        raise UserError(f'no sample of {path} has a label; leave --predictions out')
    return scores[labelled], truth[labelled], labelled


def _classifier_example(dataset: Any, index: int, words: str) -> Example:
    """A sample of a classifier, as an image or as frames of its video."""
    info = dataset.get_data_info(index)
    file = info.get('img_path') or info.get('filename') or info.get('frame_dir') or ''
    panels = []
    if 'img_path' in info:
        panels.append(panel(read_image(dataset, index), ''))
    elif Path(file).is_file():
        from ..datasets.video_files import open_video

        video = open_video(file)
        numbers = [int(i) for i in np.linspace(0, len(video) - 1, _CLIP_FRAMES)]
        frames = zip(numbers, video.read(numbers), strict=True)
        panels += [panel(frame, f'frame {number}') for number, frame in frames]
    return Example(str(file), words, panels)


def analyse_maps(dataset: Any, folder: Path, ignore: int, max_examples: int) -> Findings:
    """Compare the label maps in a folder with those of mmseg; see `predictions.examine`.

    Pixels with the label `ignore` do not count.
    """
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder of label maps, as --predict writes for a segmentor')
    names = distinct(dataset.metainfo['classes'])
    check_map_names(dataset, 'test_dataloader')
    number = len(names)
    total = np.zeros((number, number + 1), np.int64)  # the last column: none of the classes
    rated = []
    for i in range(len(dataset)):
        truth, found, info = _load_maps(dataset, i, folder)
        found = np.minimum(found, number)  # a head may have more classes than the data set
        counts = confusion(truth[truth != ignore], found[truth != ignore], number + 1)[:number]
        total += counts
        if counts.sum():
            rated.append((np.trace(counts) / counts.sum(), i, info['img_path']))
    if not total.sum():
        raise UserError(f'{folder}: no pixel of the data set has a class')
    rated.sort()
    rows = _pixel_scores(names, total)
    shown = number + bool(total[:, -1].any())
    ious = [row[2] for row in rows if isinstance(row[2], float)]
    head = ['class', 'share of pixels', 'IoU', 'accuracy (recall)', 'precision']
    return Findings(
        f'{len(rated)} pictures: mIoU {np.mean(ious):.1%}, '
        f'{np.trace(total) / total.sum():.1%} of the pixels right',
        Table(head, rows, (1, 2, 3, 4)),
        Matrix(names, [*names, '(other)'][:shown], total[:, :shown]),
        [_segmentor_example(dataset, i, folder, share) for share, i, _ in rated[:max_examples]],
        colors=[
            (n, f'#{r:02x}{g:02x}{b:02x}')
            for n, (r, g, b) in zip(names, palette(dataset.metainfo), strict=True)
        ],
    )


def _pixel_scores(names: Sequence[str], counts: np.ndarray) -> list[list[str | float | None]]:
    """Name, share of pixels, IoU, recall and precision of classes, from their confusion matrix."""
    taken = counts.sum(0)[: len(names)]
    pixels = zip(names, counts.diagonal(), counts.sum(1), taken, strict=True)
    return [
        [
            name,
            ratio(labelled, counts.sum()),
            ratio(correct, labelled + predicted - correct),
            ratio(correct, labelled),
            ratio(correct, predicted),
        ]
        for name, correct, labelled, predicted in pixels
    ]


def _load_maps(dataset: Any, index: int, folder: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    """Label maps of ground truth and prediction, both (H, W), and the data set's info dict."""
    info = dataset.get_data_info(index)
    steps = innermost_dataset(dataset, index).pipeline.transforms
    path = folder / f'{Path(info["img_path"]).stem}.png'
    if not path.is_file():
        raise mismatch(folder, f'it has no {path.name}')
    (load, *_) = [step for step in steps if 'Annotations' in type(step).__name__] or [None]
    if load is None:
        raise UserError('the pipeline of test_dataloader loads no annotations to compare with')
    truth = np.asarray(load(info)['gt_seg_map'])
    with open_image(path) as image:
        found = np.asarray(image).astype(np.int64)
    if info.get('reduce_zero_label'):  # mmseg adds 1 to labels that it writes
        found -= 1
        if (found < 0).any():
            raise mismatch(
                folder,
                f'{path.name} has the label 0, and with reduce_zero_label maps of mmswinv2 test '
                '--out begin at 1 (those of mmswinv2 predict begin at 0)',
            )
    if truth.shape != found.shape:
        raise mismatch(
            folder,
            f'{path.name} has {found.shape[1]}x{found.shape[0]} pixels, and the truth '
            f'{truth.shape[1]}x{truth.shape[0]}',
        )
    return truth, found, info


def _segmentor_example(dataset: Any, index: int, folder: Path, share: float) -> Example:
    """An image with its truth, its prediction and the pixels where they differ."""
    truth, found, info = _load_maps(dataset, index, folder)
    image = read_image(dataset, index)
    panels = [panel(image, 'picture')]
    if truth.shape == image.shape[:2]:
        colors = palette(dataset.metainfo)
        panels += [
            panel(_paint(image, m, colors), w) for m, w in ((truth, 'truth'), (found, 'prediction'))
        ]
        wrong = (truth != found) & (truth < len(colors))
        panels.append(
            panel(
                np.where(wrong[..., None], (214, 39, 40), image // 3 + 150).astype(np.uint8),
                'wrong pixels',
            )
        )
    return Example(info['img_path'], f'{share:.1%} of the pixels right', panels)


def palette(meta: Mapping[str, Any]) -> np.ndarray:
    """Colors of the classes (classes, 3): ``palette`` of a data set, or spread over all hues."""
    count = len(meta['classes'])
    colors = meta.get('palette') or ()
    if len(colors) >= count:
        return np.array(colors[:count], np.uint8)
    import colorsys

    hues = [colorsys.hsv_to_rgb(i * 0.381966 % 1, 0.75, 0.9) for i in range(count)]
    return (255 * np.array(hues)).astype(np.uint8)


def _paint(image: np.ndarray, labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Blend an image with the colors of its labels; pixels without a class are unchanged."""
    known = (labels >= 0) & (labels < len(colors))
    painted = image.astype(np.float32)
    painted[known] = 0.4 * painted[known] + 0.6 * colors[labels[known]]
    return painted.astype(np.uint8)
