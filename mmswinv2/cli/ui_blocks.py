"""The interface of the page of `mmswinv2 ui`: its components, and what happens when they change.

This is a module of its own because it needs Gradio at import.
"""

import html
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import UserError
from ..files import IMAGES
from ..inference.sources import VIDEOS
from .ui_page import AGE, Page, Shown, Stopped

# of events that run the model: one at a time
_MODEL: dict[str, Any] = dict(concurrency_id='model', concurrency_limit=1, api_visibility='private')
_PRIVATE: dict[str, Any] = dict(api_visibility='private')


def build_page(page: Page, title: str) -> Any:
    """The page, as Gradio's blocks."""
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(AGE, AGE)) as blocks:
        gr.HTML(
            f'<h1>{type(page.predictor.model).__name__}</h1><p>{html.escape(title)}</p>',
            elem_id='heading',
        )
        blocks.unload(_Predictions(page).closed)
        _add_biases(page)
    return blocks


@contextmanager
def errors_on_page(path: str) -> Iterator[None]:
    """Show a `UserError` as a message on the page; it is escaped, as Gradio renders HTML.

    The `path` in the message is shown as the name of the file.
    """
    try:
        yield
    except UserError as error:
        text = str(error).replace(path, Path(path).name)
        raise gr.Error(html.escape(text), duration=None, print_exception=False) from error


class _Predictions:
    """The tab that shows what the model finds in a file."""

    def __init__(self, page: Page) -> None:
        self.page = page
        clips = page.predictor.of_clips
        kinds: tuple[str, ...]
        kinds, what = (VIDEOS, 'clip') if clips else (IMAGES + VIDEOS, 'picture or clip')
        self.invitation = f'Drop a {what} to begin.'
        with gr.Tab('Predict'), gr.Row():
            with gr.Column(scale=1, min_width=280):
                self._add_settings(what, kinds)
            with gr.Column(scale=2, min_width=320):
                self._add_results()
        # the result of `Page.read`, and the settings that it was drawn with
        self.memory = gr.State(time_to_live=AGE)
        # path of the file on the page, by session; none that was lost with its connection
        self.present: dict[str | None, str | None] = {}
        self._connect()

    def _add_settings(self, what: str, kinds: tuple[str, ...]) -> None:
        from .. import hosts

        page = self.page
        self.file = gr.File(
            label=what.capitalize(), file_types=list(kinds), height=160, elem_id='file'
        )
        self.score = gr.Slider(
            0, 1, value=page.score, step=0.01, label='Least score of a box',
            visible=hosts.of(page.predictor.cfg).finds_boxes, elem_id='score',
        )  # fmt: skip
        choices = [(name, i) for i, name in enumerate(page.classes)]
        self.classes = gr.Dropdown(
            choices, value=[], multiselect=True, visible=bool(choices), label='Classes',
            info='none chosen: all are shown', elem_id='classes',
        )  # fmt: skip
        self.download = gr.DownloadButton(
            'Download results', interactive=False, variant='primary', elem_id='download'
        )

    def _add_results(self) -> None:
        self.summary = gr.HTML(f'<div>{self.invitation}</div>', elem_id='summary')
        self.picture = gr.Image(
            type='filepath', format='jpeg', show_label=False, interactive=False,
            buttons=['download', 'fullscreen'], elem_id='picture',
        )  # fmt: skip
        self.film = gr.Video(show_label=False, visible=False, interactive=False, elem_id='film')
        self.best = gr.Label(show_label=False, visible=False, elem_id='best')
        self.table = gr.HTML(visible=False, elem_id='table')

    def _connect(self) -> None:
        """Say what happens when a file comes or goes and when a setting changes."""
        outputs = [
            *(self.summary, self.picture, self.film, self.best, self.table, self.download),
            self.memory,
        ]
        settings = [self.file, self.score, self.classes]
        with_memory = [*settings, self.memory]
        slow = dict(show_progress_on=self.picture, **_MODEL)
        quick = dict(show_progress='hidden', **_MODEL)
        # 'once', the default, ignores a file that comes while the one before is still predicted
        many: dict[str, Any] = dict(trigger_mode='multiple')
        received = self.file.upload(
            self._received, self.file, None, queue=False, **many, **_PRIVATE
        )
        done = received.then(self._uploaded, settings, outputs, **many, **slow)
        # if the slider was moved in the meantime
        done.success(self._moved, with_memory, outputs, **quick)
        self.score.change(self._moved, with_memory, outputs, trigger_mode='always_last', **quick)
        self.score.release(self._released, with_memory, outputs, trigger_mode='always_last', **slow)
        self.classes.change(self._show, with_memory, outputs, **slow)
        self.file.clear(self._removed, None, outputs, queue=False, **_PRIVATE)

    def _fill(self, shown: Shown, known: Any = None) -> dict:
        """The new values of all components."""
        return {
            self.summary: f'<div>{shown.summary}</div>',
            self.picture: gr.update(value=shown.picture, visible=not shown.film),
            self.film: gr.update(value=shown.film, visible=bool(shown.film)),
            self.best: gr.update(value=shown.scores or None, visible=bool(shown.scores)),
            self.table: gr.update(value=shown.table, visible=bool(shown.table)),
            self.download: gr.update(value=shown.results or None, interactive=bool(shown.results)),
            self.memory: known,
        }

    def _received(self, path: str, request: gr.Request) -> None:
        self.present[request.session_hash] = path

    def _removed(self, request: gr.Request) -> dict:
        """A page without results; ends the prediction on the file that was there."""
        self.present[request.session_hash] = None
        return self._fill(Shown(self.invitation, ''))

    def closed(self, request: gr.Request) -> None:
        """End the prediction for a page that was closed, or lost its connection."""
        self.present.pop(request.session_hash, None)

    def _show(
        self, path: str | None, least: float, chosen: list[int], known: Any, request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> dict:  # fmt: skip
        """Predict on a new file or a video; redraw a picture that was predicted before."""

        def stopped() -> bool:
            return self.present.get(request.session_hash) != path

        def frame_done(number: int) -> None:
            progress((number + 1, None), unit='frames')

        page, nothing = self.page, {self.summary: gr.skip()}
        self.present.setdefault(request.session_hash, path)  # the page is connected again
        if path is None or stopped():
            return nothing
        with page.working(), errors_on_page(path), suppress(Stopped):
            if page.is_film(path):
                shown, known = page.film(path, least, chosen, frame_done, stopped), None
            else:
                item, result = known[0] if known else page.read(path)
                shown = page.draw(item, result, least, chosen)
                known = (item, result), least, chosen
            if not stopped():
                return self._fill(shown, known)
        return nothing

    def _uploaded(
        self, path: str | None, least: float, chosen: list[int], request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> dict:  # fmt: skip
        """Predict on a new file."""
        return self._show(path, least, chosen, None, request, progress)

    def _moved(
        self, path: str | None, least: float, chosen: list[int], known: Any, request: gr.Request
    ) -> dict:
        """Redraw a picture while the slider moves; a video would take too long."""
        if known is None or known[1:] == (least, chosen):
            return {self.summary: gr.skip()}
        return self._show(path, least, chosen, known, request)

    def _released(
        self, path: str | None, least: float, chosen: list[int], known: Any, request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> dict:  # fmt: skip
        """Predict on a video again, only once the slider is released."""
        if path is None or not self.page.is_film(path):
            return {self.summary: gr.skip()}
        return self._show(path, least, chosen, known, request, progress)


def _add_biases(page: Page) -> None:
    """Add a tab with the position bias of a block, if the model has any."""
    from ..analysis.position_bias import bias_maps, draw_bias, find_biases

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
        with page.working():
            rows = list(bias_maps(bias, [side, window] if window != side else [side]))
            file = page.new_folder() / 'position_bias.png'
            draw_bias(rows, chosen).savefig(file, dpi=150)
        return str(file)

    def heads_of(name: str) -> Any:
        return gr.update(choices=list(range(heads_in[name])), value=[])

    with gr.Tab('Position bias') as tab, gr.Row():
        with gr.Column(scale=1, min_width=280):
            gr.Markdown(
                'The bias that a block adds to the attention score of two tokens, by their offset '
                '(paper, figure 4), in the window of the pre-training and in another one. In the '
                'center the offset is 0.'
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
    tab.select(draw, settings, maps, **_MODEL)
    block.change(heads_of, block, heads, **_PRIVATE).then(draw, settings, maps, **_MODEL)
    heads.input(draw, settings, maps, **_MODEL)
    window.release(draw, settings, maps, **_MODEL)
