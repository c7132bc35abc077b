"""Give a config of mmdet or mmseg a SwinV2 backbone.

Writes the config anew with channels, statistics of the input, optimizer and schedule that fit, and
says what it changed and what it left to you. docs/swap.md lists the families it was tried on.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..checks import want
from ..errors import UserError
from ..options import ArgumentParser


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 swap',
        description=__doc__,
        epilog='example: mmswinv2 swap mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    )
    parser.add_argument('config', help="a path, or a name such as 'mmdet::fcos/fcos_r50...py'")
    parser.add_argument(
        '--arch', default='tiny', help='nano, tiny, small, base, large, huge or giant (tiny)'
    )
    parser.add_argument('--window', type=int, help='window size in tokens (that of the weights)')
    parser.add_argument(
        '--checkpoint',
        help="file, name or address, or 'none' (the authors' for --arch and --window)",
    )
    parser.add_argument(
        '--pretrained-windows',
        type=int,
        nargs='+',
        metavar='W',
        help='windows of the pre-training per stage, in tokens, for a --checkpoint that does not '
        'record them (timm, transformers)',
    )
    parser.add_argument(
        '--drop-path',
        type=float,
        help='rate of stochastic depth in the last block (by size and task)',
    )
    parser.add_argument(
        '--layer-decay', type=float, help='factor of the learning rate from layer to layer (1)'
    )
    parser.add_argument(
        '--lr', type=float, help="learning rate (that of the config's AdamW, or the paper's)"
    )
    parser.add_argument(
        '-o', '--out', type=Path, help='the .py file to write (NAME_swinv2-ARCH-wWINDOW.py)'
    )
    parser.add_argument('--force', action='store_true', help='overwrite the file to write')
    parser.add_argument(
        '--no-check',
        dest='check',
        action='store_false',
        help='build the new backbone without memory, and do not run the model',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 swap``."""
    args = parse_args(arguments)
    from .. import hosts
    from ..core.arguments import SHORT, get_variant
    from ..swap import Options, default_window, read_config, swap_backbone, write_config

    get_variant(args.arch)  # refuses an unknown one
    args.arch = SHORT.get(args.arch.lower(), args.arch.lower())
    if args.window is None:
        args.window = default_window(args.arch, args.checkpoint)
    lr, decay = args.lr, args.layer_decay
    want('--lr', lr, 'a number above 0', lr is None or 0 < lr < float('inf'))
    want('--layer-decay', decay, 'above 0 and at most 1', decay is None or 0 < decay <= 1)
    source = hosts.find_config(args.config)
    out = args.out or Path(f'{source.stem}_swinv2-{args.arch}-w{args.window}.py')
    if out.suffix != '.py':
        raise UserError(f'-o {out}: a config of this tool is a .py file')
    if out.exists() and not args.force:
        raise UserError(f'{out} exists; name another file with -o, or overwrite it with --force')
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    cfg, notes = swap_backbone(read_config(args.config), options)
    write_config(out, cfg, notes, args.config, shlex.join(['mmswinv2', 'swap', *arguments]))
    print('\n'.join(['Changed:', *(f'- {text}' for text in notes.changed)]))
    print('\n'.join(['Left for you to judge:', *(f'- {text}' for text in notes.judge)]))
    print(f'Written: {out}')
