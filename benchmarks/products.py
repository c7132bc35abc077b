"""Rates of the products of SwinV2-T by several routes: ``python -m benchmarks.products``.

GFLOP/s for a chunk of tokens at each stage: torch's linear layer (MKL), oneDNN, a 1x1 convolution
on channels-last tokens, and the gradient of the weights with either operand first.
"""

import os
import time
from functools import partial

import torch
import torch.nn.functional as F

from mmswinv2.ops.onednn import linear
from mmswinv2.options import ArgumentParser


def rate(function, operations, runs=7):
    taken = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return operations / min(taken[2:]) / 1e9


def convolution(x, weight):
    tokens = x[None, None].permute(0, 3, 1, 2)  # (1, C, 1, T), channels last
    return F.conv2d(tokens, weight[:, :, None, None])


@torch.no_grad()
def main():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--tokens', type=int, default=4096)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    big = torch.randn(4096, 4096)
    for name, product in (('torch', torch.matmul), ('oneDNN', linear)):
        print(f'4096 x 4096 x 4096, {name}: {rate(partial(product, big, big), 2 * 4096**3, 2):.0f}')
    columns = ('torch', 'oneDNN', '1x1 conv', 'dW, wide second', 'dW, wide first', 'dW, torch')
    print(f'{"layer":24}' + ''.join(f'{name:>16}' for name in columns))
    for dim in (96, 192, 384, 768):
        for name, i, o in (('qkv', dim, 3 * dim), ('fc1', dim, 4 * dim), ('fc2', 4 * dim, dim)):
            x, weight = torch.randn(args.tokens, i), torch.randn(o, i)
            grad = torch.randn(args.tokens, o)
            wide, narrow = (grad, x) if o > i else (x, grad)
            routes = (
                (F.linear, x, weight),
                (linear, x, weight),
                (convolution, x, weight),
                (linear, narrow.t(), wide.t()),
                (linear, wide.t(), narrow.t()),
                (torch.matmul, grad.t(), x),
            )
            rates = [rate(partial(*route), 2 * args.tokens * i * o) for route in routes]
            print(f'{f"{name}, C = {dim}":24}' + ''.join(f'{r:16.0f}' for r in rates))


if __name__ == '__main__':
    main()
