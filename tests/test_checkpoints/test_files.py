"""Files of checkpoints: what is read, what is refused, and writing atomically."""

import json
import os
import pickle
import re
import sys
from fractions import Fraction
from functools import partial
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch

from mmswinv2.checkpoints import (
    CheckpointError,
    convert_file,
    load_pretrained,
    read_checkpoint,
    write_checkpoint,
)
from mmswinv2.checkpoints.files import read_deepspeed_folder
from mmswinv2.core import SwinV2
from tests.test_checkpoints.conftest import PRINTS, Evil, weights
from tests.tool_server import run_program


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in weights().items()}
    save_file(state, tmp_path / 'model.safetensors')
    assert len(load_pretrained(SwinV2('nano'), tmp_path / 'model.safetensors').loaded) > 100
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'model.safetensors').read_bytes()[:999])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(tmp_path / 'cut.safetensors')


def test_files_that_cannot_be_read(save, tmp_path, capsys):
    with pytest.raises(CheckpointError, match='does not exist'):
        read_checkpoint(tmp_path / 'no.pth')
    for name, words in (('none', 'none does not exist'), ('a.pth', 'a.pth is one file already')):
        (tmp_path / 'a.pth').touch()
        with pytest.raises(CheckpointError, match=words):
            read_deepspeed_folder(tmp_path / name)
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
        read_checkpoint(save({'model': weights(), 'config': PRINTS}))
    (tmp_path / 'old.pkl').write_bytes(pickle.dumps(PRINTS, protocol=2))
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
    content = {'state_dict': net.state_dict(), 'x': Fraction()} if wrap is vars else wrap(net)
    path = save(content, "it's.pth")
    with pytest.raises(CheckpointError, match='would run code from the file') as error:
        read_checkpoint(path)
    monkeypatch.chdir(tmp_path)
    exec(re.search('`(.+?)`', str(error.value))[1], {'torch': torch})
    other = SwinV2('nano')
    load_pretrained(other, tmp_path / 'weights.pth')
    assert torch.equal(other.norm3.weight, net.norm3.weight)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', [4, 5])
def test_the_advice_for_newer_protocols_works(protocol, zipped, tmp_path, monkeypatch):
    net = SwinV2('nano')
    torch.save(
        {'model': net.state_dict()}, tmp_path / 'x.pth', pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match='has pickle_protocol=4 or 5') as error:
        read_checkpoint(tmp_path / 'x.pth')
    monkeypatch.chdir(tmp_path)
    exec(re.search('`(.+?)`', str(error.value))[1], {'torch': torch})
    assert read_checkpoint(tmp_path / 'weights.pth').keys() == net.state_dict().keys()


def write_arrays(path):
    np.savez(path, weight=np.ones(3))


def write_pickle(path, kind=np.float32, protocol=2):
    content = {'blobs': {'a': kind([1.0, 1.0, 1.0])}, '__author__': 'Caffe2'}
    path.write_bytes(pickle.dumps(content, protocol))


def write_program(path):
    program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
    torch.export.save(program, path)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize(
    ('name', 'write', 'kind'),
    [
        ('x.npz', write_arrays, 'an archive of arrays of NumPy'),
        ('x.pkl', write_pickle, 'a pickle of arrays'),
        ('x.pkl', partial(write_pickle, kind=torch.tensor, protocol=4), 'a pickle of arrays'),
        ('x.pt2', write_program, r'a program of torch\.export'),
    ],
)
def test_files_that_others_wrote_are_named(name, write, kind, tmp_path):
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=f'{name} is {kind}.* keep its weights alone'):
        read_checkpoint(tmp_path / name)


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
    out = run_program([sys.executable, '-c', code]).succeeded()
    assert out.stdout.strip() == '[]'


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
        (dict(meta=dict(dataset_meta=dict(palette=[[1]]))), 'must be a list of colors'),
        (dict(meta=dict(dataset_meta=dict(palette=5))), 'must be a list of colors'),
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
        ('a.safetensors.index.json', b'{}', 'must list the file of each weight'),
        ('a.safetensors.index.json', b'{"weight_map": {}}', 'it names no file'),
        ('a.index.json', b'{"weight_map": {"w": "../a.index.json"}}', 'it names no file'),
        ('a.index.json', b'{"weight_map": {"w": 5}}', 'must list the file of each weight'),
        ('a.index.json', b'[', 'must list the file of each weight'),
        pytest.param('a.index.json', b'[' * 10**5, 'must list the file of each', id='nested'),
        ('a.index.json', b'{"weight_map": {"w": "/etc/b.bin"}}', '/b.bin does not exist'),
        ('a.pth', b'\x1f\x8b\x08abc', 'is an archive; unpack it'),
        ('a.pth.tar', b'\0' * 257 + b'ustar', 'is an archive; unpack it'),
    ],
)
def test_files_of_another_kind_are_told(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize('member', ['a.pth', 'folder/a.pth'])
def test_weights_inside_an_archive(member, tmp_path):
    with ZipFile(tmp_path / 'weights.zip', 'w', ZIP_STORED) as archive:
        archive.writestr(member, b'weights')
    with pytest.raises(CheckpointError, match='is an archive; unpack it, and name the file in it'):
        read_checkpoint(tmp_path / 'weights.zip')


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_weights_in_several_files(suffix, tmp_path):
    """As `save_pretrained` of transformers and accelerate write large models."""
    from safetensors.torch import save_file

    save = save_file if suffix == 'safetensors' else torch.save
    state = {k: v.contiguous() for k, v in weights().items()}
    index = tmp_path / f'model.{suffix}.index.json'
    places = {key: f'model-{i % 2}.{suffix}' for i, key in enumerate(state)}
    index.write_text(json.dumps({'metadata': {'total_size': 1}, 'weight_map': places}))
    for name in ('model-0', 'model-1'):
        file = f'{name}.{suffix}'
        save({k: v for k, v in state.items() if places[k] == file}, str(tmp_path / file))
    found = read_checkpoint(index)
    assert found.keys() == state.keys() and all(found[k].equal(v) for k, v in state.items())
    last = [key for key in state if places[key] == f'model-1.{suffix}'][-1]
    save({last: state[last]}, str(tmp_path / f'model-1.{suffix}'))
    with pytest.raises(CheckpointError, match=rf'weights are not in .* fetch model-1\.{suffix}'):
        read_checkpoint(index)
    (tmp_path / f'model-1.{suffix}').unlink()
    with pytest.raises(CheckpointError, match=rf'model-1\.{suffix} does not exist'):
        read_checkpoint(index)


def test_a_folder_of_save_pretrained(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / 'config.json').write_text('{}')
    parts = {'a': 'pytorch_model-1.bin', 'b': 'pytorch_model-2.bin'}
    for key, file in parts.items():
        torch.save({key: torch.ones(1)}, tmp_path / file)
    (tmp_path / 'pytorch_model.bin.index.json').write_text(json.dumps({'weight_map': parts}))
    assert read_checkpoint(tmp_path).keys() == parts.keys()
    torch.save({'c': torch.ones(1)}, tmp_path / 'pytorch_model.bin')
    assert list(read_checkpoint(tmp_path)) == ['c']
    save_file({'d': torch.ones(1)}, tmp_path / 'model.safetensors')  # what transformers prefers
    assert list(read_checkpoint(tmp_path)) == ['d']


def test_a_distributed_checkpoint_of_torch(tmp_path):
    (tmp_path / '__0_0.distcp').touch()
    with pytest.raises(CheckpointError, match='format_utils dcp_to_torch'):
        read_checkpoint(tmp_path)


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


DEEPSPEED_FILES = 'mp_rank_00_model_states.pt', 'zero_pp_rank_0_mp_rank_00_optim_states.pt'
DEEPSPEED_PART = dict(
    module={'a': torch.zeros(2)}, buffer_names=[], shared_params={}, ds_version='0.19.8',
    param_shapes=[{'a': torch.Size([2])}],
    optimizer_state_dict=dict(
        zero_stage=2, partition_count=1, single_partition_of_fp32_groups=[torch.ones(2)]
    ),
    meta={'iter': 7},
)  # fmt: skip


def test_a_folder_of_deepspeed_in_which_its_weights_were_joined(tmp_path):
    """zero_to_fp32.py writes pytorch_model.bin, without what mmengine keeps beside the weights."""
    for file in DEEPSPEED_FILES:
        torch.save(DEEPSPEED_PART, tmp_path / file)
    torch.save({'a': torch.zeros(2)}, tmp_path / 'pytorch_model.bin')
    found = read_checkpoint(tmp_path)
    assert found['meta'] == {'iter': 7} and found['state_dict']['a'].tolist() == [1, 1]


def test_a_folder_of_deepspeed_records_the_windows_of_its_run(tmp_path):
    net = SwinV2('nano', window_size=7)
    module, numbers = net.state_dict(), dict(net.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in numbers.values()])
    part = {
        **DEEPSPEED_PART,
        'module': module,
        'param_shapes': [{name: p.shape for name, p in numbers.items()}],
        'optimizer_state_dict': dict(
            zero_stage=2, partition_count=1, single_partition_of_fp32_groups=[flat]
        ),
    }
    for file in DEEPSPEED_FILES:
        torch.save(part, tmp_path / file)
    converted = convert_file(tmp_path)
    assert converted.windows == {stage: (7, 7) for stage in range(4)}
    assert all(torch.equal(converted.state[name], p) for name, p in numbers.items())


@pytest.mark.parametrize('name', ['iter_[12].pth', 'iter_?.pth', 'iter_*.pth'])
def test_names_of_deepspeed_folders_are_no_patterns(tmp_path, name):
    """As a glob pattern, the name would make DeepSpeed read unchecked files of another folder."""
    for folder, content in (
        (name, DEEPSPEED_PART),
        ('iter_1.pth', {'x': Evil(os.mkdir, str(tmp_path / 'ran'))}),
    ):
        (tmp_path / folder).mkdir()
        for file in DEEPSPEED_FILES:
            torch.save(content, tmp_path / folder / file)
            (tmp_path / folder / f'._{file}').write_bytes(b'Mac OS X')  # as on foreign disks
    assert read_checkpoint(tmp_path / name)['state_dict']['a'].tolist() == [1, 1]
    assert not (tmp_path / 'ran').exists()


def test_what_is_written_is_not_safetensors(tmp_path):
    with pytest.raises(CheckpointError, match='name a .pth file'):
        write_checkpoint({}, tmp_path / 'a.safetensors')
    assert list(tmp_path.iterdir()) == []
