"""The table of patches: what is installed needs those it gets, and no others."""

import json
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmswinv2 import hosts
from mmswinv2.hosts.mmengine import Patch, wrap
from tests.test_tools.conftest import ROOT

# name, package, versions: a patch that is added or dropped is added or dropped here too
TABLE = [
    ('mmengine reads its own checkpoints', 'mmengine', '<0.10.8'),
    (
        'workers of a training by iterations start after hooks have checked their data set',
        'mmengine',
        '<0.10.8',
    ),
    ("mmengine does without DeepSpeed's one-bit optimizers", 'deepspeed', '>=0.13.2'),
    ('the error for an image that cannot be read names its file', 'mmcv', '>=2'),
    ('names of classes can be written on images that are views on their memory', 'mmseg', '<1.3'),
    (
        'mmaction2 can be imported beside mmcv 2.2 and newer, and without localizers.drn',
        'mmaction',
        '<=1.2.0',
    ),
    ('heads of mmaction2 take scores in bfloat16', 'mmaction', '>=1'),
    ('mmaction2 writes videos without moviepy', 'mmaction', '>=1'),
    ('torchvision can be imported without its compiled half', 'torchvision', '>=0'),
    ('the error for a crop larger than its image says which', 'mmpretrain', '>=1'),
    (
        'the error for masks of SimMIM that do not divide their image says what to set',
        'mmpretrain',
        '>=1',
    ),
    ('semantic maps with more values than classes can be drawn', 'mmdet', '>=3'),
    ('InstaBoost treats masks of several parts', 'instaboostfast', '<=0.1.2'),
]
DISTRIBUTIONS = {
    'onedl-mmengine': 'mmengine', 'onedl-mmcv': 'mmcv', 'mmcv-lite': 'mmcv',
    'onedl-mmdetection': 'mmdet', 'onedl-mmsegmentation': 'mmseg', 'mmsegmentation': 'mmseg',
    'mmaction2': 'mmaction', 'onedl-mmpretrain': 'mmpretrain',
}  # fmt: skip


@pytest.fixture(scope='module')
def faults():
    """Name of a patch to whether its fault shows here without any patch."""
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tests/test_hosts/probes.py'],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    print(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def pinned():
    """Package to the versions that our environments have."""
    found = {}
    for file in (ROOT / 'requirements').glob('*.txt'):
        for line in file.read_text().splitlines():
            line = line.partition('#')[0].strip()
            if '==' in line:
                pin = Requirement(line)
                name = DISTRIBUTIONS.get(pin.name, pin.name)
                found.setdefault(name, set()).add(next(iter(pin.specifier)).version)
    return found


def test_the_table_is_whole():
    assert [(p.name, p.package, p.versions) for p in hosts.PATCHES] == TABLE


@pytest.mark.parametrize('patch', hosts.PATCHES, ids=lambda p: p.name)
def test_what_is_installed_needs_what_it_gets(patch, faults):
    if patch.name not in faults:
        pytest.skip(f'{patch.package} is not installed')
    assert patch.needed() == faults[patch.name]


@pytest.mark.parametrize('patch', hosts.PATCHES, ids=lambda p: p.name)
def test_one_of_our_environments_needs_it(patch):
    versions = pinned()[patch.package]
    assert any(SpecifierSet(patch.versions).contains(version) for version in versions)


def test_the_documentation_lists_them():
    text = (ROOT / 'docs/compatibility.md').read_text()
    rows = re.findall(r'^\| ([^|]+) \| `(\w+)` \| `([^|`]+)` \|', text, re.MULTILINE)
    assert rows == TABLE


class Greeter:
    def greet(self):
        return 'hello'


def louder(greet):
    return lambda self: greet(self) + '!'


def test_a_patch_is_made_once_and_only_where_it_is_needed(monkeypatch):
    import functools

    monkeypatch.setattr(Greeter, 'greet', Greeter.greet)
    change = functools.partial(wrap, Greeter, 'greet', louder)
    for versions, condition in (('<1', None), ('>=1', lambda: False)):
        Patch('louder', 'pytest', versions, change, condition).apply()
        Patch('louder', 'no_such_package', '>=0', change).apply()
    assert Greeter().greet() == 'hello'
    patch = Patch('louder', 'pytest', '>=1', change)
    patch.apply()
    patch.apply()
    assert Greeter().greet() == 'hello!'


def test_what_others_have_wrapped_is_patched_all_the_same(monkeypatch):
    import functools

    original = Greeter.greet
    foreign = functools.wraps(original)(lambda self: original(self))
    monkeypatch.setattr(Greeter, 'greet', foreign)
    wrap(Greeter, 'greet', louder)
    assert Greeter().greet() == 'hello!'
