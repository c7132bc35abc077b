"""Print the classes that a video classifier sees in a video, and write them on a copy of it."""

from pathlib import Path

from mmswinv2 import hosts
from mmswinv2.datasets import open_video, write_video
from mmswinv2.datasets.labels.common import read_text
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError, printable, report_user_errors
from mmswinv2.files import check_writable
from mmswinv2.inference.drawing import caption
from mmswinv2.inference.predictor import Predictor
from mmswinv2.inference.sources import Item
from mmswinv2.options import ArgumentParser, add_config_options


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('video', help='video file')
    parser.add_argument('config', help='config of a video classifier')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--labels', help='file with the name of each class on a line (of the weights)'
    )
    parser.add_argument('--topk', type=int, default=5, help='how many classes to print (5)')
    parser.add_argument('--out', help='video to write (VIDEO with _demo before its ending)')
    parser.add_argument('--device', help='such as cuda:1 (a GPU where there is one)')
    add_config_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    if hosts.of(cfg).name != 'mmaction':
        raise UserError(f'{args.config} is no config of a video classifier of mmaction2')
    source = Path(args.video)
    target = Path(args.out or source.with_name(f'{source.stem}_demo.mp4'))
    if target.suffix != '.mp4':
        raise UserError(f'--out must end in .mp4, got {target}')
    if target.resolve() == source.resolve():
        raise UserError(f'--out {target} is the video itself; name another file')
    check_writable(target.absolute().parent, 'folder', '--out')
    if args.topk < 1:
        raise UserError(f'--topk must be at least 1, got {args.topk}')
    predictor = Predictor(cfg, args.checkpoint, args.device)
    names = list(predictor.meta.get('classes') or ())
    if args.labels:
        names = read_text(Path(args.labels)).splitlines()
    ((_, result),) = predictor.outcomes([Item(source.stem, args.video)])
    scores = result.pred_score
    if args.labels and len(names) != len(scores):
        raise UserError(f'{args.labels} has {len(names)} lines, the model {len(scores)} classes')
    values, classes = scores.topk(min(args.topk, len(scores)))
    lines = []
    for value, index in zip(values.tolist(), classes.tolist(), strict=True):
        name = names[index] if index < len(names) else f'class {index}'
        lines.append(f'{name}: {value:.3f}')
    print(printable('\n'.join(lines)))
    reader = open_video(args.video)
    write_video(target, caption(reader, lines), reader.fps or 25, times=reader.times)
    print(f'written to {target}')


if __name__ == '__main__':
    with report_user_errors():
        main()
