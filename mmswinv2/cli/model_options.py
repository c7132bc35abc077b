"""Options of the commands that predict."""

import argparse


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes that predicts: the model, and how it is run and drawn."""
    from ..engine.settings import add_config_options

    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='weights of the whole model')
    parser.add_argument('--score', type=float, default=0.3, help='least score of a box (0.3)')
    parser.add_argument('--device', help='such as cuda:1 or cpu')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    add_config_options(parser)
