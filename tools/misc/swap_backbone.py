"""Give a config of mmdet or mmseg a SwinV2 backbone.

Writes the config anew with channels, statistics of the input, optimizer and schedule that fit, and
says what it changed and what it left to you. docs/swap.md lists the families it was tried on.
"""

import shlex
import sys
from dataclasses import fields
from pathlib import Path

from mmswinv2.core.arguments import SHORT, VARIANTS
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser
from mmswinv2.swap import (
    Options,
    default_window,
    find_config,
    read_config,
    swap_backbone,
    write_config,
)


def parse_args():
    parser = ArgumentParser(
        description=__doc__,
        epilog='example: mmswinv2 swap mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    )
    parser.add_argument('config', help="a path, or a name such as 'mmdet::fcos/fcos_r50...py'")
    parser.add_argument('--arch', choices=[*VARIANTS, *SHORT], default='tiny', metavar='ARCH',
                        help=f'{", ".join(VARIANTS)} (tiny)')  # fmt: skip
    parser.add_argument('--window', type=int, help='window size (that of the weights)')
    parser.add_argument(
        '--checkpoint',
        help="file, name or address, or 'none' (the authors' for --arch and --window)",
    )
    parser.add_argument(
        '--pretrained-windows',
        type=int,
        nargs='+',
        metavar='W',
        help='per stage, for a --checkpoint that does not record them (timm, transformers)',
    )
    parser.add_argument('--drop-path', type=float, help='stochastic depth (by size and task)')
    parser.add_argument('--layer-decay', type=float, help='lr decay over layers (none)')
    parser.add_argument('--lr', type=float, help="learning rate (AdamW's own, or the paper's)")
    parser.add_argument('-o', '--out', type=Path, help='the .py file to write')
    parser.add_argument('--force', action='store_true', help='overwrite it')
    parser.add_argument(
        '--no-check', dest='check', action='store_false', help='build the new model, do not run it'
    )
    return parser.parse_args()


def main():
    args = parse_args()
    args.arch = SHORT.get(args.arch, args.arch)
    if args.window is None:
        args.window = default_window(args.arch, args.checkpoint)
    if args.lr is not None and not 0 < args.lr < float('inf'):
        raise UserError(f'--lr must be a number above 0, got {args.lr}')
    if args.layer_decay is not None and not 0 < args.layer_decay <= 1:
        raise UserError(f'--layer-decay must be above 0 and at most 1, got {args.layer_decay}')
    source = find_config(args.config)
    out = args.out or Path(f'{source.stem}_swinv2-{args.arch}-w{args.window}.py')
    if out.suffix != '.py':
        raise UserError(f'-o {out}: a config of this tool is a .py file')
    if out.exists() and not args.force:
        raise UserError(f'{out} exists; name another file with -o, or overwrite it with --force')
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    cfg, notes = swap_backbone(read_config(args.config), options)
    command = shlex.join(['tools/misc/swap_backbone.py', *sys.argv[1:]])
    write_config(out, cfg, notes, args.config, command)
    print('\n'.join(['Changed:', *(f'- {text}' for text in notes.changed)]))
    print('\n'.join(['Left for you to judge:', *(f'- {text}' for text in notes.judge)]))
    print(f'Written: {out}')


if __name__ == '__main__':
    with report_user_errors():
        main()
