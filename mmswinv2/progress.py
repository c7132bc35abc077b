"""Progress on terminals, and tables."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar('T')


def track(items: Iterable[T], what: str, total: float | None = None) -> Generator[T]:
    """Yield items, with a bar that shows how many there are and how long the rest takes.

    Nothing is shown if standard error is no terminal.

    Args:
        items: the items.
        what: a word or two for the bar.
        total: how many there are, where `items` has no length.
    """
    from rich.console import Console
    from rich.progress import track as bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    yield from bar(items, what, total=total, console=console, transient=True)


def waiting(what: str) -> AbstractContextManager[object]:
    """A context during which a terminal shows that work of unknown length goes on.

    Nothing is shown if standard error is no terminal.

    Args:
        what: some words on the work.
    """
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print names and values in two columns."""
    rows = list(rows)
    left, right = (max(map(len, column)) for column in zip(*rows, strict=True))
    print('\n'.join(f'{name:<{left}}  {value:>{right}}' for name, value in rows))
