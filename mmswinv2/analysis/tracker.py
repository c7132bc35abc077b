"""Memory over time, tensor by tensor."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .observer import Observer

__all__ = ['MemoryTracker']


class MemoryTracker(Observer):
    """Follows the memory of all tensors made while it is active.

    Attributes:
        live: bytes that are alive.
        events: ``(bytes, storage)`` in order of time, bytes below 0 where it is freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.events: list[tuple[int, int]] = []
        self._sizes: dict[int, int] = {}  # of the storages alive, by address
        self._numbers: dict[int, int] = {}

    def saw(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Note new memory; a view, perhaps of a weight, is none."""
        given = {s._cdata for s in _storages((args, kwargs))}
        for storage in _storages(out):
            if storage._cdata not in given:
                self._note(storage)

    def number(self, tensor: Tensor) -> int | None:
        """The number in `events` of what holds `tensor`."""
        return self._numbers.get(tensor.untyped_storage()._cdata)

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes or not size:
            return
        self._sizes[key], self._numbers[key] = size, len(self.events)
        self.events.append((size, len(self.events)))
        self.live += size
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.events.append((-size, self._numbers.pop(key)))
        self.live -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [v.untyped_storage() for v in tree_leaves(values) if isinstance(v, Tensor)]
