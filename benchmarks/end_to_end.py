"""Time of an evaluation per image, and the backbone's share: what `tools/test.py` does.

``python -m benchmarks.end_to_end CONFIG [CHECKPOINT]``. With --plain the backbone takes all
windows at once, and torch's own linear layers.
"""

import statistics
import time
from contextlib import nullcontext

import torch

from mmswinv2.engine.configs import config_with_options
from mmswinv2.engine.launch import build_runner
from mmswinv2.errors import report_user_errors
from mmswinv2.options import ArgumentParser, add_config_options

from .paths import linear_by


def main():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='random weights without one')
    parser.add_argument('--work-dir', default='work_dirs/bench/end_to_end')
    parser.add_argument('--images', type=int, default=40, help='timed images (40)')
    parser.add_argument('--plain', action='store_true')
    add_config_options(parser)
    args = parser.parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    if args.plain:
        cfg.model.backbone.path = 'plain'
    cfg.work_dir, cfg.launcher, cfg.load_from = args.work_dir, 'none', args.checkpoint
    runner = build_runner(cfg, ('test',))
    runner.load_or_resume()
    model = runner.model.eval()
    spent = []

    def now():
        if torch.cuda.is_available():  # mmengine puts the model there
            torch.cuda.synchronize()
        return time.perf_counter()

    model.backbone.register_forward_pre_hook(lambda *_: spent.append(-now()))

    def note(*_):
        spent[-1] += now()

    model.backbone.register_forward_hook(note)
    totals, shares, count = [], [], 0
    with linear_by('MKL') if args.plain else nullcontext(), torch.no_grad():
        start = now()
        for data in runner.build_dataloader(cfg.test_dataloader):
            spent.clear()
            model.test_step(data)
            total = now() - start  # with loading the data
            images, start = len(data['data_samples']), now()
            count += images
            if count > images:  # the first batch warms up
                totals.append(total / images)
                shares.append(sum(spent) / total)
            if count >= args.images + images:
                break
    if not totals:
        parser.error(f'{args.config} has one batch of test images; two at least are needed')
    print(
        f'{args.config}: {1e3 * statistics.median(totals):.1f} ms an image, '
        f'{100 * statistics.median(shares):.0f} % of it in the backbone'
    )


if __name__ == '__main__':
    with report_user_errors():
        main()
