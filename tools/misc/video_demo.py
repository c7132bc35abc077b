"""Print the classes that a video classifier sees in a video, and write them on a copy of it."""

from pathlib import Path

import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS

from mmswinv2 import hosts
from mmswinv2.checkpoints import fetch, load_but
from mmswinv2.datasets import open_video, write_video
from mmswinv2.engine.launch import config_with_options
from mmswinv2.engine.settings import add_config_options
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.inference.drawing import caption
from mmswinv2.options import ArgumentParser


def parse_args():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('video', help='video file')
    parser.add_argument('config', help='config of a video classifier')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--labels', help='file with the name of each class on a line of its own')
    parser.add_argument('--topk', type=int, default=5, help='how many classes to print (5)')
    parser.add_argument('--out', help='video to write (VIDEO with _demo before its ending)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add_config_options(parser)
    return parser.parse_args()


def classify(args, cfg):
    """Scores of all classes."""
    hosts.of(cfg).use_registries()
    cfg.model.backbone.init_cfg = None  # the checkpoint has all weights
    model = MODELS.build(cfg.model)
    print(load_but(model, fetch(args.checkpoint)))
    pipeline = Compose(next(hosts.inner_datasets(cfg.test_dataloader.dataset)).pipeline)
    sample = pipeline(dict(filename=args.video, label=-1, start_index=0, modality='RGB'))
    with torch.no_grad():
        (result,) = model.to(args.device).eval().test_step(pseudo_collate([sample]))
    return result.pred_score.cpu()


def main():
    args = parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    if hosts.of(cfg).name != 'mmaction':
        raise UserError(f'{args.config} is no config of a video classifier of mmaction2')
    source = Path(args.video)
    target = Path(args.out or source.with_name(f'{source.stem}_demo.mp4'))
    if target.suffix != '.mp4':
        raise UserError(f'--out must end in .mp4, got {target}')
    if target.resolve() == source.resolve():
        raise UserError(f'--out {target} is the video itself; name another file')
    if args.topk < 1:
        raise UserError(f'--topk must be at least 1, got {args.topk}')
    names = Path(args.labels).read_text().splitlines() if args.labels else []
    scores = classify(args, cfg)
    if names and len(names) != len(scores):
        raise UserError(f'{args.labels} has {len(names)} lines, the model {len(scores)} classes')
    values, classes = scores.topk(min(args.topk, len(scores)))
    lines = []
    for value, index in zip(values.tolist(), classes.tolist(), strict=True):
        lines.append(f'{names[index] if names else f"class {index}"}: {value:.3f}')
    print('\n'.join(lines))
    reader = open_video(args.video)
    write_video(target, caption(reader, lines), round(reader.fps) or 25)
    print(f'written to {target}')


if __name__ == '__main__':
    with report_user_errors():
        main()
