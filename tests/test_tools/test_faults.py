import os
import signal
import subprocess
import sys
import time

import pytest

from mmswinv2.checkpoints import read_checkpoint
from tests.test_tools.conftest import CONFIG, ROOT, SMALL


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed(train, shapes, tmp_path):
    command = [
        sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(tmp_path), '--cfg-options',
        f'data_root={shapes}', 'train_cfg.max_iters=500', 'default_hooks.checkpoint.interval=1',
        *SMALL,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / 'iter_5.pth').exists():  # an epoch has 4 iterations
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob('iter_*.pth'))) <= 4  # the three to keep and the newest
    done = max(int(p.stem.split('_')[1]) for p in tmp_path.glob('iter_*.pth'))

    run = train(tmp_path, '--resume', iters=done + 2)
    assert run.returncode == 0, run.stderr
    last = read_checkpoint(tmp_path / f'iter_{done + 2}.pth')
    assert last['message_hub']['runtime_info']['iter'] == done + 1
    assert int(last['optimizer']['state'][0]['step']) == done + 2
