"""Walk folders, read lists and JSON, and write files atomically."""

import errno
import io
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import UserError

# of macOS in archives, of Jupyter, of network drives, and of Linux, macOS and Windows on each disk,
# most of which users may not read
_FOLDERS_OF_SYSTEMS = (
    '__MACOSX', '.AppleDouble', '.ipynb_checkpoints', '@eaDir', '.@__thumb', 'lost+found',
    '.Trashes', '.TemporaryItems', '.Spotlight-V100', '.DocumentRevisions-V100', '.fseventsd',
    'System Volume Information', '$RECYCLE.BIN',
)  # fmt: skip
IMAGES = (  # endings of files that OpenCV or Pillow reads, and of arrays of NumPy
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.dib', '.tif', '.tiff', '.webp', '.ppm',
    '.pgm', '.pbm', '.pnm', '.gif', '.jp2', '.j2k', '.avif', '.mpo', '.npy',
)  # fmt: skip
StrPath = str | os.PathLike[str]
HALF_WRITTEN = '.part-'  # stands in the names of files that are being written
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)


def is_of_system(name: str) -> bool:
    """Whether a system, not the user, has written the file or folder of this name.

    Such are ``._a.jpg``, a Mac's attributes of ``a.jpg``, the copies that Jupyter keeps, the
    thumbnails of network drives, and what a disk keeps of deleted files.
    """
    return name.startswith(('._', '.Trash-')) or name in _FOLDERS_OF_SYSTEMS


def find(folder: StrPath, pattern: str) -> list[Path]:
    """What a pattern finds in a folder, sorted, without what `is_of_system`."""
    return sorted(path for path in Path(folder).glob(pattern) if not is_of_system(path.name))


def walk(folder: StrPath) -> Iterator[Path]:
    """The files below a folder, each once; links that lead elsewhere are followed.

    What `is_of_system` is left out. Raises `UserError` for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f'the folder {error.filename} cannot be read ({error.strerror}); make it readable, or '
            'move it away'
        ) from error

    root = os.path.realpath(folder)
    seen: set[str] = set()  # real paths, as links may form a loop
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # links into the root are skipped, as their targets are reached under their own names
        folders[:] = sorted(
            name for name in folders if not (is_of_system(name) or _leads_into(root, place, name))
        )
        own = (Path(place, name) for name in names if not is_of_system(name))
        yield from (path for path in own if path.is_file())


def text_lines(path: StrPath, content: bytes) -> list[str]:
    """The lines of the `content` of a list in UTF-8, with their line feeds.

    Raises:
        UserError: if it is no text in UTF-8; it names the line.
    """
    bad = content.find(b'\0')
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = content.count(b'\n', 0, bad) + 1
        raise UserError(
            f'{path}, line {line}: the byte 0x{content[bad]:02x} is none of a text in UTF-8; '
            f'convert the list, as by iconv -f GBK -t UTF-8 {path} > NEW (or -f UTF-16)'
        )
    return io.StringIO(text, newline=None).readlines()


def read_json(path: StrPath) -> Any:
    """The content of a JSON file, in UTF-8 or another Unicode encoding.

    Raises:
        UserError: if it is neither, or cut short.
    """
    try:
        return json.loads(Path(path).read_bytes())  # detects UTF-8 (BOM or not), -16, -32
    except (ValueError, RecursionError) as error:
        raise undecodable(path, error) from error


def undecodable(path: StrPath, error: Exception) -> UserError:
    """The error for a file that is no text in UTF-8, or else no JSON."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f'{path} is not in UTF-8 ({error}); save it as UTF-8')
    return UserError(f'{path} is not JSON, or cut short ({error}); fetch or export it again')


def _leads_into(root: str, place: str, name: str) -> bool:
    path = os.path.join(place, name)
    real = os.path.realpath(path)
    return os.path.islink(path) and (real == root or real.startswith(root + os.sep))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is inside a folder, judged by the paths alone; links are not resolved."""
    return Path(os.path.abspath(folder)) in Path(os.path.abspath(path)).parents


def refuse_shared(path: Any, targets: Iterable[tuple[str, Any]]) -> None:
    """Raise `UserError` if two images, given as (name, target), have the same target."""
    first: dict[Any, str] = {}
    for name, target in targets:
        if (other := first.setdefault(target, name)) != name:
            raise UserError(
                f'{path}: the images {other!r} and {name!r} would both have the file '
                f'{target}; give them names that differ in more than folder or ending'
            )


def turn_backslashes(samples: Sequence[dict], addresses: bool = False) -> None:
    """Turn the backslashes of paths that were written on Windows into slashes.

    The names of files may have backslashes elsewhere: they stay if the first such path exists.
    Names in object stores, such as ``s3://...``, are changed with `addresses` alone.
    """
    for key in ('img_path', 'seg_map_path', 'filename', 'frame_dir'):
        found = [s for s in samples if isinstance(path := s.get(key), str) and '\\' in path]
        first = found[0][key] if found else ''
        if found and not os.path.exists(first) and (addresses or '://' not in first):
            for sample in found:
                sample[key] = sample[key].replace('\\', '/')


def check_not_source(out: StrPath, source: StrPath, work: str) -> None:
    """Raise `UserError` if `out` would be written over the file that it is made of.

    `work` says in the message what is done with it, such as ``'convert'``.
    """
    if os.path.realpath(out) == os.path.realpath(source):
        raise UserError(f'{out} is the file to {work}, which would be lost; name another')


def check_writable(folder: StrPath, name: str, option: str = '') -> None:
    """Make a folder if it is not there, and raise `UserError` if nothing can be written into it.

    The message has what the folder is, and the command-line option that names another.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        way = f'; name another with {option}' if option else ''
        raise UserError(f'the {name} {folder} cannot be written ({error.strerror}){way}') from error


def part_of(path: Path, keep_suffix: bool = False) -> Path:
    """A new hidden name beside a file that is being written, short enough for any file system.

    With `keep_suffix` it ends as the file's, by which some libraries know the format.
    """
    name, suffix = f'.{path.stem[:40]}', path.suffix[:20]
    token = f'{HALF_WRITTEN}{secrets.token_hex(4)}'
    return path.with_name(f'{name}{token}{suffix}' if keep_suffix else f'{name}{suffix}{token}')


@contextmanager
def atomic_file(path: StrPath, keep_suffix: bool = False) -> Iterator[Path]:
    """Yield a name to write to, as of `part_of`, which replaces `path` at the end of the block.

    After an exception, `path` is as before and the new file is removed. Links are followed, and the
    mode of a file is kept.
    """
    name, path = Path(path).name, Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path.with_name(name), keep_suffix)  # a link's target may end otherwise
    try:
        yield part
        if path.exists():
            part.chmod(path.stat().st_mode)
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _OF_DISKS:
            error.filename = str(path)  # not that of the hidden file
        raise


def write_atomically(path: StrPath, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill an `atomic_file`, which is on the disk when it replaces `path`.

    What is no file, such as ``/dev/stdout`` or a pipe, is written into as it is.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with path.open('wb') as file:
            write(file)
        return
    with atomic_file(path) as part, part.open('xb') as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
