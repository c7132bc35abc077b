"""Results of the benchmarks as text, as a table and as a plot."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

OURS = 'mmswinv2'
OUT_OF_MEMORY = 'out of memory'
MIB = 2**20


def best(record: dict[str, Any], what: str) -> tuple[str, float] | None:
    """The peer with the lowest `what`, and its value; ``None`` where none fits into memory."""
    values = {
        name: result[what]
        for name, result in record['results'].items()
        if name != OURS and result.get(what)
    }
    return min(values.items(), key=lambda item: item[1]) if values else None


def describe(record: dict[str, Any]) -> str:
    """The results of a workload in a few lines."""
    results = record['results']
    ours = results[OURS]
    lines = [f'{record["title"]}  ({record["machine"]}, {record["date"]})']
    for name, result in results.items():
        if not result['median']:
            error = result.get('error', OUT_OF_MEMORY)
            why = 'does not fit into memory' if error == OUT_OF_MEMORY else f'failed: {error}'
            lines.append(f'  {name:13} {why}')
            continue
        line = f'  {name:13} {result["median"]:8.3f} s  {result["peak"] / MIB:7.0f} MiB'
        if name == OURS and record['floor']:
            line += (
                f'   {ours["median"] / record["floor"]:.2f} x the floor of {record["floor"]:.3f} s'
            )
        elif name != OURS and ours['median']:
            line += f'   {result["median"] / ours["median"]:.2f} x our time'
            line += f', {result["peak"] / ours["peak"]:.2f} x our memory'
        lines.append(line)
    return '\n'.join(lines)


def write_table(records: Iterable[dict[str, Any]], path: Path) -> None:
    """One row for each workload."""
    columns = (
        'workload', 'ours', 'best peer', 'best peer / ours', 'ours / floor',
        'ours / floor by oneDNN', 'memory, ours', 'memory, best peer', 'ours / best peer',
    )  # fmt: skip
    rows = [columns, ('---',) * len(columns)]
    for record in records:
        ours = record['results'][OURS]
        time, memory = ours['median'], ours['peak']
        fast, lean = best(record, 'median'), best(record, 'peak')
        rows.append((
            record['title'],
            f'{time:.3f} s' if time else '-',
            f'{fast[1]:.3f} s ({fast[0]})' if fast else '-',
            f'{fast[1] / time:.2f}' if fast and time else '-',
            f'{time / record["floor"]:.2f}' if time and record['floor'] else '-',
            f'{time / record["floor_onednn"]:.2f}' if time and record['floor_onednn'] else '-',
            f'{memory / MIB:.0f} MiB' if memory else '-',
            f'{lean[1] / MIB:.0f} MiB ({lean[0]})' if lean else '-',
            f'{memory / lean[1]:.2f}' if lean and memory else '-',
        ))  # fmt: skip
    path.write_text(''.join(f'| {" | ".join(row)} |\n' for row in rows))


def write_plot(records: Iterable[dict[str, Any]], path: Path) -> None:
    """Time of inference and memory of training against image size and window."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    records = [r for r in records if r['dtype'] == 'float32' and not r['compiled']]
    records = [r for r in records if r['machine'] == records[-1]['machine'] and r['batch'] == 1]
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    columns = (('size-', 'image side (pixels), window 16', lambda r: r['size'][0]),
               ('window-', 'window (tokens), 512x512', lambda r: r['window']))  # fmt: skip
    rows = (
        (False, 'median', 'inference (s)', 1),
        (True, 'peak', 'training, peak memory (GiB)', 2**30),
    )
    for j, (prefix, x_label, x_of) in enumerate(columns):
        for i, (training, what, y_label, unit) in enumerate(rows):
            some = [
                r for r in records if r['name'].startswith(prefix) and r['training'] == training
            ]
            some.sort(key=x_of)
            for name in dict.fromkeys(name for r in some for name in r['results']):
                values = [(x_of(r), r['results'].get(name, {}).get(what)) for r in some]
                points = [(x, y) for x, y in values if y]
                axes[i, j].plot(
                    [x for x, _ in points], [y / unit for _, y in points], marker='o', label=name,
                    linewidth=3 if name == OURS else 1,
                )  # fmt: skip
            if some and not training:
                axes[i, j].plot(
                    [x_of(r) for r in some], [r['floor'] or float('nan') for r in some],
                    linestyle=':', color='gray', label='floor',
                )  # fmt: skip
            axes[i, j].set(xlabel=x_label, ylabel=y_label, yscale='log')
            if some:
                axes[i, j].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
