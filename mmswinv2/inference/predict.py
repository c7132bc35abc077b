"""Predict on pictures, videos and cameras with any model of the hosts, and write the results."""

import functools
import io
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ..checks import want
from ..errors import UserError
from ..log import warn
from ..progress import track
from .model import name_of
from .predictor import Predictor, check_count
from .results import ResultWriter
from .sources import divide, find_sources, frames_of

_MOST_IN_VAIN = 5  # inputs that cannot be read before the first one that can


def predict(
    config: Any,
    checkpoint: str | Path,
    inputs: str | Path | Sequence[str | Path],
    out_dir: str | Path | None = None,
    **options: Any,
) -> list[Any]:
    """Predict on images, folders, patterns, videos and cameras; all results of `iterate` in a list.

    Args:
        config: path of a config, or mmengine's `Config`.
        checkpoint: file, name or address of weights for the whole model.
        inputs: one or several paths, patterns or camera numbers.
        out_dir: folder for the results; ``None``: nothing is written.
        **options: ``score``, ``batch_size``, ``device`` and the other options of `iterate`.
    """
    return list(iterate(config, checkpoint, inputs, out_dir, **options))


def iterate(
    config: Any,
    checkpoint: str | Path,
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
        config: path of a config, or mmengine's `Config`, which is not changed; the pipeline of its
            ``test_dataloader`` is used.
        checkpoint: file, name or address of weights for the whole model.
        inputs: one or several paths, patterns or camera numbers.
        out_dir: folder for the results: ``vis`` with pictures or videos, ``preds`` with
            ``predictions.json`` in COCO's format (detectors), a label map for each image
            (segmentors) or ``predictions.jsonl`` (classifiers). ``None``: nothing is written.
        score: lowest score at which a box is drawn and written.
        batch_size: number of images per forward pass.
        device: such as ``'cuda:1'``; ``None``: a GPU if one is available.
        amp: run under autocast, in bfloat16 or, on older GPUs, float16.
        tta: predict on several views of each image, as ``tools/test.py --tta`` does.
        cfg_options: changes to the config, as for ``--cfg-options``.
        max_frames: most frames of each video or camera; not for classifiers of whole videos.

    Yields:
        the host's data sample for every image or clip, in the order of the inputs, then for every
        frame of the videos. ``None``, with a warning in the log, stands for an image or clip that
        cannot be read, and for the rest of a video.

    Raises:
        UserError: if the config or the weights cannot be used, or the first inputs cannot be read.
    """
    from .. import hosts
    from ..engine.configs import config_with_options

    check_score(score)
    check_count('batch_size', batch_size)
    if max_frames is not None:
        check_count('max_frames', max_frames)
    is_path = isinstance(out_dir, (str, os.PathLike, type(None)))
    want('out_dir', out_dir, 'the path of a folder', is_path)
    if not str(out_dir).strip():
        raise UserError('--out-dir is empty; name a folder')
    given = _as_texts(inputs)
    cfg = config_with_options(config, cfg_options)
    clips = hosts.of(cfg).input_axes == 3
    if clips and max_frames is not None:
        raise UserError(
            f'{name_of(cfg)} classifies whole videos, of which max_frames cannot take a part; '
            'leave it out, or cut the videos'
        )
    sources = list(find_sources(given, out_dir, clips))
    predictor = Predictor(cfg, checkpoint, device, amp, tta)
    writer = None
    with ExitStack() as stack:
        if out_dir is not None:
            writer = ResultWriter(Path(out_dir), predictor.cfg, predictor.meta, score)
            stack.callback(writer.close)  # results so far are written after an error or interrupt
        results = _results(predictor, sources, writer, batch_size, max_frames)
        yield from _warn_of_errors(stack.enter_context(closing(results)), len(sources))


def _warn_of_errors(results: Iterable[Any], inputs: int) -> Iterator[Any]:
    """The results, with ``None`` for each `UserError`.

    Raises:
        UserError: the first one, if none of the `inputs` can be read (of many, of the first ones).
    """
    left_out: list[UserError] = []
    any_read = False
    for result in results:
        if not isinstance(result, UserError):
            any_read = True
            yield result
            continue
        left_out.append(result)
        if not any_read and len(left_out) in (inputs, _MOST_IN_VAIN):
            raise left_out[0]  # it may be one of the config
        warn(f'left out: {result}')
        yield None


def _results(
    predictor: Predictor,
    sources: Sequence[str],
    writer: ResultWriter | None,
    batch_size: int,
    max_frames: int | None,
) -> Generator[Any]:
    """The data samples of all sources, written if there is a writer.

    A `UserError` stands for an image or clip that cannot be read, and for the rest of a video.
    """
    outcomes = functools.partial(predictor.outcomes, batch_size=batch_size)
    stills, films = divide(sources, clips=predictor.of_clips)
    for item, result in track(outcomes(stills, keep_errors=True), 'predicting', len(stills)):
        if writer is not None and not isinstance(result, UserError):
            writer.save(item, writer.add(item, result))
        yield result
    for name, source in films:
        yield from _results_of_film(name, source, writer, outcomes, max_frames)


def _results_of_film(
    name: str, source: str, writer: ResultWriter | None, outcomes: Any, max_frames: int | None
) -> Generator[Any]:
    """The data samples of the frames of a video or camera; see `_results`."""
    from ..datasets.video_files import UnreadableVideo

    results: Generator[Any]
    try:
        frames, fps, number = frames_of(name, source, max_frames)
        if writer is None:
            results = (result for _, result in outcomes(frames))
        else:
            results = track(writer.film(name, frames, fps, outcomes), 'frames', number)
        with closing(results):
            yield from results
    except UnreadableVideo as error:
        yield error


def _as_texts(inputs: Any) -> list[str]:
    """One or several inputs as texts; raises `UserError` if one is neither a path nor a number."""
    one_each = (str, bytes, os.PathLike, io.IOBase)  # the lines of an open file are no inputs
    single = not isinstance(inputs, Iterable) or isinstance(inputs, one_each)
    texts = []
    for one in [inputs] if single else inputs:
        content = isinstance(one, bytes) and b'\0' in one  # of a file; no path has such a byte
        if content or not isinstance(one, (str, bytes, os.PathLike, Integral)):
            raise UserError(
                f'inputs must be paths, patterns or numbers of cameras, got {type(one).__name__}; '
                'write an image to a file first'
            )
        texts.append(str(one) if isinstance(one, Integral) else os.fsdecode(one))
    return texts


def check_score(score: Any) -> None:
    """Raise `UserError` for a score outside [0, 1]."""
    want('score', score, 'from 0 to 1', isinstance(score, Real) and 0 <= float(score) <= 1)
