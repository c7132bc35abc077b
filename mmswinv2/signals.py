"""Ending a program of one process by SIGTERM: files are closed, and partial ones removed."""

import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PROCESSES = {  # the variables of torchrun, Slurm and mpirun for a rank and the number of ranks
    'RANK': 'WORLD_SIZE',
    'SLURM_PROCID': 'SLURM_NTASKS',
    'OMPI_COMM_WORLD_RANK': 'OMPI_COMM_WORLD_SIZE',
}


class Terminated(BaseException):
    """The process was asked to end (SIGTERM); see `raise_on_sigterm`."""


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block.

    Nothing is changed in a run of several processes, which torchrun or Slurm ends.
    """
    ranks = _PROCESSES.keys() & os.environ.keys()
    alone = all(os.environ.get(_PROCESSES[rank], '1') == '1' for rank in ranks)
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return
    _end_forks_by_sigterm()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except BaseException as error:
        if interruption(error) is not None:
            # data loaders raise once more for each worker that ends
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            before = signal.SIG_IGN
        raise
    finally:
        if before is not None:  # else code that is not Python's had set it
            signal.signal(signal.SIGTERM, before)


def interruption(error: BaseException) -> BaseException | None:
    """What stopped the program, by Ctrl-C or SIGTERM, if the error is that or was raised after it.

    torch's file writer raises another error when it is interrupted.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, (KeyboardInterrupt, Terminated)):
        link = link.__context__
    return link


def _terminate(*_: object) -> None:
    raise Terminated


@functools.cache
def _end_forks_by_sigterm() -> None:
    """Let SIGTERM end forked processes, such as the workers of a pool, by its default action.

    Python drops signals that reach a new process before it runs, and who waits for one that was to
    end, as ``Pool.terminate`` does, would wait forever. So they are held back until then. Functions
    of ``os.register_at_fork`` cannot do that: what a handler raises in them is dropped.
    """
    if not hasattr(os, 'fork'):  # on Windows
        return
    original = os.fork

    @functools.wraps(original)
    def fork() -> int:
        # read alone, as the call that blocks may raise `Terminated`
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            child = original()
            if not child and signal.getsignal(signal.SIGTERM) is _terminate:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            return child
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    os.fork = fork
