"""Folders of files."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The files below a folder, each once; links that lead elsewhere are followed."""
    root = os.path.realpath(folder)
    seen: set[str] = set()  # folders elsewhere
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # what lies below the root is reached by its own name
        folders[:] = sorted(name for name in folders if not _leads_into(root, place, name))
        yield from (path for name in names if (path := Path(place, name)).is_file())


def _leads_into(root: str, place: str, name: str) -> bool:
    path = os.path.join(place, name)
    real = os.path.realpath(path)
    return os.path.islink(path) and (real == root or real.startswith(root + os.sep))
