"""Checks of an installation: each tells what it found, and how to repair what is broken."""

import importlib
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OK, NOTE, ABSENT, BROKEN = 'ok', 'note', 'absent', 'broken'
_CHECKOUT = Path(__file__).resolve().parents[2]
_LEAST_TORCH = (2, 6)
_BEYOND_MMCV = (2, 14)  # this torch's headers need C++20, and mmcv compiles as C++17
_MMCV = ('onedl-mmcv', 'mmcv', 'mmcv-lite')


@dataclass
class Finding:
    """One line of the report."""

    name: str  # what was checked
    # `OK`, `NOTE` (works, with a limitation), `ABSENT` (not installed and not needed) or `BROKEN`
    state: str
    text: str  # what was found
    remedy: str = ''  # the command or step that repairs it


def _installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of those distributions in `names` that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def pip_command(arguments: str) -> str:
    """A command of pip, or of uv if the environment has no pip."""
    if _installed(['pip']):  # find_spec('pip') would disable setuptools' distutils
        return f'{sys.executable} -m pip {arguments}'
    if arguments.startswith('cache remove '):
        return f'uv cache clean {arguments.removeprefix("cache remove ")}'
    verb, rest = arguments.split(maxsplit=1)
    return f'uv pip {verb} --python {sys.executable} {rest}'


def _install(wanted: str, variables: str = '') -> str:
    """The command that installs a package; for mmcv, with the settings to compile it."""
    import torch

    if 'mmcv' not in wanted:
        return pip_command(f'install {wanted}')
    command = (
        f'MMCV_WITH_OPS=1 {variables}{pip_command(f"install -v --no-build-isolation {wanted}")}'
    )
    if _release(torch.__version__) < _BEYOND_MMCV:
        return command
    older = pip_command('install "torch<{}.{}"'.format(*_BEYOND_MMCV))
    return f'{older}; {command}'


def _release(number: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in number.split('.')[:2])


def _in_one_line(error: BaseException) -> str:
    """Class and message of an exception."""
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def this_torch() -> str:
    """The requirement of the version of torch that is installed."""
    import torch

    return f'torch=={torch.__version__.partition("+")[0]}'


def check_torch() -> list[Finding]:
    """The version of torch, and its CUDA."""
    least, beyond = ('.'.join(map(str, number)) for number in (_LEAST_TORCH, _BEYOND_MMCV))
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a missing library
        remedy = pip_command(f'install --force-reinstall "torch>={least},<{beyond}"')
        return [Finding('torch', BROKEN, _in_one_line(error), remedy)]
    kind = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'no CUDA'
    text = f'{torch.__version__}, {kind}'
    if _release(torch.__version__) >= _LEAST_TORCH:
        return [Finding('torch', OK, text)]
    remedy = pip_command(f'install "torch>={least}"; then build mmcv again')
    return [Finding('torch', BROKEN, f'{text}: older than {least}', remedy)]


def run_operators(device: Any) -> None:
    """Run compiled operators of mmcv on a device: NMS and RoIAlign.

    Raises:
        Exception: any error of an operator, or if a result is wrong.
    """
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3.9], [4, 4, 8, 8]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    _, kept = nms(boxes, scores, iou_threshold=0.5)
    if kept.tolist() != [0, 2]:
        raise RuntimeError(f'mmcv.ops.nms kept the boxes {kept.tolist()} instead of [0, 2]')
    rois = torch.tensor([[0.0, 0, 0, 4, 4]], device=device)
    ones = torch.ones(1, 1, 8, 8, device=device)
    if not torch.allclose(roi_align(ones, rois, (2, 2)), torch.ones(1, 1, 2, 2, device=device)):
        raise RuntimeError('mmcv.ops.roi_align does not average ones to ones')


def check_operators() -> Iterator[Finding]:
    """Compiled operators of mmcv, on the CPU and on the GPU."""
    import torch

    there = _installed(_MMCV)
    if not there:
        return
    if list(there) == ['mmcv-lite']:
        text = 'mmcv-lite has none: enough for mmpretrain, not for detectors and videos'
        yield Finding('operators of mmcv', NOTE, text)
        return
    name = next(iter(there))
    for device, variables, why in (
        ('CPU', '', 'without them or for another torch'),
        ('CUDA', 'FORCE_CUDA=1 ', 'without CUDA, or for another torch or GPU'),
    ):
        title = f'operators on {device}'
        if device == 'CUDA' and not torch.cuda.is_available():
            return
        try:
            run_operators(device.lower())
        except Exception as error:  # the remedy is the same for any error
            steps = (
                pip_command(f'uninstall -y {name}'),
                pip_command(f'cache remove {name.replace("-", "_")}'),
                _install(f'{name}=={there[name]}', variables),
            )
            yield Finding(
                title, BROKEN, f'{_in_one_line(error)}. mmcv was built {why}', '; '.join(steps)
            )
            return
        yield Finding(title, OK, 'NMS, RoIAlign and the like of mmcv give what they should')


def _check_module(module: str, names: Sequence[str]) -> Finding:
    """Whether a module comes from exactly one distribution, and can be imported with the others."""
    there = _installed(names)
    versions = ', '.join(f'{name} {number}' for name, number in there.items())
    stack = 1 if len(names) > 1 and _installed(['mmengine']) else 0  # 1: OpenMMLab's, 0: the forks
    wanted = f'--no-deps {names[0]}==1.2.0' if module == 'mmaction' else names[stack]
    if not there and find_spec(module) is None:
        return Finding(module, ABSENT, 'not installed', _install(wanted))
    if len(there) > 1:
        text = f'{versions}: all of them install the module {module}'
        uninstall = f'uninstall -y {" ".join(there)}'
        remedy = f'{pip_command(uninstall)}; {_install(wanted)}'
        return Finding(module, BROKEN, text, remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            importlib.import_module(module)
    except Exception as error:  # hosts check versions by assertions
        text = _in_one_line(error)
        asked = re.search(r'Please install (mm\w+)((?:,? ?[<>]=?\d[\w.]*\w)+)', text)
        wanted = f'--upgrade {wanted}'
        if asked and _installed([asked[1]]):  # the package itself, no fork of it
            wanted = f'"{asked[1]}{asked[2].replace(" ", "")}"'
        return Finding(module, BROKEN, f'{versions}: {text}', _install(wanted))
    return Finding(module, OK, versions or 'imported from a folder')


def check_hosts() -> Iterator[Finding]:
    """Which host packages are installed, and whether they can be imported together."""
    bases = [
        _check_module('mmengine', ('onedl-mmengine', 'mmengine')),
        _check_module('mmcv', _MMCV),
    ]
    for base in bases:  # nothing works without them
        base.state = BROKEN if base.state == ABSENT else base.state
    yield from bases
    if any(base.state == BROKEN for base in bases):
        return
    from ..hosts.patching import DISTRIBUTIONS  # with the patches that some imports need

    of_hosts = [name for name in DISTRIBUTIONS if name not in ('mmengine', 'mmcv')]
    hosts = [_check_module(name, DISTRIBUTIONS[name]) for name in of_hosts]
    if all(host.state == ABSENT for host in hosts):
        yield Finding('hosts', BROKEN, 'none is installed', hosts[0].remedy)
    for host in hosts:
        host.remedy = '' if host.state == ABSENT else host.remedy
    yield from hosts


def check_decoders() -> Iterator[Finding]:
    """The decoders of images and videos."""
    needs_video = bool(_installed(['mmaction2']))
    for module, name, what, needed in (
        ('cv2', 'opencv-python-headless', 'images', True),
        ('PIL', 'pillow', 'images', True),
        ('av', 'av', 'videos', needs_video),
        ('decord', 'decord2', 'videos', False),  # only for configs of mmaction2
    ):
        title = f'{what} ({module})'
        try:
            number = str(importlib.import_module(module).__version__)
        except (ImportError, OSError, AttributeError) as error:
            # OSError: a missing library, such as libGL; AttributeError: a package that another one
            # of the same module, such as opencv-python, has taken files from when it was removed
            if needed:
                remedy = pip_command(f'install --force-reinstall --no-deps {name}')
                yield Finding(title, BROKEN, _in_one_line(error), remedy)
            else:
                yield Finding(title, ABSENT, 'not installed')
        else:
            yield Finding(title, OK, number)


def check_triton() -> list[Finding]:
    """Triton, which compiles the kernels of attention for GPUs."""
    import torch

    from ..ops import triton

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    there = _installed(['triton', 'triton-windows', 'pytorch-triton'])
    text = ', '.join(f'{name} {number}' for name, number in there.items()) or 'not installed'
    remedy = ''
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        runs = triton.runs_on(device)
    if runs:
        state = OK
    elif device.type == 'cpu':
        state, text = ABSENT, f'{text}; not used on CPUs'
    elif caught:
        state, text = NOTE, f'{text}; {caught[-1].message}'
        remedy = 'apt install gcc python3-dev'
    elif there:
        state, text = NOTE, f'{text}; its kernels are for NVIDIA GPUs from Ampere on'
    else:
        state, remedy = NOTE, pip_command('install triton')
    return [Finding('Triton', state, text, remedy)]


def check_attention() -> list[Finding]:
    """The implementation of attention in use, against the reference."""
    import torch

    from .. import ops
    from ..ops import triton

    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    grid = ops.WindowGrid((8, 8), (8, 8), (0, 0))
    with torch.device(device):
        qkv, table, scale = torch.randn(1, 8, 8, 48), torch.zeros(1, 15, 15), torch.ones(1, 1, 1)
    taken = ops.implementation_of_attend(qkv, table, scale)
    # if Triton fails, its removal makes torch's operators the fallback
    again = f'install --force-reinstall {this_torch()}'
    remedy = pip_command('uninstall -y triton' if taken is triton else again)
    try:
        both = [module.attend(qkv, grid, table, scale) for module in (taken, ops.reference)]
        difference = float((both[0] - both[1]).abs().max())
    except Exception as error:  # a kernel compiler may raise anything
        text = f'{taken.__name__} fails: {_in_one_line(error)}'
        return [Finding('attention', BROKEN, text, remedy)]
    text = f'{taken.__name__} on {device.type}, {difference:.0e} from the reference'
    right = difference < 1e-2
    return [Finding('attention', OK if right else BROKEN, text, '' if right else remedy)]


def is_development() -> bool:
    """Whether this is an environment that `make install` made, in its checkout."""
    return Path(sys.prefix, '.installed').exists() and (_CHECKOUT / 'requirements').is_dir()


def pins(stack: str) -> dict[str, str]:
    """The pins of a stack: ``'onedl'``, ``'openmmlab'`` or ``'peers'``."""
    from packaging.requirements import Requirement

    names = (
        ('torch', 'peers', 'peers-nodeps', 'tests')
        if stack == 'peers'
        else ('torch', stack, 'video', 'scale', 'nodeps', 'tests')
    )
    found = {}
    for name in names:
        for line in (_CHECKOUT / f'requirements/{name}.txt').read_text().splitlines():
            line = line.partition('#')[0].strip()
            if '==' not in line:
                continue
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                found[pin.name] = next(iter(pin.specifier)).version
    return found


def check_pins() -> list[Finding]:
    """Whether all packages of `make install` have their pinned versions."""
    if not (_CHECKOUT / 'requirements').is_dir():
        return [Finding('pins', BROKEN, 'this is no checkout', 'leave --development out')]
    if _installed(['mmcv-lite']):
        stack, again = 'peers', 'make -B peers'
    else:
        stack = 'onedl' if _installed(['onedl-mmcv']) else 'openmmlab'
        again = f'make -B install STACK={stack}'
    wanted = pins(stack)
    there = _installed(list(wanted))
    wrong = [
        f'{name} {there.get(name, "missing")} instead of {pinned}'
        for name, pinned in wanted.items()
        if there.get(name, '').partition('+')[0] != pinned
    ]
    if wrong:
        return [Finding('pins', BROKEN, ', '.join(wrong), again)]
    return [Finding('pins', OK, f'{len(wanted)} packages as pinned for STACK={stack}')]


def check_self() -> Iterator[Finding]:
    """Python and this project."""
    from .. import __version__

    yield Finding('Python', OK, f'{platform.python_version()} ({sys.executable})')
    yield Finding('mmswinv2', OK, f'{__version__} ({Path(__file__).resolve().parents[1]})')
