"""Completion of commands and options in a shell.

Options are taken from the source of the commands, so that nothing slow is imported.
"""

import argparse
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import options
from . import COMMANDS

_SHELLS = {
    'bash': """\
_mmswinv2() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=
  case $COMP_CWORD:${{COMP_WORDS[1]}} in
    1:*) words='{commands}' ;;
{cases}
  esac
  if [ "$COMP_CWORD" = 1 ] || [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=()
  fi
}}
complete -o default -F _mmswinv2 mmswinv2
""",
    'zsh': """\
#compdef mmswinv2
_mmswinv2() {{
  local words_of_it=
  case $CURRENT:$words[2] in
    2:*) compadd {commands}; return ;;
{cases}
  esac
  if [[ $words[CURRENT] == -* ]]; then compadd -- ${{=words_of_it}}; else _files; fi
}}
compdef _mmswinv2 mmswinv2
""",
    'tcsh': "complete mmswinv2 'p/1/({commands})/' 'c/--/({options})/' 'p/*/f/'\n",
}


def options_of(command: str) -> list[str]:
    """The options of a command."""
    return sorted({'--help', *_options(Path(__file__).with_name(f'{command}.py').read_text())})


def _options(source: str) -> Iterator[str]:
    """The options that a function or file adds to a parser, by itself or by `mmswinv2.options`."""
    for call in re.findall(r"add_argument\(\s*((?:'[\w-]+',?\s*)+)", source):
        yield from re.findall(r"'(--[\w-]+)'", call)
    for name in re.findall(r'^ +(add_\w+)\(parser\)', source, re.MULTILINE):
        yield from _options(inspect.getsource(getattr(options, name)))


def completion(shell: str) -> str:
    """The text that bash, zsh or tcsh must read to complete the command ``mmswinv2``."""
    by_command = {name: options_of(name) for name in COMMANDS}
    variable = 'words' if shell == 'bash' else 'words_of_it'
    cases = [
        f"    *:{name}) {variable}='{' '.join(found)}' ;;" for name, found in by_command.items()
    ]
    every = sorted({option for found in by_command.values() for option in found})
    return _SHELLS[shell].format(
        commands=' '.join(COMMANDS),
        cases='\n'.join(cases),
        options=' '.join(option[2:] for option in every),
    )


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = options.ArgumentParser(
        'mmswinv2 completion',
        description='Print what a shell must read to complete commands and options.',
        epilog='example, in ~/.bashrc: eval "$(mmswinv2 completion bash)"',
    )
    parser.add_argument('shell', choices=tuple(_SHELLS))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 completion``."""
    print(completion(parse_args(arguments).shell), end='')
