"""Draw the position bias of heads of a checkpoint over all offsets in a window (paper, figure 4).

    plot_position_bias.py CHECKPOINT --stage 0 --block 1 --heads 0 1 2 --windows 8 16 --out bias.png

A row of maps for each window, so that one before and one after a change of the window can be
compared, a column for each head; of a video network, a row for each offset in time too, in tokens.
The centre of a map is the bias of a token on itself. Files of all formats are read.
"""

import argparse

import torch

from mmswinv2.checkpoints import convert_file, fetch
from mmswinv2.core.attention import ContinuousPositionBias
from mmswinv2.errors import UserError, report_user_errors


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint')
    parser.add_argument('--stage', type=int, default=0, help='from 0')
    parser.add_argument('--block', type=int, default=0, help='from 0, in the stage')
    parser.add_argument('--heads', type=int, nargs='+', help='from 0; all of them')
    parser.add_argument(
        '--windows', type=int, nargs='+', help='in space; the pre-trained one, and twice that'
    )
    parser.add_argument('--frames', type=int, help="window in time, tokens; the pre-trained one's")
    parser.add_argument(
        '--pretrained-window', type=int, nargs='+', help='of that stage, where the file lacks it'
    )
    parser.add_argument('--prefix', help="what precedes the network's keys in the file")
    parser.add_argument('--out', default='position_bias.png')
    return parser.parse_args()


def load_bias(args):
    """The bias network of a block, with its weights."""
    converted = convert_file(fetch(args.checkpoint), prefix=args.prefix)
    start = f'layers.{args.stage}.blocks.{args.block}.attn.cpb_mlp.'
    state = {k.removeprefix(start): v for k, v in converted.state.items() if k.startswith(start)}
    if not state:
        blocks = sorted({'.'.join(k.split('.')[1:4:2]) for k in converted.state if '.blocks.' in k})
        raise UserError(
            f'{args.checkpoint} has no block {args.block} in stage {args.stage}; its stages and '
            f'blocks are {", ".join(blocks)}'
        )
    ndim = state['0.weight'].shape[1]
    window = tuple(args.pretrained_window or converted.windows.get(args.stage, ()))
    if len(window) == 1:
        window *= ndim
    if len(window) != ndim:
        raise UserError(
            f'{args.checkpoint} does not say what window stage {args.stage} was pre-trained with: '
            f'give --pretrained-window, a number or one for each of {ndim} axes'
        )
    bias = ContinuousPositionBias(len(state['2.weight']), window)
    bias.load_state_dict(state)
    return bias.eval()


def maps(bias, windows, frames):
    """Rows to draw: a title and the bias (heads, 2M - 1, 2M - 1)."""
    frames = frames or bias.pretrained_window[0]
    for m in windows:
        if len(bias.pretrained_window) == 2:
            with torch.no_grad():
                yield f'window {m}', bias((m, m))
            continue
        with torch.no_grad():
            table = bias((frames, m, m))
        for offset in range(frames):
            yield f'window {frames}x{m}x{m}, {offset} tokens on', table[:, frames - 1 + offset]


def main():
    args = parse_args()
    for m in (*(args.windows or ()), *(args.pretrained_window or ()), args.frames or 1):
        if m < 1:
            raise UserError(f'a window is at least 1 token along each axis, got {m}')
    bias = load_bias(args)
    pretrained = bias.pretrained_window[-1]
    num_heads = bias[2].out_features
    heads = list(range(num_heads)) if args.heads is None else args.heads
    if wrong := [head for head in heads if head not in range(num_heads)]:
        raise UserError(f'there is no head {wrong[0]}; stage {args.stage} has {num_heads}, from 0')
    rows = list(maps(bias, args.windows or (pretrained, 2 * pretrained), args.frames))

    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(rows), len(heads), squeeze=False, layout='constrained',
        figsize=(1 + 2.2 * len(heads), 2.4 * len(rows)),
    )  # fmt: skip
    shown = torch.stack([row[head].min() for _, row in rows for head in heads])
    largest = torch.stack([row[head].max() for _, row in rows for head in heads]).max()
    for line, (title, row) in zip(axes, rows, strict=True):
        for place, head in zip(line, heads, strict=True):
            edge = row.shape[-1] // 2 + 0.5
            image = place.imshow(
                row[head], vmin=shown.min(), vmax=largest, extent=(-edge, edge, edge, -edge)
            )
            place.set_title(f'head {head}' if line is axes[0] else '')
        line[0].set_ylabel(title)
    figure.colorbar(image, ax=axes)
    figure.savefig(args.out)
    print(f'pre-trained window {bias.pretrained_window}; wrote {args.out}')


if __name__ == '__main__':
    with report_user_errors():
        main()
