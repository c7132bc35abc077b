"""Checks what an installation needs, and says how to repair what is broken."""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence

from ..options import ArgumentParser
from .installation import (
    ABSENT,
    BROKEN,
    CHECKS,
    NOTE,
    OK,
    Finding,
    check_pins,
    check_torch,
    is_development,
)

_COLORS = {OK: 'green', NOTE: 'yellow', ABSENT: 'dim', BROKEN: 'bold red'}


def examine(development: bool | None = None) -> Iterator[Finding]:
    """Run all checks, one after another.

    Args:
        development: whether to check the pins of a checkout too; ``None``: only in an environment
            that `make install` made.
    """
    wanted = is_development() if development is None else development
    logging.disable(logging.WARNING)  # packages log warnings while they are imported
    try:
        for check in (*CHECKS, *((check_pins,) if wanted else ())):
            missing = False  # what all further checks need; else they name wrong causes
            for finding in check():
                yield finding
                missing |= finding.state == BROKEN and finding.name.startswith('images')
            if missing or (check is check_torch and 'torch' not in sys.modules):
                return
    finally:
        logging.disable(logging.NOTSET)


def report(findings: Iterator[Finding]) -> bool:
    """Print findings as they come, colored on a terminal; returns whether nothing is broken."""
    from rich.console import Console
    from rich.text import Text

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would end the program with the status 1
            raise BrokenPipeError

    console = OurConsole(highlight=False, soft_wrap=True)
    broken = 0
    for finding in findings:
        broken += finding.state == BROKEN
        console.print(
            Text.assemble(
                (f'{finding.state:<8}', _COLORS[finding.state]),
                f'{finding.name:<20}{finding.text}',
            )
        )
        if finding.remedy:
            console.print(Text(f'{"":8}mend it: {finding.remedy}', 'cyan'))
    words = f'{broken} broken: see above how to mend it' if broken else 'everything needed works'
    console.print(Text(words, 'bold red' if broken else 'green'))
    return not broken


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 doctor',
        description='Look at versions, operators, GPU and decoders, and say how to mend what is '
        'broken. The exit code is 1 if something is.',
        epilog='example: mmswinv2 doctor',
    )
    parser.add_argument(
        '--development',
        action='store_true',
        default=None,
        help='compare versions with the pins, too (only in the environment of make install)',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 doctor``."""
    args = parse_args(arguments)
    if not report(examine(args.development)):
        sys.exit(1)
