"""A page in the browser: drop a picture or a clip and see what a model finds in it."""

from __future__ import annotations

import argparse
import html
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .predict import IMAGES, VIDEOS, Predictor, _frames, _Item, _Writer, check_score

_MOST_ROWS = 200  # of the table of what was found
_BEYOND_PILLOW = ('.npy', '.tif', '.tiff')  # which the loaders may know, or tell what is wrong
_AGE = 3600  # seconds that files are kept
# nothing from other servers, whatever a version of Gradio or a name in a file asks for
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
_STYLE = """
.gradio-container {max-width: 1200px !important; margin: auto}
#heading h1 {margin: 0; font-size: 1.5rem}
#heading p {margin: .2rem 0 0; opacity: .75; overflow-wrap: anywhere}
#picture .image-frame, #picture img {width: 100%; max-height: 70vh; object-fit: contain}
#maps img {max-height: 80vh; object-fit: contain}
#film video {max-height: 70vh}
.found {max-height: 340px; overflow: auto}
.found table {width: 100%; margin: 0; border: 0 !important; border-collapse: collapse}
.found th, .found td {padding: .4rem .75rem; text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important}
.found th {position: sticky; top: 0; background: var(--background-fill-secondary)}
#summary {font-size: 1.05rem; overflow-wrap: anywhere}
"""


class _Policy:
    """Adds the Content-Security-Policy to every answer; an ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message['type'] == 'http.response.start':
                added = [(b'content-security-policy', _POLICY.encode())]
                message['headers'] = [*message.get('headers', ()), *added]
            await send(message)

        await self.app(scope, receive, with_policy)


def is_film(path: str, predictor: Predictor) -> bool:
    """Whether a file is a video whose frames are predicted one by one."""
    return Path(path).suffix.lower() in VIDEOS and not predictor.of_clips


def choose(result: Any, classes: Sequence[int]) -> Any:
    """A result with some classes alone; of label maps, the others become 255, "not labelled".

    Args:
        result: data sample of a host, which is not changed.
        classes: numbers; none of them: all stay.
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


class Page:
    """What the page does, without the page: from a file to pictures, results and words.

    Args:
        predictor: the model.
        folder: for the results; each call has a folder of its own in it.
        score: the least score of a box that the page begins with.
        max_frames: of a video whose frames are predicted one by one.
    """

    def __init__(
        self, predictor: Predictor, folder: Path, score: float = 0.3, max_frames: int = 100
    ) -> None:
        self.predictor, self.folder = predictor, folder
        self.score, self.max_frames = score, max_frames
        self.classes = [str(name) for name in predictor.meta.get('classes') or ()]

    def read(self, path: str) -> tuple[_Item, Any]:
        """Predict on a picture, or on a clip by a video classifier.

        Returns:
            the file with its picture, for the writer, and the result.

        Raises:
            UserError: if it cannot be read.
        """
        import mmcv

        name, kind = Path(path).name, Path(path).suffix.lower()
        if self.predictor.of_clips:
            ((_, result),) = self.predictor.outcomes([_Item('result', path)])
            return _Item('result', name, _strip(path)), result
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
        ((_, result),) = self.predictor.outcomes([_Item('result', path)])
        return _Item('result', name, mmcv.imread(path, channel_order='rgb')), result

    def draw(
        self, item: _Item, result: Any, score: float, classes: Sequence[int]
    ) -> tuple[str | None, str, _Writer]:
        """Draw and write a result; gives the picture, the file of results and the writer."""
        writer = self._writer(score)
        drawn = writer.add(item, choose(result, classes))
        if self.predictor.of_clips:
            drawn = item.image
        writer.save(item, drawn)
        writer.close()
        (results,) = writer.results.iterdir()
        return str(writer.pictures / 'result.jpg'), str(results), writer

    def film(
        self, path: str, score: float, classes: Sequence[int], progress: Callable[[int], Any]
    ) -> tuple[str, str, _Writer, int]:
        """Predict on the frames of a video; gives it, the results, the writer and their number."""
        writer = self._writer(score)
        frames, fps = _frames('result', path, self.max_frames)

        def outcomes(items: Iterable[_Item]) -> Iterator[tuple[_Item, Any]]:
            for number, (item, result) in enumerate(self.predictor.outcomes(items)):
                progress(number)
                named = item.path.replace(path, Path(path).name)
                yield replace(item, path=named), choose(result, classes)

        number = sum(1 for _ in writer.film('result', frames, fps, outcomes))
        if not number:
            raise UserError(f'{path} has no frames')
        writer.close()
        results = next(writer.results.iterdir())
        if results.is_dir():  # a label map for each frame
            results = Path(shutil.make_archive(str(results), 'zip', results))
        return str(writer.pictures / 'result.mp4'), str(results), writer, number

    def new_folder(self) -> Path:
        """A folder for one result; those of an hour ago are deleted, which Gradio leaves alone."""
        for old in self.folder.glob('result-*'):
            if time.time() - old.stat().st_mtime > _AGE:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=self.folder, prefix='result-'))

    def _writer(self, score: float) -> _Writer:
        return _Writer(self.new_folder(), self.predictor.cfg, self.predictor.meta, score)

    def scores(self, result: Any, classes: Sequence[int]) -> dict[str, float]:
        """The five best classes of a classifier, of all or of some."""
        scores = result.pred_score if hasattr(result, 'pred_score') else result.pred_scores.item
        known = [(float(scores[i]), i) for i in classes or range(len(scores)) if i < len(scores)]
        best = sorted(known, reverse=True)[:5]
        names = self.classes
        return {names[i] if i < len(names) else f'class {i}': score for score, i in best}

    def rows(self, writer: _Writer) -> list[list[Any]]:
        """A row for each box that was found, the surest first."""
        found = sorted(writer.found, key=lambda entry: -entry['score'])[:_MOST_ROWS]
        return [
            [
                writer.class_name(entry['category_id']),
                round(entry['score'], 3),
                ', '.join(f'{side:.0f}' for side in entry['bbox']),
            ]
            for entry in found
        ]

    def labels(self, result: Any) -> list[list[Any]]:
        """A row for each class in a label map and its share of the image, the largest first."""
        values, counts = np.unique(result.pred_sem_seg.data.numpy(), return_counts=True)
        total = counts.sum()
        rows = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)
        return [
            [self.classes[value], f'{100 * count / total:.1f} %']
            for count, value in rows
            if value < len(self.classes)
        ]


def _strip(path: str, number: int = 4) -> np.ndarray:
    """Some frames of a clip side by side, (H, W, 3) RGB."""
    from ..datasets.video_files import open_video

    reader = open_video(path)
    frames = reader.read([i * (len(reader) - 1) // (number - 1) for i in range(number)])
    return np.ascontiguousarray(np.hstack(list(frames)))


@contextmanager
def _told(path: str | None = None) -> Iterator[None]:
    """Show a user's mistake as a message on the page, which takes HTML, so it is escaped."""
    import gradio

    try:
        yield
    except UserError as error:
        text = str(error)
        if path is not None:
            text = text.replace(path, Path(path).name)
        raise gradio.Error(html.escape(text), duration=None, print_exception=False) from error


def build_page(page: Page, title: str) -> Any:
    """The page, as Gradio's blocks."""
    import gradio as gr

    predictor = page.predictor
    detects = 'mmdet' in str(predictor.cfg.get('default_scope'))
    classifies = predictor.of_clips or 'mmpretrain' in str(predictor.cfg.get('default_scope'))
    kinds = VIDEOS if predictor.of_clips else IMAGES + VIDEOS
    what = 'Clip' if predictor.of_clips else 'Picture or clip'
    choices = [(name, i) for i, name in enumerate(page.classes)]
    headers = ['class', 'score', 'x, y, width, height'] if detects else ['class', 'share']
    model: dict[str, Any] = dict(  # one prediction at a time
        concurrency_id='model', concurrency_limit=1, api_visibility='private'
    )

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_AGE, _AGE)) as blocks:
        gr.HTML(
            f'<h1>{html.escape(type(predictor.model).__name__)}</h1><p>{html.escape(title)}</p>',
            elem_id='heading',
        )
        with gr.Tab('Predict'), gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(label=what, file_types=list(kinds), height=160, elem_id='file')
                score = gr.Slider(
                    0, 1, value=page.score, step=0.01, label='Least score of a box',
                    visible=detects, elem_id='score',
                )  # fmt: skip
                classes = gr.Dropdown(
                    choices, value=[], multiselect=True, visible=bool(choices), label='Classes',
                    info='none chosen: all are shown', elem_id='classes',
                )  # fmt: skip
                download = gr.DownloadButton(
                    'Download results', interactive=False, variant='primary', elem_id='download'
                )
            with gr.Column(scale=2, min_width=320):
                summary = gr.HTML(f'Drop a {what.lower()} to begin.', elem_id='summary')
                picture = gr.Image(
                    type='filepath', format='jpeg', show_label=False, interactive=False,
                    buttons=['download', 'fullscreen'], elem_id='picture',
                )  # fmt: skip
                video = gr.Video(show_label=False, visible=False, interactive=False, elem_id='film')
                best = gr.Label(show_label=False, visible=False, elem_id='best')
                table = gr.HTML(visible=False, elem_id='table')
        memory = gr.State(time_to_live=_AGE)
        outputs = [summary, picture, video, best, table, download, memory]

        def blank(words: str) -> dict:
            hidden: dict[Any, Any] = {
                part: gr.update(value=None, visible=False) for part in (video, best, table)
            }
            return hidden | {
                summary: words,
                picture: gr.update(value=None, visible=True),
                download: gr.update(value=None, interactive=False),
                memory: None,
            }

        def still(path: str, least: float, chosen: list[int], known: Any) -> dict:
            with _told(path):
                if known is None:
                    known = page.read(path)
                item, result = known
                drawn, results, writer = page.draw(item, result, least, chosen)
            shown = blank('') | {picture: drawn, memory: known}
            name = html.escape(item.path)
            if classifies:
                scores = page.scores(result, chosen)
                shown[best] = gr.update(value=scores, visible=True)
                shown[summary] = f'<b>{html.escape(next(iter(scores), "nothing"))}</b> in {name}'
            elif detects:
                rows = page.rows(writer)
                shown[table] = gr.update(value=_table(headers, rows), visible=bool(rows))
                shown[summary] = f'<b>{_count(len(writer.found))}</b> in {name}'
            else:
                rows = page.labels(choose(result, chosen))
                shown[table] = gr.update(value=_table(headers, rows), visible=bool(rows))
                shown[summary] = f'<b>{_count(len(rows), "class", "classes")}</b> in {name}'
            shown[download] = gr.update(value=results, interactive=True)
            return shown

        def film(path: str, least: float, chosen: list[int], progress: Any) -> dict:
            with _told(path):
                drawn, results, writer, number = page.film(
                    path, least, chosen, lambda i: progress((i + 1, None), unit='frames')
                )
            shown = blank('')
            shown[picture] = gr.update(value=None, visible=False)
            shown[video] = gr.update(value=drawn, visible=True)
            if detects:
                rows = page.rows(writer)
                shown[table] = gr.update(value=_table(headers, rows), visible=bool(rows))
            found = f'<b>{_count(len(writer.found))}</b> in ' if detects else ''
            frames = 'the first ' * (number == page.max_frames) + _count(number, 'frame', 'frames')
            shown[summary] = f'{found}{frames} of {html.escape(Path(path).name)}'
            shown[download] = gr.update(value=results, interactive=True)
            return shown

        def first(
            path: str,
            least: float,
            chosen: list[int],
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> dict:
            if is_film(path, predictor):
                return film(path, least, chosen, progress)
            return still(path, least, chosen, None)

        def again(
            path: str | None, least: float, chosen: list[int], known: Any,
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> dict:  # fmt: skip
            if path is None:
                return {summary: gr.skip()}
            if is_film(path, predictor):
                return film(path, least, chosen, progress)
            return still(path, least, chosen, known) if known else {summary: gr.skip()}

        def moved(path: str | None, least: float, chosen: list[int], known: Any) -> dict:
            """While the slider moves: a picture alone, as a film takes long."""
            return still(path, least, chosen, known) if path and known else {summary: gr.skip()}

        settings = [file, score, classes]
        shown = file.upload(first, settings, outputs, show_progress_on=picture, **model)
        shown.failure(lambda: blank('Nothing to show.'), None, outputs, api_visibility='private')
        file.clear(
            lambda: blank(f'Drop a {what.lower()} to begin.'), None, outputs,
            api_visibility='private',
        )  # fmt: skip
        score.change(
            moved, [*settings, memory], outputs, trigger_mode='always_last',
            show_progress='hidden', **model,
        )  # fmt: skip
        score.release(
            lambda path, *rest: again(path, *rest)
            if path and is_film(path, predictor)
            else {summary: gr.skip()},
            [*settings, memory], outputs, show_progress_on=picture, **model,
        )  # fmt: skip
        classes.change(again, [*settings, memory], outputs, show_progress_on=picture, **model)
        _add_biases(page, model)
    return blocks


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in HTML."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return '<tr>' + ''.join(f'<{tag}>{html.escape(str(c))}</{tag}>' for c in cells) + '</tr>'

    body = ''.join(line(row, 'td') for row in rows)
    head = line(headers, 'th')
    return f'<div class="found"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _count(number: int, one: str = 'object', many: str = 'objects') -> str:
    return f'{number} {one if number == 1 else many}'


def _add_biases(page: Page, options: dict[str, Any]) -> None:
    """A tab with the position bias of a block, where the model has some."""
    import gradio as gr

    from ..analysis import bias_maps, draw_bias, find_biases

    biases = find_biases(page.predictor.model)
    if not biases:
        return
    names = {f'stage {stage}, block {block}': bias for (stage, block), bias in biases.items()}
    heads_in = {name: next(len(p) for p in bias[2].parameters()) for name, bias in names.items()}
    first = next(iter(names.values()))

    def draw(name: str, heads: list[int], window: int) -> Any:
        bias = names[name]
        chosen = heads or list(range(min(4, heads_in[name])))
        side = bias.pretrained_window[-1]
        rows = list(bias_maps(bias, [side, window] if window != side else [side]))
        file = page.new_folder() / 'position_bias.png'
        draw_bias(rows, chosen).savefig(file, dpi=150)
        return str(file)

    def heads_of(name: str) -> Any:
        return gr.update(choices=list(range(heads_in[name])), value=[])

    with gr.Tab('Position bias') as tab, gr.Row():
        with gr.Column(scale=1, min_width=280):
            gr.Markdown(
                'What a block adds to the scores of two tokens, by their offset (paper, figure 4): '
                'in the window of the pre-training, and in another. The centre is a token itself.'
            )
            block = gr.Dropdown(list(names), value=next(iter(names)), label='Block')
            heads = gr.Dropdown(
                list(range(next(iter(heads_in.values())))), value=[], multiselect=True,
                label='Heads', info='none chosen: the first four',
            )  # fmt: skip
            window = gr.Slider(
                2, 64, value=2 * first.pretrained_window[-1], step=1, label='Another window, tokens'
            )
        with gr.Column(scale=2, min_width=320):
            maps = gr.Image(
                type='filepath', format='png', show_label=False, interactive=False, elem_id='maps',
                buttons=['download', 'fullscreen'],
            )  # fmt: skip
    settings = [block, heads, window]
    tab.select(draw, settings, maps, **options)
    block.change(heads_of, block, heads, api_visibility='private').then(
        draw, settings, maps, **options
    )
    heads.input(draw, settings, maps, **options)
    window.release(draw, settings, maps, **options)


def free_port(host: str, port: int) -> int:
    """A port that can be listened on: the given one, or any for 0.

    Raises:
        UserError: if it is in use or not allowed, or the host is none of this machine.
    """
    if not 0 <= port < 2**16:
        raise UserError(f'--port {port}: a port is from 0 to 65535')
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise UserError(
            f'--host {host}: no such address ({error.strerror}); 127.0.0.1 is this machine alone, '
            '0.0.0.0 all of its addresses'
        ) from error
    except OSError as error:
        raise UserError(
            f'the port {port} of {host} cannot be used ({error.strerror}): another program may '
            'have it; give another with --port, or --port 0 for any that is free'
        ) from error


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    from ..engine.settings import add_config_options

    parser = argparse.ArgumentParser(
        'mmswinv2 ui',
        description='Show what a model finds in pictures and clips on a page in the browser.',
        epilog='example: mmswinv2 ui config.py work_dirs/run/epoch_36.pth --port 8000',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='weights of the whole model')
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to listen on; 0.0.0.0: all (127.0.0.1)'
    )
    parser.add_argument('--port', type=int, default=7860, help='0: any that is free (7860)')
    parser.add_argument('--max-size', type=float, default=50, help='of a file, in MB (50)')
    parser.add_argument('--max-frames', type=int, default=100, help='of each video (100)')
    parser.add_argument('--score', type=float, default=0.3, help='least score of a box (0.3)')
    parser.add_argument('--device', help='such as cuda:1 or cpu')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 ui``."""
    from ..engine.launch import config_with_options

    args = parse_args(arguments)
    check_score(args.score)
    for option in ('max_size', 'max_frames'):
        if not 0 < getattr(args, option) < float('inf'):
            name = option.replace('_', '-')
            raise UserError(f'--{name} must be more than 0, got {getattr(args, option)}')
    if importlib.util.find_spec('gradio') is None:
        raise UserError("the page needs Gradio: pip install 'mmswinv2[ui]'")
    port = free_port(args.host, args.port)
    cfg = config_with_options(args.config, args.cfg_options)
    predictor = Predictor(cfg, args.checkpoint, args.device, args.amp)
    with tempfile.TemporaryDirectory(prefix='mmswinv2-ui-') as folder:
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED='False')
        _serve(Page(predictor, Path(folder), args.score, args.max_frames), args, port)


def _serve(page: Page, args: argparse.Namespace, port: int) -> None:
    """Show the page until the process is stopped."""
    import gradio as gr
    from starlette.middleware import Middleware

    title = f'{Path(args.config).name} with {Path(args.checkpoint).name}'
    theme = gr.themes.Default(
        primary_hue='blue', neutral_hue='slate', font=['system-ui', 'sans-serif'],
        font_mono=['ui-monospace', 'monospace'],
    )  # fmt: skip
    blocks = build_page(page, title)
    try:
        _, url, _ = blocks.launch(
            server_name=args.host, server_port=port, max_file_size=int(args.max_size * 2**20),
            share=False, quiet=True, prevent_thread_lock=True, run_history=False, footer_links=[],
            ssr_mode=False, mcp_server=False, pwa=False, num_workers=1, enable_monitoring=False,
            allowed_paths=[str(page.folder)], css=_STYLE,
            theme=theme,
            app_kwargs=dict(middleware=[Middleware(_Policy)]),
        )  # fmt: skip
        print(f'{title}: open {url} in a browser; Ctrl-C ends it', flush=True)
        if args.host not in ('127.0.0.1', 'localhost', '::1'):
            print(f'whoever can reach {args.host} can use it: there is no password', flush=True)
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)
        sys.stdout.flush()
