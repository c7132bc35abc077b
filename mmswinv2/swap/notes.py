"""What a swap changed, and what it leaves for the user to judge."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ['Notes', 'dicts_in', 'inits_of', 'last_line', 'runnable']


@dataclass
class Notes:
    """Sentences for the terminal and for the head of the new config.

    Attributes:
        changed: what was changed, and why.
        judge: what was left to the user.
    """

    changed: list[str] = field(default_factory=list)
    judge: list[str] = field(default_factory=list)

    def set(self, node: Any, key: str, value: Any, path: str, why: str) -> None:
        """Set ``node[key]`` and note it, if that changes anything."""
        if key in node and node[key] == value:
            return
        old = _short(node[key]) if key in node else 'unset'
        node[key] = value
        name = f'{path}.{key}' if path else key
        self.changed.append(f'{name}: {old} -> {_short(value)} ({why})')

    def remove(self, node: Any, key: str, path: str, why: str) -> None:
        """Remove ``node[key]`` and note it, if it is there and says something."""
        old = node.pop(key, None)
        if old is not None:
            name = f'{path}.{key}' if path else key
            self.changed.append(f'{name}: {_short(old)} removed ({why})')


def dicts_in(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """All dicts inside `node`, itself included, each with its dotted path."""
    if isinstance(node, dict):
        yield path, node
        items = list(node.items())
    elif isinstance(node, (list, tuple)):
        items = list(enumerate(node))
    else:
        return
    for key, value in items:
        yield from dicts_in(value, f'{path}.{key}' if path else str(key))


def inits_of(node: Any) -> list[Any]:
    """The entries of a module's ``init_cfg``, which is one dict or a list of them."""
    init = node.get('init_cfg') or []
    return list(init) if isinstance(init, (list, tuple)) else [init]


def runnable(part: Any) -> Any:
    """A copy of a part's config that neither loads weights nor needs several processes."""
    part = copy.deepcopy(part)
    for _, node in dicts_in(part):
        if node.get('type') == 'MMSyncBN':
            node['type'] = 'BN'
        kept = [init for init in inits_of(node) if init.get('type') != 'Pretrained']
        if len(kept) < len(inits_of(node)):
            node.pop('init_cfg')  # for the default of its type, if nothing is left
            if kept:
                node['init_cfg'] = kept
    return part


def last_line(error: Exception) -> str:
    """Kind and gist of an exception of a host package, whose messages may carry a traceback."""
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[-1]}'


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, dict) else repr(value)
    return text if len(text) <= 160 else f'{text[:156]} ...'
