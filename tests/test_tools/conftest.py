import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
# what makes the demo's config a matter of seconds
SMALL = ('train_dataloader.batch_size=2', 'train_cfg.val_interval=100', 'log_level=INFO')


def _run(command, threads, **env):
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={'OMP_NUM_THREADS': threads, **os.environ, 'PYTHONWARNINGS': 'ignore', **env},
    )


@pytest.fixture(scope='session')
def tool():
    """Run a script of tools/ in a process of its own, as a user would."""

    def run(script, *args, **env):
        return _run([sys.executable, f'tools/{script}', *args], '2', **env)

    return run


@pytest.fixture(scope='session')
def torchrun():
    """Run tools/train.py in two processes, which find the modules of tests."""

    def run(*args):
        command = [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
            'tools/train.py', '--launcher=pytorch', *args,
        ]  # fmt: skip
        return _run(command, '1', PYTHONPATH=str(ROOT))

    return run


@pytest.fixture(scope='session')
def shapes(tool, tmp_path_factory):
    """A data set of 8 + 4 small pictures."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    made = tool('dataset_converters/make_shapes.py', folder, '--train=8', '--val=4', '--size=96')
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope='session')
def clips(tool, tmp_path_factory):
    """A data set of 12 + 6 small clips."""
    folder = tmp_path_factory.mktemp('data') / 'motion'
    made = tool('dataset_converters/make_motion.py', folder, '--train=12', '--val=6')
    assert made.returncode == 0, made.stderr
    return folder


def scores(work_dir):
    """What the one evaluation in a work dir gave."""
    (metrics,) = [p for p in work_dir.glob('*/*.json') if p.stem == p.parent.name]
    return json.loads(metrics.read_text())


@pytest.fixture(scope='session')
def train(tool, shapes):
    """Train the demo's config on `shapes` for some iterations, saving after every one."""

    def run(work_dir, *args, iters=2, options=(), data_root=shapes, config=CONFIG):
        return tool(
            'train.py', config, '--work-dir', work_dir, *args, '--cfg-options',
            f'data_root={data_root}', f'train_cfg.max_iters={iters}',
            'default_hooks.checkpoint.interval=1', *SMALL, *options,
        )  # fmt: skip

    return run


@pytest.fixture(scope='session')
def trained(train, tmp_path_factory):
    """The work dir of a finished run of two iterations."""
    work_dir = tmp_path_factory.mktemp('work') / 'run'
    run = train(work_dir)
    assert run.returncode == 0, run.stderr
    return work_dir
