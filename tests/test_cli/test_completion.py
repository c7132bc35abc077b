"""Completion of commands and options, in a real shell."""

import re
import shutil
import subprocess

import pytest

from mmswinv2.cli import COMMANDS, SCRIPTS, main
from mmswinv2.cli.completion import completion, options_of

ASK = """{text}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_mmswinv2
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def ask(words):
    """What bash offers for the last word."""
    script = ASK.format(text=completion('bash'), words=words)
    done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, check=True)
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
        ('mmswinv2 train conf', []),  # files are left to the shell
        ('mmswinv2 nothing --a', []),
    ],
)
def test_bash(words, offered):
    assert ask(words) == offered


def test_all_commands_are_offered():
    assert ask("mmswinv2 ''") == sorted(COMMANDS | SCRIPTS)


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_other_shells_read_it(shell):
    if shutil.which(shell) is None:
        pytest.skip(f'{shell} is not installed')
    subprocess.run([shell, '-n'], input=completion(shell), text=True, check=True)


HELP = {name: [['--help']] for name in COMMANDS} | {'convert': [['data', '--help'], ['--help']]}


def options_in(text):
    """What a help lists; a line may begin with a short name."""
    return set(re.findall(r'^ {1,4}(?:-\w(?: \w+)?, )?(--[\w-]+)', text, re.MULTILINE))


@pytest.mark.parametrize('name', sorted(COMMANDS))
def test_options_are_those_of_the_parser(name, tool, capsys):
    told = ''
    for arguments in HELP[name]:
        if name in SCRIPTS and arguments == ['--help']:
            told += tool(SCRIPTS[name][0], '--help').stdout
            continue
        with pytest.raises(SystemExit):
            main([name, *arguments])
        told += capsys.readouterr().out
    assert set(options_of(name)) == options_in(told)
    assert 'example' in told


@pytest.mark.parametrize('name', sorted(SCRIPTS))
def test_options_are_those_of_the_script(name, tool):
    told = tool(SCRIPTS[name][0], '--help').stdout
    assert options_in(told) <= set(options_of(name))
    assert 'example: ' in told
