"""The command that predicts on pictures, videos and cameras."""

import argparse
import sys
from collections.abc import Sequence

from ..options import ArgumentParser, add_model_options


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 predict',
        description='Predict on images, folders, patterns, videos or a camera.',
        epilog='example: mmswinv2 predict config.py work_dirs/run/epoch_36.pth photos --score 0.5',
    )
    add_model_options(parser)
    parser.add_argument('inputs', nargs='+', help='files, folders, patterns, or a camera number')
    parser.add_argument('--out-dir', default='outputs', help='folder of the results (outputs)')
    parser.add_argument('--batch-size', type=int, default=1, help='images at a time (1)')
    parser.add_argument('--max-frames', type=int, help='of each video or camera')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 predict``."""
    args = parse_args(arguments)
    from ..inference.predict import iterate

    number = sum(1 for _ in iterate(**vars(args)))
    print(f'{number} predictions are in {args.out_dir}', file=sys.stderr)
