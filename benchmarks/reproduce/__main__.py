"""The paper's claims in miniature, each beside a control: minutes on two CPU cores.

    python -m benchmarks.reproduce                            all experiments, three seeds
    python -m benchmarks.reproduce --experiment norm --seeds 0
    python -m benchmarks.reproduce --report                   tables and plots of what has run

Each experiment and seed writes OUT/NAME-SEED.json; OUT/results.md and OUT/NAME.png are made of all
that are there.
"""

import argparse
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from . import report
from .experiments import EXPERIMENTS, measure


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.reproduce', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('--experiment', nargs='+', choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--out', type=Path, help='folder (work_dirs/reproduce; --quick: another)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--jobs', type=int, help='processes (one; on CPUs one for each, at most 4)')
    parser.add_argument('--quick', action='store_true', help='two steps, to see that it runs')
    parser.add_argument('--report', action='store_true', help='run nothing')
    args = parser.parse_args(arguments)
    if args.out is None:
        args.out = Path('work_dirs/reproduce-quick' if args.quick else 'work_dirs/reproduce')
    if args.jobs is None:
        args.jobs = min(os.cpu_count() or 1, 4) if args.device == 'cpu' else 1
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    tasks = [] if args.report else list(itertools.product(args.experiment, args.seeds))
    if args.jobs == 1:
        for name, seed in tasks:
            measure(name, seed, args)
    else:  # the networks are too small for several threads
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(args.jobs, context, torch.set_num_threads, (1,)) as pool:
            for running in [pool.submit(measure, *task, args) for task in tasks]:
                running.result()
    report.write(report.read(args.out), args.out)


if __name__ == '__main__':
    main()
