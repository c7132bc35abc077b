"""`mmswinv2 doctor`: what it reports as broken, and in which environments."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from mmswinv2.cli import cuda, installation
from mmswinv2.hosts.patching import DISTRIBUTIONS
from tests.test_tools.conftest import ROOT
from tests.tool_server import run_program

SITE = Path(sysconfig.get_path('purelib'))


def states(text):
    lines = re.findall(r'^(ok|note|absent|broken) +(.{20})', text, re.M)
    return {name.strip(): state for state, name in lines}


def program(folder, name, text):
    """Write a program that prints a text."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(0o755)


def only(findings):
    (finding,) = findings
    return finding


@pytest.fixture(scope='module')
def without_hosts(tmp_path_factory):
    """An environment with the packages of this one except mmdet, mmseg, mmaction2 and pytest."""
    folder = tmp_path_factory.mktemp('own') / 'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    left_out = re.compile(r'(onedl_)?mm(det|seg|action|pretrain)|pytest|__editable__.*mmswinv2')
    for entry in SITE.iterdir():
        if not left_out.match(entry.name):
            (site / entry.name).symlink_to(entry)
    return folder


def run(python, *options, **env):
    done = run_program(
        [python, '-W', 'ignore', '-m', 'mmswinv2', 'doctor', *options],
        cwd=ROOT,
        env={'PYTHONPATH': str(ROOT), **env},
    )
    assert 'Traceback' not in done.stderr, done.stderr
    return done


def test_a_checkout_is_judged_with_its_pins(tool):
    done = tool('misc/check_install.py', '--development')
    found = states(done.stdout)
    assert {'mmdet', 'torch', 'attention', 'operators on CPU'} <= set(found)
    assert found['pins'] == 'ok', done.stdout
    assert done.returncode == 0 and 'everything needed works' in done.stdout
    assert '\x1b' not in done.stdout  # no colors outside a terminal


REPORT = """
from mmswinv2.cli.doctor import OK, Finding, report
from mmswinv2.errors import report_user_errors
with report_user_errors():
    report(Finding('a', OK, 'b') for _ in range(9))
"""


def test_a_reader_that_has_ended_is_nothing_broken():
    """The status 1 would say so."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, 'w') as pipe:
        done = subprocess.run(
            [sys.executable, '-c', REPORT], stdout=pipe, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (141, '')


def test_an_environment_without_any_host_is_broken(without_hosts):
    done = run(without_hosts / 'bin/python')
    found = states(done.stdout)
    assert done.returncode == 1 and found['hosts'] == 'broken'
    assert found['mmdet'] == found['mmseg'] == found['mmaction'] == 'absent'
    assert found['operators on CPU'] == found['attention'] == 'ok'
    assert 'pins' not in found and 'ruff' not in done.stdout
    install = rf'mend it: {without_hosts}/bin/python -m pip install (onedl-mmdetection|mmdet)$'
    assert re.search(install, done.stdout, re.M)


def test_the_pins_are_judged_where_they_are_asked_for(without_hosts, monkeypatch):
    monkeypatch.setattr(sys, 'prefix', str(without_hosts))
    assert not installation.is_development()
    (without_hosts / '.installed').touch()  # as `make install` leaves it
    assert installation.is_development()
    (without_hosts / '.installed').unlink()


def test_two_packages_of_one_module(tmp_path, monkeypatch):
    for name in ('onedl_mmdetection', 'mmdet'):
        (folder := tmp_path / f'{name}-9.9.dist-info').mkdir()
        (folder / 'METADATA').write_text(f'Name: {name.replace("_", "-")}\nVersion: 9.9\n')
    monkeypatch.syspath_prepend(tmp_path)
    finding = installation._check_module('mmdet', DISTRIBUTIONS['mmdet'])
    assert finding.state == 'broken' and 'uninstall -y onedl-mmdetection mmdet' in finding.remedy


def test_a_package_that_refuses_the_others(tmp_path, monkeypatch):
    (tmp_path / 'refuses.py').write_text("assert False, 'MMCV==2.3.6 is used but incompatible'")
    monkeypatch.syspath_prepend(tmp_path)
    finding = installation._check_module('refuses', ('refuses',))
    assert finding.state == 'broken' and 'MMCV==2.3.6 is used but incompatible' in finding.text
    assert finding.remedy.endswith('install --upgrade refuses')


@pytest.mark.parametrize('installed', ['mmcv', 'onedl-mmcv'])
def test_the_versions_that_a_host_accepts_are_installed(installed, tmp_path, monkeypatch):
    text = 'MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'
    (tmp_path / 'refuses_mmcv.py').write_text(f'assert False, {text!r}')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        installation,
        '_installed',
        lambda names: dict.fromkeys({installed, 'pip'} & {*names}, '2.2.0'),
    )
    remedy = installation._check_module('refuses_mmcv', ('refuses_mmcv',)).remedy
    own = '"mmcv>=2.0.0rc4,<2.2.0"' if installed == 'mmcv' else '--upgrade refuses_mmcv'
    assert remedy.endswith(f'install {own}') or remedy.endswith(f'--no-build-isolation {own}')


def test_operators_of_another_build(monkeypatch):
    import mmcv.ops

    monkeypatch.setattr(mmcv.ops, 'nms', lambda boxes, scores, **_: (boxes, torch.arange(3)))
    finding = only(installation.check_operators())
    assert finding.state == 'broken' and 'instead of [0, 2]' in finding.text
    assert finding.remedy.count('-m pip') == 3 and '--no-build-isolation' in finding.remedy


def test_a_torch_that_mmcv_does_not_compile_against(monkeypatch):
    names = ('no-such-mmcv',)
    known = installation._check_module('no_such_mmcv', names).remedy
    assert known.startswith('MMCV_WITH_OPS=1 ') and 'torch' not in known
    monkeypatch.setattr(torch, '__version__', '2.14.1+cu130')
    remedy = installation._check_module('no_such_mmcv', names).remedy
    assert remedy == f'{sys.executable} -m pip install "torch<2.14"; {known}'


def test_environments_of_uv_have_no_pip(monkeypatch):
    there = installation._installed
    monkeypatch.setattr(
        installation, '_installed', lambda names: {} if 'pip' in names else there(names)
    )
    monkeypatch.setattr(installation, 'run_operators', lambda device: 1 / 0)
    python = f'--python {sys.executable}'
    first, second, third = only(installation.check_operators()).remedy.split('; ')
    name = next(iter(there(DISTRIBUTIONS['mmcv'])))
    assert first == f'uv pip uninstall {python} -y {name}'
    assert second == f'uv cache clean {name.replace("-", "_")}'
    assert third.startswith(f'MMCV_WITH_OPS=1 uv pip install {python} -v --no-build-isolation')


@pytest.mark.skipif(torch.version.cuda is not None, reason='for a torch without CUDA')
def test_a_driver_and_a_torch_without_cuda(tmp_path, monkeypatch):
    program(tmp_path, 'nvidia-smi', 'NVIDIA H100, 575.57.08\nCUDA Version: 12.9')
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    finding = only(cuda.check_driver())
    assert finding.state == 'broken' and 'H100, driver 575.57.08' not in finding.remedy
    assert 'for CUDA up to 12.9' in finding.text and 'build without CUDA' in finding.text


def test_no_driver(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(cuda, 'has_card', lambda: False)
    assert only(cuda.check_driver()).state in ('absent', 'note')
    monkeypatch.setattr(cuda, 'has_card', lambda: True)
    finding = only(cuda.check_driver())
    assert finding.state == 'note'
    assert 'no driver' in finding.text and 'ubuntu-drivers install' in finding.remedy


def test_a_gpu_that_torch_uses_without_nvidia_smi(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(cuda, 'has_card', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Orin')
    finding = only(cuda.check_driver())
    assert (finding.state, finding.text) == ('ok', 'Orin; there is no nvidia-smi')


@pytest.mark.parametrize('error', ["ImportError('undefined symbol')", "OSError('libcublas.so')"])
def test_a_torch_that_cannot_be_imported(tmp_path, error):
    for name in ('torch.py', 'rich.py'):  # both are missing in an environment without packages
        (tmp_path / name).write_text(f'raise {error}')
    done = run(sys.executable, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    assert done.returncode == 1 and states(done.stdout)['torch'] == 'broken'
    assert f'{error.split("(")[0]}: ' in done.stdout and '"torch>=2.6,<2.14"' in done.stdout


@pytest.mark.parametrize(
    ('vendor', 'kind', 'wanted'),
    [('0x10de', '0x030200', True), ('0x10de', '0x040300', False), ('0x8086', '0x030000', False)],
    ids=['card', 'sound of a card', 'of another maker'],
)
def test_cards_are_found_without_a_driver(tmp_path, vendor, kind, wanted):
    (tmp_path / 'gone').mkdir()
    (tmp_path / '0000:00:02.0').mkdir()
    (tmp_path / '0000:00:02.0/vendor').write_text(f'{vendor}\n')
    (tmp_path / '0000:00:02.0/class').write_text(f'{kind}\n')
    assert cuda.has_card(tmp_path) is wanted
    assert not cuda.has_card(tmp_path / 'no such folder')


def test_nvcc_is_read_and_compared(tmp_path, monkeypatch):
    import torch.utils.cpp_extension

    (tmp_path / 'bin').mkdir()
    program(tmp_path / 'bin', 'nvcc', 'Cuda compilation tools, release 12.4, V12.4.131')
    monkeypatch.setattr(torch.utils.cpp_extension, 'CUDA_HOME', str(tmp_path))
    found = cuda.compiler_of_cuda()
    assert found == (f'{tmp_path}/bin/nvcc', '12.4')
    assert cuda.compare_nvcc('12.8', found).state == 'ok'
    other = cuda.compare_nvcc('13.0', found)
    assert other.state == 'note' and 'cuda-toolkit-13-0 ' in other.remedy
    assert cuda.compare_nvcc('13.0', None).state == 'absent'
    assert cuda.compare_nvcc(None, found).state == 'absent'


def test_headers_of_cuda_are_looked_for(tmp_path, monkeypatch):
    """The package `cuda-nvcc` lacks headers of libraries; torch's wheels contain them."""
    import torch.utils.cpp_extension

    (tmp_path / 'bin').mkdir()
    program(tmp_path / 'bin', 'nvcc', 'Cuda compilation tools, release 13.0, V13.0.88')
    monkeypatch.setattr(torch.utils.cpp_extension, 'CUDA_HOME', str(tmp_path))
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(tmp_path / 'site'))
    finding = only(cuda.check_nvcc())
    assert finding.state == 'note' and 'lacks the headers of libraries' in finding.text
    assert finding.remedy == 'sudo apt install cuda-toolkit-13-0'
    (headers := tmp_path / 'site/nvidia/cu13/include').mkdir(parents=True)
    assert only(cuda.check_nvcc()).remedy.startswith(f'CPATH={headers} while mmcv is compiled')
    monkeypatch.setenv('CPATH', str(headers))
    (headers / 'cusparse.h').touch()
    assert only(cuda.check_nvcc()).state == 'ok'
    monkeypatch.delenv('CPATH')
    assert only(cuda.check_nvcc()).state == 'note'
    for folder in ('targets/x86_64-linux/include', 'include'):  # conda's, and NVIDIA's own
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'cusparse.h').touch()
        assert only(cuda.check_nvcc()).state == 'ok'
        (tmp_path / folder / 'cusparse.h').unlink()


def test_pins_that_are_not_there(monkeypatch):
    monkeypatch.setattr(installation, 'pins', lambda stack: {'torch': '0.1', 'nowhere': '1.0'})
    finding = only(installation.check_pins())
    assert finding.state == 'broken' and 'nowhere missing instead of 1.0' in finding.text
    assert finding.remedy.startswith('make -B')


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab', 'peers'])
def test_pins_of_all_stacks_are_read(stack):
    assert {'torch', 'numpy', 'pytest'} <= set(installation.pins(stack))


def test_an_opencv_without_its_files(tmp_path, monkeypatch):
    """As the removal of opencv-python leaves opencv-python-headless."""
    (tmp_path / 'cv2').mkdir()
    (tmp_path / 'cv2/__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'cv2')
    first = next(installation.check_decoders())
    assert first.state == installation.BROKEN and "no attribute '__version__'" in first.text
    assert first.remedy.endswith('--force-reinstall --no-deps opencv-python-headless')
    # mmcv, which needs it, is not to be compiled again
    done = run(sys.executable, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    assert done.returncode == 1 and done.stdout.count('mend it:') == 1
