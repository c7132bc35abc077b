"""mmaction2's data set of video files, with checks of lists and handling of unreadable files."""

import os
import re
from multiprocessing.pool import ThreadPool
from typing import Any

from mmaction.datasets import VideoDataset as MMActionVideoDataset
from mmengine import fileio
from mmengine.dataset import BaseDataset

from ..errors import UserError
from ..files import text_lines, turn_backslashes
from ..hosts import as_list
from ..log import warn
from ..registry import DATASETS
from .video_files import UnreadableVideo, open_video

_LABEL = re.compile('[0-9]{1,9}')
_ENDING = re.compile(r'\.\w{0,9}[A-Za-z]\w{0,9}$')  # of the name of a file
_SEPARATOR = re.compile(r'[\s,;|]')


@DATASETS.register_module()
class VideoDataset(MMActionVideoDataset):
    """Videos listed as ``path label`` lines; file names may hold spaces.

    In training a file that cannot be read is logged and another video is drawn. In testing it is an
    error, unless `skip_unreadable`. The pipeline opens files with ``mmswinv2.VideoInit``.

    Args:
        *args: of mmaction2's ``VideoDataset``.
        max_unreadable: in training, more unreadable files than this, in one process, are an error.
        skip_unreadable: in testing, read the first and the last frame of every file in advance, and
            leave out, log and count the files where this fails.
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

        Raises `UserError` with file and line, if a line has another form, a label is no class, a
        video has different labels on two lines, or the text is not UTF-8.
        """
        if self.multi_class and self.num_classes is None:
            raise UserError(f'{self.ann_file}: a data set with multi_class=True needs num_classes')
        if os.path.exists(self.ann_file) and not os.path.isfile(self.ann_file):
            raise UserError(f'{self.ann_file} is no file; ann_file is to be a list of videos')
        videos = []
        lines = text_lines(self.ann_file, fileio.get(self.ann_file))
        for number, line in enumerate(lines, start=1):
            if line := line.lstrip('\ufeff').strip():  # concatenated lists have BOMs inside
                videos.append(self._parse(line, f'{self.ann_file}, line {number}'))
        if not videos:
            raise UserError(f'{self.ann_file} lists no videos; a line is a path and a label')
        turn_backslashes(videos)
        videos = self._once(videos)
        if self.test_mode and self.skip_unreadable:
            videos = self._readable(videos)
        self.distinct = len({video['filename'] for video in videos})
        return videos

    def _parse(self, line: str, where: str) -> dict:
        readings: list[tuple[str, list[int]]] = [(line, [])]  # each with one more label
        while len(readings) <= (self.num_classes if self.multi_class else 1):
            name, labels = readings[-1]
            name, _, last = name.rpartition(self.delimiter)
            if not name.strip() or not _LABEL.fullmatch(last.strip()):
                break
            readings.append((name.rstrip(), [int(last), *labels]))
        name, labels = readings[-1]
        if not labels or not _ENDING.search(name):  # the existing file tells where the name ends
            files = [reading for reading in readings if self._is_file(reading[0])]
            name, labels = (files or readings)[-1]
            is_video = bool(files) or not _SEPARATOR.search(name)
            if not is_video or not (labels or (files and self.test_mode)):
                missing = f'; no file is called {name[:200]!r}' * bool(labels)
                raise UserError(
                    f'{where}: {line[:200]!r} is not "path{self.delimiter}label", the path of a '
                    f'file, {self.delimiter!r} and a whole number from 0 of at most nine digits'
                    f'{missing}; several labels need multi_class=True, none test_mode=True'
                )
        if self.num_classes is not None and (number := max(labels, default=0)) >= self.num_classes:
            raise UserError(
                f'{where}: label {number} of {name} is no class; labels are from 0 to '
                f'{self.num_classes - 1}'
            )
        label = labels if self.multi_class else (labels[0] if labels else -1)
        return dict(filename=self._path(name), label=label, where=where)

    def _once(self, videos: list[dict]) -> list[dict]:
        """Require one label per file; in testing, leave out repeats, which would count twice."""
        first: dict[str, dict] = {}
        for video in videos:
            other = first.setdefault(os.path.normpath(video['filename']), video)
            if other['label'] != video['label']:
                many = 'on one line' if self.multi_class else 'with multi_class=True, on one line'
                raise UserError(
                    f'{video["where"]}: {video["filename"]} has the label {video["label"]}, and '
                    f'{other["label"]} before ({other["where"]}); keep the right one, or give all '
                    f'{many}'
                )
        if not self.test_mode or len(first) == len(videos):
            return videos  # a training may list a file more often, to see more of it
        warn(
            f'{self.ann_file}: {len(videos) - len(first)} of {len(videos)} lines name a video '
            'once more and are left out'
        )
        return list(first.values())

    def _path(self, name: str) -> str:
        return os.path.join(self.data_prefix.get('video') or '', name)

    def _is_file(self, name: str) -> bool:
        path = self._path(name)
        return '://' in path or os.path.isfile(path)  # remote files are assumed to exist

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels of a video, by which mmengine's ClassBalancedDataset repeats it."""
        return as_list(BaseDataset.get_data_info(self, idx)['label'])  # mmaction2's makes a vector

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
        kept = [video for video, reason in zip(videos, reasons, strict=True) if reason is None]
        for reason in filter(None, reasons):
            warn(f'left out: {reason}')
        if not kept:
            raise UserError(
                f'{self.ann_file}: none of the {len(videos)} videos can be read, the first: '
                f'{reasons[0]}'
            )
        if len(kept) < len(videos):
            warn(f'{len(videos) - len(kept)} of {len(videos)} videos cannot be read; scores are '
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
                    f'{error} ({video["where"]}); fetch it again, mend the '
                    'line, or set skip_unreadable=True in the data set'
                ) from error
            if video['filename'] not in self.unreadable:
                self.unreadable.add(video['filename'])
                warn(f'{error}; another is drawn in its place '
                      f'({len(self.unreadable)} so far)')  # fmt: skip
            if len(self.unreadable) == self.distinct:
                raise UserError(
                    f'{self.ann_file}: none of the {self.distinct} videos can be read, the last: '
                    f'{error}'
                ) from error
            if len(self.unreadable) > self.max_unreadable:
                raise UserError(
                    f'more than {self.max_unreadable} videos cannot be read (max_unreadable of the '
                    f'data set), the last: {error}'
                ) from error
            return None
