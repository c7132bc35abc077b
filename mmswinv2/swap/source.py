"""Finding and reading the config to start from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mmengine.config import Config

from .. import hosts
from ..errors import UserError

__all__ = ['find_config', 'read_config']


def find_config(name: str) -> Path:
    """The file behind a path or a ``package::config``.

    mmengine asks for a distribution of a fixed name, which the maintained forks do not have; the
    imported package knows where its configs are under any.

    Raises:
        UserError: if the package is not installed, brings no configs, or has none of that name.
    """
    if '::' not in name:
        if not Path(name).is_file():
            raise UserError(f'the config {name} does not exist')
        return Path(name)
    package, _, config = name.partition('::')
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'{name}: the package {package} is not installed')
    folder = Path(spec.submodule_search_locations[0], '.mim', 'configs')
    if not folder.is_dir():
        raise UserError(f'{name}: {package} brings no configs ({folder} does not exist)')
    file = folder / (config if config.endswith('.py') else f'{config}.py')
    found = [file] if file.is_file() else sorted(folder.rglob(file.name))
    if len(found) != 1:
        family = sorted(p.name for p in file.parent.glob('*.py'))[:5]
        seen = ', '.join(map(str, found)) or f'no such file; beside it: {", ".join(family) or "-"}'
        raise UserError(f'{name} is not one config of {package}: {seen}')
    return found[0]


def read_config(name: str) -> Config:
    """Read a config that `find_config` finds.

    Raises:
        UserError: if it is of mmengine's new style, or needs a package that is not installed.
    """
    hosts.apply()
    path = find_config(name)
    if path.suffix not in ('.py', '.yml', '.yaml', '.json'):
        raise UserError(f'{path} is no config; a config is a .py, .yml, .yaml or .json file')
    if path.suffix == '.py' and 'read_base()' in path.read_text():
        raise UserError(
            f'{path} is a new-style Python config (read_base), whose imports cannot be written as '
            'text; start from the config of the same name with _base_ = [...]'
        )
    try:
        return Config.fromfile(path)
    except ImportError as error:
        raise UserError(
            f'{path} imports what is not installed: {str(error).splitlines()[0]}'
        ) from error
