"""Check the semantic maps that Hybrid Task Cascade trains with, or draw them from annotations.

    coco_stuff_maps.py ANNOTATIONS MAPS --check       every image has its map, and a good one
    coco_stuff_maps.py ANNOTATIONS MAPS [--stuff S]   draw the maps that MAPS lacks

A map is a PNG of the image's size with one channel, named after the image. Its values are
category id - 1, as in COCO-stuff: things 0-89, stuff 91-181, and 255 where nothing is labeled.

Drawing puts things (crowds too) over stuff and the smaller over the larger. The category `other` of
COCO-stuff's stuff_*.json, which marks the things, becomes 255. The category ids of data of your own
may go from 1 to 182. Maps that are there and whole are kept, so that an interrupted run goes on
where it stopped; to draw all of them anew, remove the folder first.
"""

import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_mask

from mmswinv2.datasets.coco import read_coco
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.files import atomic_file, is_inside, refuse_shared
from mmswinv2.hosts import label_maps
from mmswinv2.hosts.mmcv import name_file
from mmswinv2.options import ArgumentParser
from mmswinv2.progress import track

UNLABELLED = 255
MAX_ID = 182  # COCO-stuff's last id before `other`


def read_annotations(path):
    """Images as (id, file name, height, width), and by image id lists of (value, segmentation)."""
    content = read_coco(path, boxes=False)
    images = [(i['id'], i['file_name'], i['height'], i['width']) for i in content['images']]
    names = {category['id']: category['name'] for category in content['categories']}
    segments = defaultdict(list)
    for annotation in content['annotations']:
        segment = annotation['category_id'], annotation.get('segmentation')
        segments[annotation['image_id']].append(segment)
    return images, segments, names


def to_values(path, segments, names, stuff=False):
    """Replace the category ids by values, in place, leaving out what has no segmentation."""
    used = {category for items in segments.values() for category, _ in items}
    values = {category: category - 1 for category in used}
    if stuff:
        values.update({c: UNLABELLED for c in used if names.get(c) == 'other'})
    if bad := sorted(c for c in used if not 1 <= c <= MAX_ID and values[c] != UNLABELLED):
        raise UserError(
            f'{path} has category ids outside 1 to {MAX_ID}: {", ".join(map(str, bad[:5]))}; a '
            'value is the id - 1, so number the categories from 1 on, in categories and in '
            'annotations'
        )
    if used and not any(mask for items in segments.values() for _, mask in items):
        raise UserError(f'{path} has boxes but no segmentations, of which maps could be drawn')
    for items in segments.values():
        items[:] = [(values[category], mask) for category, mask in items if mask]


def map_path(folder, file_name):
    """Path of the map of an image, which must be in the folder."""
    path = Path(folder, file_name)
    if not is_inside(path, folder):
        raise UserError(
            f'the image {file_name!r} is not inside of its folder, and so its map would not be '
            f'inside of {folder}; mend file_name in the annotation file'
        )
    return path.with_suffix('.png')


def map_paths(annotations, folder, images):
    """Paths of the maps of all images, which must all differ."""
    names = [name for _, name, *_ in images]
    paths = [map_path(folder, name) for name in names]
    refuse_shared(annotations, zip(names, map(os.path.abspath, paths), strict=True))
    return paths


def read_map(path):
    """A map, or None if the file is damaged, has lost labels or is not of one channel of 8 bits."""
    data = np.fromfile(path, np.uint8)
    try:
        with name_file(str(path), 'label map'):
            label_maps.check_file(str(path), data.tobytes(), 'cv2')
    except UserError:
        return None
    found = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return found if found is not None and found.ndim == 2 and found.dtype == np.uint8 else None


def to_mask(segmentation, height, width):
    """Polygons or RLE as a boolean (height, width) array."""
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation['counts'], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(segmentation).astype(bool)


def draw(height, width, layers):
    """A map of layers, lists of (value, segmentation); a layer covers those before it."""
    drawn = np.full((height, width), UNLABELLED, np.uint8)
    for layer in layers:
        masks = [(value, to_mask(segmentation, height, width)) for value, segmentation in layer]
        for value, mask in sorted(masks, key=lambda item: item[1].sum(), reverse=True):
            drawn[mask] = value
    return drawn


def draw_file(job):
    """Draw one map and return True, or return False if a good one exists."""
    path, height, width, layers = job
    if path.exists() and (found := read_map(path)) is not None:
        if found.shape == (height, width):
            return False
        raise UserError(
            f'{path} is there, but has {found.shape[1]}x{found.shape[0]} pixels and its image '
            f'{width}x{height}: name another folder for the maps, or remove that file'
        )
    there = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.exists() else None
    if there is not None and (there.ndim > 2 or there.dtype != np.uint8):
        raise UserError(
            f'{path} is there, and is a picture and no map (of one channel with 8 bits): name '
            'another folder for the maps, or remove that file'
        )
    try:
        drawn = draw(height, width, layers)
    except Exception as error:  # pycocotools raises all kinds
        raise UserError(f'cannot draw {path}: {error}; mend its annotations') from error
    try:
        with atomic_file(path) as part:
            part.write_bytes(cv2.imencode('.png', drawn)[1].tobytes())
    except OSError as error:
        raise UserError(
            f'cannot write {path} ({error.strerror}); name another folder, or make room and run '
            'this again'
        ) from error
    return True


def check_file(job):
    """What is wrong with one map, or None."""
    path, height, width, num_classes = job
    if not path.exists():
        return f'{path} is missing'
    found = read_map(path)
    if found is None:
        return f'{path} is damaged, or no PNG of one channel with 8 bits'
    if found.shape != (height, width):
        return (
            f'{path} has {found.shape[1]}x{found.shape[0]} pixels, and its image {width}x{height}'
        )
    largest = found[found != UNLABELLED].max(initial=0)
    if largest >= num_classes:
        return f'{path} has the value {largest}; {num_classes} classes have 0 to {num_classes - 1}'
    return None


def run(function, jobs, total, workers):
    """The results of all jobs in their order, with a progress bar."""
    results = []
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    try:
        done = pool.map(function, jobs, chunksize=16) if pool else map(function, jobs)
        results.extend(track(done, 'maps', total))
    except BrokenProcessPool as error:
        raise UserError(
            f'a process was killed after {len(results)} of {total} maps, perhaps for want of '
            'memory; run this again with fewer --workers'
        ) from error
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return results


def check_maps(annotations, maps, num_classes, workers):
    """Print that the maps are good, or raise a UserError that names the first one that is not."""
    images, _, _ = read_annotations(annotations)
    paths = map_paths(annotations, maps, images)
    jobs = [(path, h, w, num_classes) for path, (*_, h, w) in zip(paths, images, strict=True)]
    faults = [fault for fault in run(check_file, jobs, len(images), workers) if fault]
    if faults:
        raise UserError(
            f'{faults[0]}; {len(faults)} of {len(images)} maps are missing or wrong (without '
            '--check this draws those that are missing or damaged)'
        )
    print(f'{maps} has a good map for each of the {len(images)} images')


def draw_maps(annotations, maps, stuff, workers):
    """Draw the maps that are missing or damaged."""
    images, things, names = read_annotations(annotations)
    to_values(annotations, things, names)
    grounds = {}
    if stuff:
        _, grounds, names = read_annotations(stuff)
        to_values(stuff, grounds, names, stuff=True)
        if images and not any(i in grounds for i, *_ in images):
            raise UserError(f'{stuff} has annotations for none of the images in {annotations}')
    paths = map_paths(annotations, maps, images)
    jobs = [
        (path, h, w, [grounds.get(i, []), things.get(i, [])])
        for path, (i, _, h, w) in zip(paths, images, strict=True)
    ]
    drawn = sum(run(draw_file, jobs, len(images), workers))
    print(f'{maps}: {drawn} maps drawn, {len(images) - drawn} were there')


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('annotations', help='COCO annotation file, instances_*.json')
    parser.add_argument('maps', help='folder of the maps, such as stuffthingmaps/train2017')
    parser.add_argument('--stuff', help="COCO-stuff's stuff_*.json (things alone)")
    parser.add_argument('--check', action='store_true', help='check the maps, and write nothing')
    parser.add_argument(
        '--num-classes',
        type=int,
        default=183,
        help='classes of the semantic head, for --check (183)',
    )
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), help='processes (one for each CPU)'
    )
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f'--workers is {args.workers}, must be at least 1')
    if args.check and args.stuff:
        parser.error('--check needs no --stuff')
    return args


def main():
    args = parse_args()
    if args.check:
        check_maps(args.annotations, args.maps, args.num_classes, args.workers)
    else:
        draw_maps(args.annotations, args.maps, args.stuff, args.workers)


if __name__ == '__main__':
    with report_user_errors():
        main()
