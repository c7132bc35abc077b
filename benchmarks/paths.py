"""What each of our own choices is worth, in one process: ``python -m benchmarks.paths``.

Runs SwinV2-T with one choice changed at a time, in turns, and prints medians and ratios to the
network as it is (`path='auto'`). The constants in `mmswinv2/paths/chunked.py`,
`mmswinv2/ops/onednn.py` and `mmswinv2/ops/products.py` are chosen by its results on the processors
that were tried.
"""

import os
import statistics
import time
from contextlib import ExitStack
from unittest import mock

import torch

from mmswinv2.core import SwinV2
from mmswinv2.ops import onednn, products
from mmswinv2.options import ArgumentParser
from mmswinv2.paths import PATHS, chunked


def linear_by(library):
    return mock.patch.object(onednn, 'is_faster', lambda: library == 'oneDNN')


def chunks_of(tokens):
    return mock.patch.object(chunked, '_TOKENS_PER_THREAD', tokens)


def gelu_kept():
    return mock.patch.object(products, 'fits_gelu_linear', lambda x, weight: False)


def gelu_of(values):
    return mock.patch.object(products, '_VALUES_PER_THREAD', values)


def half():
    return torch.autocast('cpu', torch.bfloat16)


# name: (path, function that makes the context to run in)
WAYS = {
    'as it is': ('auto', ExitStack),
    'all windows at once': ('plain', ExitStack),
    'in chunks': ('chunked', ExitStack),
    "linear layers by torch's MKL": ('auto', lambda: linear_by('MKL')),
    'linear layers by oneDNN': ('auto', lambda: linear_by('oneDNN')),
    'all at once, MKL': ('plain', lambda: linear_by('MKL')),
    'in chunks, oneDNN': ('chunked', lambda: linear_by('oneDNN')),
    'chunks of 512 tokens a thread': ('chunked', lambda: chunks_of(512)),
    'chunks of 8192 tokens a thread': ('chunked', lambda: chunks_of(8192)),
    'GELU kept for backward': ('auto', gelu_kept),
    'GELU of 2^18 values a thread': ('auto', lambda: gelu_of(2**18)),
    'GELU of all rows at once': ('auto', lambda: gelu_of(2**40)),
    'bfloat16 by autocast': ('auto', half),
}


def step(net, x, training):
    if not training:
        with torch.no_grad():
            return net(x)
    net.zero_grad()
    sum(out.float().square().mean() for out in net(x)).backward()
    return None


def main():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1344])
    parser.add_argument('--window', type=int, default=16)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--compile', action='store_true', help='torch.compile beside the others')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    networks = {
        path: SwinV2('tiny', window_size=args.window, block=PATHS[path])
        for path in dict.fromkeys(path for path, _ in WAYS.values())
    }
    net = networks['auto']
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    for other in networks.values():
        other.load_state_dict(net.state_dict())
    x = torch.randn(args.batch, 3, *args.size)
    kind = f'{onednn.cpu_vendor()}, {torch.backends.cpu.get_cpu_capability()}'
    print(f'{kind}, {args.threads} threads, {args.size}, window {args.window}, batch {args.batch}')
    for training in (False, True):
        ways = {name: (networks[path], held) for name, (path, held) in WAYS.items()}
        if args.compile:
            ways['torch.compile'] = (torch.compile(net), ExitStack)
        for network in networks.values():
            network.train(training)
        times = {name: [] for name in ways}
        for round_ in range(args.runs + 1):
            for name, (network, held) in ways.items():
                start = time.perf_counter()
                with held():
                    step(network, x, training)
                if round_:  # the first one warms up
                    times[name].append(time.perf_counter() - start)
        print('training step' if training else 'inference')
        base = statistics.median(times['as it is'])
        for name, taken in times.items():
            median = statistics.median(taken)
            print(f'  {name:32} {median:7.3f} s  {median / base:.2f}')
    net.eval()
    full, short = step(net, x, False), []
    with half():
        short = step(net, x, False)
    errors = [
        ((a - b).abs().max() / a.abs().max()).item() for a, b in zip(full, short, strict=True)
    ]
    print(f'bfloat16 differs from float32 by {max(errors):.1e} of the largest value of a map')


if __name__ == '__main__':
    main()
