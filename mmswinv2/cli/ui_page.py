"""Logic of the page of `mmswinv2 ui`, without the interface: predict, draw and write results."""

import html
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..inference.drawing import picture_of
from ..inference.predictor import Predictor
from ..inference.results import ResultWriter
from ..inference.sources import Item, frames_of, is_video

AGE = 3600  # seconds that files are kept
_MOST_ROWS = 200  # of the table of boxes
_BEYOND_PILLOW = ('.npy', '.tif', '.tiff')  # formats that our loaders may read where Pillow fails


class Stopped(UserError):
    """Nobody waits for the result of a prediction any more."""


@dataclass
class Shown:
    """What the page shows for a result."""

    summary: str  # a line of HTML
    results: str  # path of the file to download
    picture: str | None = None  # path of the drawn picture
    film: str | None = None  # path of the drawn video
    scores: dict[str, float] = field(default_factory=dict)  # of the best classes, by name
    table: str = ''  # of boxes or classes, in HTML


class Page:
    """Logic of the page: predicts, draws and writes results.

    Args:
        predictor: the model.
        folder: folder for results, each in its own subfolder.
        score: initial lowest score of a box.
        max_frames: most frames of a video whose frames are predicted one by one.

    Attributes:
        classes: names of the classes.
    """

    def __init__(
        self, predictor: Predictor, folder: Path, score: float = 0.3, max_frames: int = 100
    ) -> None:
        from ..analysis.findings import distinct

        self.predictor, self.folder = predictor, folder
        self.score, self.max_frames = score, max_frames
        self.classes = distinct(predictor.meta.get('classes') or ())
        self._idle = threading.Condition()
        self._running = 0
        self._closed = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count what is being computed, which `close` waits for."""
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """End videos after the present frame, and wait until nothing is computed.

        A thread that computes while the interpreter exits would abort the process.
        """
        self._closed = True
        with self._idle:
            self._idle.wait_for(lambda: not self._running)

    def is_film(self, path: str) -> bool:
        """Whether a file is a video whose frames are predicted one by one."""
        return not self.predictor.of_clips and is_video(Path(path))

    def read(self, path: str) -> tuple[Item, Any]:
        """Predict on a picture, or on a clip by a video classifier.

        Returns an item with its picture, for the writer, and the data sample; raises `UserError` if
        the file cannot be read.
        """
        name, kind = Path(path).name, Path(path).suffix.lower()
        if self.predictor.of_clips:
            ((_, result),) = self.predictor.outcomes([Item('result', path)])
            return Item('result', name, _strip(path)), result
        try:
            with Image.open(path):
                pass
        except Image.DecompressionBombError as error:
            raise UserError(f'{path} has too many pixels ({error}); make it smaller') from error
        except OSError as error:
            if kind not in _BEYOND_PILLOW:
                raise UserError(
                    f'{path} is no picture: its content is none of a {kind[1:].upper()} or any '
                    'other known format; drop a picture, such as a JPEG or PNG'
                ) from error
        ((_, result),) = self.predictor.outcomes([Item('result', path)])
        return Item('result', name, picture_of(self.predictor.cfg, path)), result

    def draw(self, item: Item, result: Any, score: float, classes: Sequence[int]) -> Shown:
        """Draw and write a result of `read`, with a lowest score of boxes and chosen classes."""
        writer, chosen = self._writer(score), choose(result, classes)
        drawn = writer.add(item, chosen)
        writer.save(item, item.image if self.predictor.of_clips else drawn)
        writer.close()
        (results,) = writer.results.iterdir()
        shown = Shown('', str(results), picture=str(next(writer.pictures.glob('result.*'))))
        if hasattr(result, 'pred_instances'):
            shown.table, found = self._boxes(writer), count(len(writer.found), 'object')
        elif hasattr(result, 'pred_sem_seg'):
            rows = self._shares(chosen)
            shown.table = table(['class', 'share'], rows)
            found = count(len(rows), 'class', 'classes')
        else:
            shown.scores = self._scores(result, classes)
            found = next(iter(shown.scores), 'nothing')
        shown.summary = f'<b>{html.escape(found)}</b> in {html.escape(item.path)}'
        return shown

    def film(
        self, path: str, score: float, classes: Sequence[int], progress: Callable[[int], Any],
        stopped: Callable[[], bool],
    ) -> Shown:  # fmt: skip
        """Predict on the frames of a video, draw and write them as `draw` does.

        `progress` is called with the index of each frame.

        Raises:
            UserError: if the video cannot be read.
            Stopped: after the present frame, once `stopped` says so or the page is closed.
        """
        writer, name = self._writer(score), Path(path).name
        frames, fps, _ = frames_of('result', path, self.max_frames)

        def outcomes(items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
            for number, (item, result) in enumerate(self.predictor.outcomes(items)):
                if self._closed or stopped():
                    raise Stopped('the prediction was stopped')
                progress(number)
                yield replace(item, path=item.path.replace(path, name)), choose(result, classes)

        number = sum(1 for _ in writer.film('result', frames, fps, outcomes))
        writer.close()
        (results,) = writer.results.iterdir()
        if results.is_dir():  # a label map for each frame
            results = Path(shutil.make_archive(str(results), 'zip', results))
        shown = Shown('', str(results), film=str(writer.pictures / 'result.mp4'))
        shown.summary = f'{count(number, "frame")} of {html.escape(name)}'
        if number == self.max_frames:
            shown.summary = f'the first {shown.summary}'
        if writer.kind == 'predictions.json':
            shown.table = self._boxes(writer)
            shown.summary = f'<b>{count(len(writer.found), "object")}</b> in {shown.summary}'
        return shown

    def new_folder(self) -> Path:
        """A new folder for one result; deletes those older than `AGE`, as Gradio does not."""
        for old in self.folder.glob('result-*'):
            if time.time() - old.stat().st_mtime > AGE:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self.folder, prefix='result-'))

    def _writer(self, score: float) -> ResultWriter:
        return ResultWriter(self.new_folder(), self.predictor.cfg, self.predictor.meta, score)

    def _scores(self, result: Any, classes: Sequence[int]) -> dict[str, float]:
        """The five best classes of a classifier, among all or the given ones."""
        scores = result.pred_score
        known = [(float(scores[i]), i) for i in classes or range(len(scores)) if i < len(scores)]

        def name(i: int) -> str:
            return self.classes[i] if i < len(self.classes) else f'class {i}'

        return {name(i): score for score, i in sorted(known, reverse=True)[:5]}

    def _boxes(self, writer: ResultWriter) -> str:
        """A table with a row for each box, highest score first."""
        found = sorted(writer.found, key=lambda entry: -entry['score'])[:_MOST_ROWS]
        rows = [
            (
                writer.class_name(entry['category_id']),
                f'{entry["score"]:.3f}',
                ', '.join(f'{side:.0f}' for side in entry['bbox']),
            )
            for entry in found
        ]
        return table(['class', 'score', 'x, y, width, height'], rows)

    def _shares(self, result: Any) -> list[tuple[str, str]]:
        """Classes in a label map with their share of the pixels, the largest first."""
        values, counts = np.unique(result.pred_sem_seg.data.numpy(), return_counts=True)
        total = counts.sum()
        rows = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)
        return [
            (self.classes[value], f'{100 * count / total:.1f} %')
            for count, value in rows
            if value < len(self.classes)
        ]


def choose(result: Any, classes: Sequence[int]) -> Any:
    """Keep some classes of a result, or all if none is given; the result itself is not changed.

    In label maps others become 255, "not labeled".
    """
    if not classes:
        return result
    result = result.clone()
    if hasattr(result, 'pred_instances'):
        labels = result.pred_instances.labels.numpy()
        result.pred_instances = result.pred_instances[np.isin(labels, classes)]
    elif hasattr(result, 'pred_sem_seg'):
        labels = result.pred_sem_seg.data.clone()
        labels[~np.isin(labels.numpy(), classes)] = 255
        result.pred_sem_seg = type(result.pred_sem_seg)(data=labels)
    return result


def _strip(path: str) -> np.ndarray:
    """Four frames of a clip side by side, (H, W, 3) RGB."""
    from ..datasets.video_files import open_video

    reader = open_video(path)
    frames = reader.read([i * (len(reader) - 1) // 3 for i in range(4)])
    return np.ascontiguousarray(np.hstack(list(frames)))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML; an empty string if there are no rows."""

    def line(cells: Sequence[str], tag: str) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells) + '</tr>'

    if not rows:
        return ''
    head, body = line(headers, 'th'), ''.join(line(row, 'td') for row in rows)
    return f'<div class="found"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def count(number: int, one: str, many: str = '') -> str:
    """A number and its noun."""
    return f'{number} {one if number == 1 else many or one + "s"}'
