"""How many operators a network runs, and so how often a GPU is given work; no GPU is needed.

    python -m benchmarks.launches                          ours, by kernels and by torch's operators
    python -m benchmarks.launches --implementations timm   in an environment that has it
    python -m benchmarks.launches --sizes 256x256 --windows 8 --dtype bfloat16

Operators on tensors without data are counted, except views and operators that only create or query
a tensor. An operator of this package counts as the kernels and fills that it launches.
"""

import itertools
import warnings
from collections import Counter
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmswinv2.ops import sdpa_padded, triton
from mmswinv2.options import ArgumentParser

from . import peers

# Launches of one operator. attend: table copies and attention; attend_backward: three kernels, and
# sums over pairs and over programs; the others: a kernel and a sum
LAUNCHES = {
    'attend': 2, 'attend_backward': 5, 'add_norm_backward': 2, 'position_bias_backward': 2,
}  # fmt: skip
NO_LAUNCH = ('prim.', 'prims.', 'aten.promote_types', 'aten._unsafe_view', 'aten.empty',
             'aten.new_empty', 'aten.detach', 'aten.sym_')  # fmt: skip
OURS = ('kernels', 'sdpa')  # how this package attends on GPUs
PEERS = ('timm', 'transformers', 'torchvision')


class Launches(TorchDispatchMode):
    """Counts operators, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not view and not name.startswith(NO_LAUNCH):
            self.counts[name] += LAUNCHES.get(func._overloadpacket.__name__, 1)
        return func(*args, **(kwargs or {}))

    @property
    def total(self):
        return self.counts.total()


def one_call(q, k, v, attn_mask=None, scale=None):
    """One operator in place of torch's fused attention, which the CPU lacks for such a mask."""
    return torch.mul(v, q.shape[-1])


def fake_copy(net):
    """Replace a network's parameters and buffers, in place, by ones that have no data."""
    for module in net.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(p.shape))
        for name, b in list(module._buffers.items()):
            if b is not None:
                module._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
    return net


def build(implementation, size, window):
    """A network and a function that runs it."""
    if implementation in OURS:
        with torch.device('meta'):  # `fake_copy` takes away what values there are
            net = peers.ours('tiny', size, window)
        return net, net
    net, _, _, run = getattr(peers, implementation)('tiny', size, (window,) * 4, (0,) * 4)
    return net, run


def count(implementation, size, window, dtype='float32', batch=1):
    """Launches of a forward pass in evaluation and in training, and of a backward pass.

    Returns:
        Three `Launches`.
    """
    net, run = build(implementation, size, window)
    half = torch.autocast('cpu', getattr(torch, dtype), dtype != 'float32')
    kernels = mock.patch.object(triton, 'runs_on', lambda device: implementation == 'kernels')
    padded = mock.patch.object(sdpa_padded, 'fits_attend', lambda *_: implementation == 'sdpa')
    fused = mock.patch.object(F, 'scaled_dot_product_attention', one_call)
    no_data = FakeTensorMode(allow_non_fake_inputs=True)
    if implementation in OURS and dtype == 'float32':
        # a third of the time; autocast does not know them, and peers run other operators on them
        no_data = torch.device('meta')
    with no_data, kernels, padded, fused:
        fake_copy(net)
        x = torch.empty(batch, 3, *size)
        with Launches() as evaluation, torch.no_grad(), half:
            run(x)
        net.train()
        with Launches() as training, half:
            outs = tree_leaves(run(x))
        grads = [torch.empty_like(out) for out in outs]
        with Launches() as backward:
            torch.autograd.backward(outs, grads)
    return evaluation, training, backward


def parse_size(text):
    height, width = text.split('x')
    return int(height), int(width)


def main():
    """Print a table."""
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--implementations', nargs='+', choices=(*OURS, *PEERS), default=OURS)
    sizes = [(256, 256), (512, 512), (800, 1344), (736, 1120)]
    parser.add_argument(
        '--sizes', nargs='+', type=parse_size, default=sizes, help='height x width, in pixels'
    )
    parser.add_argument('--windows', nargs='+', type=int, default=[16, 8])
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--operators', action='store_true', help='print each, with its count')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    print(
        '| image | window | implementation | forward, evaluation | forward, training | backward |'
    )
    print('| --- | --- | --- | --- | --- | --- |')
    for size, window, name in itertools.product(args.sizes, args.windows, args.implementations):
        counted = count(name, size, window, args.dtype)
        totals = ' | '.join(str(c.total) for c in counted)
        print(f'| {size[0]}x{size[1]} | {window} | {name} | {totals} |', flush=True)
        if args.operators:
            for part, c in zip(('evaluation', 'training', 'backward'), counted, strict=True):
                print(part, dict(c.counts.most_common()))


if __name__ == '__main__':
    main()
