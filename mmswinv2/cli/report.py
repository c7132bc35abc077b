"""Report on a training: one HTML file with curves, scores, errors, pictures and the config."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..checks import want
from ..errors import UserError, report_user_errors
from ..files import write_atomically
from ..options import ArgumentParser, add_config_options


def report(
    work_dir: str | Path,
    out: str | Path | None = None,
    *,
    predictions: str | Path | None = None,
    predict: str | None = None,
    config: str | Path | None = None,
    score: float = 0.3,
    pictures: int = 8,
    cfg_options: dict[str, Any] | None = None,
) -> Path:
    """Write a report on the training in a work dir.

    Args:
        work_dir: the ``--work-dir`` of ``tools/train.py``.
        out: the file to write; ``None``: ``report.html`` in the work dir.
        predictions: predictions from ``tools/test.py --out``; ``None``: those of `predict`, or of
            an earlier `predict`, if there are any.
        predict: run the test with this checkpoint first, or with the last one (``'last'``), and
            keep its predictions in the work dir.
        config: file of the config that was trained, to show how it differs from its ``_base_``;
            ``None``: the config of this package with the same name, if there is one.
        score: lowest score of a box in counts and pictures.
        pictures: how many of the worst pictures are shown.
        cfg_options: changes to the config as for ``--cfg-options``, for the test set.

    Returns:
        path of the report.

    Raises:
        UserError: if the work dir has no logs, or the predictions do not fit.
    """
    from .. import hosts
    from ..analysis.report import content
    from ..analysis.work_dir import read_work_dir
    from ..inference.predict import check_score

    check_score(score)
    want('pictures', pictures, 'at least 0', pictures >= 0)
    if predict and predictions:
        raise UserError('give predictions, or let predict make them, not both')
    work = read_work_dir(work_dir)
    source = None if config is None else hosts.find_config(config)  # before a test of hours
    if predict:
        predictions = _run_test(work, predict, cfg_options)
        work = read_work_dir(work_dir)  # now with the scores of the test
    kept = _found_predictions(work) if predictions is None else Path(predictions)
    options = (source, score, pictures, cfg_options)
    try:
        shown = content(work, kept, *options)
    except UserError as error:
        if kept is None or predictions is not None:
            raise
        shown = content(work, None, *options)
        shown['notes'].append(f'The predictions in {kept} are left out: {error}')
    return _write(Path(out or _own(work.folder / 'report.html')), shown)


def _own(path: Path) -> Path:
    """A place to write to in a work dir; raises `UserError` for links, which may lead anywhere."""
    for link in (found for found in (path, *path.glob('*')) if found.is_symlink()):
        raise UserError(
            f'{link} is a link to {link.readlink()}, which would be written over; remove the link'
        )
    return path


def _place_of_predictions(work: Any, host: Any) -> Path:
    """Where predictions are kept: in a pickle, or as label maps in a folder."""
    return work.folder / ('predictions' if host.dump_metric is None else 'predictions.pkl')


def _found_predictions(work: Any) -> Path | None:
    """Path of kept predictions; ``None`` if there are none or their host is not installed."""
    from .. import hosts
    from ..analysis.report import config_of

    host = hosts.of(config_of(work) or {})
    path = _place_of_predictions(work, host)
    return path if path.exists() and find_spec(host.name) is not None else None


def _run_test(work: Any, checkpoint: str, options: dict[str, Any] | None) -> Path:
    """Run the test of the config in a process of its own; returns the file of predictions."""
    from .. import hosts
    from ..analysis.report import config_of
    from ..analysis.untrusted import check_imports, check_types
    from ..checkpoints import fetch
    from ..engine.configs import config_with_options

    path = work.checkpoint if checkpoint == 'last' else checkpoint
    if path is None:
        raise UserError(f'{work.folder} has no checkpoint; name one with --predict CHECKPOINT')
    cfg = config_of(work)
    if cfg is None or work.config is None:
        raise UserError(f'{work.folder} has no config of the training to test')
    check_imports(cfg.get('custom_imports') or {}, work)
    check_types(cfg, cfg.to_dict(), 'the config')
    weights = fetch(path)
    if not weights.exists():
        raise UserError(f'the checkpoint {weights} does not exist')
    target = _own(_place_of_predictions(work, hosts.of(cfg)))
    with tempfile.TemporaryDirectory() as place:
        # a test keeps the config of this name that is in the work dir
        copy = Path(place, work.config_name or work.config.name)
        config_with_options(cfg, options).dump(copy)
        # -c alone would look for modules in the present folder, which may be the work dir
        code = f'import sys; sys.path = {sys.path!r}; import {__name__} as own; own.run_test()'
        command = [sys.executable, '-c', code, str(copy), str(weights)]
        command += ['--work-dir', str(work.folder), '--out', str(target)]
        # nor would processes that it starts
        own = {**os.environ, 'PYTHONSAFEPATH': '1'}
        failed = subprocess.run(command, check=False, env=own).returncode
        if failed:
            raise UserError('the test failed, see above')
    return target


def run_test() -> None:
    """The command ``mmswinv2 test`` for a config of a work dir, which is read and not run."""
    from mmengine.config import Config

    from ..analysis.untrusted import only_registered_types
    from ..analysis.work_dir import read_literals
    from ..engine.configs import import_custom
    from . import test

    with report_user_errors(option='--work-dir'):
        args = test.parse_args(sys.argv[1:])
        sys.argv[:1] = ['mmswinv2', 'test']  # for the log, from which a report has the command
        args.config = Config(read_literals(args.config), filename=args.config)
        if args.config.get('custom_imports'):
            import_custom(args.config.custom_imports)
        with only_registered_types(Path(args.work_dir)):
            test.evaluate(args)


def _write(out: Path, content: dict[str, Any]) -> Path:
    """Write the page from its template; returns its path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from ..analysis.report import number

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template('report.html.j2').render(number=number, **content)
    if out.is_dir():
        raise UserError(f'--out {out} is a folder; name a file, such as {out / "report.html"}')
    try:
        write_atomically(out, lambda file: file.write(text.encode(errors='replace')))
    except OSError as error:
        raise UserError(f'{out} cannot be written ({error.strerror})') from error
    return out


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 report',
        as_written=True,
        description='Write a report on a training: one HTML file that needs no other.\n\n'
        'Curves, scores, environment and config are read from the work dir, of which nothing is\n'
        'run. Scores of classes, confusion matrix, kinds of errors and the worst pictures need\n'
        'predictions on the test set: --predict makes them and keeps them in the work dir, where\n'
        'later reports find them; --predictions names others. Without any, these parts are left\n'
        'out. Start it in the folder where the training was started, as paths of data are\n'
        'relative to it.',
        epilog='example: mmswinv2 report work_dirs/run --predict',
    )
    parser.add_argument('work_dir', help='the --work-dir of the training')
    parser.add_argument('--out', help='file to write (WORK_DIR/report.html)')
    parser.add_argument(
        '--predict',
        nargs='?',
        const='last',
        metavar='CHECKPOINT',
        help='run the test first, with the last checkpoint or another, and keep its predictions '
        'as WORK_DIR/predictions.pkl (segmentors: the folder WORK_DIR/predictions)',
    )
    parser.add_argument(
        '--predictions',
        help='what mmswinv2 test --out wrote: a .pkl, or a folder of label maps (in WORK_DIR)',
    )
    parser.add_argument(
        '--config',
        help='the config file that was trained, to tell what it changes of its _base_ (a recipe '
        'of mmswinv2 of the same name)',
    )
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='least score of a box in counts and pictures, 0 to 1 (0.3)',
    )
    parser.add_argument(
        '--pictures', type=int, default=8, help='how many of the worst pictures to show (8)'
    )
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 report``."""
    args = vars(parse_args(arguments))
    print(f'the report is {report(args.pop("work_dir"), args.pop("out"), **args)}')
