import fcntl
import functools
import json
import os
import sys
from pathlib import Path

import pytest

from mmswinv2.cli.ui import free_port
from tests.tool_server import Server, run_program

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
# a video classifier that is exported in seconds
SMALL_VIDEO = f"""
_base_ = '{ROOT}/configs/video/video-swinv2-nano_motion.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.VideoSwinTransformerV2',
        arch=dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2)),
        window_size=(4, 4, 4),
        out_indices=(1,),
    ),
    cls_head=dict(in_channels=32),
)
"""
# options that cut the demo's training down to seconds
SMALL = ('train_dataloader.batch_size=2', 'train_cfg.val_interval=100', 'log_level=INFO')


@functools.cache
def server():
    """One server for all fixtures; several test folders import them from here."""
    return Server(threads='2')


@pytest.fixture(scope='session')
def tool():
    """Run a script of tools/ in its own process, as a user would."""

    def run(script, *args, **env):
        return server().run(f'tools/{script}', args, ROOT, _environment('2', env))

    yield run
    server().close()


@pytest.fixture
def run_code(tool, tmp_path):
    """Run Python code in its own process, from the root of the repository."""

    def run(code):
        path = tmp_path / 'code.py'
        path.write_text(code)
        return server().run(path, (), ROOT, _environment('1', dict(PYTHONPATH=str(ROOT))))

    return run


@pytest.fixture(scope='session')
def torchrun():
    """Run tools/train.py in two processes, which find the modules of tests."""

    def run(*args):
        command = [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
            'tools/train.py', '--launcher=pytorch', *args,
        ]  # fmt: skip
        return run_program(
            command, cwd=ROOT, timeout=900, env=_environment('1', dict(PYTHONPATH=str(ROOT)))
        )

    return run


@pytest.fixture(scope='session')
def two_processes():
    """Two processes without torchrun, with the environment variables that it would set."""

    def run(*args):
        shared = dict(
            WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(free_port('127.0.0.1', 0)), PYTHONPATH=str(ROOT),
        )  # fmt: skip
        environments = [
            _environment('1', dict(shared, RANK=rank, LOCAL_RANK=rank)) for rank in '01'
        ]
        command = ['--launcher=pytorch', *args]
        return server().run('tools/train.py', command, ROOT, *environments)

    return run


def _environment(threads, more):
    return {'OMP_NUM_THREADS': threads, **os.environ, 'PYTHONWARNINGS': 'ignore', **more}


def made_once(tmp_path_factory, name, make):
    """A folder that `make` fills once for all workers of pytest-xdist; read-only for tests."""
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        base = base.parent
    folder, done = base / 'shared' / name, base / f'{name}.done'
    with (base / f'{name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope='session')
def shapes(tool, tmp_path_factory):
    """A data set of 8 + 4 small pictures."""

    def make(folder):
        size = ('--train=8', '--val=4', '--size=96')
        tool('dataset_converters/make_shapes.py', folder, *size).succeeded()

    return made_once(tmp_path_factory, 'shapes', make)


@pytest.fixture(scope='session')
def clips(tool, tmp_path_factory):
    """A data set of 12 + 6 small clips."""

    def make(folder):
        tool('dataset_converters/make_motion.py', folder, '--train=12', '--val=6').succeeded()

    return made_once(tmp_path_factory, 'motion', make)


def scores(work_dir):
    """Scores of the only evaluation in a work dir."""
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
def evaluate(tool):
    """Test a checkpoint by tools/test.py."""

    def run(config, checkpoint, work_dir, *args, data_root, options=()):
        return tool(
            'test.py', config, checkpoint, '--work-dir', work_dir, *args,
            '--cfg-options', f'data_root={data_root}', *options,
        )  # fmt: skip

    return run


@pytest.fixture(scope='session')
def trained(train, tmp_path_factory):
    """The work dir of a finished run of two iterations."""

    def make(folder):
        train(folder).succeeded()

    return made_once(tmp_path_factory, 'trained', make)


@pytest.fixture(scope='module')
def alone(written, tool, clips):
    """The folder of a run of one process with batches of two, of a config that `written` wrote."""
    path = written()
    tool(
        'train.py', path, '--work-dir', path.parent / 'w', '--cfg-options', f'data_root={clips}/',
        'train_dataloader.batch_size=2', PYTHONPATH=str(ROOT),
    ).succeeded()  # fmt: skip
    return path.parent
