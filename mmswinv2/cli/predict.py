"""Predict on pictures, videos and cameras with any model of the hosts, and show what was found."""

from __future__ import annotations

import argparse
import functools
import glob
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UserError
from ..options import ArgumentParser
from ..progress import track
from .drawing import enlarge

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.npy')
VIDEOS = ('.mp4', '.avi', '.mkv', '.mov', '.webm', '.ts', '.wmv', '.mpg', '.mpeg', '.flv', '.m4v')
_TASKS = 'detectors, segmentors, image and video classifiers'


@dataclass
class _Item:
    """One thing to predict on: a file, or a frame of a video or camera."""

    name: str  # of its files in the output folder
    path: str
    image: np.ndarray | None = None  # (H, W, 3) uint8 RGB of a frame


def predict(
    config: str,
    checkpoint: str,
    inputs: str | Path | Sequence[str | Path],
    out_dir: str | Path | None = None,
    **options: Any,
) -> list[Any]:
    """All results of `iterate`, whose arguments it takes, in a list."""
    return list(iterate(config, checkpoint, inputs, out_dir, **options))


def iterate(
    config: str,
    checkpoint: str,
    inputs: str | Path | Sequence[str | Path],
    out_dir: str | Path | None = None,
    *,
    score: float = 0.3,
    batch_size: int = 1,
    device: str | None = None,
    amp: bool = False,
    tta: bool = False,
    cfg_options: dict[str, Any] | None = None,
    max_frames: int | None = None,
) -> Iterator[Any]:
    """Predict on images, folders, patterns (``*.jpg``), videos and cameras (``0``), one by one.

    Args:
        config: file of a config with a ``test_dataloader``, whose pipeline is used.
        checkpoint: file, name or address of weights for the whole model.
        inputs: what to predict on, one or several.
        out_dir: folder for the results: ``vis`` with pictures or videos, ``preds`` with
            ``predictions.json`` in COCO's format (detectors), a label map for each image
            (segmentors) or ``predictions.jsonl`` (classifiers). ``None``: nothing is written.
        score: the least score of a box that is drawn or written.
        batch_size: images that are predicted together.
        device: such as ``'cuda:1'``; ``None``: a GPU where there is one.
        amp: run under autocast, in bfloat16 or, on older GPUs, float16.
        tta: predict on several views of each image, as ``tools/test.py --tta`` does.
        cfg_options: as ``--cfg-options``.
        max_frames: of each video or camera.

    Yields:
        the data sample of the host for every image, frame or clip.

    Raises:
        UserError: if the config, the weights or an input cannot be used.
    """
    from .. import hosts
    from ..engine.launch import config_with_options

    check_score(score)
    for name, number in (('batch_size', batch_size), ('max_frames', max_frames)):
        if number is not None and number < 1:
            raise UserError(f'{name} must be at least 1, got {number}')
    cfg = config_with_options(config, cfg_options)
    given = [inputs] if isinstance(inputs, (str, Path)) else inputs
    sources = list(_sources(given, out_dir, clips=hosts.of(cfg).input_axes == 3))
    predictor = Predictor(cfg, checkpoint, device, amp, tta)
    outcomes = functools.partial(predictor.outcomes, batch_size=batch_size)
    stills, films = _divide(sources, clips=predictor.of_clips)
    if out_dir is None:
        videos = (_frames(name, source, max_frames)[0] for name, source in films)
        for items in itertools.chain([stills], videos):
            yield from (result for _, result in outcomes(items))
        return
    writer = _Writer(Path(out_dir), cfg, predictor.meta, score)
    try:
        for item, result in track(outcomes(stills), 'predicting', len(stills)):
            writer.save(item, writer.add(item, result))
            yield result
        for name, source in films:
            frames, fps, number = _frames(name, source, max_frames)
            yield from track(writer.film(name, frames, fps, outcomes), 'frames', number)
    finally:  # what was found until then, where it is stopped or fails
        writer.close()


# the scores of every pixel: 1.2 GB for each full HD frame with 150 classes
_LARGE = ('seg_logits', 'pred_score_map')
_KINDS = ('pred_instances', 'pred_sem_seg', 'pred_score', 'pred_scores')


def check_score(score: float) -> None:
    """Raise `UserError` for a score that is none."""
    if not 0 <= score <= 1:
        raise UserError(f'score must be from 0 to 1, got {score}')


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
        self.model, self.meta = _build(cfg, checkpoint, device, tta)
        self._pipeline, self._numbers = _Pipeline(cfg), itertools.count()
        self.of_clips = self._pipeline.of_clips

    def outcomes(self, items: Iterable[_Item], batch_size: int = 1) -> Iterator[tuple[_Item, Any]]:
        """Each item with what the host found in it, on the CPU.

        Raises:
            UserError: if an item cannot be read, or the model predicts what is not known here.
        """
        for batch in _batches(items, batch_size):
            samples = [self._pipeline(item, next(self._numbers)) for item in batch]
            for item, result in zip(batch, _run(self.model, samples, self._amp), strict=True):
                if not any(hasattr(result, key) for key in _KINDS):
                    raise UserError(
                        f'{type(self.model).__name__} of {self.cfg.filename} predicts nothing that '
                        f'is known here; predict is for {_TASKS}'
                    )
                for key in _LARGE:
                    if hasattr(result, key):
                        delattr(result, key)
                yield item, result.cpu()


def _sources(
    inputs: Iterable[str | Path], out_dir: str | Path | None = None, clips: bool = False
) -> Iterator[str]:
    """Files, none of those below the folder of the results, and cameras.

    Args:
        inputs: what was given.
        out_dir: the folder of the results.
        clips: whether the model takes whole videos, and no pictures.
    """
    kinds, what = (VIDEOS, 'video') if clips else (IMAGES + VIDEOS, 'image or video')
    own = None if out_dir is None else Path(out_dir).resolve()
    for given in map(str, inputs):
        path = Path(given)
        if path.is_dir():
            found = sorted(
                str(p)
                for p in path.rglob('*')
                if p.is_file() and p.suffix.lower() in kinds and own not in p.resolve().parents
            )
            if not found:
                raise UserError(f'the folder {given} has no {what} ({", ".join(kinds)})')
            yield from found
        elif clips and (given.isdecimal() or path.suffix.lower() in IMAGES):
            raise UserError(f'{given} is no video, and the config classifies whole videos')
        elif path.exists() or given.isdecimal():
            yield given
        elif found := sorted(glob.glob(given, recursive=True)):
            yield from found
        else:
            raise UserError(f'{given} is no file, folder, pattern or number of a camera')


def _divide(sources: Sequence[str], clips: bool) -> tuple[list[_Item], list[tuple[str, str]]]:
    """What is predicted on as it is, and the videos and cameras whose frames are; all with names.

    Args:
        sources: files and cameras.
        clips: whether the model takes whole videos.
    """
    stills: list[_Item] = []
    films: list[tuple[str, str]] = []
    names: set[str] = set()
    for source in sources:
        path = Path(source)
        tries = itertools.chain([path.stem], (f'{path.stem}_{i}' for i in itertools.count(2)))
        names.add(name := next(name for name in tries if name not in names))
        if path.exists() and (clips or path.suffix.lower() not in VIDEOS):
            stills.append(_Item(name, source))
        else:
            films.append((name, source))
    return stills, films


def _frames(name: str, source: str, most: int | None) -> tuple[Iterator[_Item], float, int | None]:
    """The frames of a video or camera, in a folder of its name.

    Returns:
        the frames, how many there are a second, and in all, where that is known.
    """
    from ..datasets.video_files import UnreadableVideo, open_video

    images: Iterable[np.ndarray]
    if not Path(source).exists():
        images, fps, number = _camera(int(source)), 25.0, most
    else:
        try:
            reader = open_video(source)
        except UnreadableVideo as error:
            raise UserError(f'cannot read the video {error}') from error
        images, fps = iter(reader), reader.fps
        number = min(len(reader), most or len(reader))
    return _numbered(name, source, itertools.islice(images, most)), fps, number


def _numbered(name: str, source: str, images: Iterable[np.ndarray]) -> Iterator[_Item]:
    number = -1
    for number, image in enumerate(images):
        path = f'{source}, frame {number}'
        yield _Item(f'{name}/{number:06d}', path, np.ascontiguousarray(image))
    if number < 0:
        raise UserError(f'{source} has no frames')


def _camera(number: int) -> Iterator[np.ndarray]:
    import cv2

    before = cv2.setLogLevel(0)  # or every driver that has no such camera says so
    camera = cv2.VideoCapture(number)
    cv2.setLogLevel(before)
    if not camera.isOpened():
        raise UserError(f'there is no camera {number}')
    while True:
        known, frame = camera.read()
        if not known:
            return
        yield frame[:, :, ::-1]


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _build(cfg: Any, checkpoint: str, device: str, tta: bool = False) -> tuple[Any, dict[str, Any]]:
    """The model with its weights, and what is known of its classes."""
    from mmengine.registry import DATASETS, MODELS

    from .. import hosts
    from ..analysis.labels import palette
    from ..checkpoints import fetch, load_but, read_checkpoint
    from ..engine.settings import set_tta

    if cfg.get('model') is None or cfg.get('test_dataloader') is None:
        raise UserError(f'{cfg.filename} has no model and test_dataloader: predict is for {_TASKS}')
    host = hosts.of(cfg)
    host.apply()
    host.use_registries()
    path = fetch(checkpoint)
    if tta:
        set_tta(cfg)
    model = MODELS.build(cfg.model)
    advice = (
        f'Predict with the config that it was trained with, which {cfg.filename} is not; the work '
        'dir of a training has a copy'
    )
    load_but(model.module if tta else model, path, advice=advice)
    try:
        model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'the device {device!r} cannot be used: {error}') from error
    dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
    with DATASETS.switch_scope_and_registry(host.name) as datasets:
        kind = datasets.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    meta: dict[str, Any] = {}
    for known in (
        getattr(kind, 'METAINFO', None),
        (read_checkpoint(path, mmap=True).get('meta') or {}).get('dataset_meta'),
        dataset.get('metainfo'),
    ):
        if known and 'classes' in known:
            meta.pop('palette', None)  # which is that of other classes
        meta.update(known or {})
    if count := getattr(model.module if tta else model, 'num_classes', 0):
        # a segmentor, whose maps are not drawn without names and colours
        meta['classes'] = meta.get('classes') or tuple(map(str, range(count)))
        meta['palette'] = palette(meta).tolist()
    return model.eval(), meta


class _Pipeline:
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

    def __call__(self, item: _Item, number: int) -> Any:
        """A sample for the model."""
        from ..datasets.video_files import UnreadableVideo

        try:
            if self.of_clips:
                sample = dict(filename=item.path, label=-1, start_index=0, modality='RGB')
                return self._of_files(sample)
            sample = dict(img_path=item.path, img_id=number)
            if item.image is not None:
                return self._of_frames(dict(sample, frame=item.image))
            return self._of_files(sample)
        except UnreadableVideo as error:
            raise UserError(f'cannot read the video {error}') from error
        except FileNotFoundError as error:
            raise UserError(f'{item.path} does not exist') from error


def _run(model: Any, samples: list[Any], amp: bool) -> list[Any]:
    from mmengine.dataset import pseudo_collate

    device = next(model.parameters()).device.type
    kind = torch.bfloat16
    if device == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        kind = torch.float16
    with torch.no_grad(), torch.autocast(device, kind, enabled=amp):
        return model.test_step(pseudo_collate(samples))


class _Writer:
    """Writes pictures, videos and results into a folder."""

    def __init__(self, folder: Path, cfg: Any, meta: dict[str, Any], score: float) -> None:
        from mmengine.registry import VISUALIZERS

        from .. import hosts
        from ..checkpoints.write import check_writable

        options = dict(cfg.get('visualizer') or dict(type=hosts.of(cfg).visualizer))
        options.update(name='predict', vis_backends=None, save_dir=None)
        self.visualizer = VISUALIZERS.build(options)
        # mmengine keeps it by its name, with its settings, which another writer has of its own
        type(self.visualizer)._instance_dict.pop('predict', None)
        self.visualizer.dataset_meta = meta
        self.pictures, self.results = folder / 'vis', folder / 'preds'
        places = (self.pictures, self.results, folder, *folder.parents)
        self._made = [place for place in places if not place.exists()]
        try:
            for part in (self.pictures, self.results):
                check_writable(part, 'folder', '--out-dir')
        except UserError:
            self._remove_empty()
            raise
        self.score, self.classes = score, list(meta.get('classes') or ())
        self.images: list[dict] = []
        self.found: list[dict] = []
        self.kind = ''  # name of the file of results

    def class_name(self, label: int) -> str:
        return str(self.classes[label]) if label < len(self.classes) else str(label)

    def add(self, item: _Item, result: Any) -> np.ndarray | None:
        """Note what was found in one image, frame or clip; returns it drawn, (H, W, 3) RGB."""
        options: dict[str, Any] = {}
        if hasattr(result, 'pred_instances'):
            self._add_instances(item, result)
            options['pred_score_thr'] = self.score
        elif hasattr(result, 'pred_sem_seg'):
            labels = result.pred_sem_seg.data.squeeze(0).numpy()
            kind = np.uint8 if labels.max() < 256 else np.uint16
            path = self.results / f'{item.name}.png'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(labels.astype(kind)).save(path)
        else:
            self._add_scores(item, result)
        return self._draw(item, result, options)

    def _add_instances(self, item: _Item, result: Any) -> None:
        highest = max(result.pred_instances.labels.tolist(), default=0)
        if highest >= len(self.classes) > 0:  # where there are no names, numbers are drawn
            raise UserError(
                f'class {highest} was found in {item.path}, and metainfo.classes of '
                f'test_dataloader has {len(self.classes)} names; name all classes there, the '
                'first for class 0'
            )
        self.kind = 'predictions.json'
        found = result.pred_instances[result.pred_instances.scores >= self.score]
        height, width = result.ori_shape
        number = len(self.images) + 1
        self.images.append(dict(id=number, file_name=item.path, height=height, width=width))
        for i in range(len(found)):
            x1, y1, x2, y2 = found.bboxes[i].tolist()
            entry = dict(
                id=len(self.found) + 1,
                image_id=number,
                category_id=int(found.labels[i]),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=0,
                score=float(found.scores[i]),
            )
            if 'masks' in found:
                entry['segmentation'] = _run_lengths(found.masks[i])
            self.found.append(entry)

    def _add_scores(self, item: _Item, result: Any) -> None:
        self.kind = 'predictions.jsonl'
        scores = result.pred_score if hasattr(result, 'pred_score') else result.pred_scores.item
        values, labels = scores.topk(min(5, len(scores)))
        best = [
            dict(label=label, name=self.class_name(label), score=value)
            for value, label in zip(values.tolist(), labels.tolist(), strict=True)
        ]
        self.found.append(dict(file_name=item.path, predictions=best))
        print(f'{item.path}: {best[0]["name"]} {best[0]["score"]:.3f}')

    def _draw(self, item: _Item, result: Any, options: dict) -> np.ndarray | None:
        import mmcv

        if item.image is None and Path(item.path).suffix.lower() in VIDEOS:
            return None  # a clip with one answer
        image = item.image
        if image is None:
            image = mmcv.imread(item.path, channel_order='rgb')
        if hasattr(self.visualizer, 'visualize_cls'):
            return self.visualizer.visualize_cls(image, result, classes=self.classes or None)
        image, result = enlarge(image, result)
        self.visualizer.add_datasample(item.name, image, result, draw_gt=False, **options)
        return self.visualizer.get_image()

    def save(self, item: _Item, drawn: np.ndarray | None) -> None:
        """Write the picture of an image."""
        import mmcv

        if drawn is not None:
            mmcv.imwrite(drawn[:, :, ::-1], str(self.pictures / f'{item.name}.jpg'))

    def film(self, name: str, frames: Iterator[_Item], fps: float, outcomes: Any) -> Iterator[Any]:
        """Write the frames of a video as they come; yields what was found in each.

        A video that is stopped ends with the frame before.
        """
        from ..datasets.video_files import VideoWriter

        path = self.pictures / f'{name}.mp4'
        part = path.with_name(f'.{name}.part.mp4')
        try:
            with VideoWriter(part, fps or 25) as video:
                for item, result in outcomes(frames):
                    drawn = self.add(item, result)
                    if drawn is not None:
                        height, width = (side // 2 * 2 for side in drawn.shape[:2])
                        video.write(np.ascontiguousarray(drawn[:height, :width]))
                    yield result
        finally:
            if part.exists():
                part.replace(path)

    def close(self) -> None:
        """Write the file of results; folders without anything in them go again."""
        from ..checkpoints.write import write_atomically

        if self.kind == 'predictions.json':
            categories = [dict(id=i, name=str(name)) for i, name in enumerate(self.classes)]
            content = dict(images=self.images, annotations=self.found, categories=categories)
            text = json.dumps(content)
        elif self.kind:
            text = ''.join(f'{json.dumps(line)}\n' for line in self.found)
        if self.kind:
            write_atomically(self.results / self.kind, lambda file: file.write(text.encode()))
        self._remove_empty()

    def _remove_empty(self) -> None:
        for folder in self._made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _run_lengths(mask: Any) -> dict[str, Any]:
    import pycocotools.mask

    code = pycocotools.mask.encode(np.asfortranarray(np.asarray(mask), dtype=np.uint8))
    return dict(size=list(code['size']), counts=code['counts'].decode())


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes that predicts: the model, and how it is run and drawn."""
    from ..engine.settings import add_config_options

    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='weights of the whole model')
    parser.add_argument('--score', type=float, default=0.3, help='least score of a box (0.3)')
    parser.add_argument('--device', help='such as cuda:1 or cpu')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    add_config_options(parser)


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 predict',
        description='Predict on images, folders, patterns, videos or a camera.',
        epilog='example: mmswinv2 predict config.py work_dirs/run/epoch_36.pth photos --score 0.5',
    )
    add_model_options(parser)
    parser.add_argument('inputs', nargs='+', help='files, folders, patterns, or a camera number')
    parser.add_argument('--out-dir', default='outputs', help='folder of the results (outputs)')
    parser.add_argument('--batch-size', type=int, default=1, help='images at a time (1)')
    parser.add_argument('--max-frames', type=int, help='of each video or camera')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 predict``."""
    args = parse_args(arguments)
    results = iterate(
        args.config,
        args.checkpoint,
        args.inputs,
        args.out_dir,
        score=args.score,
        batch_size=args.batch_size,
        device=args.device,
        amp=args.amp,
        tta=args.tta,
        cfg_options=args.cfg_options,
        max_frames=args.max_frames,
    )
    print(f'{sum(1 for _ in results)} predictions are in {args.out_dir}', file=sys.stderr)
