"""A page in the browser: drop a picture or a clip and see what a model finds in it."""

import argparse
import html
import importlib.util
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import IMAGES
from ..options import ArgumentParser, add_model_options

if TYPE_CHECKING:
    from .ui_page import Page

# the page must load nothing from other servers, whatever Gradio or a file name asks for
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)
_STYLE = """
.gradio-container {width: 100%; max-width: 1200px !important; margin: auto}
#heading h1 {margin: 0; font-size: 1.5rem}
#heading p {margin: .2rem 0 0; opacity: .75; overflow-wrap: anywhere}
#picture .image-frame, #picture img {width: 100%; max-height: 70vh; object-fit: contain}
#maps img {max-height: 80vh; object-fit: contain}
#film video {max-height: 70vh}
.found {max-height: 340px; overflow: auto}
.found table {width: 100%; margin: 0; border: 0 !important; border-collapse: collapse}
.found th, .found td {padding: .4rem .75rem; text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important}
.found tr, .found thead {border: 0 !important}
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


@contextmanager
def _told(path: str | None = None) -> Iterator[None]:
    """Show a `UserError` as a message on the page; it is escaped, as Gradio renders HTML."""
    import gradio

    try:
        yield
    except UserError as error:
        text = str(error)
        if path is not None:
            text = text.replace(path, Path(path).name)
        raise gradio.Error(html.escape(text), duration=None, print_exception=False) from error


def build_page(page: 'Page', title: str) -> Any:
    """The page, as Gradio's blocks."""
    import gradio as gr

    from .. import hosts
    from ..inference.sources import VIDEOS
    from .ui_page import AGE, Shown

    clips, cfg = page.predictor.of_clips, page.predictor.cfg
    kinds, what = (VIDEOS, 'clip') if clips else (IMAGES + VIDEOS, 'picture or clip')
    begin = f'Drop a {what} to begin.'
    choices = [(name, i) for i, name in enumerate(page.classes)]
    model: dict[str, Any] = dict(  # one prediction at a time
        concurrency_id='model', concurrency_limit=1, api_visibility='private'
    )
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(AGE, AGE)) as blocks:
        gr.HTML(
            f'<h1>{type(page.predictor.model).__name__}</h1><p>{html.escape(title)}</p>',
            elem_id='heading',
        )
        with gr.Tab('Predict'), gr.Row():
            with gr.Column(scale=1, min_width=280):
                file = gr.File(
                    label=what.capitalize(), file_types=list(kinds), height=160, elem_id='file'
                )
                score = gr.Slider(
                    0, 1, value=page.score, step=0.01, label='Least score of a box',
                    visible=hosts.of(cfg).finds_boxes, elem_id='score',
                )  # fmt: skip
                classes = gr.Dropdown(
                    choices, value=[], multiselect=True, visible=bool(choices), label='Classes',
                    info='none chosen: all are shown', elem_id='classes',
                )  # fmt: skip
                download = gr.DownloadButton(
                    'Download results', interactive=False, variant='primary', elem_id='download'
                )
            with gr.Column(scale=2, min_width=320):
                summary = gr.HTML(f'<div>{begin}</div>', elem_id='summary')
                picture = gr.Image(
                    type='filepath', format='jpeg', show_label=False, interactive=False,
                    buttons=['download', 'fullscreen'], elem_id='picture',
                )  # fmt: skip
                film = gr.Video(show_label=False, visible=False, interactive=False, elem_id='film')
                best = gr.Label(show_label=False, visible=False, elem_id='best')
                table = gr.HTML(visible=False, elem_id='table')
        # the result of `Page.read`, and the settings that it was drawn with
        memory = gr.State(time_to_live=AGE)

        def fill(shown: Shown, known: Any = None) -> dict:
            return {
                summary: f'<div>{shown.summary}</div>',
                picture: gr.update(value=shown.picture, visible=not shown.film),
                film: gr.update(value=shown.film, visible=bool(shown.film)),
                best: gr.update(value=shown.scores or None, visible=bool(shown.scores)),
                table: gr.update(value=shown.table, visible=bool(shown.table)),
                download: gr.update(value=shown.results or None, interactive=bool(shown.results)),
                memory: known,
            }

        def show(
            path: str | None, least: float, chosen: list[int], known: Any,
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> dict:  # fmt: skip
            """Predict on a new file or a video; redraw a picture that was predicted before."""
            if path is None:
                return {summary: gr.skip()}
            with _told(path):
                if page.is_film(path):
                    return fill(
                        page.film(
                            path, least, chosen, lambda i: progress((i + 1, None), unit='frames')
                        )
                    )
                item, result = known[0] if known else page.read(path)
                shown = page.draw(item, result, least, chosen)
            return fill(shown, ((item, result), least, chosen))

        def first(
            path: str, least: float, chosen: list[int], progress: Any = gr.Progress()  # noqa: B008
        ) -> dict:  # fmt: skip
            return show(path, least, chosen, None, progress)

        def moved(path: str | None, least: float, chosen: list[int], known: Any) -> dict:
            """Redraw a picture while the slider moves; a video would take too long."""
            if path is None or known is None or known[1:] == (least, chosen):
                return {summary: gr.skip()}
            return show(path, least, chosen, known)

        def released(
            path: str | None, least: float, chosen: list[int], known: Any,
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> dict:  # fmt: skip
            """Predict on a video again, only once the slider is released."""
            if path is None or not page.is_film(path):
                return {summary: gr.skip()}
            return show(path, least, chosen, known, progress)

        def blank() -> dict:
            return fill(Shown(begin, ''))

        outputs = [summary, picture, film, best, table, download, memory]
        settings = [file, score, classes]
        told = dict(show_progress_on=picture, **model)
        private: dict[str, Any] = dict(api_visibility='private')
        done = file.upload(first, settings, outputs, **told)
        done.failure(blank, None, outputs, **private)
        # if the slider was moved in the meantime
        done.success(moved, [*settings, memory], outputs, show_progress='hidden', **model)
        score.change(
            moved, [*settings, memory], outputs, trigger_mode='always_last',
            show_progress='hidden', **model,
        )  # fmt: skip
        again = score.release(
            released, [*settings, memory], outputs, trigger_mode='always_last', **told
        )
        others = classes.change(show, [*settings, memory], outputs, **told)
        # else the next upload is ignored until they are done, and their result is shown for it
        file.clear(blank, None, outputs, cancels=[done, again, others], **private)
        _add_biases(page, model)
    return blocks


def _add_biases(page: 'Page', options: dict[str, Any]) -> None:
    """Add a tab with the position bias of a block, if the model has any."""
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
    """A port to listen on: the given one, or any free one for 0.

    Raises `UserError` if the port is in use or not allowed, or `host` is not one of this machine.
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
    parser = ArgumentParser(
        'mmswinv2 ui',
        description='Show what a model finds in pictures and clips on a page in the browser.',
        epilog='example: mmswinv2 ui config.py work_dirs/run/epoch_36.pth --port 8000',
    )
    add_model_options(parser)
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to listen on; 0.0.0.0: all (127.0.0.1)'
    )
    parser.add_argument('--port', type=int, default=7860, help='0: any that is free (7860)')
    parser.add_argument('--max-size', type=float, default=50, help='of a file, in MB (50)')
    parser.add_argument('--max-frames', type=int, default=100, help='of each video (100)')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 ui``."""
    args = parse_args(arguments)
    from ..engine.launch import config_with_options
    from ..inference.predict import check_score
    from ..inference.predictor import Predictor
    from .ui_page import Page

    check_score(args.score)
    for option in ('max_size', 'max_frames'):
        if not 0 < getattr(args, option) < float('inf'):
            name = option.replace('_', '-')
            raise UserError(f'--{name} must be more than 0, got {getattr(args, option)}')
    port = free_port(args.host, args.port)
    if importlib.util.find_spec('gradio') is None:
        raise UserError("the page needs Gradio: pip install 'mmswinv2[ui]'")
    cfg = config_with_options(args.config, args.cfg_options)
    predictor = Predictor(cfg, args.checkpoint, args.device, args.amp)
    with tempfile.TemporaryDirectory(prefix='mmswinv2-ui-') as folder:
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED='False')
        _serve(Page(predictor, Path(folder), args.score, args.max_frames), args, port)


def _serve(page: 'Page', args: argparse.Namespace, port: int) -> None:
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
