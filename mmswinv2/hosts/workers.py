"""Workers of data loaders get the patches of this process, as forked ones do.

Data loaders start workers by spawn on macOS and Windows, and if the config sets it
(``env_cfg.mp_cfg.mp_start_method='spawn'``). Such a worker imports the host when it reads its data
set.
"""

import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing import context
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data._utils.worker import _worker_loop

_KINDS = [
    getattr(context, name)
    for name in ('Process', 'SpawnProcess', 'ForkServerProcess')
    if hasattr(context, name)  # Windows has no fork server
]


def patch_workers(every: bool) -> None:
    """Let workers that start from now on apply patches before anything else.

    With `every`, also those of all hosts that this process has imported.
    """
    for kind in _KINDS:
        ForkingPickler.register(kind, partial(_reduce, every))


def _reduce(every: bool, process: BaseProcess) -> tuple[Any, ...]:
    from . import HOSTS

    if vars(process).get('_target') is not _worker_loop:  # no worker of a data loader
        return object.__reduce_ex__(process, 2)  # type: ignore[return-value]
    names = [host.name for host in HOSTS if every and host.name in sys.modules]
    # the attributes are read last, which may import a host
    return _patched, (type(process), names), vars(process)


def _patched(kind: type[BaseProcess], names: Sequence[str]) -> BaseProcess:
    """A process without attributes, once the patches of hosts are applied."""
    from . import HOSTS

    for host in HOSTS:
        if host.name in names:
            host.apply()
    return kind.__new__(kind)
