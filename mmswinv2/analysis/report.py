"""Content of the page of `mmswinv2 report`, from a work dir, its config and its predictions."""

import math
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .. import hosts
from ..errors import UserError
from ..hosts.config_files import config_folders
from .figures import Figure, draw, heat_map
from .findings import Findings
from .predictions import examine
from .untrusted import check_imports
from .work_dir import Curve, WorkDir, differences, read_literals, step_of

MAIN_SCORES = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'mIoU': 'mIoU',
    'acc/top1': 'top-1',
    'accuracy/top1': 'top-1',
}
_LARGEST_MATRIX = 30  # most classes of a confusion matrix that is shown with its numbers
_MOST_CURVES = 9
_OF_THIS_RUN = ('work_dir', 'launcher')  # settings whose differences have no meaning


def content(
    work: WorkDir,
    predictions: Path | None,
    config: Path | None,
    score: float,
    pictures: int,
    options: dict[str, Any] | None,
) -> dict[str, Any]:
    """The variables of the report's template, from a work dir and `mmswinv2.cli.report`'s options.

    Raises:
        UserError: if the predictions or the config file cannot be used.
    """
    cfg = config_of(work)
    host = hosts.of(cfg or {})
    findings = matrix = None
    if predictions:
        tested = _test_config(work, cfg, predictions, options)
        findings = examine(tested, predictions, score, pictures, work.folder)
        matrix = findings.matrix
    large = matrix is not None and len(matrix.rows) > _LARGEST_MATRIX
    last = (work.trainings or work.runs)[-1]
    curves = work.curves()
    return dict(
        title=work.folder.resolve().name,
        task=host.kind_of_model,
        scope=host.name,
        config_name=work.config_name or '',
        facts=list(_facts(work, curves)),
        notes=list(_notes(work, cfg, predictions, curves.get('loss', []))),
        figures=list(_figures(curves, work.curves(validation=True))),
        scores=_score_tables(work),
        findings=findings,
        precision=findings
        and findings.precision
        and draw(
            'Precision over recall at IoU 0.5', _selected_curves(findings), 'recall', unit=True
        ),
        matrix=matrix,
        heat=heat_map(matrix.shares()) if matrix is not None and large else None,
        score=score,
        work_dir=shlex.quote(str(work.folder)),
        tested=cfg is None or cfg.get('test_dataloader') is not None,
        differences=_differences(work, cfg, config),
        config=work.config.read_text('utf-8', errors='replace') if work.config else '',
        environment=last.environment,
        command=last.command,
        tools=host.analysis_tools,
        written=f'{datetime.now():%Y-%m-%d %H:%M}',
    )


def config_of(work: WorkDir) -> Any:
    """The config of the training as mmengine's `Config`; ``None`` if missing or not literal."""
    found = read_literals(work.config) if work.config else None
    return None if found is None else Config(found, filename=str(work.config))


def _test_config(work: WorkDir, cfg: Any, predictions: Path, options: dict | None) -> Config:
    """The config of the training with `options`, to compare predictions with its test set."""
    from ..engine.configs import config_with_options, import_custom

    if cfg is None:
        raise UserError(
            f'{work.folder} has no config of the training to compare {predictions} with'
        )
    if cfg.get('custom_imports'):
        check_imports(cfg.custom_imports, work)
        import_custom(cfg.custom_imports)
    return config_with_options(cfg, options)


def _facts(work: WorkDir, curves: Mapping[str, Curve]) -> Iterator[tuple[str, str]]:
    """Names and values for the top of the page."""
    for _, scores in work.final_scores()[-1:]:
        yield from ((w, number(scores[key])) for key, w in MAIN_SCORES.items() if key in scores)
    if work.last_step:
        yield 'iterations', f'{work.last_step:,}'
    if seconds := sum(run.seconds for run in work.trainings):
        yield 'time', str(timedelta(seconds=round(seconds)))
    if times := sorted(value for _, value in curves.get('time', ())):
        yield 'an iteration', f'{times[len(times) // 2]:.3g} s'
    if memory := max((value for _, value in curves.get('memory', ())), default=0):
        yield 'GPU memory', f'{memory / 1024:.1f} GiB'


def _notes(work: WorkDir, cfg: Any, predictions: Path | None, losses: Curve) -> Iterator[str]:
    """Warnings on logs and predictions that limit what the report shows."""
    if lost := [step for step, loss in losses if not math.isfinite(loss)]:
        yield f'The loss is NaN or infinite, first at iteration {lost[0]:.0f}.'
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
    # overwriting maps does not change the time of their folder
    files = [*predictions.glob('*.png')] if predictions and predictions.is_dir() else [predictions]
    written = min((path.stat().st_mtime for path in files if path), default=math.inf)
    tests = (run.weights for run in work.runs if predictions and run.wrote(predictions))
    weights = ['', *tests][-1]
    if checkpoint and weights not in ('', checkpoint.name):
        yield f'The predictions are of {weights}, and the last checkpoint is {checkpoint.name}.'
    elif checkpoint and written < checkpoint.stat().st_mtime:
        yield f'The predictions in {predictions} are older than the checkpoint {checkpoint.name}.'
    if work.config and cfg is None:
        yield f'{work.config} is no config as mmengine writes it, and was not looked at.'


def _length(work: WorkDir, cfg: Any) -> tuple[int, int, str] | None:
    """Progress of the training, its planned length, and the unit of both."""
    train = (cfg or {}).get('train_cfg') or {}
    last = max(work.trainings[-1].training, key=step_of, default={})
    epochs, iterations = train.get('max_epochs'), train.get('max_iters')
    logger = ((cfg or {}).get('default_hooks') or {}).get('logger') or {}
    interval = logger.get('interval', 10)
    interval = interval if isinstance(interval, int) else 10
    # iterations after the last full interval are not logged
    if isinstance(epochs, int) and isinstance(last.get('epoch'), int):
        epoch, iteration, length = work.trainings[-1].last_epoch or (0, 0, 0)
        if epoch != last['epoch']:  # the end of the log does not tell it
            epoch, iteration, length = last['epoch'], 1, 1
        return epoch - (iteration <= length - interval), epochs, 'epoch'
    if isinstance(iterations, int):
        step = work.last_step
        return (iterations if step > iterations - interval else step), iterations, 'iteration'
    return None


def _figures(training: Mapping[str, Curve], validation: Mapping[str, Curve]) -> Iterator[Figure]:
    """Curves of losses, scores, learning rates, accuracies and gradients, where there are any."""
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
        if title == 'Validation scores':  # main scores first; a single point is no curve
            curves = {k: c for k, c in curves.items() if len(c) > 1}
            curves = {k: curves[k] for k in sorted(curves, key=lambda k: k not in MAIN_SCORES)}
        shown = dict(list(curves.items())[: 2 * _MOST_CURVES])
        if len(shown) < len(curves):
            title = f'{title}, {len(shown)} of {len(curves)}'
        if curves:
            yield draw(title, shown, 'iteration')


def _score_tables(work: WorkDir) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the final scores."""
    tables = work.final_scores()
    names = list(dict.fromkeys(name for _, scores in tables for name in scores))
    rows = [
        [name, *(number(scores[name]) if name in scores else '–' for _, scores in tables)]
        for name in names
    ]
    return ['score', *(words for words, _ in tables)], rows


def _selected_curves(findings: Findings) -> dict[str, list[tuple[float, float]]]:
    """Curves of all classes together, and of single classes; of many, only the best and worst."""
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
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Differences of the run from its config file, and of that from its bases, by heading."""
    from ..engine.configs import read_config

    recipes = config_folders('mmswinv2') if (name := work.config_name) else []
    own = (path for folder in recipes for path in sorted(folder.glob(f'*/{name}')))
    if (file := config or next(own, None)) is None:
        return []
    whole = read_config(file, import_custom_modules=False)
    if cfg is None:
        return []
    found = differences(_plain_config(whole), _plain_config(cfg))
    changed = [d for d in found if d[0] not in _OF_THIS_RUN]
    parts = [(f'What this run has changed of {file.name}', changed)]
    if bases := Config._get_base_files(str(file)):
        paths = [Config._get_cfg_path(base, str(file))[0] for base in bases]
        with tempfile.TemporaryDirectory() as place:
            joined = Path(place, 'joined.py')
            whole_paths = [str(Path(path).resolve()) for path in paths]
            joined.write_text(f'_base_ = {whole_paths!r}\n', 'utf-8')
            base = read_config(joined, import_custom_modules=False)
        names = ', '.join(Path(path).name for path in paths)
        parts.append(
            (
                f'What {file.name} changes of {names}',
                differences(_plain_config(base), _plain_config(whole)),
            )
        )
    return parts


def _plain_config(cfg: Any) -> dict[str, Any]:
    from ..engine.configs import add_preprocessor

    content: dict[str, Any] = cfg.to_dict()
    add_preprocessor(content)
    return content


def number(value: float) -> str:
    """Format a number for display: 0.498, 48.1, 12,000.0."""
    return f'{value:.3f}' if abs(value) < 2 else f'{value:,.1f}'
