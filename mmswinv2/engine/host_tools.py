"""Scripts that the host packages bring along."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

__all__ = ['find_host_tool', 'run_host_tool']


def find_host_tool(host: str, name: str) -> Path:
    """Path of a script of a host package; ``analysis_tools`` before other folders.

    Raises:
        UserError: if the host has none of that name.
    """
    spec = importlib.util.find_spec(host)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for place in places for path in Path(place, '.mim', 'tools').rglob(name)]
    if not found:
        raise UserError(f'{host} brings no {name} along; reinstall it from its wheel')
    return min(found, key=lambda path: (path.parent.name != 'analysis_tools', str(path)))


def run_host_tool(host: str, name: str, arguments: Sequence[str]) -> None:
    """Run a script of a host package in this process, with its own command line."""
    path = find_host_tool(host, name)
    before, sys.argv = sys.argv, [str(path), *arguments]
    try:
        runpy.run_path(str(path), run_name='__main__')
    finally:
        sys.argv = before
