"""Weights with the keys used here, and label files of other formats as COCO's."""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..options import ArgumentParser
from ..progress import track

_USAGE = """\
mmswinv2 convert data FORMAT SOURCE OUT   labels of YOLO, Pascal VOC, CSV or LabelMe as COCO's
mmswinv2 convert WEIGHTS OUT              weights with the keys used here:
"""


def parse_args(arguments: Sequence[str]) -> argparse.Namespace | None:
    """Read the command line of ``data``; ``None`` if it is of weights, which have a script."""
    first = arguments[0] if arguments else ''
    if first != 'data':
        if (hint := nearest(first, ['data'], 0.75)) and not Path(first).exists():
            raise UserError(f'{first!r} is no file of weights{hint}; see mmswinv2 convert --help')
        return None
    parser = ArgumentParser(
        'mmswinv2 convert data',
        description='Write labels of YOLO, Pascal VOC, CSV or LabelMe as a COCO annotation file. '
        'Images stay where they are; file_name is the path from the folder of the images.',
        epilog='example: mmswinv2 convert data yolo data/mine data/mine/train.json --split train',
    )
    parser.add_argument('format', choices=['yolo', 'voc', 'csv', 'labelme'])
    parser.add_argument('source', help='folder of the labels, or the .csv file')
    parser.add_argument('out', help='the .json file to write')
    parser.add_argument('--images', help="folder of the images (SOURCE, or the file's folder)")
    parser.add_argument(
        '--split', help='such as train: what data.yaml (yolo) or ImageSets/Main (voc) lists of it'
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='in the order of their ids; others are left out',
    )
    parser.add_argument(
        '--offset', type=float, help='subtracted from xmin and ymin: 1 (voc) or 0 (csv)'
    )
    parser.add_argument(
        '--no-decode', dest='decode', action='store_false', help='trust the headers of images'
    )
    return parser.parse_args(arguments[1:])


def convert_data(args: argparse.Namespace) -> None:
    """Convert labels as the command line says, and tell what was done."""
    from ..datasets.to_coco import to_coco

    options: dict[str, Any] = {k: v for k, v in vars(args).items() if k != 'format'}
    bar = functools.partial(track, what='images')
    summary = to_coco(args.format, track=bar, **options)
    print(f'{args.out}: {summary}')


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 convert``."""
    from . import run_script

    args = parse_args(arguments)
    if args is not None:
        convert_data(args)
        return
    if set(arguments) & {'-h', '--help'} or not arguments:
        print(_USAGE)
    run_script('convert', arguments)
