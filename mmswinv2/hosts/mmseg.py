"""mmseg: segmentors, and label maps that cannot be right.

mmseg looks at no label map: a map of another size than its image trains on the wrong pixels, and
a label beyond the classes ends in a failed assertion on the GPU that names no file.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..errors import UserError
from .mmengine import Host, as_list, patch, replace

_NOT_LABELLED = 255
_WIDE_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'F')  # Pillow's for more than 8 bits


@patch('mmseg', '<1.3')
def draw_on_copies() -> None:
    """Names of classes can be written on images that are views on their memory.

    OpenCV refuses to; mmseg's own browse_dataset.py hands it such images.
    """
    from mmseg.visualization import SegLocalVisualizer

    @replace(SegLocalVisualizer, '_draw_sem_seg')
    def draw_on_copy(
        draw: Any, self: Any, image: np.ndarray, *args: Any, **kwargs: Any
    ) -> np.ndarray:
        return draw(self, np.ascontiguousarray(image), *args, **kwargs)


class MMSeg(Host):
    """mmseg."""

    name = 'mmseg'
    extra = 'seg'
    patches = (*Host.patches, draw_on_copies)
    heads_autocast = True
    swap_image_size = 64
    draw_folder = 'visualizer.save_dir'
    dump_metric = None

    def explain_empty(self, dataset: Any, where: str) -> UserError | None:
        """Look at the list of images, or at the folder and the ending of their names."""
        from mmengine.registry import DATASETS

        prefix = dataset.get('data_prefix')
        folder = prefix.get('img_path') if isinstance(prefix, dict) else None
        if folder is None:
            return None
        root = dataset.get('data_root') or ''
        if split := dataset.get('ann_file'):
            path = Path(root, split)
            if path.read_text().strip():
                return None
            return UserError(f'{where}: {path} names no images')
        with DATASETS.switch_scope_and_registry(self.name) as registry:
            kind = registry.get(dataset['type'])
        if kind is None:  # of another host
            return None
        known = inspect.signature(kind).parameters
        default = known['img_suffix'].default if 'img_suffix' in known else '.jpg'
        suffix = dataset.get('img_suffix', default)
        if any(Path(root, folder).rglob(f'*{suffix}')):
            return None
        return UserError(
            f'{where}: {Path(root, folder)} has no image that ends in {suffix} (img_suffix)'
        )

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Want a label map for every image, check maps while they load, and count classes."""
        if not has_seg_maps(dataset):
            return False
        if guard_seg_maps(dataset):
            require_seg_maps(dataset, where)
        check_heads(model, len(dataset.metainfo.get('classes') or ()), where)
        return True

    def sample_batch(self, cfg: Any, size: Sequence[int], count: int) -> dict[str, Any]:
        """Images with a random class for each pixel."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        num_classes = as_list(cfg.model.decode_head)[-1].num_classes
        meta = dict(img_shape=tuple(size), ori_shape=tuple(size), pad_shape=tuple(size))
        inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(count)]
        labels = [PixelData(data=torch.randint(num_classes, (1, *size))) for _ in inputs]
        samples = [SegDataSample(metainfo=meta, gt_sem_seg=label) for label in labels]
        return dict(inputs=inputs, data_samples=samples)

    def inference_sample(self, model: Any, meta: dict[str, Any]) -> Any:
        """A sample with what is known of the image."""
        from mmseg.structures import SegDataSample

        return SegDataSample(metainfo=meta)


class SegMapGuard:
    """Loads a label map as `load` does, and refuses one that is damaged, misfits or has bad labels.

    Args:
        load: mmseg's ``LoadAnnotations``.
        num_classes: classes of the data set; labels are 0 to ``num_classes - 1``. ``None`` where it
            does not say: labels are not looked at.
        ignore_index: the label that counts as none, beside 255.
    """

    def __init__(
        self, load: Any, num_classes: int | None = None, ignore_index: int = _NOT_LABELLED
    ) -> None:
        self.load, self.num_classes, self.ignore_index = load, num_classes, ignore_index

    def __call__(self, results: dict) -> dict:
        """Add ``gt_seg_map`` (H, W), or raise `UserError` naming the file."""
        path = results['seg_map_path']
        try:
            _want_8_bits(path)
            results = self.load(results)
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f'the label map {path} does not exist') from error
        except (OSError, SyntaxError, ValueError, AttributeError) as error:  # of the decoders
            raise UserError(f'cannot read the label map {path}: {error}; fetch it again') from error
        labels, image = results['gt_seg_map'], results.get('ori_shape')
        if labels.ndim != 2:
            raise UserError(
                f'the label map {path} has the shape {labels.shape}; (height, width) is wanted, '
                'with the class of each pixel in one channel'
            )
        if image is not None and labels.shape != tuple(image[:2]):
            height, width = labels.shape
            raise UserError(
                f'the label map {path} is {width}x{height} pixels, and its image '
                f'{results.get("img_path")} is {image[1]}x{image[0]}'
            )
        self._check_labels(path, labels, results)
        return results

    def _check_labels(self, path: str, labels: np.ndarray, results: dict) -> None:
        if self.num_classes is None:
            return
        none = (_NOT_LABELLED, self.ignore_index)
        bad = np.unique(labels[(labels >= self.num_classes) & ~np.isin(labels, none)])
        if not bad.size:
            return
        # a choice of classes is made out of all that the files have
        last = len(results.get('label_map') or range(self.num_classes)) - 1
        if results.get('reduce_zero_label'):
            told = f'{bad[0] + 1}, which reduce_zero_label makes class {bad[0]}'
            way = f'labels in the file must be 1 to {last + 1}, or 0 where nothing is labelled'
        else:
            told = str(bad[0])
            way = (
                f'labels must be 0 to {last}, or {self.ignore_index} where nothing is labelled; if '
                'they count from 1, as those of ADE20K do, set reduce_zero_label=True in the data '
                'set'
            )
        raise UserError(
            f'the label map {path} has the label {told}, but there are {last + 1} classes; {way}'
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.load!r}, num_classes={self.num_classes})'


def _want_8_bits(path: str) -> None:
    """Raise `UserError` if labels would be cut to 8 bits, as mmseg does without a word."""
    if '://' in path:
        return
    with Image.open(path) as image:
        if image.mode in _WIDE_MODES and (largest := np.array(image).max()) > _NOT_LABELLED:
            raise UserError(
                f'the label map {path} has the label {largest}; mmseg reads labels of 8 bits, up '
                'to 255'
            )


def has_seg_maps(dataset: Any) -> bool:
    """Whether it is one of mmseg's data sets of images and names label maps."""
    return hasattr(dataset, 'reduce_zero_label') and 'seg_map_path' in dataset.data_prefix


def require_seg_maps(dataset: Any, where: str) -> None:
    """Raise `UserError` if images of a data set of mmseg have no label map."""
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    paths = [info['seg_map_path'] for info in infos if 'seg_map_path' in info]
    if dataset.backend_args or (paths and '://' in paths[0]):
        return  # not on this disk
    if missing := [path for path in paths if not Path(path).exists()]:
        raise UserError(
            f'{where}: {len(missing)} of {len(paths)} images have no label map, first of all '
            f'{missing[0]}; a map has the name of its image, and ends in '
            f'{dataset.seg_map_suffix} (seg_map_suffix)'
        )


def guard_seg_maps(dataset: Any) -> list[SegMapGuard]:
    """Let a data set of mmseg load its label maps through `SegMapGuard`; returns the guards.

    The pipeline is changed in place.
    """
    from mmcv.transforms import LoadAnnotations

    classes = dataset.metainfo.get('classes')
    num_classes = None if classes is None else len(classes)
    guards = []
    for steps in _step_lists(dataset.pipeline):
        for i, step in enumerate(steps):
            if isinstance(step, LoadAnnotations):
                steps[i] = SegMapGuard(step, num_classes, dataset.ignore_index)
            if isinstance(steps[i], SegMapGuard):
                guards.append(steps[i])
    return guards


def _step_lists(step: Any) -> Iterator[list]:
    """The lists of transforms in a pipeline, those inside other transforms included."""
    inner: Any = getattr(step, 'subroutines', None) or getattr(step, 'transforms', None)
    if isinstance(inner, list):
        yield inner
        for item in inner:
            yield from _step_lists(item)
    elif inner is not None:  # a transform around a pipeline of its own
        yield from _step_lists(inner)


def check_heads(model: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a head of a segmentor has fewer classes than its data."""
    model = getattr(model, 'module', model)  # inside test-time augmentation
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            known = getattr(head, 'num_classes', num_classes)
            # one channel tells two classes apart, and STDC's tells borders
            binary = getattr(head, 'out_channels', 0) == 1 or hasattr(head, 'boundary_threshold')
            if known < num_classes and not binary:
                raise UserError(
                    f'model.{name} has num_classes={known}, and the data set of {where} has '
                    f'{num_classes} classes; set num_classes={num_classes} in every head'
                )
