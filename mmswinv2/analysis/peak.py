"""The most memory that this process has used."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ['AT_ONCE_BACK', 'idle_memory', 'peak_memory']

# for the environment: what is freed goes back at once, and the peak is what was in use
AT_ONCE_BACK = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '0'}


def idle_memory(device: str) -> int:
    """Bytes in use once libraries are loaded and have made their threads; call it first."""
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(30, 8)).to(device)
    optimizer = torch.optim.AdamW(layers.parameters())
    layers(torch.rand(1, 3, 32, 32, device=device)).sum().backward()
    optimizer.step()
    return 0 if device == 'cuda' else _status()['RssAnon']


def peak_memory(device: str) -> int:
    """Bytes: on a GPU what torch allocated, on a CPU the resident memory (Linux)."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    status = _status()
    return status['VmHWM'] - status['RssFile']  # programs and libraries are no data


def _status() -> dict[str, int]:
    """What Linux knows of this process's memory, in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return {
        line.partition(':')[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith('kB')
    }
