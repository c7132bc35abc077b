"""Helpers that record the operators and modules that torch runs."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Collects the names of all operators, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def called_modules(net, x):
    """The modules called in ``net(x)``, by a global forward hook."""
    seen = set()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.add(m))
    try:
        net(x)
    finally:
        hook.remove()
    return seen
