"""Folders of files."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The files below a folder, sorted; links are followed, and a folder is entered once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file())
