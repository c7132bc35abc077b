"""Errors for mistakes of the user, and how they are reported. Imports nothing of this package.

What ends in a sentence is decided by the class of the exception alone. Every check of ours raises
`UserError`; whatever else is raised is a bug, and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake of the user's; the message says what is wrong and what to do."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says why and what to do."""


@contextmanager
def report_user_errors() -> Iterator[None]:
    """End the program with one sentence on a user's mistake, with the traceback on anything else.

    ``MMSWINV2_TRACEBACK=1`` shows the traceback always.
    """
    try:
        yield
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get('MMSWINV2_TRACEBACK'):
            raise
        sys.exit(f'error: {sentence}')


def explain(error: BaseException) -> str | None:
    """A sentence for an exception that a user can mend, ``None`` for any other."""
    for link in _chain(error):
        if isinstance(link, UserError):
            return _own_words(link)
        if isinstance(link, (FileNotFoundError, PermissionError)) and link.filename:
            return f'{link.filename}: {link.strerror} (MMSWINV2_TRACEBACK=1 shows who asked for it)'
        if isinstance(link, OSError) and link.errno == errno.ENOSPC:
            return (
                f'the disk is full ({link}); checkpoints that were complete are as they were: make '
                'room, and go on with --resume'
            )
        if isinstance(link, SyntaxError) and link.filename:
            return f'{link.filename}, line {link.lineno}: {link.msg}'
    if match := re.search(r"'?([\w.]+) is not in the ([\w:. ]+) registry", str(error)):
        return _unknown_type(match[1], match[2])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from, or again as (registries do so, with a new text).

    What merely came before is left out: a bug in the handling of an error is a bug.
    """
    link: BaseException | None = error
    seen: list[BaseException] = []
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        again = link.__context__ if type(link.__context__) is type(link) else None
        link = link.__cause__ or (None if link.__suppress_context__ else again)


def _own_words(error: UserError) -> str:
    """The message; that of an error from a data loader's worker holds the traceback before it."""
    text = str(error)
    if 'Traceback (most recent call last)' in text:
        own = rf'^(?:[\w.]+\.)?{type(error).__name__}: '
        text = re.split(own, text, flags=re.MULTILINE)[-1].strip()
    return text


def _unknown_type(name: str, registry: str) -> str:
    from mmengine import registry as mmengine_registry

    known: set[str] = set()
    for root in vars(mmengine_registry).values():
        if isinstance(root, mmengine_registry.Registry):
            for child in (root, *root._children.values()):
                known |= set(child.module_dict)
    close = difflib.get_close_matches(name.split('.')[-1], sorted(known), n=3)
    hint = f' (close to it: {", ".join(close)})' if close else ''
    return (
        f'type {name!r} is not in the {registry} registry{hint}. A type of another package needs '
        "its prefix, as in 'mmswinv2.SwinTransformerV2'; your own needs custom_imports"
    )
