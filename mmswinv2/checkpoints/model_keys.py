"""The weights of a file under the keys of a whole model: prefixes, wrappers, formats, adapters."""

import re
from collections import Counter
from collections.abc import Container, Iterable
from typing import Any

from torch import nn

from ..core.swin_v2 import SwinV2
from ..files import StrPath
from .adapters import add_adapters, add_base
from .convert import Converted, convert_checkpoint
from .entries import of_file, plain_keys, unwrap
from .formats import State, unwrapped

BACKBONE = 'backbone.'
_WRAPPED = re.compile(r'(module|base_model\.model)\.')  # by distributed training, by peft
_PATCHES = 'backbone.patch_embed.proj.'


def weights_for(
    model: nn.Module, own: State, checkpoint: Any, path: StrPath, described: Any
) -> tuple[State, Converted | None, list[str], bool]:
    """The weights of a file under the keys of a whole model, converted if necessary.

    `own` is the model's state dict, `described` what the file records of its adapters.

    Returns:
        the weights, how they were converted, notes on the prefix and on adapters, and whether all
        keys under the prefix are those of a backbone.
    """
    with of_file(path):
        found = unwrap(checkpoint, kinds={type(value) for value in own.values()})
        given = plain_keys(found, own)
    given, prefix, alone = _under_own_keys(given, own)
    given, notes = add_base(model, own, given, path, described)
    if prefix:
        notes = [f'taken off its keys: the prefix {prefix!r}', *notes]
    ours = backbone_of(model) is not None
    if not ours or any(unwrapped(name).startswith(_PATCHES) for name in given):
        given, more = add_adapters(model, own, given)
        return given, None, notes + more, alone
    converted, found = convert_checkpoint(checkpoint, path), plain_keys(found)
    given = {
        **{BACKBONE + name: value for name, value in converted.state.items()},
        **converted.heads,
        **{name: found[name] for name in converted.unknown},  # to be reported
    }
    wrapped = {unwrapped(name): name for name in own}
    given = {wrapped.get(name, name): value for name, value in given.items()}
    given, more = add_adapters(model, own, given)
    return given, converted, notes + more, False


def _under_own_keys(given: State, own: State) -> tuple[State, str, bool]:
    """Weights under a model's keys: without a prefix, and with what torch's wrappers add there.

    Returns:
        the weights, the prefix that was taken off, and whether all keys under it are those of a
        backbone.
    """
    while given and all(_WRAPPED.match(name) and name not in own for name in given):
        given = {_WRAPPED.sub('', name, count=1): value for name, value in given.items()}
    wrapped = {unwrapped(name): name for name in own}  # keys of a compiled model
    given = {unwrapped(name): value for name, value in given.items()}
    prefix = _common_prefix(given, wrapped)
    under = [name.removeprefix(prefix) for name in given if name.startswith(prefix)]
    if prefix and any(name in given for name in under):  # of another network
        prefix = ''
    beside = [name for name in given if name in wrapped]
    alone = bool(prefix) and all(map(is_backbone, (*under, *beside)))
    given = {name.removeprefix(prefix): value for name, value in given.items()}
    return {wrapped.get(name, name): value for name, value in given.items()}, prefix, alone


def _common_prefix(given: Iterable[str], own: Container[str]) -> str:
    """The prefix without which the keys of a file are those of a model; ``''`` if they are so.

    It is the one of most keys. It must not be in doubt: no other prefix may be that of more than
    half as many. Keys without it stay as they are.
    """
    found: Counter[str] = Counter()
    for name in given:
        parts = name.split('.')
        rests = ('.'.join(parts[i:]) for i in range(len(parts)))
        if (fits := next((rest for rest in rests if rest in own), None)) is not None:
            found[name.removesuffix(fits)] += 1
    (prefix, count), (_, second) = [*found.most_common(2), ('', 0), ('', 0)][:2]
    return prefix if 2 * second <= count else ''


def backbone_of(model: nn.Module) -> SwinV2 | None:
    """The backbone of a whole model if it is of this package, compiled or not."""
    backbone = getattr(model, 'backbone', None)
    backbone = getattr(backbone, '_orig_mod', backbone)
    return backbone if isinstance(backbone, SwinV2) else None


def is_backbone(key: str) -> bool:
    """Whether a key of a whole model is one of its backbone."""
    return unwrapped(key).startswith(BACKBONE)
