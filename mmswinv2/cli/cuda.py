"""Checks of NVIDIA's cards: the driver, and the compiler of CUDA, which compiles mmcv."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from .installation import ABSENT, BROKEN, NOTE, OK, Finding, pip_command, this_torch


def _output(*command: str) -> str:
    """Standard output of a program; empty if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout if done.returncode == 0 else ''


def check_driver() -> list[Finding]:
    """The driver of NVIDIA, and whether torch can use it."""
    import torch

    usable = torch.cuda.is_available()
    if torch.version.hip is not None:
        text = f'ROCm {torch.version.hip}; nobody has tried this project on it'
        remedy = '' if usable else 'see whether rocminfo lists a GPU'
        return [Finding('GPU', OK if usable else BROKEN, text, remedy)]
    cards = _output('nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader')
    if not cards.strip():
        return [_without_nvidia_smi()]
    known = re.search(r'CUDA Version: *([\d.]+)', _output('nvidia-smi'))
    text = '; '.join(line.replace(', ', ', driver ') for line in cards.strip().splitlines())
    text += f', for CUDA up to {known[1] if known else "unknown"}'
    if usable:
        return [Finding('GPU', OK, text)]
    if torch.version.cuda is None:
        text += '; torch is a build without CUDA'
        remedy = pip_command(
            f'install --force-reinstall {this_torch()} --index-url '
            'https://download.pytorch.org/whl/cuXXX, with cuXXX for a CUDA that the driver '
            'knows; then build mmcv again'
        )
    else:
        text += f'; torch was built with CUDA {torch.version.cuda} and sees no GPU'
        remedy = (
            'update the driver, or install a torch for an older CUDA '
            '(docs/how_to/install.md); and see whether CUDA_VISIBLE_DEVICES hides the GPU'
        )
    return [Finding('GPU', BROKEN, text, remedy)]


def _without_nvidia_smi() -> Finding:
    """The finding on a machine where NVIDIA's nvidia-smi is missing or lists no card."""
    import torch

    if torch.cuda.is_available():  # as in containers without the driver's programs, on Jetson
        return Finding('GPU', OK, f'{torch.cuda.get_device_name()}; there is no nvidia-smi')
    if has_card():  # containers may lack the driver on purpose
        return Finding(
            'GPU',
            NOTE,
            'a card of NVIDIA is here, and no driver that runs (nvidia-smi): the CPU is used',
            'sudo ubuntu-drivers install (Debian: sudo apt install nvidia-driver; in a '
            'container: docker run --gpus all)',
        )
    state = NOTE if torch.version.cuda else ABSENT
    return Finding('GPU', state, 'no NVIDIA driver here (nvidia-smi): the CPU is used')


def has_card(devices: Path = Path('/sys/bus/pci/devices')) -> bool:
    """Whether Linux lists an NVIDIA display controller among its PCI devices."""
    for device in devices.glob('*'):
        try:
            vendor, kind = (device.joinpath(name).read_text() for name in ('vendor', 'class'))
        except OSError:  # removed meanwhile, or not readable
            continue
        if vendor.strip() == '0x10de' and kind.startswith('0x03'):
            return True
    return False


def compiler_of_cuda() -> tuple[str, str] | None:
    """Path and version of the nvcc that torch would compile with; ``None`` if there is none."""
    from torch.utils.cpp_extension import CUDA_HOME

    path = str(Path(CUDA_HOME, 'bin/nvcc')) if CUDA_HOME else shutil.which('nvcc')
    found = re.search(r'release ([\d.]+)', _output(path, '--version')) if path else None
    return (str(path), found[1]) if found else None


def check_nvcc() -> list[Finding]:
    """Compare nvcc with torch's CUDA; nvcc is only needed to compile mmcv."""
    import torch

    finding = compare_nvcc(torch.version.cuda, found := compiler_of_cuda())
    if finding.state == OK and found and not _has_headers(Path(found[0])):
        places = sorted(Path(sysconfig.get_path('purelib')).glob('nvidia/*/include'))
        finding.state = NOTE
        finding.text += '; it lacks the headers of libraries, such as cusparse.h'
        finding.remedy = (
            f'CPATH={":".join(map(str, places))} while mmcv is compiled, where torch has them'
            if places
            else f'sudo apt install cuda-toolkit-{found[1].replace(".", "-")}'
        )
    return [finding]


def _has_headers(nvcc: Path) -> bool:
    """Whether headers of CUDA's libraries are installed, as in a complete toolkit."""
    root = nvcc.resolve().parents[1]
    more = filter(None, os.environ.get('CPATH', '').split(os.pathsep))
    places = (root / 'include', *root.glob('targets/*/include'), *map(Path, more))
    return any((place / 'cusparse.h').exists() for place in places)


def compare_nvcc(wanted: str | None, found: tuple[str, str] | None) -> Finding:
    """Whether nvcc fits torch's CUDA, by their major versions.

    Args:
        wanted: version of torch's CUDA; ``None`` for a build without CUDA.
        found: path and version of nvcc.
    """
    if wanted is None:
        return Finding('nvcc', ABSENT, 'not needed: torch is a build without CUDA')
    if found is None:
        return Finding('nvcc', ABSENT, f'none; compiling mmcv for CUDA needs that of CUDA {wanted}')
    text = f'{found[1]} ({found[0]}), and torch has CUDA {wanted}'
    if found[1].split('.')[0] == wanted.split('.')[0]:
        return Finding('nvcc', OK, text)
    return Finding(
        'nvcc',
        NOTE,
        f'{text}: mmcv cannot be compiled for CUDA with it',
        f"sudo apt install cuda-toolkit-{wanted.replace('.', '-')} (from NVIDIA's repository), and "
        f'CUDA_HOME=/usr/local/cuda-{wanted} while mmcv is compiled',
    )
