import os
import re
import sys
import tarfile
import zipfile

import pytest
import torch
import yaml

from mmswinv2 import __version__
from tests.test_tools.conftest import ROOT
from tests.tool_server import run_program

USE = """
import mmswinv2, os
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
mim = os.path.join(os.path.dirname(mmswinv2.__file__), '.mim')
cfg = Config.fromfile(f'{mim}/configs/detection/mask-rcnn_swinv2-nano_shapes.py')
init_default_scope('mmdet')
print(type(MODELS.build(cfg.model)).__name__, mim)
"""


@pytest.mark.slow
def test_wheel_works_from_another_folder(tmp_path):
    def run(*command, **env):
        env['PYTHONWARNINGS'] = 'ignore'
        return run_program([sys.executable, *command], tmp_path, env).succeeded().stdout

    run('-m', 'build', '--no-isolation', '--outdir', tmp_path / 'dist', ROOT)
    (source,) = (tmp_path / 'dist').glob('*.tar.gz')
    with tarfile.open(source) as archive:
        assert not [name for name in archive.getnames() if '/tests/' in name]
    (wheel,) = (tmp_path / 'dist').glob('*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = (
        'model-index.yml',
        'tools/train.py',
        'tools/dist_train.sh',
        'configs/detection/metafile.yml',
    )
    assert {f'mmswinv2/.mim/{name}' for name in wanted} <= names
    assert 'mmswinv2/py.typed' in names
    assert not [name for name in names if name.startswith('tests/')]

    site = tmp_path / 'site'
    run('-m', 'pip', 'install', '-q', '--no-deps', '--target', site, wheel)
    said = run('-c', USE, PYTHONPATH=str(site)).strip().splitlines()[-1]
    assert said == f'MaskRCNN {site}/mmswinv2/.mim'
    assert '--work-dir' in run(
        site / 'mmswinv2/.mim/tools/train.py', '--help', PYTHONPATH=str(site)
    )


def long_description(**env):
    """The long description in the package's metadata."""
    arguments = ('-W', 'ignore', 'setup.py', '-q', '--long-description')
    command = [*('env', '-u', 'REPOSITORY_URL'), *(f'{k}={v}' for k, v in env.items())]
    return run_program([*command, sys.executable, *arguments], cwd=ROOT).succeeded().stdout


def test_links_of_the_readme_work_away_from_the_repository():
    links = r'\]\(([^)]+)\)'
    written = re.findall(links, (ROOT / 'README.md').read_text())
    inside = [link for link in written if not link.startswith('https://')]
    text = long_description(REPOSITORY_URL='https://example.org/me/mmswinv2/')
    place = f'https://example.org/me/mmswinv2/{{}}/v{__version__}/'
    assert '![boxes and masks' in text and f']({place.format("raw")}docs/demo.jpg)' in text
    found = re.findall(links, text)
    assert len(found) == len(written) and len(inside) > 30
    for link in inside:
        assert place.format('raw' if link.endswith('.jpg') else 'blob') + link in found
        assert (ROOT / link.partition('#')[0]).exists(), link
    alone = long_description()
    assert all(link.startswith('https://') for link in re.findall(links, alone))
    assert 'boxes and masks' not in alone and 'The commands of the picture' in alone


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert citation['cff-version'] == '1.2.0' and citation['authors'] and citation['title']
    assert citation['preferred-citation']['year'] == 2022


@pytest.mark.parametrize('name', ['ci', 'docs', 'release'])
def test_workflows_call_what_there_is(name):
    content = yaml.safe_load((ROOT / f'.github/workflows/{name}.yml').read_text())
    assert content['name'] == name and content[True]  # YAML reads the key `on` as True
    assert content['permissions'] == {'contents': 'read'}
    steps = [step for job in content['jobs'].values() for step in job['steps']]
    assert all(('uses' in step) != ('run' in step) for step in steps)
    makefile = (ROOT / 'Makefile').read_text()
    for step in steps:
        program, *arguments = step.get('run', '').split()[:2] or ['']
        if program == 'make':
            assert f'\n{arguments[0]}:' in makefile


def test_what_publishes_has_no_password_and_few_rights():
    content = yaml.safe_load((ROOT / '.github/workflows/release.yml').read_text())
    assert content['jobs']['publish']['permissions'] == {'id-token': 'write'}
    assert 'secrets' not in (ROOT / '.github/workflows/release.yml').read_text()


def cuda_compiler(*arguments, **env):
    """The error of requirements/install.sh before it compiles mmcv; empty if there is none."""
    venv = os.path.dirname(os.path.dirname(sys.executable))
    command = ['bash', 'requirements/install.sh', '--cuda-compiler', venv, sys.executable]
    done = run_program([*command, *arguments], cwd=ROOT, env=env)
    assert done.returncode == bool(done.stderr)
    return done.stderr


def test_nvcc_is_compared_before_the_compile(tmp_path):
    nvcc = tmp_path / 'nvcc'
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 12.4, V12.4.131"\n')
    nvcc.chmod(0o755)
    env = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', CUDA_HOME='')
    assert cuda_compiler('12.8', **env) == ''
    told = cuda_compiler('13.0', **env)
    assert f'compiled for CUDA 13.0, as torch is, and {nvcc} is that of CUDA 12.4' in told
    assert 'CUDA_HOME=/usr/local/cuda-13.0 make install' in told
    assert 'there is no nvcc' in cuda_compiler('13.0', **env | dict(CUDA_HOME='/nowhere'))


@pytest.mark.skipif(torch.version.cuda is not None, reason='for a torch without CUDA')
def test_cuda_that_this_torch_does_not_have():
    assert 'this torch is a build without it' in cuda_compiler(FORCE_CUDA='1')
    assert cuda_compiler(FORCE_CUDA='0') == ''
