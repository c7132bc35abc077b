"""Workers of data loaders that are not forked."""

import multiprocessing
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
from torch.utils.data import DataLoader

from mmswinv2 import hosts
from mmswinv2.errors import CheckpointError

METHODS = sorted({'spawn', 'forkserver'} & set(multiprocessing.get_all_start_methods()))


class Attack:
    def __reduce__(self):
        return print, ('code of a file has run',)


def read(dataset, method, step=None):
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, collate_fn=step, multiprocessing_context=method
    )
    return list(loader)


def test_workers_can_import_the_host_of_their_data_set():
    """mmaction2 cannot be imported without a patch, which the worker needs at once."""
    hosts.apply()
    pytest.importorskip('mmaction', reason='mmaction2 is not installed')
    from mmaction.datasets.transforms import Flip

    (step,) = read([Flip(flip_ratio=0.25)], 'spawn')
    assert isinstance(step, Flip) and step.flip_ratio == 0.25


def test_other_processes_start_as_ever():
    """They need not import a host, which takes seconds."""
    process = multiprocessing.get_context('spawn').Process(target=print)
    reduce = ForkingPickler._extra_reducers[type(process)]
    assert reduce(process)[0].__module__ == 'copyreg'


@pytest.mark.parametrize('method', METHODS)
def test_workers_run_no_code_of_the_files_that_they_read(method, tmp_path, capfd):
    hosts.of(dict(default_scope='mmseg')).apply()
    from mmseg.datasets.transforms import LoadBiomedicalImageFromFile

    path = tmp_path / 'volume.pkl'
    path.write_bytes(pickle.dumps(Attack()))
    step = LoadBiomedicalImageFromFile(decode_backend='pickle')
    with pytest.raises(CheckpointError, match='class builtins.print is not allowed'):
        read([dict(img_path=str(path))], method, step)
    assert 'code of a file has run' not in capfd.readouterr().out
