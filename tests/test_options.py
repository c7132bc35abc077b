"""Misspelled options and choices get suggestions; messages use the command's own name."""

import sys

import pytest

import mmswinv2
from mmswinv2 import cli
from mmswinv2.cli import predict
from mmswinv2.options import ArgumentParser, command_line
from tests.test_tools.conftest import ROOT, tool  # noqa: F401, a fixture


@pytest.fixture
def parser():
    parser = ArgumentParser('prog')
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    parser.add_argument('--work-days', type=int)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'])
    return parser


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ('c.py --work-dri x', '--work-dri is no option (close to it: --work-dir, --work-days)'),
        ('--work-dri=x', 'required: config; --work-dri is no option (close to it: --work-dir'),
        ('c.py -work-dir x', '-work-dir is no option (close to it: --work-dir'),
        ('c.py --launcher pytroch', '(close to it: pytorch)'),
    ],
)
def test_hints(parser, capsys, given, words):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(given.split())
    told = capsys.readouterr().err
    assert end.value.code == 2 and words in told and told.startswith('usage: prog')


@pytest.mark.parametrize(
    'given',
    ['c.py --work-d x', 'c.py --work-days -9x', 'c.py --xyz -- --work-dri', 'c.py --launcher x',
     'c.py --shap 3'],
)  # fmt: skip
def test_no_hints_where_nothing_is_close(parser, capsys, given):
    with pytest.raises(SystemExit):
        parser.parse_args(given.split())
    told = capsys.readouterr().err
    assert 'prog: error: ' in told and 'is no option' not in told and 'close to it' not in told


def test_what_is_right_is_read(parser):
    args = parser.parse_args(['c.py', '--work-di', 'x', '--work-day', '-9'])
    assert (args.work_dir, args.work_days) == ('x', -9)


def test_commands_and_scripts_have_it(tool, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        predict.main(['config.py', 'a.pth', 'a.jpg', '--out-dri', 'x'])
    assert '--out-dri is no option (close to it: --out-dir)' in capsys.readouterr().err
    run = tool('train.py', '--work-dri', 'x')
    assert run.returncode == 2 and '(close to it: --work-dir' in run.stderr
    plain = [
        str(path.relative_to(ROOT))
        for folder in ('tools', 'mmswinv2/cli')
        for path in (ROOT / folder).rglob('*.py')
        if 'argparse.ArgumentParser(' in path.read_text()
    ]
    assert plain == []


def test_version_and_help(capsys):
    cli.main(['--version'])
    assert capsys.readouterr().out == f'mmswinv2 {mmswinv2.__version__}\n'
    with pytest.raises(SystemExit) as end:
        cli.main(['help', 'predict'])
    assert end.value.code == 0 and '--max-frames' in capsys.readouterr().out


def test_commands_that_are_scripts_go_by_their_names(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmswinv2', 'train', '--help'])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0 and capsys.readouterr().out.startswith('usage: mmswinv2 train [-h]')


def test_command_lines_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['my tools/train.py', 'a b.py', '--cfg-options', 'x=[1,2]'])
    assert command_line() == "'my tools/train.py' 'a b.py' --cfg-options 'x=[1,2]'"
