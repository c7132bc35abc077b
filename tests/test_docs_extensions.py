"""Extensions of the documentation site: conversion of repository links, and recipe pages."""

import sys

import pytest
import yaml

from tests.test_tools.conftest import ROOT

URL = 'https://example.org/x'


@pytest.fixture(scope='module')
def extension():
    """The modules of docs/_ext, by name."""
    pytest.importorskip('docutils', reason='docutils is in requirements/docs.txt')
    import importlib

    sys.path.insert(0, str(ROOT / 'docs/_ext'))
    yield importlib.import_module
    sys.path.remove(str(ROOT / 'docs/_ext'))


@pytest.mark.parametrize(
    ('text', 'file', 'url', 'expected'),
    [
        ('[a](data.md#coco)', 'docs/swap.md', '', '[a](/data.md#coco)'),
        ('[a](../swap.md)', 'docs/how_to/train.md', '', '[a](/swap.md)'),
        ('[a](../CHANGELOG.md)', 'docs/swap.md', '', '[a](/changelog.md)'),
        ('[a](docs/data.md)', 'CONTRIBUTING.md', '', '[a](/data.md)'),
        ('[a](../README.md#predict)', 'docs/swap.md', '', '[a](/index.md)'),
        ('[`a b`](../setup.py)', 'docs/swap.md', '', '`a b`'),
        ('[a](../setup.py)', 'docs/swap.md', URL, f'[a]({URL}/blob/main/setup.py)'),
        ('[a](../tools)', 'docs/swap.md', URL, f'[a]({URL}/tree/main/tools)'),
        ('[a](x.py)', 'configs/video/README.md', URL, f'[a]({URL}/blob/main/configs/video/x.py)'),
        ('[a](#here) [b](https://a.b)', 'docs/swap.md', '', '[a](#here) [b](https://a.b)'),
        ('`[a](../setup.py)`', 'docs/swap.md', '', '`[a](../setup.py)`'),
        ('```sh\n[a](../setup.py)\n```\n', 'docs/swap.md', '', '```sh\n[a](../setup.py)\n```\n'),
    ],
    ids=str,
)
def test_links(text, file, url, expected, extension):
    repository = extension('repository')
    pages = repository.shown_files(ROOT / 'docs')
    assert repository.with_links(text, file, pages, url) == expected


@pytest.mark.parametrize('task', ['detection', 'segmentation', 'pretraining'])
def test_tables_have_every_recipe_and_every_figure(task, extension):
    head, _, *rows = list(extension('recipes').table(task, lambda config: None))
    models = yaml.safe_load((ROOT / f'configs/{task}/metafile.yml').read_text())['Models']
    assert len(rows) == len(models)
    for row, model in zip(rows, models, strict=True):
        assert f'`{model["Name"]}`' in row and row.count('|') == head.count('|')
        for key, value in model.get('Metadata', {}).items():
            if key.endswith('(paper)'):
                assert f' {value} (paper) ' in row
