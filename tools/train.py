"""Train a detector, segmentor or video classifier."""

import argparse

import torch

from mmswinv2.engine.launch import add_common_arguments, build_runner, load_config, run
from mmswinv2.engine.resume import set_resume
from mmswinv2.errors import UserError, told_in_a_sentence


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='train config file path')
    add_common_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='enable automatic-mixed-precision training'
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
        help='resume from this checkpoint, or, without a path, from the latest one in the work dir',
    )
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args)
    if args.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a GPU, and there is none; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...)')
        cfg.auto_scale_lr.enable = True
    set_resume(cfg, args.resume)
    kinds = ('train', 'val') if cfg.get('val_cfg') is not None else ('train',)
    run(build_runner(cfg, kinds).train, cfg, kinds)


if __name__ == '__main__':
    with told_in_a_sentence():
        main()
