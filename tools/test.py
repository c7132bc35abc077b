"""Evaluate a detector, segmentor, video or image classifier: mAP, mIoU or top-1."""

import functools
from pathlib import Path

from mmswinv2 import hosts
from mmswinv2.engine.launch import add_common_arguments, build_runner, load_config, run
from mmswinv2.engine.settings import set_tta
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.files import check_writable
from mmswinv2.hosts import as_list, inner_datasets, type_name, without_annotations
from mmswinv2.options import ArgumentParser


def parse_args():
    parser = ArgumentParser(
        description=__doc__,
        epilog='example: mmswinv2 test config.py work_dirs/run/epoch_36.pth --out predictions.pkl',
    )
    parser.add_argument('config', help='test config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_common_arguments(parser)
    parser.add_argument(
        '--out',
        '--dump',
        help='where to put the predictions: a .pkl file for detectors and classifiers, a '
        'folder of label maps for segmentors',
    )
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='write the label maps of --out and no scores, for images without annotations '
        '(segmentors)',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='folder for pictures of the predictions, inside the run in the work dir'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds between --show pictures'
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser.parse_args()


def set_visualization(cfg, host, args):
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or 'visualizer' not in cfg:
        raise UserError(
            "--show and --show-dir need a visualizer and a 'visualization' hook in the config"
        )
    hook[host.draw_option] = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if host.draw_interval:
        hook['interval'] = 1
    if args.show_dir:
        cfg.merge_from_dict({host.draw_folder: args.show_dir})


def set_out(cfg, host, out):
    evaluators = as_list(cfg.test_evaluator)
    if evaluators and 'dataset_prefixes' in evaluators[0]:
        raise UserError(
            f'--out is for one test set, and test_evaluator ({type_name(evaluators[0])}) is for '
            'several; test one at a time, or leave --out out'
        )
    if evaluators and 'metrics' in evaluators[0]:
        cfg.test_evaluator = evaluators = as_list(evaluators[0]['metrics'])
    if host.dump_metric is None and not evaluators:
        raise UserError('--out: test_evaluator has no metric, which writes label maps')
    if host.dump_metric is None:
        evaluators[0].update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out must end in .pkl or .pickle, got {out}')
    check_writable(Path(out).absolute().parent, 'folder', '--out')  # before the test, not after
    cfg.test_evaluator = [
        *evaluators,
        dict(type=hosts.type_in(cfg, host.dump_metric), out_file_path=out),
    ]


def set_format_only(cfg, host, out):
    """Remove all that needs annotations from the config."""
    if host.dump_metric is not None or not out:
        raise UserError('--format-only is for segmentors, and needs --out FOLDER')
    cfg.test_evaluator = as_list(cfg.test_evaluator)[0]  # that of --out
    cfg.test_evaluator['format_only'] = True
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.get('data_prefix', {}).pop('seg_map_path', None)
        dataset.pipeline = without_annotations(dataset.pipeline)


def main():
    args = parse_args()
    cfg = load_config(args)
    if cfg.get('test_dataloader') is None or cfg.get('test_evaluator') is None:
        raise UserError(
            f'{args.config} has no test_dataloader and test_evaluator: it has nothing to test'
        )
    cfg.load_from, cfg.resume = args.checkpoint, False
    host = hosts.of(cfg)
    if args.show or args.show_dir:
        set_visualization(cfg, host, args)
    if args.out:
        set_out(cfg, host, args.out)
    if args.tta:
        set_tta(cfg)
    if args.format_only:
        set_format_only(cfg, host, args.out)
    runner = build_runner(cfg, ('test',))
    # require every parameter; mmengine alone would continue with those that fit
    runner.load_checkpoint = functools.partial(runner.load_checkpoint, strict=True)
    run(runner.test, cfg, ('test',))


if __name__ == '__main__':
    with report_user_errors():
        main()
