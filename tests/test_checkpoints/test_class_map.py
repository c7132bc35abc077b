"""Class maps; tests/test_load.py loads models by them."""

import pytest

from mmswinv2.checkpoints import read_class_map
from mmswinv2.errors import CheckpointError


def test_a_number_a_line(tmp_path):
    for start in ('', '\ufeff'):  # some editors write a byte order mark
        (tmp_path / 'map.txt').write_text(f'{start}4\n 0 \n9\n', encoding='utf-8')
        assert read_class_map(tmp_path / 'map.txt') == [4, 0, 9]


@pytest.mark.parametrize(
    ('text', 'line'), [('', 1), ('4\n\n9\n', 2), ('4\n-1\n', 2), ('4 0\n', 1), ('1.5\n', 1)]
)
def test_lines_that_are_no_number_of_a_class(text, line, tmp_path):
    (tmp_path / 'map.txt').write_text(text)
    with pytest.raises(CheckpointError, match=f'map.txt, line {line}: .* one number of a class a'):
        read_class_map(tmp_path / 'map.txt')
