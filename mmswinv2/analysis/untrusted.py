"""Configs of work dirs that come from others: what of them may be imported and built."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.registry import registry

from .. import hosts
from ..errors import UserError
from ..explanations import registered_types
from ..hosts.patching import PACKAGES
from .work_dir import WorkDir

_OF_TORCH = ('torch.nn.', 'torch.optim.', 'torch.utils.data.')  # where configs may take types from
_EVALUATES = 'CameraMotionCompensation'  # the type of mmdet that runs its argument as code


@contextmanager
def only_registered_types(folder: Path, *roots: Any) -> Iterator[None]:
    """Restrict types to those in registries, and imports to hosts and packages in use.

    `roots` are the registries of mmengine that count, with those of the hosts; none: all of them.

    Otherwise mmengine resolves ``type='os.system'`` to that function, and imports what stands
    before the last dot of a type, or as a scope, from Python's path, so that the config of an
    untrusted work dir, `folder`, could run code.
    """
    find, load = registry.get_object_from_string, registry.import_module

    def find_type(name: str) -> Any:
        module, _, attribute = name.rpartition('.')
        found = getattr(sys.modules.get(module), attribute, None)
        of_torch = name.startswith(_OF_TORCH) and isinstance(found, type)
        # the pipes of torch read pickles
        plain = of_torch and '.datapipes.' not in found.__module__
        known = plain or any(found is kind for kind in registered_types(*roots))
        return found if known else None

    def import_allowed(name: str) -> Any:
        top = name.partition('.')[0]
        if top not in PACKAGES and (top not in sys.modules or stands_in(folder, name)):
            raise ImportError(f'{name} is neither of a host nor of a package in use')
        return load(name)

    registry.get_object_from_string, registry.import_module = find_type, import_allowed
    try:
        yield
    finally:
        registry.get_object_from_string, registry.import_module = find, load


def stands_in(folder: Path, module: str) -> bool:
    """Whether a module is in a folder, found without importing the packages that it is in."""
    top, *rest = module.split('.')
    spec = find_spec(top) if all((top, *rest)) else None
    places = [Path(p, *rest) for p in (spec and spec.submodule_search_locations) or ()]
    places += [Path(spec.origin)] if spec and spec.origin else []
    resolved = (place.resolve() for place in places)
    return any(folder.resolve() in (place, *place.parents) for place in resolved)


def check_types(cfg: Any, node: Any, where: str) -> None:
    """Raise `UserError` for what would run code of others in a part of `cfg`, or types of them.

    These are types of no package that is allowed.
    """
    for path, part in hosts.dicts_in(node):
        # mmengine adds sys_path, of a backend of files, to Python's path and imports from it
        if 'sys_path' in part or hosts.type_name(part) == _EVALUATES:
            raise UserError(
                f'{path} of {where} in {cfg.filename} would run code that the config names '
                f'({"sys_path" if "sys_path" in part else _EVALUATES}); take it out'
            )
    imports = hosts.as_list((cfg.get('custom_imports') or {}).get('imports') or [])
    packages = {*PACKAGES, *(str(name).partition('.')[0] for name in imports)}
    types = (part.get('type') for _, part in hosts.dicts_in(node))
    for name in (kind for kind in types if isinstance(kind, str)):
        known = name.partition('.')[0] in packages or name.startswith(_OF_TORCH)
        # mmcv evaluates the type of a non-maximum suppression
        if not re.fullmatch(r'[\w./-]*', name) or ('.' in name and not known):
            raise UserError(
                f'type={name!r} of {where} in {cfg.filename} is of no package that custom_imports '
                f'names; {", ".join(PACKAGES)} are known without'
            )


def check_imports(imports: Any, work: WorkDir) -> None:
    """Raise `UserError` for imports of modules in the work dir, whose code must not run."""
    for name in map(str, hosts.as_list(imports.get('imports') or [])):
        if stands_in(work.folder, name):
            raise UserError(
                f'custom_imports of {work.config} names {name}, which stands in the work dir, and '
                'a report runs nothing of that; move it elsewhere'
            )
