import os
import signal
import subprocess
import sys

import pytest

from mmswinv2.checkpoints import read_checkpoint
from tests.test_tools.conftest import CONFIG, ROOT

# four iterations an epoch, enough epochs never to end by itself
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
    for line in process.stdout:  # the third epoch has begun and is not at its end
        if '[3][2/4]' in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()
    assert (tmp_path / 'w' / 'last_checkpoint').read_text().endswith('epoch_2.pth')

    config.write_text(EPOCHS.format(base=ROOT / CONFIG, epochs=3))
    run = tool('train.py', config, '--resume', *options)
    assert run.returncode == 0, run.stderr
    assert 'resumed epoch: 2, iter: 8' in run.stdout
    (last,) = (tmp_path / 'w').glob('*.pth')
    assert last.name == 'epoch_3.pth'
    assert int(read_checkpoint(last)['optimizer']['state'][0]['step']) == 12
