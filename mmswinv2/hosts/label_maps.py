"""Checks of label maps: decoders read some files with wrong labels, or not at all.

The hosts use whatever a decoder returns. The rules apply to HTC's semantic maps, too.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..files import refuse_shared
from .mmcv import check_size, open_image

NOT_LABELLED = 255
_ORIENTATION, _SUBFILE_TYPE, _SAMPLE_FORMAT = 274, 254, 339  # tags of EXIF and TIFF
# Pillow's decoders that change values: of 2 or 4 bits, of 0 for white, of PGM with another range
_SCALED = re.compile(r"'(L;[24]|[1L];\w*I)|ppm.* (?!255\))\d+\)\)\]$")


# Rules for files: a function that is true if Pillow's undecoded image breaks it, and the message.
_FILE_RULES: tuple[tuple[Callable[[Any], Any], str], ...] = (
    (
        lambda file: file.format not in ('PNG', 'TIFF', 'BMP', 'GIF', 'PPM'),
        'is a {file.format} file; labels are safe in PNG: make it anew from its source',
    ),
    (
        lambda file: re.search('jpeg|webp', str(file.info.get('compression'))),
        'is compressed with loss, which changes labels; make it anew from its source, as PNG',
    ),
    (
        lambda file: any(_is_map(file, i) for i in range(1, getattr(file, 'n_frames', 1))),
        'holds several images; save the one that is the map as PNG',
    ),
    (
        lambda file: _SCALED.search(str(file.tile[:1])),
        'has samples that decoders scale or invert; save it with 8 bits a pixel and 0 for black',
    ),
    (
        lambda file: (
            ('exif' in file.info or file.format == 'TIFF')
            and file.getexif().get(_ORIENTATION, 1) != 1
        ),
        'is to be turned (EXIF orientation), which not every decoder does; save it upright',
    ),
)
# Rules for labels, in order: a function that finds the labels that break it, and the message.
_Rules = tuple[tuple[Callable[[np.ndarray], Any], str], ...]
_SHAPE_RULES: _Rules = (
    (lambda a: a.ndim != 2, 'has the shape {shape}; (height, width) is wanted, in one channel'),
)
_VALUE_RULES: _Rules = (
    *_SHAPE_RULES,
    (
        lambda a: a.dtype.kind == 'f' and a != np.trunc(a),  # true for NaN
        'has the label {first}; labels are whole numbers',
    ),
    (lambda a: a < 0, 'has the label {first:.0f}; labels are whole numbers from 0'),
    (lambda a: a > NOT_LABELLED, 'has the label {first:.0f}; a label has 8 bits, up to 255'),
)


def _is_map(file: Any, page: int) -> bool:
    """Whether a page of a file is not just an overview or the mask of another one."""
    file.seek(page)
    return file.format != 'TIFF' or not file.tag_v2.get(_SUBFILE_TYPE, 0) & 0b101


def check_form(path: str, file: Any, kind: str = 'label map') -> None:
    """Raise `UserError` if decoders may give other values than those in an image of Pillow."""
    for broken, words in _FILE_RULES:
        if broken(file):
            raise UserError(f'the {kind} {path} {words.format(file=file)}')


def check_file(path: str, content: bytes, backend: str) -> tuple[int, int]:
    """Raise `UserError` if a host would silently read other labels than those in the file.

    Returns (height, width) of the map.
    """
    from mmcv import imfrombytes

    file: Any
    with open_image(io.BytesIO(content)) as file:
        check_form(path, file)
        file.seek(0)
        signed = file.format == 'TIFF' and file.tag_v2.get(_SAMPLE_FORMAT) == (2,)
        exact = ('L', '1', 'P') if backend == 'pillow' else ('L',)
        if file.mode in exact and not signed:
            return file.height, file.width  # decoded without changes
        labels = np.array(file)
    if signed and labels.dtype == np.uint8:
        labels = labels.view(np.int8)
    _check_rules(path, labels, _VALUE_RULES)
    if backend != 'pillow':
        loaded = np.asarray(imfrombytes(content, flag='unchanged', backend=backend))
        if not np.array_equal(loaded.squeeze(), labels.squeeze()):
            raise UserError(
                f'the label map {path} has other labels, or none, for imdecode_backend={backend!r} '
                'of LoadAnnotations, which may make colors of a palette; leave that setting out'
            )
    height, width = labels.shape
    return height, width


def check_shape(path: str, labels: np.ndarray) -> None:
    """Raise `UserError` if a label map is not (H, W)."""
    _check_rules(path, labels, _SHAPE_RULES)


def _check_rules(path: str, labels: np.ndarray, rules: _Rules) -> None:
    """Raise `UserError` if some rule is broken, naming the first label that breaks it."""
    for broken, words in rules:
        if np.any(found := broken(labels)):
            said = words.format(shape=labels.shape, first=labels[found].flat[0])
            raise UserError(f'the label map {path} {said}')


def check_map_size(results: dict, shape: Sequence[int]) -> None:
    """Raise `UserError` if the label map of a sample is not of the size of its image.

    `shape` is (H, W, ...) of the image as it is loaded.
    """
    height, width = results['gt_seg_map'].shape
    size = dict(img_path=results.get('img_path'), height=height, width=width)
    check_size(size, shape, f'the label map {results["seg_map_path"]}: ')


def check_map_names(dataset: Any, where: str) -> None:
    """Raise `UserError` if two images have the same name, after which label maps are named."""
    paths = [dataset.get_data_info(i).get('img_path', '') for i in range(len(dataset))]
    refuse_shared(where, ((path, f'{Path(path).stem}.png') for path in paths))


def count_areas(
    pred_label: torch.Tensor, label: torch.Tensor, num_classes: int, ignore_index: int | None
) -> tuple[torch.Tensor, ...]:
    """Pixels of each class, int64: intersection, union, prediction, label.

    The hosts count in float32, which ends at 2**24, in each thread. Labels that are no class count
    nowhere, as with them.
    """
    pred, label = pred_label.flatten().long(), label.flatten().long()
    if ignore_index is not None:
        labelled = label != ignore_index
        pred, label = pred[labelled], label[labelled]
    common, found, wanted = (
        torch.bincount(values[(values >= 0) & (values < num_classes)], minlength=num_classes).cpu()
        for values in (pred[pred == label], pred, label)
    )
    return common, found + wanted - common, found, wanted


def f_scores(common: Any, found: Any, wanted: Any, beta: float) -> dict[str, np.ndarray]:
    """F-scores and precision of classes from pixels: common, predicted, labelled.

    NaN for a class without any. In the hosts the precision of a class that is never predicted, and
    the F-score of one that is never right, are NaN too, which leaves them out of the mean.
    """
    precision = torch.where((found == 0) & (wanted > 0), 0, common / found)
    f_score = (1 + beta**2) * common / (beta**2 * wanted + found)
    return {'Fscore': f_score.cpu().numpy(), 'Precision': precision.cpu().numpy()}
