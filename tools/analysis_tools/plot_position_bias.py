"""Draw the position bias of heads of a checkpoint over all offsets in a window (paper, figure 4).

    plot_position_bias.py CHECKPOINT --stage 0 --block 1 --heads 0 1 2 --windows 8 16 --out bias.png

A row of maps for each window, so that one before and one after a change of the window can be
compared, a column for each head; of a video network, a row for each offset in time too, in tokens.
The centre of a map is the bias of a token on itself. Files of all formats are read.
"""

from mmswinv2.analysis.figures import check_ending
from mmswinv2.analysis.position_bias import bias_maps, draw_bias
from mmswinv2.checkpoints import convert_file, fetch
from mmswinv2.core.attention import ContinuousPositionBias
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('checkpoint', help='a file, an address or a name')
    parser.add_argument('--stage', type=int, default=0, help='stage, from 0 (0)')
    parser.add_argument('--block', type=int, default=0, help='block of the stage, from 0 (0)')
    parser.add_argument('--heads', type=int, nargs='+', help='heads, from 0 (all)')
    parser.add_argument(
        '--windows',
        type=int,
        nargs='+',
        help='windows in space, in tokens (that of the pre-training, and twice that)',
    )
    parser.add_argument(
        '--frames', type=int, help='window in time, in tokens (that of the pre-training)'
    )
    parser.add_argument(
        '--pretrained-window',
        type=int,
        nargs='+',
        help='window of the pre-training in that stage, where the file does not record it',
    )
    parser.add_argument('--prefix', help="what precedes the network's keys in the file (detected)")
    parser.add_argument(
        '--out', default='position_bias.png', help='file to write (position_bias.png)'
    )
    return parser.parse_args()


def load_bias(checkpoint, stage, block, pretrained_window, prefix):
    """The bias network of a block, with its weights; see `parse_args`."""
    converted = convert_file(fetch(checkpoint), prefix=prefix)
    start = f'layers.{stage}.blocks.{block}.attn.cpb_mlp.'
    state = {k.removeprefix(start): v for k, v in converted.state.items() if k.startswith(start)}
    if not state:
        blocks = sorted({'.'.join(k.split('.')[1:4:2]) for k in converted.state if '.blocks.' in k})
        raise UserError(
            f'{checkpoint} has no block {block} in stage {stage}; its stages and blocks are '
            f'{", ".join(blocks)}'
        )
    ndim = state['0.weight'].shape[1]
    recorded = converted.windows.get(stage, ())
    window = tuple(pretrained_window or recorded)
    if len(window) == 1:
        window *= ndim
    if recorded and window != tuple(recorded):
        raise UserError(
            f'--pretrained-window {window}: {checkpoint} says that stage {stage} was pre-trained '
            f'with {tuple(recorded)}; leave the option out'
        )
    if len(window) != ndim:
        raise UserError(
            f'{checkpoint} does not say what window stage {stage} was pre-trained with: give '
            f'--pretrained-window, a number or one for each of {ndim} axes'
        )
    bias = ContinuousPositionBias(len(state['2.weight']), window)
    bias.load_state_dict(state)
    return bias.eval()


def main():
    args = parse_args()
    check_ending(args.out)
    for m in (*(args.windows or ()), *(args.pretrained_window or ()), args.frames or 1):
        if m < 1:
            raise UserError(f'a window is at least 1 token along each axis, got {m}')
    bias = load_bias(args.checkpoint, args.stage, args.block, args.pretrained_window, args.prefix)
    pretrained = bias.pretrained_window[-1]
    num_heads = bias[2].out_features
    heads = list(range(num_heads)) if args.heads is None else args.heads
    if wrong := [head for head in heads if head not in range(num_heads)]:
        raise UserError(f'there is no head {wrong[0]}; stage {args.stage} has {num_heads}, from 0')
    rows = list(bias_maps(bias, args.windows or (pretrained, 2 * pretrained), args.frames))
    draw_bias(rows, heads).savefig(args.out)
    print(f'pre-trained window {bias.pretrained_window}; wrote {args.out}')


if __name__ == '__main__':
    with report_user_errors():
        main()
