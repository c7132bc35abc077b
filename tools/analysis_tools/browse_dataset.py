"""Show what the pipeline of a config makes of its data, with the annotations.

Everything after the config goes to the script of the same name that mmdet, mmseg, mmaction2 or
mmpretrain brings along, whichever the config is of; `browse_dataset.py CONFIG --help` shows its
options (--output-dir and --not-show where there is no window; mmaction2 wants a folder).
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from mmswinv2 import hosts
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError, report_user_errors


def find_script(package):
    """The browse_dataset.py of a host's package, that in analysis_tools rather than another."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    folders = [Path(place, '.mim', 'tools') for place in places]
    found = [path for folder in folders for path in folder.rglob('browse_dataset.py')]
    if not found:
        raise UserError(f'{package} brings no browse_dataset.py along; reinstall it from its wheel')
    return str(min(found, key=lambda path: (path.parent.name != 'analysis_tools', str(path))))


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
    script = find_script(host.name)
    sys.argv = [script, cfg.filename, *sys.argv[2:]]
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    with report_user_errors():
        main()
