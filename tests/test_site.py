"""The site in a browser, if `make docs` has built it: search, and pages that fit a phone."""

import functools
import http.server
import threading

import pytest

from tests.test_tools.conftest import ROOT

SITE = ROOT / 'build/docs'
PAGES = sorted(
    str(path.relative_to(SITE)) for path in SITE.rglob('*.html') if '_static' not in path.parts
)
pytestmark = pytest.mark.skipif(
    not (SITE / 'index.html').exists(), reason='no site in build/docs; make docs builds it'
)


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


@pytest.mark.parametrize('page', PAGES)
def test_pages_fit_a_phone_and_ask_for_nothing_elsewhere(page, address, browser):
    tab = browser.new_page()
    tab.set_viewport_size(dict(width=390, height=844))
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
    tab.wait_for_selector('#search-results li a')
    found = tab.locator('#search-results li a').evaluate_all('all => all.map(a => a.href)')
    assert any('api/models' in url for url in found), found
    tab.close()
