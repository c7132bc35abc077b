"""Train a detector, segmentor, video or image classifier, or pre-train a backbone."""

import argparse
from collections.abc import Sequence

from ..errors import UserError
from ..options import ArgumentParser, add_common_arguments, add_config


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 train',
        description=__doc__,
        epilog='example: mmswinv2 train config.py --work-dir work_dirs/run --amp',
    )
    add_config(parser)
    add_common_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision, on GPUs (float32)'
    )
    parser.add_argument(
        '--amp-dtype',
        choices=('float16', 'bfloat16'),
        help='train in mixed precision of this type (float16 with --amp)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='multiply the learning rate by the batch size of all GPUs over that of the config, '
        'auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint, or from the latest one in this folder (without a '
        'path: in the work dir; without --resume: from the beginning)',
    )
    parser.add_argument(
        '--max-iters',
        type=int,
        help='length in iterations, to which the schedule is scaled (that of the config)',
    )
    parser.add_argument('--max-epochs', type=int, help='the same in epochs')
    parser.add_argument(
        '--class-map',
        help='for an image classifier that starts from one of other classes (LoadCheckpointHook): '
        'file with a line for each class, its number in that checkpoint',
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 train``."""
    args = parse_args(arguments)
    from ..engine.launch import build_runner, load_config, run
    from ..engine.settings import set_class_map, set_length, set_mixed_precision
    from ..engine.start import set_resume

    cfg = load_config(args)
    parts = ('train_cfg', 'train_dataloader', 'optim_wrapper')
    if missing := [part for part in parts if cfg.get(part) is None]:
        raise UserError(f'{args.config} has no {" and no ".join(missing)}: it has nothing to train')
    if args.amp or args.amp_dtype:
        set_mixed_precision(cfg, args.amp_dtype or 'float16')
    scale = cfg.get('auto_scale_lr') or {}
    if args.auto_scale_lr or scale.get('enable'):
        if 'base_batch_size' not in scale:
            raise UserError(
                'scaling the learning rate needs auto_scale_lr=dict(base_batch_size=...) in the '
                'config, the batch size that this rate is for'
            )
        cfg.auto_scale_lr.enable = True
    if args.class_map:
        set_class_map(cfg, args.class_map)
    set_length(cfg, args.max_iters, args.max_epochs)
    set_resume(cfg, args.resume)
    kinds = ('train', 'val') if cfg.get('val_cfg') is not None else ('train',)
    run(build_runner(cfg, kinds).train, cfg, kinds)
