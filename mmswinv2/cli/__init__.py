"""The command `mmswinv2`: one name for all tools.

Commands without a module here are the scripts of `tools/`, called as a user would call them.
"""

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .. import __version__
from ..errors import UserError, nearest, report_user_errors
from ..options import NAME

SCRIPTS = {  # command: (script below tools/, what it does)
    'train': ('train.py', 'train a detector, segmentor or classifier, or pre-train a backbone'),
    'test': ('test.py', 'evaluate one: mAP, mIoU or top-1'),
    'swap': ('misc/swap_backbone.py', 'give a config of a host a SwinV2 backbone'),
    'convert': ('model_converters/convert_checkpoint.py', 'write weights with the keys used here'),
    'estimate': ('analysis_tools/estimate_memory.py', 'tell what memory a training takes'),
    'flops': ('analysis_tools/get_flops.py', 'count parameters and FLOPs'),
}
COMMANDS = {  # command: (module with `main(arguments)`, what it does)
    'completion': ('.completion', 'print the completion of these commands for a shell'),
    'convert': ('.convert', 'write weights with the keys used here, or labels as COCO'),
    'doctor': ('.doctor', 'look at versions, operators and GPU, and say how to mend them'),
    'export': ('.export', 'write a whole model as ONNX or for OpenVINO'),
    'predict': ('.predict', 'predict on images, folders, videos or a camera'),
    'report': ('.report', 'write a page on a training: curves, scores, errors, pictures'),
    'ui': ('.ui', 'predict on a page in the browser'),
}


def help_text() -> str:
    """What there is."""
    commands = {name: words for name, (_, words) in (SCRIPTS | COMMANDS).items()}
    return '\n'.join(
        (
            'usage: mmswinv2 COMMAND ...',
            '',
            *(f'  {name:12}{words}' for name, words in sorted(commands.items())),
            '',
            '`mmswinv2 COMMAND --help` says what its options do; --version tells which this is.',
        )
    )


def script(name: str) -> Path:
    """The script behind a command: in the wheel, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / '.mim' / 'tools', package.parent / 'tools')
    path = next((folder / SCRIPTS[name][0] for folder in folders if folder.is_dir()), None)
    if path is None:
        raise UserError(f'{package} comes without its tools; install it anew')
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process on a user's mistake."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ['--help']
    if command == 'help' and rest:
        command, *rest = rest[0], '--help'
    if command in ('-h', '--help', 'help'):
        print(help_text())
        return
    if command == '--version':
        print(f'mmswinv2 {__version__}')
        return
    with report_user_errors():
        if command in COMMANDS:
            import_module(COMMANDS[command][0], __name__).main(rest)
            return
        if command not in SCRIPTS:
            hint = nearest(command, (*COMMANDS, *SCRIPTS))
            raise UserError(f'{command!r} is no command of mmswinv2{hint}; see mmswinv2 --help')
    run_script(command, rest)


def run_script(command: str, arguments: Sequence[str]) -> None:
    """Run the script behind a command, under whose name it speaks; it reports mistakes itself."""
    with report_user_errors():
        path = script(command)
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), {NAME: f'mmswinv2 {command}'}, '__main__')
