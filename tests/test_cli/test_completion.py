"""Completion of commands and options, in a real shell."""

import re
import shutil
import subprocess
import sys

import pytest

from mmswinv2.cli import _PLACES, COMMANDS, main
from mmswinv2.cli.completion import completion, options_of
from tests.tool_server import run_program

ASK = """{text}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_mmswinv2
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def ask(words):
    """The completions that bash offers for the last word."""
    script = ASK.format(text=completion('bash'), words=words)
    done = run_program(['bash', '-c', script]).succeeded()
    return done.stdout.split()


@pytest.mark.parametrize(
    ('words', 'offered'),
    [
        ('mmswinv2 pre', ['predict']),
        ('mmswinv2 do', ['doctor']),
        ('mmswinv2 train --res', ['--resume']),
        ('mmswinv2 train config.py --cfg', ['--cfg-options']),
        ('mmswinv2 predict --sc', ['--score']),
        ('mmswinv2 doctor --dev', ['--development']),
        ('mmswinv2 train conf', []),  # the shell completes file names
        ('mmswinv2 nothing --a', []),
    ],
)
def test_bash(words, offered):
    assert ask(words) == offered


def test_all_commands_are_offered():
    assert ask("mmswinv2 ''") == sorted(COMMANDS)


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_other_shells_read_it(shell):
    if shutil.which(shell) is None:
        pytest.skip(f'{shell} is not installed')
    subprocess.run([shell, '-n'], input=completion(shell), text=True, check=True)


@pytest.mark.parametrize('name', COMMANDS)
def test_options_are_those_of_the_parser(name, capsys):
    listed = set()
    for words in ([name], [name, 'data']) if name == 'convert' else ([name],):
        with pytest.raises(SystemExit):
            main([*words, '--help'])
        told = capsys.readouterr().out
        assert re.search(r'^example(: |, )', told, re.MULTILINE)
        # a line begins with one name or several
        lines = re.findall(r'^ {1,4}(-.*?)(?:  |$)', told, re.MULTILINE)
        found = re.findall(r'(?:^|, )(--[\w-]+)', '\n'.join(lines), re.MULTILINE)
        listed.update(found)
    assert set(options_of(name)) == listed


def test_options_are_read_before_torch_is_imported():
    """So that help, and the error for a misspelt option, come at once."""
    code = f"""
import contextlib, sys
from mmswinv2.cli import main
for command in {list(COMMANDS)}:
    with contextlib.suppress(SystemExit):
        main([command, '--help'])
    assert 'torch' not in sys.modules, command
"""
    subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.DEVNULL)


def test_the_options_that_errors_speak_of():
    for command, option in _PLACES.items():
        assert ('--out' if option == '-o' else option) in options_of(command)
