"""Predict the memory that training a config needs on each GPU.

Nothing is trained, and no GPU is needed: the backbone runs on tensors without content, the rest of
the model on random ones. Prints the memory of each part, and whether the training fits a card.
"""

import argparse
from collections.abc import Sequence

from ..checks import want
from ..errors import UserError
from ..options import STRATEGIES, ArgumentParser, add_config, add_config_options, add_shape
from ..progress import print_table, waiting

_GIB = 2**30


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 estimate',
        description=__doc__,
        epilog='example: mmswinv2 estimate config.py --gpus 8 --batch-size 2 --card 80',
    )
    add_config(parser)
    parser.add_argument('--gpus', type=int, default=1, help='number of GPUs (1)')
    parser.add_argument(
        '--strategy', choices=STRATEGIES, help="how the training is spread over GPUs (the config's)"
    )
    add_shape(parser)
    parser.add_argument('--batch-size', type=int, help="samples on each GPU (the config's)")
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        help="of autocast, float32 for none (the config's)",
    )
    parser.add_argument(
        '--lora',
        type=int,
        metavar='RANK',
        help='train adapters of this rank in the backbone (as the config)',
    )
    parser.add_argument('--card', type=float, default=80, help='memory of a GPU in GiB (80)')
    parser.add_argument(
        '--reserve',
        type=float,
        default=2,
        help="GiB of a card for CUDA, NCCL and the allocator's gaps (2, a guess)",
    )
    parser.add_argument(
        '--measure', action='store_true', help='train two steps on one device to compare with'
    )
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 estimate``."""
    args = parse_args(arguments)
    import torch

    from ..analysis.measured_memory import measure_memory
    from ..analysis.memory import dtype_of, follow_step, strategy_of
    from ..engine.configs import config_with_options
    from ..engine.settings import set_lora
    from ..hosts import input_size

    cfg = config_with_options(args.config, args.cfg_options)
    if args.gpus < 1 or (args.batch_size is not None and args.batch_size < 1):
        raise UserError('--gpus and --batch-size must be at least 1')
    for option in ('card', 'reserve'):
        value = getattr(args, option)
        want(f'--{option}', value, 'a number from 0, in GiB', 0 <= value < float('inf'))
    if args.lora is not None:
        set_lora(cfg, args.lora)
    size = input_size(cfg, args.shape)
    batch_size = args.batch_size or (cfg.get('train_dataloader') or {}).get('batch_size') or 1
    strategy, bucket = strategy_of(cfg)
    strategy = args.strategy or strategy
    name = args.dtype or dtype_of(cfg)
    dtype = None if name == 'float32' else getattr(torch, name)
    with waiting('following a training step: minutes for large networks and images'):
        step = follow_step(cfg, size, batch_size, dtype)
    estimate = step.estimate(strategy, args.gpus, bucket)  # in bytes
    print(
        f'{args.config}\n{batch_size} x {" x ".join(map(str, size))} on each of {args.gpus} GPUs, '
        f'{strategy}, {name}, {estimate.count / 1e6:,.1f} million parameters, '
        f'{step.trained / 1e6:,.1f} million of them trained'
    )
    parts = {
        'weights': estimate.parameters,
        'gradients': estimate.gradients,
        "optimizer's state": estimate.optimizer,
        'buffers of the strategy': estimate.buffers,
        'activations': estimate.activations,
        'total at the highest point': estimate.total,
        **{f'kept for backward: {name}': size for name, size in estimate.saved.items()},
        'largest attention layer, while it runs': estimate.attention,
    }
    print_table((name, f'{size / _GIB:.3f} GiB') for name, size in parts.items())
    need = estimate.total / _GIB + args.reserve
    verdict = 'fits' if need <= args.card else 'does NOT fit'
    print(
        f'{need:.1f} GiB with a reserve of {args.reserve:g}: {verdict} a card of {args.card:g} GiB'
    )
    if args.measure:
        measured = measure_memory(cfg, size, batch_size, dtype)
        # AdamW is measured, without hooks, in steps of one batch
        step.states, step.averages, step.accumulates = 2, False, False
        predicted = step.estimate(foreach=torch.cuda.is_available()).total
        print(
            f'one device: predicted {predicted / _GIB:.3f} GiB, measured {measured / _GIB:.3f} '
            f'GiB, predicted / measured = {predicted / measured:.3f}'
        )
