"""Command lines: argparse with hints for misspelt options and choices."""

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .errors import nearest

NAME = 'called_as'  # variable in a script that the command `mmswinv2` runs: the command as typed


def _called_as() -> str | None:
    return getattr(sys.modules['__main__'], NAME, None)


def command_line() -> str:
    """The running command as typed: a script, or ``mmswinv2`` with a command."""
    script, *arguments = sys.argv
    return ' '.join((_called_as() or shlex.quote(script), *map(shlex.quote, arguments)))


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with hints; options may be abbreviated, mistakes end with status 2.

    Args:
        prog: name of the program.
        as_written: whether description and epilog keep their line breaks.
        **options: of `argparse.ArgumentParser`.
    """

    _given: Sequence[str] = ()

    def __init__(self, prog: str | None = None, as_written: bool = False, **options: Any) -> None:
        if as_written:
            options['formatter_class'] = argparse.RawDescriptionHelpFormatter
        super().__init__(prog or _called_as(), **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the command line."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += nearest(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        """End the program with usage, message and the names that may have been meant.

        argparse does not name a misspelt option if it finds a required argument missing first.
        """
        known = self._option_string_actions
        options = itertools.takewhile(lambda text: text != '--', self._given)
        for name in dict.fromkeys(text.partition('=')[0] for text in options):
            is_known = any(option.startswith(name) for option in known)
            if name.startswith('-') and not is_known and (hint := nearest(name, known, 0.7)):
                message += f'; {name} is no option{hint}'
        super().error(message)
