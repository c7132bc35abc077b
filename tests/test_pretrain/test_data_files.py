"""Data sets of mmpretrain in pickles, which could run code."""

import pickle

import numpy as np
import pytest

from mmswinv2 import hosts
from mmswinv2.errors import UserError


class Evil:
    """Prints a word when it is unpickled."""

    def __reduce__(self):
        return print, ('ran',)


def cifar(folder, content):
    """A data set with the names of CIFAR-10, and one file without a check sum."""
    hosts.of(dict(default_scope='mmpretrain')).apply()
    from mmpretrain.datasets import CIFAR10

    class Cifar(CIFAR10):
        train_list, test_list = [('batch', None)], []

    (folder / Cifar.base_folder).mkdir()
    (folder / Cifar.base_folder / 'batch').write_bytes(content)
    return Cifar(data_root=str(folder), pipeline=[])


def by_python_2(images):
    """A pickle as those of CIFAR: text and arrays are strings of bytes."""
    data = images.tobytes()
    return (
        b'\x80\x02}(U\x06labels](K\x00K\x01eU\x04datacnumpy.core.multiarray\n_reconstruct\n'
        b'cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n'
        b'U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89'
        b'T' + len(data).to_bytes(4, 'little') + data + b'tbu.'
    )


@pytest.mark.parametrize('version', [2, 3])
def test_cifar_is_read_as_ever(version, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(2, 3072)).astype(np.uint8)
    content = pickle.dumps({'labels': [0, 1], 'data': images})
    found = cifar(tmp_path, by_python_2(images) if version == 2 else content)
    assert [found.get_data_info(i)['gt_label'] for i in range(2)] == [0, 1]
    assert (found.get_data_info(1)['img'] == images[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_cifar_runs_no_code(tmp_path, capsys):
    with pytest.raises(UserError, match=r'class builtins\.print is not allowed'):
        cifar(tmp_path, pickle.dumps(Evil()))
    assert 'ran' not in capsys.readouterr().out
