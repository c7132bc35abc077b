"""Print the classes that a video classifier sees in a video, and write them on a copy of it."""

import argparse
from pathlib import Path

import av
import cv2
import torch
from mmengine.config import DictAction
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope

from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.datasets import UnreadableVideo, open_video, read_frames
from mmswinv2.engine.launch import config_with_options
from mmswinv2.errors import UserError, dataset_configs, told_in_a_sentence


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('video', help='video file')
    parser.add_argument('config', help='config of a video classifier')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--labels', help='file with the name of each class on a line of its own')
    parser.add_argument('--topk', type=int, default=5, help='how many classes to print (5)')
    parser.add_argument('--out', help='video to write (VIDEO with _demo before its ending)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings of the config'
    )
    return parser.parse_args()


def classify(args, cfg):
    """Scores of all classes."""
    checkpoint = read_checkpoint(args.checkpoint)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # the checkpoint has all weights
    model = MODELS.build(cfg.model)
    try:
        model.load_state_dict(checkpoint.get('state_dict', checkpoint))
    except RuntimeError as error:
        raise UserError(
            f'{args.checkpoint} does not fit the model of the config: {error}'
        ) from error
    pipeline = Compose(next(dataset_configs(cfg.test_dataloader.dataset)).pipeline)
    sample = pipeline(dict(filename=args.video, label=-1, start_index=0, modality='RGB'))
    with torch.no_grad():
        (result,) = model.to(args.device).eval().test_step(pseudo_collate([sample]))
    return result.pred_score.cpu()


def frames(reader, path, at_once=64):
    """All frames, cut to even sides as H.264 wants them."""
    for start in range(0, len(reader), at_once):
        indices = range(start, min(start + at_once, len(reader)))
        for frame in read_frames(reader, path, indices):
            height, width = frame.shape[:2]
            yield frame[: height // 2 * 2, : width // 2 * 2].copy()


def write(source, target, lines):
    """The video with lines of text in its corner, in H.264."""
    reader = open_video(source)
    with av.open(str(target), 'w') as container:
        stream = container.add_stream('libx264', rate=round(reader.fps) or 25)
        stream.pix_fmt = 'yuv420p'
        for frame in frames(reader, source):
            scale = max(0.3, min(frame.shape[:2]) / 600)
            for row, line in enumerate(lines, start=1):
                place = round(12 * scale), round(34 * scale * row)
                for colour, width in ((0, 0, 0), 3), ((255, 255, 255), 1):
                    cv2.putText(frame, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, width,
                                cv2.LINE_AA)  # fmt: skip
            stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def main():
    args = parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    if cfg.default_scope != 'mmaction':
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
    try:
        scores = classify(args, cfg)
        if names and len(names) != len(scores):
            raise UserError(
                f'{args.labels} has {len(names)} lines, the model {len(scores)} classes'
            )
        values, classes = scores.topk(min(args.topk, len(scores)))
        lines = []
        for value, index in zip(values.tolist(), classes.tolist(), strict=True):
            lines.append(f'{names[index] if names else f"class {index}"}: {value:.3f}')
        print('\n'.join(lines))
        write(args.video, target, lines)
    except UnreadableVideo as error:
        raise UserError(f'cannot read the video {error}') from error
    print(f'written to {target}')


if __name__ == '__main__':
    with told_in_a_sentence():
        main()
