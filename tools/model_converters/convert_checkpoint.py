"""Convert SwinV2 weights of any published format to the keys of mmswinv2 (the authors' own).

The format is detected: the authors' (classification, SimMIM, downstream), timm, transformers,
torchvision, mmpretrain, and training runs. Only the backbone is kept. Configs read all of them
directly too, through init_cfg=dict(type='Pretrained', checkpoint=...).
"""

from pathlib import Path

from mmswinv2.checkpoints import FORMATS, convert_file, describe, fetch, write_checkpoint
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser


def parse_args():
    parser = ArgumentParser(
        description=__doc__,
        epilog='example: mmswinv2 convert swinv2_tiny_patch4_window8_256.pth swinv2-t.pth',
    )
    parser.add_argument('src', help='a file (.pth, .safetensors), an http(s) address or a name')
    parser.add_argument('dst', help='the .pth file to write')
    parser.add_argument('--format', choices=list(FORMATS), help='instead of detecting it')
    parser.add_argument('--prefix', help="what precedes the backbone's keys, e.g. 'backbone.'")
    parser.add_argument('--key', help="the entry of the file with the weights, e.g. 'model_ema'")
    parser.add_argument(
        '--pretrained-windows',
        type=int,
        nargs='+',
        metavar='W',
        help='per stage, where the file does not record them (timm, transformers), to be recorded '
        'in the new one',
    )
    return parser.parse_args()


def main():
    args = parse_args()
    source = fetch(args.src)
    if Path(args.dst).resolve() == source.resolve():
        raise UserError(f'{args.dst} is the file to convert, which would be lost; name another')
    converted = convert_file(source, args.format, args.prefix, args.key)
    windows, arch = converted.windows, describe(converted.state)
    if args.pretrained_windows:
        axes = converted.state['layers.0.blocks.0.attn.cpb_mlp.0.weight'].shape[1]
        stated = {i: (w,) * axes for i, w in enumerate(args.pretrained_windows)}
        if len(stated) != len(arch['depths']) or (windows and windows != stated):
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


if __name__ == '__main__':
    with report_user_errors():
        main()
