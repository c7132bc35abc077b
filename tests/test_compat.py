import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmswinv2 import hosts
from mmswinv2.checkpoints import read_checkpoint

IMPORT_MMACTION = """
import sys
from mmswinv2 import hosts
hosts.apply()
assert 'mmaction' not in sys.modules and 'mmcv' not in sys.modules
import importlib.resources, importlib.util
assert importlib.util.find_spec('mmaction') is not None  # a probe is no import
import mmcv
version = mmcv.__version__
import mmaction.models
assert mmcv.__version__ == version
assert not [f for f in sys.meta_path if type(f).__module__.startswith('mmswinv2')]
assert mmaction.__spec__.loader.__class__.__name__ == 'SourceFileLoader'
assert (importlib.resources.files('mmaction') / '__init__.py').is_file()
from mmaction.models.localizers import DRN
try:
    DRN()
except ImportError as error:
    print(error)
"""


def test_mmaction_can_be_imported_but_is_not_by_itself():
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', IMPORT_MMACTION], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith('DRN is missing from mmaction2 1.2.0 as published')


def test_scalars_of_mmengine_can_be_restored(tmp_path):
    from mmengine.logging import HistoryBuffer

    path = tmp_path / 'run.pth'
    torch.save({'loss': HistoryBuffer([1.0, 2.0], [1, 1])}, path)
    hosts.apply()
    for _ in range(2):  # reading one with our own reader must not take the permission away again
        assert read_checkpoint(path)['loss'].mean() == 1.5
        restored = mmengine_checkpoint._load_checkpoint(str(path), map_location='cpu')
        assert restored['loss'].max() == 2


class Getattr:
    def __reduce__(self):
        return getattr, (OrderedDict, 'fromkeys')


def test_getattr_is_for_statistics_alone(tmp_path):
    torch.save({'a': Getattr()}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='would run code'):
        read_checkpoint(tmp_path / 'evil.pth')
