"""The paper's claims in miniature, each beside a control: minutes on two CPU cores.

    python -m benchmarks.reproduce                            all experiments, three seeds
    python -m benchmarks.reproduce --experiment norm --seeds 0
    python -m benchmarks.reproduce --report                   tables and plots of what has run

Each experiment and seed writes OUT/NAME-SEED.json; OUT/results.md and OUT/NAME.png are made of all
that are there.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.__main__ import machine

from . import norm, position, report, simmim, video, window

EXPERIMENTS: dict[str, Any] = dict(
    norm=norm, window=window, position=position, simmim=simmim, video=video
)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.reproduce', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument('--experiment', nargs='+', choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/reproduce'))
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--quick', action='store_true', help='two steps, to see that it runs')
    parser.add_argument('--report', action='store_true', help='run nothing')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    args.threads, args.isa = torch.get_num_threads(), 'all'
    for name in () if args.report else args.experiment:
        module = EXPERIMENTS[name]
        settings = module.QUICK if args.quick else module.SETTINGS
        for seed in args.seeds:
            print(f'== {name}, seed {seed}', flush=True)
            start = time.perf_counter()
            rows = module.run(seed, settings, args.device)
            record = dict(
                experiment=name, seed=seed, settings=dataclasses.asdict(settings),
                seconds=round(time.perf_counter() - start, 1), machine=machine(args),
                torch=torch.__version__, rows=rows,
            )  # fmt: skip
            part = args.out / f'{name}-{seed}.json.part'
            part.write_text(json.dumps(record))
            part.replace(args.out / f'{name}-{seed}.json')
    report.write(report.read(args.out), args.out)


if __name__ == '__main__':
    main()
