"""The test pipeline of a config, for files and for frames that are loaded already."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import UserError
from .model import TASKS
from .sources import OTHER_IMAGES, RAW_PHOTOS, Item


def _needs_loader(path: str) -> UserError:
    return UserError(
        f'cannot read the image {path}: {Path(path).suffix.lower()} files need a loader of their '
        'own in the pipeline; save it as JPEG'
    )


class Pipeline:
    """The test pipeline of a config, for files and for frames that are loaded already.

    Args:
        cfg: the config.
        classes: names of the classes, which detectors such as Grounding DINO look for.

    Attributes:
        of_clips: whether samples are whole videos.
    """

    def __init__(self, cfg: Any, classes: Sequence[str] | None = None) -> None:
        from mmengine.dataset import Compose

        from .. import hosts

        dataset = next(hosts.inner_datasets(cfg.test_dataloader.dataset))
        load, *steps = hosts.without_annotations(hosts.testing_pipeline(cfg))
        self.of_clips = hosts.of(cfg).input_axes == 3
        self._kind = np.float32 if load.get('to_float32') else np.uint8
        # of mmcv's loader and of ours
        self._gray = load.get('color_type') == 'grayscale' or load.get('channels') == 1
        # mmcv takes the small preview in a raw photo for the photo
        self._takes_previews = hosts.type_name(load) == 'LoadImageFromFile'
        self._text: dict[str, Any] = {}
        if dataset.get('return_classes'):  # as mmdet's data sets add them to a sample
            self._text = dict(text=tuple(classes or ()), custom_entities=True)
            self._text['caption_prompt'] = dataset.get('caption_prompt')
        self._of_files = Compose([load, *steps])
        hosts.of(cfg).check_views(self._of_files, 'the test pipeline')
        self._of_frames = Compose([self._take, *steps])

    def _take(self, results: dict) -> dict:
        """Take the place of image loading for a frame: converts it to BGR, as mmcv loads images."""
        image = results.pop('frame')[:, :, ::-1]
        if self._gray:
            image = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2GRAY)
        results['img'] = np.ascontiguousarray(image, self._kind)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __call__(self, item: Item, number: int) -> Any:
        """A sample for the model."""
        try:
            if self.of_clips:
                sample = dict(filename=item.path, label=-1, start_index=0, modality='RGB')
                return self._of_files(sample)
            sample = dict(self._text, img_path=item.path, img_id=number)
            if item.image is not None:
                return self._of_frames(dict(sample, frame=item.image))
            ending = Path(item.path).suffix.lower()
            if self._takes_previews and ending in RAW_PHOTOS:
                raise _needs_loader(item.path)
            try:
                return self._of_files(sample)
            except UserError as error:
                unknown = re.search('UnidentifiedImageError|failed to load image', str(error))
                if unknown and ending in OTHER_IMAGES:  # no damage, and no other step
                    raise _needs_loader(item.path) from error
                raise
        except FileNotFoundError as error:
            raise UserError(f'{item.path} does not exist') from error
        except (KeyError, UserError) as error:
            missing = error.__cause__ if isinstance(error, UserError) else error
            if not isinstance(missing, KeyError):
                raise
            raise UserError(
                f'a step of the pipeline of test_dataloader needs {missing}, which no step before '
                'it adds; if it is what only a data set gives to a sample, take the step out '
                f'(MMSWINV2_TRACEBACK=1 shows which). predict is for {TASKS}'
            ) from error
