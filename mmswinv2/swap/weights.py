"""Which published weights go with a size and a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checkpoints import fetch
from ..checkpoints.load import convert_file, describe
from ..core import get_variant
from ..errors import UserError

__all__ = ['choose_weights', 'default_window']

_RELEASE = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
_W8, _W16 = 'swinv2_{}_patch4_window8_256.pth', 'swinv2_{}_patch4_window16_256.pth'
_W12 = 'swinv2_{}_patch4_window12_192_22k.pth'
_W12TO16 = 'swinv2_{}_patch4_window12to16_192to256_22kto1k_ft.pth'
_W12TO24 = 'swinv2_{}_patch4_window12to24_192to384_22kto1k_ft.pth'
_WINDOWS = {
    _W8: [8, 8, 8, 8],
    _W16: [16, 16, 16, 8],
    _W12: [12, 12, 12, 6],
    _W12TO16: [12, 12, 12, 6],
    _W12TO24: [12, 12, 12, 6],
}
# the file for a window of its training; the first is for any other window
_PUBLISHED = {
    'tiny': {16: _W16, 8: _W8},
    'small': {16: _W16, 8: _W8},
    'base': {16: _W16, 8: _W8, 12: _W12, 24: _W12TO24},
    'large': {24: _W12TO24, 12: _W12, 16: _W12TO16},
}


def default_window(arch: str) -> int:
    """The window of the file that `choose_weights` would take, 16 where there is none."""
    return 8 if arch == 'nano' else next(iter(_PUBLISHED.get(arch, {16: ''})))


def choose_weights(
    arch: str, window: int, checkpoint: str | None, windows: Sequence[int] | None
) -> tuple[dict[str, Any], str]:
    """The weights to start from.

    Args:
        arch: the size of SwinV2.
        window: the window of the new config.
        checkpoint: a file or address, ``'none'``, or ``None`` for the published one.
        windows: the windows of the pre-training per stage, where the file does not record them.

    Returns:
        settings of the backbone (``init_cfg``, ``pretrained_window_sizes``), and where they are
        from, in words.

    Raises:
        UserError: if the file is of another size, or its windows are unknown.
        CheckpointError: if it cannot be read.
    """
    if checkpoint == 'none' or (checkpoint is None and arch not in _PUBLISHED):
        if windows:
            raise UserError('--pretrained-windows goes with --checkpoint; there is none here')
        why = 'as asked' if checkpoint else f'no weights of SwinV2-{arch} were published'
        return {}, f'from scratch: {why}'
    if checkpoint is None:
        files = _PUBLISHED[arch]
        checkpoint = _RELEASE + files.get(window, next(iter(files.values()))).format(arch)
    published = {_RELEASE + name.format(arch): w for name, w in _WINDOWS.items()}
    if checkpoint in published:
        if windows and list(windows) != published[checkpoint]:
            raise UserError(
                f'--pretrained-windows {list(windows)}: {checkpoint} was trained with '
                f'{published[checkpoint]}'
            )
        found, source = published[checkpoint], "the authors' file"
    else:
        found, source = _windows_in(checkpoint, arch, windows), 'as the file says'
    settings = {
        'pretrained_window_sizes': found,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': checkpoint},
    }
    return settings, f'weights {checkpoint}, first trained with windows {found} ({source})'


def _windows_in(checkpoint: str, arch: str, windows: Sequence[int] | None) -> list[int]:
    converted, recorded = convert_file(fetch(checkpoint))
    found = describe(converted.state)
    if found.get('name') != arch:
        raise UserError(f'{checkpoint} is {found}; --arch {arch} does not fit it')
    stages = range(len(get_variant(arch).depths))
    stated = list(windows) * len(stages) if windows and len(windows) == 1 else windows
    if stated is not None and len(stated) != len(stages):
        raise UserError(f'--pretrained-windows needs 1 or {len(stages)} numbers, got {windows}')
    if stated is None:
        if any(stage not in recorded for stage in stages):
            raise UserError(
                f'{checkpoint} does not record the windows of its pre-training; name them with '
                '--pretrained-windows (docs/checkpoints.md lists those of published weights)'
            )
        return [recorded[stage][0] for stage in stages]
    if any(recorded.get(stage, (stated[stage],))[0] != stated[stage] for stage in stages):
        raise UserError(f'--pretrained-windows {windows}: {checkpoint} records {recorded}')
    return list(stated)
