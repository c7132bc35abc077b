"""Looking on while operators run, on real tensors and on fake ones."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['Observer']


class Observer(TorchDispatchMode):
    """Calls `saw` after every operator.

    Attributes:
        paused: while it is set, nothing is seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paused = self._busy = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._busy or self.paused:  # what a fake tensor does inside is no work of its own
            return func(*args, **kwargs)
        self._busy = True
        try:
            out = func(*args, **kwargs)
        finally:
            self._busy = False
        self.saw(func, args, kwargs, out)
        return out

    def saw(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Take note of an operator."""
        raise NotImplementedError
