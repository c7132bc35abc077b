"""The table of patches: installed packages need exactly the patches that they get."""

import functools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmswinv2 import hosts
from mmswinv2.hosts.patching import patch, replace, restore_numpy_names
from tests.test_tools.conftest import ROOT

# name, package, versions of all patches; must be kept up to date with the table
TABLE = [
    ('Reading a checkpoint runs no code from the file', 'mmengine', '>=0.10.8'),
    (
        'Reading a file or an address runs no code from it, nor the config that it holds',
        'mmengine',
        '>=0.7',
    ),
    ('Reading data from a pickle or a YAML file runs no code from it', 'mmengine', '>=0.7'),
    ('Errors for a data set without samples say where it looked for them', 'mmengine', '>=0.7'),
    (
        'Folders that systems write, such as __MACOSX, are no classes, and their files no images',
        'mmengine',
        '>=0.7',
    ),
    ('An inferencer runs no config that stands in a file of weights', 'mmengine', '>=0.7'),
    (
        'Weights of any format are loaded with one report, and refused if next to nothing fits',
        'mmengine',
        '>=0.10',
    ),
    (
        'Workers of a training by iterations start after hooks have checked their data set',
        'mmengine',
        '<0.10.8',
    ),
    ('Images of any number of channels can be normalised by channel', 'mmengine', '>=0.7'),
    (
        'Images of any number of channels can be drawn on, as their first three or as grey',
        'mmengine',
        '>=0.7',
    ),
    ('Drawing a mask takes the time of its box, not of the whole image', 'mmengine', '>=0.7'),
    (
        'Configs of mmswinv2 can be a base by their prefix, as those of the hosts can',
        'mmengine',
        '>=0.7',
    ),
    (
        'A config that is logged and written into every checkpoint is formatted once',
        'mmengine',
        '>=0.8',
    ),
    (
        'Errors for samples that lack what a step of a pipeline needs name both',
        'mmengine',
        '>=0.7',
    ),
    (
        'Optimizers of DeepSpeed are registered without the one-bit ones, which are gone',
        'deepspeed',
        '>=0.13.2',
    ),
    ('Errors for images that cannot be read name the file', 'mmcv', '>=2'),
    ('Strips keep a pixel of their shorter side when they are made smaller', 'mmcv', '>=2'),
    ('Names of classes can be written on images that are views on their memory', 'mmseg', '<1.3'),
    ('Placing the name of a class on an image makes no list of all its pixels', 'mmseg', '>=1.2'),
    ('Reading a volume from a pickle runs no code from it', 'mmseg', '>=1'),
    (
        'Losses take one channel, ignored pixels beside weights of classes, and tensors on a CPU',
        'mmseg',
        '>=1.2',
    ),
    (
        'OCRHead takes the scores of a head whose maps are larger or smaller than its own',
        'mmseg',
        '>=1',
    ),
    (
        'Views of a segmentor with one channel are merged by their probabilities',
        'mmseg',
        '>=1',
    ),
    ('CityscapesMetric deletes no folder that has held files before', 'mmseg', '>=1'),
    ('All pixels of a large image count in its mIoU', 'mmseg', '>=1'),
    (
        'Importing mmaction2 works beside mmcv 2.2 and newer, and without localizers.drn',
        'mmaction',
        '<=1.2.0',
    ),
    (
        'Scores in bfloat16, which NumPy does not know, can be taken by heads of mmaction2',
        'mmaction',
        '>=1',
    ),
    ('Videos can be written by mmaction2 without moviepy', 'mmaction', '>=1'),
    ('Frames in files of more than 8 bits are refused, as images are', 'mmaction', '>=1'),
    ('Hues of clips can be turned either way by ColorJitter', 'mmaction', '>=1'),
    (
        'The mean accuracy of classes is over those that have videos, whatever is predicted',
        'mmaction',
        '>=1',
    ),
    (
        'Skeletons can be cropped by PoseCompact with NumPy 2, which has no np.Inf',
        'mmaction',
        '>=1',
    ),
    ('Videos can be drawn in a test: all clips of a sample, one after another', 'mmaction', '>=1'),
    ('Importing torchvision works without its compiled half', 'torchvision', '>=0'),
    ('Errors for crops larger than their image say which and what to set', 'mmpretrain', '>=1'),
    (
        'Classes of merged views are those of the merged scores, not of the first view',
        'mmpretrain',
        '>=1',
    ),
    (
        'The mean average precision of classes is over those that some image has',
        'mmpretrain',
        '>=1',
    ),
    (
        'Reading CIFAR or lists of tags (RAM) from pickles runs no code from them',
        'mmpretrain',
        '>=1',
    ),
    ('Semantic maps with more values than classes can be drawn', 'mmdet', '>=3'),
    ('Pictures of images with one name in several folders get names of their own', 'mmdet', '>=3'),
    (
        'Data sets can be joined if the first lacks a key of metainfo, as if another one does',
        'mmdet',
        '>=3.1',
    ),
    (
        'Transforms that leave masks or semantic maps behind when they move boxes are refused',
        'mmdet',
        '>=3',
    ),
    ('CachedMixUp moves the masks of an image as far as the image', 'mmdet', '>=3'),
    (
        'BatchSyncRandomResize resizes masks and semantic maps too, and resumes with its size',
        'mmdet',
        '>=3',
    ),
    ('Dynamic R-CNN and DDOD resume with what they have measured for their losses', 'mmdet', '>=3'),
    ('COCO scores are computed by faster-coco-eval where it is installed', 'mmdet', '>=3'),
    (
        'Scores of single classes (classwise) go by their names, whatever the order of their ids',
        'mmdet',
        '>=3',
    ),
    (
        'Recalls of proposals are measured, whatever the number of boxes on each image',
        'mmdet',
        '>=3',
    ),
    (
        'LVIS and YouTube-VIS can be scored with NumPy 1.24 and later, which has no np.float',
        'mmdet',
        '>=3',
    ),
    (
        'Masks of boxes beside their image are empty on CPUs, as they are on GPUs',
        'mmdet',
        '>=3',
    ),
    ('Detectors predict on images that no step of the pipeline has resized', 'mmdet', '>=3'),
    (
        'Boxes, regions and scores are computed in float32 where maps are in bfloat16',
        'mmdet',
        '>=3',
    ),
    ('Reading a hierarchy of classes of Open Images runs no code from it', 'mmdet', '>=3'),
    ('All pixels of a large image count in the mIoU of SemSegMetric', 'mmdet', '>=3.1'),
    (
        'COCO annotations are held to rules when they are read; labels go by the names of classes',
        'mmdet',
        '>=3',
    ),
    ('Masks of several parts can be treated by InstaBoost', 'instaboostfast', '<=0.1.2'),
]
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
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', *command], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
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


def test_the_table_is_whole():
    assert [(p.name, p.package, p.versions) for p in hosts.PATCHES] == TABLE


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
    assert rows == TABLE


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
