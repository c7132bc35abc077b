"""Count the multiply-adds of a config's model, by part, and its parameters.

A multiply-add counts as one, as in published tables. The backbone runs on tensors without content,
the rest of the model on random ones.
"""

import argparse
from collections.abc import Sequence

from ..options import ArgumentParser, add_config, add_config_options, add_shape


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 flops',
        description=__doc__,
        epilog='example: mmswinv2 flops config.py --shape 800 1344',
    )
    add_config(parser)
    add_shape(parser)
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 flops``."""
    args = parse_args(arguments)
    from ..analysis.model import count_flops, count_parameters
    from ..engine.configs import config_with_options
    from ..hosts import input_size

    cfg = config_with_options(args.config, args.cfg_options)
    size = input_size(cfg, args.shape)
    counts, parameters = count_flops(cfg, size), count_parameters(cfg)  # hosts print at imports
    split_line = '=' * 30
    axes = ' '.join('THW'[-len(size) :])
    note = '' if args.shape else f', that of training; --shape {axes} for another'
    print(f'{split_line}\nInput shape: {size}{note}')
    # the names of the lines that get_flops.py of mmdet, mmseg and mmpretrain prints
    for name, flops in counts.items():
        print(f'{"Flops" if name == "total" else "  " + name}: {flops / 1e9:.3f} G')
    print(f'Params: {parameters / 1e6:.3f} M\n{split_line}')
