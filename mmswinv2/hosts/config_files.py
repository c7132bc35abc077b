"""Config files: found by a path or ``package::config``, and formatted once in a run."""

import math
import os
from contextlib import suppress
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config

from ..errors import UserError
from ..files import StrPath, find
from .patching import patch, replace

_PACKAGE = Path(__file__).parents[1]


def config_folders(package: str) -> list[Path]:
    """The folders that may hold the configs of a package; empty if it is not installed.

    mmengine looks for a distribution by a fixed name, which the maintained forks do not use; the
    name of the package folder is the same in all of them.
    """
    if package == 'mmswinv2':
        return [_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs']  # or a checkout
    spec = None
    with suppress(ValueError):  # of modules without a spec, such as __main__
        spec = find_spec(package) if package.isidentifier() else None
    places = (spec and spec.submodule_search_locations) or ()
    return [Path(place, '.mim', 'configs') for place in places]


def find_config(name: StrPath) -> Path:
    """The file behind a path or a ``package::config``.

    Raises:
        UserError: if there is no such file, the package is not installed, brings no configs, or has
            none or several of that name.
    """
    path = Path(name)
    if path.is_file():
        return path
    package, prefix, config = os.fspath(name).partition('::')
    if not prefix:
        known = [p.name for p in find(path.parent, '*.py')[:5]]
        beside = f'; there are {", ".join(known)}' if known else ''
        what = 'is a folder' if path.is_dir() else 'does not exist'
        raise UserError(f'the config {name} {what}{beside}')
    folders = config_folders(package)
    if not folders:
        raise UserError(f'{name}: the package {package} is not installed')
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(f'{name}: {package} brings no configs ({folders[0]} does not exist)')
    file = folder / (config if config.endswith('.py') else f'{config}.py')
    if file.is_file():
        return file
    named = sorted(path for path in folder.rglob('*.py') if path.name == file.name)
    if len(named) != 1 or '/' in config:
        family = ', '.join(p.name for p in find(file.parent, '*.py')[:5]) or '-'
        others = f'there is {", ".join(map(str, named))}'
        seen = others if named else f'no such file; beside it: {family}'
        raise UserError(f'{name} is not one config of {package}: {seen}')
    return named[0]


@patch('mmengine', '>=0.7')
def find_own_configs() -> None:
    """Configs of mmswinv2 can be a base by their prefix, as those of the hosts can.

    Example: ``_base_ = 'mmswinv2::_base_/strategies/zero1.py'``. mmengine has a fixed list.
    """

    @replace(Config, '_get_cfg_path')
    def get_cfg_path(original: Any, cfg_path: str, filename: str) -> tuple[str, str | None]:
        package, prefix, name = cfg_path.partition('::')
        if not prefix:
            return original(cfg_path, filename)
        folders = config_folders(package)
        for path in (folder / name for folder in folders):
            if path.is_file():
                # types in our configs are found by default_scope, as in any config
                return str(path), None if package == 'mmswinv2' else package
        if package == 'mmswinv2':
            raise UserError(f'{cfg_path}: there is no config {name} in {folders[0]}')
        return original(cfg_path, filename)


@patch('mmengine', '>=0.9')
def format_configs_once() -> None:
    """A config that is logged and written into every checkpoint is formatted once.

    yapf takes a second for one of a few hundred lines, and mmengine calls it six times in a run.
    The text is Python whatever the keys are, which mmengine puts between quotes as they are.
    """
    Config.pretty_text = property(_pretty_text)


_format: Any = Config.pretty_text.fget


def _pretty_text(cfg: Config) -> str:
    key = repr((cfg.to_dict(), cfg._format_python_code))
    known, text = vars(cfg).get('_mmswinv2_text', (None, ''))
    if known != key:
        formatted = cfg._format_python_code
        text = _format(
            SimpleNamespace(to_dict=lambda: _quotable(cfg.to_dict()), _format_python_code=formatted)
        )
        vars(cfg)['_mmswinv2_text'] = key, text  # setattr would make it a key of the config
    return text


class _Float(float):
    """A number that is Python as text, which inf and nan are not."""

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if math.isfinite(self) else f"float('{text}')"


def _quotable(node: Any) -> Any:
    """A part of a config whose keys and numbers are the same in the text of a Python file."""
    if isinstance(node, dict):
        return {_escaped(key): _quotable(value) for key, value in node.items()}
    if isinstance(node, float):
        return _Float(node)
    return type(node)(map(_quotable, node)) if isinstance(node, (list, tuple)) else node


def _escaped(key: Any) -> Any:
    if not isinstance(key, str):
        return key
    if iskeyword(key):  # between quotes, as dict(class=0) is no Python
        return f'\\x{ord(key[0]):02x}{key[1:]}'
    return repr(f'{key}"')[1:-2]  # with a double quote, so that it is written in single ones
