"""Plot curves of training logs and tell how long an iteration took, for all tasks.

    analyze_logs.py plot_curve LOG.json ... --keys loss mIoU --out curves.png
    analyze_logs.py cal_train_time LOG.json ...

A log is what training writes to WORK_DIR/TIME/vis_data/TIME.json. A key is named as in the log, or
without what stands before its last slash (top1 for acc/top1).
"""

import sys
from pathlib import Path
from statistics import fmean, stdev

from mmswinv2.analysis.figures import check_ending
from mmswinv2.analysis.work_dir import read_run, step_of
from mmswinv2.checks import is_number
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    tasks = parser.add_subparsers(dest='task', required=True)
    plot = tasks.add_parser('plot_curve', help='plot curves')
    plot.add_argument('json_logs', nargs='+')
    plot.add_argument('--keys', nargs='+', default=['loss'], help='what to plot (loss)')
    plot.add_argument('--title')
    plot.add_argument('--legend', nargs='+', help='a name for each curve')
    plot.add_argument('--out', help='picture to write; without it a window opens')
    time = tasks.add_parser('cal_train_time', help='seconds of an iteration')
    time.add_argument('json_logs', nargs='+')
    time.add_argument(
        '--include-outliers', action='store_true', help='count the first entry too, a slow one'
    )
    return parser.parse_args()


def read_log(path, training_alone=False):
    """The entries of a log."""
    run = read_run(Path(path).parent, Path(path))
    if not run.steps:
        raise UserError(f'{path} is no log; logs are WORK_DIR/TIME/vis_data/TIME.json')
    if run.broken:
        print(f'{path}: {run.broken} lines are cut short and left out', file=sys.stderr)
    return run.training if training_alone else run.steps


def curve(entries, key, path):
    """Steps and values of a key."""
    if not any(is_number(entry.get('step')) for entry in entries):
        raise UserError(f'{path} has no steps, which logs of mmengine have')
    names = {name for entry in entries for name, value in entry.items() if is_number(value)}
    found = [key] if key in names else sorted(n for n in names if n.rsplit('/', 1)[-1] == key)
    if len(found) != 1:
        there = ', '.join(found or sorted(names))
        raise UserError(f'{path} has {"no" if not found else "several"} {key}; there is {there}')
    points = [(step_of(e), e[found[0]]) for e in entries if is_number(e.get(found[0]))]
    return zip(*points, strict=True)


def plot_curve(args):
    import matplotlib

    if args.out:
        matplotlib.use('agg')
    import matplotlib.pyplot as plt

    curves = [(path, key) for path in args.json_logs for key in args.keys]
    legend = args.legend or [f'{Path(path).stem} {key}' for path, key in curves]
    if len(legend) != len(curves):
        raise UserError(f'--legend has {len(legend)} names for {len(curves)} curves')
    logs = {path: read_log(path) for path in args.json_logs}
    figure, axes = plt.subplots()
    for (path, key), label in zip(curves, legend, strict=True):
        steps, values = curve(logs[path], key, path)
        axes.plot(steps, values, marker='.', label=label)
    axes.set(xlabel='step', title=args.title or '')
    axes.legend()
    if not args.out:
        plt.show()
        return
    figure.savefig(args.out)
    print(f'save curve to: {args.out}')


def cal_train_time(args):
    for path in args.json_logs:
        entries = read_log(path, training_alone=True)
        times = [e['time'] for e in entries if is_number(e.get('time'))]
        times = times if args.include_outliers else times[1:]
        if not times:
            raise UserError(f'{path} holds too few entries of training; --include-outliers')
        spread = stdev(times) if len(times) > 1 else 0.0
        print(f'-----Analyze train time of {path}-----')
        print(f'slowest {max(times):.4f} s/iter, fastest {min(times):.4f} s/iter')
        print(f'time std {spread:.4f}\naverage iter time: {fmean(times):.4f} s/iter')


def main():
    args = parse_args()
    if getattr(args, 'out', None):
        check_ending(args.out)
    plot_curve(args) if args.task == 'plot_curve' else cal_train_time(args)


if __name__ == '__main__':
    with report_user_errors():
        main()
