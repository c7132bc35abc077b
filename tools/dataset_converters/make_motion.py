"""Draw a small set of H.264 clips whose class is how a shape moves.

A bright shape moves left, right, up or down, grows or turns over a dark ground; shape, colors,
size and place are drawn alike for all classes, and the way to the left is the way to the right
backwards. So no single frame tells the class, and the frames in another order tell
no direction. Lists are in Kinetics-400's form, "path label".

    make_motion.py OUT    writes videos_{train,val}/*.mp4 and motion_{train,val}_list_videos.txt
"""

import shutil
import time
from pathlib import Path

import cv2
import numpy as np
from make_shapes import coverage, outline

from mmswinv2.datasets import write_video
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.options import ArgumentParser
from mmswinv2.progress import track

MOTIONS = ('left', 'right', 'up', 'down', 'growing', 'turning')
SHAPES = ('square', 'triangle', 'star')  # a circle would not be seen to turn
SPLITS = ('train', 'val')
FPS = 25
LISTS = {split: f'motion_{split}_list_videos.txt' for split in SPLITS}
MADE = (*LISTS.values(), *(f'videos_{split}' for split in SPLITS), 'motion.txt')  # the marker last


def pose(motion, frames, rng):
    """Shift in sides of the shape (frames, 2), size (frames,) and angle (frames,) of a motion."""
    t = np.linspace(-0.5, 0.5, frames)
    shift, scale, angle = np.zeros((frames, 2)), np.ones(frames), np.zeros(frames)
    way = rng.uniform(0.5, 0.9)
    if motion in ('left', 'right'):
        shift[:, 0] = t * way * (1 if motion == 'right' else -1)
    elif motion in ('up', 'down'):
        shift[:, 1] = t * way * (1 if motion == 'down' else -1)
    elif motion == 'growing':
        scale = np.exp(t * rng.uniform(0.8, 1.2))
    else:
        angle = t * rng.uniform(0.8, 1.6) * np.pi * rng.choice([-1, 1])
    return shift, scale, angle


def draw(motion, size, frames, rng):
    """One clip, (frames, size, size, 3) uint8 RGB."""
    ground = np.full((size, size, 3), rng.uniform(0, 90, 3))
    fill = np.full((size, size, 3), rng.uniform(140, 255, 3))
    side = rng.uniform(0.3, 0.45) * size
    polygon = outline(str(rng.choice(SHAPES)), side, rng)
    middle = (polygon.max(axis=0) + polygon.min(axis=0)) / 2
    polygon -= middle
    shift, scale, angle = pose(motion, frames, rng)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moves = np.concatenate([turn * scale, shift.T[:, None] * side], axis=1)  # (2, 3, frames)
    paths = np.einsum('ijt,vj->vti', moves[:, :2], polygon) + moves[:, 2].T
    low, high = paths.min(axis=(0, 1)), paths.max(axis=(0, 1))
    start = rng.uniform(-low, np.maximum(size - high, -low + 1e-6))  # stays inside the image

    # the shape at rest, in the middle of a picture of its own
    cover = coverage(polygon + size / 2, size, size)
    still = np.dstack([fill, cover]).astype(np.float32)
    clip = []
    for move in np.moveaxis(moves, 2, 0):
        move = np.column_stack(
            [move[:, :2], move[:, 2] + start - move[:, :2] @ np.full(2, size / 2)]
        )
        picture = cv2.warpAffine(still, move, (size, size))
        noise = 4 * rng.standard_normal((size, size, 3), np.float32)
        clip.append(ground + (picture[..., :3] - ground) * picture[..., 3:] + noise)
    return np.stack(clip).round().clip(0, 255).astype(np.uint8)


def encode(path, clip):
    write_video(path, clip, FPS, {'crf': '18'})


def write_split(out, split, count, size, frames, seed):
    folder = out / f'videos_{split}'
    folder.mkdir(parents=True)
    lines = []
    for index in track(range(count), f'drawing {split}'):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        label = index % len(MOTIONS)
        name = f'{index:05d}.mp4'
        encode(folder / name, draw(MOTIONS[label], size, frames, rng))
        lines.append(f'{name} {label}\n')
    (out / LISTS[split]).write_text(''.join(lines))


def make_motion(out, train=600, val=90, size=64, frames=16, seed=0, force=False):
    """Make the clips, in a folder inside `out` from which they are moved when all are done."""
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise UserError(f'{out} is a file; name a folder')
    marker = f'{train} + {val} clips of {frames} frames, {size} pixels, seed {seed}\n'
    made = out / 'motion.txt'
    clips = [len(list(out.glob(f'videos_{split}/*.mp4'))) for split in SPLITS]
    if made.exists() and made.read_text() == marker and clips == [train, val]:
        print(f'{out} is complete already: {marker}', end='')
        return
    part = out / '.unfinished'
    others = [path for path in out.glob('*') if path != part]
    if others and not (made.exists() and (force or made.read_text() == marker)):
        what = (
            f'clips made otherwise ({made.read_text().strip()})' if made.exists() else 'other files'
        )
        raise UserError(
            f'{out} holds {what}; name another folder'
            + (', or replace them with --force' if made.exists() else '')
        )
    start = time.perf_counter()
    shutil.rmtree(part, ignore_errors=True)
    for split, count in zip(SPLITS, (train, val), strict=True):
        write_split(part, split, count, size, frames, seed)
    (part / 'motion.txt').write_text(marker)
    for name in reversed(MADE):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    for name in MADE:
        (part / name).rename(out / name)
    part.rmdir()
    print(f'{out}: {marker.strip()}, made in {time.perf_counter() - start:.1f} s')


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument('--train', type=int, default=600, help='training clips (600)')
    parser.add_argument('--val', type=int, default=90, help='validation clips (90)')
    parser.add_argument('--size', type=int, default=64, help='side in pixels, even (64)')
    parser.add_argument('--frames', type=int, default=16, help='frames of a clip (16)')
    parser.add_argument('--seed', type=int, default=0, help='seed of everything random (0)')
    parser.add_argument('--force', action='store_true', help='replace clips made otherwise')
    args = parser.parse_args()
    for name, least in dict(train=1, val=1, size=32, frames=4, seed=0).items():
        if getattr(args, name) < least:
            parser.error(f'--{name} is {getattr(args, name)}, must be at least {least}')
    if args.size % 2:
        parser.error(f'--size is {args.size}; H.264 wants an even number')
    return args


if __name__ == '__main__':
    with report_user_errors():
        make_motion(**vars(parse_args()))
