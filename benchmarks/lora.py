"""Adapters beside full fine-tuning and a frozen backbone, at the same number of steps.

``python -m benchmarks.lora WEIGHTS --data-root data/shapes`` trains the demo's Mask R-CNN in each
way from pre-trained weights of a nano backbone, and predicts and measures the memory of a step.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from mmswinv2.options import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
WAYS = {
    'full fine-tuning': [],
    'LoRA, rank 4': ['model.backbone.lora.rank=4'],
    'frozen backbone': ['model.backbone.frozen_stages=4'],
}
HEAD = 'way', 'trained', 'box AP', 'mask AP', 'predicted', 'measured', 'a step', 'checkpoint'


def call(script: str, *arguments: str) -> str:
    command = [sys.executable, '-W', 'ignore', f'tools/{script}', *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr[-2000:])
    return run.stdout


def row(way: str, options: list[str], args: argparse.Namespace) -> list[str]:
    work = Path(args.work_dir, way.split(',')[0].replace(' ', '-')).resolve()
    shape = ('--shape', str(args.size), str(args.size), '--batch-size', str(args.batch_size))
    more = ('--cfg-options', *options) if options else ()
    told = call('analysis_tools/estimate_memory.py', CONFIG, *shape, '--measure', *more)
    trained = re.search(r'([\d.,]+) million of them trained', told)
    memory = re.search(r'predicted ([\d.]+) GiB, measured ([\d.]+) GiB', told)
    assert trained and memory, told
    call(
        'train.py', CONFIG, '--work-dir', str(work), '--max-iters', str(args.steps),
        '--cfg-options', f'data_root={Path(args.data_root).resolve()}',
        f'train_dataloader.batch_size={args.batch_size}', 'default_hooks.logger.interval=1',
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={Path(args.weights).resolve()}', *options,
    )  # fmt: skip
    newest = max(work.glob('*/vis_data/scalars.json'))  # folders are named by time
    lines = [json.loads(line) for line in newest.read_text().splitlines()]
    scores = next(line for line in lines if 'coco/bbox_mAP' in line)
    times = sorted(line['time'] for line in lines if 'loss' in line)
    size = (work / f'iter_{args.steps}.pth').stat().st_size
    return [
        way, f'{trained[1]} M', f'{scores["coco/bbox_mAP"]:.3f}', f'{scores["coco/segm_mAP"]:.3f}',
        *(f'{float(number) * 1024:.0f} MiB' for number in memory.groups()),
        f'{times[len(times) // 2]:.2f} s', f'{size / 1e6:.1f} MB',
    ]  # fmt: skip


def main() -> None:
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('weights', help='of a nano backbone, such as a checkpoint of a segmentor')
    parser.add_argument('--data-root', default='data/shapes')
    parser.add_argument('--work-dir', default='work_dirs/bench/lora', help='where it trains')
    parser.add_argument('--steps', type=int, default=150)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--size', type=int, default=96, help='of the images')
    args = parser.parse_args()
    for line in HEAD, ('---',) * len(HEAD):
        print(f'| {" | ".join(line)} |', flush=True)
    for way, options in WAYS.items():
        print(f'| {" | ".join(row(way, options, args))} |', flush=True)


if __name__ == '__main__':
    main()
