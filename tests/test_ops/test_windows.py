import math

import pytest
import torch

from mmswinv2.ops.windows import (
    WindowGrid,
    axis_runs,
    bound,
    cover,
    cut,
    join,
)
from tests.reference import window_labels


@pytest.mark.parametrize(
    ('length', 'window', 'shift', 'runs'),
    [
        (8, 4, 0, ((4, 2),)),
        (8, 4, 2, ((2, 1), (4, 1), (2, 1))),
        (11, 4, 2, ((2, 1), (4, 2), (1, 1))),
        (11, 4, 0, ((4, 2), (3, 1))),
        (4, 4, 2, ((4, 1),)),
        (3, 4, 2, ((3, 1),)),
        (5, 4, 2, ((2, 1), (3, 1))),
        (10, 4, 2, ((2, 1), (4, 2))),
    ],
)
def test_runs_of_an_axis(length, window, shift, runs):
    assert axis_runs(length, window, shift) == runs


def test_bound_of_a_window():
    assert [bound(n, 16) for n in (1, 2, 3, 8, 9, 16, 17, 99)] == [1, 2, 4, 8, 16, 16, 16, 16]
    assert [bound(n, 12) for n in (7, 8, 9, 12, 13)] == [8, 8, 12, 12, 12]


@pytest.mark.parametrize('dynamic', [False, True], ids=['one size', 'any size'])
def test_bound_of_a_window_in_a_graph(dynamic):
    """A window of 64 on a map of 5 is limited to 8; with dynamic sizes it stays 64."""

    def run(x):
        return x + sum(WindowGrid(tuple(x.shape), (64, 6), (32, 3)).extent)

    x = torch.zeros(5, 9)
    got = torch.compile(run, backend='eager', fullgraph=True, dynamic=dynamic)(x)
    assert torch.equal(got, x + (64 + 6 if dynamic else 8 + 6))


@pytest.mark.parametrize(
    ('length', 'window', 'shift', 'covered'),
    [
        (8, 4, 0, (0, 2)),
        (9, 4, 0, (0, 3)),
        (8, 4, 1, (3, 3)),
        (9, 4, 1, (3, 3)),
        (10, 4, 1, (3, 4)),
        (5, 4, 2, (2, 2)),
        (4, 4, 2, (0, 1)),
        (1, 4, 2, (0, 1)),
    ],
)
def test_padding_before_an_axis_and_whole_windows_that_cover_it(length, window, shift, covered):
    assert cover(length, window, shift) == covered


def test_grid_of_a_map():
    grid = WindowGrid((3, 11), (4, 5), (2, 2))
    assert grid.runs == (((3, 1),), ((2, 1), (5, 1), (4, 1)))
    assert grid.extent == (3, 5)


GRIDS = [  # size, window, shift
    ((8, 8), (4, 4), (0, 0)),
    ((8, 8), (4, 4), (2, 2)),
    ((7, 11), (4, 4), (2, 2)),
    ((7, 11), (4, 4), (0, 0)),
    ((3, 11), (4, 5), (2, 2)),
    ((5, 7, 11), (4, 4, 4), (2, 2, 2)),
    ((1, 7, 9), (1, 4, 4), (0, 2, 2)),
    ((5, 3, 6), (2, 7, 4), (1, 3, 2)),
]


@pytest.mark.parametrize(('size', 'window', 'shift'), GRIDS)
def test_join_undoes_cut(size, window, shift):
    x = torch.randn(2, *size, 3)
    grid = WindowGrid(size, window, shift)
    assert torch.equal(join([windows for windows, _ in cut(x, grid)], grid), x)


@pytest.mark.parametrize(('size', 'window', 'shift'), GRIDS)
def test_windows_hold_the_tokens_of_one_label(size, window, shift):
    labels = window_labels(size, window, shift)
    batch = 2
    image = torch.arange(batch)[:, None].expand(-1, len(labels))
    tokens = torch.stack([image, labels.expand(batch, -1), torch.arange(len(labels)).expand(2, -1)])
    tokens = tokens.movedim(0, -1).view(batch, *size, 3)
    seen = set()
    for windows, shape in cut(tokens, WindowGrid(size, window, shift)):
        for win in windows:
            ids = {(int(b), int(label)) for b, label, _ in win}
            assert len(ids) == 1  # one image, one label
            (key,) = ids
            assert key not in seen  # no label is split over windows
            seen.add(key)
            assert len(win) == math.prod(shape) == int((labels == key[1]).sum())
            assert win[:, 2].tolist() == sorted(win[:, 2].tolist())  # row-major inside a window
    assert len(seen) == batch * len(labels.unique())
