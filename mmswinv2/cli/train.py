"""Train a detector, segmentor, video or image classifier, or pre-train a backbone."""

import argparse
from collections.abc import Sequence

from ..errors import UserError
from ..options import ArgumentParser, add_common_arguments


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 train',
        description=__doc__,
        epilog='example: mmswinv2 train config.py --work-dir work_dirs/run --amp',
    )
    parser.add_argument('config', help='train config file path')
    add_common_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='enable automatic-mixed-precision training'
    )
    parser.add_argument(
        '--amp-dtype',
        choices=('float16', 'bfloat16'),
        help='the type of mixed precision, which this option enables (default of --amp: float16)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the actual batch size over the config's",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or from the latest one in this folder (without a path: '
        'in the work dir)',
    )
    parser.add_argument(
        '--max-iters',
        type=int,
        help='train so many iterations; beginnings, ends and milestones of the schedule are scaled',
    )
    parser.add_argument('--max-epochs', type=int, help='train so many epochs, likewise')
    parser.add_argument(
        '--class-map',
        help='for a classifier that starts from one of other classes: a file with a line for each '
        'class, its number among those of the checkpoint in LoadCheckpointHook',
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
            raise UserError('scaling the lr needs auto_scale_lr=dict(base_batch_size=...)')
        cfg.auto_scale_lr.enable = True
    if args.class_map:
        set_class_map(cfg, args.class_map)
    set_length(cfg, args.max_iters, args.max_epochs)
    set_resume(cfg, args.resume)
    kinds = ('train', 'val') if cfg.get('val_cfg') is not None else ('train',)
    run(build_runner(cfg, kinds).train, cfg, kinds)
