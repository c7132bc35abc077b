"""Show what the pipeline of a config makes of its data, with the annotations.

Everything after the config goes to the script of the same name that mmdet, mmseg, mmaction2 or
mmpretrain brings along, whichever the config is of; `browse_dataset.py CONFIG --help` shows its
options (--output-dir and --not-show where there is no window; mmaction2 wants a folder).
"""

import sys

from mmswinv2 import hosts
from mmswinv2.engine.launch import config_with_options
from mmswinv2.errors import UserError, report_user_errors


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print(f'usage: browse_dataset.py CONFIG [options of the host]\n\n{__doc__}')
        return
    config = sys.argv[1]
    cfg = config_with_options(config, None)
    host = hosts.of(cfg)
    if host.name == 'mmengine':
        raise UserError(f'{config} has no default_scope, which says whose data set it is')
    host.apply()
    host.run_script('browse_dataset.py', [cfg.filename, *sys.argv[2:]])


if __name__ == '__main__':
    with report_user_errors():
        main()
