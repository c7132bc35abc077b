"""Report on a training: one HTML file with curves, scores, errors, pictures and the config."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..analysis.figures import Figure
    from ..analysis.findings import Findings
    from ..analysis.work_dir import WorkDir

TASKS = {
    'mmdet': 'Detector',
    'mmseg': 'Segmentor',
    'mmaction': 'Video classifier',
    'mmpretrain': 'Image classifier',
}
MAIN_SCORES = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'mIoU': 'mIoU',
    'acc/top1': 'top-1',
    'accuracy/top1': 'top-1',
}
# in the hosts' folders .mim/tools/analysis_tools; `mim run HOST NAME ARGUMENTS` starts them
HOST_TOOLS = {
    'mmdet': 'confusion_matrix analyze_results coco_error_analysis analyze_logs benchmark',
    'mmseg': 'confusion_matrix analyze_logs benchmark',
    'mmaction': 'confusion_matrix report_accuracy analyze_logs benchmark',
    'mmpretrain': 'confusion_matrix analyze_results analyze_logs',
}
_LARGEST_MATRIX = 30  # classes of a confusion matrix that is written out with its numbers
_MOST_CURVES = 9
_OF_THIS_RUN = ('work_dir', 'launcher')  # no differences that mean anything


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
        predictions: what ``tools/test.py --out`` wrote; ``None``: that of `predict`, or of an
            earlier `predict`, if there is one.
        predict: run the test with this checkpoint first, or with the last one (``'last'``), and
            keep its predictions in the work dir.
        config: file of the config that was trained, to tell the differences from its ``_base_``;
            ``None``: the recipe of this package with the same name, if there is one.
        score: the least score of a box in counts and pictures.
        pictures: how many of the worst pictures are shown.
        cfg_options: as ``--cfg-options``, for the test set.

    Returns:
        the file.

    Raises:
        UserError: if the work dir has no logs, or the predictions do not fit.
    """
    from ..analysis.work_dir import read_work_dir

    if not 0 <= score <= 1:
        raise UserError(f'score must be from 0 to 1, got {score}')
    if pictures < 0:
        raise UserError(f'pictures must be at least 0, got {pictures}')
    if predict and predictions:
        raise UserError('give predictions, or let predict make them, not both')
    work = read_work_dir(work_dir)
    if predict:
        predictions = _run_test(work, predict, cfg_options or {})
        work = read_work_dir(work_dir)  # with the scores of the test
    elif predictions is None:
        found = (path for path in _predictions_of(work) if path.exists())
        predictions = next(found, None)
    content = _content(
        work,
        None if predictions is None else Path(predictions),
        None if config is None else Path(config),
        score,
        pictures,
        cfg_options,
    )
    return _write(Path(out or work.folder / 'report.html'), content)


def _predictions_of(work: WorkDir) -> tuple[Path, Path]:
    """Where predictions are kept: those of detectors and classifiers, and label maps."""
    return work.folder / 'predictions.pkl', work.folder / 'predictions'


def _run_test(work: WorkDir, checkpoint: str, options: dict[str, Any]) -> Path:
    """Run the test of the config in a process of its own; returns the file of predictions."""
    from .. import hosts
    from . import script

    path = work.checkpoint if checkpoint == 'last' else Path(checkpoint)
    if path is None:
        raise UserError(f'{work.folder} has no checkpoint; name one with --predict CHECKPOINT')
    cfg = _config(work)
    if cfg is None or work.config is None:
        raise UserError(f'{work.folder} has no config of the training to test')
    file, folder = _predictions_of(work)
    target = folder if hosts.of(cfg).dump_metric is None else file
    with tempfile.TemporaryDirectory() as place:
        # its name is that of the copy which the test leaves in the work dir
        copy = Path(place, work.config_name or work.config.name)
        shutil.copy(work.config, copy)
        command = [sys.executable, str(script('test')), str(copy), str(path)]
        command += ['--work-dir', str(work.folder), '--out', str(target)]
        if options:
            values = {
                k: v if isinstance(v, str) else repr(v).replace(' ', '') for k, v in options.items()
            }
            command += ['--cfg-options', *(f'{key}={value}' for key, value in values.items())]
        if subprocess.run(command, check=False).returncode:
            raise UserError(f'the test failed, see above: {shlex.join(command[1:])}')
    return target


def _config(work: WorkDir) -> Any:
    """The config of the training, as a config of mmengine; ``None`` where there is none."""
    from mmengine.config import Config

    from ..analysis.work_dir import read_literals

    content = read_literals(work.config) if work.config else None
    return None if content is None else Config(content, filename=str(work.config))


def _content(
    work: WorkDir,
    predictions: Path | None,
    config: Path | None,
    score: float,
    pictures: int,
    options: dict[str, Any] | None,
) -> dict[str, Any]:
    """All that the template shows."""
    from ..analysis.figures import draw, heat_map

    cfg = _config(work)
    scope = (cfg or {}).get('default_scope') or 'mmengine'
    findings = _findings(work, cfg, predictions, score, pictures, options) if predictions else None
    base, differences = _differences(work, cfg, config)
    matrix = findings.matrix if findings else None
    large = matrix is not None and len(matrix.rows) > _LARGEST_MATRIX
    last = (work.trainings or work.runs)[-1]
    return dict(
        title=f'{work.folder.resolve().name}',
        task=TASKS.get(scope, 'Training'),
        scope=scope,
        config_name=work.config_name or '',
        facts=list(_facts(work)),
        notes=list(_notes(work, cfg, predictions)),
        figures=list(_figures(work)),
        scores=_score_tables(work),
        findings=findings,
        precision=findings
        and findings.precision
        and draw('Precision over recall at IoU 0.5', _some(findings), 'recall', unit=True),
        matrix=matrix,
        heat=heat_map(matrix.shares()) if matrix is not None and large else None,
        score=score,
        work_dir=str(work.folder),
        base=base,
        differences=differences,
        config=work.config.read_text(errors='replace') if work.config else '',
        runs=work.runs,
        environment=last.environment,
        command=last.command,
        tools=HOST_TOOLS.get(scope, '').split(),
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
    )


def _findings(
    work: WorkDir,
    cfg: Any,
    predictions: Path,
    score: float,
    pictures: int,
    options: dict[str, Any] | None,
) -> Findings:
    from mmengine.utils import import_modules_from_strings

    from ..analysis.predictions import examine
    from ..engine.launch import with_options

    if cfg is None:
        raise UserError(
            f'{work.folder} has no config of the training to compare {predictions} with'
        )
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    cfg = with_options(cfg, str(work.config), options)
    return examine(cfg, predictions, score, pictures)


def _facts(work: WorkDir) -> Iterator[tuple[str, str]]:
    """Name and value of what stands at the top."""
    for _, scores in work.final_scores()[-1:]:
        yield from ((w, number(scores[key])) for key, w in MAIN_SCORES.items() if key in scores)
    if work.last_step:
        yield 'iterations', f'{work.last_step:,}'
    if seconds := sum(run.seconds for run in work.trainings):
        yield 'time', str(timedelta(seconds=round(seconds)))
    curves = work.curves()
    if times := sorted(value for _, value in curves.get('time', ())):
        yield 'an iteration', f'{times[len(times) // 2]:.3g} s'
    if memory := max((value for _, value in curves.get('memory', ())), default=0):
        yield 'GPU memory', f'{memory / 1024:.1f} GiB'


def _notes(work: WorkDir, cfg: Any, predictions: Path | None) -> Iterator[str]:
    """What a reader has to know before he trusts the rest."""
    if not work.trainings:
        yield 'There are no logs of a training here, only of tests.'
    elif (total := _length(work, cfg)) and total[0] < total[1]:
        yield (
            f'The training is not finished, or was stopped: the logs end at {total[2]} {total[0]} '
            f'of {total[1]}.'
        )
    if broken := sum(run.broken for run in work.runs):
        lines = 'line of the logs is' if broken == 1 else 'lines of the logs are'
        yield f'{broken} {lines} cut short and left out, as where a run was killed.'
    if len(work.trainings) > 1:
        starts = ', '.join(run.name for run in work.trainings)
        yield f'The training was resumed: its parts are {starts}.'
    checkpoint = work.checkpoint
    if predictions and checkpoint and predictions.stat().st_mtime < checkpoint.stat().st_mtime:
        yield f'The predictions in {predictions} are older than the checkpoint {checkpoint.name}.'
    if work.config and cfg is None:
        yield f'{work.config} is no config as mmengine writes it, and was not looked at.'


def _length(work: WorkDir, cfg: Any) -> tuple[int, int, str] | None:
    """How far the training came, how far it was to go, and in what."""
    train = (cfg or {}).get('train_cfg') or {}
    last = work.trainings[-1].training[-1]
    epochs, iterations = train.get('max_epochs'), train.get('max_iters')
    interval = ((cfg or {}).get('default_hooks') or {}).get('logger', {}).get('interval', 10)
    if isinstance(epochs, int) and isinstance(last.get('epoch'), int):
        return last['epoch'], epochs, 'epoch'
    if isinstance(iterations, int) and isinstance(interval, int):
        step = work.last_step  # the last iterations of a training are mostly not logged
        return (iterations if step > iterations - interval else step), iterations, 'iteration'
    return None


def _figures(work: WorkDir) -> Iterator[Figure]:
    from ..analysis.figures import draw

    training, validation = work.curves(), work.curves(validation=True)
    losses = {key: curve for key, curve in training.items() if 'loss' in key}
    losses = {key: losses[key] for key in sorted(losses, key=lambda key: key != 'loss')}
    rates = {key: curve for key, curve in training.items() if key == 'lr' or key.endswith('.lr')}
    accuracy = {k: curve for k, curve in training.items() if 'acc' in k.rpartition('.')[2]}
    groups = {
        'Training loss': losses,
        'Validation scores': validation,
        'Learning rate': rates,
        'Accuracy on training batches': accuracy,
        'Norm of the gradient': {k: c for k, c in training.items() if k == 'grad_norm'},
    }
    for title, curves in groups.items():
        if title == 'Validation scores':  # the main ones first; one point is no curve
            curves = {k: c for k, c in curves.items() if len(c) > 1}
            curves = {k: curves[k] for k in sorted(curves, key=lambda k: k not in MAIN_SCORES)}
        if curves:
            yield draw(title, dict(list(curves.items())[: 2 * _MOST_CURVES]), 'iteration')


def _score_tables(work: WorkDir) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the final scores."""
    tables = work.final_scores()
    names = list(dict.fromkeys(name for _, scores in tables for name in scores))
    rows = [
        [name, *(number(scores[name]) if name in scores else '–' for _, scores in tables)]
        for name in names
    ]
    return ['score', *(words for words, _ in tables)], rows


def _some(findings: Findings) -> dict[str, list[tuple[float, float]]]:
    """Curves of all classes together and, of many classes, of the best and the worst."""
    curves = findings.precision
    together = [name for name in curves if name.startswith('all classes')]
    single = sorted((n for n in curves if n not in together), key=lambda n: -curves[n].mean())
    room = _MOST_CURVES - len(together)
    if len(single) > room:
        single = [*single[: room // 2], *single[-(room - room // 2) :]]
    return {
        name: [(i / (len(curves[name]) - 1), float(v)) for i, v in enumerate(curves[name])]
        for name in (*together, *single)
    }


def _differences(
    work: WorkDir, cfg: Any, config: Path | None
) -> tuple[str, list[tuple[str, list[tuple[str, str, str]]]]]:
    """The file that the config is compared with, and what differs, under headings."""
    from mmengine.config import Config

    from ..analysis.work_dir import differences

    if config is not None and not config.is_file():
        raise UserError(f'the config {config} does not exist')
    file = config or _recipe(work.config_name)
    if file is None or cfg is None:
        return '', []
    whole = Config.fromfile(str(file), import_custom_modules=False)
    found = differences(_plain(whole), _plain(cfg))
    changed = [d for d in found if d[0] not in _OF_THIS_RUN]
    parts = [(f'What this run has changed of {file.name}', changed)]
    if bases := Config._get_base_files(str(file)):
        paths = [Config._get_cfg_path(base, str(file))[0] for base in bases]
        with tempfile.TemporaryDirectory() as place:
            joined = Path(place, 'joined.py')
            joined.write_text(f'_base_ = {[str(Path(path).resolve()) for path in paths]!r}\n')
            base = Config.fromfile(str(joined), import_custom_modules=False)
        names = ', '.join(Path(path).name for path in paths)
        parts.append(
            (f'What {file.name} changes of {names}', differences(_plain(base), _plain(whole)))
        )
    return file.name, parts


def _plain(cfg: Any) -> dict[str, Any]:
    content = cfg.to_dict()
    if content.get('data_preprocessor') and isinstance(content.get('model'), dict):
        content['model'].setdefault('data_preprocessor', content['data_preprocessor'])
    return content


def _recipe(name: str | None) -> Path | None:
    """The recipe of this package of a name."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / '.mim' / 'configs', package.parent / 'configs'):
        if folder.is_dir() and name:
            return next(iter(sorted(folder.glob(f'*/{Path(name).name}'))), None)
    return None


def number(value: float) -> str:
    """A score for people: 0.498, 48.1, 12,000."""
    return f'{value:.3f}' if abs(value) < 2 else f'{value:,.1f}'


def _write(out: Path, content: dict[str, Any]) -> Path:
    from ..checkpoints.write import write_atomically

    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise UserError('reports need jinja2: pip install jinja2') from error
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
    from ..engine.settings import add_config_options

    tools = '\n'.join(f'  {host:11}{names}' for host, names in HOST_TOOLS.items())
    parser = argparse.ArgumentParser(
        'mmswinv2 report',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Write a report on a training: one HTML file that needs no other.\n\n'
        'Curves, scores, environment and config are read from the work dir, of which nothing is\n'
        'run. Scores of classes, confusion matrix, kinds of errors and the worst pictures need\n'
        'predictions on the test set: --predict makes them and keeps them in the work dir, where\n'
        'later reports find them; --predictions names others. Without any, these parts are left\n'
        'out. Start it in the folder where the training was started, as paths of data are\n'
        'relative to it.',
        epilog='example: mmswinv2 report work_dirs/run --predict\n\n'
        "the hosts' own tools (mim run HOST NAME ..., from HOST/.mim/tools/analysis_tools):\n"
        f'{tools}',
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
        '--predictions', help='what mmswinv2 test --out wrote: a .pkl, or a folder of label maps'
    )
    parser.add_argument(
        '--config',
        help='the config file that was trained, to tell what it changes of its _base_ (a recipe '
        'of mmswinv2 of the same name)',
    )
    parser.add_argument(
        '--score', type=float, default=0.3, help='least score of a box in counts (0.3)'
    )
    parser.add_argument('--pictures', type=int, default=8, help='how many of the worst (8)')
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 report``."""
    args = vars(parse_args(arguments))
    print(f'the report is {report(args.pop("work_dir"), args.pop("out"), **args)}')
