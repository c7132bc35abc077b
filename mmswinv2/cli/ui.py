"""A page in the browser: drop a picture or a clip and see what a model finds in it."""

import argparse
import importlib.util
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import want
from ..errors import UserError
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
        '--host',
        default='127.0.0.1',
        help='address to listen on; 0.0.0.0: all of this machine (127.0.0.1)',
    )
    parser.add_argument(
        '--port', type=int, default=7860, help='port to listen on; 0: any that is free (7860)'
    )
    parser.add_argument('--max-size', type=float, default=50, help='most MiB of a file (50)')
    parser.add_argument(
        '--max-frames',
        type=int,
        default=100,
        help='most frames of each video, not for video classifiers (100)',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 ui``."""
    args = parse_args(arguments)
    from ..engine.configs import config_with_options
    from ..inference.predict import check_score
    from ..inference.predictor import Predictor
    from .ui_page import Page

    check_score(args.score)
    for option in ('max_size', 'max_frames'):
        name, value = option.replace('_', '-'), getattr(args, option)
        want(f'--{name}', value, 'more than 0', 0 < value < float('inf'))
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

    from .ui_blocks import build_page

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
        page.close()
        sys.stdout.flush()
