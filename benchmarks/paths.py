"""What each of our own choices is worth, in one process: ``python -m benchmarks.paths``.

Runs SwinV2-T with one choice undone at a time, in turns, and prints medians and ratios to the
network as it is.
"""

import argparse
import os
import statistics
import time
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from mmswinv2.core.chunks import without_chunks

from mmswinv2.core import SwinV2, chunks, linear


@contextmanager
def changed(**values):
    """Other constants of `core/chunks.py` for a while."""
    with mock.patch.multiple(chunks, **values):
        yield


def torch_linear():
    return mock.patch.object(linear, '_suits_onednn', lambda *_: False)


@contextmanager
def both():
    with torch_linear(), without_chunks():
        yield


def half():
    return torch.autocast('cpu', torch.bfloat16)


WAYS = {
    'as it is': ExitStack,
    "torch's linear layers": torch_linear,
    'all windows at once': without_chunks,
    'both of these': both,
    'chunks of 512 tokens a thread': lambda: changed(_ROWS_PER_THREAD=512),
    'chunks of 8192 tokens a thread': lambda: changed(_ROWS_PER_THREAD=8192),
    'bfloat16 by autocast': half,
}
TRAINING = {
    **WAYS,
    'small maps computed twice too': lambda: changed(_KEPT_ROWS=0),
}


def step(net, x, training):
    if not training:
        with torch.no_grad():
            return net(x)
    net.zero_grad()
    sum(out.float().square().mean() for out in net(x)).backward()
    return None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1344])
    parser.add_argument('--window', type=int, default=16)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--compile', action='store_true', help='torch.compile beside the others')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = SwinV2('tiny', window_size=args.window)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    x = torch.randn(args.batch, 3, *args.size)
    for training, ways in ((False, WAYS), (True, TRAINING)):
        net.train(training)
        nets = dict.fromkeys(ways, net)
        if args.compile:
            ways = {**ways, 'torch.compile': ExitStack}
            nets['torch.compile'] = torch.compile(net)
        times = {name: [] for name in ways}
        for round_ in range(args.runs + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                with way():
                    step(nets[name], x, training)
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
