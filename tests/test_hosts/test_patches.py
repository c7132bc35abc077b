"""The table of patches: installed packages need exactly the patches that they get."""

import functools
import json
import re
import sys

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmswinv2 import hosts
from mmswinv2.hosts.patching import patch, replace, restore_numpy_names
from tests.test_tools.conftest import ROOT
from tests.tool_server import run_program

DISTRIBUTIONS = {
    'onedl-mmengine': 'mmengine', 'onedl-mmcv': 'mmcv', 'mmcv-lite': 'mmcv',
    'onedl-mmdetection': 'mmdet', 'onedl-mmsegmentation': 'mmseg', 'mmsegmentation': 'mmseg',
    'mmaction2': 'mmaction', 'onedl-mmpretrain': 'mmpretrain',
}  # fmt: skip


NEEDED = """
import json
from mmswinv2 import hosts
print(json.dumps({patch.name: patch.needed() for patch in hosts.PATCHES}))
"""


def in_a_new_process(*command):
    """The JSON in the last line that a Python command prints."""
    run = run_program([sys.executable, '-W', 'ignore', *command], cwd=ROOT).succeeded()
    print(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def faults():
    """Name of a patch to whether its fault occurs here without any patch."""
    return in_a_new_process('tests/test_hosts/probes.py')


@pytest.fixture(scope='module')
def needed():
    """Name of a patch to whether it would be applied here."""
    return in_a_new_process('-c', NEEDED)


def pinned():
    """Package to its versions in our environments."""
    found = {}
    for file in (ROOT / 'requirements').glob('*.txt'):
        for line in file.read_text().splitlines():
            line = line.partition('#')[0].strip()
            if '==' in line:
                pin = Requirement(line)
                name = DISTRIBUTIONS.get(pin.name, pin.name)
                found.setdefault(name, set()).add(next(iter(pin.specifier)).version)
    return found


@pytest.mark.parametrize('entry', hosts.PATCHES, ids=lambda p: p.name)
def test_what_is_installed_needs_what_it_gets(entry, faults, needed):
    if entry.name not in faults:
        pytest.skip(f'{entry.package} is not installed')
    assert needed[entry.name] == faults[entry.name]


@pytest.mark.parametrize('entry', hosts.PATCHES, ids=lambda p: p.name)
def test_one_of_our_environments_needs_it(entry):
    versions = pinned()[entry.package]
    assert any(SpecifierSet(entry.versions).contains(version) for version in versions)


def test_the_documentation_lists_them():
    text = (ROOT / 'docs/compatibility.md').read_text()
    rows = re.findall(r'^\| ([^|]+) \| `(\w+)` \| `([^|`]+)` \|', text, re.MULTILINE)
    assert sorted(rows) == sorted((p.name, p.package, p.versions) for p in hosts.PATCHES)


class Greeter:
    def greet(self):
        return 'hello'


def make_louder():
    @replace(Greeter, 'greet')
    def louder(greet, self):
        return greet(self) + '!'


def test_a_patch_is_made_once_and_only_where_it_is_needed(monkeypatch):
    monkeypatch.setattr(Greeter, 'greet', Greeter.greet)
    patch('pytest', '<1')(make_louder).apply()
    patch('pytest', '>=1', lambda: False)(make_louder).apply()
    patch('no_such_package', '>=0')(make_louder).apply()
    assert Greeter().greet() == 'hello'
    for _ in range(2):
        patch('pytest', '>=1')(make_louder).apply()
    assert Greeter().greet() == 'hello!'


def test_what_others_have_wrapped_is_patched_all_the_same(monkeypatch):
    original = Greeter.greet
    foreign = functools.wraps(original)(lambda self: original(self))
    monkeypatch.setattr(Greeter, 'greet', foreign)
    make_louder()
    assert Greeter().greet() == 'hello!'


def test_two_functions_replace_one_method(monkeypatch):
    monkeypatch.setattr(Greeter, 'greet', Greeter.greet)
    for _ in range(2):
        make_louder()

        @replace(Greeter, 'greet')
        def politely(greet, self):
            return f'{greet(self)} sir'

    assert Greeter().greet() == 'hello! sir'


def test_one_function_replaces_several(monkeypatch):
    monkeypatch.setattr(Greeter, 'greet', Greeter.greet)
    monkeypatch.setattr(Greeter, 'leave', lambda self: 'bye', raising=False)
    other = type('Other', (), dict(greet=lambda self: 'good day', leave=lambda self: 'farewell'))
    heir = type('Heir', (Greeter,), {})  # has the replaced method already

    @replace((other, Greeter, heir), 'greet', 'leave')
    def twice(method, self):
        return f'{method(self)} {method(self)}'

    assert (other().greet(), other().leave()) == ('good day good day', 'farewell farewell')
    assert (heir().greet(), heir().leave()) == ('hello hello', 'bye bye')


def test_names_of_numpy_that_are_gone_and_all_others(monkeypatch, tmp_path):
    (tmp_path / 'uses_numpy.py').write_text('import numpy as np')
    monkeypatch.syspath_prepend(tmp_path)
    restore_numpy_names('uses_numpy', 'no_such_module')
    restored = sys.modules['uses_numpy'].np
    assert (restored.float, restored.Inf, restored.ones) == (float, np.inf, np.ones)
    monkeypatch.setattr(np, '__getattr__', str)  # imports modules when they are asked for
    assert restored.module == 'module'
