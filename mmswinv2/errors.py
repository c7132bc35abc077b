"""Users' mistakes, told in a sentence that names the way out."""

from __future__ import annotations

import difflib
import errno
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    'CheckpointError',
    'UserError',
    'categories_differ',
    'check_data',
    'explain',
    'leaves',
    'told_in_a_sentence',
    'why_empty',
]


_MAPS = (
    '; it holds the semantic maps of HTC: see docs/data.md for COCO-stuff, draw maps with '
    'tools/dataset_converters/coco_stuff_maps.py, or train the config without semantic branch '
    '(htc++-without-semantic_...)'
)


class UserError(ValueError):
    """A mistake of the user's; the message says what is wrong and what to do."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says why and what to do."""


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """End the program with one sentence on a user's mistake, with the traceback on anything else.

    ``MMSWINV2_TRACEBACK=1`` shows the traceback always.
    """
    try:
        yield
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get('MMSWINV2_TRACEBACK'):
            raise
        sys.exit(f'error: {sentence}')


def explain(error: BaseException) -> str | None:
    """A sentence for an exception that a user can mend, ``None`` for any other."""
    for link in _chain(error):
        if isinstance(link, UserError):
            return _last_line(link)
        if isinstance(link, (FileNotFoundError, PermissionError)) and link.filename:
            return f'{link.filename}: {link.strerror} (MMSWINV2_TRACEBACK=1 shows who asked for it)'
        if isinstance(link, OSError) and link.errno == errno.ENOSPC:
            return (
                f'the disk is full ({link}); checkpoints that were complete are as they were: make '
                'room, and go on with --resume'
            )
        if isinstance(link, ValueError) and _raised_here(link):
            return str(link)
        if isinstance(link, SyntaxError) and link.filename:
            return f'{link.filename}, line {link.lineno}: {link.msg}'
    text = str(error)
    if match := re.search(r"'?([\w.]+) is not in the ([\w:. ]+) registry", text):
        return _unknown_type(match[1], match[2])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from, or again as (registries do so, with a new text).

    What merely came before is left out: a bug in the handling of an error is a bug.
    """
    link: BaseException | None = error
    seen: list[BaseException] = []
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        again = link.__context__ if type(link.__context__) is type(link) else None
        link = link.__cause__ or (None if link.__suppress_context__ else again)


def _raised_here(error: BaseException) -> bool:
    """Whether the exception is one of our own checks, and not of a library below us."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and Path(frames[-1][0].f_code.co_filename).parent in (
        Path(__file__).parent / folder for folder in ('core', 'models', 'engine')
    )


def check_data(cfg: Any, kinds: tuple[str, ...]) -> None:
    """Look whether the files that the data loaders of a config name are there.

    Args:
        cfg: the config.
        kinds: which of ``'train'``, ``'val'``, ``'test'`` will be used.

    Raises:
        UserError: naming the folder or file and the setting it comes from.
    """
    for where, dataset in _datasets(cfg, kinds):
        _check_dataset(dataset, where)


def why_empty(cfg: Any, kinds: tuple[str, ...]) -> UserError | None:
    """Find the data set of which no image is left, as mmengine does not say which it is."""
    for where, dataset in _datasets(cfg, kinds):
        if (folder := _folders(dataset).get('img_path')) is not None:  # mmseg's
            if (error := _why_no_images(dataset, folder, cfg.get('default_scope'))) is not None:
                return UserError(f'{where}: {error}')
            continue
        path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
        if path.suffix != '.json':
            continue
        content = json.loads(path.read_text())
        names = {category['name'] for category in content.get('categories', [])}
        classes = (dataset.get('metainfo') or {}).get('classes') or names
        if not set(classes) <= names:
            return categories_differ(where, str(path), classes)
        if not content.get('annotations') or not content.get('images'):
            return UserError(
                f'{where}: {path} has {len(content.get("images", []))} images and '
                f'{len(content.get("annotations", []))} annotations; training needs both'
            )
    return None


def _why_no_images(dataset: Any, folder: str, scope: str | None) -> str | None:
    from mmengine.registry import DATASETS

    root = dataset.get('data_root') or ''
    if split := dataset.get('ann_file'):
        path = Path(root, split)
        return None if path.read_text().strip() else f'{path} names no images'
    with DATASETS.switch_scope_and_registry(scope) as registry:
        known = inspect.signature(registry.get(dataset['type'])).parameters
    default = known['img_suffix'].default if 'img_suffix' in known else '.jpg'
    suffix = dataset.get('img_suffix', default)
    if any(Path(root, folder).rglob(f'*{suffix}')):
        return None
    return f'{Path(root, folder)} has no image that ends in {suffix} (img_suffix)'


def categories_differ(where: str, ann_file: str, classes: Sequence[str]) -> UserError:
    """The error for an annotation file that lacks some of the classes."""
    names = [c['name'] for c in json.loads(Path(ann_file).read_text()).get('categories', [])]
    missing = [name for name in classes if name not in names]
    return UserError(
        f'{where}: {ann_file} lacks {len(missing)} of the {len(classes)} classes '
        f"({_some(missing)}); it has {_some(names)}. Set the data set's metainfo=dict(classes="
        '(...)) to the names in the file and num_classes in the heads to their number; or, if the '
        "model is to tell all of these classes apart, add the missing ones to the file's "
        'categories (they need no annotations)'
    )


def _some(names: Sequence[str]) -> str:
    return ', '.join(map(repr, names[:4])) + (', ...' if len(names) > 4 else '')


def _datasets(cfg: Any, kinds: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The data sets of the loaders of some kinds, each with its loader's name."""
    for kind in kinds:
        loader = cfg.get(f'{kind}_dataloader') or {}
        for dataset in leaves(loader.get('dataset') or {}):
            yield f'{kind}_dataloader', dataset


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets, or the configs of them, inside wrappers such as ConcatDataset."""
    inner = getattr(dataset, 'datasets', None) or getattr(dataset, 'dataset', None)
    if not inner:
        yield dataset
        return
    for item in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from leaves(item)


def _folders(dataset: Any) -> dict[str, str]:
    prefix = dataset.get('data_prefix') or {}
    return prefix if isinstance(prefix, dict) else {'data_prefix': prefix}


def _check_dataset(dataset: Any, where: str) -> None:
    root, part = dataset.get('data_root') or '', dataset.get('ann_file') or ''
    folders = _folders(dataset)
    if any('://' in text for text in (root, part, *folders.values())) or dataset.get(
        'backend_args'
    ):
        return  # not on this disk
    if root and not Path(root).is_dir():
        raise UserError(
            f'{where}: the folder {root} does not exist; put the data there, or name another with '
            f'--cfg-options data_root=... (set in every data loader and evaluator)'
        )
    for key, name in folders.items():
        hint = _MAPS if key == 'seg' and dataset.get('type') == 'CocoDataset' else ''
        if name and not (folder := Path(root, name)).is_dir():
            raise UserError(f'{where}: the folder {folder} ({key}) does not exist{hint}')
    if not part:
        return
    path = Path(root, part)
    if not path.exists():
        raise UserError(f'{where}: the annotation file {path} does not exist')
    if path.suffix == '.json' and not _looks_like_json(path):
        raise UserError(f'{where}: {path} is not JSON, or cut short; fetch or export it again')


def _looks_like_json(path: Path) -> bool:
    """Parse small files; look at both ends of large ones, which take long to parse."""
    if path.stat().st_size < 2**24:
        try:
            json.loads(path.read_bytes())
        except ValueError:
            return False
        return True
    with path.open('rb') as file:
        first = file.read(64).lstrip()[:1]
        file.seek(-64, os.SEEK_END)
        last = file.read().rstrip()[-1:]
    return (first, last) in ((b'{', b'}'), (b'[', b']'))


def _unknown_type(name: str, registry: str) -> str:
    from mmengine import registry as mmengine_registry

    known: set[str] = set()
    for root in vars(mmengine_registry).values():
        if isinstance(root, mmengine_registry.Registry):
            for child in (root, *root._children.values()):
                known |= set(child.module_dict)
    close = difflib.get_close_matches(name.split('.')[-1], sorted(known), n=3)
    hint = f' (close to it: {", ".join(close)})' if close else ''
    return (
        f'type {name!r} is not in the {registry} registry{hint}. A type of another package needs '
        "its prefix, as in 'mmswinv2.SwinTransformerV2'; your own needs custom_imports"
    )


def _last_line(error: BaseException) -> str:
    """Errors of data-loader workers carry their traceback in the message."""
    text = str(error)
    if 'Traceback (most recent call last)' in text:
        text = text.strip().splitlines()[-1].split(': ', 1)[-1]
    return text
