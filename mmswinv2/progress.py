"""What a terminal shows better than a file: bars for what takes long, and tables."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar('T')


def track(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Yield items, with a bar that says how many there are and how long the rest takes.

    Where standard error is no terminal nothing is shown.

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


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print names and values in two columns: ruled on a terminal, elsewhere lines alone."""
    from rich.console import Console
    from rich.table import Table

    rows, console = list(rows), Console()
    if not console.is_terminal:
        left = max(len(name) for name, _ in rows)
        right = max(len(value) for _, value in rows)
        print('\n'.join(f'{name:<{left}}  {value:>{right}}' for name, value in rows))
        return
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify='right')
    for row in rows:
        table.add_row(*row)
    console.print(table)
