"""The experiments of `python -m benchmarks.reproduce`: controls, measures, and that each runs."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.reproduce import data, norm, report, simmim, training, video
from benchmarks.reproduce.__main__ import main, parse_args
from benchmarks.reproduce.controls import (
    FastTable,
    LearntTable,
    LinearBias,
    NoBias,
    PreNormBlock,
    block_with,
)
from benchmarks.reproduce.experiments import EXPERIMENTS
from mmswinv2.core import SwinV2
from mmswinv2.core.block import Block
from mmswinv2.files import HALF_WRITTEN
from mmswinv2.ops import WindowGrid

ROOT = Path(__file__).resolve().parents[1]

# --- controls ------------------------------------------------------------------------------------


def test_a_table_is_itself_at_its_window():
    torch.manual_seed(0)
    bias = LearntTable(2, (4, 3))
    assert torch.equal(bias((4, 3)), bias.table) and bias.table.shape == (2, 7, 5)
    other = bias((6, 3))
    assert other.shape == (2, 11, 5)
    torch.testing.assert_close(other[:, 5], bias.table[:, 3])  # the offset of zero


def test_a_fast_table_starts_alike_and_moves_ten_times_as_far():
    moved = []
    for kind in (LearntTable, FastTable):
        torch.manual_seed(0)
        bias = kind(2, (4, 4))
        start = bias((4, 4)).detach()
        training.fit(bias.parameters(), lambda bias=bias: bias((4, 4)).sum(), 1, 0.01)
        moved.append((start, start - bias((4, 4)).detach()))
    torch.testing.assert_close(moved[0][0], moved[1][0])
    assert moved[0][1].mean().item() == pytest.approx(0.01, rel=0.01)
    assert moved[1][1].mean().item() == pytest.approx(0.1, rel=0.01)


def test_a_table_is_interpolated():
    bias = LearntTable(1, (8, 8))
    bias.table.data = torch.linspace(-1, 1, 15)[None, :, None].expand(1, 15, 15).clone()
    wide = bias((16, 16))[0]
    torch.testing.assert_close(wide, -wide.flip(0))
    torch.testing.assert_close(wide, wide[:, :1].expand(31, 31))
    # torch's interpolation deviates a little from a straight line
    expected = ((torch.arange(31) + 0.5) * 15 / 31 - 7.5) / 7
    torch.testing.assert_close(wide[4:-4, 0], expected[4:-4], rtol=0, atol=0.01)
    bias.table.data = torch.eye(15)[None]
    assert bias((16, 16)).min() < -0.01  # bicubic, not linear


def test_linear_coordinates():
    torch.manual_seed(0)
    bias = LinearBias(3, (4, 4))
    table = bias((6, 5))
    assert table.shape == (3, 11, 9)
    for i, j in ((-5, -4), (0, 0), (3, -3), (1, 2)):
        hidden = bias[0](torch.tensor([i / 3, j / 3])).relu()
        torch.testing.assert_close(table[:, i + 5, j + 4], 16 * bias[2](hidden).sigmoid())


def test_without_a_bias_places_do_not_matter():
    torch.manual_seed(0)
    x, order = torch.randn(1, 4, 4, 8), torch.randperm(16)
    for bias, same in ((NoBias, True), (LearntTable, False)):
        attention = block_with(bias)(8, 2, (4, 4), (4, 4), False).attn
        if bias is LearntTable:
            attention.cpb_mlp.table.data.normal_()
        grid = WindowGrid((4, 4), (4, 4), (0, 0))
        turned = x.flatten(1, 2)[:, order].view_as(x)
        out = attention(x, grid).flatten(1, 2)[:, order].view_as(x)
        assert torch.allclose(attention(turned, grid), out, atol=1e-5) is same


def by_hand(block, x):
    """Swin V1's block on a map of one window, pair by pair."""
    tokens = [(i, j) for i in range(x.shape[1]) for j in range(x.shape[2])]
    attn, side = block.attn, block.window[0]
    y = block.norm1(x)[0]
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias])
    q, k, v = (y @ attn.qkv.weight.T + bias).unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    out = torch.zeros_like(y)
    for i, j in tokens:
        for head in range(attn.num_heads):
            scores = torch.stack([
                q[i, j, head] @ k[m, n, head] / math.sqrt(q.shape[-1])
                + attn.cpb_mlp.table[head, i - m + side - 1, j - n + side - 1] for m, n in tokens
            ])  # fmt: skip
            values = torch.stack([v[m, n, head] for m, n in tokens])
            width = values.shape[1]
            out[i, j, head * width : (head + 1) * width] = scores.softmax(0) @ values
    x = x + attn.proj(out)
    y = block.norm2(x)
    return x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(y)))


def test_block_of_v1():
    torch.manual_seed(0)
    block = PreNormBlock(8, 2, (3, 3), (3, 3), shifted=False)
    for parameter in block.parameters():
        parameter.data.normal_(std=0.5)
    x = torch.randn(1, 3, 3, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(x), by_hand(block, x), rtol=1e-4, atol=1e-5)


def test_block_of_v1_stays_in_its_windows():
    torch.manual_seed(0)
    block = PreNormBlock(8, 2, (4, 4), (4, 4), shifted=True)
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    block(x)[0, 3, 1].sum().backward()
    reached = x.grad[0].abs().sum(-1) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, :2] = True
    assert torch.equal(reached, expected)


# --- measures ------------------------------------------------------------------------------------


def test_amplitude():
    assert norm.amplitude(torch.tensor([[3.0, -4.0]])) == pytest.approx(12.5**0.5)


def test_amplitudes_of_blocks():
    """At initialization V2's blocks are the identity; blocks that double grow by a factor of 2."""
    torch.manual_seed(0)
    arch = dict(embed_dims=8, depths=(3,), num_heads=(2,))
    model = training.Classifier(SwinV2(arch, window_size=2, out_indices=(0,)), 4)
    inputs = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    embedded = norm.amplitude(model.network.patch_embed(training.normalised(inputs)).detach())
    assert norm.amplitudes(model, inputs) == pytest.approx([embedded] * 3)
    for block in model.network.layers[0].blocks:
        block.enorm = Doubled()
    assert norm.amplitudes(model, inputs) == pytest.approx([embedded * 2**i for i in (1, 2, 3)])
    assert not any(b._forward_hooks for b in model.modules() if isinstance(b, Block))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ('losses', 'survived'),
    [
        ([1.4] * 8 + [1.2], True),
        ([1.4] * 8 + [1.35], False),
        ([1.6] * 8 + [1.39], False),
        ([1.4] * 8 + [1.2, math.nan], False),
        ([1.4, 0.1, math.inf], False),
        ([1.4] + [1.0] * 14 + [1.2, 2.0], False),  # decided by the mean of the last eighth
    ],
    ids=['falls', 'hardly', 'to chance', 'nan', 'inf', 'rises again'],
)
def test_survival(losses, survived):
    assert norm.survives(losses) is survived


def test_largest_rate():
    assert norm.largest({0.1: True, 0.001: True, 0.01: True}) == 0.1
    assert norm.largest({0.1: True, 0.01: False, 0.001: True}) == 0.001
    assert norm.largest({0.001: False, 0.01: True}) is None


def test_training_ends_where_it_breaks_down():
    weight = nn.Parameter(torch.ones(1))
    assert math.isnan(training.fit(iter([weight]), lambda: (weight * math.nan).sum(), 5, 0.1)[-1])
    losses = training.fit(iter([weight]), lambda: (weight**2).sum(), 20, 0.1)
    assert len(losses) == 20 and losses[-1] < 0.5 * losses[0]


def test_batches_see_every_picture_once_an_epoch():
    some = data.Split(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), torch.arange(6))
    source = training.batches(some, 4, seed=0, flips=True)
    seen = torch.cat([next(source)[1] for _ in range(3)])
    assert sorted(seen.tolist()) == sorted([*range(6)] * 2)
    assert sorted(seen[:6].tolist()) == [*range(6)]


def test_pictures_are_turned_over():
    pictures = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2).expand(20, 1, 2, 2)
    some = data.Split(pictures, torch.zeros(20))
    assert next(training.batches(some, 20, seed=0, flips=False))[0].equal(pictures)
    x, _ = next(training.batches(some, 20, seed=0, flips=True))
    turned = {tuple(picture.flatten().tolist()) for picture in x}
    assert turned == {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)}


# --- data ----------------------------------------------------------------------------------------


def test_pictures_grow_in_proportion():
    small, large = (data.shapes(4, 1, side) for side in (32, 96))
    assert small.labels.tolist() == large.labels.tolist() == [0, 1, 2, 3]
    shrunk = nn.functional.avg_pool2d(large.inputs.float(), 3)
    assert (shrunk - small.inputs).abs().mean() < 6
    assert (shrunk[0] - small.inputs[1]).abs().mean() > 20
    assert not torch.equal(data.shapes(4, 0, 32).inputs, small.inputs)


def test_squares_tell_where_the_disc_is():
    for picture, labels in zip(*data.discs(5, 0, 64), strict=True):
        bright = picture.float().sum(0)
        y, x = np.argwhere((bright > (bright.max() + bright.min()) / 2).numpy()).mean(0) / 64
        assert labels.shape == (8, 8)
        if x > 0.2:
            assert labels[int(y * 8), 0] == 1
        if y > 0.2:
            assert labels[0, int(x * 8)] == 3
        if x < 0.8:
            assert labels[int(y * 8), 7] == 0
        if y < 0.8:
            assert labels[7, int(x * 8)] == 2


def test_orders_of_training_tell_nothing_of_those_of_the_test():
    clips = data.motion(4, 0, 32, 8)
    for seed in range(2):
        trained, tested = video.both_shuffled(clips, clips, seed)
        for one, other in zip(trained.inputs, tested.inputs, strict=True):
            assert not one.equal(other)


def test_frames_are_shuffled_within_their_clip():
    clips = data.motion(6, 1, 32, 4)
    mixed = video.shuffled(clips, seed=0)
    assert torch.equal(mixed.labels, clips.labels)
    orders = set()
    for before, after in zip(clips.inputs, mixed.inputs, strict=True):
        frames = [after[:, t].flatten().tolist() for t in range(4)]
        order = tuple(frames.index(before[:, t].flatten().tolist()) for t in range(4))
        assert sorted(order) == [0, 1, 2, 3]
        orders.add(order)
    assert len(orders) > 2


def test_masks():
    mask = simmim.draw_mask(3, 64, 0.6, torch.Generator().manual_seed(0))
    assert mask.shape == (3, 16, 16)
    assert mask.sum((1, 2)).tolist() == [38 * 4] * 3  # 0.6 of 64 squares of 2 x 2 patches
    squares = mask.view(3, 8, 2, 8, 2).float().mean((2, 4))
    assert set(squares.flatten().tolist()) == {0.0, 1.0}
    assert not torch.equal(mask[0], mask[1])


# --- the whole -----------------------------------------------------------------------------------

ROWS = {'norm': 4, 'window': 10, 'position': 10, 'simmim': 4, 'video': 4}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp('reproduce')
    main(['--quick', '--seeds', '3', '--out', str(out), '--device', 'cpu', '--jobs', '1'])
    return out


def test_all_experiments_run(results):
    assert list(EXPERIMENTS) == list(ROWS)
    for name, count in ROWS.items():
        record = json.loads((results / f'{name}-3.json').read_text())
        assert (record['experiment'], record['seed'], len(record['rows'])) == (name, 3, count)
        assert record['settings']['batch'] == 4 and record['seconds'] > 0
        assert 5_000 < (results / f'{name}.png').stat().st_size < 60_000
    text = (results / 'results.md').read_text()
    for words in ('V1', 'linear-spaced', 'table, bicubic', 'SimMIM', 'shuffled', 'window 12'):
        assert words in text
    assert not [path for path in results.iterdir() if HALF_WRITTEN in path.name]


def test_a_report_of_what_has_run(results, tmp_path, capsys):
    for path in results.glob('[nv]*.json'):
        (tmp_path / path.name).write_text(path.read_text())
    main(['--report', '--out', str(tmp_path)])
    whole = (results / 'results.md').read_text()
    part = (tmp_path / 'results.md').read_text()
    assert part in capsys.readouterr().out
    assert all(section in whole for section in part.split('\n\n'))
    assert {path.stem for path in tmp_path.glob('*.png')} == {'norm', 'video'}


def test_seeds_of_other_settings_are_refused(results, tmp_path):
    record = json.loads((results / 'video-3.json').read_text())
    (tmp_path / 'video-3.json').write_text(json.dumps(record))
    record['settings']['steps'] = 99
    (tmp_path / 'video-4.json').write_text(json.dumps(record))
    with pytest.raises(SystemExit, match='video-4.json has other settings'):
        main(['--report', '--out', str(tmp_path)])


def test_a_report_of_nothing(tmp_path):
    with pytest.raises(SystemExit, match='holds no results'):
        main(['--report', '--out', str(tmp_path)])


def test_spread():
    assert report.spread([0.1, 0.2, 0.6], 2) == '0.30 (0.10 to 0.60)'
    assert report.shown(np.nan) == report.shown(np.inf) == report.shown(99.0) == 3.0


def test_commands_of_the_page():
    text = (ROOT / 'docs/reproduce.md').read_text()
    commands = re.findall(r'`python -m benchmarks\.reproduce([^`]*)`', text)
    options = re.findall(r"REPRODUCE='([^']*)'", text)
    named = {name for line in commands for name in parse_args(line.split()).experiment}
    assert len(commands) > len(EXPERIMENTS) and named == set(EXPERIMENTS) and options
    for line in options:
        parse_args(line.split())
    makefile = (ROOT / 'Makefile').read_text()
    assert '-m benchmarks.reproduce $(REPRODUCE)' in makefile


def test_plots_of_the_page_are_small():
    plots = {path.stem: path.stat().st_size for path in (ROOT / 'docs/reproduce').glob('*')}
    assert set(plots) == set(EXPERIMENTS) and max(plots.values()) < 60_000
