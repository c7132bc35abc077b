"""Pickles, read without running code from them."""

import argparse
import codecs
import datetime
import decimal
import importlib
import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.structures import PixelData

from mmswinv2.checkpoints import (
    CheckpointError,
    pickles,
    read_checkpoint,
    read_pickle,
)
from mmswinv2.checkpoints.pickles import harmless_globals
from mmswinv2.errors import UserError
from tests.test_checkpoints.conftest import Evil


def test_files_are_read_in_several_threads(save):
    path = save({'model': torch.ones(1), 'scalars': np.ones(2)})
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: read_checkpoint(path), range(100)):
            assert found['scalars'].sum() == 2


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


def test_types_of_numpy_that_the_process_allows(save):
    """As is advised where torch refuses checkpoints of mmengine."""
    path = save({'model': torch.ones(1), 'scalars': np.ones(2), 'one': np.float64(3)})
    kinds = (np._core.multiarray._reconstruct, np._core.multiarray.scalar, np.ndarray, np.dtype)
    with torch.serialization.safe_globals([*kinds, np.dtypes.Float64DType, getattr]):
        before = set(torch.serialization.get_safe_globals())
        found = read_checkpoint(path)
        assert found['scalars'].sum() == 2 and found['one'] == 3
        assert set(torch.serialization.get_safe_globals()) == before


def test_arrays_of_other_pythons_and_numpys():
    dtype = pickles._Dtype(b'f4', False, True)
    dtype.__setstate__((3, b'>', None, None, None, -1, -1, 0))
    assert dtype.value == np.dtype('>f4')
    array = np.arange(24, dtype='f4').reshape(2, 3, 4)
    data = array.tobytes()
    found = pickles._from_buffer(data, pickles._Dtype('f4'), (2, 3, 4), 'K', (1, 0, 2))
    assert np.array_equal(found, array.transpose(1, 0, 2))


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
    named = argparse.Namespace(value='O')  # has what a dtype's stand-in has
    yield Evil(np._core.multiarray.scalar, named, struct.pack('P', id(Spy)))
    yield np.array([1, 'a'], object)
    yield np.zeros(1, [('a', 'f4')])


@pytest.mark.parametrize('number', range(6))
def test_arrays_that_hold_pointers_are_refused(number, save):
    """Indexing such an array would crash the process."""
    evil = list(arrays_of_pointers())[number]
    for place in ({'x': evil}, {'x': [{'y': (1, evil)}]}):
        with pytest.raises(CheckpointError, match='would run code|no checkpoint'):
            read_checkpoint(save(place))


class Spy:
    """Prints a word when it is hashed."""

    def __hash__(self):
        print('ran')
        return 1


@pytest.mark.parametrize(
    ('function', 'before', 'shape'),
    [(set, (), (1,)), (OrderedDict, (), (1, 2)), (defaultdict, (None,), (1, 2))],
)
def test_no_address_in_a_file_is_followed_while_it_is_read(
    function, before, shape, tmp_path, save, capsys
):
    """The hash of a record calls the functions of the objects at its addresses."""
    spy = Spy()
    addresses = struct.pack('P', id(spy)) * 2
    evil = Evil(function, *before, Evil(np.ndarray, shape, object_field(), addresses))
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError, match='numpy class of V8 is not allowed'):
        read_pickle(tmp_path / 'x.pkl')
    with pytest.raises(CheckpointError, match='numpy class of V8 is not allowed'):
        read_checkpoint(save({'x': evil}))
    assert 'ran' not in capsys.readouterr().out


def test_values_stay_where_they_are(save):
    pair = (np.ones(2), (3, np.zeros(1)))
    rows = [pair, pair, {'window': (8, 8)}]
    rows.append(rows)
    scalars = HistoryBuffer([1.0, 3.0], [1, 1])
    found = read_checkpoint(save({'rows': rows, 'scalars': scalars, 'dtype': np.dtype('>f4')}))
    assert found['rows'][0] is found['rows'][1] and found['rows'][3] is found['rows']
    assert found['rows'][0][0].tolist() == [1, 1] and found['rows'][0][1][1].tolist() == [0]
    assert found['rows'][2] == {'window': (8, 8)} and found['dtype'] == np.dtype('>f4')
    assert found['scalars'].mean() == 2
    found['rows'][0][0][0] = 5  # may be written to
    with pytest.raises(CheckpointError, match='numpy class of a key is not allowed'):
        read_checkpoint(save({'x': {np.dtype('f4'): 1}}))


@pytest.mark.parametrize('kind', ['f4', 'f8', 'i8', 'u1', 'b', '>f4'])
def test_plain_arrays_are_read(kind, save):
    array = np.array([0, 1]).astype(kind)
    found = read_checkpoint(save({'array': array, 'scalar': array[1]}))
    assert found['array'].dtype.kind == array.dtype.kind and (found['array'] == array).all()
    assert found['scalar'] == array[1]


@pytest.mark.parametrize('kind', ['U5', '>U5', 'S3', 'U1'])
def test_arrays_of_text_are_read(kind, save, tmp_path):
    """Names of classes may be numpy's, as those of `numpy.unique` are."""
    array = np.array(['a', 'bc', '']).astype(kind)
    names = {'dataset_meta': {'classes': tuple(array)}}
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps([array, array[1], array[2]]))
    assert (read_pickle(tmp_path / 'x.pkl')[0] == array).all()
    assert read_pickle(tmp_path / 'x.pkl')[1:] == [array[1], array[2]]
    assert read_checkpoint(save({'model': torch.ones(1), 'meta': names}))['meta'] == names


def test_texts_are_not_longer_than_their_memory(save):
    """A file may say so in the state of a dtype that an array has already."""
    kind = WithState(np.dtype, ('U1',), (3, '<', None, None, None, 2**30, 4, 8))
    state = (1, (1,), kind, False, b'a\0\0\0')
    array = WithState(np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), state)
    found = read_checkpoint(
        save({'x': array, 'y': Evil(np._core.multiarray.scalar, kind, b'a\0\0\0')})
    )
    assert found['x'].tolist() == ['a'] and found['y'] == 'a' and found['x'].nbytes == 4


def test_arguments_of_a_training_by_others(save):
    given = argparse.Namespace(lr=0.1, name='a', sizes=[1, 2], betas=None, means=np.ones(2))
    found = read_checkpoint(save({'state_dict': {'a': torch.ones(1)}, 'args': given}))['args']
    assert (found.lr, found.name, found.sizes, found.means.tolist()) == (0.1, 'a', [1, 2], [1, 1])


def test_what_data_sets_and_hooks_note_down_is_read(save):
    given = {
        'path': Path('a', 'b'), 'kinds': frozenset('ab'), 'version': torch.__version__,
        'time': datetime.datetime.now(datetime.timezone.utc), 'took': datetime.timedelta(1, 2),
        'day': datetime.date(2026, 1, 2), 'price': decimal.Decimal('1.5'), 'ids': range(3),
        'options': types.SimpleNamespace(lr=0.1),
        'counts': defaultdict(int, a=1), 'rows': defaultdict(list, {'a': [1]}),
    }  # fmt: skip
    map_ = PixelData(metainfo=dict(name='a'), data=torch.ones(1, 2, 2))
    more = {'last': deque([1.0, 2.0], maxlen=5), 'map': map_}
    found = read_checkpoint(save({'state_dict': {'a': torch.ones(1)}, 'meta': {**given, **more}}))
    assert found['meta'].pop('last') == [1, 2]
    found_map = found['meta'].pop('map')
    assert found_map.name == 'a' and torch.equal(found_map.data, map_.data)
    assert found['meta'] == given


@pytest.mark.parametrize('system', ['PosixPath', 'WindowsPath'])
@pytest.mark.parametrize('module', ['pathlib', 'pathlib._local'])  # the latter of Python 3.13
def test_paths_of_other_systems_are_read(system, module):
    code = f'\x80\x02c{module}\n{system}\nX\x01\x00\x00\x00aX\x01\x00\x00\x00b\x86R.'
    assert pickles.unpickle(io.BytesIO(code.encode('latin1'))).parts == ('a', 'b')


@pytest.mark.parametrize(
    'name', ['yacs.config', 'fvcore.common.config', 'detectron2.config.config']
)
def test_configs_of_yacs_are_read_without_it(name, save, monkeypatch):
    """They stand in every checkpoint that the authors' code writes."""
    module = types.ModuleType(name)
    module.CfgNode = type('CfgNode', (dict,), {'__module__': name})
    monkeypatch.setitem(sys.modules, name, module)
    for part in [name.rsplit('.', k)[0] for k in range(1, name.count('.') + 1)]:
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    config = module.CfgNode(MODEL=module.CfgNode(TYPE='swinv2', DEPTHS=[2, 2]), SEED=0)
    vars(config)['__immutable__'] = True
    path = save({'model': {'a': torch.ones(1)}, 'config': config})
    monkeypatch.undo()
    assert read_checkpoint(path)['config'] == {
        'MODEL': {'TYPE': 'swinv2', 'DEPTHS': [2, 2]}, 'SEED': 0,
    }  # fmt: skip


@pytest.mark.parametrize('protocol', [2, 4, 5])  # mmengine's, Python's and the highest
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


@pytest.mark.parametrize(
    ('target', 'name', 'value'),
    [
        (PixelData, '__len__', dict),
        (argparse.Namespace, 'new', 1),
        (argparse.Namespace, '__name__', 'Other'),
        (PixelData, '__bases__', (argparse.Namespace,)),
        (torch._utils._rebuild_tensor_v2, '__defaults__', (1,)),
    ],
)
def test_no_pickle_changes_the_program(target, name, value, tmp_path):
    """A file may give a state to a class or function itself, whose attributes pickle then sets."""
    before = getattr(target, name, None)
    pushed, key, new = (pickle.dumps(part, 2)[2:-1] for part in (target, name, value))
    (tmp_path / 'x.pkl').write_bytes(b'\x80\x02' + pushed + b'N}' + key + new + b's\x86b.')
    read_pickle(tmp_path / 'x.pkl')
    assert getattr(target, name, None) == before


def test_no_pickle_changes_a_method(tmp_path):
    (tmp_path / 'x.pkl').write_bytes(
        b'\x80\x02c__builtin__\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\n'
        b'X\x04\x00\x00\x00mean\x86RN}X\x0c\x00\x00\x00__defaults__K\x07\x85s\x86b.'
    )
    with suppress(UserError):
        read_pickle(tmp_path / 'x.pkl')
    assert HistoryBuffer.mean.__defaults__ == (None,)


@pytest.mark.parametrize('protocol', range(6))
def test_no_pickle_runs_code(protocol, tmp_path, capsys):
    attacks = [
        Evil(print, 'ran'), Evil(exec, 'print("ran")'), Evil(os.system, 'echo ran'),
        Evil(getattr, dict, 'fromkeys'), Evil(importlib.import_module, 'this'),
        Evil(torch.load, str(tmp_path / 'inner.pth')), Evil(codecs.encode, 'a', 'hex'),
        *list(arrays_of_pointers())[:4],
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
