"""Packaging of mmswinv2; the tools' settings are in pyproject.toml."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
REPOSITORY = os.environ.get('REPOSITORY_URL', '').rstrip('/')  # the release workflow knows it
MIM_FILES = ('configs', 'tools', 'model-index.yml')


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


def version() -> str:
    return re.search(r"^__version__ = '(.+)'$", read('mmswinv2/__init__.py'), re.MULTILINE)[1]


def readme(url: str) -> str:
    """README.md for a place away from the repository: no link in it leads into that place.

    Args:
        url: of the repository; links then go to the files of this version. Without it their words
            stay, and pictures go.
    """

    def outside(match: re.Match) -> str:
        picture, words, target = match.groups()
        if re.match('https?://', target):
            return match[0]
        if not url:
            return '' if picture else words
        return f'{picture}[{words}]({url}/{"raw" if picture else "blob"}/v{version()}/{target})'

    return re.sub(r'(!?)\[([^]]*)\]\(([^)]+)\)', outside, read('README.md'))


def requirements(name: str) -> list[str]:
    lines = read(f'requirements/{name}.txt').splitlines()
    return [line for line in (line.partition('#')[0].strip() for line in lines) if line]


def add_mim_extension(package: Path, link: bool) -> None:
    """Put what `mim` looks for into PACKAGE/.mim, as relative links or as copies."""
    mim = package / '.mim'
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir(parents=True)
    for name in MIM_FILES:
        source = ROOT / name
        if link:
            (mim / name).symlink_to(Path('../..') / name)
        elif source.is_dir():
            shutil.copytree(source, mim / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, mim / name)


class BuildPy(build_py):
    """Links beside the sources for `pip install -e`, copies inside a wheel."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            add_mim_extension(ROOT / 'mmswinv2', link=True)
        else:
            add_mim_extension(Path(self.build_lib) / 'mmswinv2', link=False)


# The maintained forks. An environment with OpenMMLab's own packages needs none of these extras.
ENGINE = ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6']

setup(
    name='mmswinv2',
    version=version(),
    description='Swin Transformer V2 for OpenMMLab: detection, segmentation, video and more',
    url=REPOSITORY,
    long_description=readme(REPOSITORY),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    classifiers=[
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['mmswinv2', 'mmswinv2.*']),
    package_data={'mmswinv2': ['py.typed', 'ops/triton/blocks.json', 'cli/*.j2']},
    include_package_data=False,
    cmdclass={'build_py': BuildPy},
    entry_points={'console_scripts': ['mmswinv2 = mmswinv2.cli:main']},
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        'det': [*ENGINE, 'onedl-mmdetection>=3.5.1', 'faster-coco-eval>=1.8'],
        'seg': [*ENGINE, 'onedl-mmsegmentation>=1.4.2'],
        # mmaction2 itself goes in by `pip install --no-deps mmaction2==1.2.0`: it asks for decord
        # and opencv-contrib-python, which stand in the way of decord2 and opencv-python.
        'video': [*ENGINE, *requirements('video')],
        'pretrain': [*ENGINE, 'onedl-mmpretrain>=1.3.6', 'torchvision'],
        'htc': requirements('htc'),
        'scale': requirements('scale'),
        'images': requirements('images'),
        'ui': requirements('ui'),
        'convert': requirements('convert'),
        'tests': requirements('tests'),
        'mim': requirements('mminstall'),
        'docs': requirements('docs'),
    },
    zip_safe=False,
)
