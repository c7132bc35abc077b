"""mmseg: segmentors, and checks of their label maps.

mmseg checks no label map: a map of another size than its image trains on the wrong pixels, labels
that do not fit into 8 bits become other labels, and a label beyond the classes ends in a failed
assertion on the GPU that names no file.
"""

import inspect
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import fileio
from mmengine.registry import DATASETS
from torch import nn
from torch.nn.functional import one_hot as one_hot_labels

from ..errors import UserError
from ..files import walk
from ..log import warn
from .host import Host, as_list, inner_datasets, step_lists, steps_in
from .label_maps import NOT_LABELLED, check_file, check_shape, named
from .patching import patch, replace

# where the functions are defined that decode a file of labels by `mmcv.imfrombytes`
_READERS = ('mmseg.datasets.transforms.loading', 'mmcv.transforms.loading')
# losses, or their cls_criterion, that use softmax and have no attribute use_sigmoid
_SOFTMAX_LOSSES = ('OhemCrossEntropy', 'TverskyLoss', 'lovasz_softmax', 'HuasdorffDisstanceLoss')
_FEW_CLASSES = 10  # with more classes, some may be too rare for a warning


@patch('mmseg', '<1.3')
def draw_on_copies() -> None:
    """Names of classes can be written on images that are views on their memory.

    OpenCV refuses such views, and mmseg's own browse_dataset.py creates them.
    """
    from mmseg.visualization import SegLocalVisualizer

    @replace(SegLocalVisualizer, '_draw_sem_seg')
    def draw_on_copy(
        draw: Any, self: Any, image: np.ndarray, *args: Any, **kwargs: Any
    ) -> np.ndarray:
        return draw(self, np.ascontiguousarray(image), *args, **kwargs)


@patch('mmseg', '>=1')
def read_volumes_without_code() -> None:
    """Reading a volume from a pickle runs no code from it."""
    import mmseg.utils.io

    from ..checkpoints.pickles import PlainPickle

    mmseg.utils.io.pickle = PlainPickle


@patch('mmseg', '>=1.2')
def mend_losses() -> None:
    """Losses take one channel, ignored pixels beside weights of classes, and tensors on a CPU."""
    from mmseg.models.losses import cross_entropy_loss, dice_loss, focal_loss

    @replace(dice_loss, '_expand_onehot_labels_dice')
    def one_hot(expand: Any, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # mmseg takes the first class for the only channel, which stands for the second
        return (target == 1)[:, None].long() if pred.shape[1] == 1 else expand(pred, target)

    @replace(cross_entropy_loss, 'cross_entropy')
    def cross_entropy(original: Any, pred: Any, label: Any, *args: Any, **options: Any) -> Any:
        weights, mean = options.get('class_weight'), options.get('reduction', 'mean') == 'mean'
        if weights is not None and options.get('avg_factor') is None and mean:
            labelled = label[label != options.get('ignore_index', -100)]
            options['avg_factor'] = weights[labelled].sum()
        return original(pred, label, *args, **options)

    @replace(focal_loss.FocalLoss, 'forward')
    def forward(
        original: Any, self: Any, pred: Any, target: Any, weight: Any = None, *args: Any,
        **options: Any,
    ) -> Any:  # fmt: skip
        if not pred.is_cuda and target.ndim < pred.ndim:  # mmseg keeps a column of zeros alone
            labelled = target != options.get('ignore_index', NOT_LABELLED)
            target = one_hot_labels(torch.where(labelled, target, 0), max(pred.shape[1], 2))
            target = target.movedim(-1, 1)[:, -pred.shape[1] :]
            mask = labelled.reshape(-1, 1)
            weight = mask if weight is None else mask * weight.reshape(len(mask), -1)
        return original(self, pred, target, weight, *args, **options)


@patch('mmseg', '>=1')
def keep_files() -> None:
    """CityscapesMetric deletes no folder that has held files before."""
    from mmseg.evaluation.metrics.citys_metric import CityscapesMetric

    @replace(CityscapesMetric, '__init__')
    def init(original: Any, self: Any, output_dir: str, *args: Any, **kwargs: Any) -> None:
        held = Path(output_dir).is_dir() and any(Path(output_dir).iterdir())
        original(self, output_dir, *args, **kwargs)
        if held and not self.keep_results:
            self.keep_results = True  # else it deletes the folder in the end
            warn(f'{output_dir} (output_dir of CityscapesMetric) holds files, so it is kept')


class MMSeg(Host):
    """mmseg."""

    name = 'mmseg'
    extra = 'seg'
    patches = (
        *Host.patches, draw_on_copies, read_volumes_without_code, mend_losses, keep_files,
    )  # fmt: skip
    heads_autocast = True
    swap_image_size = 64
    draw_folder = 'visualizer.save_dir'
    dump_metric = None
    visualizer = 'SegLocalVisualizer'
    kind_of_model = 'Segmentor'
    lists = {'.txt': (r'\S.*', 'the name of an image without its suffix')}  # noqa: RUF012
    scores = (
        ('IoUMetric', '', 'mIoU', 'mAcc', 'aAcc', 'mDice', 'mFscore', 'mPrecision', 'mRecall'),
    )
    analysis_tools = ('confusion_matrix', 'analyze_logs', 'benchmark')

    def _kind(self, dataset: Any) -> Any:
        kind = dataset.get('type')
        with DATASETS.switch_scope_and_registry(self.name) as registry:
            return registry.get(kind) if isinstance(kind, str) else kind

    def _is_read_by_mmseg(self, dataset: Any) -> bool:
        from mmseg.datasets import BaseSegDataset

        reads = getattr(self._kind(dataset), 'load_data_list', None)
        return reads is BaseSegDataset.load_data_list

    def check_list(self, path: Path, dataset: Any, where: str) -> None:
        """Require the name of an image on every line, unless a class reads its list itself."""
        if self._is_read_by_mmseg(dataset):
            super().check_list(path, dataset, where)

    def check_prefix(self, dataset: Any, where: str) -> None:
        """Require a folder of images under the key that mmseg looks up."""
        prefix = dataset.get('data_prefix') or dict(img_path='')
        if 'img_path' not in prefix and self._is_read_by_mmseg(dataset):
            raise UserError(
                f'{where}: data_prefix={dict(prefix) if isinstance(prefix, dict) else prefix!r}, '
                'and mmseg wants dict(img_path=..., seg_map_path=...), the folders of the images '
                'and of the label maps'
            )

    def explain_empty(self, dataset: Any, where: str) -> UserError | None:
        """Check the list of images, or the folder and the suffix of the image files."""
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
        if (kind := self._kind(dataset)) is None:  # of another host
            return None
        known = inspect.signature(kind).parameters
        default = known['img_suffix'].default if 'img_suffix' in known else '.jpg'
        suffix = dataset.get('img_suffix', default)
        if any(path.name.endswith(suffix) for path in walk(Path(root, folder))):
            return None
        return UserError(
            f'{where}: {Path(root, folder)} has no image that ends in {suffix} (img_suffix)'
        )

    def check_dataset(self, dataset: Any, where: str, model: Any) -> bool:
        """Require a label map for every image, check maps while they load, and count classes."""
        if not has_seg_maps(dataset):
            refuse_missing_prefix(dataset, where)
            return False
        if guards := guard_seg_maps(dataset):
            require_seg_maps(dataset, where)
            warn_of_absent_classes(dataset, guards[0], where)
        check_heads(model, len(dataset.metainfo.get('classes') or ()), where)
        if where == 'train_dataloader':
            own = [step for step in steps_in(dataset.pipeline) if not _is_known(step)]
            for name, head in heads_of(model):
                check_ignored(head, name, dataset, where)
                label = getattr(head, 'ignore_index', None)
                # steps of the user's own may give them another label
                if label not in (None, NOT_LABELLED) and not own:
                    for guard in guards:
                        guard.ignores = f'{name} ignores {label} alone'
        return True

    def check_metric(self, metric: Any, dataset: Any, where: str) -> None:
        """Refuse to score ignored pixels, or to write the maps of two pictures into one file."""
        scored = () if getattr(metric, 'format_only', False) else inner_datasets(dataset)
        name = f'{type(metric).__name__} of {where}'
        loader = where.replace('evaluator', 'dataloader')
        for inner in scored:
            if not hasattr(inner, 'reduce_zero_label') or not hasattr(metric, 'ignore_index'):
                continue  # of another host, or no metric of label maps
            steps = steps_in(inner.pipeline)
            if type(metric).__name__ == 'IoUMetric' and all(map(_is_known, steps)):
                if not any(map(_loads_maps, steps)):
                    raise UserError(
                        f'{name} compares predictions with label maps, and the pipeline of '
                        f'{loader} loads none: put LoadAnnotations into it, or, for predictions '
                        'alone, set format_only=True and output_dir in the evaluator'
                    )
                check_scored_size(inner, name, loader)
            if has_seg_maps(inner):
                check_ignored(metric, name, inner, loader)
                if metric.ignore_index not in (None, NOT_LABELLED):
                    warn(
                        f'{name} ignores {metric.ignore_index} alone: what is predicted where '
                        f'label maps have {NOT_LABELLED} counts as wrong'
                    )
        if getattr(metric, 'output_dir', None) is not None and hasattr(dataset, 'get_data_info'):
            check_map_names(dataset, where)

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
        """A sample with the metadata of the image."""
        from mmseg.structures import SegDataSample

        return SegDataSample(metainfo=meta)


class SegMapGuard:
    """Loads a label map as `load` does, and refuses one that is damaged, misfits or has bad labels.

    Files are checked only if mmseg's own method decodes them, as a subclass may read other formats.
    They are then read twice, so that every file backend of mmengine works.

    Args:
        load: mmseg's ``LoadAnnotations``.
        num_classes: classes of the data set; labels are 0 to ``num_classes - 1``. ``None`` if
            unknown: labels are not checked.
        ignore_index: the label of ignored pixels, besides 255.
    """

    def __init__(
        self, load: Any, num_classes: int | None = None, ignore_index: int = NOT_LABELLED
    ) -> None:
        self.load, self.num_classes, self.ignore_index = load, num_classes, ignore_index
        self.decodes = type(load)._load_seg_map.__module__ in _READERS
        self.ignores = ''  # which head takes 255 for a class

    def __call__(self, results: dict) -> dict:
        """Add ``gt_seg_map`` (H, W), or raise `UserError` naming the file."""
        path = results['seg_map_path']
        with named(path, self.decodes):
            if self.decodes:
                content = fileio.get(path, backend_args=self.load.backend_args)
                check_file(path, content, self.load.imdecode_backend)
            results = self.load(results)
        labels, image = results['gt_seg_map'], results.get('ori_shape')
        check_shape(path, labels)
        if image is None:  # it is loaded later, and held to these
            results['height'], results['width'] = labels.shape
        elif labels.shape != tuple(image[:2]):
            height, width = labels.shape
            turned = ''
            if (width, height) == tuple(image[:2]):
                turned = (
                    '; if its EXIF orientation turns the image and not the map, save it upright'
                )
            raise UserError(
                f'the label map {path} is {width}x{height} pixels, and its image '
                f'{results.get("img_path")} is {image[1]}x{image[0]}{turned}'
            )
        self._check_labels(path, labels, results)
        return results

    def _check_labels(self, path: str, labels: np.ndarray, results: dict) -> None:
        if self.num_classes is None:
            return
        if self.ignores and self.num_classes <= NOT_LABELLED and (labels == NOT_LABELLED).any():
            both = '' if self.ignore_index == NOT_LABELLED else ', and that of the data set too'
            raise UserError(
                f'the label map {path} has pixels that are not labelled ({NOT_LABELLED}), and '
                f'{self.ignores}; set its ignore_index={NOT_LABELLED}{both}'
            )
        none = (NOT_LABELLED, self.ignore_index)
        bad = np.unique(labels[(labels >= self.num_classes) & ~np.isin(labels, none)])
        if not bad.size:
            return
        # if the data set selects classes, files still have the labels of all classes
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


def _is_known(step: Any) -> bool:
    """Whether a step of a pipeline is none of the user's own."""
    return type(step).__module__.partition('.')[0] in ('mmseg', 'mmcv', 'mmswinv2')


def _loads_maps(step: Any) -> bool:
    named = 'Annotation' in type(step).__name__
    return named or isinstance(step, SegMapGuard) or getattr(step, 'with_seg', False)


def has_seg_maps(dataset: Any) -> bool:
    """Whether a data set is one of mmseg's for images and has label maps."""
    return hasattr(dataset, 'reduce_zero_label') and 'seg_map_path' in dataset.data_prefix


def refuse_missing_prefix(dataset: Any, where: str) -> None:
    """Raise `UserError` if a data set of mmseg is to load label maps from a folder of no name."""
    from mmcv.transforms import LoadAnnotations

    steps = steps_in(dataset.pipeline) if hasattr(dataset, 'reduce_zero_label') else ()
    loads = any(isinstance(step, LoadAnnotations) for step in steps)
    if loads and len(dataset) and 'seg_map_path' not in dataset.get_data_info(0):
        raise UserError(
            f'{where}: the pipeline has LoadAnnotations, and data_prefix of the data set no '
            'seg_map_path; set it to the folder of the label maps, or take LoadAnnotations out'
        )


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
    for steps in step_lists(dataset.pipeline):
        for i, step in enumerate(steps):
            if isinstance(step, LoadAnnotations):
                own = getattr(step, 'reduce_zero_label', None)
                if own is not None and own != dataset.reduce_zero_label:
                    raise UserError(
                        f'LoadAnnotations has reduce_zero_label={own}, and its data set '
                        f'{dataset.reduce_zero_label}; set it in the data set alone'
                    )
                steps[i] = SegMapGuard(step, num_classes, dataset.ignore_index)
            if isinstance(steps[i], SegMapGuard):
                guards.append(steps[i])
    return guards


def warn_of_absent_classes(
    dataset: Any, guard: SegMapGuard, where: str, seconds: float = 2.0
) -> None:
    """Log a warning if classes of a data set of mmseg have no pixel in its label maps.

    Maps are drawn at random until every class has been seen, or any two of more than 10 classes.

    `guard` loads them, for `seconds` at most; raises `UserError` if one cannot be used.
    """
    classes: Sequence[str] = dataset.metainfo.get('classes') or ()
    few = len(classes) <= _FEW_CLASSES
    pixels, looked_at, deadline = Counter[int](), 0, time.monotonic() + seconds
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    while len(seen := [i for i in range(len(classes)) if pixels[i]]) < (len(classes) if few else 2):
        if looked_at == len(order) or time.monotonic() > deadline:
            break
        labels = guard(dataset.get_data_info(order[looked_at]))['gt_seg_map']
        values, counts = np.unique(labels, return_counts=True)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        looked_at += 1
    else:
        return
    if dataset.reduce_zero_label:
        why = f'reduce_zero_label=True takes 0 in a file for not labelled, and 1 for {classes[0]}'
    elif pixels[NOT_LABELLED]:
        why = '255 counts as not labelled; in masks of 0 and 255, write the class in place of 255'
    else:
        why = 'look at the values of the maps, and at the order of the classes'
    found = ', '.join(f'{classes[i]} {pixels[i]}' for i in (range(len(classes)) if few else seen))
    warn(
        f'{where}: {len(classes) - len(seen)} of {len(classes)} classes occur in none of the '
        f'{looked_at} label maps looked at, of {len(order)} (pixels: {found or "none"}; not '
        f'labelled {pixels.total() - sum(pixels[i] for i in seen)}); {why}'
    )


def heads_of(model: Any) -> Iterator[tuple[str, Any]]:
    """The heads of a segmentor, each with the name of its setting."""
    model = getattr(model, 'module', model)  # inside test-time augmentation
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            yield f'model.{name}', head


def check_heads(model: Any, num_classes: int, where: str) -> None:
    """Raise `UserError` if a head of a segmentor cannot tell the classes of its data apart.

    A head with more classes than its data only logs a warning.
    """
    for name, head in heads_of(model):
        known = getattr(head, 'num_classes', None)
        # STDC's head for borders has classes of its own
        if not num_classes or known is None or hasattr(head, 'boundary_threshold'):
            continue
        data = f'the data set of {where} has {num_classes} classes'
        one_channel = getattr(head, 'threshold', None) is not None
        if one_channel and (num_classes > 2 or any(map(_is_softmax, head.modules()))):
            raise UserError(
                f'{name} has out_channels=1, which is for two classes and losses with '
                f'use_sigmoid=True, and {data}; mend loss_decode, or leave out_channels out '
                f'and set num_classes={num_classes}'
            )
        if known < num_classes and not one_channel:
            raise UserError(
                f'{name} has num_classes={known}, and {data}; set '
                f'num_classes={num_classes} in every head'
            )
        losses = getattr(head, 'loss_decode', None)
        for loss in losses if isinstance(losses, nn.ModuleList) else [losses]:
            _check_loss(loss, head, name)
        if known > num_classes:
            text = f'{name} has num_classes={known}, and {data}: it learns never to say'
            warn(f'{text} the others')


def _check_loss(loss: Any, head: Any, name: str) -> None:
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    kind, known = type(loss).__name__, head.num_classes
    weights = getattr(loss, 'class_weight', None)
    if isinstance(weights, (list, tuple)) and len(weights) not in (known, known + 1):
        raise UserError(
            f'{name} has num_classes={known}, and class_weight of its '
            f'loss_decode {len(weights)} numbers; give one for each class, or None'
        )
    if 'loss' not in getattr(loss, 'loss_name', 'loss'):
        warn(
            f'{name}: {kind} has loss_name={loss.loss_name!r}, which is logged and trains nothing; '
            "losses have names with 'loss', as in 'loss_dice'"
        )
    own, given = getattr(loss, 'ignore_index', None), getattr(head, 'ignore_index', None)
    # their forward uses the ignore_index of the loss, not that of the head
    if kind in ('TverskyLoss', 'HuasdorffDisstanceLoss') and own == NOT_LABELLED != given:
        raise UserError(
            f'{name} has ignore_index={given}, and its {kind} {own}; set ignore_index={given} there'
        )
    plain = getattr(type(head), 'loss_by_feat', None) is BaseDecodeHead.loss_by_feat
    if loss is None or not plain or not _is_known(head):
        return
    try:  # as this head calls it
        inspect.signature(loss.forward).bind(None, None, weight=None, ignore_index=given)
    except TypeError as error:
        raise UserError(
            f'{name} has {kind}, no loss for all classes at once; take CrossEntropyLoss, or '
            "LovaszLoss with loss_type='multi_class' and reduction='none' (for hard pixels, "
            "sampler=dict(type='OHEMPixelSampler') of the head)"
        ) from error


def check_ignored(part: Any, name: str, dataset: Any, where: str) -> None:
    """Raise `UserError` if a head or a metric takes ignored pixels of a data set for a class.

    A data set that names none but 255 may have a head that ignores a class.
    """
    own, given = getattr(part, 'ignore_index', None), dataset.ignore_index
    if own is not None and given not in (own, NOT_LABELLED):
        raise UserError(
            f'the data set of {where} has ignore_index={given}, and {name} {own}: it would take '
            f'pixels that are not labelled for a class; set ignore_index={given} there too'
        )


def _is_softmax(loss: nn.Module) -> bool:
    made_of = getattr(loss, 'cls_criterion', type(loss)).__name__
    return not getattr(loss, 'use_sigmoid', made_of not in _SOFTMAX_LOSSES)


def check_scored_size(dataset: Any, name: str, loader: str) -> None:
    """Raise `UserError` if label maps are resized, as predictions have the size of the file."""
    steps = {type(step).__name__ for step in steps_in(dataset.pipeline)}
    if not {'LoadImageFromFile', 'PackSegInputs'} <= steps:
        return
    for sample in as_list(dataset[0]['data_samples']):
        known = {'gt_sem_seg', 'ori_shape'}.issubset(sample.all_keys())
        if known and sample.gt_sem_seg.shape != tuple(sample.ori_shape):
            raise UserError(
                f'{name} compares predictions of the size of the image file with label maps, and '
                f'{loader} resizes these; put LoadAnnotations behind Resize in its pipeline'
            )


def check_map_names(dataset: Any, where: str) -> None:
    """Raise `UserError` if two images have the same name, after which mmseg names label maps."""
    files: dict[str, str] = {}
    for index in range(len(dataset)):
        path = dataset.get_data_info(index).get('img_path', '')
        if (other := files.setdefault(Path(path).stem, path)) != path:
            raise UserError(
                f'{where}: {other} and {path} have one name, and so one label map; give the '
                'pictures of a data set names of their own'
            )
