"""Time and memory of SwinV2, ours and others', beside the floor: ``make bench``.

For each workload every implementation runs in a process of its own. The processes take turns, so
that whatever else the machine does falls on all. The floor is the time that the products alone take
(linear layers, and attention among real tokens) at the rate of torch's 4096 x 4096 x 4096 product
in the same run; a second floor takes the rate of oneDNN, which this package uses on CPUs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mmswinv2.analysis.measured_memory import AT_ONCE_BACK
from mmswinv2.analysis.model import FlopCounter, StandIn
from mmswinv2.files import write_atomically
from mmswinv2.ops.onednn import cpu_info
from mmswinv2.options import ArgumentParser

from . import peers
from .report import OURS, OUT_OF_MEMORY, describe, write_plot, write_table
from .workloads import ALL, MAIN, SWEEPS, Workload

ROOT = Path(__file__).resolve().parents[1]
# environment variables that keep torch, oneDNN and MKL from newer instructions
ISA = {
    'avx2': dict(
        ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2', MKL_ENABLE_INSTRUCTIONS='AVX2'
    )
}
PRODUCTS = ('product', 'product by oneDNN')  # of 4096 x 4096 x 4096


class Worker:
    """An implementation in a process of its own; see `benchmarks.worker`."""

    def __init__(self, name: str, workload: Workload, args: Any, for_memory: bool) -> None:
        answers, its_end = os.pipe()  # not standard output, where libraries print
        spec = dict(
            workload.as_dict(), implementation=name, device=args.device, threads=args.threads,
            memory_limit=args.memory_limit * 2**30, answers=its_end,
        )  # fmt: skip
        python = args.peers_python if len(workload.size) == 2 else sys.executable
        env = {**os.environ, **(AT_ONCE_BACK if for_memory else {}), **ISA.get(args.isa, {})}
        self.name, self.error = name, ''
        self._log = tempfile.TemporaryFile('w+')  # noqa: SIM115, lives as long as the process
        self._process = subprocess.Popen(
            [python, '-W', 'ignore', '-m', 'benchmarks.worker', json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log,
            text=True, cwd=ROOT, env=env, pass_fds=(its_end,),
        )  # fmt: skip
        os.close(its_end)
        self._answers = os.fdopen(answers)
        self._answer()

    def run(self) -> dict[str, Any] | None:
        """Run once; ``None`` if that fails, with the reason in `error`."""
        if self.error:
            return None
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._answers.close()
        self._log.close()

    def _answer(self) -> dict[str, Any] | None:
        line = self._answers.readline()
        if not line:
            self._process.communicate()
            if self._process.returncode == -9:  # killed by Linux, out of memory
                self.error = OUT_OF_MEMORY
                return None
            self._log.seek(0)
            log = self._log.read()[-3000:]
            print(f'error: {self.name} ended with\n{log}', file=sys.stderr)
            self.error = (log.strip().splitlines() or ['no word'])[-1]
            return None
        answer = json.loads(line)
        self.error = answer.get('error', '')
        return None if self.error else answer


def measure(workload: Workload, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a workload with every implementation."""
    names = [OURS, *(peer for peer in workload.peers if peer in (args.peers or workload.peers))]
    products = PRODUCTS if args.device == 'cpu' else PRODUCTS[:1]  # oneDNN is for CPUs
    results: dict[str, dict[str, Any]] = {name: {} for name in (*names, *products)}
    for name in names:
        worker = Worker(name, workload, args, for_memory=True)
        answer = worker.run()
        results[name] = dict(peak=answer['peak'] if answer else None, error=worker.error)
        worker.close()
    peaks = {name: results[name]['peak'] for name in names if results[name]['peak']}
    for group in side_by_side(peaks, args.memory_limit * 2**30):
        workers = [Worker(name, workload, args, for_memory=False) for name in (*group, *products)]
        for round_ in range(args.runs + 1):
            for worker in workers:
                answer = worker.run()
                if answer and round_:  # the first one warms up
                    results[worker.name].setdefault('seconds', []).append(answer['seconds'])
        for worker in workers:
            worker.close()
    for result in results.values():
        result['median'] = statistics.median(result['seconds']) if 'seconds' in result else None
    operations = (3 if workload.training else 1) * workload.batch * 2 * multiply_adds(workload)
    times = [results.pop(name)['median'] for name in products]
    floors = [operations / (2 * 4096**3) * time if time else None for time in times]
    return dict(
        title=str(workload), **workload.as_dict(), results=results,
        operations=operations, floor=floors[0], floor_onednn=floors[-1] if floors[1:] else None,
        machine=machine(args),
        date=str(date.today()),
    )  # fmt: skip


def side_by_side(peaks: dict[str, int], limit: int) -> list[list[str]]:
    """Groups whose peaks of memory fit together, as processes keep theirs; ours is in each."""
    groups: list[list[str]] = []
    for name, peak in peaks.items():
        if name == OURS:
            continue
        fits = groups and peak + sum(peaks[other] for other in groups[-1]) <= limit
        if not fits:
            groups.append([OURS] if OURS in peaks else [])
        groups[-1].append(name)
    return groups or [list(peaks)]


def multiply_adds(workload: Workload) -> int:
    """Multiply-adds of one forward pass on one image or clip, by torch's formulas."""
    with torch.device('meta'):
        net = peers.ours(workload.arch, workload.size, workload.window).eval()
        counter = FlopCounter()
        stand_in = StandIn(net, [counter])
    with torch.no_grad():
        stand_in(torch.empty(1, 3, *workload.size))
    return counter.total


def machine(args: argparse.Namespace) -> str:
    """The processor or GPU, and the version of torch."""
    if args.device == 'cuda':
        processor = torch.cuda.get_device_name()
    else:
        name = cpu_info('model name') or platform.machine()
        processor = f'{name}, {args.threads} threads'
        processor += '' if args.isa == 'all' else f', {args.isa} alone'
    return f'{processor}, torch {torch.__version__}'


def main() -> None:
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument(
        '--workloads', nargs='+', choices=[*ALL, 'main', 'sweeps'], default=['main', 'sweeps'],
        metavar='NAME', help='main, sweeps (the plot), or names: ' + ', '.join(ALL),
    )  # fmt: skip
    parser.add_argument('--runs', type=int, default=5, help='timed runs of each (5)')
    parser.add_argument('--peers', nargs='+', metavar='NAME', help='only these (all)')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument(
        '--isa', default='all', choices=['all', *ISA],
        help='instructions of the CPU that every implementation may use (all)',
    )  # fmt: skip
    parser.add_argument('--compile', action='store_true', help='under torch.compile')
    parser.add_argument('--batch', type=int, help='images or clips (as the workload has it)')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument(
        '--memory-limit',
        type=int,
        default=20,
        help='GiB for a process, and for those side by side (20)',
    )
    parser.add_argument('--peers-python', default='.venv-peers/bin/python')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/bench'))
    args = parser.parse_args()
    for name in ('runs', 'batch', 'threads', 'memory_limit'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {value}')
    known = {peer for workload in ALL.values() for peer in workload.peers}
    if unknown := set(args.peers or ()) - known:
        parser.error(f'--peers {" ".join(sorted(unknown))}: there are {", ".join(sorted(known))}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: there is no GPU that torch can use')
    if not Path(args.peers_python).exists():
        parser.error(f'--peers-python {args.peers_python} does not exist; `make peers` makes it')
    groups = {'main': MAIN, 'sweeps': SWEEPS}
    wanted = [w for name in args.workloads for w in groups.get(name) or [ALL[name]]]
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / 'results.json'
    done = json.loads(record.read_text()) if record.exists() else {}
    failed: list[str] = []
    for workload in wanted:
        workload = replace(workload, dtype=args.dtype, compiled=args.compile,
                           batch=args.batch or workload.batch)  # fmt: skip
        result = measure(workload, args)
        key = f'{workload.name}: {workload}, {result["machine"]}'
        done.pop(key, None)  # the newest is the last
        done[key] = result
        text = json.dumps(done, indent=1)
        write_atomically(record, lambda file, text=text: file.write(text.encode()))
        write_table(done.values(), args.out / 'table.md')
        write_plot(done.values(), args.out / 'cost.png')
        print(describe(result), flush=True)
        failed += [f'{name} ({key})' for name, found in result['results'].items()
                   if found['error'] not in ('', OUT_OF_MEMORY)]  # fmt: skip
    print(f'{record}\n{args.out / "table.md"}\n{args.out / "cost.png"}')
    if failed:
        raise SystemExit(f'error: these failed, see above: {", ".join(failed)}')


if __name__ == '__main__':
    main()
