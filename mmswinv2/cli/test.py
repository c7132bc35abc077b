"""Evaluate a detector, segmentor, video or image classifier: mAP, mIoU or top-1."""

import argparse
import functools
from collections.abc import Sequence

from ..errors import UserError
from ..options import ArgumentParser, add_checkpoint, add_common_arguments, add_config


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 test',
        description=__doc__,
        epilog='example: mmswinv2 test config.py work_dirs/run/epoch_36.pth --out predictions.pkl',
    )
    add_config(parser)
    add_checkpoint(parser)
    add_common_arguments(parser)
    parser.add_argument(
        '--out',
        '--dump',
        help='write the predictions: a .pkl file, or a folder of label maps of a segmentor',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the label maps of --out and no scores, for images without annotations '
        '(segmentors)',
    )
    parser.add_argument('--show', action='store_true', help='draw the predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='draw the predictions into this folder, which is inside the work dir',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show shows each image (2)'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: by tta_model of the config, or by flips',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 test``."""
    evaluate(parse_args(arguments))


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate as the command line says; its `config` may also be one that was read."""
    from ..engine.launch import build_runner, load_config, run
    from ..engine.settings import set_format_only, set_out, set_tta, set_visualization

    cfg = load_config(args)
    if cfg.get('test_dataloader') is None or cfg.get('test_evaluator') is None:
        raise UserError(
            f'{cfg.filename} has no test_dataloader and test_evaluator: it has nothing to test'
        )
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show or args.show_dir:
        set_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.out:
        set_out(cfg, args.out)
    if args.tta:
        set_tta(cfg)
    if args.format_only:
        set_format_only(cfg, args.out)
    runner = build_runner(cfg, ('test',))
    # every parameter is wanted; mmengine alone would go on with what fits
    runner.load_checkpoint = functools.partial(runner.load_checkpoint, strict=True)
    run(runner.test, cfg, ('test',))
