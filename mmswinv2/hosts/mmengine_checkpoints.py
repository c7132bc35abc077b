"""Checkpoints in mmengine: read without running code, loaded with one report."""

import copy
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint

from ..errors import CheckpointError, UserError
from .patching import patch, replace


@patch('mmengine', '>=0.10.8', lambda: hasattr(checkpoint, '_safe_torch_load'))
def read_without_code() -> None:
    """Reading a checkpoint runs no code from the file.

    If torch refuses a file, mmengine reads it again with ``weights_only=False``. It also allows
    `getattr`, with which a file can reach any function.
    """
    from ..checkpoints.pickles import load_without_code

    @replace(checkpoint, '_safe_torch_load')
    def load(original: Any, file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        try:
            return load_without_code(file, map_location)
        except UnpicklingError as error:
            raise CheckpointError(
                f'{file} is no checkpoint, or restoring what it holds would run code from the file '
                f'({str(error).splitlines()[0]}); see docs/checkpoints.md'
            ) from error


@patch('mmengine', '>=0.7')
def read_by_our_reader() -> None:
    """Reading a file or an address runs no code from it, nor the config that it holds.

    mmengine reads addresses with ``weights_only=False``, and resuming runs the Python text that
    stands in a checkpoint as its config. The config is left out of what is read.
    """
    from ..checkpoints import fetch_together, read_checkpoint
    from ..checkpoints.download import ADDRESSES

    def load(filename: str, *_: Any, **__: Any) -> Any:
        path = fetch_together(filename)
        return with_state_dict(read_checkpoint(path), path)

    prefixes = ['', *ADDRESSES]
    checkpoint.CheckpointLoader.register_scheme(prefixes=prefixes, loader=load, force=True)

    @replace(checkpoint, '_load_checkpoint_with_prefix')
    def load_part(original: Any, prefix: str, filename: str, map_location: Any = None) -> Any:
        found = checkpoint._load_checkpoint(filename, map_location)
        state, start = found.get('state_dict', found), f'{prefix.removesuffix(".")}.'
        part = OrderedDict({k.removeprefix(start): state[k] for k in state if k.startswith(start)})
        if not part:
            starts = ', '.join(sorted({key.split('.')[0] for key in state})[:5])
            raise CheckpointError(
                f'{filename} has no weights under prefix={prefix!r}; its keys begin {starts}'
            )
        part._metadata = getattr(state, '_metadata', Origin())  # type: ignore[attr-defined]
        return part

    @replace(checkpoint, 'load_from_http')  # loaders of other prefixes call it
    def load_from_http(original: Any, filename: str, *_: Any, **__: Any) -> Any:
        return load(filename)

    @replace(checkpoint.CheckpointLoader, 'load_checkpoint')
    def load_checkpoint(original: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        name = os.fspath(filename) if isinstance(filename, os.PathLike) else filename
        try:
            return without_config(original(name, *args, **kwargs))
        except ModuleNotFoundError as error:  # torchvision:// reads the addresses there
            raise CheckpointError(
                f'{name} needs {error.name}, which is not installed; install it, or give the '
                'address or the file itself'
            ) from error
        except KeyError as error:
            if '://' not in name or not name.endswith(str(error.args[0])):
                raise
            raise CheckpointError(
                f'{name}: mmengine knows no weights of the name {error}; give the address or the '
                'file itself'
            ) from error


@patch('mmengine', '>=0.7')
def take_no_config_from_weights() -> None:
    """An inferencer runs no config that stands in a file of weights."""
    from mmengine.infer import BaseInferencer

    @replace(BaseInferencer, '_init_model')
    def init_model(original: Any, self: Any, cfg: Any, weights: Any, device: str = 'cpu') -> Any:
        if not cfg:
            raise UserError(
                f'no model was given, and its config would be taken from {weights}, which would '
                'run code from that file; give model=CONFIG'
            )
        return original(self, cfg, weights, device)


def without_config(found: Any) -> Any:
    """A checkpoint without the Python text of a config, which mmengine would run."""
    if isinstance(found, dict) and isinstance(found.get('meta'), dict):
        found['meta'].pop('config', None)
    return found


class Origin(OrderedDict):
    """The ``_metadata`` of a state dict, which mmengine passes on; it also names the file.

    Attributes:
        path: the file.
        meta: the entry ``meta`` of the file.
    """

    path = Path('checkpoint')
    meta: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Files that these weights are written to get a plain dict, which runs no code."""
        return OrderedDict, (list(self.items()),)

    def __deepcopy__(self, memo: dict) -> 'Origin':
        """Such as EMAHook's copy, which is loaded too."""
        twin = Origin(copy.deepcopy(dict(self), memo))
        twin.path, twin.meta = self.path, self.meta
        return twin


def with_state_dict(found: Any, path: Path) -> Any:
    """A checkpoint with its weights under ``state_dict``, where mmengine looks for them."""
    from ..checkpoints.entries import entries_note, of_file, open_entry

    with of_file(path):
        weights = open_entry(found)
    if note := entries_note(found):
        print_log(f'{path}: {note}', logger='current')
    state = OrderedDict(weights)
    state.pop('state_dict', None)  # an entry without weights
    found['state_dict'] = state
    noted = getattr(weights, '_metadata', None)
    origin = Origin(noted if isinstance(noted, Mapping) else {})
    origin.path, origin.meta = path, found.setdefault('meta', {})  # mmseg's init_model reads it
    state._metadata = origin  # type: ignore[attr-defined]
    return found


@patch('mmengine', '>=0.10')
def report_what_is_loaded() -> None:
    """Weights of any format are loaded with one report, and refused if next to nothing fits.

    mmengine logs what does not fit and continues, even if nothing fits. Runners, strategies, hooks
    and inferencers all load with this function.
    """
    from ..checkpoints.load import fit_weights, shard_like

    @replace(checkpoint, 'load_state_dict')
    def load_state_dict(
        original: Any, module: Any, state_dict: Any, strict: bool = False, logger: Any = None
    ) -> None:
        while is_model_wrapper(module) or isinstance(module, BaseTTAModel):
            module = module.module
        module = getattr(module, '_orig_mod', module)  # which torch.compile has wrapped
        metadata = getattr(state_dict, '_metadata', Origin())
        path = getattr(metadata, 'path', Origin.path)
        state, report = fit_weights(module, state_dict, path)
        own = module.state_dict()
        state = OrderedDict((k, shard_like(v, own[k]) if k in own else v) for k, v in state.items())
        state._metadata = metadata  # type: ignore[attr-defined]
        try:
            original(module, state, strict, 'silent')
        except RuntimeError as error:
            # torch writes the one, mmengine the other
            if not strict or not re.search('state[ _]dict', str(error)):
                raise
            raise CheckpointError(
                f'{path} does not fit the model of the config ({report.problems() or error})'
            ) from error
        level = logging.WARNING if report.problems() else logging.INFO
        print_log(str(report), logger=logger or 'current', level=level)
