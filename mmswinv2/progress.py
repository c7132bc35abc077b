"""Bars for what takes longer than a few seconds; nothing where standard error is no terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')


def track(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Yield items, with a bar that says how many there are and how long the rest takes.

    Args:
        items: what is worked on.
        what: a word or two for it.
        total: how many there are, where `items` has no length.
    """
    from rich.console import Console
    from rich.progress import track as bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from bar(items, what, total=total, console=console, transient=True)
