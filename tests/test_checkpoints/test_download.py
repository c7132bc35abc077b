"""Addresses and names of weights, and what is downloaded."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import ClassVar

import pytest
import torch

from mmswinv2.checkpoints import (
    PUBLISHED,
    CheckpointError,
    fetch,
    read_checkpoint,
)
from mmswinv2.checkpoints.download import cache_path


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose content is the requested path; half of it under /cut, a page under /blob."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.server.logins.append(self.headers['Authorization'])
            if '/redirect' in self.path:
                self.send_response(302)
                self.send_header('Location', '/?file=model.pth')
                self.end_headers()
                return
            content = b'<!DOCTYPE html>' if '/blob' in self.path else self.path.encode()
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if '/cut' in self.path else content)

        def log_message(self, *args):
            """Keep the test's output clean."""

    server = HTTPServer(('127.0.0.1', 0), Handler)
    server.asked, server.logins = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f'http://127.0.0.1:{server.server_port}'
    yield server
    server.shutdown()
    server.server_close()


def test_files_of_one_name_stay_apart_and_come_once(server):
    for _ in range(2):
        for folder in ('a', 'b'):
            path = fetch(f'{server.url}/{folder}/model.safetensors?download=true')
            assert path.name == 'model.safetensors'
            assert path.read_text().startswith(f'/{folder}/')
    assert len(server.asked) == 2


def test_a_download_that_breaks_off_leaves_nothing(server, tmp_path):
    with pytest.raises(CheckpointError, match='ended after 7 of 15 bytes.*put it at'):
        fetch(f'{server.url}/cut/swinv2.pth')
    assert [p for p in (tmp_path / 'torch').rglob('*') if p.is_file()] == []


@pytest.fixture
def published(server, monkeypatch):
    """The first entry of the table, with the address and SHA-256 of a local file."""
    name = next(iter(PUBLISHED))

    def publish(folder, sha256):
        url = f'{server.url}/{folder}/{name}.pth'
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], url=url, sha256=sha256))
        return name, url

    return publish


def test_names_of_published_weights(published, server, tmp_path, monkeypatch):
    content = f'/v2/{next(iter(PUBLISHED))}.pth'.encode()
    name, url = published('v2', hashlib.sha256(content).hexdigest()[:8])
    assert fetch(name) == fetch(url) == cache_path(url)
    assert fetch(name).read_bytes() == content and len(server.asked) == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('a file of that name goes first')
    assert fetch(name).read_text() == 'a file of that name goes first'


def test_a_download_with_another_hash_is_refused(published):
    name, url = published('v2', '00000000')
    with pytest.raises(CheckpointError, match='SHA-256 begins .{8}, not 00000000'):
        fetch(name)
    assert not cache_path(url).exists()


def test_unknown_names_and_missing_files():
    with pytest.raises(CheckpointError, match='neither a file nor .*close to it: swinv2_tiny'):
        fetch('swinv2_tiny_patch4_window16_255')
    for path in ('swinv2_tiny.pth', 'folder/swinv2_tiny', '~/swinv2_tiny.pth'):
        assert not fetch(path).exists()  # the error comes when it is read
    with pytest.raises(CheckpointError, match='exist; the name swinv2_tiny_patch4_window16_256 al'):
        read_checkpoint('swinv2_tiny_patch4_window16_256.pth')


def test_what_cannot_be_fetched(tmp_path):
    with pytest.raises(CheckpointError, match='only files, https:// and hf:// addresses'):
        fetch('torchvision://swin_v2_t')
    with pytest.raises(CheckpointError, match='cannot download http://127.0.0.1:9/x.pth'):
        fetch('http://127.0.0.1:9/x.pth')
    assert fetch(tmp_path / 'a.pth') == tmp_path / 'a.pth'


def test_a_web_page_is_not_kept(server):
    for _ in range(2):
        with pytest.raises(CheckpointError, match='it is a web page; name the address of the file'):
            fetch(f'{server.url}/blob/model.pth')
    assert len(server.asked) == 2
    with pytest.raises(CheckpointError, match='names no file'):
        fetch(server.url + '/')
    assert fetch(f'{server.url}/redirect/model.pth').read_bytes() == b'/?file=model.pth'


def test_addresses_without_tls_are_for_this_machine(monkeypatch):
    for value in ('', '0'):
        monkeypatch.setenv('MMSWINV2_ALLOW_HTTP', value)
        with pytest.raises(CheckpointError, match='use https://, or set MMSWINV2_ALLOW_HTTP=1'):
            fetch('http://example.invalid/swin.pth')
    monkeypatch.setenv('MMSWINV2_ALLOW_HTTP', '1')
    with pytest.raises(CheckpointError, match='cannot download http://example.invalid'):
        fetch('http://example.invalid/swin.pth')
    for wrong in ('hf://owner', 'hf://owner/', 'hf://', 'hf://owner/name@/a'):
        with pytest.raises(CheckpointError, match='hf://OWNER/NAME/FILE'):
            fetch(wrong)


def test_a_model_on_hugging_face_is_its_main_file(tmp_path, monkeypatch):
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))  # not that of the user
    kept = tmp_path / 'models--owner--name'
    for name, text in {
        'refs/main': 'a' * 40,
        f'snapshots/{"a" * 40}/model.safetensors': 'main',
        f'snapshots/{"a" * 40}/more/other.bin': 'other',
        'refs/v1': 'b' * 40,
        f'snapshots/{"b" * 40}/model.safetensors': 'first',
    }.items():
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).write_text(text)
    ends = ('', '/', '/more/other.bin', '@v1', f'@{"b" * 40}/model.safetensors')
    found = [fetch(f'hf://owner/name{end}').read_text() for end in ends]
    assert found == ['main', 'main', 'other', 'first', 'first']


def test_a_model_on_hugging_face_comes_with_its_config(tmp_path, monkeypatch):
    hub, asked = pytest.importorskip('huggingface_hub'), []

    def download(name, file, revision=None):
        if (name, revision) != ('owner/name', 'v1'):
            raise OSError('no such revision')
        asked.append(file)
        return str(tmp_path / file)

    monkeypatch.setattr(hub, 'hf_hub_download', download)
    assert fetch('hf://owner/name@v1') == tmp_path / 'model.safetensors'
    assert fetch('hf://owner/name@v1/more/other.bin') == tmp_path / 'more/other.bin'
    assert asked == ['model.safetensors', 'config.json', 'more/other.bin', 'more/config.json']


@pytest.fixture
def redirecting():
    """Address of a local server that redirects to another address."""

    class Handler(BaseHTTPRequestHandler):
        target = ''
        logins: ClassVar[list] = []

        def do_GET(self):
            self.logins.append(self.headers['Authorization'])
            self.send_response(302 if self.target else 200)
            self.send_header('Location', self.target)
            self.send_header('Content-Length', 'many')
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Handler, f'http://127.0.0.1:{server.server_port}/x.pth'
        server.shutdown()


def test_a_login_is_sent_to_its_own_server_alone(redirecting, server):
    handler, address = redirecting
    handler.target = f'{server.url}/model.pth'

    assert fetch(address.replace('//', '//me:p%20%3A%40@')).read_bytes() == b'/model.pth'
    assert handler.logins == ['Basic bWU6cCA6QA==']  # echo -n 'me:p :@' | base64
    assert server.logins == [None]


def test_a_login_without_a_password(server):
    fetch(f'{server.url}/model.pth'.replace('//', '//token@'))
    assert server.logins == ['Basic dG9rZW46']  # echo -n token: | base64


@pytest.mark.parametrize(
    ('address', 'words'),
    [
        (
            'http://me:secret@127.0.0.1:1/a.pth',
            'cannot download http://127.0.0.1:1/a.pth (.*refused',
        ),
        ('http://me:secret@127.0.0.1:1/', 'http://127.0.0.1:1/ names no file'),
        ('http://me:secret@example.org/b@1/a.pth', 'http://example.org/b@1/a.pth: anybody'),
        ('ftp://me:secret@example.org/a.pth', 'ftp://example.org/a.pth: only'),
        ('https://me:the/secret@[::1]/a.pth', 'https://[::1]/a.pth is no address; .* / .* %2F'),
        ('https://me:secret@[::1/a.pth', 'https://[::1/a.pth is no address; in a login'),
        ('https://example.org:x/a.pth', "https://example.org:x/a.pth is no address: Port .*'x'"),
        ('https://[::1/b@1/a.pth', 'https://[::1/b@1/a.pth is no address'),
    ],
)
def test_errors_tell_no_login(address, words, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.delenv('MMSWINV2_ALLOW_HTTP', raising=False)
    pattern = words.replace('(', r'\(').replace('[', r'\[').replace('?', r'\?')
    with pytest.raises(CheckpointError, match=f'^{pattern}') as error:
        fetch(address)
    assert 'secret' not in str(error.value)


def test_an_address_leads_to_no_other_kind_of_address(redirecting, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    handler, address = redirecting
    for target, words in (
        ('http://127.0.0.2/x.pth', 'use https://, or set MMSWINV2_ALLOW_HTTP=1'),
        ('ftp://127.0.0.1/x.pth', 'only files, https:// and hf:// addresses can be read'),
        ('', f'cannot download {address}'),
    ):
        handler.target = target
        with pytest.raises(CheckpointError, match=words):
            fetch(address)


@pytest.mark.parametrize(
    'address',
    ['https://[::1/x.pth', 'https://h:port/x', 'http://127.0.0.1:1/ü.pth', 'http://127.0.0.1:1/a b',
     f'http://127.0.0.1:1/{"a" * 300}.pth'],
)  # fmt: skip
def test_addresses_that_are_none(address, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(CheckpointError, match=re.escape(address)):
        fetch(address)


def test_a_download_that_cannot_be_read_is_to_be_deleted(server):
    path = fetch(f'{server.url}/entry-not-found.pth')
    with pytest.raises(CheckpointError, match='no checkpoint; delete it, and it is downloaded'):
        read_checkpoint(path)


TOGETHER = """
import sys, torch
from mmswinv2.checkpoints import CheckpointError, fetch_together
rank, store, missing, local = int(sys.argv[1]), *sys.argv[2:]
torch.distributed.init_process_group('gloo', f'file://{store}', rank=rank, world_size=2)
if rank == 0:
    assert str(fetch_together(local)) == local
try:
    fetch_together(missing)
except CheckpointError as error:
    print(error)
"""


def test_all_ranks_hear_of_a_download_that_fails(server, tmp_path):
    """And a rank that reads a file alone, as rank 0 may, waits for no other."""
    missing = f'{server.url}/cut/model.pth'
    arguments = [str(tmp_path / 'store'), missing, __file__]
    runs = [
        subprocess.Popen(
            [sys.executable, '-c', TOGETHER, str(rank), *arguments],
            env={**os.environ, 'LOCAL_RANK': str(rank)}, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert said[0] == said[1] and said[0].startswith(f'cannot download {missing} (the connection')
    assert len(server.asked) == 1
