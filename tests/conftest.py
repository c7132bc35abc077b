import functools
import gc
import logging
import random
import shutil
import sys
import threading
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger


def pytest_collection_modifyitems(items):
    """Run the longest tests first, so that workers of pytest-xdist end at the same time."""
    items.sort(key=lambda item: 'test_tools' not in item.path.parts)


_FROZEN_AT = [0]


def pytest_runtest_setup():
    """Leave modules out of garbage collections: every data set of mmengine asks for a whole one.

    Repeated when a host has been imported. Collecting first keeps garbage from being kept.
    """
    if len(sys.modules) > _FROZEN_AT[0] + 50:
        gc.collect()
        gc.freeze()
        _FROZEN_AT[0] = len(sys.modules)


def _seed(name):
    """Random numbers that depend on no test before."""
    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def pytest_fixture_setup(fixturedef):
    _seed(fixturedef.argname)


def pytest_runtest_call(item):
    _seed(item.name)


# for containers and machines without a screen; and it asks nothing of a network by itself
CHROMIUM_FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-quic',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
)  # fmt: skip


@pytest.fixture(scope='module')
def browser():
    """A session of Chromium (Playwright's `BrowserContext`)."""
    reason = 'playwright, which drives the browser, is not installed'
    playwright = pytest.importorskip('playwright.sync_api', reason=reason)
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        pytest.skip('there is no Chromium on this machine: apt install chromium')
    patience = 180_000  # milliseconds, for machines under load; by default 30,000
    with playwright.sync_playwright() as started:
        process = started.chromium.launch(
            executable_path=chromium, args=list(CHROMIUM_FLAGS), timeout=patience
        )
        context = process.new_context()
        context.set_default_timeout(patience)
        yield context
        process.close()


@pytest.fixture
def log(tmp_path, request):
    """A function that returns the text that mmengine's current logger wrote during the test."""
    path = tmp_path / 'log.txt'
    logger = MMLogger.get_instance(request.node.nodeid, log_file=str(path))

    def read():
        for handler in logger.handlers:
            handler.flush()
        return path.read_text()

    yield read
    MMLogger._instance_dict.pop(logger.instance_name)  # else it stays the current logger
    for handler in logger.handlers:
        handler.close()


@pytest.fixture
def warned():
    """List of the warnings that mmengine's current logger gets."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture
def address(tmp_path):
    """The address at which `tmp_path` is served by HTTP."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()
