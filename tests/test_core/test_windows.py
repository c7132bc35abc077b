import pytest
import torch

from mmswinv2.core.windows import cut, join, window_grid, window_sizes
from tests.reference import window_labels

CPU = torch.device('cpu')
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


@pytest.mark.parametrize(
    ('length', 'window', 'shift', 'sizes'),
    [
        (8, 4, 0, [4, 4]),
        (8, 4, 2, [2, 4, 2]),
        (11, 4, 2, [2, 4, 4, 1]),
        (11, 4, 0, [4, 4, 3]),
        (4, 4, 2, [4]),
        (3, 4, 2, [3]),
        (5, 4, 2, [2, 3]),
    ],
)
def test_window_sizes(length, window, shift, sizes):
    assert window_sizes(length, window, shift) == sizes


@pytest.mark.parametrize(('size', 'window', 'shift'), GRIDS)
def test_join_undoes_cut(size, window, shift):
    x = torch.randn(2, *size, 3)
    grid = window_grid(2, size, window, shift, CPU)
    assert torch.equal(join(cut(x, grid), grid, size), x)


@pytest.mark.parametrize(('size', 'window', 'shift'), GRIDS)
def test_windows_hold_the_tokens_of_one_label(size, window, shift):
    labels = window_labels(size, window, shift)
    batch = 2
    image = torch.arange(batch)[:, None].expand(-1, len(labels))
    tokens = torch.stack([image, labels.expand(batch, -1), torch.arange(len(labels)).expand(2, -1)])
    tokens = tokens.movedim(0, -1).view(batch, *size, 3)
    grid = window_grid(batch, size, window, shift, CPU)
    seen = set()
    for chunk, (shape, count) in zip(
        cut(tokens, grid).split(grid.tokens_per_group), grid.groups, strict=True
    ):
        for win in chunk.view(count, -1, 3):
            ids = {(int(b), int(label)) for b, label, _ in win}
            assert len(ids) == 1  # one image, one label
            (key,) = ids
            assert key not in seen  # and all of it: no label is split
            seen.add(key)
            assert len(win) == torch.Size(shape).numel() == int((labels == key[1]).sum())
            assert win[:, 2].tolist() == sorted(win[:, 2].tolist())  # row-major inside
    assert len(seen) == batch * len(labels.unique())


def test_gradient_of_cut_and_join():
    size = (5, 7)
    grid = window_grid(2, size, (4, 4), (2, 2), CPU)
    x = torch.randn(2, *size, 3, dtype=torch.double, requires_grad=True)
    torch.autograd.gradcheck(lambda t: cut(t, grid).square(), x)
    torch.autograd.gradcheck(lambda t: join(cut(t, grid).sin(), grid, size), x)


def test_grid_made_in_inference_mode_serves_training():
    size = (6, 5)
    with torch.inference_mode():
        grid = window_grid(3, size, (4, 4), (1, 1), CPU)
    x = torch.randn(3, *size, 2, requires_grad=True)
    cut(x, grid).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
