"""Completion of commands and options, in a real shell."""

import shutil
import subprocess

import pytest

from mmswinv2.cli import COMMANDS, SCRIPTS
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


def test_options_are_those_of_the_parser(tool):
    told = tool('train.py', '--help').stdout
    assert {option for option in options_of('train') if option not in told} == set()
    assert {'--work-dir', '--amp', '--class-map', '--launcher'} <= set(options_of('train'))
