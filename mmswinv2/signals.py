"""Ending a program of one process by a signal: files are closed, and partial ones removed."""

import functools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# sent where a terminal is closed or a connection breaks; Windows has none
_HANGUP = getattr(signal, 'SIGHUP', None)
_SIGNALS = [number for number in (signal.SIGTERM, _HANGUP) if number is not None]


class Terminated(BaseException):
    """The process was asked to end by the signal ``args[0]``; see `raise_on_signals`."""


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Terminated` in the block; ``nohup`` has SIGHUP ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _end_forks_by_signals()
    before: dict[Any, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    if before.get(_HANGUP) is signal.SIG_IGN:
        del before[_HANGUP]
    for number in before:
        signal.signal(number, _terminate)
    try:
        yield
    except BaseException as error:
        if interruption(error) is not None:
            # data loaders raise once more for each worker that ends
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # else code that is not Python's had set it
                signal.signal(number, handler)


def interruption(error: BaseException) -> BaseException | None:
    """What stopped the program, Ctrl-C or a signal, if the error is that or was raised after it.

    torch's file writer raises another error when it is interrupted.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, (KeyboardInterrupt, Terminated)):
        link = link.__context__
    return link


def _terminate(number: int, _: object) -> None:
    if number == _HANGUP:  # a shell sends it once more, while files are closed
        signal.signal(number, signal.SIG_IGN)
    raise Terminated(number)


@functools.cache
def _end_forks_by_signals() -> None:
    """Let signals end forked processes, such as the workers of a pool, by their default action.

    Python drops signals that reach a new process before it runs, and who waits for one that was to
    end, as ``Pool.terminate`` does, would wait forever. So they are held back until then. Functions
    of ``os.register_at_fork`` cannot do that: what a handler raises in them is dropped.
    """
    if not hasattr(os, 'fork'):  # on Windows
        return
    original = os.fork

    @functools.wraps(original)
    def fork() -> int:
        # read first, as the call that blocks signals may raise `Terminated`
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            child = original()
            for number in () if child else _SIGNALS:
                if signal.getsignal(number) is _terminate:
                    signal.signal(number, signal.SIG_DFL)
            return child
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    os.fork = fork
