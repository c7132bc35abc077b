"""Configs: read from a file, changed by ``--cfg-options``, and checked."""

import copy
import os
import re
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .. import hosts
from ..errors import UserError
from ..files import StrPath
from .config_checks import check_values
from .config_names import arguments, warn_of_misspelt, warn_of_new, warn_of_unused

# Python 3.11 counts the depth of syntax trees for all threads together, and raises SystemError when
# another thread parses meanwhile
_ONE_AT_A_TIME = threading.RLock()
_NO_DATA = ('work_dir', 'load_from', 'checkpoint')  # settings that may be in the folder of the data


def config_with_options(config: StrPath | Config, options: dict[str, Any] | None) -> Config:
    """Read a config, or copy one that was read, and apply ``--cfg-options`` to it.

    Raises:
        UserError: if the config cannot be read, needs a package that is not there, or an option is
            invalid.
    """
    if isinstance(config, Config):
        cfg, path = copy.deepcopy(config), config.filename or 'the config'
    elif isinstance(config, (str, os.PathLike)):
        cfg, path = read_config(config), str(config)
    else:
        raise UserError(
            f"a config must be a path or mmengine's Config, got {type(config).__name__}; write "
            'Config(dict(...)) for a dict'
        )
    if options is not None and not isinstance(options, Mapping):
        raise UserError(
            f"cfg_options must be a dict such as {{'train_cfg.max_iters': 9}}, got {options!r}"
        )
    cfg.setdefault('default_scope', 'mmengine')
    hosts.of(cfg).require(path)
    with _ONE_AT_A_TIME:
        warn_of_misspelt(cfg)
    if options:
        _set_options(cfg, dict(options))
    check_values(cfg)
    if cfg.get('randomness') is not None:
        cfg.randomness.setdefault('seed', None)  # mmengine refuses deterministic=True alone
    add_preprocessor(cfg)
    return cfg


def read_config(path: StrPath, **options: Any) -> Config:
    """Read a config, a file or a name such as ``mmdet::fcos/fcos_r50...py``, by `Config.fromfile`.

    Raises `UserError` if there is no such file, or it is not a config or has a syntax error.
    """
    file = hosts.find_config(path)
    if file.suffix not in ('.py', '.yml', '.yaml', '.json'):
        raise UserError(f'{path} is no config; a config is a .py, .yml, .yaml or .json file')
    try:
        with _ONE_AT_A_TIME:
            return Config.fromfile(str(file), **options)
    except RecursionError as error:
        raise UserError(f'{path} is its own _base_, by itself or by one of its bases') from error
    except SyntaxError as error:
        if error.filename not in (None, '<unknown>'):
            raise
        what = f'line {error.lineno}: {error.msg}'
        if 'U+FEFF' in error.msg:
            what += ', a byte order mark; save the file as UTF-8 without one'
        raise UserError(f'{path}, or one of its bases, is no Python: {what}') from error
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        merging = Path(mmengine.__file__).parent in Path(frame.f_code.co_filename).parents
        if file.suffix == '.py' and not (merging or isinstance(error, UnicodeDecodeError)):
            raise  # raised by the code of the config: keep its traceback
        text = ' '.join(str(error).split())
        raise UserError(f'{path}, or one of its bases, cannot be read: {text}') from error


def _set_options(cfg: Config, options: dict[str, Any]) -> None:
    """Apply ``--cfg-options``, and warn of those that nothing reads."""
    _set_data_root(cfg, options)
    warn_of_unused(cfg, options)
    before = cfg._to_lazy_dict()
    try:
        _clear_in_lists(cfg, options)
        cfg.merge_from_dict(options)
    except (LookupError, TypeError, AttributeError) as error:  # key in a list or a number
        raise UserError(
            f'--cfg-options {" ".join(options)}: there is no such place in the config '
            f'({error.args[0]:.300}); an index, from 0, names a dict that is in a list: give '
            'any other list as a whole, key="[a,b]"'
        ) from error
    warn_of_new(cfg, before, options)
    if any(key.partition('.')[0] == 'custom_imports' for key in options):
        import_custom(cfg.custom_imports)


def import_custom(wanted: Any) -> None:
    """Do the ``custom_imports`` of a config, as after options changed them, or of one only read."""
    names: Any = ()
    known = arguments(import_modules_from_strings)
    if isinstance(wanted, Mapping) and {'imports'} <= wanted.keys() <= known:
        names = wanted['imports'] or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'custom_imports={wanted} in the config must be a dict with imports=[...], names of '
            'modules'
        )
    try:
        import_modules_from_strings(**wanted)
    except ImportError as error:
        raise UserError(
            f'custom_imports in the config: {error} ({error.__context__}); name a module that is '
            'installed or in a folder of PYTHONPATH'
        ) from error


def add_preprocessor(cfg: Any) -> None:
    """Give the model of a config the data_preprocessor that stands beside it, as runners do."""
    if cfg.get('data_preprocessor') and isinstance(cfg.get('model'), dict):
        cfg['model'].setdefault('data_preprocessor', cfg['data_preprocessor'])


def _clear_in_lists(cfg: Config, options: dict[str, Any]) -> None:
    """Apply ``_delete_=True`` to dicts in lists, where mmengine takes it for a setting."""
    for path in [path for path in options if re.search(r'\.\d+\._delete_$', path)]:
        node = cfg._cfg_dict
        for key in path.split('.')[:-1]:
            node = node[int(key) if isinstance(node, list) else key]
        if options[path]:
            node.clear()
        del options[path]


def _set_data_root(cfg: Config, options: dict[str, Any]) -> None:
    """Let ``data_root=...`` on the command line reach the data sets and evaluators too."""
    if 'data_root' not in options:
        return
    if options['data_root'] is None:
        raise UserError('data_root=None in --cfg-options must be a folder')
    if not isinstance(cfg.get('data_root') or None, str):
        raise UserError(
            "the config has no data_root of its own; set the data sets' instead, for instance "
            '--cfg-options train_dataloader.dataset.data_root=...'
        )
    # a folder may have a number for a name
    root, old = os.path.join(str(options['data_root']), ''), os.path.join(cfg.data_root, '')

    def replace(node: Any) -> Any:
        if isinstance(node, dict):
            # as they are written: classes of pure Python configs stay names
            for key, value in dict(dict.items(node)).items():
                if key not in _NO_DATA and (new := replace(value)) is not value:
                    dict.__setitem__(node, key, new)
        elif isinstance(node, (list, tuple)):
            return type(node)(replace(item) for item in node)
        elif isinstance(node, str) and os.path.join(node, '').startswith(old):
            return root + node[len(old) :]
        return node

    replace(cfg._cfg_dict)
    options['data_root'] = root
