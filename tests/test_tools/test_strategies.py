"""Two processes train as one process does, with every strategy."""

import json
import re

import pytest
import torch

from mmswinv2.checkpoints import convert_file, read_checkpoint
from tests.test_tools.conftest import ROOT, scores

# No dropout, so that gradients depend only on samples; a weight decay that shows after few steps
CONFIG = """
_base_ = ['{root}/configs/video/video-swinv2-nano_motion.py'{strategy}]
custom_imports = dict(imports=['tests.test_tools.probe'])
custom_hooks = [dict(type='LossCurve', path='{folder}/losses.txt'){hooks}]
randomness = dict(seed=7)
model = dict(
    backbone=dict(drop_path_rate=0.0, with_cp=[True, False, True, False], windows_at_once=2),
    cls_head=dict(dropout_ratio=0.0),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.5),
    clip_grad=dict(max_norm=1.0),
    constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8),
)
param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=3)]
train_cfg = dict(max_iters=6, val_interval=100)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=2), logger=dict(interval=1))
"""
STRATEGIES = ['ddp', 'zero1', 'zero2', 'zero3', 'fsdp']


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A function that writes a config with a strategy and more hooks."""

    def write(strategy=None, hooks='', extra=''):
        folder = tmp_path_factory.mktemp(strategy or 'one')
        base = f", '{ROOT}/configs/_base_/strategies/{strategy}.py'" if strategy else ''
        path = folder / 'config.py'
        text = CONFIG.format(root=ROOT, folder=folder, strategy=base, hooks=hooks)
        path.write_text(text + extra)
        return path

    return write


def losses(folder):
    return [json.loads(line) for line in (folder / 'losses.txt').read_text().splitlines()]


def assert_moved_alike(checkpoint, alone):
    """Check that from iteration 4 to 6 each tensor changed as in one process.

    A wrong learning rate or weight decay of a group changes that by 0.1 or more. Rounding changes
    it by 1e-3 in most runs; 7e-3 was seen, in the first layer of a bias MLP.
    """
    start, end = (read_checkpoint(alone / f'w/iter_{i}.pth')['state_dict'] for i in (4, 6))
    assert set(checkpoint['state_dict']) == set(end)
    for key, value in checkpoint['state_dict'].items():
        assert (value - end[key]).norm() < 5e-2 * (end[key] - start[key]).norm(), key


@pytest.mark.slow
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_two_processes_train_what_one_trains(
    strategy, alone, written, tool, torchrun, two_processes, clips
):
    # by torchrun a process ends in full, where FSDP could abort it
    start = torchrun if strategy == 'fsdp' else two_processes
    config = written(strategy)
    work = config.parent / 'w'
    options = [f'data_root={clips}/', 'train_dataloader.batch_size=1']
    command = [config, '--work-dir', work, '--cfg-options', *options]
    start(*command, 'train_cfg.max_iters=4').succeeded()
    second = start(config, '--work-dir', work, '--resume', *command[3:]).succeeded()
    assert 'resumed epoch: 0, iter: 4' in second.stdout
    assert 'hooks see a batch size of 2' in second.stdout
    names = {path.name for path in work.glob('iter_*.pth')}
    assert names == {'iter_4.pth', 'iter_6.pth'}  # the last two of three are kept
    assert (work / 'iter_6.pth').is_dir() == strategy.startswith('zero')

    curve, expected = losses(config.parent), losses(alone)
    assert [i for i, _ in curve] == [1, 2, 3, 4, 5, 6]
    assert len({round(loss, 4) for _, loss in expected}) == 6
    for (_, loss), (_, other) in zip(curve, expected, strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
    plain = config.parent / 'plain.pth'
    if strategy.startswith('zero'):
        script = 'model_converters/merge_sharded_checkpoint.py'
        tool(script, work / 'iter_6.pth', plain).succeeded()
    else:
        plain = work / 'iter_6.pth'
    assert_moved_alike(torch.load(plain, weights_only=False), alone)
    assert convert_file(plain).windows == convert_file(alone / 'w/iter_6.pth').windows != {}

    tool(
        'test.py', config, work / 'iter_6.pth', '--work-dir', config.parent / 't',
        '--cfg-options', *options, PYTHONPATH=str(ROOT),
    ).succeeded()  # fmt: skip
    assert 'acc/top1' in scores(config.parent / 't')


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['zero1', 'zero3', 'fsdp'])
def test_weights_of_one_strategy_start_another(strategy, alone, written, two_processes, clips):
    # with a learning rate of 0, weights stay as loaded
    config = written(strategy)
    two_processes(
        config, '--work-dir', config.parent / 'w', '--cfg-options', f'data_root={clips}/',
        'train_dataloader.batch_size=1', 'train_cfg.max_iters=2', 'optim_wrapper.optimizer.lr=0.0',
        f'load_from={alone}/w/iter_6.pth',
    ).succeeded()  # fmt: skip
    ours = read_checkpoint(config.parent / 'w/iter_2.pth')['state_dict']
    for key, value in read_checkpoint(alone / 'w/iter_6.pth')['state_dict'].items():
        assert torch.equal(ours[key], value), key


@pytest.mark.slow
def test_a_plain_run_goes_on_with_fsdp(alone, written, two_processes, clips):
    config = written('fsdp')
    two_processes(
        config, '--work-dir', config.parent / 'w', '--resume', alone / 'w/iter_4.pth',
        '--cfg-options', f'data_root={clips}/', 'train_dataloader.batch_size=1',
    ).succeeded()  # fmt: skip
    assert_moved_alike(read_checkpoint(config.parent / 'w/iter_6.pth'), alone)


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['ddp', 'zero1', 'zero3', 'fsdp'])
def test_all_processes_pass_over_a_bad_loss_of_one(strategy, written, two_processes, clips):
    hooks = (
        ", dict(type='Poison', rank=1, iteration=2)"
        ", dict(type='mmswinv2.CheckInvalidLossHook', max_skips=1)"
    )
    config = written(strategy, hooks)
    run = two_processes(
        config, '--work-dir', config.parent / 'w', '--cfg-options', f'data_root={clips}/',
        'train_dataloader.batch_size=1', 'train_cfg.max_iters=4',
    ).succeeded()  # fmt: skip
    assert re.search('loss of another process is bad in iteration 2: batch passed', run.stdout)
    state = read_checkpoint(config.parent / 'w/iter_4.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.slow
def test_autocast_under_zero(alone, written, two_processes, clips):
    extra = (
        "\noptim_wrapper['type'], optim_wrapper['dtype'] = 'AmpOptimWrapper', 'bfloat16'"
        '\ntrain_cfg = dict(max_iters=6, val_interval=6)'
    )
    config = written('zero1', extra=extra)
    data = ['--cfg-options', f'data_root={clips}/', 'train_dataloader.batch_size=1']
    run = two_processes(config, '--work-dir', config.parent / 'w', *data).succeeded()
    assert 'acc/top1' in run.stdout
    for (_, loss), (_, other) in zip(losses(config.parent), losses(alone), strict=True):
        assert loss == pytest.approx(other, rel=0.05) and loss != other
    run = two_processes(
        config, '--work-dir', config.parent / 'w', *data, 'optim_wrapper.dtype=float16'
    )
    assert 'never lowers the scale; set optim_wrapper.dtype=bfloat16' in run.stderr


@pytest.mark.slow
def test_what_deepspeed_cannot_do_is_said(alone, written, tool, two_processes, clips):
    config = written('zero1')
    data = ['--cfg-options', f'data_root={clips}/', 'train_dataloader.batch_size=1']
    run = tool('train.py', config, '--work-dir', config.parent / 'w', *data, PYTHONPATH=str(ROOT))
    assert 'spreads the work over processes: start it with tools/dist_train.sh' in run.stderr
    run = two_processes(
        config, '--work-dir', config.parent / 'w', *data, 'optim_wrapper.type=Other'
    )
    assert 'optim_wrapper of type Other has no counterpart in DeepSpeed' in run.stderr
    run = two_processes(
        config, '--work-dir', config.parent / 'w', '--resume', alone / 'w/iter_4.pth', *data
    )
    assert 'iter_4.pth was not written by DeepSpeed' in run.stderr
