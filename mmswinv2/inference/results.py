"""Write predictions as pictures, videos and result files."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError, printable
from ..files import check_writable, part_of, write_atomically
from .drawing import LARGEST_JPEG, caption, enlarge, font_of, picture_of
from .sources import RESULTS, Item


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Draw as in each run and frame: mmdet's masks have random colors. The state is restored."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


class ResultWriter:
    """Writes pictures, videos and results into a folder.

    Args:
        folder: the folder, which gets the subfolders ``vis`` and ``preds``.
        cfg: the config of the model.
        meta: names and colors of the classes, as `Predictor.meta`.
        score: lowest score at which a box is drawn and written.

    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, cfg: Any, meta: dict[str, Any], score: float) -> None:
        from matplotlib.ft2font import FT2Font
        from mmengine.registry import VISUALIZERS

        from .. import hosts

        options = dict(cfg.get('visualizer') or dict(type=hosts.of(cfg).visualizer))
        options.update(name='predict', vis_backends=None, save_dir=None)
        with hosts.building(cfg):
            self.visualizer = VISUALIZERS.build(options)
            # mmengine caches visualizers by name; the next writer needs one with its own settings
            type(self.visualizer)._instance_dict.pop('predict', None)
        self.visualizer.dataset_meta = meta
        self.visualizer.add_image = self._keep  # hosts hand over what they have drawn
        self._drawn: np.ndarray | None = None
        self.pictures, self.results = (folder / part for part in RESULTS)
        places = (self.pictures, self.results, folder, *folder.parents)
        self._made = [place for place in places if not place.exists()]
        try:
            for part in (self.pictures, self.results):
                check_writable(part, 'folder', '--out-dir')
        except UserError:
            self._remove_empty()
            raise
        self._cfg = cfg
        self.score, self.classes = score, list(meta.get('classes') or ())
        self._font = FT2Font(font_of(''.join(map(str, self.classes)))).family_name
        # of mmdet's visualizer; mmpretrain's is given the font in each call
        self.visualizer.draw_texts = partial(self.visualizer.draw_texts, font_families=self._font)
        self.images: list[dict] = []
        self.found: list[dict] = []
        self.kind = ''  # name of the results file

    def class_name(self, label: int) -> str:
        """The name of a class, or its number if it has no name."""
        return str(self.classes[label]) if label < len(self.classes) else str(label)

    def add(self, item: Item, result: Any) -> np.ndarray | None:
        """Record the predictions for an image, frame or clip; returns them drawn, (H, W, 3) RGB.

        For a clip, writes the video and returns ``None``.
        """
        options: dict[str, Any] = {}
        if hasattr(result, 'pred_instances'):
            self._add_instances(item, result)
            options['pred_score_thr'] = self.score
        elif hasattr(result, 'pred_sem_seg'):
            labels = result.pred_sem_seg.data.squeeze(0).numpy()
            kind = np.uint8 if labels.max() < 256 else np.uint16
            picture = Image.fromarray(labels.astype(kind))
            path = self.results / f'{item.name}.png'
            write_atomically(path, lambda file: picture.save(file, 'PNG'))
        else:
            self._add_scores(item, result)
        return self._draw(item, result, options)

    def _add_instances(self, item: Item, result: Any) -> None:
        """Record boxes and masks that score high enough, as annotations of COCO."""
        from ..datasets.coco_masks import encode_mask

        highest = max(result.pred_instances.labels.tolist(), default=0)
        if highest >= len(self.classes) > 0:  # without any names, numbers are drawn
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
                entry['segmentation'], entry['area'], box = encode_mask(found.masks[i])
                entry['bbox'] = box if x1 == x2 else entry['bbox']  # SOLO finds no boxes
            self.found.append(entry)

    def _add_scores(self, item: Item, result: Any) -> None:
        """Record the five best classes of an image or clip; a clip is written as a video."""
        if result.pred_score.ndim > 1:
            raise UserError(
                'the model keeps the scores of all views of a video (average_clips=None); set '
                "model.cls_head.average_clips='prob'"
            )
        self.kind = 'predictions.jsonl'
        values, labels = result.pred_score.topk(min(5, len(result.pred_score)))
        best = [
            dict(label=label, name=self.class_name(label), score=value)
            for value, label in zip(values.tolist(), labels.tolist(), strict=True)
        ]
        self.found.append(dict(file_name=item.path, predictions=best))
        path = os.fsencode(item.path).decode(errors='replace')  # terminals may reject raw bytes
        print(printable(f'{path}: {best[0]["name"]} {best[0]["score"]:.3f}'))
        if item.clip:
            from ..datasets.video_files import open_video, write_video

            film, reader = self.pictures / f'{item.name}.mp4', open_video(item.path)
            lines = [f'{one["name"]}: {one["score"]:.3f}' for one in best]
            write_video(film, caption(reader, lines), reader.fps or 25, times=reader.times)

    def _draw(self, item: Item, result: Any, options: dict) -> np.ndarray | None:
        """The image with the predictions drawn on it, (H, W, 3) RGB; ``None`` for a clip."""
        if item.clip:
            return None
        image = item.image
        if image is None:
            image = picture_of(self._cfg, item.path)
        image, result = enlarge(image, result)
        self._drawn = None
        with warnings.catch_warnings(), _same_random_numbers():
            if hasattr(self.visualizer, 'visualize_cls'):
                names = list(map(self.class_name, range(len(result.pred_score))))
                font = dict(family=['monospace', self._font])  # the former is mmpretrain's own
                return self.visualizer.visualize_cls(image, result, classes=names, text_cfg=font)
            # mmengine warns about boxes that cross the border
            warnings.filterwarnings('ignore', '.* is out of bounds, the drawn')
            self.visualizer.add_datasample(item.name, image, result, draw_gt=False, **options)
        # to render it again takes time, and moves pixels
        return self.visualizer.get_image() if self._drawn is None else self._drawn

    def _keep(self, name: str, image: np.ndarray, step: int = 0) -> None:
        self._drawn = image

    def save(self, item: Item, drawn: np.ndarray | None) -> None:
        """Write the drawn picture of an item, if there is one."""
        import cv2

        if drawn is not None:
            kind = 'jpg' if max(drawn.shape[:2]) <= LARGEST_JPEG else 'png'
            _, code = cv2.imencode(f'.{kind}', drawn[:, :, ::-1])
            path = self.pictures / f'{item.name}.{kind}'
            write_atomically(path, lambda file: file.write(code.tobytes()))

    def film(self, name: str, frames: Iterator[Item], fps: float, outcomes: Any) -> Iterator[Any]:
        """Write a video as results arrive; yields the data sample of each frame.

        If the iteration is stopped, the video keeps the frames written so far. `frames` and `fps`
        are as from `frames_of` (25 for 0, which is unknown), `outcomes` is `Predictor.outcomes`.
        """
        from ..datasets.video_files import VideoWriter

        path = self.pictures / f'{name}.mp4'
        part = part_of(path, keep_suffix=True)
        try:
            with VideoWriter(part, fps or 25) as video:
                for item, result in outcomes(frames):
                    drawn = self.add(item, result)
                    if drawn is not None:
                        video.write(drawn, item.time)
                    yield result
        except OSError:  # of the disk, and a video that was not closed cannot be read
            part.unlink(missing_ok=True)
            raise
        finally:
            if part.exists():
                part.replace(path)

    def close(self) -> None:
        """Write the results file, and remove folders that were made here and stayed empty."""
        if self.kind == 'predictions.json':
            most = max((entry['category_id'] for entry in self.found), default=-1)
            names = self.classes or range(most + 1)
            categories = [dict(id=i, name=str(name)) for i, name in enumerate(names)]
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
