"""Read logs, environment, command and config of the runs in a work dir of mmengine."""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checks import is_number
from ..errors import UserError
from ..files import find
from ..hosts.configs import join_path
from ..option_values import plain_value

Curve = list[tuple[float, float]]  # (step, value)

_RULE = re.compile(r'^-{20,}$', re.MULTILINE)
_STAMP = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ', re.MULTILINE)
_NO_SCORES = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory', 'lr', 'base_lr')
_LOG_CHARACTERS = 2**20  # covers header and config of a log, which may be huge


@dataclass
class Run:
    """One run of a tool in a work dir, logged in a folder named by its start time."""

    folder: Path  # WORK_DIR/TIME
    training: list[dict[str, Any]] = field(default_factory=list)  # entries of the log, in order
    validation: list[dict[str, Any]] = field(default_factory=list)  # each with its training step
    placed: bool = True  # whether the log says at which steps the validations are
    broken: int = 0  # number of log lines that cannot be read, such as after a run was killed

    @property
    def steps(self) -> list[dict[str, Any]]:
        """All log entries of a training; none of a test. A short one may have scores alone."""
        return self.training + self.validation

    @property
    def name(self) -> str:
        """The start time, which names the folder."""
        return self.folder.name

    @cached_property
    def _log(self) -> tuple[str, str]:
        """First and last part of the log file."""
        path = self.folder / f'{self.name}.log'
        if not path.is_file():
            return '', ''
        with path.open('rb') as file:
            head = file.read(_LOG_CHARACTERS)
            file.seek(max(0, path.stat().st_size - 2**16))
            return head.decode(errors='replace'), file.read().decode(errors='replace')

    @property
    def environment(self) -> list[tuple[str, str]]:
        """Names and values in the header of the log file, without torch's compile flags."""
        parts = _RULE.split(self._log[0], 2)
        lines = parts[1].splitlines() if len(parts) == 3 else []
        found = (re.match(r' {4}(\S[^:]*): (.*)$', line) for line in lines)
        return [
            (match[1], match[2])
            for match in found
            if match and match[1] != 'PyTorch compiling details'
        ]

    @property
    def last_epoch(self) -> tuple[int, int, int] | None:
        """Epoch, iteration in it, and iterations of an epoch, of the last line on training."""
        found = re.findall(r'Epoch\(train\) +\[(\d+)\]\[ *(\d+)/(\d+)\]', ''.join(self._log))
        if not found:
            return None
        epoch, iteration, length = map(int, found[-1])
        return epoch, iteration, length

    @property
    def command(self) -> str | None:
        """The command line; ``None`` if the log does not have it."""
        from ..engine.launch import COMMAND

        found = re.search(rf' - {re.escape(COMMAND)}(.*)$', self._log[0], re.MULTILINE)
        return found[1] if found else None

    @property
    def seconds(self) -> float:
        """Seconds from the first line of the log file to the last."""
        times = [_STAMP.findall(text) for text in self._log]
        if not all(times):
            return 0.0
        begin, end = (
            datetime.strptime(t, '%Y/%m/%d %H:%M:%S') for t in (times[0][0], times[1][-1])
        )
        return (end - begin).total_seconds()

    @property
    def config(self) -> Path | None:
        """The file of the whole config; ``None`` if missing."""
        path = self.folder / 'vis_data' / 'config.py'
        return path if path.is_file() else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The whole config; empty if it is missing or has more than plain values."""
        return (self.config and read_literals(self.config)) or {}

    @property
    def weights(self) -> str:
        """The name of the checkpoint that a test was of; empty if unknown."""
        return Path(str(self.settings.get('load_from') or '')).name

    def wrote(self, predictions: Path) -> bool:
        """Whether a test wrote its predictions to a file or folder of this name."""
        values = (value.strip('\'"') for _, value in _flat(self.settings))
        return not self.steps and any(Path(value).name == predictions.name for value in values)

    @property
    def test_scores(self) -> dict[str, float]:
        """Scores of the test; empty if the run was no test."""
        path = self.folder / f'{self.name}.json'
        if not path.is_file():
            return {}
        return _scores(next(filter(None, _entries(path.read_text('utf-8', errors='replace'))), {}))


@dataclass
class WorkDir:
    """The runs of a work dir."""

    folder: Path
    runs: list[Run]  # by start time, from the last training that did not resume an earlier one

    @property
    def trainings(self) -> list[Run]:
        """The runs of the training that is reported: the first one, and those that resumed it."""
        losses = any(run.training for run in self.runs)
        # scores alone are of a short training, of one that was resumed shortly, or of a validation
        return [
            run
            for run in self.runs
            if run.training or (run.validation and (not losses or _resumes(run)))
        ]

    @property
    def config(self) -> Path | None:
        """The config of the last training, or of the last test if there was no training."""
        runs = self.trainings or self.runs
        own = (path for run in reversed(runs) if (path := run.config) is not None)
        return next(own, self._copied_config)

    @property
    def _copied_config(self) -> Path | None:
        """The copy of the config file that was given, the newest of several."""
        found = (path for path in find(self.folder, '*.py') if path.is_file())
        return max(found, key=lambda path: path.stat().st_mtime, default=None)

    @property
    def config_name(self) -> str | None:
        """The name of the config file that was given."""
        path = self._copied_config
        return path.name if path else None

    @property
    def checkpoint(self) -> Path | None:
        """The last checkpoint."""
        from ..engine.start import last_good_checkpoint

        return last_good_checkpoint(self.folder)

    @property
    def last_step(self) -> int:
        """The last iteration that was logged."""
        return max((int(step_of(e)) for run in self.trainings for e in run.steps), default=0)

    def curves(self, validation: bool = False) -> dict[str, Curve]:
        """Logged numbers by name, over the steps of training; resumed runs are joined.

        What a run logged after the step from which it was resumed is left out.
        """
        found: dict[str, Curve] = {}
        for run in self.trainings:
            entries, others = run.training, run.validation
            if validation:
                entries, others = others, entries
            first, seen = (step_of(e[0]) if e else math.inf for e in (entries, others))
            for curve in found.values():
                curve[:] = [point for point in curve if point[0] < first and point[0] <= seen]
            for entry in entries:
                step = step_of(entry)
                numbers = _scores(entry) if validation else _numbers(entry)
                for key, value in numbers.items():
                    found.setdefault(key, []).append((step, value))
        return {key: curve for key, curve in found.items() if curve}

    def final_scores(self) -> list[tuple[str, dict[str, float]]]:
        """Scores of the last validation and the last test, each with a description, in order."""
        found = []
        ends = {key: curve[-1] for key, curve in self.curves(validation=True).items()}
        if ends:
            last = max(step for step, _ in ends.values())
            scores = {key: value for key, (step, value) in ends.items() if step == last}
            found.append((f'validation at iteration {last:.0f}', scores))
        tests = [run for run in self.runs if run.test_scores]
        if tests:
            of = f', {tests[-1].weights}' if tests[-1].weights else ''
            tested = f'test of {tests[-1].name}{of}', tests[-1].test_scores
            if found and tests[-1].name < self.trainings[-1].name:  # the training went on
                found.insert(0, tested)
            else:
                found.append(tested)
        return found


def read_work_dir(path: str | Path) -> WorkDir:
    """Read the logs in a work dir; raises `UserError` if it does not exist or has none."""
    folder = Path(path)
    if not folder.is_dir():
        what = 'is a file' if folder.exists() else 'does not exist'
        raise UserError(f'the work dir {path} {what}')
    logs = (path for path in sorted(folder.glob('*/vis_data/scalars.json')) if path.is_file())
    runs = [read_run(path.parents[1]) for path in logs]  # reading a pipe would wait for ever
    known = {run.folder for run in runs}
    tests = [p.parent for p in sorted(folder.glob('*/*.json')) if p.stem == p.parent.name]
    runs += [Run(test) for test in tests if test not in known]
    runs.sort(key=lambda run: run.name)
    if not any(run.steps or run.test_scores for run in runs):
        below = sorted(p.parents[2] for p in folder.glob('*/*/vis_data/scalars.json'))
        hint = f'; there is {below[0]}' if below else ''
        if begun := [p for p in sorted(folder.glob('*/*.log')) if p.stem == p.parent.name]:
            raise UserError(f'{path} has no losses or scores so far; see {begun[-1]}')
        raise UserError(
            f'{path} has no logs of a training or test (TIME/vis_data/scalars.json){hint}; name '
            'the --work-dir of tools/train.py'
        )
    new = [i for i, run in enumerate(runs) if run.steps and not _resumes(run)]
    started = [i for i in new if runs[i].training] or new
    runs = runs[started[-1] :] if started else runs
    done = 0.0
    for run in runs:
        if not run.placed:  # validations before the first logged loss of a resumed run
            least = min([done, *map(step_of, run.training[:1])])
            for entry in run.validation:
                entry['step'] = max(least, step_of(entry))
        done = max([done, *map(step_of, run.steps)])
    return WorkDir(folder, runs)


def read_run(folder: Path, scalars: Path | None = None) -> Run:
    """Read the log of a run in ``WORK_DIR/TIME``: ``vis_data/scalars.json`` there, or `scalars`."""
    from ..engine.config_checks import by_iterations

    run = Run(folder)
    logger = (run.settings.get('default_hooks') or {}).get('logger') or {}
    length = 1
    if logger.get('log_metric_by_epoch', True):  # the step of scores is the epoch
        epochs = None if by_iterations(run.settings) else run.last_epoch
        run.placed, length = bool(epochs), epochs[2] if epochs else 1
    step = 0.0
    scalars = scalars or folder / 'vis_data/scalars.json'
    for entry in _entries(scalars.read_text('utf-8', errors='replace')):
        if entry is None:
            run.broken += 1
        elif any(key == 'lr' or key.endswith('.lr') for key in entry):
            run.training.append(entry)
            step = step_of(entry)
        else:
            own = step_of(entry) * length
            run.validation.append({**entry, 'step': own if run.placed else max(step, own)})
    return run


def _entries(text: str) -> Iterator[dict[str, Any] | None]:
    """The entries of a log; ``None`` for a line that is not a JSON object."""
    for line in text.splitlines():
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            yield entry if isinstance(entry, dict) else None


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in entry.items() if is_number(value)}


def _scores(entry: Mapping[str, Any]) -> dict[str, float]:
    """The scores of an entry, without -1, which COCO gives for sizes without objects."""
    numbers = _numbers(entry)
    return {k: v for k, v in numbers.items() if k not in _NO_SCORES and v != -1}


def step_of(entry: Mapping[str, Any]) -> float:
    """The step of an entry of a log; 0 where it is missing or no number."""
    step = entry.get('step', 0)
    return float(step) if is_number(step) and math.isfinite(step) else 0.0


def _resumes(run: Run) -> bool:
    return bool(run.settings.get('resume'))


def read_literals(path: str | Path) -> dict[str, Any] | None:
    """Read a config as mmengine dumps it, without running it.

    Values by name; ``None`` if the file has anything but assignments of plain values, or a
    ``_base_``, which a dump never has and which mmengine would run.
    """
    found = {}
    try:
        for node in ast.parse(Path(path).read_text('utf-8', errors='replace')).body:
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                return None
            found[node.targets[0].id] = plain_value(node.value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return None if '_base_' in found else found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Settings that differ: dotted name, old value, new value; ``'—'`` for a missing setting.

    Dotted names contain indices of list items.
    """
    before, after = dict(_flat(old)), dict(_flat(new))
    names = [*before, *(name for name in after if name not in before)]
    values = ((n, before.get(n, '—'), after.get(n, '—')) for n in names)
    return [(name, was, now) for name, was, now in values if was != now]


def _has_mapping(node: Any) -> bool:
    if isinstance(node, (list, tuple)):
        return any(map(_has_mapping, node))
    return isinstance(node, Mapping)


def _flat(node: Any, name: str = '') -> Iterator[tuple[str, str]]:
    if _has_mapping(node) and node:
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in items:
            yield from _flat(value, join_path(name, key))
    else:  # a dump does not keep lists and tuples apart
        yield name, repr(list(node) if isinstance(node, tuple) else node)
