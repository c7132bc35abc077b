"""The command `mmswinv2`: one name for all tools."""

import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..errors import UserError, nearest, report_user_errors

COMMANDS = {  # the module of this folder with `main(arguments)`: what it does
    'completion': 'complete these commands and their options in a shell',
    'convert': "write labels in COCO's format, or weights with the keys used here",
    'doctor': 'check the installation, and say how to repair it',
    'estimate': 'predict the memory that a training takes',
    'export': 'write a whole model as ONNX or for OpenVINO',
    'flops': 'count parameters and multiply-adds',
    'predict': 'predict on images, folders, videos or a camera',
    'report': 'show a training on a page: curves, scores, errors, pictures',
    'swap': 'give a config of a host a SwinV2 backbone',
    'test': 'evaluate a trained model: mAP, mIoU or top-1',
    'train': 'train a detector, segmentor or classifier, or pre-train a backbone',
    'ui': 'try a model on a page in the browser',
}
_ADVICE = {  # what to do after a command was stopped
    'predict': 'the results so far are kept',
    'train': 'checkpoints that were complete are kept; go on with --resume if there are any',
}
_PLACES = {  # the option that names what a command writes
    'export': '--out',
    'predict': '--out-dir',
    'report': '--out',
    'swap': '-o',
    'test': '--work-dir',
    'train': '--work-dir',
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that `arguments` begin with; ends the process on a user's mistake."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ['--help']
    if command == 'help' and rest:
        command, *rest = rest[0], '--help'
    run(command, rest)


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command; scripts of ``tools/`` call this. Ends the process on a user's mistake.

    Args:
        command: one of `COMMANDS`, ``--help`` or ``--version``.
        arguments: its own; those of the process if ``None``.
    """
    with report_user_errors(_ADVICE.get(command, ''), _PLACES.get(command, '')):
        if command in ('-h', '--help', 'help'):
            print(
                'usage: mmswinv2 COMMAND ...\n',
                *(f'  {name:12}{words}' for name, words in COMMANDS.items()),
                '\n`mmswinv2 COMMAND --help` says what its options do; --version tells which this '
                'is.',
                sep='\n',
            )
            return
        if command == '--version':
            print(f'mmswinv2 {__version__}')
            return
        if command not in COMMANDS:
            hint = nearest(command, COMMANDS)
            raise UserError(f'{command!r} is no command of mmswinv2{hint}; see mmswinv2 --help')
        module = import_module(f'.{command}', __name__)
        module.main(sys.argv[1:] if arguments is None else arguments)
