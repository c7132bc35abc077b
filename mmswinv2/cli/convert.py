"""Weights with the keys used here, and label files of other formats as COCO's."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checks import want
from ..errors import UserError, nearest
from ..files import check_not_source
from ..options import ArgumentParser

_LABELS = ('yolo', 'voc', 'csv', 'labelme')


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ``run`` of the result is the function that does it.

    Raises:
        UserError: if the first word looks like ``data`` misspelt or left out.
    """
    first = arguments[0] if arguments else ''
    if first == 'data':
        return _data_parser().parse_args(arguments[1:])
    if first in _LABELS and not Path(first).is_file():
        raise UserError(f'labels are converted by mmswinv2 convert data {first} SOURCE OUT')
    if (hint := nearest(first, ['data'], 0.75)) and not Path(first).exists():
        raise UserError(f'{first!r} is no file of weights{hint}; see mmswinv2 convert --help')
    return _weights_parser().parse_args(arguments or ['--help'])


def _data_parser() -> ArgumentParser:
    parser = ArgumentParser(
        'mmswinv2 convert data',
        description='Write labels of YOLO, Pascal VOC, CSV or LabelMe as a COCO annotation file. '
        'Images stay where they are; file_name is the path from the folder of the images.',
        epilog='example: mmswinv2 convert data yolo data/mine data/mine/train.json --split train',
    )
    parser.set_defaults(run=convert_data)
    parser.add_argument('format', choices=_LABELS)
    parser.add_argument('source', help='folder of the labels, or the .csv file')
    parser.add_argument('out', help='the .json file to write')
    parser.add_argument('--images', help="folder of the images (SOURCE, or the file's folder)")
    parser.add_argument(
        '--split',
        help='such as train, as data.yaml (yolo) or ImageSets/Main (voc) lists it (all files)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='names of the classes in the order of their ids; others are left out (all classes)',
    )
    parser.add_argument(
        '--offset', type=float, help='pixels subtracted from xmin and ymin, 0 or 1 (voc 1, csv 0)'
    )
    parser.add_argument(
        '--no-decode',
        dest='decode',
        action='store_false',
        help='read only the headers of images, which does not find truncated ones',
    )
    return parser


def _weights_parser() -> ArgumentParser:
    parser = ArgumentParser(
        'mmswinv2 convert',
        as_written=True,
        usage='mmswinv2 convert WEIGHTS OUT [options]\n'
        '       mmswinv2 convert data FORMAT SOURCE OUT [options]\n\n'
        "data: labels of YOLO, Pascal VOC, CSV or LabelMe as COCO's; see mmswinv2 convert data "
        '--help',
        description='Convert SwinV2 weights of any published format to the keys of mmswinv2 (the '
        "authors' own).\n\n"
        "The format is detected: the authors' (classification, SimMIM, downstream), timm,\n"
        'transformers, torchvision, mmpretrain, and training runs. Only the backbone is kept.\n'
        "Configs read all of them directly too, through init_cfg=dict(type='Pretrained',\n"
        'checkpoint=...).',
        epilog='example: mmswinv2 convert swinv2_tiny_patch4_window8_256.pth swinv2-t.pth',
    )
    parser.set_defaults(run=convert_weights)
    parser.add_argument(
        'src',
        metavar='WEIGHTS',
        help='a file (.pth, .safetensors), an address or a name of published weights',
    )
    parser.add_argument('dst', metavar='OUT', help='the .pth file to write')
    formats = ('authors', 'timm', 'transformers', 'torchvision', 'mmpretrain')
    parser.add_argument('--format', choices=formats, help='format of the file (detected)')
    parser.add_argument(
        '--prefix', help="what precedes the backbone's keys, such as backbone. (detected)"
    )
    parser.add_argument(
        '--key',
        help='entry of the file that has the weights, such as model_ema (the first that has any)',
    )
    parser.add_argument(
        '--pretrained-windows',
        type=int,
        nargs='+',
        metavar='W',
        help='windows of the pre-training per stage, in tokens, where the file does not record '
        'them (timm, transformers); the new file does',
    )
    return parser


def convert_data(args: argparse.Namespace) -> None:
    """Convert labels as the command line says, and tell what was done."""
    from ..datasets.to_coco import to_coco

    options: dict[str, Any] = {k: v for k, v in vars(args).items() if k not in ('run', 'format')}
    print(f'{args.out}: {to_coco(args.format, **options)}')


def convert_weights(args: argparse.Namespace) -> None:
    """Convert weights as the command line says, and tell what they are."""
    from ..checkpoints import FORMATS, convert_file, describe, fetch, write_checkpoint
    from ..checkpoints.inputs import is_2d

    source = fetch(args.src)
    check_not_source(args.dst, source, 'convert')
    converted = convert_file(source, args.format, args.prefix, args.key)
    windows, arch = converted.windows, describe(converted.state)
    if args.pretrained_windows:
        axes = 2 if is_2d(converted.state) else 3
        given = args.pretrained_windows
        want('--pretrained-windows', given, 'at least 1', min(given) >= 1)
        given = given * len(arch['depths']) if len(given) == 1 else given  # of all stages
        stated = {i: (w,) * axes for i, w in enumerate(given)}
        others = any(windows.get(stage, window) != window for stage, window in stated.items())
        if others or len(stated) != len(arch['depths']):
            raise UserError(
                f'--pretrained-windows {args.pretrained_windows}: the network has '
                f'{len(arch["depths"])} stages, and the file records {windows or "no windows"}'
            )
        windows = stated
    meta = dict(source_format=converted.format, arch=arch, pretrained_window_sizes=windows)
    write_checkpoint(dict(state_dict=converted.state, meta=meta), args.dst)
    print(f'format: {converted.format} ({FORMATS[converted.format].title})')
    print(f'prefix: {converted.prefix!r}')
    print(''.join(f'{note}\n' for note in converted.notes), end='')
    print(f'architecture: {arch}')
    print(f'pre-trained windows: {windows or "not recorded in the file"}')
    print(
        f'{len(converted.state)} tensors written to {args.dst}; {len(converted.left_out)} of other '
        'parts left out'
    )


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 convert``."""
    args = parse_args(arguments)
    args.run(args)
