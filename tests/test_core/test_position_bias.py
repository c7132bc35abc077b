import itertools
import math

import pytest
import torch

from mmswinv2.core.position_bias import ContinuousPositionBias, expand, log_coordinates
from tests.reference import pair_bias


def test_coordinates_follow_equation_4():
    table = log_coordinates((8, 8), (8, 8))
    for dy, dx in itertools.product(range(-7, 8), repeat=2):
        for value, d in zip(table[dy + 7, dx + 7].tolist(), (dy, dx), strict=True):
            u = 8 * d / 7
            assert value == pytest.approx(math.copysign(math.log2(1 + abs(u)) / 3, u), abs=1e-6)


def test_pretrained_window_fixes_the_scale():
    at_8, at_16 = log_coordinates((8, 8), (8, 8)), log_coordinates((16, 16), (8, 8))
    assert torch.equal(at_16[8:-8, 8:-8], at_8)


@pytest.mark.parametrize(
    ('extent', 'window'), [((4, 5), (4, 5)), ((4, 5), (2, 3)), ((3, 4, 2),) * 2]
)
def test_every_pair_gets_the_bias_of_its_offset(extent, window):
    bias = ContinuousPositionBias(3, extent).double()
    state = {f'cpb_mlp.{k}': v for k, v in bias.state_dict().items()}
    expected = pair_bias(state, '', window, extent, torch.double)
    torch.testing.assert_close(expand(bias(extent), window), expected)


def test_kept_in_eval_until_weights_or_mode_change():
    bias = ContinuousPositionBias(2, (4, 4)).eval()
    with torch.no_grad():
        first = bias((4, 4))
        assert bias((4, 4)) is first
        bias[0].weight.add_(1)
        second = bias((4, 4))
        assert not torch.equal(first, second)
        assert bias.eval()((4, 4)) is not second  # as EMA hooks write behind autograd's back
    bias.load_state_dict({k: torch.zeros_like(v) for k, v in bias.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(bias((4, 4)), torch.full((2, 7, 7), 8.0))
    assert bias((4, 4)).requires_grad  # with gradients it is computed afresh
    assert set(bias.state_dict()) == {'0.weight', '0.bias', '2.weight'}


def test_as_many_tables_are_kept_as_have_been_agreed_on():
    bias = ContinuousPositionBias(2, (4, 4)).eval()
    with torch.no_grad():
        kept = [bias((i, 1)) for i in range(1, 40)]
        assert bias((39, 1)) is kept[-1] and bias((8, 1)) is kept[7]
        assert bias((7, 1)) is not kept[6]


def test_float32_under_autocast():
    bias = ContinuousPositionBias(2, (8, 8))
    outside = bias((8, 8))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = bias((8, 8))
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)


def test_a_teacher_that_follows_in_eval_is_not_stale():
    teacher = ContinuousPositionBias(2, (4, 4)).eval()
    with torch.no_grad():
        first = teacher((4, 4))
        for p in teacher.parameters():
            p.data.mul_(0.5).add_(0.1)  # as mean-teacher hooks do; leaves no trace in `_version`
        assert not torch.equal(teacher((4, 4)), first)
        assert torch.equal(teacher((4, 4)), teacher._table((4, 4)))
