"""Measure the memory of training steps in a separate process, to compare with the prediction."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.registry import MODELS

from .. import hosts
from .model import begin_counters, frozen_batch_norms, ready

# environment of glibc: freed memory returns at once to the system, so the peak is memory in use
AT_ONCE_BACK = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '0'}
_STEPS = 2  # the first allocates the optimizer's state
_MEASURE = f'from {__name__} import _measure; _measure(*sys.argv[1:])'


def measure_memory(
    cfg: Any, size: Sequence[int], batch_size: int, dtype: torch.dtype | None = None
) -> int:
    """Train a few steps on random inputs with AdamW; returns peak bytes above an idle process.

    On a GPU these are bytes allocated by torch, on a CPU resident memory of the process (Linux).

    Args:
        cfg: the config.
        size: ``(H, W)`` or ``(T, H, W)``.
        batch_size: samples in a step.
        dtype: dtype of autocast; ``None``: off. See `Host.heads_autocast`.

    Raises:
        RuntimeError: if the process fails, with its error output.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, 'config.py')
        cfg.dump(path)
        name = str(dtype).removeprefix('torch.')
        # -c alone would take modules of the present folder before those of Python
        code = f'import sys; sys.path = {sys.path!r}; {_MEASURE}'
        run = subprocess.run(
            [sys.executable, '-c', code, path, str(batch_size), name, *map(str, size)],
            capture_output=True,
            text=True,
            env={**os.environ, **AT_ONCE_BACK},
        )
    if run.returncode:
        raise RuntimeError(f'the training steps failed:\n{run.stderr[-2000:]}')
    return int(run.stdout.split()[-1])


def idle_memory(device: str) -> int:
    """Bytes in use once libraries are loaded and have started threads; call it before training."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(30, 8)).to(device)
    optimizer = torch.optim.AdamW(layers.parameters())
    layers(torch.rand(1, 3, 32, 32, device=device)).sum().backward()
    optimizer.step()
    return 0 if device == 'cuda' else _status()['RssAnon']


def peak_memory(device: str) -> int:
    """Peak bytes: on a GPU those allocated by torch, on a CPU resident memory (Linux)."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    status = _status()
    return status['VmHWM'] - status['RssFile']  # without code of programs and libraries


def _status() -> dict[str, int]:
    """Memory of this process from ``/proc/self/status``, in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return {
        line.partition(':')[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith('kB')
    }


def _measure(path: str, batch_size: str, name: str, *sizes: str) -> None:
    """Train in this process, and print the bytes that it takes at most; see `measure_memory`."""
    from ..engine.configs import config_with_options

    torch.manual_seed(0)
    cfg = config_with_options(path, None)
    begin_counters()
    model_cfg = ready(cfg)
    if isinstance(model_cfg.type, str):
        MODELS.get(model_cfg.type)  # imports the host
    batch = hosts.sample_batch(cfg, [int(n) for n in sizes], int(batch_size))
    dtype = None if name == 'None' else getattr(torch, name)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    idle = idle_memory(device)
    model = MODELS.build(model_cfg).to(device).train()
    frozen_batch_norms(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    if dtype is not None and not hosts.of(cfg).heads_autocast:
        run = model.backbone.forward
        model.backbone.forward = torch.autocast(device, dtype)(run)
        dtype = None
    for _ in range(_STEPS):
        data = model.data_preprocessor(batch, True)
        with torch.autocast(device, dtype, dtype is not None):
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        loss.backward()
        del data, loss
        optimizer.step()
        optimizer.zero_grad()
    print(peak_memory(device) - idle)
