import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from mmswinv2.checkpoints import CheckpointError, fetch


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves its path as content; under /cut half of what it announces."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            content = self.path.encode()
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if '/cut' in self.path else content)

        def log_message(self, *args):
            """Keep the test's output clean."""

    server = HTTPServer(('127.0.0.1', 0), Handler)
    server.asked = []
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


def test_what_cannot_be_fetched(tmp_path):
    with pytest.raises(CheckpointError, match='only files and http'):
        fetch('torchvision://swin_v2_t')
    with pytest.raises(CheckpointError, match='cannot download http://127.0.0.1:9/x.pth'):
        fetch('http://127.0.0.1:9/x.pth')
    assert fetch(tmp_path / 'a.pth') == tmp_path / 'a.pth'
