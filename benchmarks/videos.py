"""Reading frames of videos by number, by us and by decord: ``python -m benchmarks.videos``.

Reads clips of 16 frames, every fourth, at random places, and opens the file anew for each. Prints
frames per second on one thread (the median over the places; readers take turns, decord if it is
installed), and how many frames differ from those that decoding from the start gives.
"""

import statistics
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from mmswinv2.datasets import open_video
from mmswinv2.options import ArgumentParser

OPEN_GOP = {'x264opts': 'keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0'}
# name: encoder, options, width, height
FILES = {
    'H.264, key frame every 12, mp4': ('mp4', 'libx264', {'g': '12'}, 320, 240),
    'H.264, every 250 at most, mp4': ('mp4', 'libx264', {}, 320, 240),
    'H.264, every 12, 640x360, mp4': ('mp4', 'libx264', {'g': '12'}, 640, 360),
    'H.264, every 250, 640x360, mp4': ('mp4', 'libx264', {}, 640, 360),
    'H.264, open groups of 12, mp4': ('mp4', 'libx264', OPEN_GOP, 320, 240),
    'HEVC, mp4': ('mp4', 'libx265', {'x265-params': 'keyint=50:log-level=none'}, 320, 240),
    'VP9, webm': ('webm', 'libvpx-vp9', {'deadline': 'realtime', 'cpu-used': '8'}, 320, 240),
    'MPEG-4 with B frames, avi': ('avi', 'mpeg4', {'bf': '2', 'g': '12'}, 320, 240),
    'H.264, avi': ('avi', 'libx264', {'g': '12'}, 320, 240),
    'MPEG-2, ts': ('ts', 'mpeg2video', {'bf': '2', 'g': '12'}, 320, 240),
}


def write(path, codec, options, width, height, frames):
    """A textured ground that moves, with noise, and a disc that goes around."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (60, 80, 3), np.uint8), (1280, 960))
    with av.open(str(path), 'w') as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        for i in range(frames):
            x, y = int(200 + 150 * np.sin(i / 20)), int(150 + 100 * np.cos(i / 15))
            image = ground[y : y + height, x : x + width] + rng.integers(-6, 7, (height, width, 1))
            image = image.clip(0, 255).astype(np.uint8)
            place = int(width / 2 + width / 3 * np.cos(i / 9)), height // 2
            cv2.circle(image, place, height // 6, (255, 30, 30), -1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        out.mux(stream.encode())


def readers():
    found = {'ours': lambda path, indices: open_video(path).read(indices)}
    try:
        from decord import VideoReader, logging
    except ImportError:
        return found
    logging.set_level(logging.QUIET)
    return {
        'decord': lambda path, i: VideoReader(path, num_threads=1).get_batch(i).asnumpy()
    } | found


def wrong(images, indices, truth):
    """How many images are most similar to another frame than their own, among 20 on each side."""
    count = 0
    for image, i in zip(images, indices, strict=True):
        near = range(max(0, i - 20), min(len(truth), i + 21))
        errors = [np.abs(image[::4, ::4].astype(int) - truth[j]).mean() for j in near]
        count += near[int(np.argmin(errors))] != i
    return count


def main():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('--places', type=int, default=30, help='clips of each file (30)')
    parser.add_argument('--frames', type=int, default=300, help='frames of a file, over 61 (300)')
    args = parser.parse_args()
    if args.frames < 62:
        parser.error(f'--frames must be over 61, got {args.frames}')
    names = readers()
    columns = [f'{name}, {what}' for name in names for what in ('frames/s', 'wrong')]
    print('| file | ' + ' | '.join([*columns, 'ratio']) + ' |')
    print('| --- ' * (len(columns) + 2) + '|')
    with tempfile.TemporaryDirectory() as folder:
        for name, (ending, *options) in FILES.items():
            path = str(Path(folder, f'video.{ending}'))
            write(path, *options, args.frames)
            truth = [image[::4, ::4] for image in open_video(path)]
            rng = np.random.default_rng(0)
            times, errors = {n: [] for n in names}, dict.fromkeys(names, 0)
            for start in rng.integers(0, args.frames - 61, args.places):
                indices = start + 4 * np.arange(16)
                for n, read in names.items():
                    begin = time.perf_counter()
                    images = read(path, indices)
                    times[n].append(time.perf_counter() - begin)
                    errors[n] += wrong(images, indices, truth)
            row = [f'{name}']
            for n in names:
                row += [f'{16 / statistics.median(times[n]):.0f}']
                row += [f'{errors[n]} of {16 * args.places}']
            if len(names) > 1:
                ratios = [d / o for d, o in zip(times['decord'], times['ours'], strict=True)]
                row += [f'{statistics.median(ratios):.2f}']
            print('| ' + ' | '.join(row) + ' |', flush=True)


if __name__ == '__main__':
    main()
