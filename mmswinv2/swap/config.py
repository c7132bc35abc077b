"""Read and write configs, and take notes on what changes in them."""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .. import hosts
from ..errors import UserError
from ..files import write_atomically
from ..hosts import find_config
from ..hosts.configs import join_path, walk


def read_config(name: str) -> Config:
    """Read a config that `find_config` finds; classes that a new-style one imports become names.

    Raises:
        UserError: if it needs a package that is not installed.
    """
    from ..engine import configs
    from ..engine.config_checks import check_values

    hosts.apply()
    path = find_config(name)
    try:
        cfg = configs.read_config(path)
    except ImportError as error:
        raise UserError(
            f'{path} imports what is not installed: {str(error).splitlines()[0]}'
        ) from error
    cfg = Config(cfg.to_dict(), filename=cfg.filename)
    check_values(cfg)
    configs.add_preprocessor(cfg)
    return cfg


@dataclass
class Notes:
    """Sentences for the terminal and for the head of the new config."""

    changed: list[str] = field(default_factory=list)  #: what was changed, and why
    judge: list[str] = field(default_factory=list)  #: what is left to the user's judgment

    def set(self, node: Any, path: str, why: str, **values: Any) -> None:
        """Set entries of the node at `path`, and note those that change."""
        for key, value in values.items():
            if key not in node or node[key] != value:
                old = _short(node[key]) if key in node else 'unset'
                node[key] = value
                self.changed.append(f'{join_path(path, key)}: {old} -> {_short(value)} ({why})')

    def remove(self, node: Any, path: str, why: str, *keys: str) -> None:
        """Remove entries of the node at `path`, and note those that were not ``None``."""
        for key in keys:
            if (old := node.pop(key, None)) is not None:
                self.changed.append(f'{join_path(path, key)}: {_short(old)} removed ({why})')


def write_config(path: Path, cfg: Config, notes: Notes, origin: str, command: str) -> None:
    """Write a config as one file, headed by its `origin`, the `command` that made it, and notes.

    Raises:
        UserError: if the config holds values that have no text form.
    """
    lines = [f'{origin} with a SwinV2 backbone', f'  {command}', 'Changed:']
    lines += [f'- {text}' for text in notes.changed]
    lines += ['Left for you to judge:', *(f'- {text}' for text in notes.judge)]
    head = ''.join(
        textwrap.fill(
            line, 100, initial_indent='# ', subsequent_indent='#   ', break_long_words=False,
            break_on_hyphens=False,
        ) + '\n'
        for line in lines
    )  # fmt: skip
    try:
        text = head + cfg.pretty_text
        same = Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    except (NameError, SyntaxError):
        same = False
    if not same:
        raise UserError(
            f'{origin} holds what cannot be written as text (objects, nan): '
            + ', '.join(_without_text(cfg))
        )
    write_atomically(path, lambda file: file.write(text.encode()))


def _without_text(cfg: Config) -> Iterator[str]:
    with_text = (str, bytes, int, complex, dict, list, tuple, set, type(None))
    for path, value in walk(cfg.to_dict()):
        number = isinstance(value, float) and not math.isnan(value)
        if not number and not isinstance(value, with_text):
            yield f'{path}={_short(value)}'


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, dict) else repr(value)
    return text if len(text) <= 160 else f'{text[:156]} ...'
