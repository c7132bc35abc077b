import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.engine.start import last_good_checkpoint
from tests.test_errors import heed_interrupts
from tests.test_tools.conftest import CONFIG, ROOT
from tests.tool_server import run_program

# four iterations an epoch, and too many epochs to end before the kill
EPOCHS = """
_base_ = '{base}'
train_dataloader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs={epochs}, val_interval=1000)
default_hooks = dict(
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=1), logger=dict(interval=1))
log_processor = dict(by_epoch=True)
"""


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed(tool, shapes, tmp_path):
    config = tmp_path / 'epochs.py'
    config.write_text(EPOCHS.format(base=ROOT / CONFIG, epochs=20))
    options = ['--work-dir', tmp_path / 'w', '--cfg-options', f'data_root={shapes}']
    command = [sys.executable, 'tools/train.py', config, *options]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:  # wait for the middle of the third epoch
        if '[3][2/4]' in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    # the second, or a later one if this process was not run for a while
    epoch = int(re.search(r'epoch_(\d+)\.pth$', (tmp_path / 'w/last_checkpoint').read_text())[1])
    assert 2 <= epoch < 20

    config.write_text(EPOCHS.format(base=ROOT / CONFIG, epochs=epoch + 1))
    run = tool('train.py', config, '--resume', *options).succeeded()
    assert f'resumed epoch: {epoch}, iter: {4 * epoch}' in run.stdout
    (last,) = (tmp_path / 'w').glob('*.pth')
    assert last.name == f'epoch_{epoch + 1}.pth'
    assert int(read_checkpoint(last)['optimizer']['state'][0]['step']) == 4 * (epoch + 1)


# Random sampling, drop path and workers: everything that could make a resumed run differ
RANDOM = """
_base_ = '{root}/configs/detection/mask-rcnn_swinv2-nano_shapes.py'
randomness = dict(seed=5)
data_root = '{data}/'
model = dict(backbone=dict(drop_path_rate=0.3))
train_dataloader = dict(
    batch_size={batch_size}, num_workers=1, persistent_workers=True,
    dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
train_cfg = dict(max_iters={iters}, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2), logger=dict(interval=1))
"""
KILLS = int(os.environ.get('KILLS', 2))  # 20 take five minutes for each kind of run
ALONE = [sys.executable, 'tools/train.py']
TOGETHER = [
    sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
    '--max-restarts=2', 'tools/train.py', '--launcher=pytorch',
]  # fmt: skip
ZERO1 = ['runner_type=FlexibleRunner', 'strategy.type=mmswinv2.DeepSpeedStrategy',
         'strategy.zero_optimization.stage=1']  # fmt: skip


def start(command, config, work_dir, *args, options=()):
    options = ['--cfg-options', *options] if options else []
    return subprocess.Popen(
        [*map(str, [*command, config, '--work-dir', work_dir, *args, *options])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'},
        preexec_fn=heed_interrupts,
    )


def children(pid):
    """Descendants of a process; torchrun puts its workers into separate sessions."""
    listed = Path(f'/proc/{pid}/task/{pid}/children')
    below = [int(child) for child in listed.read_text().split()] if listed.exists() else []
    return [*below, *(n for child in below for n in children(child))]


def kill_all(process):
    for pid in (process.pid, *children(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def finish(process):
    out = process.communicate()[0]
    assert process.returncode == 0, out[-3000:]
    return out


def last_iteration(work_dir):
    """Iteration of the checkpoint that a resumed run would start from."""
    found = last_good_checkpoint(work_dir)
    return int(found.stem.removeprefix('iter_')) if found else 0


def weights(work_dir, iters):
    return read_checkpoint(work_dir / f'iter_{iters}.pth')['state_dict']


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ('command', 'options', 'tolerance'),
    [(ALONE, [], 0), (TOGETHER, ZERO1, 1e-6)],  # with DDP: the next test
    ids=['one process', 'two processes, ZeRO-1'],
)
def test_killed_at_random_moments(command, options, tolerance, shapes, tmp_path):
    iters = 5 + 5 * KILLS
    config = tmp_path / 'config.py'
    batch_size = 2 if command is ALONE else 1
    config.write_text(RANDOM.format(root=ROOT, data=shapes, batch_size=batch_size, iters=iters))
    began, times = time.monotonic(), []
    process = start(command, config, tmp_path / 'whole', options=options)
    for line in process.stdout:
        if 'Iter(train)' in line:
            times.append(time.monotonic() - began)
    assert finish(process) == '' and len(times) == iters
    step = (times[-1] - times[0]) / iters

    chance, work = random.Random(0), tmp_path / 'killed'
    resumed = []
    for _ in range(KILLS):
        resume = ['--resume'] if any(work.glob('iter_*.pth')) else []
        process = start(command, config, work, *resume, options=options)
        if steps := chance.randint(0, 4):  # kill some iterations later, at a random moment
            for line in process.stdout:
                steps -= 'Iter(train)' in line
                if not steps:
                    break
            time.sleep(chance.uniform(0, 2 * step))
        else:
            time.sleep(chance.uniform(0, times[0]))
        kill_all(process)
        resumed.append(last_iteration(work))
    resume = ['--resume'] if any(work.glob('iter_*.pth')) else []
    finish(start(command, config, work, *resume, options=options))
    print(f'{KILLS} kills; last checkpoint after each: {resumed}')
    assert sum(i < iters for i in resumed) >= KILLS / 2 and resumed[-1]  # killed while training
    assert not list(work.glob('.iter*'))  # no partial files
    whole, killed = weights(tmp_path / 'whole', iters), weights(work, iters)
    assert set(whole) == set(killed)
    for key, value in whole.items():
        if tolerance:
            torch.testing.assert_close(killed[key], value, rtol=1e-4, atol=tolerance, msg=key)
        else:
            assert torch.equal(killed[key], value), key


@pytest.mark.slow
def test_torchrun_starts_again_after_one_process_is_killed(shapes, tmp_path):
    config, iters = tmp_path / 'config.py', 12
    config.write_text(RANDOM.format(root=ROOT, data=shapes, batch_size=1, iters=iters))
    finish(start(TOGETHER, config, tmp_path / 'whole'))
    work = tmp_path / 'killed'
    # a restart must not resume from the checkpoint of an earlier training
    work.mkdir()
    torch.save({'state_dict': {}, 'meta': {'iter': 99}}, work / 'iter_99.pth')
    (work / 'last_checkpoint').write_text(str(work / 'iter_99.pth'))
    process = start(TOGETHER, config, work)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if 'Iter(train) [ 3/12]' in line:
            break
    workers = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    out = ''.join(seen) + finish(process)
    assert len(workers) >= 2
    assert 2 <= int(re.search(r'resumed epoch: 0, iter: (\d+)', out)[1]) < iters
    whole, killed = weights(tmp_path / 'whole', iters), weights(work, iters)
    for key, value in whole.items():
        torch.testing.assert_close(killed[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
def test_disk_full_while_a_checkpoint_is_written(shapes, tmp_path):
    # 80 MiB hold two checkpoints of 36 MB but no third one
    (tmp_path / 'disk').mkdir()
    mount = ['unshare', '-Urm', '--wd', tmp_path, 'sh', '-c']
    if (
        not shutil.which('unshare')
        or subprocess.run([*mount, 'mount -t tmpfs tmpfs disk'], capture_output=True).returncode
    ):
        pytest.skip('a small disk needs user namespaces, which this machine does not allow')
    config = tmp_path / 'config.py'
    config.write_text(RANDOM.format(root=ROOT, data=shapes, batch_size=2, iters=6))
    keep = '--cfg-options default_hooks.checkpoint.max_keep_ckpts'
    train = f'{sys.executable} {ROOT}/tools/train.py config.py --work-dir disk'
    script = f"""
        mount -t tmpfs -o size=80M tmpfs disk
        {train} {keep}=3 > first.txt 2>&1
        echo first ended with $?
        ls -a disk
        rm disk/iter_1.pth
        {train} --resume {keep}=1 > second.txt 2>&1
        echo second ended with $?
        ls -a disk
    """
    env = {'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore', 'PYTHONPATH': str(ROOT)}
    out = run_program([*mount, script], env=env).stdout
    first, second = out.split('first ended with')[1].split('second ended with')
    assert first.split()[0] == '1' and second.split()[0] == '0', out
    assert 'iter_2.pth' in first and 'iter_3.pth' not in first, out  # not even a partial file
    text = (tmp_path / 'first.txt').read_text()
    assert 'error: the disk is full' in text and 'go on with --resume' in text
    assert 'resumed epoch: 0, iter: 2' in (tmp_path / 'second.txt').read_text()
    assert 'iter_6.pth' in second


@pytest.mark.slow
def test_stopped_and_locked(train, shapes, tmp_path):
    """A second training in the folder is refused; a stopped one ends in a one-line message."""
    config, work = tmp_path / 'config.py', tmp_path / 'w'
    config.write_text(RANDOM.format(root=ROOT, data=shapes, batch_size=1, iters=1000))
    done = 0
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(ALONE, config, work, *(['--resume'] if done else []))
        for line in process.stdout:
            if f'Iter(train) [{done + 2:4}/1000]' in line:
                break
        if not done:
            second = train(work)
            assert second.returncode == 1
            assert f'another training, process {process.pid} on ' in second.stderr
        process.send_signal(number)
        out = process.communicate(timeout=300)[0]
        assert process.returncode == status and 'Traceback' not in out
        assert 'stopped; checkpoints that were complete are kept; go on with --resume' in out
        assert last_iteration(work) > done and not list(work.glob('.iter*'))
        done = last_iteration(work)


@pytest.mark.slow
def test_loss_that_is_no_number(train, tmp_path):
    nan = 'model.data_preprocessor.std=[0.0,0.0,nan]'
    run = train(tmp_path / 'w', options=[nan])
    assert run.returncode == 1
    error = run.stderr[run.stderr.index('error: ') :]
    assert re.search(r'loss\w* is nan in iteration 1 of process 0 on ', error)
    assert error.count('.jpg') + error.count('.png') == 2 and 'train2017/' in error
    assert 'clip gradients' in error and 'max_skips=N' in error
    assert not list((tmp_path / 'w').glob('*.pth'))
    config = tmp_path / 'skip.py'
    config.write_text(
        f"_base_ = '{ROOT / CONFIG}'\n"
        "custom_hooks = [dict(type='mmswinv2.CheckInvalidLossHook', max_skips=2)]\n"
    )
    run = train(tmp_path / 'w', options=[nan], iters=5, config=config)
    assert 'batch passed over (2 of at most 2)' in run.stdout
    assert 'loss is nan in iteration 3' in run.stderr
