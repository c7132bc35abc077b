"""The page of `mmswinv2 ui`: its logic, and its behavior in a real browser."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmswinv2.cli.ui import free_port, main
from mmswinv2.cli.ui_page import Page, Stopped
from mmswinv2.datasets.video_files import write_video
from mmswinv2.errors import UserError
from mmswinv2.inference.predictor import Predictor
from tests.test_cli.test_predict import CLASSES, SEGMENTOR, VIDEO, pytestmark  # noqa: F401
from tests.test_tools.conftest import CONFIG, ROOT, _environment

SUMMARY = '#summary .html-container div:not(:has(div))'


# --- without a browser ---------------------------------------------------------------------------


@pytest.fixture(scope='module')
def page_of(weights, tmp_path_factory):
    def make(config):
        predictor = Predictor(Config.fromfile(ROOT / config), weights(config), 'cpu')
        return Page(predictor, tmp_path_factory.mktemp('page'), max_frames=3)

    return make


def test_classes_of_one_name_have_scores_of_their_own():
    page = Page(SimpleNamespace(meta=dict(classes=['crane', 'dog', 'crane'])), Path())
    assert page.classes == ['crane (0)', 'dog', 'crane (2)']
    result = SimpleNamespace(pred_score=torch.tensor([0.5, 0.1, 0.3, 0.2]))
    scores = {name: round(score, 3) for name, score in page._scores(result, ()).items()}
    assert scores == {'crane (0)': 0.5, 'crane (2)': 0.3, 'class 3': 0.2, 'dog': 0.1}


def test_classes_of_a_detector(page_of, photos):
    page = page_of(CONFIG)
    item, result = page.read(f'{photos}/a.jpg')
    whole = len(result.pred_instances)
    shown = page.draw(item, result, 0.0, [])
    assert cv2.imread(shown.picture).shape == (480, 640, 3)  # enlarged
    assert shown.summary == f'<b>{whole} objects</b> in a.jpg'
    content = json.loads(Path(shown.results).read_text())
    assert len(content['annotations']) == whole > 0
    assert content['images'][0]['file_name'] == 'a.jpg'
    chosen = int(result.pred_instances.labels[0])
    shown = page.draw(item, result, 0.0, [chosen])
    found = json.loads(Path(shown.results).read_text())['annotations']
    assert {a['category_id'] for a in found} == {chosen} and len(found) < whole
    assert len(result.pred_instances) == whole  # unchanged
    rows = re.findall(r'<tr><td>(.*?)</td><td>(.*?)</td>', shown.table)
    assert {name for name, _ in rows} == {CLASSES[chosen]} and len(rows) == len(found)
    scores = [float(score) for _, score in rows]
    assert scores == sorted(scores, reverse=True)
    shown = page.draw(item, result, 1.0, [])
    assert shown.table == '' and shown.summary == '<b>0 objects</b> in a.jpg'


def test_names_are_escaped(page_of, photos):
    page = page_of(CONFIG)
    page.predictor.meta = dict(page.predictor.meta, classes=['<i>'] * 4)
    item, result = page.read(f'{photos}/a.jpg')
    shown = page.draw(replace(item, path='<b>.jpg'), result, 0.0, [])
    assert '<i>' not in shown.table and '&lt;i&gt;' in shown.table
    assert shown.summary.endswith('</b> in &lt;b&gt;.jpg')


def test_classes_of_a_segmentor(page_of, photos, clip):
    page = page_of(SEGMENTOR)
    item, result = page.read(f'{photos}/b.png')
    labels = result.pred_sem_seg.data[0].numpy().copy()
    chosen = int(labels[0, 0])
    shown = page.draw(item, result, 0.0, [chosen])
    written = cv2.imread(shown.results, cv2.IMREAD_UNCHANGED)
    assert (written == np.where(labels == chosen, chosen, 255)).all()
    assert (result.pred_sem_seg.data[0].numpy() == labels).all()
    share = f'{100 * (labels == chosen).mean():.1f} %'
    assert re.findall('<td>(.*?)</td>', shown.table) == [page.classes[chosen], share]
    assert shown.summary == '<b>1 class</b> in b.png'
    assert page.is_film(str(clip)) and not page.is_film(f'{photos}/b.png')
    told = []
    shown = page.film(str(clip), 0.0, [], told.append, lambda: False)
    assert told == [0, 1, 2]  # at most `max_frames`
    assert shown.summary == 'the first 3 frames of clip.mp4'
    assert Path(shown.film).stat().st_size > 0
    assert sorted(zipfile.ZipFile(shown.results).namelist()) == [f'{i:06d}.png' for i in range(3)]


def test_closing_ends_a_video_after_its_present_frame_and_waits_for_it(page_of, clip):
    page, frames, events = page_of(SEGMENTOR), [], []
    begun, go_on = threading.Event(), threading.Event()

    def progress(number):
        frames.append(number)
        begun.set()
        assert go_on.wait(300)

    def predict():
        with page.working(), pytest.raises(Stopped):
            page.film(str(clip), 0.0, [], progress, lambda: False)
        events.append('ended')

    def close():
        page.close()
        events.append('closed')

    threads = [threading.Thread(target=predict), threading.Thread(target=close)]
    threads[0].start()
    assert begun.wait(300)
    threads[1].start()
    threads[1].join(0.5)
    assert threads[1].is_alive()  # waits
    go_on.set()
    for thread in threads:
        thread.join(300)
    assert frames == [0] and sorted(events) == ['closed', 'ended']


def test_video_classifier(page_of, clip):
    page = page_of(VIDEO)
    item, result = page.read(str(clip))
    assert not page.is_film(str(clip))
    shown = page.draw(item, result, 0.0, [])
    assert cv2.imread(shown.picture).shape == (48, 4 * 64, 3)  # four frames
    assert json.loads(Path(shown.results).read_text())['file_name'] == 'clip.mp4'
    assert list(shown.scores.values()) == pytest.approx(result.pred_score.topk(5).values.tolist())
    one = page.draw(item, result, 0.0, [1, 99])
    assert one.scores == {'class 1': pytest.approx(float(result.pred_score[1]))}
    assert one.summary == '<b>class 1</b> in clip.mp4'


def test_what_is_no_picture(page_of, tmp_path):
    page = page_of(CONFIG)
    (tmp_path / 'notes.jpg').write_text('some words')
    with pytest.raises(UserError, match='notes.jpg is no picture: .* none of a JPG or any other'):
        page.read(str(tmp_path / 'notes.jpg'))
    (tmp_path / 'notes.mp4').write_text('some words')
    with pytest.raises(UserError, match='cannot read the video'):
        page.film(str(tmp_path / 'notes.mp4'), 0.0, [], print, lambda: False)
    huge = Image.new('1', (60000, 6000))  # 44 kB
    huge.save(tmp_path / 'huge.png')
    with pytest.raises(UserError, match='too many pixels'):
        page.read(str(tmp_path / 'huge.png'))


def test_old_results_are_deleted(page_of):
    page = page_of(CONFIG)
    old, new = page.new_folder(), page.new_folder()
    (old / 'a.png').touch()
    os.utime(old, (0, 0))
    page.new_folder()
    assert not old.exists() and new.exists()


def test_ports():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f'the port {port} of 127.0.0.1 .*--port 0'):
            free_port('127.0.0.1', port)
        with pytest.raises(UserError, match=f'the port {port} '):  # before the model is built
            main([str(ROOT / CONFIG), 'none.pth', '--port', str(port)])
    assert free_port('127.0.0.1', port) == port
    assert free_port('127.0.0.1', 0) > 0
    with pytest.raises(UserError, match='from 0 to 65535'):
        free_port('127.0.0.1', 65536)
    with pytest.raises(UserError, match='--host no.such.host.invalid: no such address'):
        free_port('no.such.host.invalid', 0)


def test_options_that_cannot_be(monkeypatch):
    for option in ('--max-size', '--max-frames'):
        with pytest.raises(UserError, match=f'{option} must be more than 0, got 0'):
            main([str(ROOT / CONFIG), 'none.pth', option, '0'])
    with pytest.raises(UserError, match='score must be from 0 to 1'):
        main([str(ROOT / CONFIG), 'none.pth', '--score', '2'])
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(UserError, match=r"pip install 'mmswinv2\[ui\]'"):
        main([str(ROOT / CONFIG), 'none.pth'])


def test_messages_are_escaped():
    gradio = pytest.importorskip('gradio', reason='the page needs Gradio, which is not installed')
    from mmswinv2.cli.ui_blocks import errors_on_page

    with pytest.raises(gradio.Error) as error, errors_on_page('folder/<b>.jpg'):
        raise UserError('folder/<b>.jpg is none')
    assert error.value.message == '&lt;b&gt;.jpg is none'


# --- in Chromium ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def address(weights, tmp_path_factory):
    """Address of a detector's page in its own process, which must remove all its files."""
    pytest.importorskip('gradio', reason='the page needs Gradio, which is not installed')
    folder = tmp_path_factory.mktemp('served')
    command = [
        sys.executable, '-W', 'ignore', '-m', 'mmswinv2', 'ui', ROOT / CONFIG, weights(CONFIG),
        '--port', '0', '--max-size', '1', '--score', '0', '--max-frames', '2000',
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=folder, env=_environment('1', dict(TMPDIR=str(folder), PYTHONPATH=str(ROOT))),
    )  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if match := re.search(r'open (http://\S+) in a browser', line):
            break
    else:
        pytest.fail(''.join(said))
    assert list(folder.glob('mmswinv2-ui-*'))
    yield match[1]
    process.terminate()
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 143 and 'Traceback' not in rest, rest
    assert [p.name for p in folder.iterdir() if 'mmswinv2' in p.name or 'gradio' in p.name] == []


@pytest.fixture
def tab(browser, address):
    """The page, newly opened; it must request nothing from other servers."""
    tab = browser.new_page()
    asked = []
    tab.on('request', lambda request: asked.append(request.url))
    tab.goto(address)
    tab.wait_for_selector('#file input[type=file]', state='attached')
    yield tab
    assert [url for url in asked if not url.startswith((address, 'data:', 'blob:'))] == []
    assert len(asked) > 5
    tab.close()


def upload(tab, file):
    tab.set_input_files('#file input[type=file]', file)


def said(tab, words):
    """Wait until the summary line matches the pattern `words`, and return what matches.

    Other parts of the page may change after it, and are waited for too.
    """
    told = f'[...document.querySelectorAll({SUMMARY!r})].at(-1)?.innerText'
    found = tab.wait_for_function(f'words => {told}?.match(words)', arg=words)
    return found.json_value()[0]


@pytest.mark.slow
def test_a_picture_in_the_browser(tab, photos, tmp_path):
    upload(tab, photos / 'a.jpg')
    number = int(re.match(r'\d+', said(tab, r'^\d+ objects in a.jpg'))[0])
    assert number > 1
    rows = 'document.querySelectorAll("#table tbody tr").length'
    tab.wait_for_function(f'number => {rows} == number', arg=number)
    tab.wait_for_function('document.querySelector("#picture img")?.naturalWidth == 640')
    with tab.expect_download() as download:
        tab.click('#download')
    download.value.save_as(tmp_path / 'found.json')
    assert len(json.loads((tmp_path / 'found.json').read_text())['annotations']) == number
    before = tab.get_attribute('#picture img', 'src')
    tab.locator('#score input[type=range]').press('End')
    said(tab, '^0 objects in a.jpg')
    tab.wait_for_function('b => document.querySelector("#picture img")?.src != b', arg=before)
    tab.locator('#score input[type=range]').press('Home')
    said(tab, f'^{number} objects')
    tab.click('#classes input')
    tab.get_by_role('option', name='star').click()
    number = int(re.match(r'\d+', said(tab, rf'^(?!{number} )\d+ objects?'))[0])
    tab.wait_for_function(f'number => {rows} == number', arg=number)
    assert set(tab.locator('#table tbody td:first-child').all_inner_texts()) <= {'star'}


@pytest.mark.slow
def test_messages_in_the_browser(tab, photos, tmp_path):
    upload(tab, photos / 'a.jpg')
    said(tab, 'objects in a.jpg')
    tab.click('#file button[aria-label="Clear"]')
    said(tab, 'Drop a picture or clip')
    name = tmp_path / '<img src=x onerror=document.title=1> & notes.jpg'
    name.write_text('some words')
    upload(tab, name)
    message = tab.locator('[data-testid=toast-body]')
    message.wait_for()
    assert 'notes.jpg is no picture: its content is none of a JPG' in message.inner_text()
    assert str(tmp_path) not in message.inner_text() and 'gradio' not in message.inner_text()
    said(tab, 'Drop a picture or clip')
    assert tab.title() != '1' and tab.locator('#summary img').count() == 0


@pytest.mark.slow
def test_a_picture_in_place_of_a_film_that_is_still_predicted(
    tab, photos, tmp_path, tmp_path_factory
):
    frames = 2000  # too many to be predicted before the browser has done what follows
    write_video(tmp_path / 'film.mp4', [np.zeros((240, 320, 3), np.uint8)] * frames, 25)
    films = 'served0/mmswinv2-ui-*/result-*/vis/result.mp4'
    before = set(tmp_path_factory.getbasetemp().glob(films))
    upload(tab, tmp_path / 'film.mp4')
    tab.wait_for_function('/\\d frames/.test(document.body.innerText)')
    tab.click('#file button[aria-label="Clear"]')
    upload(tab, photos / 'a.jpg')
    said(tab, 'objects in a.jpg')
    assert tab.locator('#film video').count() == 0
    (film,) = set(tmp_path_factory.getbasetemp().glob(films)) - before
    assert 0 < cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT) < frames


@pytest.mark.slow
def test_a_film_ends_with_its_tab(tab, browser, address, photos, tmp_path, tmp_path_factory):
    frames = 2000  # as above
    write_video(tmp_path / 'film.mp4', [np.zeros((480, 642, 3), np.uint8)] * frames, 25)
    other = browser.new_page()
    other.goto(address)
    other.wait_for_selector('#file input[type=file]', state='attached')
    upload(other, tmp_path / 'film.mp4')
    other.wait_for_function('/\\d frames/.test(document.body.innerText)')
    other.close()
    upload(tab, photos / 'a.jpg')  # waits for the film, as one prediction is made at a time
    said(tab, 'objects in a.jpg')
    base = tmp_path_factory.getbasetemp()
    for _ in range(600):
        films = base.glob('served0/mmswinv2-ui-*/result-*/vis/result.mp4')
        opened = [cv2.VideoCapture(str(film)) for film in films]
        whole = [film for film in opened if film.get(cv2.CAP_PROP_FRAME_WIDTH) == 642]
        if whole:
            break
        time.sleep(0.1)
    assert 0 < whole[0].get(cv2.CAP_PROP_FRAME_COUNT) < frames


@pytest.mark.slow
def test_a_score_that_is_set_while_a_film_is_predicted(tab, tmp_path):
    write_video(tmp_path / 'film.mp4', [np.full((64, 64, 3), 90, np.uint8)] * 40, 25)
    upload(tab, tmp_path / 'film.mp4')
    said(tab, '[1-9].* objects in 40 frames')
    slider = tab.locator('#score input[type=range]')
    box = slider.bounding_box()
    for place in (0.02, 0.999):
        slider.click(position=dict(x=box['width'] * place, y=box['height'] / 2))
    said(tab, '^0 objects in 40 frames')


@pytest.mark.slow
def test_a_file_that_is_too_large(tab, tmp_path):
    (tmp_path / 'large.jpg').write_bytes(bytes(2**20 + 1))
    upload(tab, tmp_path / 'large.jpg')
    message = tab.locator('[data-testid=toast-body]')
    message.wait_for()
    assert 'exceed the maximum allowed size of 1.0 M' in message.inner_text()


@pytest.mark.slow
def test_a_file_that_is_too_large_for_the_server(address):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    for size, status in ((2**20 + 1, 413), (1000, 200)):
        request = urllib.request.Request(
            f'{address}gradio_api/upload', head + bytes(size) + b'\r\n--x--\r\n',
            {'Content-Type': 'multipart/form-data; boundary=x'},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request) as answer:
                assert answer.status == status
        except urllib.error.HTTPError as refused:
            assert refused.code == status
            refused.close()


@pytest.mark.slow
def test_position_bias_in_the_browser(tab):
    tab.get_by_role('tab', name='Position bias').click()
    tab.wait_for_function('document.querySelector("#maps img")?.naturalWidth > 300')


@pytest.mark.slow
def test_an_empty_page_has_its_whole_width(tab):
    tab.set_viewport_size(dict(width=1280, height=900))
    left, right = (
        f'document.querySelector("{name}").getBoundingClientRect().left'
        for name in ('#file', '#summary')
    )
    tab.wait_for_function(f'{right} > {left} + 300')  # beside each other


@pytest.mark.slow
def test_on_a_phone(tab, photos):
    tab.set_viewport_size(dict(width=390, height=844))
    upload(tab, photos / 'a.jpg')
    said(tab, 'objects in a.jpg')
    tab.wait_for_selector('#table td')
    tab.wait_for_function('document.querySelector("#picture img")?.naturalWidth == 640')
    width = tab.evaluate('document.querySelector("#picture img").getBoundingClientRect().width')
    assert 300 < width <= 390
    tab.wait_for_function('document.documentElement.scrollWidth == 390')
    tab.get_by_role('tab', name='Position bias').click()
    tab.wait_for_function('document.querySelector("#maps img")?.naturalWidth > 300')
    tab.wait_for_function('document.documentElement.scrollWidth == 390')


@pytest.mark.slow
@pytest.mark.parametrize('file', ['/etc/passwd', str(ROOT / 'setup.py')])
def test_files_that_are_not_served(address, file):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f'{address}gradio_api/file={file}')
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.slow
def test_policy(address):
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers['Content-Security-Policy']
