"""Draw a small data set of textured shapes on textured grounds, in COCO layout.

    OUT/train2017/000000000001.jpg ...
    OUT/val2017/000000000001.jpg ...
    OUT/annotations/instances_train2017.json, instances_val2017.json
    OUT/stuffthingmaps/train2017/000000000001.png ..., val2017/...
    OUT/shapes.json                  what was made; says `complete` once everything else is written

Things are circles, squares, triangles and stars: only the outline tells them apart, because
texture, color, size and rotation are drawn alike for all. Stuff is the ground's texture. Things
have strong colors and grounds faint ones, so that a small network finds them soon.

The semantic maps hold one class a pixel: the things by their index (category id - 1), then the
stuff, as in COCO's stuffthingmaps but without gaps. 255 would mean "ignore"; no pixel has it.

    0 circle, 1 square, 2 triangle, 3 star, 4 stripes, 5 speckle, 6 gradient

Polygons are exact and in COCO's coordinates, where pixel (x, y) covers [x, x + 1) x [y, y + 1);
boxes and areas are the polygons' own. An image depends on the seed, the size, its split and its
index only: asking for more images leaves the first ones as they are.
"""

import argparse
import colorsys
import json
import shutil
import time
from pathlib import Path

import cv2
import numpy as np

from mmswinv2.files import write_atomically
from mmswinv2.options import ArgumentParser
from mmswinv2.progress import track

# name -> number of vertices, radius of every second one: a star's vertices go in and out
THINGS = {'circle': (64, 1.0), 'square': (4, 1.0), 'triangle': (3, 1.0), 'star': (10, 0.45)}
STUFF = ('stripes', 'speckle', 'gradient')
CLASSES = (*THINGS, *STUFF)  # the position of a class is its value in the semantic maps
FILLS = ('stripes', 'checks', 'speckle', 'dots')
SPLITS = ('train2017', 'val2017')
MADE_BY = 'mmswinv2 make_shapes.py'
VERSION = 1  # raise it with every change to the pictures, so that no old folder passes for new


def outline(thing: str, side: float, rng: np.random.Generator) -> np.ndarray:
    """A rotated shape as (vertices, 2) points; its box starts at 0, 0 and is `side` pixels long."""
    vertices, inner = THINGS[thing]
    angle = 2 * np.pi * (np.arange(vertices) / vertices + rng.random())
    radius = np.where(np.arange(vertices) % 2, inner, 1.0)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points -= points.min(axis=0)
    return points * (side / points.max())


def coverage(polygon: np.ndarray, height: int, width: int, scale: int = 5) -> np.ndarray:
    """Share of each pixel inside a polygon (even-odd rule), as (height, width) in [0, 1].

    Each pixel is probed at the centers of scale x scale cells. `cv2.fillPoly` would put a pixel's
    center, not its corner, at whole coordinates, and draw the border half a pixel too wide.
    """
    left, top = np.floor(polygon.min(axis=0)).astype(int)
    right, bottom = np.ceil(polygon.max(axis=0)).astype(int)
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    y = top + (np.arange((bottom - top) * scale) + 0.5) / scale
    edge, row = np.nonzero((y0[:, None] <= y) != (y1[:, None] <= y))
    x = x0[edge] + (y[row] - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    crossings = np.zeros((len(y), (right - left) * scale + 1), np.uint8)
    np.add.at(crossings, (row, np.ceil((x - left) * scale - 0.5).astype(int)), 1)
    inside = crossings.cumsum(axis=1, dtype=np.uint8)[:, :-1] % 2
    cells = inside.reshape(bottom - top, scale, right - left, scale)
    share = np.zeros((height, width))
    share[top:bottom, left:right] = cells.mean(axis=(1, 3))
    return share


def texture(kind: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A pattern of random direction and grain, as (height, width) in [0, 1]."""
    y, x = np.mgrid[:height, :width]
    cos, sin = np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    if kind == 'gradient':
        return (along - along.min()) / np.ptp(along)
    if kind == 'speckle':
        grains = rng.random((height // 2 + 1, width // 2 + 1))
        return cv2.resize(grains, (width, height), interpolation=cv2.INTER_LINEAR)
    wave = 2 * np.pi / rng.uniform(6, 12)
    if kind == 'stripes':
        pattern = np.sin(along * wave)
    elif kind == 'checks':
        pattern = np.sin(along * wave) * np.sin(across * wave) * 2
    elif kind == 'dots':
        pattern = np.sin(along * wave) + np.sin(across * wave) - 0.8
    else:
        raise ValueError(f'unknown texture {kind!r}')
    return np.clip(0.5 + 1.5 * pattern, 0, 1)


def paint(
    kind: str, height: int, width: int, saturation: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A texture from a random color to a darker shade, as (height, width, 3) RGB in [0, 255]."""
    hue, value, shade = rng.random(), rng.uniform(0.5, 1), rng.uniform(0.5, 0.75)
    color = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), value))
    return color * (1 - (1 - shade) * texture(kind, height, width, rng)[..., None])


def draw(
    size: int, seed: int, split: int, index: int, large: bool = False
) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Draw one picture.

    Args:
        size: Typical length of a side; each is within a fifth of it.
        seed: Seed of the data set.
        split: Index into `SPLITS`.
        index: Index of the image in its split; the first shape's class is the index modulo four.
        large: Leave out small shapes.

    Returns:
        Image (H, W, 3) uint8 BGR, semantic map (H, W) uint8, and for each shape a dict with
        category_id, segmentation, bbox, area and iscrowd as COCO has them.
    """
    rng = np.random.default_rng([seed, split, index])
    height, width = (int(side) for side in rng.integers(size - size // 5, size + size // 5 + 1, 2))
    grounds = rng.choice(STUFF, 2, replace=False)
    image, other = (paint(kind, height, width, (0.0, 0.25), rng) for kind in grounds)
    semantic = np.full((height, width), CLASSES.index(grounds[0]), np.uint8)
    if rng.random() < 0.5:  # half of the pictures have a second ground beyond a straight line
        beyond = texture('gradient', height, width, rng) > rng.uniform(0.3, 0.7)
        image[beyond], semantic[beyond] = other[beyond], CLASSES.index(grounds[1])

    shapes: list[dict] = []
    taken = np.zeros((height, width), np.uint8)
    for number in range(rng.integers(1, 5)):
        label = index % len(THINGS) if number == 0 else int(rng.integers(len(THINGS)))
        for _ in range(20):  # no room in twenty tries: leave this shape out; the first always fits
            side = rng.uniform(0.3 if large else 0.12, 0.45) * min(height, width)
            polygon = outline(CLASSES[label], side, rng)
            polygon += rng.uniform(0, [width, height] - polygon.max(axis=0))
            polygon = polygon.round(2)
            cover = coverage(polygon, height, width)
            if not taken[cover > 0].any():
                break
        else:
            continue
        fill = paint(str(rng.choice(FILLS)), height, width, (0.5, 1.0), rng)
        image += (fill - image) * cover[..., None]
        semantic[cover > 0.5] = label  # an odd number of probes: no ties
        near = cv2.dilate((cover > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        taken |= near  # shapes keep two pixels apart
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        x, y = (polygon - low).T
        area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        shape = dict(category_id=label + 1, iscrowd=0, area=round(float(area), 2))
        shape['bbox'] = [*low.tolist(), *(high - low).round(2).tolist()]
        shape['segmentation'] = [polygon.flatten().tolist()]
        shapes.append(shape)
    image += 4 * rng.standard_normal(image.shape, np.float32)
    return image.round().clip(0, 255).astype(np.uint8)[..., ::-1], semantic, shapes


def write_split(out: Path, split: int, count: int, size: int, seed: int, large: bool) -> int:
    """Write one split, pictures and maps before annotations; returns the number of shapes."""
    folder, maps = out / SPLITS[split], out / 'stuffthingmaps' / SPLITS[split]
    folder.mkdir(parents=True)
    maps.mkdir(parents=True)
    images, annotations = [], []
    for index in track(range(count), f'drawing {SPLITS[split]}'):
        image, semantic, shapes = draw(size, seed, split, index, large)
        (height, width), name = semantic.shape, f'{index + 1:012d}'
        jpg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        (folder / f'{name}.jpg').write_bytes(jpg.tobytes())  # imwrite would hide a full disk
        (maps / f'{name}.png').write_bytes(cv2.imencode('.png', semantic)[1].tobytes())
        images.append(dict(id=index + 1, file_name=f'{name}.jpg', height=height, width=width))
        for shape in shapes:
            annotations.append(dict(id=len(annotations) + 1, image_id=index + 1, **shape))
    content = dict(
        info=dict(description=f'textured shapes, made by {MADE_BY}'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(THINGS, start=1)],
    )
    (out / 'annotations').mkdir(exist_ok=True)
    (out / 'annotations' / f'instances_{SPLITS[split]}.json').write_text(json.dumps(content))
    return len(annotations)


def read_manifest(out: Path) -> dict | None:
    """OUT/shapes.json if this script wrote it, else None."""
    try:
        manifest = json.loads((out / 'shapes.json').read_text())
    except (FileNotFoundError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get('made_by') == MADE_BY else None


def write_manifest(out: Path, complete: bool, parameters: dict) -> None:
    """Replace OUT/shapes.json in one step."""
    manifest = dict(made_by=MADE_BY, complete=complete, parameters=parameters, classes=CLASSES)
    text = json.dumps(manifest, indent=2)
    write_atomically(out / 'shapes.json', lambda file: file.write(text.encode()))


def make_shapes(
    out: Path,
    train: int = 400,
    val: int = 60,
    size: int = 160,
    seed: int = 0,
    large: bool = False,
    force: bool = False,
) -> bool:
    """Make the data set, unless it is there already.

    Args:
        out: Folder to write: new, empty, or made by this script before.
        train: Number of training images.
        val: Number of validation images.
        size: Typical length of an image's side, in pixels.
        seed: Seed of everything random.
        large: Draw large shapes only.
        force: Replace a finished set made with other parameters.

    Returns:
        False if the same set was there already, else True.

    Raises:
        FileExistsError: `out` holds something else; nothing was changed.
        OSError: `out` cannot be written.
    """
    parameters = dict(version=VERSION, train=train, val=val, size=size, seed=seed)
    if large:
        parameters['large'] = True
    found = read_manifest(out)
    if found is None and out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f'{out} holds something that this script did not make, so it stays as it is, with '
            '--force too: name another folder, or move it away first'
        )
    if found and found['complete'] and not force:
        if found['parameters'] != parameters:
            raise FileExistsError(
                f'{out} holds shapes made with {found["parameters"]}, not with {parameters}: '
                'name another folder, or replace them with --force'
            )
        pictures = len(list(out.glob('*2017/*.jpg'))), len(list(out.glob('*maps/*2017/*.png')))
        if (
            pictures == (train + val, train + val)
            and len(list(out.glob('annotations/*.json'))) == 2
        ):
            print(f'{out} is complete already: {train} + {val} images')
            return False

    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out, False, parameters)  # marks an unfinished folder as ours, to be remade
    for name in (*SPLITS, 'annotations', 'stuffthingmaps'):
        if (out / name).exists():
            shutil.rmtree(out / name)
    counts = enumerate((train, val))
    shapes = [write_split(out, split, count, size, seed, large) for split, count in counts]
    write_manifest(out, True, parameters)
    print(
        f'{out}: {train} + {val} images with {shapes[0]} + {shapes[1]} shapes, '
        f'made in {time.perf_counter() - start:.1f} s'
    )
    return True


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(
        description='Draw a small data set of shapes, in COCO layout',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument('--train', type=int, default=400, help='training images')
    parser.add_argument('--val', type=int, default=60, help='validation images')
    parser.add_argument('--size', type=int, default=160, help='typical side of an image in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of everything random')
    parser.add_argument(
        '--large', action='store_true', help='no shapes below 0.3 of the side of an image'
    )
    parser.add_argument('--force', action='store_true', help='replace shapes of other parameters')
    args = parser.parse_args()
    for name, least in dict(train=1, val=1, size=64, seed=0).items():
        if getattr(args, name) < least:
            parser.error(f'--{name} is {getattr(args, name)}, must be at least {least}')
    return args


def main() -> None:
    args = parse_args()
    try:
        make_shapes(**vars(args))
    except FileExistsError as error:
        raise SystemExit(f'error: {error}') from None
    except OSError as error:
        raise SystemExit(
            f'error: cannot write {error.filename or args.out}: {error.strerror}; '
            'name another folder, or make room and run this again'
        ) from None


if __name__ == '__main__':
    main()
