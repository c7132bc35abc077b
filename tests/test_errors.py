"""Which exceptions end in a one-sentence message, and which in a traceback."""

import ast
import errno
import functools
import os
import re
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import TRANSFORMS
from torch.utils.data import DataLoader, Dataset

from mmswinv2 import errors
from mmswinv2.errors import CheckpointError, UserError, report_user_errors
from mmswinv2.explanations import explain
from tests.tool_server import run_program

PACKAGE = Path(errors.__file__).parent


def caught(function):
    with pytest.raises(Exception) as info:
        function()
    return info.value


def missing():
    Path('/nowhere/at/all').read_text()


def test_a_missing_file_is_named_however_often_it_is_raised_again():
    def again():
        try:
            missing()
        except FileNotFoundError as error:
            raise FileNotFoundError(f'class `X`: {error}')  # noqa: B904, as registries do

    def from_it():
        try:
            again()
        except FileNotFoundError as error:
            raise RuntimeError('no data') from error

    for function in (missing, again, from_it):
        assert explain(caught(function)).startswith('/nowhere/at/all: No such file')


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / 'file').touch()
    told = explain(caught(lambda: (tmp_path / 'file').mkdir()))
    assert told.startswith(f'{tmp_path}/file: File exists')


def test_a_bug_after_an_error_is_a_bug():
    def bug():
        try:
            missing()
        except FileNotFoundError:
            None.attribute  # noqa: B018

    def hidden():
        try:
            missing()
        except FileNotFoundError:
            raise FileNotFoundError('a bug') from None

    assert explain(caught(bug)) is None
    assert explain(caught(hidden)) is None


@pytest.mark.parametrize(
    ('number', 'words'),
    [
        (errno.ENOSPC, 'the disk is full'),
        (errno.EDQUOT, 'quota'),
        (errno.EFBIG, 'ulimit -f'),
        (errno.EROFS, 'read-only'),
        (errno.EIO, 'the disk reports an error'),
        (errno.EMFILE, 'ulimit -n'),
        (errno.ENAMETOOLONG, 'give a shorter one'),
        (errno.ENOMEM, 'memory is used up'),
    ],
    ids=lambda n: errno.errorcode.get(n, ''),
)
def test_what_the_system_refuses(number, words):
    error = OSError(number, os.strerror(number))
    told = explain(error, 'go on with --resume', '--work-dir')
    assert words in told and os.strerror(number) in told and told.endswith('; go on with --resume')
    assert ('name another place with --work-dir' in told) == (number == errno.EROFS)
    assert 'checkpoint' not in explain(error) and '--' not in explain(error)
    assert explain(OSError(errno.ENOTCONN, 'no socket')) is None


def test_memory_that_is_used_up():
    of_gpu = torch.OutOfMemoryError(
        'CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB.'
    )
    assert explain(of_gpu, 'go on with --resume').startswith(
        'the memory of the GPU is used up (asked for 2.50 GiB more): give smaller batches'
    )
    assert explain(of_gpu, 'go on with --resume').endswith('; go on with --resume')
    for function in (lambda: torch.empty(2**50), lambda: np.ones(2**50)):
        told = explain(caught(function))
        assert re.match(r'the memory is used up \(asked for [\d.]+ (bytes|PiB) more\)', told)
    assert explain(MemoryError()).startswith('the memory is used up: give')
    assert explain(RuntimeError('CUDA error: out of memory')).startswith('the memory of the GPU is')
    assert explain(caught(lambda: list(DataLoader(Large(), num_workers=1)))).startswith(
        'the memory is used up (asked for 8.00 PiB more): give'
    )


class Large(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return np.ones(2**50)


class Killed(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_of_a_data_loader():
    error = caught(lambda: list(DataLoader(Killed(), num_workers=1)))
    assert re.search(r'DataLoader worker \(pid.*was killed.*num_workers=1', explain(error))


STOPPED = """
import os, time
from mmswinv2.errors import report_user_errors
read, write = os.pipe()
with report_user_errors('go on with --resume'):
    if os.fork() == 0:  # a worker of a data loader, which its parent ends
        os.write(write, b'x')
        while True:
            time.sleep(0.1)
    os.read(read, 1)  # the worker runs
    try:
        print('ready', flush=True)
        while True:
            time.sleep(0.1)
    finally:
        print('closed')
"""


SPEAKS = """
from mmswinv2.errors import report_user_errors
with report_user_errors():
    for i in range(50000):
        print('猫', i)
"""


def test_what_reads_the_output_has_ended():
    """The reader closes the pipe early, as in ``| head -1``."""
    process = subprocess.Popen(
        [sys.executable, '-c', SPEAKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(300) == 141 and not err


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('words', ['--help', '--version', 'predict --help', 'completion bash'])
def test_output_that_cannot_be_written(words, unbuffered):
    """Of any command, also where Python writes it at exit."""
    command = [sys.executable, '-m', 'mmswinv2', *words.split()]
    env = os.environ | dict(PYTHONUNBUFFERED=unbuffered)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, 'w') as pipe, open('/dev/full', 'w') as full:
        runs = [
            subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=env, text=True)
            for out in (pipe, full)
        ]
    if words == 'predict --help' and unbuffered:  # argparse ignores such errors, by its version
        assert not any('Traceback' in run.stderr for run in runs)
        return
    assert (runs[0].returncode, runs[0].stderr) == (141, '')
    assert runs[1].returncode == 1
    assert re.fullmatch(r'error: the disk is full \(.*\): make room(; .+)?\n', runs[1].stderr)


def test_a_mistake_is_told_where_the_output_cannot_be_written():
    own = "with report_user_errors():\n  print(1); raise UserError('no')"
    code = f'from mmswinv2.errors import *\n{own}'
    env = os.environ | dict(PYTHONUNBUFFERED='')
    with open('/dev/full', 'w') as full:
        run = subprocess.run(
            [sys.executable, '-c', code], stdout=full, stderr=subprocess.PIPE, env=env, text=True
        )
    assert (run.returncode, run.stderr) == (1, 'error: no\n')


def test_too_many_open_files_are_told():
    """Where no module can be imported any more."""
    code = (
        'import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n'
        'from mmswinv2.errors import report_user_errors\n'
        "with report_user_errors(): held = [open('/dev/null') for _ in range(64)]"
    )
    run = run_program([sys.executable, '-c', code])
    assert run.stderr.startswith('error: too many files are open'), run.stderr


def test_letters_that_the_output_lacks():
    run = run_program([sys.executable, '-c', SPEAKS], env=dict(PYTHONIOENCODING='cp1252'))
    assert run.returncode == 0 and run.stdout.startswith('\\u732b 0\n'), run.stderr


def heed_interrupts():
    """Ignore no signal at the start, as Ctrl-C is in the background, and SIGHUP after nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


JOB = dict(SLURM_PROCID='0', SLURM_NTASKS='1')  # of Slurm, with a single process
ALLOCATION = dict(SLURM_NTASKS='8')  # of salloc, whose shell starts a process by itself


@pytest.mark.parametrize(
    ('number', 'status', 'variables'),
    [
        (signal.SIGINT, 130, {}),
        (signal.SIGTERM, 143, {}),
        (signal.SIGTERM, 143, JOB),
        (signal.SIGTERM, 143, ALLOCATION),
        (signal.SIGHUP, 129, {}),
    ],
)
def test_stopped(number, status, variables):
    command = [sys.executable, '-c', STOPPED]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
        env=os.environ | variables,
    )
    assert process.stdout.readline() == 'ready\n'
    os.killpg(process.pid, number)  # as a terminal or batch system does
    out, err = process.communicate(timeout=300)
    assert process.returncode == status and 'stopped; go on with --resume' in err
    assert out.endswith('closed\n') and 'Traceback' not in err.replace('Traceback', '', 1)


@pytest.mark.parametrize('raised', [None, ValueError, SystemExit])
def test_the_handler_of_sigterm_is_restored(raised):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with suppress(ValueError, SystemExit), report_user_errors():
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
            if raised is not None:
                raise raised
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_are_left_to_the_launcher_of_several_processes(monkeypatch):
    monkeypatch.setenv('RANK', '0')
    for ranks in ('1', '2'):
        monkeypatch.setenv('WORLD_SIZE', ranks)
        before = signal.getsignal(signal.SIGTERM)
        with report_user_errors():
            assert (signal.getsignal(signal.SIGTERM) is before) == (ranks == '2')


HANGUPS = """
import os, signal
from mmswinv2.errors import report_user_errors
with report_user_errors():
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        print('goes on')
    finally:
        os.kill(os.getpid(), signal.SIGHUP)  # a shell sends its own
        print('closed')
"""


@pytest.mark.parametrize(
    ('handler', 'status', 'printed'),
    [
        (signal.SIG_DFL, 129, 'closed\n'),
        (signal.SIG_IGN, 0, 'goes on\nclosed\n'),
    ],  # nohup ignores it
)
def test_a_terminal_that_is_closed(handler, status, printed):
    run = run_program(
        [sys.executable, '-c', HANGUPS],
        timeout=300,
        preexec_fn=functools.partial(signal.signal, signal.SIGHUP, handler),
    )
    assert (run.returncode, run.stdout) == (status, printed), run.stderr


def test_nothing_can_be_written_to_a_terminal_that_is_closed():
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, '-c', STOPPED],
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    os.close(theirs)
    os.read(ours, 1)  # of the word that it prints when it is ready
    os.close(ours)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(300) == 129


FORKS = """
import os, signal, time
from mmswinv2.errors import report_user_errors
with report_user_errors():
    for number in (signal.SIGTERM, signal.SIGHUP) * 10:
        if not (child := os.fork()):
            time.sleep(60)
        os.kill(child, number)  # most often before the new process runs
        assert os.waitpid(child, 0)[1] == number
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are not forked')
def test_new_processes_end_by_signals():
    run = run_program([sys.executable, '-c', FORKS], timeout=300, preexec_fn=heed_interrupts)
    assert run.returncode == 143 and run.stderr == '\nstopped\n', run.stderr


STOPPED_IN_A_FORK = """
import os, signal
from mmswinv2.errors import report_user_errors
def send():
    if stopping:
        os.kill(os.getpid(), signal.SIGTERM)
stopping = False
os.register_at_fork(before=send)
with report_user_errors():
    for how in (signal.SIG_BLOCK, signal.SIG_UNBLOCK):
        signal.pthread_sigmask(how, [signal.SIGTERM])
        if not os.fork():
            os._exit(0)
        blocked = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert blocked == (how == signal.SIG_BLOCK)  # as it was before
    stopping = True
    if not os.fork():
        os._exit(0)
    print('goes on')
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are not forked')
def test_sigterm_during_a_fork_is_not_lost():
    run = run_program([sys.executable, '-c', STOPPED_IN_A_FORK], timeout=300)
    assert (run.returncode, run.stdout, run.stderr) == (143, '', '\nstopped\n')


@pytest.mark.parametrize('kind', [UserError, CheckpointError])
def test_a_mistake_of_the_user_is_told_as_it_is(kind):
    assert explain(kind('do this\nand that')) == 'do this\nand that'


def test_names_of_files_are_no_commands_to_a_terminal():
    name = 'Grün 猫\t\x1b]0;taken\x07\x9b2J\r\x7f.jpg'
    shown = 'Grün 猫\t\\x1b]0;taken\\x07\\x9b2J\\r\\x7f.jpg'
    with pytest.raises(SystemExit, match=re.escape(f'error: {shown} is no')), report_user_errors():
        raise UserError(f'{name} is no picture')
    assert errors.printable('a\nb') == 'a\nb'


def test_a_mistake_that_others_raised_from_is_told():
    def raised():
        try:
            raise UserError('do this')
        except UserError as error:
            raise RuntimeError('the run failed') from error

    assert explain(caught(raised)) == 'do this'


def bug_in_the_engine():
    """Make our own code fail: a strict zip gets iterables of different lengths."""
    from mmswinv2.engine.layer_decay import _table

    _table([('a',), ('b', 'c')])


def test_a_bug_of_ours_keeps_its_traceback():
    error = caught(bug_in_the_engine)
    assert type(error) is ValueError and 'zip()' in str(error)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    assert Path(frame.f_code.co_filename).parent == PACKAGE / 'engine'
    assert explain(error) is None
    with pytest.raises(ValueError, match='zip'), report_user_errors():
        bug_in_the_engine()


def wrong_crop():
    TRANSFORMS.build(dict(type='mmswinv2.FiveCrop', crop_size=0))


def test_a_mistake_found_in_datasets_ends_in_one_sentence(monkeypatch):
    with pytest.raises(SystemExit) as ended, report_user_errors():
        wrong_crop()
    assert 'error: ' in ended.value.code and 'crop_size must be an int' in ended.value.code
    monkeypatch.setenv('MMSWINV2_TRACEBACK', '1')
    with pytest.raises(UserError), report_user_errors():
        wrong_crop()


def test_a_mistake_found_while_a_type_is_built():
    assert 'crop_size must be an int' in explain(caught(wrong_crop))


class Bad:
    """A data set in which every sample raises."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError('damaged')
        except OSError as error:
            raise self.error from error


def first(error):
    return next(iter(DataLoader(Bad(error), num_workers=1)))


def test_a_mistake_found_by_a_worker_is_told_without_its_traceback():
    assert explain(caught(lambda: first(UserError('fetch a.jpg: again')))) == 'fetch a.jpg: again'
    assert explain(caught(lambda: first(CheckpointError('one\ntwo')))) == 'one\ntwo'


def test_what_the_system_refuses_to_a_worker():
    told = explain(caught(lambda: first(FileNotFoundError(2, 'No such file', '/nowhere/a b.npy'))))
    assert told.startswith('/nowhere/a b.npy: No such file (')
    told = explain(caught(lambda: first(OSError(errno.EMFILE, 'Too many open files'))))
    assert told.startswith('too many files are open (')
    assert explain(caught(lambda: first(OSError('a bug')))) is None


def test_a_bug_in_a_worker_is_a_bug():
    assert explain(caught(lambda: first(ValueError('a bug')))) is None


def built(registry, **config):
    from mmengine import registry as registries

    return caught(lambda: getattr(registries, registry).build(config))


WEIGHTS = [torch.nn.Parameter(torch.zeros(1))]
REFUSED = [
    (
        ('OPTIMIZERS', dict(type='AdamW', params=WEIGHTS, betas=(0.9, 2.0))),
        'AdamW: Invalid beta parameter at index 1: 2.0; mend it in the config',
    ),
    (
        ('OPTIM_WRAPPERS', dict(type='OptimWrapper', optimizer=None, clip_grad=5)),
        'OptimWrapper: If `clip_grad` is not None',
    ),
    (('METRICS', dict(type='mmdet.CocoMetric', metric='boxes')), 'CocoMetric: metric should be'),
    (  # by a class method that the constructor calls
        ('DATASETS', dict(type='mmseg.ADE20KDataset', metainfo=dict(classes=['crack']))),
        'ADE20KDataset: new classes .* is not a subset of classes',
    ),
    (
        ('HOOKS', dict(type='CheckpointHook', save_best='x')),
        'CheckpointHook: Cannot infer the rule',
    ),
    (
        ('MODELS', dict(type='mmdet.FPN', in_channels=[8, 8], out_channels=8, num_outs=1)),
        "FPN: 'assert num_outs >= .*' does not hold",
    ),
    (('HOOKS', dict(interval=1)), 'must contain the key "type"'),
    (
        ('HOOKS', dict(type='EarlyStoppingHook')),
        r"the config: EarlyStoppingHook.*missing 1 required positional argument: 'monitor'; mend",
    ),
    (  # by the class that it derives from
        ('PARAM_SCHEDULERS', dict(type='StepLR', optimizer=torch.optim.SGD(WEIGHTS, lr=1.0))),
        r"StepLR: .*missing 1 required positional argument: 'step_size'; mend",
    ),
]


@pytest.mark.parametrize(('setting', 'words'), REFUSED, ids=[words for _, words in REFUSED])
def test_what_a_host_refuses_of_a_config(setting, words):
    registry, config = setting
    assert re.search(words, explain(built(registry, **config)))


def test_what_a_constructor_refuses_beside_a_local_of_the_name_cls():
    from mmengine.registry import Registry

    registry = Registry('any')

    @registry.register_module()
    class Refuses:
        def __init__(self, classes):
            for cls in classes:
                raise ValueError(f'{cls} is no class')

    error = caught(lambda: registry.build(dict(type='Refuses', classes=['cow'])))
    assert explain(error).startswith('Refuses: cow is no class; mend it')


def test_an_argument_that_code_forgets_is_a_bug():
    from mmengine.registry import Registry

    registry = Registry('any')

    @registry.register_module()
    class Forgets:
        def __init__(self):
            call()

    bug = caught(lambda: registry.build(dict(type='Forgets')))
    assert 'missing 1 required' in str(bug) and explain(bug) is None


def test_what_a_hook_refuses_in_a_run():
    from mmengine.hooks import CheckpointHook, EMAHook

    class Runner:
        max_epochs, model = 3, torch.nn.Linear(1, 1)

    late = caught(lambda: EMAHook(begin_epoch=9).before_train(Runner()))
    assert explain(late).startswith('EMAHook: self.begin_epoch should be smaller than or equal to')
    best = caught(lambda: CheckpointHook(save_best='auto')._init_rule(None, 'any'))
    assert explain(best) is None  # called by code

    class Own(EMAHook):
        def before_train(self, runner):
            raise ValueError('a bug')

    assert explain(caught(lambda: Own(begin_epoch=9).before_train(Runner()))) is None


def test_what_fails_in_the_code_of_a_host_is_a_bug():
    assert explain(built('MODELS', type='mmdet.FPN', in_channels=5, out_channels=8, num_outs=1))
    bug = built('MODELS', type='mmdet.FPN', in_channels=[8, 'a'], out_channels=8, num_outs=2)
    assert explain(bug) is None
    assert explain(ValueError('never raised')) is None


def call(function, **options):
    return function(**options)


def test_an_argument_that_a_function_of_a_host_does_not_take():
    from mmcv.ops import nms
    from mmengine.runner import Runner

    runner = object.__new__(Runner)
    later = caught(lambda: runner.save_checkpoint('', '', **{'save_optimzer': 1}))
    assert "no argument 'save_optimzer' (close to it: save_optimizer" in explain(later)
    told = explain(caught(lambda: call(nms, **{'iou_thresh': 1})))
    assert told.startswith("nms takes no argument 'iou_thresh' (close to it: iou_threshold")


def hand_on(**options):
    from mmcv.ops import nms

    return nms(**options)


def test_an_argument_that_code_hands_on_is_a_bug():
    assert explain(caught(lambda: hand_on(iou_thresh=1))) is None
    given = {'iou_thresh': 1}
    assert "no argument 'iou_thresh'" in explain(caught(lambda: hand_on(**given)))


def rebind(**options):
    from mmcv.ops import nms

    given, options = options, None
    return nms(**given)


def test_a_frame_that_has_rebound_what_it_was_given():
    assert "no argument 'iou_thresh'" in explain(caught(lambda: rebind(**{'iou_thresh': 1})))


def test_packages_that_a_type_of_a_host_asks_for(monkeypatch, tmp_path):
    from mmengine.visualization import WandbVisBackend

    monkeypatch.setitem(sys.modules, 'wandb', None)
    said = explain(caught(lambda: WandbVisBackend(str(tmp_path)).experiment))
    assert said.startswith('WandbVisBackend: ') and 'pip install wandb' in said
    assert said.endswith('; or take it out of the config')
    load = TRANSFORMS.build(
        dict(type='mmcv.LoadImageFromFile', backend_args=dict(backend='petrel'))
    )
    monkeypatch.setitem(sys.modules, 'petrel_client', None)
    said = explain(caught(lambda: load(dict(img_path='a.png'))))
    # of the image too, once the patches of mmcv are applied
    assert 'Please install petrel_client' in said and said.endswith('take it out of the config')
    monkeypatch.setitem(sys.modules, 'nothing', None)
    assert explain(caught(lambda: __import__('nothing'))) is None


def test_settings_that_an_optimizer_refuses():
    optimizer = dict(type='AdamW', fused=True, foreach=True)
    wrapper = dict(type='OptimWrapper', optimizer=optimizer)
    said = explain(caught(lambda: build_optim_wrapper(torch.nn.Linear(1, 1), wrapper)))
    assert said.startswith('AdamW: ') and 'mend it in the config' in said


def test_a_constructor_that_refuses_by_any_error():
    from mmengine.registry import Registry

    registry = Registry('any')

    @registry.register_module()
    class Needs:
        def __init__(self, broken=False):
            if broken:
                [].pop()
            raise RuntimeError('Package lvis is not installed')

    said = explain(caught(lambda: registry.build(dict(type='Needs'))))
    assert said.startswith('Needs: Package lvis is not installed; mend it in the config')
    assert explain(caught(lambda: registry.build(dict(type='Needs', broken=True)))) is None


def test_a_type_that_does_not_exist():
    said = explain(caught(lambda: TRANSFORMS.build(dict(type='mmswinv2.FiveCrops'))))
    assert "'mmswinv2.FiveCrops' is not in" in said and 'close to it: FiveCrop' in said


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no limit of the size of files')
def test_no_room_for_temporary_files():
    """Python then has an error of a file that is not there, without its name."""
    code = (
        'import resource, tempfile\n'
        'from mmswinv2.errors import report_user_errors\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n'
        'with report_user_errors():\n'
        '    tempfile.gettempdir()\n'
    )
    ended = run_program([sys.executable, '-c', code])
    assert re.fullmatch(
        r"error: No usable temporary directory found in \['.*/tmp'.*\]: make room in one, or name "
        r'another folder by TMPDIR\n',
        ended.stderr,
    )


def nodes(path, kind):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind)]


def test_errors_imports_only_three_modules_of_ours():
    path = PACKAGE / 'errors.py'
    of_ours = [node.module for node in nodes(path, ast.ImportFrom) if node.level]
    assert of_ours == ['launchers', 'signals', 'explanations']  # the last inside a function
    assert 'mmswinv2.' not in ''.join(map(ast.unparse, nodes(path, (ast.Import, ast.ImportFrom))))


@pytest.mark.parametrize('folder', ['analysis', 'datasets', 'engine', 'hosts'])
def test_our_checks_raise_user_errors(folder):
    plain = [
        f'{path.name}:{node.lineno}'
        for path in (PACKAGE / folder).glob('*.py')
        for node in nodes(path, ast.Raise)
        if node.exc is not None and ast.unparse(node.exc).startswith('ValueError(')
    ]
    assert not plain
