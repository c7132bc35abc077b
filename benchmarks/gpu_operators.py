"""Operators on a GPU, for `benchmarks.gpu`: attention against float64, and times beside torch's."""

import itertools
import statistics
import time

import torch
import torch.nn.functional as F

from mmswinv2.ops import WindowGrid, patches, reference, triton

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}
# (size, window, shift, heads, width of a head)
SHAPES = [
    ((50, 84), (16, 16), (8, 8), 3, 32),
    ((33, 47), (8, 8), (4, 4), 6, 32),
    ((7, 5), (16, 16), (8, 8), 2, 32),
    ((40, 40), (32, 32), (16, 16), 1, 32),
    ((24, 60), (24, 24), (12, 12), 2, 64),
    ((1, 50), (12, 12), (6, 6), 2, 24),
    ((5, 14, 20), (8, 7, 7), (4, 3, 3), 3, 32),
    ((40, 9), (7, 7), (3, 3), 2, 128),
]


def clock(step, budget=1.0):
    """Median milliseconds of a step, warmed up, for about `budget` seconds."""
    for _ in range(3):
        step()
    if DEVICE == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(2):
        step()
    if DEVICE == 'cpu':
        return (time.perf_counter() - start) / 2 * 1e3
    torch.cuda.synchronize()
    runs = max(5, min(100, int(budget / ((time.perf_counter() - start) / 2))))
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for begin, end in marks:
        begin.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks)


def poison(megabytes=256):
    """Fill memory that will be reused with NaN, so that elements left unwritten are found."""
    if DEVICE == 'cuda':
        torch.cuda.empty_cache()
    sizes = [megabytes * 2**18, *[2**17] * 64]
    [torch.full((size,), float('nan'), device=DEVICE) for size in sizes]


def error(got, want):
    return float((got.double() - want).abs().max() / want.abs().max())


def check(shapes):
    """Attention by kernels against float64: output and the gradients of qkv, table and scale."""
    print('| size | window | dtype | out | qkv | table | scale |')
    print('| --- | --- | --- | --- | --- | --- | --- |')
    worst = {}
    # Triton's interpreter multiplies the bits of bfloat16 as integers
    dtypes = [d for d in DTYPES.values() if DEVICE == 'cuda' or d != torch.bfloat16]
    for (size, window, shift, heads, width), dtype in itertools.product(shapes, dtypes):
        torch.manual_seed(0)
        grid = WindowGrid(size, window, shift)
        qkv = torch.randn(2, *size, 3 * heads * width, device=DEVICE).to(dtype)
        table = torch.randn(heads, *(2 * m - 1 for m in grid.extent), device=DEVICE)
        scale = 5 + torch.rand(heads, 1, 1, device=DEVICE)
        inputs = [t.requires_grad_() for t in (qkv, table, scale)]
        exact = [t.detach().double().requires_grad_() for t in inputs]
        want = reference.attend(exact[0], grid, *exact[1:])
        weight = torch.randn_like(want)
        wanted = [want, *torch.autograd.grad(want, exact, weight)]
        poison()
        out = triton.attend(inputs[0], grid, *inputs[1:])
        got = [out, *torch.autograd.grad(out, inputs, weight.to(dtype))]
        errors = [error(a.detach(), b.detach()) for a, b in zip(got, wanted, strict=True)]
        worst[dtype] = max(worst.get(dtype, 0), *errors)
        cells = ' | '.join(f'{e:.1e}' for e in errors)
        print(f'| {size} | {window} | {dtype} | {cells} |', flush=True)
    limits = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
    wrong = {str(d): e for d, e in worst.items() if not e < limits[d]}  # NaN is wrong too
    if wrong:
        raise SystemExit(f'WRONG: {wrong}')
    print('all within', {str(d): limit for d, limit in limits.items()})


def kernels(cases):
    """Time attention alone, in milliseconds, beside torch's on windows that are cut beforehand."""
    print(
        '| map | window | batch | forward | forward and backward | torch, forward | torch, both |'
    )
    print('| --- | --- | --- | --- | --- | --- | --- |')
    for batch, size, window, heads in cases:
        dtype = torch.bfloat16
        qkv = torch.randn(batch, *size, 96 * heads, device=DEVICE, dtype=dtype)
        table = torch.randn(heads, 2 * window - 1, 2 * window - 1, device=DEVICE)
        scale = 5 + torch.rand(heads, 1, 1, device=DEVICE)
        grid = WindowGrid(size, (window,) * 2, (window // 2,) * 2)
        inputs = [t.requires_grad_() for t in (qkv, table, scale)]
        grad = torch.randn(batch, *size, 32 * heads, device=DEVICE, dtype=dtype)
        count = batch * -(-size[0] // window) * -(-size[1] // window)
        q, k, v = (
            torch.randn(count, heads, window**2, 32, device=DEVICE, dtype=dtype, requires_grad=True)
            for _ in range(3)
        )
        bias = torch.randn(1, heads, window**2, window**2, device=DEVICE, dtype=dtype)

        def ours(inputs=inputs, grid=grid):
            return triton.attend(inputs[0], grid, *inputs[1:])

        def theirs(q=q, k=k, v=v, bias=bias):
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

        def ours_both(grad=grad, ours=ours, inputs=inputs):
            torch.autograd.grad(ours(), inputs, grad)

        def theirs_both(theirs=theirs, inputs=(q, k, v)):
            out = theirs()
            torch.autograd.grad(out, inputs, out)

        with torch.no_grad():
            forward = [clock(ours), clock(theirs)]
        both = [clock(ours_both), clock(theirs_both)]
        cells = [forward[0], both[0], forward[1], both[1]]
        cells = ' | '.join(f'{ms:.3f}' for ms in cells)
        print(f'| {size} | {window} | {batch} | {cells} |', flush=True)
    print('torch computes no gradient of the bias here, and windows are all of one size')


def busy(step, times=20):
    """Microseconds for which a step keeps the device busy, however long its launches take."""
    from torch.profiler import ProfilerActivity, profile

    step()
    if DEVICE == 'cpu':
        return clock(step) * 1e3
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        for _ in range(times):
            step()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in record.key_averages()) / times


def products(batch, size, tokens):
    """Time operations that this package does by products on GPUs, beside torch's, in bfloat16."""
    print('| what | torch | product |')
    print('| --- | --- | --- |')
    image = torch.randn(batch, 3, *size, device=DEVICE)
    weight = torch.randn(96, 3, 4, 4, device=DEVICE, requires_grad=True)
    bias = torch.randn(96, device=DEVICE, requires_grad=True)

    def embed(module):
        with torch.autocast(DEVICE, torch.bfloat16):
            out = module.embed(image, weight, bias)
        out.backward(torch.ones_like(out))

    times = [busy(lambda module=module: embed(module)) for module in (reference, patches)]
    print(f'| patches of {batch} images of {size}, both passes | {times[0]:.0f} | {times[1]:.0f} |')
    for rows, columns in tokens:
        grad = torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16)
        ones = torch.ones(rows, device=DEVICE, dtype=torch.bfloat16)
        times = [busy(lambda g=grad: g.sum(0)), busy(lambda g=grad, o=ones: g.t() @ o)]
        print(f'| sums of {columns} columns of {rows} | {times[0]:.0f} | {times[1]:.0f} |')
    print('microseconds of the device')
