from collections import OrderedDict
from pickle import UnpicklingError

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmswinv2 import hosts
from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmengine import Host


def test_scalars_of_mmengine_can_be_restored(tmp_path):
    path = tmp_path / 'run.pth'
    torch.save({'loss': HistoryBuffer([1.0, 2.0], [1, 1])}, path)
    hosts.apply()
    for _ in range(2):  # reading one with our own reader must not take the permission away again
        assert read_checkpoint(path)['loss'].mean() == 1.5
        restored = mmengine_checkpoint._load_checkpoint(str(path), map_location='cpu')
        assert restored['loss'].max() == 2


class Prints:
    def __reduce__(self):
        return print, ('this must not be printed',)


def test_mmengine_runs_no_code_of_a_checkpoint(tmp_path, capsys):
    torch.save({'a': Prints()}, tmp_path / 'evil.pth')
    for _ in range(2):
        with pytest.raises((UserError, UnpicklingError), match='evil.pth|weights_only'):
            mmengine_checkpoint._load_checkpoint(str(tmp_path / 'evil.pth'), map_location='cpu')
    assert 'this must' not in capsys.readouterr().out
    torch.save({'a': torch.ones(2)}, tmp_path / 'good.pth')
    assert mmengine_checkpoint._load_checkpoint(str(tmp_path / 'good.pth'))['a'].sum() == 2


class Getattr:
    def __reduce__(self):
        return getattr, (OrderedDict, 'fromkeys')


def test_getattr_is_for_statistics_alone(tmp_path):
    torch.save({'a': Getattr()}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='would run code'):
        read_checkpoint(tmp_path / 'evil.pth')
    with pytest.raises((UserError, UnpicklingError), match='would run code|weights_only'):
        mmengine_checkpoint._load_checkpoint(str(tmp_path / 'evil.pth'), map_location='cpu')


def test_what_is_not_known_of_a_host():
    with pytest.raises(UserError, match='no inputs are known for the models of mmelse'):
        Host('mmelse').sample_batch({}, (8, 8), 1)
    with pytest.raises(UserError, match='mmengine brings no train.py along'):
        Host().run_script('train.py', [])


def test_a_host_that_is_not_installed():
    with pytest.raises(UserError, match=r'config.py needs mmelse \(its default_scope\)'):
        Host('mmelse').require('config.py')
