"""Command lines: argparse with hints for misspelt options, and options that commands share."""

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError, nearest
from .launchers import RANKS
from .option_values import parse_value

STRATEGIES = ('ddp', 'zero1', 'zero2', 'zero3', 'fsdp')  # whose memory can be predicted
_FORM = 'write key=value, with lists as key="[a,b]" or key="(a,b)"'


def command_line() -> str:
    """The running command as typed: a script, or ``mmswinv2`` with a command."""
    script, *arguments = sys.argv
    if Path(script).stem in ('mmswinv2', '__main__'):  # the entry point, or python -m mmswinv2
        script = 'mmswinv2'
    return shlex.join((script, *arguments))


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
        super().__init__(prog, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the command line; a ``~`` that no shell has expanded, as in ``--out=~/a``, is."""
        self._given = [_expanded(text) for text in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(self._given, namespace)

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


def _expanded(text: str) -> str:
    option, equals, value = text.partition('=') if text.startswith('--') else ('', '', text)
    return option + equals + os.path.expanduser(value)


class _ConfigOptions(argparse.Action):
    """Parses ``key=value`` pairs into a dict; raises `UserError` for anything else."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, equals, value = text.partition('=')
            if not (key and equals):
                raise UserError(f'--cfg-options: {text!r} is no key=value; {_FORM}')
            try:
                options[key] = parse_value(value)
            except UserError as error:
                raise UserError(f'--cfg-options {text}: {error}; {_FORM}') from error
        setattr(namespace, self.dest, options)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``config``."""
    parser.add_argument('config', help='config file, or a name such as mmswinv2::detection/...py')


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``checkpoint``, of a whole model."""
    parser.add_argument(
        'checkpoint', help='weights of the whole model: a file, an address or a name'
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape``, the size of the input."""
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        metavar='N',
        help="pixels, H W, or T H W of a video (the config's)",
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_ConfigOptions,
        help='change settings of the config: key=value, nested keys with dots, lists as '
        'key="[a,b]"',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every tool of mmdet, mmseg and mmaction2 has."""
    parser.add_argument(
        '--work-dir',
        help='folder for logs, scores and checkpoints (work_dirs/NAME of the config)',
    )
    add_config_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', *RANKS], default='none',
        help='what started the processes of a distributed run (none)',
    )  # fmt: skip
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='the number of the process on its machine, given by some launchers (0)',
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command that predicts: the model, and how it is run and drawn."""
    add_config(parser)
    add_checkpoint(parser)
    parser.add_argument(
        '--score', type=float, default=0.3, help='least score of a box, 0 to 1 (0.3)'
    )
    parser.add_argument('--device', help='such as cuda:1 or cpu (a GPU where there is one)')
    parser.add_argument(
        '--amp', action='store_true', help='compute in bfloat16, or float16 on older GPUs (float32)'
    )
    add_config_options(parser)
