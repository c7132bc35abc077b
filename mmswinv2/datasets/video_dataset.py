"""mmaction2's data set of video files, with words for bad lists and without fear of bad files."""

from __future__ import annotations

import logging
import os
from multiprocessing.pool import ThreadPool
from typing import Any

from mmaction.datasets import VideoDataset as MMActionVideoDataset
from mmengine.fileio import list_from_file
from mmengine.logging import print_log

from ..errors import UserError
from ..registry import DATASETS
from .video_files import UnreadableVideo, open_video


@DATASETS.register_module()
class VideoDataset(MMActionVideoDataset):
    """Videos listed as ``path label`` lines; file names may hold spaces.

    In training a file that cannot be read is logged and another video is drawn. In testing it is an
    error, unless `skip_unreadable`. The pipeline opens files with ``mmswinv2.VideoInit``.

    Args:
        *args: of mmaction2's ``VideoDataset``.
        max_unreadable: in training, more such files than this, in one process, are an error.
        skip_unreadable: in testing, look at the first and the last frame of every file first, and
            leave out, log and count those without.
        **kwargs: of mmaction2's ``VideoDataset``.
    """

    def __init__(
        self, *args: Any, max_unreadable: int = 100, skip_unreadable: bool = False, **kwargs: Any
    ) -> None:
        self.max_unreadable, self.skip_unreadable = max_unreadable, skip_unreadable
        self.unreadable: set[str] = set()
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the list.

        Raises:
            UserError: with file and line, if a line has another form or a label is no class.
        """
        if self.multi_class and self.num_classes is None:
            raise UserError(f'{self.ann_file}: a data set with multi_class=True needs num_classes')
        videos = []
        for number, line in enumerate(list_from_file(self.ann_file), start=1):
            if line.strip():
                videos.append(self._parse(line.strip(), f'{self.ann_file}, line {number}'))
        if not videos:
            raise UserError(f'{self.ann_file} lists no videos')
        if self.test_mode and self.skip_unreadable:
            videos = self._readable(videos)
        self.distinct = len({video['filename'] for video in videos})
        return videos

    def _parse(self, line: str, where: str) -> dict:
        if self.multi_class:
            name, *labels = line.split(self.delimiter)
        else:
            name, *labels = line.rsplit(self.delimiter, 1)
        try:
            numbers = [int(label) for label in labels]
        except ValueError:
            name, numbers = line, []
        if not numbers and not self.test_mode:
            raise UserError(
                f'{where}: {line!r} is not "path{self.delimiter}label" with a whole number as label'
            )
        last = None if self.num_classes is None else self.num_classes - 1
        for number in numbers:
            if number < 0 or (last is not None and number > last):
                raise UserError(
                    f'{where}: label {number} of {name} is no class; labels are from 0'
                    + (f' to {last}' if last is not None else '')
                )
        path = os.path.join(self.data_prefix.get('video') or '', name.rstrip())
        label = numbers if self.multi_class else (numbers[0] if numbers else -1)
        return dict(filename=path, label=label, where=where)

    def _readable(self, videos: list[dict]) -> list[dict]:
        def look(video: dict) -> str | None:
            try:
                reader = open_video(video['filename'])
                reader.read([0, len(reader) - 1])
            except UnreadableVideo as error:
                return str(error)
            return None

        with ThreadPool(8) as pool:
            reasons = pool.map(look, videos)
        kept = []
        for video, reason in zip(videos, reasons, strict=True):
            if reason is None:
                kept.append(video)
            else:
                _warn(f'left out the video {video["filename"]}: {reason}')
        if not kept:
            raise UserError(
                f'{self.ann_file}: none of the {len(videos)} videos can be read, the first: '
                f'{reasons[0]}'
            )
        if len(kept) < len(videos):
            _warn(f'{len(videos) - len(kept)} of {len(videos)} videos cannot be read; scores are '
                  f'those of the other {len(kept)}')  # fmt: skip
        return kept

    def prepare_data(self, idx: int) -> Any:
        """One sample, or ``None`` for another to be drawn in its place (training)."""
        try:
            return super().prepare_data(idx)
        except UnreadableVideo as error:
            video = self.get_data_info(idx)
            if self.test_mode:
                raise UserError(
                    f'cannot read the video {error} ({video["where"]}); fetch it again, mend the '
                    'line, or set skip_unreadable=True in the data set'
                ) from error
            if video['filename'] not in self.unreadable:
                self.unreadable.add(video['filename'])
                _warn(f'cannot read the video {error}; another is drawn in its place '
                      f'({len(self.unreadable)} so far)')  # fmt: skip
            if len(self.unreadable) == self.distinct:
                raise UserError(
                    f'{self.ann_file}: none of the {self.distinct} videos can be read, the last of '
                    f'them {error}'
                ) from error
            if len(self.unreadable) > self.max_unreadable:
                raise UserError(
                    f'more than {self.max_unreadable} videos cannot be read (max_unreadable of the '
                    f'data set), the last of them {error}'
                ) from error
            return None


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
