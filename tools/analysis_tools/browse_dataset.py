"""Show what the pipeline of a config makes of its data, with the annotations.

Everything after the config goes to the script of the same name that mmdet, mmseg, mmaction2 or
mmpretrain brings along, whichever the config is of; `browse_dataset.py CONFIG --help` shows its
options (--output-dir and --not-show where there is no window; mmaction2 wants a folder).
"""

import sys

from mmswinv2.compat_hosts import mend_host
from mmswinv2.engine.host_tools import run_host_tool
from mmswinv2.engine.launch import config_with_options
from mmswinv2.errors import UserError, told_in_a_sentence


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print(f'usage: browse_dataset.py CONFIG [options of the host]\n\n{__doc__}')
        return
    config = sys.argv[1]
    cfg = config_with_options(config, None)
    if cfg.default_scope == 'mmengine':
        raise UserError(f'{config} has no default_scope, which says whose data set it is')
    mend_host(cfg.default_scope)
    run_host_tool(cfg.default_scope, 'browse_dataset.py', sys.argv[1:])


if __name__ == '__main__':
    with told_in_a_sentence():
        main()
