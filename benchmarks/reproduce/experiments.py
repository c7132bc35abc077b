"""All experiments, and what is written down of one."""

import argparse
import dataclasses
import json
import time
from typing import Any

import torch

from benchmarks.__main__ import machine
from mmswinv2.files import write_atomically

from . import norm, position, simmim, video, window

EXPERIMENTS: dict[str, Any] = dict(
    norm=norm, window=window, position=position, simmim=simmim, video=video
)


def measure(name: str, seed: int, args: argparse.Namespace) -> None:
    """Run an experiment with a seed, and write its file."""
    module = EXPERIMENTS[name]
    settings = module.QUICK if args.quick else module.SETTINGS
    start = time.perf_counter()
    rows = []
    for row in module.run(seed, settings, args.device):
        numbers = {key: value for key, value in row.items() if not isinstance(value, list)}
        told = (f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in numbers.items())
        print(f'{name}, seed {seed}: {", ".join(told)}', flush=True)
        rows.append(row)
    on = argparse.Namespace(device=args.device, threads=torch.get_num_threads(), isa='all')
    record = dict(
        experiment=name, seed=seed, settings=dataclasses.asdict(settings), machine=machine(on),
        seconds=round(time.perf_counter() - start, 1), rows=rows,
    )  # fmt: skip
    text = json.dumps(record).encode()
    write_atomically(args.out / f'{name}-{seed}.json', lambda file: file.write(text))
