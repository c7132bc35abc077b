"""Print the scores of the latest evaluation in a work dir, and where its pictures are."""

import json
from pathlib import Path

from mmswinv2.checks import is_number
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser

NAMES = {
    'coco/bbox_mAP': 'box AP',
    'coco/segm_mAP': 'mask AP',
    'mIoU': 'mIoU',
    'acc/top1': 'top-1',
    'acc/top5': 'top-5',
    'accuracy/top1': 'top-1 (%)',
    'accuracy/top5': 'top-5 (%)',
}


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('work_dir')
    parser.add_argument('--pictures', default='pictures', help='folder of its pictures')
    return parser.parse_args()


def main():
    args = parse_args()
    # tools/test.py writes <work dir>/<time>/<time>.json
    files = [p for p in Path(args.work_dir).glob('*/*.json') if p.stem == p.parent.name]
    if not files:
        raise UserError(
            f'{args.work_dir} holds no scores; run tools/test.py --work-dir {args.work_dir}'
        )
    latest = max(files, key=lambda path: path.stat().st_mtime)
    try:
        metrics = json.loads(latest.read_text())
    except ValueError as error:
        raise UserError(f'{latest} is damaged ({error}); run tools/test.py again') from error
    items = metrics.items() if isinstance(metrics, dict) else ()
    metrics = {name: value for name, value in items if is_number(value)}
    if not metrics:
        raise UserError(f'{latest} holds no scores; run tools/test.py again')
    known = {NAMES[name]: value for name, value in metrics.items() if name in NAMES} or metrics
    scores = ', '.join(f'{name} {value:.3f}' for name, value in known.items())
    pictures = latest.parent / args.pictures  # --show-dir is in that folder, or absolute
    where = f'; pictures: {pictures}' if pictures.is_dir() else ''
    print(f'{scores}{where}')


if __name__ == '__main__':
    with report_user_errors():
        main()
