"""Command lines: argparse with hints for misspelt options, and options that commands share."""

import argparse
import ast
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import UserError, nearest
from .launchers import RANKS

STRATEGIES = ('ddp', 'zero1', 'zero2', 'zero3', 'fsdp')  # whose memory can be predicted
_FORM = 'write key=value, with lists as key="[a,b]" or key="(a,b)"'
_BRACKETS = {'[': ']', '(': ')', '{': '}'}
_QUOTES = {'"', "'"}


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


def parse_value(text: str) -> Any:
    """Parse a value like ``--cfg-options`` of mmengine, but keep the spaces inside it.

    Text in ``[]``, or with commas, becomes a list, and text in ``()`` a tuple. Numbers, ``True``,
    ``False`` and ``None`` are converted. Surrounding spaces and quotes are removed. What is
    written as in Python is read so: dicts, which mmengine leaves texts, and texts in quotes in a
    list, which it divides at their commas.

    Raises:
        UserError: if brackets do not match.
    """
    given = text.strip()
    text = given.strip('\'"').strip()
    if ',' not in text and not text.startswith((*_BRACKETS, 'dict(')):
        from mmengine.config import DictAction

        return DictAction._parse_int_float_bool(text)
    source = text if text.startswith((*_BRACKETS, 'dict(')) else given
    if (found := _python_value(source)) is not None:
        return found
    items = _divided(text)
    if len(items) > 1 or text.endswith(','):
        return [parse_value(item) for item in items]
    ends = text[:1] + text[-1:]
    if ends not in ('[]', '()'):
        return text
    try:
        inner = _divided(text[1:-1])
    except UserError:  # such as '(a) b (c)'
        return text
    values = map(parse_value, inner)
    return list(values) if ends == '[]' else tuple(values)


def _python_value(source: str) -> dict | list | tuple | None:
    """A dict, or a list or tuple with texts in quotes, as Python writes it; ``None``: it is none.

    Backslashes in lists are of paths of Windows, which Python would read otherwise.
    """
    quoted = _QUOTES & set(source) and '\\' not in source
    if not quoted and not source.startswith(('{', 'dict(')):
        return None
    try:
        found = plain_value(ast.parse(f'[{source}]', mode='eval').body)
    except (ValueError, SyntaxError, TypeError):  # TypeError: a list as a key
        return None
    if len(found) > 1:
        return found
    one = isinstance(found[0], (dict, list, tuple)) and not source.endswith(',')
    return found[0] if one else None


class _Plain(ast.NodeTransformer):
    """Turns ``dict(...)``, ``inf`` and ``nan`` of a config into literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict':
            return node  # literal_eval rejects it
        if node.args:  # mmengine writes dict({'a.b': 1})
            (only,) = node.args
            return only if isinstance(only, ast.Dict) and not node.keywords else node
        names = (k.arg for k in node.keywords)  # None for unpacking with **
        return ast.Dict(
            [ast.Constant(n) if n else None for n in names], [k.value for k in node.keywords]
        )

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ('inf', 'nan') else node


def plain_value(node: ast.expr) -> Any:
    """The value of an expression of plain values and ``dict(...)``, without running it.

    Raises `ValueError` or `TypeError` for any other.
    """
    return ast.literal_eval(_Plain().visit(node))


def _divided(text: str) -> list[str]:
    """Split a text at the commas outside of brackets; an empty text has no pieces."""
    pieces, opened = [''], ''
    for letter in text:
        if letter == ',' and not opened:
            pieces.append('')
            continue
        if letter in _BRACKETS:
            opened += letter
        elif letter in _BRACKETS.values():
            if not opened or _BRACKETS[opened[-1]] != letter:
                raise UserError(f'{letter} closes no bracket')
            opened = opened[:-1]
        pieces[-1] += letter
    if opened:
        raise UserError(f'{opened[-1]} is not closed')
    return pieces if pieces[-1].strip() else pieces[:-1]


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
