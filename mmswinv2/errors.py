"""Errors for mistakes of the user, and how they are reported.

Every check of this package raises `UserError`. Some other errors are also reported in one sentence,
see `mmswinv2.explanations`. Any other exception is a bug, and keeps its traceback.
"""

import difflib
import importlib
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from .launchers import is_alone
from .signals import Terminated, interruption, raise_on_signals

_CONTROLS = re.compile(r'[\0-\x08\x0b-\x1f\x7f-\x9f]')  # but for tabs and ends of lines


class UserError(ValueError):
    """A mistake of the user's; the message says what is wrong and what to do."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says why and what to do."""


@contextmanager
def report_user_errors(advice: str = '', option: str = '') -> Iterator[None]:
    """End the program with one sentence on a user's mistake, with the traceback on anything else.

    Ctrl-C ends it with status 130, SIGTERM with 143, a terminal that is closed with 129.
    ``MMSWINV2_TRACEBACK=1`` shows the traceback always.

    Args:
        advice: what to do after the program was stopped, for the message.
        option: the option that names the place of what the program writes, likewise.
    """
    # which needs this module; not later, as after some errors no file can be opened
    from .explanations import explain

    for stream in (sys.stdout, sys.stderr):  # encodings may lack characters of file names
        with suppress(AttributeError):  # a caller may have replaced the streams
            stream.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]
    try:
        # torchrun or Slurm ends a run of several processes
        with raise_on_signals() if is_alone() else nullcontext():
            try:
                yield
            except SystemExit:  # as after --help
                _flush()
                raise
            _flush()
    except BaseException as error:
        _exit_on(error, partial(explain, advice=advice, option=option), advice)
        raise


def _exit_on(error: BaseException, explain: Callable[[Exception], str | None], advice: str) -> None:
    """End the program if the error has a message of its own, see `report_user_errors`."""
    if isinstance(error, BrokenPipeError) and _reader_has_ended():
        _drop_output(1)
        sys.exit(141)
    if (stop := interruption(error)) is not None:
        try:
            print(f'\nstopped{advice and "; "}{advice}', file=sys.stderr)
            _flush()
        except OSError:  # of a terminal that was closed
            _drop_output(1, 2)
        sys.exit(128 + stop.args[0] if isinstance(stop, Terminated) else 130)
    sentence = explain(error) if isinstance(error, Exception) else None
    if sentence is not None and not is_set('MMSWINV2_TRACEBACK'):
        try:
            _flush()
        except OSError:
            _drop_output(1)
        sys.exit(f'error: {printable(sentence)}')


def printable(text: str) -> str:
    """A text for terminals, without control characters, which could be commands to them."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def is_set(variable: str) -> bool:
    """Whether an environment variable switches something on; ``0`` does not."""
    return os.environ.get(variable, '0') not in ('', '0')


def _flush() -> None:
    """Write what is left of the output, as Python does at exit, where an error has no message."""
    if sys.stdout is not None:  # else it was closed from the start
        sys.stdout.flush()


def _drop_output(*streams: int) -> None:
    """Forget output that cannot be written, or Python ends with another status."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _reader_has_ended() -> bool:
    """Whether the program that reads the output has ended, as ``| head`` does."""
    if not hasattr(select, 'poll'):  # as on Windows
        return False
    output = select.poll()
    output.register(1, 0)  # POLLERR is always reported
    return bool(output.poll(0))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, numpy or torch tells that memory is used up."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)  # of torch, or of a data loader for numpy's
        and re.search("out of memory|can't allocate memory|Unable to allocate", str(error))
        is not None
    )


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint at the names that are closest to a misspelt one; empty if none is close."""
    names = sorted(set(known) - {name})
    close = [each for each in names if each.lower() == name.lower()]
    close += difflib.get_close_matches(name, set(names) - set(close), n=3, cutoff=cutoff)
    return f' (close to it: {", ".join(close[:3])})' if close else ''


def needed(module: str, what: str, install: str = '') -> Any:
    """Import a module that not every installation has.

    Raises:
        UserError: if it cannot be imported; the message says what needs it and what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        why = '' if isinstance(error, ModuleNotFoundError) else f' ({error})'  # broken
        raise UserError(f'{what} needs {module}: pip install {install or module}{why}') from error
