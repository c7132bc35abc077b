"""The command that predicts on pictures, videos and cameras."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import StreamHandler

from ..errors import UserError
from ..options import ArgumentParser, add_model_options


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 predict',
        description='Predict on images, folders, patterns, videos or a camera.',
        epilog='example: mmswinv2 predict config.py work_dirs/run/epoch_36.pth photos --score 0.5',
    )
    add_model_options(parser)
    parser.add_argument(
        'inputs', nargs='+', help='files, folders, patterns, or the number of a camera'
    )
    parser.add_argument('--out-dir', default='outputs', help='folder of the results (outputs)')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images that are predicted together (1)'
    )
    parser.add_argument('--max-frames', type=int, help='most frames of each video or camera (all)')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: by tta_model of the config, or by flips',
    )
    return parser.parse_args(arguments)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Let mmengine's log go to standard error, as standard output is for results."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    handlers = [handler for handler in logger.handlers if type(handler) is StreamHandler]
    before = [handler.stream for handler in handlers]
    try:
        for handler in handlers:
            handler.setStream(sys.stderr)
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.setStream(stream)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 predict``."""
    args = parse_args(arguments)
    from ..inference.predict import iterate

    args.inputs = dict.fromkeys(args.inputs)  # patterns of a shell may overlap
    number = left_out = 0
    with _log_on_stderr():
        for result in iterate(**vars(args)):
            number += result is not None
            left_out += result is None
    print(f'{number} predictions are in {args.out_dir}', file=sys.stderr)
    if left_out:
        raise UserError(f'{left_out} of the inputs could not be used, see the warnings above')
