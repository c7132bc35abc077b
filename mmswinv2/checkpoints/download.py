"""Turn a path, an address or the name of published weights into a local file."""

import hashlib
import os
import re
from base64 import b64encode
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlparse
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch

from ..errors import CheckpointError, is_set
from ..files import StrPath, write_atomically
from ..progress import track
from .published import PUBLISHED, published_weights
from .unreadable import is_page

# http:// addresses are read from this machine, and from other hosts if this variable is set
_ALLOW_HTTP = 'MMSWINV2_ALLOW_HTTP'
_WEB = ('http://', 'https://')
ADDRESSES = (*_WEB, 'hf://')  # how addresses begin that `fetch` reads


def fetch(source: StrPath) -> Path:
    """Return the local path of a checkpoint, downloading it if need be.

    Args:
        source: a path, an ``https://`` address, ``hf://OWNER/NAME/FILE`` on Hugging Face (without
            a file: ``model.safetensors``; ``NAME@REVISION`` is a branch, tag or commit), or a name
            of `PUBLISHED` (an existing path of that name takes precedence). ``http://`` is allowed
            for this machine, and for other hosts if ``MMSWINV2_ALLOW_HTTP=1`` is set.

    Returns:
        the path of the file, which need not exist if `source` is a path. Downloads are kept, see
        `cache_path`.

    Raises:
        CheckpointError: if the address cannot be read or is of another kind, if the file has
            another SHA-256 than the published one, or if a bare name (without folder and suffix)
            is unknown.
    """
    text = _locate(source)
    if isinstance(text, Path):
        return text
    if text.startswith('hf://'):
        return _fetch_from_hugging_face(text)
    _check_address(text)
    path = cache_path(text)
    if not Path(urlparse(text).path).name:
        raise CheckpointError(f'{_without_login(text)} names no file; give the address of a file')
    try:
        if not path.exists():
            with build_opener(_Redirect).open(_request(text), timeout=60) as response:
                write_atomically(path, lambda file: _download(response, file, text))
    except CheckpointError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise CheckpointError(
            f'cannot download {_without_login(text)} ({error}); download it by other means and put '
            f'it at {path}'
        ) from error
    return path


def _locate(source: Any) -> Path | str:
    """The path that a source names, or the address from which it is downloaded."""
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(
            f'a checkpoint must be a path, an address or a published name, got {source!r}'
        )
    text = os.fspath(source)
    if '://' in text:
        return text
    path = Path(os.path.expanduser(text))  # unlike pathlib's, for unknown users too
    return path if path.exists() or text != path.stem else published_weights(text).url


def _check_address(address: str) -> None:
    """Raise `CheckpointError` for an address that may not be read."""
    shown = _without_login(address)
    if not address.startswith(_WEB):
        raise CheckpointError(f'{shown}: only files, https:// and hf:// addresses can be read')
    try:
        parts = urlparse(address)
        local = parts.hostname in ('localhost', '127.0.0.1', '::1')
        _ = parts.port
    except ValueError as error:
        if '@' in address:  # the error may have a part of the password
            raise CheckpointError(
                f'{shown} is no address; in a login / ? # and @ are %2F %3F %23 and %40'
            ) from error
        raise CheckpointError(f'{address} is no address: {error}') from error
    if address.startswith('http://') and not local and not is_set(_ALLOW_HTTP):
        raise CheckpointError(
            f'{shown}: anybody on the way can change what http:// brings; use https://, or set '
            f'{_ALLOW_HTTP}=1 if you trust the network'
        )


def _without_login(address: str) -> str:
    """An address for messages, without the login in it."""
    scheme, _, rest = address.partition('://')
    place = re.split('[/?#]', rest)[0]
    host, _, port = place.rpartition(':')
    if '@' not in place and host and not (port.isdecimal() or place.endswith(']')):
        place = rest  # what seems to be the port is the begin of a password with a slash
    login, at, _ = place.rpartition('@')
    return f'{scheme}://{rest[len(login + at) :]}'


def _request(address: str) -> Request:
    """The request for an address; a login in it is sent to its own server alone."""
    parts = urlparse(address)
    login, _, place = parts.netloc.rpartition('@')
    request = Request(parts._replace(netloc=place).geturl())
    if login:
        name, _, password = map(unquote, login.partition(':'))
        code = b64encode(f'{name}:{password}'.encode()).decode()
        request.add_unredirected_header('Authorization', f'Basic {code}')
    return request


class _Redirect(HTTPRedirectHandler):
    """Follows a redirect only to an address that may be read."""

    def redirect_request(self, *args: Any) -> Any:
        _check_address(args[-1])
        return super().redirect_request(*args)


def _fetch_from_hugging_face(address: str) -> Path:
    """The local path of ``hf://OWNER/NAME/FILE``, see `fetch`."""
    match = re.fullmatch('hf://([^/]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?', address.rstrip('/'))
    if match is None:
        raise CheckpointError(f'{address}: an address on Hugging Face is hf://OWNER/NAME/FILE')
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(f'{address} needs `pip install huggingface-hub`') from error
    try:
        name, revision, file = match.groups()
        file = file or 'model.safetensors'
        path = Path(hf_hub_download(name, file, revision=revision))
    except (OSError, ValueError) as error:  # bases of its own errors
        text = ' '.join(str(error).split())
        raise CheckpointError(f'cannot download {address} ({text})') from error
    with suppress(OSError, ValueError):  # which says the windows, where there is one
        beside = PurePosixPath(file).with_name('config.json')
        hf_hub_download(name, str(beside), revision=revision)
    return path


def cache_path(url: str) -> Path:
    """Where `fetch` keeps a download: in torch's hub folder, ``$TORCH_HOME/hub/checkpoints``.

    Each address has a folder of its own there, as files of several addresses share a name.
    """
    folder = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path(torch.hub.get_dir(), 'checkpoints', folder, Path(urlparse(url).path).name)


def fetch_together(source: StrPath) -> Path:
    """As `fetch`, with one download per machine. For what is no path, call it on every rank.

    If it has failed on one rank, every rank raises `CheckpointError`.
    """
    group = torch.distributed
    if isinstance(_locate(source), str) and group.is_available() and group.is_initialized():
        failed = ''
        if int(os.environ.get('LOCAL_RANK', 0)) == 0:
            try:
                fetch(source)
            except CheckpointError as error:
                failed = str(error)
        failures: list[Any] = [None] * group.get_world_size()
        group.all_gather_object(failures, failed)
        if failed := next(filter(None, failures), ''):
            raise CheckpointError(failed)
    return fetch(source)


def _download(response: Any, file: IO[bytes], url: str) -> None:
    digest = hashlib.sha256()
    expected = response.headers.get('Content-Length')
    megabytes = None if expected is None else max(int(expected) / 2**20, 1)
    chunks = iter(lambda: response.read(2**20), b'')
    for chunk in track(chunks, Path(urlparse(url).path).name, megabytes):
        if not file.tell() and is_page(chunk):
            raise OSError('it is a web page; name the address of the file itself')
        file.write(chunk)
        digest.update(chunk)
    if expected is not None and file.tell() != int(expected):
        raise OSError(f'the connection ended after {file.tell()} of {expected} bytes')
    published = next((w.sha256 for w in PUBLISHED.values() if w.url == url), '')
    if not digest.hexdigest().startswith(published):
        raise OSError(f'its SHA-256 begins {digest.hexdigest()[:8]}, not {published}')
