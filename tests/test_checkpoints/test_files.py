"""Downloads, reading without running code, and writing atomically."""

import codecs
import hashlib
import importlib
import io
import os
import pickle
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmswinv2.checkpoints import (
    PUBLISHED,
    CheckpointError,
    fetch,
    load_pretrained,
    read_checkpoint,
    read_pickle,
    write_checkpoint,
)
from mmswinv2.checkpoints.download import cache_path
from mmswinv2.checkpoints.files import harmless_globals
from mmswinv2.core import SwinV2
from tests.test_checkpoints.conftest import weights


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose content is the requested path; half of it under /cut, a page under /blob."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
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


def test_a_download_with_another_hash_is_refused(published, tmp_path):
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


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in weights().items()}
    save_file(state, tmp_path / 'model.safetensors')
    assert len(load_pretrained(SwinV2('nano'), tmp_path / 'model.safetensors').loaded) > 100
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'model.safetensors').read_bytes()[:999])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(tmp_path / 'cut.safetensors')


def test_what_is_allowed_stays_allowed(save):
    """Reading a file leaves torch's list of safe globals unchanged."""
    path = save({'model': torch.ones(1), 'scalars': np.ones(2)})
    before = set(torch.serialization.get_safe_globals())
    assert read_checkpoint(path)['scalars'].sum() == 2
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals(harmless_globals()):
        before = set(torch.serialization.get_safe_globals())
        read_checkpoint(path)
        assert set(torch.serialization.get_safe_globals()) == before


class RunsCode:
    def __reduce__(self):
        return print, ('this must not be printed',)


def test_files_that_cannot_be_read(save, tmp_path, capsys):
    with pytest.raises(CheckpointError, match='does not exist'):
        read_checkpoint(tmp_path / 'no.pth')
    with pytest.raises(CheckpointError, match='is a folder'):
        read_checkpoint(tmp_path)
    path = save({'model': weights()})
    for size in (0, 10, 5000, path.stat().st_size - 100):
        (tmp_path / 'cut.pth').write_bytes(path.read_bytes()[:size])
        with pytest.raises(
            CheckpointError, match=rf'cut.pth \({size} bytes\) is truncated, damaged'
        ):
            read_checkpoint(tmp_path / 'cut.pth')
    with pytest.raises(CheckpointError, match='would run code from the file'):
        read_checkpoint(save({'model': weights(), 'config': RunsCode()}))
    (tmp_path / 'old.pkl').write_bytes(pickle.dumps(RunsCode(), protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'old.pkl')
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'wrap',
    [lambda net: net, lambda net: {'model': net}, vars],
    ids=['alone', 'in an entry', 'its attributes'],
)
def test_the_advice_for_whole_modules_works(save, tmp_path, monkeypatch, wrap):
    net = SwinV2('nano')
    torch.nn.init.normal_(net.norm3.weight)
    content = {'state_dict': net.state_dict(), 'config': Path()} if wrap is vars else wrap(net)
    path = save(content, "it's.pth")
    with pytest.raises(CheckpointError, match='would run code from the file') as error:
        read_checkpoint(path)
    monkeypatch.chdir(tmp_path)
    exec(re.search('`(.+?)`', str(error.value))[1], {'torch': torch})
    other = SwinV2('nano')
    load_pretrained(other, tmp_path / 'weights.pth')
    assert torch.equal(other.norm3.weight, net.norm3.weight)


@pytest.mark.filterwarnings('ignore:.*torch.jit')
def test_the_advice_for_programs_of_torchscript_works(tmp_path, monkeypatch):
    layer = torch.nn.Linear(2, 3)
    torch.jit.trace(layer, torch.ones(1, 2)).save(tmp_path / 'script.pt')
    with pytest.raises(CheckpointError, match='program of TorchScript') as error:
        read_checkpoint(tmp_path / 'script.pt')
    monkeypatch.chdir(tmp_path)
    exec(re.search('`(.+?)`', str(error.value))[1], {'torch': torch})
    assert torch.equal(read_checkpoint(tmp_path / 'weights.pth')['weight'], layer.weight)


def test_check_sums_are_read_once(save, monkeypatch):
    opened = []
    original = ZipFile.open
    monkeypatch.setattr(ZipFile, 'open', lambda *a, **k: opened.append(1) or original(*a, **k))
    path = save({'a': torch.ones(3)}, 'once.pth')
    read_checkpoint(path, mmap=True)
    assert opened
    opened.clear()
    read_checkpoint(path)
    assert not opened
    save({'a': torch.zeros(4)}, 'once.pth')
    assert read_checkpoint(path)['a'].shape == (4,) and opened


class LooksUp:
    """Pickled as a call of `getattr`, like the statistics of mmengine's `HistoryBuffer`."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


def test_only_the_statistics_of_the_log_are_looked_up(save):
    assert read_checkpoint(save({'x': LooksUp(HistoryBuffer, 'min')}))['x'] is HistoryBuffer.min
    for arguments in ((HistoryBuffer, 'statistics'), (np.ndarray, 'min')):
        with pytest.raises(CheckpointError, match='would run code from the file'):
            read_checkpoint(save({'x': LooksUp(*arguments)}))


def test_writing_never_leaves_a_part(tmp_path, monkeypatch):
    path = tmp_path / 'swin.pth'
    write_checkpoint({'a': torch.ones(3)}, path)

    def break_off(obj, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', break_off)
    with pytest.raises(CheckpointError, match='No space left'):
        write_checkpoint({'a': torch.zeros(3)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ['swin.pth']
    assert torch.equal(read_checkpoint(path)['a'], torch.ones(3))


def test_core_and_checkpoints_need_torch_alone():
    code = (
        'import sys, mmswinv2, mmswinv2.core, mmswinv2.checkpoints\n'
        'print([m for m in sys.modules if m.split(".")[0] in ("mmengine", "mmcv", "mmdet")])'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'


class Evil:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class WithState:
    """Pickled as an object with a state that such an object never has."""

    def __init__(self, function, arguments, state):
        self.made = function, arguments, state

    def __reduce__(self):
        return self.made


def object_field():
    """A dtype whose eight bytes are an object pointer, without being marked as one."""
    fields = {'a': (np.dtype('O'), 0)}
    return WithState(np.dtype, ('V8',), (3, '|', None, ('a',), fields, 8, 1, 0))


def arrays_of_pointers():
    array = (1, (1,), object_field(), False, b'\x01' * 8)
    yield WithState(np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), array)
    yield Evil(np._core.multiarray.scalar, object_field(), b'\x01' * 8)
    yield object_field()
    yield np.array([1, 'a'], object)
    yield np.zeros(1, [('a', 'f4')])


@pytest.mark.parametrize('number', range(5))
def test_arrays_that_hold_pointers_are_refused(number, save):
    """Indexing such an array would crash the process."""
    evil = list(arrays_of_pointers())[number]
    for place in ({'x': evil}, {'x': [{'y': (1, evil)}]}):
        with pytest.raises(CheckpointError, match='would run code|no checkpoint'):
            read_checkpoint(save(place))


@pytest.mark.parametrize('kind', ['f4', 'f8', 'i8', 'u1', 'b', '>f4'])
def test_plain_arrays_are_read(kind, save):
    array = np.array([0, 1]).astype(kind)
    found = read_checkpoint(save({'array': array, 'scalar': array[1]}))
    assert found['array'].dtype.kind == array.dtype.kind and (found['array'] == array).all()
    assert found['scalar'] == array[1]


@pytest.mark.parametrize('kind', ['U5', 'S3'])
def test_arrays_of_text_are_refused(kind, save, tmp_path):
    """A file may set an item size larger than the array's memory."""
    array = np.array(['a', 'b']).astype(kind)
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(array))
    with pytest.raises(CheckpointError, match=f'numpy class of .*{kind} is not allowed'):
        read_pickle(tmp_path / 'x.pkl')
    for value in (array, array[0]):
        with pytest.raises(CheckpointError, match='holds more than tensors'):
            read_checkpoint(save({'array': value}))


def test_compressed_members_are_refused(save, tmp_path):
    with (
        ZipFile(save({'a': torch.zeros(1000)})) as plain,
        ZipFile(tmp_path / 'x.pth', 'w') as packed,
    ):
        for name in plain.namelist():
            packed.writestr(
                name, plain.read(name), ZIP_DEFLATED if '/data/' in name else ZIP_STORED
            )
    with pytest.raises(CheckpointError, match='x.pth is .* member swin/data/0 is compressed'):
        read_checkpoint(tmp_path / 'x.pth')


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ([1], 'no weights found; it holds one list, and a checkpoint is a dict'),
        (torch.ones(2), 'no weights found; it holds one Tensor'),
        (dict(meta='x'), "meta must be a dict, got 'x'"),
        (dict(meta=[1]), r'meta must be a dict, got \[1\]'),
        (dict(meta=dict(dataset_meta='classes')), 'meta.dataset_meta must be a dict, or several'),
        (dict(meta=dict(dataset_meta=dict(classes=5))), 'classes must be a list of names, got 5'),
        (dict(meta=dict(dataset_meta=dict(classes='ab'))), 'must be a list of names'),
        (dict(meta=dict(dataset_meta=dict(palette=[[1]]))), 'must be a list of colours'),
        (dict(meta=dict(dataset_meta=dict(palette=5))), 'must be a list of colours'),
        (
            dict(meta=dict(pretrained_window_sizes=[8])),
            'must be a dict of stages and their windows',
        ),
        (dict(meta=dict(pretrained_window_sizes={'a': (8, 8)})), 'must be a dict of stages and'),
        (dict(meta=dict(pretrained_window_sizes={0: 8})), 'must be a dict of stages and'),
    ],
)
def test_entries_of_another_form_are_refused(content, words, save):
    with pytest.raises(CheckpointError, match=f'swin.pth: .*{words}'):
        read_checkpoint(save(content))


@pytest.mark.parametrize(
    'meta',
    [
        None,
        {},
        dict(dataset_meta=None),
        dict(dataset_meta=[dict(classes=('a',)), {}]),  # several data sets of mmdet
        dict(dataset_meta=dict(classes=None, palette=None)),
        dict(dataset_meta=dict(classes=['a'], palette=[(1, 2, 3)])),
        dict(dataset_meta=dict(palette=np.zeros((2, 3), np.uint8))),
        dict(pretrained_window_sizes={0: (8, 8), '1': [8, 8]}),
    ],
)
def test_entries_of_the_right_form_are_read(meta, save):
    assert read_checkpoint(save({'meta': meta})).keys() == {'meta'}


def test_a_flipped_bit_is_found(save):
    path = save({'model': {'a': torch.ones(1000)}})
    content = bytearray(path.read_bytes())
    at = content.index(torch.ones(4).numpy().tobytes())
    content[at + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='damaged.*CRC'):
        read_checkpoint(path)


def test_archives_without_check_sums_are_read(save):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save({'a': torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(path)['a'].sum() == 3


@pytest.mark.parametrize(
    ('name', 'content', 'words'),
    [
        ('a.pth', b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'with git lfs pull'),
        (
            'a.pth',
            (8).to_bytes(8, 'little') + b'{"a":{}}',
            'of safetensors; rename it to .safetens',
        ),
        ('a.safetensors', b'PK\x03\x04abcdefgh', 'is a file of torch.save; rename it to .pth'),
        ('a.safetensors', (128).to_bytes(8, 'little') + b'{"a":', 'truncated, damaged or no'),
        ('a.pth', (32).to_bytes(8, 'little') + b'{"a":{}}', 'of safetensors; rename it to'),
        ('model.safetensors.index.json', b'{"weight_map": {}}', 'weights in several parts; join'),
        ('a.safetensors.index.json', b'{}', 'safetensors.torch.load_file, and write one dict'),
        ('pytorch_model.bin.index.json', b'{}', r'torch.load\(.*, and write .* with torch.save'),
    ],
)
def test_files_of_another_kind_are_told(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / name)


def test_a_distributed_checkpoint_of_torch(tmp_path):
    (tmp_path / '__0_0.distcp').touch()
    with pytest.raises(CheckpointError, match='format_utils dcp_to_torch'):
        read_checkpoint(tmp_path)


def test_a_web_page_is_not_kept(server):
    for _ in range(2):
        with pytest.raises(CheckpointError, match='it is a web page; name the address of the file'):
            fetch(f'{server.url}/blob/model.pth')
    assert len(server.asked) == 2
    with pytest.raises(CheckpointError, match='names no file'):
        fetch(server.url + '/')
    assert fetch(f'{server.url}/redirect/model.pth').read_bytes() == b'/?file=model.pth'


def test_links_and_modes_are_kept(tmp_path):
    (tmp_path / 'real').mkdir()
    target, link = tmp_path / 'real/a.pth', tmp_path / 'link.pth'
    target.write_bytes(b'old')
    target.chmod(0o600)
    link.symlink_to(target)
    write_checkpoint(dict(a=torch.ones(1)), link)
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o600
    assert read_checkpoint(target)['a'] == 1
    assert {path.name for path in tmp_path.rglob('*')} == {'real', 'a.pth', 'link.pth'}


def test_the_file_that_names_the_last_checkpoint(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('work_dirs/run/epoch_3.pth\n')
    with pytest.raises(CheckpointError, match='names the last checkpoint; use work_dirs/run/epoch'):
        read_checkpoint(tmp_path / 'last_checkpoint')


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(CheckpointError, match='pipe.pth is no regular file'):
        read_checkpoint(tmp_path / 'pipe.pth')


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'<!DOCTYPE html><html>404</html>', 'is a web page, not a checkpoint'),
        (bytes(range(256)) * 4, 'truncated, damaged or no checkpoint'),
        (pickle.dumps([1, 2]), 'truncated, damaged or no checkpoint'),
        (b'\x80\x02.', 'truncated, damaged or no checkpoint'),
    ],
)
def test_what_is_no_checkpoint_is_not_the_fault_of_torch(content, said, tmp_path):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(tmp_path / 'x.pth')
    assert 'file an issue' not in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('protocol', [2, 4])  # mmengine's and Python's
def test_predictions_are_unpickled(protocol, tmp_path):
    masks = [dict(size=[2, 3], counts=code) for code in (b'\x00\xff`0', b'')]
    given = [{'score': torch.rand(3), 'label': np.int64(3), 'dtype': torch.half, 'masks': masks,
              'array': np.arange(4.0), 'text': 'a', 'set': {1, 2}, 'shape': (2, 3)}]  # fmt: skip
    (tmp_path / 'good.pkl').write_bytes(pickle.dumps(given, protocol=protocol))
    (found,) = read_pickle(tmp_path / 'good.pkl')
    assert found.keys() == given[0].keys()
    assert torch.equal(found['score'], given[0]['score']) and found['dtype'] == torch.half
    assert (found['array'] == given[0]['array']).all() and found['set'] == {1, 2}
    assert found['masks'] == masks


@pytest.mark.parametrize('protocol', range(6))
def test_no_pickle_runs_code(protocol, tmp_path, capsys):
    attacks = [
        Evil(print, 'ran'), Evil(exec, 'print("ran")'), Evil(os.system, 'echo ran'),
        Evil(getattr, dict, 'fromkeys'), Evil(importlib.import_module, 'this'),
        Evil(torch.load, str(tmp_path / 'inner.pth')), Evil(codecs.encode, 'a', 'hex'),
        *list(arrays_of_pointers())[:3],
    ]  # fmt: skip
    inner = io.BytesIO()
    torch.save(Evil(print, 'ran'), inner)
    attacks.append(Evil(torch.storage._load_from_bytes, inner.getvalue()))
    for attack in attacks:
        (tmp_path / 'evil.pkl').write_bytes(pickle.dumps([attack], protocol=protocol))
        with pytest.raises(CheckpointError, match='evil.pkl cannot be read without running code'):
            read_pickle(tmp_path / 'evil.pkl')
    for content in (b'', b'\x80\x04', pickle.dumps([1, 2])[:-2]):
        (tmp_path / 'cut.pkl').write_bytes(content)
        with pytest.raises(CheckpointError, match='cut.pkl'):
            read_pickle(tmp_path / 'cut.pkl')
    assert 'ran' not in capsys.readouterr().out


def test_addresses_without_tls_are_for_this_machine(monkeypatch):
    with pytest.raises(CheckpointError, match='use https://, or set MMSWINV2_ALLOW_HTTP=1'):
        fetch('http://example.invalid/swin.pth')
    monkeypatch.setenv('MMSWINV2_ALLOW_HTTP', '1')
    with pytest.raises(CheckpointError, match='cannot download http://example.invalid'):
        fetch('http://example.invalid/swin.pth')
    for wrong in ('hf://owner', 'hf://owner/name', 'hf://'):
        with pytest.raises(CheckpointError, match='hf://OWNER/NAME/FILE'):
            fetch(wrong)


@pytest.fixture
def redirecting():
    """Address of a local server that redirects to another address."""

    class Handler(BaseHTTPRequestHandler):
        target = ''

        def do_GET(self):
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


@pytest.mark.parametrize('name', ['iter_[12].pth', 'iter_?.pth', 'iter_*.pth'])
def test_names_of_deepspeed_folders_are_no_patterns(tmp_path, name):
    """As a glob pattern, the name would make DeepSpeed read unchecked files of another folder."""
    files = 'mp_rank_00_model_states.pt', 'zero_pp_rank_0_mp_rank_00_optim_states.pt'
    part = dict(
        module={'a': torch.zeros(2)}, buffer_names=[], shared_params={}, ds_version='0.19.8',
        param_shapes=[{'a': torch.Size([2])}],
        optimizer_state_dict=dict(
            zero_stage=2, partition_count=1, single_partition_of_fp32_groups=[torch.ones(2)]
        ),
    )  # fmt: skip
    for folder, content in (
        (name, part),
        ('iter_1.pth', {'x': Evil(os.mkdir, str(tmp_path / 'ran'))}),
    ):
        (tmp_path / folder).mkdir()
        for file in files:
            torch.save(content, tmp_path / folder / file)
    assert read_checkpoint(tmp_path / name)['state_dict']['a'].tolist() == [1, 1]
    assert not (tmp_path / 'ran').exists()


def test_what_is_written_is_not_safetensors(tmp_path):
    with pytest.raises(CheckpointError, match='name a .pth file'):
        write_checkpoint({}, tmp_path / 'a.safetensors')
    assert list(tmp_path.iterdir()) == []
