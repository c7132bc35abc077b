"""Print a config in whole, with what it takes from others."""

from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import report_user_errors
from mmswinv2.options import ArgumentParser, add_config, add_config_options


def parse_args():
    parser = ArgumentParser(description=__doc__)
    add_config(parser)
    add_config_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    print(config_with_options(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    with report_user_errors():
        main()
