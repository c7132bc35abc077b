"""Completion of commands and options in a shell.

Options are taken from the text of the scripts, so that nothing slow is imported.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..options import ArgumentParser
from . import COMMANDS, SCRIPTS, script

_PACKAGE = Path(__file__).resolve().parents[1]
# functions that add options of their own to a parser, and the modules that have them
_SHARED = {
    'add_common_arguments': 'engine/launch.py',
    'add_config_options': 'engine/settings.py',
    'add_model_options': 'cli/model_options.py',
}
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
    """The options of a command, which may have both a module and a script."""
    found = {'--help'}
    if command in COMMANDS:
        found |= _options(_PACKAGE / f'cli/{COMMANDS[command][0].lstrip(".")}.py')
    if command in SCRIPTS:
        found |= _options(script(command))
    return sorted(found)


def _options(path: Path) -> set[str]:
    text = path.read_text(encoding='utf-8')
    calls = re.findall(r"add_argument\(\s*((?:'[\w-]+',?\s*)+)", text)
    found = {name for call in calls for name in re.findall(r"'(--[\w-]+)'", call)}
    for function, file in _SHARED.items():
        if f'{function}(' in text and (_PACKAGE / file) != path:
            found |= _options(_PACKAGE / file)
    return found


def completion(shell: str) -> str:
    """The text that a shell must read to complete the command ``mmswinv2``.

    Args:
        shell: ``'bash'``, ``'zsh'`` or ``'tcsh'``.
    """
    names = sorted(COMMANDS | SCRIPTS)
    options = {name: options_of(name) for name in names}
    variable = 'words' if shell == 'bash' else 'words_of_it'
    cases = [f"    *:{name}) {variable}='{' '.join(options[name])}' ;;" for name in names]
    every = sorted({option for found in options.values() for option in found})
    return _SHELLS[shell].format(
        commands=' '.join(names),
        cases='\n'.join(cases),
        options=' '.join(option[2:] for option in every),
    )


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 completion',
        description='Print what a shell must read to complete commands and options.',
        epilog='example, in ~/.bashrc: eval "$(mmswinv2 completion bash)"',
    )
    parser.add_argument('shell', choices=tuple(_SHELLS))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 completion``."""
    print(completion(parse_args(arguments).shell), end='')
