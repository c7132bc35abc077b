"""Misspelled options and choices get suggestions; messages use the command's own name."""

import re
import sys

import pytest
from mmengine.config import DictAction

import mmswinv2
from mmswinv2 import cli
from mmswinv2.cli import predict
from mmswinv2.errors import UserError
from mmswinv2.options import (
    ArgumentParser,
    add_config_options,
    command_line,
    parse_value,
)
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


def test_commands_go_by_their_names(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmswinv2', 'train', '--help'])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0 and capsys.readouterr().out.startswith('usage: mmswinv2 train [-h]')


@pytest.mark.parametrize(
    ('called', 'typed'),
    [
        ('my tools/train.py', "'my tools/train.py'"),
        ('/env/bin/mmswinv2', 'mmswinv2'),
        ('/env/lib/mmswinv2/__main__.py', 'mmswinv2'),
    ],
)
def test_command_lines_can_be_typed_again(called, typed, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [called, 'a b.py', '--cfg-options', 'x=[1,2]'])
    assert command_line() == f"{typed} 'a b.py' --cfg-options 'x=[1,2]'"


def test_scripts_call_commands():
    called = {
        command
        for path in (ROOT / 'tools').rglob('*.py')
        for command in re.findall(r"^    run\('(\w+)'", path.read_text(), re.MULTILINE)
    }
    assert called == {'train', 'test', 'convert', 'doctor', 'estimate', 'flops', 'swap'}
    assert called <= set(cli.COMMANDS)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('/data/my photos (old)', '/data/my photos (old)'),
        ('[traffic light,stop sign]', ['traffic light', 'stop sign']),
        ('[traffic light, "stop sign" ]', ['traffic light', 'stop sign']),
        ("('a b',)", ('a b',)),
        ('[(1, 2.5), [ a b, None]]', [(1, 2.5), ['a b', None]]),
        ('(1,2),(3,4)', [(1, 2), (3, 4)]),
        ('f(x, y)', 'f(x, y)'),
        ('8 x 8', '8 x 8'),
        ("' a '", 'a'),
        ("{'a': 1, 'b': [2, 'c d']}", {'a': 1, 'b': [2, 'c d']}),
        ("[{'type': 'A', 'p': 0.5}, {}]", [{'type': 'A', 'p': 0.5}, {}]),
        (
            "[dict(type='A', p=dict(q=[1, (2,)])), dict()]",
            [{'type': 'A', 'p': {'q': [1, (2,)]}}, {}],
        ),
        ("dict({'a.b': [1]})", {'a.b': [1]}),
        ('dict(type=A)', 'dict(type=A)'),
        ('dict(a=1).b, c', ['dict(a=1).b', 'c']),
        ("{'pattern': '[(}'}", {'pattern': '[(}'}),
        ('{[1]: 2}', '{[1]: 2}'),
        ('{:05}.jpg', '{:05}.jpg'),
        ('{:05}', '{:05}'),
        ('{1, 2}', '{1, 2}'),
        ('{{1}}', '{{1}}'),
        ("{'suffix': ') (1].png'}", {'suffix': ') (1].png'}),
        ("'{'a': [1, 2]}'", {'a': [1, 2]}),
        ("['cat, black', 'dog']", ['cat, black', 'dog']),
        ("('cat, black', ['1', 2])", ('cat, black', ['1', 2])),
        ("'cat, black','dog'", ['cat, black', 'dog']),
        ("['a)', 'b']", ['a)', 'b']),
        (r"['C:\new', 'C:\b']", [r'C:\new', r'C:\b']),
        ('[(1), (2)]', [(1,), (2,)]),
        ('[0x10, 1j, ...]', ['0x10', '1j', '...']),
        *(
            (text, text)
            for text in ('C:/a b', 'a=b c', 'photos (1', 'a]', '(a) b (2)', '[x] y [z]')
        ),
    ],
)
def test_spaces_inside_of_values_stay(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    'text',
    ['8', '-2', '1e-4', 'true', 'False', 'None', 'none', 'x.pth', '', '[]', '()', '1,2,3', '[1,2]',
     '(8,)', '[(1,2),[a,b],c]', "'a'", '"[1,2]"', '[a]', '1,', '[[1,2],[3,4]]', '(True,None)'],
)  # fmt: skip
def test_values_are_what_mmengine_reads(text):
    theirs = DictAction._parse_iterable(text)
    ours = parse_value(text)
    assert ours == theirs and type(ours) is type(theirs)


@pytest.mark.parametrize('text', ['[1,2', '1,2]', '[(1,2])', '(a', 'a,b)'])
def test_brackets_that_do_not_match(text):
    with pytest.raises(ValueError, match='bracket|closed'):
        parse_value(text)
    parser = ArgumentParser()
    add_config_options(parser)
    with pytest.raises(UserError, match=r'--cfg-options k=.*write key=value'):
        parser.parse_args(['--cfg-options', f'k={text}'])


def test_the_home_folder_in_any_option_with_an_equals_sign(parser, monkeypatch):
    """Shells leave the tilde in `--out-dir=~/results`."""
    monkeypatch.setenv('HOME', '/home/someone')
    assert parser.parse_args(['c.py', '--work-dir=~/a=b']).work_dir == '/home/someone/a=b'
    assert parser.parse_args(['~', '--work-dir=a~']).work_dir == 'a~'
    args = predict.parse_args(['a.py', 'a.pth', '*.jpg', '--out-dir=~/x', '--score=0.5'])
    assert (args.out_dir, args.inputs, args.score) == ('/home/someone/x', ['*.jpg'], 0.5)
