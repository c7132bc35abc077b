import re
import subprocess
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import nn

from mmswinv2 import hosts
from mmswinv2.analysis.measured_memory import measure_memory
from mmswinv2.analysis.memory import (
    MemoryTracker,
    TrainingStep,
    _states_of,
    dtype_of,
    follow_step,
    strategy_of,
)
from mmswinv2.analysis.model import begin_counters
from mmswinv2.cli import estimate
from mmswinv2.errors import UserError
from mmswinv2.options import STRATEGIES
from tests.test_tools.conftest import ROOT

pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning:mm(det|seg)'),
    pytest.mark.filterwarnings('ignore:torch.meshgrid:UserWarning'),
]
VIDEO = 'configs/video/video-swinv2-t-p244-w8x8x8_8xb8-amp-30e_kinetics400-rgb-256.py'
COMMAND = (
    'analysis_tools/estimate_memory.py', 'configs/video/video-swinv2-nano_motion.py',
    '--shape', 8, 32, 32, '--gpus', 64, '--strategy', 'zero1',
)  # fmt: skip
SEGMENTATION = 'configs/segmentation/swinv2-t-w16_upernet_8xb2-160k_ade20k-512x512.py'


def load(path, **options):
    hosts.apply()
    cfg = Config.fromfile(ROOT / path)
    cfg.merge_from_dict({f'model.backbone.{key}': value for key, value in options.items()})
    return cfg


def test_tracker_counts_each_storage_once():
    layer = nn.Linear(256, 256, bias=False)
    x = torch.rand(1024, 256)
    mib = 2**20
    tracker = MemoryTracker()
    with tracker:
        y = layer(x)  # 1 MiB; the weight's transposed view adds none
        assert tracker.live == mib
        z = y.view(-1).relu()
        del y
        assert tracker.live == mib  # relu keeps its output for backward
        z.sum().backward()
    del z
    assert tracker.live == mib // 4  # the gradient
    assert max(sum(n for n, _ in tracker.events[:i]) for i in range(len(tracker.events))) >= 2 * mib


def test_what_each_strategy_spreads():
    # 1000 parameters in blocks of 400; gradients grow while other memory is freed
    step = TrainingStep([0, 0, 2000, 4000], [0, 9000, 5000, 0], {}, 0, 1000, 0, 400, 200)
    parts = {}
    for strategy in STRATEGIES:
        e = step.estimate(strategy, 4, 100, foreach=False)
        parts[strategy] = (e.parameters, e.gradients, e.optimizer, e.buffers, e.activations)
    assert parts == {
        'ddp': (4000, 0, 8000, 4000, 9000),
        'zero1': (4000, 0, 3000, 400, 9000),
        'zero2': (4000, 0, 3000, 400, 9000),
        'zero3': (1000, 0, 3000, 4800, 9000),
        'fsdp': (1000, 0, 2000, 4 * (1200 + 400), 9000),
    }
    late = TrainingStep([0, 4000], [9000, 8000], {}, 0, 1000, 0, 400, 200)
    assert late.estimate('zero1', 4).gradients == 4000
    assert late.estimate('zero2', 4).gradients == 0  # sharded, they do not move the peak
    again = replace(late, accumulates=True)  # the gradients of the batch before are there
    assert (late.estimate().total, again.estimate().total) == (24000, 25000)
    heavy = TrainingStep([0, 4000], [10, 0], {}, 0, 1000, 0, 400, 200)
    assert heavy.estimate('ddp').activations == 4000  # temporary memory of the optimizer
    averaged = replace(heavy, states=0.5, averages=True).estimate('zero1', 4)
    assert (averaged.parameters, averaged.optimizer) == (8000, 500 + 1000)
    with pytest.raises(UserError, match="'zero4' is unknown; choose from ddp, zero1"):
        heavy.estimate('zero4')


def test_heads_may_ask_how_far_the_training_is():
    """As those of TOOD and BoxInst, which ended in a TypeError."""
    hub = MessageHub.get_instance('a training that has not begun')
    begin_counters()
    assert (hub.get_info('epoch'), hub.get_info('iter')) == (0, 0)
    hub.update_info('iter', 7)  # as where a hook of a training asks for the FLOPs
    begin_counters()
    assert hub.get_info('iter') == 7


@pytest.mark.slow
def test_what_saves_memory_does():
    size = (8, 112, 112)
    plain = follow_step(load(VIDEO), size, 2).estimate()
    recomputed = follow_step(load(VIDEO, with_cp=True), size, 2).estimate()
    half = follow_step(load(VIDEO), size, 2, torch.bfloat16).estimate()
    in_turn = follow_step(load(VIDEO, windows_at_once=1), size, 2).estimate()
    assert recomputed.activations < 0.6 * plain.activations
    assert sum(recomputed.saved.values()) < 0.3 * sum(plain.saved.values())
    assert half.saved['stage 0'] < 0.75 * plain.saved['stage 0']
    assert in_turn.activations < plain.activations
    assert list(plain.saved) == [*(f'stage {i}' for i in range(4)), 'neck and heads']
    assert plain.parameters == 4 * plain.count


def test_what_is_not_trained_costs_no_gradient_and_no_state():
    size = (8, 64, 64)
    net = dict(embed_dims=96, depths=(1, 1, 1, 1), num_heads=(3, 6, 12, 24))
    small = dict(arch=dict(_delete_=True, **net))
    plain = follow_step(load(VIDEO, **small), size, 1)
    adapted = follow_step(load(VIDEO, **small, lora=dict(rank=4)), size, 1)
    frozen = follow_step(load(VIDEO, **small, frozen_stages=4), size, 1)
    assert plain.frozen == 0 and 0 < frozen.trained < adapted.trained < 0.1 * plain.trained
    assert adapted.trained + adapted.frozen > plain.trained == frozen.trained + frozen.frozen
    assert max(adapted.gradients) == 4 * adapted.trained < 0.1 * max(plain.gradients)
    assert adapted.estimate().optimizer == 8 * adapted.trained
    cfg = load(VIDEO, **small, frozen_stages=4)
    cfg.custom_hooks = [dict(type='EMAHook')]
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.1)
    cfg.optim_wrapper.accumulative_counts = 4
    step = follow_step(cfg, size, 1)
    assert step.accumulates and not frozen.accumulates
    averaged = step.estimate()
    assert averaged.optimizer == 0 and averaged.parameters == 2 * frozen.estimate().parameters
    stages = [f'stage {i}' for i in range(4)]  # frozen stages keep at most their outputs
    kept = [sum(step.saved[name] for name in stages) for step in (frozen, adapted)]
    assert kept[0] < 0.1 * kept[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'options'),
    [
        (VIDEO, '--shape 16 160 160 --batch-size 1 --dtype float32'),
        pytest.param(
            VIDEO,
            '--shape 16 224 224 --batch-size 1 --dtype bfloat16',
            marks=pytest.mark.skipif(
                torch.backends.cpu.get_cpu_capability() != 'AVX512',
                reason='bfloat16 takes minutes on a processor without AVX-512',
            ),
        ),
        (
            VIDEO,
            '--shape 16 160 160 --batch-size 2 --dtype float32 '
            '--cfg-options model.backbone.with_cp=True',
        ),
        (
            VIDEO.replace('-t-', '-s-'),
            '--shape 16 160 160 --batch-size 1 --dtype float32 '
            '--cfg-options model.backbone.windows_at_once=4',
        ),
        (SEGMENTATION, '--batch-size 1'),
        (
            'configs/detection/retinanet_swinv2-t-w16_fpn_ms-3x_coco.py',
            '--shape 512 768 --batch-size 1',
        ),
    ],
    ids=str,
)
def test_predicted_against_measured(config, options, tool):
    run = tool(
        'analysis_tools/estimate_memory.py', config, *options.split(), '--measure'
    ).succeeded()
    ratio = float(re.search(r'predicted / measured = ([\d.]+)', run.stdout)[1])
    print(f'\n{config} {options}: {ratio}')
    assert 0.85 < ratio < 1.15


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('{"zero_optimization": {"stage": 2,}}', '^strategy.config: .*ds.json is not JSON'),
        ('[]', r'ds.json \(strategy.config\) must be a JSON object'),
        (
            '{"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}',
            "reduce_bucket_size='auto' must be a number, such as 5e8",
        ),
    ],
)
def test_settings_of_deepspeed_that_cannot_be(content, words, tmp_path):
    (tmp_path / 'ds.json').write_text(content)
    strategy = dict(type='DeepSpeedStrategy', config=str(tmp_path / 'ds.json'))
    with pytest.raises(UserError, match=words):
        strategy_of(Config(dict(strategy=strategy)))
    (tmp_path / 'ds.json').write_text(
        '{"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8}}'
    )
    assert strategy_of(Config(dict(strategy=strategy))) == ('zero2', 500_000_000)


@pytest.mark.parametrize(
    ('optimizer', 'states'),
    [
        (dict(type='SGD', lr=0.1), 0),
        (dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4), 1),
        (dict(type='AdamW', lr=1e-4), 2),
        (dict(type=torch.optim.AdamW, amsgrad=True), 3),
        (dict(type='LBFGS'), 2),
        (dict(type='Unknown'), 2),
        (None, 2),
    ],
)
def test_what_optimizers_keep(optimizer, states):
    assert _states_of(Config(dict(optim_wrapper=dict(optimizer=optimizer)))) == states


def test_tool_says_whether_it_fits(tool):
    run = tool(*COMMAND, '--card', 40).succeeded()
    assert 'on each of 64 GPUs, zero1, float32, ' in run.stdout
    assert 'fits a card of 40 GiB' in run.stdout
    wrong = tool(*COMMAND, '--batch-size', 0)
    assert wrong.returncode != 0
    assert '--gpus and --batch-size must be at least 1' in wrong.stderr


def test_what_options_change_in_the_estimate(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)

    def told(*options):
        estimate.main([*map(str, COMMAND[1:]), *options])
        return capsys.readouterr().out

    assert 'does NOT fit a card of 2 GiB' in told('--card', '2')
    half = ('--cfg-options', 'optim_wrapper.type=mmengine.AmpOptimWrapper')
    assert 'zero1, bfloat16, ' in told(*half, 'optim_wrapper.dtype=bfloat16')
    adapted = re.search(r'([\d.]+) million parameters, ([\d.]+) m', told('--lora', '4'))
    assert 0 < float(adapted[2]) < 0.1 * float(adapted[1])


@pytest.mark.parametrize('given', [torch.bfloat16, 'bfloat16'])
def test_types_of_mixed_precision(given):
    """Configs in Python may have torch's own."""
    wrapper = dict(type='AmpOptimWrapper', dtype=given)
    assert dtype_of(Config(dict(optim_wrapper=wrapper))) == 'bfloat16'
    with pytest.raises(UserError, match="optim_wrapper.dtype='bf16' is no type of torch"):
        dtype_of(Config(dict(optim_wrapper={**wrapper, 'dtype': 'bf16'})))


def test_the_steps_that_are_measured_import_nothing_of_the_present_folder(tmp_path, monkeypatch):
    (tmp_path / 'json.py').write_text('raise ImportError')
    monkeypatch.chdir(tmp_path)
    start = subprocess.run

    def run(command, **options):
        start([*command[:2], f'{command[2].rpartition("from ")[0]}import json'], check=True)
        return subprocess.CompletedProcess(command, 0, '7')

    monkeypatch.setattr(subprocess, 'run', run)
    assert measure_memory(Config(), (64, 64), 1) == 7
