"""What `benchmarks.reproduce` has measured, as tables and plots."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .norm import largest

Row = dict[str, Any]
MOST = 3.0
COLORS = {'V1': '#d9641e', 'V2': '#1f4e9c'}


def read(folder: Path) -> dict[str, list[Row]]:
    """Rows of each experiment, with their seeds.

    Raises:
        SystemExit: if there are none, or if seeds of an experiment were run with other settings.
    """
    rows: dict[str, list[Row]] = defaultdict(list)
    settings: dict[str, Row] = {}
    for path in sorted(folder.glob('*-*.json')):
        record = json.loads(path.read_text())
        name = record['experiment']
        if settings.setdefault(name, record['settings']) != record['settings']:
            raise SystemExit(f'{path} has other settings than the seeds before it; remove it')
        rows[name] += [dict(row, seed=record['seed']) for row in record['rows']]
    if not rows:
        raise SystemExit(f'{folder} holds no results; run this without --report')
    return rows


def groups(rows: Iterable[Row], *keys: str) -> dict[Any, list[Row]]:
    """Rows that agree in `keys`, those of the seeds, in order of their first."""
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]].append(row)
    return found


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Mean, lowest and highest."""
    values = list(values)
    numbers = (statistics.fmean(values), min(values), max(values))
    return '{:.{d}f} ({:.{d}f} to {:.{d}f})'.format(*numbers, d=digits)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return ''.join(f'| {" | ".join(row)} |\n' for row in [head, ['---'] * len(head), *rows])


def tell_norm(rows: list[Row]) -> str:
    first = min(row['lr'] for row in rows)
    slow = [row for row in rows if row['lr'] == first]
    lines = []
    for (design, size), some in groups(slow, 'design', 'size').items():
        start = spread((r['start'][-1] / r['start'][0] for r in some), 2)
        lines.append([design, size, start, spread((r['growth'] for r in some), 2),
                      spread((max(r['end']) for r in some), 2)])  # fmt: skip
    head = ('block', 'network', 'last / first, at the start', 'last / first, trained', 'largest')
    text = table(head, lines) + '\n'
    rates = sorted({row['lr'] for row in rows})
    swept = max(groups(rows, 'size').values(), key=len)[0]['size']
    lines = []
    for design, some in groups([r for r in rows if r['size'] == swept], 'design').items():
        cells = []
        for lr in rates:
            here = [r for r in some if r['lr'] == lr]
            growth = statistics.median(shown(r['growth'], math.inf) for r in here)
            cells.append(f'{sum(r["survives"] for r in here)} of {len(here)}, x{growth:.1f}')
        best = [largest({r['lr']: r['survives'] for r in seed})
                for seed in groups(some, 'seed').values()]  # fmt: skip
        told = ', '.join('none' if lr is None else f'{lr:g}' for lr in best)
        lines.append([design, *cells, told])
    head = ['block', *(f'{lr:g}' for lr in rates), 'largest, by seed']
    return text + table(head, lines)


def tell_window(rows: list[Row]) -> str:
    windows = sorted({row['window'] for row in rows})
    lines = []
    for bias, some in groups(rows, 'bias').items():
        at = groups(some, 'window')
        changes = [
            last['accuracy'] - first['accuracy']
            for first, last in zip(at[windows[0]], at[windows[-1]], strict=True)
        ]
        cells = [spread(r['accuracy'] for r in at[w]) for w in windows]
        lines.append([bias, *cells, spread(changes)])
    return table(['position bias', *(f'window {w}' for w in windows), 'change'], lines)


def tell_simmim(rows: list[Row]) -> str:
    lines = [
        [start, str(steps), spread(r['accuracy'] for r in some), spread(r['loss'] for r in some)]
        for (start, steps), some in groups(rows, 'start', 'steps').items()
    ]
    text = table(('start', 'steps of fine-tuning', 'top-1', 'loss'), lines)
    painted = [r['pretraining'] for r in rows if r['pretraining']]
    first, last = (spread(p[i] for p in painted) for i in (0, -1))
    return f'{text}\nloss of SimMIM: {first}, then {last}\n'


def tell_video(rows: list[Row]) -> str:
    lines = [
        [*orders, spread(r['accuracy'] for r in some), spread(r['directions'] for r in some)]
        for orders, some in groups(rows, 'trained', 'tested').items()
    ]
    return table(('trained on frames', 'tested on frames', 'top-1', 'of the directions'), lines)


def shown(value: float, most: float = MOST) -> float:
    """A number in a table or plot; what is not finite is the most that is shown."""
    return min(value, most) if math.isfinite(value) else most


def draw_norm(rows: list[Row], axes: Any) -> None:
    left, right = axes
    first = min(row['lr'] for row in rows)
    swept = max(groups(rows, 'size').values(), key=len)[0]['size']
    for design, some in groups([r for r in rows if r['size'] == swept], 'design').items():
        for row in (r for r in some if r['lr'] == first):
            for when, style in (('start', ':'), ('end', '-')):
                blocks = range(1, len(row[when]) + 1)
                label = f'{design}, {"trained" if when == "end" else "at the start"}'
                left.plot(blocks, row[when], style, color=COLORS[design],
                          label=label if row['seed'] == some[0]['seed'] else None)  # fmt: skip
        by_rate = groups(some, 'lr')
        ends = [statistics.fmean(shown(r['losses'][-1]) for r in by_rate[lr]) for lr in by_rate]
        right.plot(list(by_rate), ends, 'o-', color=COLORS[design], label=design)
    left.set(xlabel='block', ylabel='amplitude of the main branch', ylim=(0, None))
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel='learning rate', ylabel=f'loss at the end (at most {MOST:g})', xscale='log')
    left.legend()
    right.legend()


def draw_window(rows: list[Row], axes: Any) -> None:
    for bias, some in groups(rows, 'bias').items():
        at = groups(some, 'window')
        means = [statistics.fmean(r['accuracy'] for r in at[w]) for w in at]
        (line,) = axes.plot(list(at), means, 'o-', label=bias)
        axes.plot([r['window'] for r in some], [r['accuracy'] for r in some], '.',
                  color=line.get_color(), alpha=0.5)  # fmt: skip
    axes.set(xlabel='window at test (trained with the smallest)', ylabel='top-1',
             xticks=sorted({row['window'] for row in rows}))  # fmt: skip
    axes.legend()


def draw_simmim(rows: list[Row], axes: Any) -> None:
    names = groups(rows, 'start', 'steps')
    draw_bars({f'{start}, {steps} steps': some for (start, steps), some in names.items()},
              'accuracy', axes)  # fmt: skip
    axes.set(xlabel='top-1')


def draw_video(rows: list[Row], axes: Any) -> None:
    names = groups(rows, 'trained', 'tested')
    draw_bars({f'trained {a},\ntested {b}': some for (a, b), some in names.items()},
              'directions', axes)  # fmt: skip
    axes.axvline(0.25, color='gray', linestyle=':')
    axes.set(xlabel='top-1 of the four directions (dotted: chance)')


def draw_bars(bars: dict[str, list[Row]], key: str, axes: Any) -> None:
    """Means as bars and seeds as points, the first group at the top."""
    for place, some in enumerate(bars.values()):
        values = [row[key] for row in some]
        axes.barh(-place, statistics.fmean(values), color='#1f4e9c', alpha=0.6)
        axes.plot(values, [-place] * len(values), '.', color='black')
    axes.set(yticks=[-place for place in range(len(bars))], yticklabels=list(bars), xlim=(0, 1))


TOLD: dict[str, tuple[Callable[[list[Row]], str], Callable[[list[Row], Any], None], int]] = {
    'norm': (tell_norm, draw_norm, 2),
    'window': (tell_window, draw_window, 1),
    'position': (tell_window, draw_window, 1),
    'simmim': (tell_simmim, draw_simmim, 1),
    'video': (tell_video, draw_video, 1),
}


def write(results: dict[str, list[Row]], out: Path) -> None:
    """OUT/results.md, which is printed too, and a plot for each experiment."""
    from matplotlib.figure import Figure

    text = ''
    for name, (tell, draw, panels) in TOLD.items():
        if name not in results:
            continue
        text += f'## {name}\n\n{tell(results[name])}\n'
        figure = Figure(figsize=(4.6 * panels, 3.2), layout='constrained')
        draw(results[name], figure.subplots(1, panels))
        figure.savefig(out / f'{name}.png', dpi=80)
    (out / 'results.md').write_text(text)
    print(text)
