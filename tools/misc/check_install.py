#!/usr/bin/env python
"""Check that the packages are the pinned ones and that mmcv's compiled ops work.

Prints a table of versions; exits with 1 and a sentence on how to mend it otherwise.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parents[2] / 'requirements'
# import name: distributions that may stand behind it, the maintained fork first
HOSTS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmaction': ('mmaction2',),
}
OTHERS = ('torch', 'numpy', 'opencv-python-headless', 'pycocotools', 'setuptools', 'mmswinv2')


def installed(name: str) -> str | None:
    """Version of a distribution, None if it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def pins(stack: str) -> dict[str, str]:
    """The pins of a stack; none where this script is not in a checkout."""
    found = {}
    for name in ('torch', stack, 'video', 'scale', 'nodeps', 'tests'):
        file = REQUIREMENTS / f'{name}.txt'
        for line in file.read_text().splitlines() if file.exists() else ():
            line = line.partition('#')[0].strip()
            if '==' not in line:
                continue
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                found[pin.name] = next(iter(pin.specifier)).version
    return found


def check_ops() -> None:
    """Run two compiled ops on small tensors."""
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3.9], [4, 4, 8, 8]])
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    if kept.tolist() != [0, 2]:
        raise RuntimeError(f'mmcv.ops.nms kept the boxes {kept.tolist()} instead of [0, 2]')
    rois = torch.tensor([[0.0, 0, 0, 4, 4]])
    pooled = roi_align(torch.ones(1, 1, 8, 8), rois, (2, 2))
    if not torch.allclose(pooled, torch.ones(1, 1, 2, 2)):
        raise RuntimeError('mmcv.ops.roi_align does not average ones to ones')


def problems() -> list[str]:
    """Print the table of versions; return what is wrong, each with its remedy."""
    found = []
    rows = [('Python', platform.python_version())]
    for module, names in HOSTS.items():
        there = [name for name in names if installed(name)]
        rows += [(name, installed(name)) for name in there] or [(names[0], 'missing')]
        if len(there) > 1:
            found.append(
                f'{" and ".join(there)} both install the module {module}: '
                'use one environment for each.'
            )
    rows += [(name, installed(name) or 'missing') for name in OTHERS]
    print('\n'.join(f'{name:<24}{value}' for name, value in rows))

    stack = 'onedl' if installed('onedl-mmcv') else 'openmmlab'
    wrong = [
        f'{name} {installed(name) or "missing"} instead of {pinned}'
        for name, pinned in pins(stack).items()
        if (installed(name) or '').partition('+')[0] != pinned
    ]
    if wrong:
        found.append(f'Not as pinned: {", ".join(wrong)}. Run: make -B install STACK={stack}')

    mmcv = 'onedl-mmcv' if stack == 'onedl' else 'mmcv'
    try:
        check_ops()
    except Exception as error:  # whatever it is, the remedy is the same
        pip = f'{sys.executable} -m pip'
        found.append(
            f"mmcv's compiled ops do not work ({type(error).__name__}: {error}). It was built "
            'without them or for another torch. Throw it and its cached wheel away and build '
            'again:\n'
            f'  {pip} uninstall -y {mmcv}\n'
            f'  {pip} cache remove {mmcv.replace("-", "_")}\n'
            f'  make -B install STACK={stack}'
        )
    else:
        print(f'{"ops of mmcv":<24}work')
    return found


if __name__ == '__main__':
    sys.exit('\n'.join(problems()) or None)
