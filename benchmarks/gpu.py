"""SwinV2 on a GPU: correctness first, then time and memory beside other implementations.

    python -m benchmarks.gpu                                everything, which takes hours
    python -m benchmarks.gpu --parts check kernels          some parts
    python -m benchmarks.gpu --workloads 800x1344 --modes training --minutes 9

Needs torch, Triton, and those of timm, transformers and torchvision that are to be compared.
Each implementation of a row has a process of its own. All of them compile side by side, which takes
minutes and the memory of all of them, and are then timed one after the other: as they are, and by
`torch.compile(mode='reduce-overhead')`, whose CUDA graphs spare the processor every launch. Times
are medians, by CUDA events; memory is the peak of what torch allocates for a step as it is, since
graphs keep memory that torch does not count. "floor" is a lower bound for the time of a
forward pass: its products at the rate of a large one, or its memory traffic at
the rate of a copy, both measured in the same run, whichever takes longer. Without a GPU,
`TRITON_INTERPRET=1 python -m benchmarks.gpu --try` runs the program on small sizes, and its figures
mean nothing.
"""

import gc
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import os
import time
import traceback
import warnings
from pathlib import Path
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves

from mmswinv2.ops import triton
from mmswinv2.options import ArgumentParser

from . import peers
from .gpu_operators import DEVICE, DTYPES, SHAPES, check, clock, kernels, products
from .launches import OURS, PEERS

WORKLOADS = {  # size, window, batches
    '256x256': ((256, 256), 8, (1, 8, 64)),
    '512x512': ((512, 512), 16, (1, 2, 8)),
    '800x1344': ((800, 1344), 16, (1, 2, 8)),
    '1024x1024': ((1024, 1024), 16, (1, 2)),
    '1536x1536': ((1536, 1536), 32, (1, 2)),
    '16x224x224': ((16, 224, 224), (8, 7, 7), (1, 8)),
}
_PATIENCE = 1800  # seconds to compile in
PARTS = ('check', 'waits', 'kernels', 'products', 'networks')


def describe_machine():
    """The card, and the versions of what runs on it."""
    found = [name for name in ('triton', *PEERS) if importlib.util.find_spec(name)]
    versions = [f'{name} {importlib.metadata.version(name)}' for name in found]
    card = torch.cuda.get_device_name() if DEVICE == 'cuda' else 'no GPU: figures mean nothing'
    return ', '.join([card, f'torch {torch.__version__}', f'CUDA {torch.version.cuda}', *versions])


def waits():
    """Run a training step in which any synchronization with the device raises an error."""
    for name in OURS:
        step = make_step(name, 'tiny', (256, 256), 8, 2, torch.bfloat16, True)
        step()
        if DEVICE == 'cuda':
            torch.cuda.set_sync_debug_mode('error')
        try:
            step()
        finally:
            if DEVICE == 'cuda':
                torch.cuda.set_sync_debug_mode('default')
        print(f'{name}: no wait for the device in a training step', flush=True)


def make_step(name, arch, size, window, batch, dtype, training, compiled=False):
    """A function that runs a step of a network; the next step clears its gradients."""
    torch.manual_seed(0)
    if name == 'kernels' and DEVICE == 'cuda' and not triton.runs_on(torch.device(DEVICE)):
        raise RuntimeError('the Triton kernels do not run here, see `mmswinv2 doctor`')
    if name in OURS:
        net = run = peers.ours(arch, size, window)
    else:
        net, _, _, run = getattr(peers, name)(arch, size, (window,) * 4, (0,) * 4)
    peers.randomise(net).to(DEVICE).train(training)
    run = torch.compile(run, mode='reduce-overhead') if compiled else run
    x = torch.randn(batch, 3, *size, device=DEVICE)
    autocast = torch.autocast(DEVICE, dtype, dtype != torch.float32)
    runs_on = triton.runs_on if name == 'kernels' else lambda device: False

    def step():
        with mock.patch.object(triton, 'runs_on', runs_on):
            torch.compiler.cudagraph_mark_step_begin()
            with autocast, torch.set_grad_enabled(training):
                outs = tree_leaves(run(x))
            if training:
                net.zero_grad(set_to_none=True)
                torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])

    return step


def rates():
    """FLOP/s of the product of two large matrices, and bytes per second of a copy."""
    n = 8192 if DEVICE == 'cuda' else 256
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(n * n * 4, device=DEVICE)
    other = torch.empty_like(big)
    products = 2 * n**3 / clock(lambda: a @ b) * 1e3
    return products, 2 * big.nbytes / clock(lambda: other.copy_(big)) * 1e3


def floor_of(arch, size, window, batch, rate):
    """Milliseconds of a forward pass that did nothing but its products, or its memory traffic.

    A block moves 62 bytes for each token and channel: a float32 residual, bfloat16 branches,
    attention without scores in memory.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device('meta'):
        net = peers.ours(arch, size, window)
        x = torch.empty(1, 3, *size)
    moved = 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for out, depth in zip(net(x), net.depths, strict=True):
            moved += 62 * out.numel() * depth
    return batch * max(counter.get_total_flops() / rate[0], moved / rate[1]) * 1e3


def measure(compiled, name, *spec, begin=None):
    """Milliseconds and peak MiB, or the error; `begin` is called after warm-up, before timing."""
    step = None
    try:
        step = make_step(name, *spec, compiled)
        for _ in range(3):
            step()
        if begin:
            begin()
        result = dict(ms=clock(step))
        if not compiled:
            result['peak'] = torch.cuda.max_memory_allocated() / 2**20 if DEVICE == 'cuda' else 0
        return result
    except Exception as problem:  # what an implementation cannot do is a result too
        if name in OURS:
            traceback.print_exc()
        return dict(error=f'{type(problem).__name__}: {str(problem)[:80]}')
    finally:
        step = None
        torch._dynamo.reset()
        gc.collect()
        if DEVICE == 'cuda':
            torch.cuda.empty_cache()


def work(pipe, eager, name, spec):
    """In a process of its own: compile, report ``ready``, and time once asked to."""
    warnings.simplefilter('ignore')
    begun = []

    def begin():
        if not begun:
            pipe.send('ready')
            pipe.recv()
            begun.append(True)

    results = {}
    if not eager:
        results[f'{name}, compiled'] = measure(True, name, *spec, begin=begin)
    begin()
    results[name] = measure(False, name, *spec)
    pipe.send(results)


def measure_all(rows, eager):
    """Results of each row ``(implementations, spec)``; all compile together, and run one by one."""
    spawn = multiprocessing.get_context('spawn')
    workers = []
    for row, (names, spec) in enumerate(rows):
        for name in names:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(theirs, eager, name, spec), daemon=True)
            process.start()
            theirs.close()
            workers.append((ours, process, row, name))
    results = [{} for _ in rows]

    def hear(ours, process, row, name):
        """The worker's next message; ``None`` if it has died or sends none for too long."""
        try:
            if ours.poll(_PATIENCE):
                return ours.recv()
            results[row][name] = dict(error=f'nothing after {_PATIENCE} s')
        except (EOFError, OSError):
            results[row][name] = dict(error='its process died')
        process.kill()
        return None

    for worker in [worker for worker in workers if hear(*worker)]:
        worker[0].send('go')
        results[worker[2]].update(hear(*worker) or {})
        worker[1].join()
    return results


def networks(args, rate):
    """Print time and memory of all networks, eager and compiled, and ours beside the best peer."""
    found = args.implementations or [*OURS, *filter(importlib.util.find_spec, PEERS)]
    ends = time.monotonic() + 60 * args.minutes
    head = ' | '.join(f'{n}{c}' for n in found for c in ('', ', compiled'))
    print(f'| workload | {head} | best peer / ours | memory, ours / best peer | ours / floor |')
    print('| --- ' * (2 * len(found) + 4) + '|')
    rows = []
    for key, arch, dtype, mode in itertools.product(
        args.workloads, args.archs, args.dtypes, args.modes
    ):
        size, window, batches = args.sizes[key]
        for batch in args.batches or batches:
            names = [name for name in found if name in OURS or len(size) == 2]
            spec = (arch, size, window, batch, DTYPES[dtype], mode == 'training')
            rows.append((f'{arch} {key} w{window} b{batch} {dtype} {mode}', names, spec))
    records = []
    for begin in range(0, len(rows), args.rows_at_once):
        if time.monotonic() > ends:
            print(f'{args.minutes} minutes are over')
            break
        some = rows[begin : begin + args.rows_at_once]
        measured = measure_all([row[1:] for row in some], args.eager)
        for (workload, _, spec), results in zip(some, measured, strict=True):
            floor = None if spec[-1] else floor_of(*spec[:4], rate)
            records.append(dict(workload=workload, floor=floor, results=results))
            print(row_of(records[-1], found), flush=True)
        if args.out:
            args.out.write_text(json.dumps(records, indent=1))
    return records


def row_of(record, names):
    """A line of the table."""
    results = record['results']
    cells = []
    for name, suffix in itertools.product(names, ('', ', compiled')):
        result = results.get(name + suffix, {})
        figures = f'{result["ms"]:.2f} ms' if 'ms' in result else ''
        if 'peak' in result:
            figures += f', {result["peak"]:.0f} MiB'
        cells.append(figures or result.get('error', ''))

    def best(which, key):
        values = [r[key] for n, r in results.items() if n.startswith(which) and key in r]
        return min(values, default=None)

    ours, theirs = best('kernels', 'ms'), best(PEERS, 'ms')
    memory = best('kernels', 'peak'), best(PEERS, 'peak')
    cells.append(f'{theirs / ours:.2f}' if ours and theirs else '')
    cells.append(f'{memory[0] / memory[1]:.2f}' if all(memory) else '')
    cells.append(f'{ours / record["floor"]:.2f}' if ours and record['floor'] else '')
    return f'| {record["workload"]} | {" | ".join(cells)} |'


def main():
    """Run the parts that were asked for."""
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--workloads', nargs='+', choices=WORKLOADS, default=list(WORKLOADS))
    archs = ['tiny', 'small', 'base']
    parser.add_argument('--archs', nargs='+', choices=peers.SIZES, default=archs)
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=['bfloat16', 'float16'])
    parser.add_argument('--batches', nargs='+', type=int, help='instead of those of the workload')
    modes = ('inference', 'training')
    parser.add_argument('--modes', nargs='+', choices=modes, default=modes)
    parser.add_argument(
        '--implementations', nargs='+', choices=(*OURS, *PEERS), help='those that are installed'
    )
    parser.add_argument('--eager', action='store_true', help='compile nothing')
    parser.add_argument(
        '--rows-at-once', type=int, default=1, help='how many to compile side by side'
    )
    parser.add_argument('--minutes', type=float, default=1e9, help='begin no workload after these')
    parser.add_argument('--out', type=Path, help='write all figures as JSON to this file')
    parser.add_argument(
        '--try', dest='trial', action='store_true', help='small sizes, on any device'
    )
    args = parser.parse_args()
    if args.rows_at_once < 1:
        parser.error(f'--rows-at-once must be at least 1, got {args.rows_at_once}')
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter('ignore')
    if DEVICE == 'cpu' and not args.trial:
        parser.error('there is no GPU that torch can use; --try runs small sizes without one')
    args.sizes = WORKLOADS
    shapes = SHAPES
    cases = [(2, (200, 336), 16, 3), (2, (50, 84), 16, 12), (1, (384, 384), 32, 3),
             (64, (64, 64), 8, 3)]  # fmt: skip
    if args.trial:
        args.sizes = dict.fromkeys(WORKLOADS, ((64, 96), 8, (1,)))
        shapes, cases = [((5, 6), (4, 4), (2, 2), 1, 16)], [(1, (6, 6), 4, 1)]
    if DEVICE == 'cpu' and not os.environ.get('TRITON_INTERPRET'):
        needed = [part for part in args.parts if part in ('check', 'kernels')]
        if needed:
            parser.error(f'without a GPU the parts {needed} need TRITON_INTERPRET=1')
    print(describe_machine(), flush=True)
    if 'check' in args.parts:
        check(shapes)
    if 'waits' in args.parts:
        waits()
    if 'kernels' in args.parts:
        kernels(cases)
    if 'products' in args.parts:
        tokens = [(134400, 96), (134400, 384), (33600, 768), (8400, 1536)]
        products(*((1, (32, 32), [(64, 8)]) if args.trial else (2, (800, 1344), tokens)))
    if 'networks' in args.parts:
        rate = rates()
        print(
            f'products {rate[0] / 1e12:.0f} TFLOP/s in bfloat16, copies {rate[1] / 1e12:.2f} TB/s'
        )
        networks(args, rate)


if __name__ == '__main__':
    main()
