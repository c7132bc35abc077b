"""The site in a browser, if `make docs` has built it: search, and pages that fit a phone."""

import functools
import http.server
import shutil
import threading

import pytest

from tests.test_tools.conftest import ROOT

SITE = ROOT / 'build/docs'
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
PAGES = sorted(
    str(path.relative_to(SITE)) for path in SITE.rglob('*.html') if '_static' not in path.parts
)
pytestmark = [
    pytest.mark.skipif(
        not (SITE / 'index.html').exists(), reason='no site in build/docs; make docs builds it'
    ),
    pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on this machine'),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def address():
    """Address of a server of the site."""
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture(scope='module')
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize('page', PAGES)
def test_pages_fit_a_phone_and_ask_for_nothing_elsewhere(page, address, browser):
    tab = browser.new_page(viewport=dict(width=390, height=844))
    asked, failed = [], []
    tab.on('request', lambda request: asked.append(request.url))
    tab.on('response', lambda response: failed.append(response.url) if not response.ok else None)
    tab.goto(f'{address}/{page}')
    for part in ('html', '.bd-article-container', 'article'):  # each can scroll in this theme
        width = tab.evaluate(f'document.querySelector("{part}")?.scrollWidth')
        assert (width is None and page == 'search.html') or width <= 390, part
    assert [url for url in asked if not url.startswith((address, 'data:'))] == []
    assert failed == []
    tab.close()


def test_search_finds_an_argument(address, browser):
    tab = browser.new_page()
    tab.goto(f'{address}/search.html?q=window_size')
    tab.wait_for_selector('#search-results li a', timeout=20_000)
    found = tab.locator('#search-results li a').evaluate_all('all => all.map(a => a.href)')
    assert any('api/models' in url for url in found), found
    tab.close()
