"""Checks what an installation needs, and says how to repair what is broken."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..options import ArgumentParser
from . import cuda, installation
from .installation import ABSENT, BROKEN, NOTE, OK, Finding

CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    installation.check_self,
    installation.check_torch,
    cuda.check_driver,
    cuda.check_nvcc,
    installation.check_decoders,  # before mmcv, which imports OpenCV
    installation.check_hosts,
    installation.check_operators,
    installation.check_triton,
    installation.check_attention,
)
_COLORS = {OK: '32', NOTE: '33', ABSENT: '2', BROKEN: '1;31'}  # as terminals number them


def examine(development: bool | None = None) -> Iterator[Finding]:
    """Run all checks, one after another.

    Args:
        development: whether to check the pins of a checkout too; ``None``: only in an environment
            that `make install` made.
    """
    wanted = installation.is_development() if development is None else development
    logging.disable(logging.WARNING)  # packages log warnings while they are imported
    try:
        for check in (*CHECKS, *((installation.check_pins,) if wanted else ())):
            missing = False  # what all further checks need; else they name wrong causes
            for finding in check():
                yield finding
                missing |= finding.state == BROKEN and finding.name.startswith('images')
            if missing or (check is installation.check_torch and 'torch' not in sys.modules):
                return
    finally:
        logging.disable(logging.NOTSET)


def report(findings: Iterator[Finding]) -> bool:
    """Print findings as they come, colored on a terminal; returns whether nothing is broken."""
    broken = 0
    for finding in findings:
        broken += finding.state == BROKEN
        state = _painted(f'{finding.state:<8}', _COLORS[finding.state])
        print(f'{state}{finding.name:<20}{finding.text}', flush=True)
        if finding.remedy:
            print(_painted(f'{"":8}mend it: {finding.remedy}', '36'))
    words = f'{broken} broken: see above how to mend it' if broken else 'everything needed works'
    print(_painted(words, _COLORS[BROKEN if broken else OK]))
    return not broken


def _painted(text: str, color: str) -> str:
    """A text in a color, plain outside a terminal; rich may be what is missing here."""
    if os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb' or not sys.stdout.isatty():
        return text
    return f'\033[{color}m{text}\033[0m'


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
