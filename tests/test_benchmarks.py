"""The benchmarks: what they measure, and how they report it."""

import os
import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.__main__ import ROOT, machine, main, measure, side_by_side
from benchmarks.workloads import Workload
from tests.test_tools.conftest import SMALL_VIDEO
from tests.tool_server import run_program

RESULTS = {
    'mmswinv2': dict(median=1.0, peak=2**20),
    'timm': dict(median=3.0, peak=4 * 2**20),
    'transformers': dict(median=2.0, peak=8 * 2**20),
    'torchvision': dict(median=None, peak=None),
}


def record(**changes):
    return dict(
        title='a workload', name='size-256', size=[256, 256], window=16, batch=1, training=False,
        dtype='float32', compiled=False, floor=0.5, floor_onednn=0.25, machine='a machine',
        date='a date', results={**RESULTS, **changes},
    )  # fmt: skip


def cells(record, tmp_path):
    report.write_table([record], tmp_path / 'table.md')
    head, _, row = (tmp_path / 'table.md').read_text().splitlines()
    names, values = ([cell.strip() for cell in line.split('|')[1:-1]] for line in (head, row))
    return dict(zip(names, values, strict=True))


def test_table_takes_the_best_peer_of_each_column(tmp_path):
    row = cells(record(), tmp_path)
    assert row['best peer'] == '2.000 s (transformers)'
    assert row['best peer / ours'] == '2.00'
    assert (row['ours / floor'], row['ours / floor by oneDNN']) == ('2.00', '4.00')
    assert (row['memory, best peer'], row['ours / best peer']) == ('4 MiB (timm)', '0.25')


@pytest.mark.parametrize('missing', [['mmswinv2'], ['timm', 'transformers']], ids=str)
def test_what_does_not_fit_is_said(missing, tmp_path):
    some = record(**{name: dict(median=None, peak=None) for name in missing})
    assert '-' in cells(some, tmp_path).values()
    text = report.describe(some)
    assert text.count('does not fit into memory') == 1 + len(missing)


def test_what_fails_is_said_and_the_rest_stays(tmp_path):
    failed = record(timm=dict(median=None, peak=None, error='KeyError: 7'))
    assert 'timm          failed: KeyError: 7' in report.describe(failed)
    assert cells(failed, tmp_path)['best peer'] == '2.000 s (transformers)'


def test_without_a_floor(tmp_path):
    """The floor is missing if its matrix product fails, and oneDNN's is missing on GPUs."""
    bare = record() | dict(floor=None, floor_onednn=None)
    assert 'floor' not in report.describe(bare)
    row = cells(bare, tmp_path)
    assert row['ours / floor'] == row['ours / floor by oneDNN'] == '-'


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--peers', 'tim'), '--peers tim: there are '),
        (('--device', 'cuda'), 'there is no GPU that torch can use'),
    ],
)
def test_options_that_cannot_be(options, words, monkeypatch, capsys):
    if 'cuda' in options and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    monkeypatch.setattr(sys, 'argv', ['benchmarks', *options])
    with pytest.raises(SystemExit, match='2'):
        main()
    assert words in capsys.readouterr().err


def test_plot_of_one_sweep_alone(tmp_path):
    report.write_plot([record()], tmp_path / 'cost.png')
    assert (tmp_path / 'cost.png').stat().st_size > 10_000


def test_processes_that_do_not_fit_together_do_not_run_together():
    peaks = dict(mmswinv2=3, timm=6, transformers=8, torchvision=4)
    assert side_by_side(peaks, 30) == [['mmswinv2', 'timm', 'transformers', 'torchvision']]
    assert side_by_side(peaks, 15) == [
        ['mmswinv2', 'timm'],
        ['mmswinv2', 'transformers', 'torchvision'],
    ]
    assert side_by_side(peaks, 1) == [['mmswinv2', name] for name in list(peaks)[1:]]
    assert side_by_side(dict(timm=2), 9) == [['timm']]
    assert side_by_side(dict(mmswinv2=2), 9) == [['mmswinv2']]


def test_the_machine_is_named_where_the_system_tells_nothing(monkeypatch):
    """macOS has no /proc; runs of minutes would be lost at their end."""
    read, exists = Path.read_text, Path.exists

    def read_text(path, *args, **kwargs):
        return read(Path('/nowhere') / path.name if path.parts[1] == 'proc' else path, *args)

    monkeypatch.setattr(Path, 'read_text', read_text)
    monkeypatch.setattr(Path, 'exists', lambda path: path.parts[1] != 'proc' and exists(path))
    assert ', 2 threads, torch ' in machine(Namespace(device='cpu', threads=2, isa='all'))


@pytest.mark.slow
def test_a_small_workload():
    workload = Workload('small', 'nano', (64, 64), 4, batch=2, training=True)
    args = Namespace(
        peers=['nobody'], runs=1, device='cpu', threads=1, memory_limit=20, isa='avx2',
        peers_python=sys.executable,
    )  # fmt: skip
    result = measure(workload, args)
    ours = result['results']['mmswinv2']
    assert 0 < ours['median'] < 60 and 2**20 < ours['peak'] < 2**30
    assert 'avx2 alone' in result['machine']
    assert 0 < result['floor'] < 10 and result['operations'] > 2e6


@pytest.mark.slow
@pytest.mark.parametrize('program', ['paths --size 64 64 --runs 1', 'products --tokens 64'])
def test_the_other_programs_run(program):
    name, *options = program.split()
    run = run_program(
        [sys.executable, '-m', f'benchmarks.{name}', '--threads', '1', *options], cwd=ROOT
    ).succeeded()
    assert len(run.stdout.splitlines()) > 3


def test_coco_eval(monkeypatch, capsys):
    pytest.importorskip('faster_coco_eval', reason='mmdet 3.3 scores by pycocotools alone')
    from benchmarks import coco_eval

    monkeypatch.setattr(sys, 'argv', ['coco_eval', '--images', '4', '--classes', '3'])
    coco_eval.main()
    boxes, masks = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert (boxes[0], masks[0]) == ('bbox', 'segm')
    assert float(boxes[-1]) < 1e-6 and float(masks[-1]) < 1e-6


@pytest.mark.slow
def test_videos():
    command = [sys.executable, '-m', 'benchmarks.videos', '--places', '2', '--frames', '70']
    run = run_program(command, cwd=ROOT).succeeded()
    rows = rows_of(run.stdout)
    assert len(rows) > 8 and {row['ours, wrong'] for row in rows} == {'0 of 32'}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # warnings of torch's exporter
def test_runtimes(tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxruntime', reason='onnxruntime has no wheel for this Python')
    pytest.importorskip('openvino', reason='openvino is not installed')
    from benchmarks import deploy

    config = tmp_path / 'small.py'
    config.write_text(SMALL_VIDEO)
    title, _, *more = deploy.MODELS['video']
    monkeypatch.setitem(deploy.MODELS, 'video', (title, str(config), *more))
    options = '--models video --train 8 --val 6 --steps 2 --calibration 2 --runs 1 --threads 1'
    monkeypatch.setattr(
        sys, 'argv', ['deploy', *options.split(), '--work-dir', str(tmp_path / 'work')]
    )
    deploy.main()
    rows = {row['runtime']: row for row in rows_of(capsys.readouterr().out)}
    assert len(rows) == 5
    assert rows['PyTorch']['metric'] == rows['OpenVINO']['metric'] == rows['onnxruntime']['metric']
    assert re.fullmatch(r'top-1 [01]\.\d{3}', rows['PyTorch']['metric'])
    sizes = {name: float(row['file'].split()[0]) for name, row in rows.items()}
    assert sizes['onnxruntime, int8'] <= sizes['onnxruntime'] < 10
    assert all(float(row['a picture'].split()[0]) > 0 for row in rows.values())


def run_compiling(*arguments):
    """Output of a program that compiles Triton kernels instead of interpreting them."""
    pytest.importorskip('triton', reason='Triton is for Linux on x86-64 alone')
    command = ['env', '-u', 'TRITON_INTERPRET', sys.executable, '-W', 'ignore', '-m', *arguments]
    return run_program(command, cwd=ROOT).succeeded().stdout


def rows_of(text):
    """The rows of the table in a program's output."""
    lines = [line for line in text.splitlines() if line.startswith('|') and '---' not in line]
    head, *rows = ([cell.strip() for cell in line.split('|')[1:-1]] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_gpu_is_told_little_and_is_not_waited_for():
    """Bounds on launches of SwinV2-T for any size and window; timm: 427 to 491 and 966 or more."""
    sizes = ('--sizes', '800x1344', '736x1120', '--windows', '16', '8')
    text = run_compiling('benchmarks.launches', *sizes, '--operators')
    rows = rows_of(text)
    limits = {'kernels': (240, 320, 500), 'sdpa': (600, 600, 1200)}
    assert len(rows) == 8
    for row in rows:
        counts = (row['forward, evaluation'], row['forward, training'], row['backward'])
        for counted, limit in zip(counts, limits[row['implementation']], strict=True):
            assert 50 < int(counted) <= limit, row
    names = set(re.findall(r"'\w+\.(\w+)\.\w+'", text))
    assert {'attend', 'attend_backward', 'addmm', 'bmm'} <= names
    waiting = {'item', 'is_nonzero', '_local_scalar_dense', 'equal', 'nonzero', 'cpu',
               'masked_select', '_unique2', 'allclose'}  # fmt: skip
    assert not names & waiting


@pytest.mark.slow
def test_kernels_compile_for_gpus_and_keep_their_registers():
    rows = rows_of(run_compiling('benchmarks.kernels', '--dtypes', 'bf16', 'fp32'))
    kernels = {(row['target'], row['dtype'], row['kernel']) for row in rows}
    assert len(kernels) == 2 * 2 * 10
    for row in rows:
        assert int(row['registers']) <= 255 and int(row['shared memory']) <= 99 * 1024
        if row['for'] != 'dropout':
            assert row['spills'] == '0', row


# Triton's interpreter converts NumPy arrays to scalars
@pytest.mark.filterwarnings('ignore:Conversion of an array with ndim:DeprecationWarning')
def test_the_benchmark_of_gpus_runs_and_finds_what_is_wrong(monkeypatch):
    from benchmarks import gpu_operators

    assert gpu_operators.DEVICE == 'cuda' or os.environ['TRITON_INTERPRET']
    shape = [((3, 4), (3, 2), (1, 1), 1, 16)]
    gpu_operators.check(shape)
    plain = gpu_operators.triton.attend
    monkeypatch.setattr(gpu_operators.triton, 'attend', lambda *a: plain(*a) * 1.001)
    least = {'float32': torch.float32}  # with the least tolerance
    monkeypatch.setattr(gpu_operators, 'DTYPES', least)
    with pytest.raises(SystemExit, match='WRONG'):
        gpu_operators.check(shape)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_the_benchmark_of_gpus_needs_one(monkeypatch, capsys):
    from benchmarks import gpu

    monkeypatch.setattr(sys, 'argv', ['gpu'])
    with pytest.raises(SystemExit, match='2'):
        gpu.main()
    words = 'there is no GPU that torch can use; --try runs small sizes'
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_of_gpus_times_implementations_in_processes_of_their_own():
    """Runs on small sizes; the last implementation is not installed."""
    options = ('--try', '--eager', '--parts', 'products', 'networks', '--workloads', '256x256')
    options += ('--archs', 'tiny', '--dtypes', 'bfloat16', '--modes', 'inference')
    text = run_compiling('benchmarks.gpu', *options, '--implementations', 'kernels', 'torchvision')
    sums, (row,) = (rows_of(part) for part in text.split('microseconds of the device'))
    assert len(sums) == 2 and all(float(r['torch']) > 0 and float(r['product']) > 0 for r in sums)
    assert re.fullmatch(r'\d+\.\d\d ms, 0 MiB', row['kernels'])
    assert row['torchvision'].startswith('ModuleNotFoundError: ')
    # the rate of the floor is timed too, so that on a busy machine it may be below 1
    assert float(row['ours / floor']) > 0
