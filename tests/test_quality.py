"""Format, lint and types: what `make lint` runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    'command',
    ['ruff format --check --diff .', 'ruff check .', 'mypy'],
)
def test_quality(command):
    run = subprocess.run(
        [sys.executable, '-m', *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
