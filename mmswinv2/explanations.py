"""Sentences for errors whose cause the user can mend, of the system, of files and of hosts.

A host package may refuse a value or an argument of a config. Any other exception is a bug, and has
no sentence.
"""

import errno
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

from .errors import UserError, is_out_of_memory, nearest

_SYSTEM = {  # number of an OSError: what it means, what to do
    errno.ENOSPC: ('the disk is full', 'make room'),
    errno.EDQUOT: ('the disk quota is used up', 'make room'),
    errno.EFBIG: ('a file would be larger than is allowed', 'raise the limit (ulimit -f)'),
    errno.EROFS: ('the file system is read-only', 'name another place'),
    errno.EIO: ('the disk reports an error', 'see whether it is there and whole'),
    errno.EMFILE: ('too many files are open', 'raise the limit (ulimit -n) or give fewer workers'),
    errno.ENFILE: ('too many files are open on this machine', 'close some programs'),
    errno.ENAMETOOLONG: ('the name of a file is too long', 'give a shorter one'),
    errno.ENOMEM: ('memory is used up', 'give fewer workers or smaller batches'),
}
_IN_CONFIG = 'mend it in the config or in --cfg-options'
_HOOKS = re.compile(r'mm\w+\.(.+\.)?hooks\.')  # modules of the hosts with hooks
_OF_VALUES = (ValueError, TypeError, KeyError, AssertionError, RuntimeError)
_OF_FILES = (
    FileExistsError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError,
)  # fmt: skip


def explain(error: BaseException, advice: str = '', option: str = '') -> str | None:
    """A sentence for an exception whose cause the user can mend, ``None`` for any other.

    Args:
        error: the exception.
        advice: what else to do if the system refused to go on, see `report_user_errors`.
        option: the option that names another place to write to.
    """
    for link in _chain(error):
        if isinstance(link, UserError):
            return _message_of(link)
        link = _as_raised(link) if isinstance(link, OSError) else link
        if isinstance(link, _OF_FILES) and link.filename:
            return f'{link.filename}: {link.strerror} (MMSWINV2_TRACEBACK=1 shows who asked for it)'
        if isinstance(link, OSError) and 'No usable temporary directory' in str(link):
            return f'{link.strerror}: make room in one, or name another folder by TMPDIR'
        if isinstance(link, OSError) and (words := _SYSTEM.get(link.errno or 0)):
            place = f' with {option}' if option and link.errno == errno.EROFS else ''
            return f'{words[0]} ({link}): {words[1]}{place}{advice and "; "}{advice}'
        if is_out_of_memory(link):
            return f'{_out_of_memory(str(link))}{advice and "; "}{advice}'
        if isinstance(link, SyntaxError) and link.filename:
            return f'{link.filename}, line {link.lineno}: {link.msg}'
    if match := re.search(r'DataLoader worker \(pid.*', str(error)):
        return (
            f'{match[0].rstrip(". ")}: a process that loads data was killed, mostly for want of '
            'memory or of shared memory (/dev/shm); give fewer workers, as in --cfg-options '
            'train_dataloader.num_workers=1, or more memory (docker run --shm-size=16g)'
        )
    if isinstance(error, TypeError) and (
        match := re.search(r"([\w.<>]+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
    ):
        return _unknown_argument(error, match[1], match[2])
    if match := re.search(r"'?([\w.]+) is not in the ([\w:. ]+) registry", str(error)):
        return unknown_type(match[1], match[2])
    if isinstance(error, ImportError):
        return _not_installed(error)
    return _refused(error) if isinstance(error, _OF_VALUES) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from.

    An exception that was being handled counts only if it has the same type, as registries raise
    an error again with a new text. Otherwise the handling itself has a bug.
    """
    link: BaseException | None = error
    seen: list[BaseException] = []
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        again = link.__context__ if type(link.__context__) is type(link) else None
        link = link.__cause__ or (None if link.__suppress_context__ else again)


def _as_raised(error: OSError) -> OSError:
    """An error of the system with its number, where a data loader has kept its text alone."""
    found = re.search(r"\[Errno (\d+)\] ([^:\n]+)(?:: '(.*)')?\s*\Z", str(error))
    if error.errno is not None or found is None:
        return error
    return OSError(int(found[1]), found[2], found[3])


def _out_of_memory(text: str) -> str:
    names = {'GPU': 'GPU', 'CUDA': 'GPU', 'MPS': 'MPS'}
    owner = next((f' of the {name}' for it, name in names.items() if it in text), '')
    found = re.search(r'allocate ([\d.]+ \w+)', text)
    size = f' (asked for {found[1]} more)' if found else ''
    return (
        f'the memory{owner} is used up{size}: give smaller batches or images; a training needs '
        'less with --amp and with_cp=True in model.backbone, and mmswinv2 estimate tells how much'
    )


def _message_of(error: UserError) -> str:
    """The error's message, without the traceback that a data loader's worker puts before it."""
    text = str(error)
    if 'Traceback (most recent call last)' in text:
        own = rf'^(?:[\w.]+\.)?{type(error).__name__}: '
        text = re.split(own, text, flags=re.MULTILINE)[-1].strip()
    return text


def registered_types(*roots: Any) -> dict[Any, str]:
    """All types in `roots`, or all registries of mmengine, and in those of the hosts below them."""
    from mmengine import registry as mmengine_registry

    known: dict[Any, str] = {}
    for root in roots or vars(mmengine_registry).values():
        if isinstance(root, mmengine_registry.Registry):
            for child in (root, *root._children.values()):
                known |= {kind: name for name, kind in child.module_dict.items()}
    return known


def _unknown_argument(error: TypeError, owner: str, argument: str) -> str | None:
    """The message for an argument that came from a config; ``None`` if code passed it by name."""
    name = owner.removesuffix('.__init__')
    frames = [sys._getframe(), *(frame for frame, _ in traceback.walk_tb(error.__traceback__))]
    caller = frames[-1]
    of_worker = 'Traceback (most recent call last)' in str(error)  # whose frames stay there
    if (of_worker and name == owner) or _is_written(argument, frames):
        return None
    takes = []
    for kind in _called(name, caller):
        with suppress(ValueError):  # built-ins may have no signature
            takes.append(set(inspect.signature(kind).parameters))
    lack = [known for known in takes if argument not in known]
    if takes and not lack:  # hosts share names, so another class was called
        return None
    hint = nearest(argument, set().union(*lack))
    return f'{name} takes no argument {argument!r}{hint}; {_IN_CONFIG}'


def _is_written(argument: str, frames: list[FrameType]) -> bool:
    """Whether code names the argument: the last frame, or a caller that passed it as **kwargs."""
    for frame in reversed(frames):
        names = [names for names in frame.f_code.co_consts if isinstance(names, tuple)]
        if any(argument in each for each in names):
            return True
        handed_on = frame.f_locals.get(inspect.getargs(frame.f_code).varkw or '')
        if not isinstance(handed_on, dict) or argument not in handed_on:
            break  # not passed on by **kwargs
    return False


def _called(name: str, caller: FrameType) -> set[Any]:
    """Callables of a name: registered types and bases, the data loader, values of the caller."""
    from torch.utils.data import DataLoader

    own = list(caller.f_locals.values())
    methods = [getattr(value, name.rpartition('.')[2], None) for value in own]
    bases = [base for kind in registered_types() for base in getattr(kind, '__mro__', ())]
    known = (DataLoader, *bases, *own, *methods, *caller.f_globals.values())
    return {it for it in known if callable(it) and getattr(it, '__qualname__', None) == name}


def raised(error: BaseException) -> tuple[list[FrameType], str]:
    """The frames of an error, the one that raised it last, and the line of source there."""
    places = list(traceback.walk_tb(error.__traceback__)) or [(sys._getframe(), 0)]
    frame, line = places[-1]
    source = linecache.getline(frame.f_code.co_filename, line).strip()
    return [place for place, _ in places], source


def _refused(error: BaseException) -> str | None:
    """The message for a value of a config that a constructor of a host or of torch refuses.

    Hooks of a host may refuse one later, in a run. It must be by their own ``raise`` or ``assert``,
    or by Python for want of an argument; a failure in any other way is a bug.
    """
    frames, source = raised(error)
    frame = frames[-1]
    place = str(frame.f_globals.get('__name__'))
    builds = place.startswith(('mmengine.registry.build_functions', 'mmengine.optim.scheduler.'))
    lacks = builds and re.search(r'\(\) missing \d+ required .*argument', str(error))
    if place.startswith(__package__) or not (lacks or source.startswith(('raise ', 'assert '))):
        return None
    if error.args == (None,):  # mmdet's assertion of finite losses
        return None
    of_class = 'cls' in frame.f_locals and 'self' not in frame.f_locals and len(frames) > 1
    caller = frames[-2] if of_class else frame  # a constructor may call a class method
    owner = caller.f_locals.get('self')
    kinds = {kind.__module__ for kind in type(owner).__mro__}
    if isinstance(error, RuntimeError) and (place not in kinds or place.startswith('torch.nn.')):
        return None  # of torch, on what the constructor has done
    names = [each.f_code.co_name for each in frames]
    own = [each.f_code.co_name for each in frames if each.f_locals.get('self') is owner]
    made = '__init__' in own
    is_hook = bool(_HOOKS.match(type(owner).__module__)) and any(
        name.startswith(('before_', 'after_')) for name in own
    )
    is_built = made and any(name.startswith('build') for name in names)
    if not (is_built or is_hook or names[-1].startswith('build')):
        return None
    message = ' '.join(str(error.args[0]).split()) if error.args else f'{source!r} does not hold'
    return f'{type(owner).__name__ if made or is_hook else "the config"}: {message}; {_IN_CONFIG}'


def _not_installed(error: ImportError) -> str | None:
    """The message for a package that a type of a host asks for by its own ``raise``."""
    frames, source = raised(error)
    if not source.startswith('raise '):
        return None  # perhaps of mmengine's own import, which would fail again
    from mmengine.fileio import BaseStorageBackend  # types that are in no registry

    kind = type(frames[-1].f_locals.get('self'))
    if not (issubclass(kind, BaseStorageBackend) or kind in registered_types()):
        return None
    message = ' '.join(str(error).split())
    return f'{kind.__name__}: {message}; or take it out of the config'


def unknown_type(name: str, registry: str) -> str:
    """The message for a type of a config that is not in a registry."""
    hint = nearest(name.split('.')[-1], registered_types().values())
    return (
        f'type {name!r} is not in the {registry} registry{hint}. A type of another package needs '
        "its prefix, as in 'mmswinv2.SwinTransformerV2'; your own needs custom_imports"
    )
