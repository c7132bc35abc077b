"""Cut the objects of a COCO data set out, into a folder for each class, as classifiers want them.

OUT/train2017/CLASS/000000000001_0.png ...
OUT/val2017/CLASS/...
"""

import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import cv2
import mmcv

from mmswinv2.datasets.coco import can_be_path, read_coco
from mmswinv2.datasets.image_headers import decoding_loss
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.files import refuse_shared
from mmswinv2.hosts.mmcv import check_size, name_file, name_unreadable_images
from mmswinv2.options import ArgumentParser
from mmswinv2.progress import track

SPLITS = ('train2017', 'val2017')


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('coco', type=Path, help='folder of the COCO data set')
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--margin',
        type=float,
        default=0.1,
        help='what is shown around a box, as a fraction of its longer side (0.1)',
    )
    parser.add_argument(
        '--min-size',
        type=int,
        default=8,
        help='least side of a box in pixels; smaller ones are left out (8)',
    )
    return parser.parse_args()


def read(coco, split):
    """The annotations of a split."""
    file = coco / 'annotations' / f'instances_{split}.json'
    if not file.exists():
        raise UserError(f'{file} does not exist; {coco} is to have the layout of COCO')
    content = read_coco(file)
    names = [image['file_name'] for image in content['images']]
    refuse_shared(file, [(name, f'{Path(name).stem}_0.png') for name in names])
    return content


def folders_of_classes(content):
    """Name of the folder of each category id."""
    names = {c['id']: c['name'].replace('/', '_') for c in content['categories']}
    for name in names.values():
        if name in ('', '.', '..') or not can_be_path(name) or len(os.fsencode(name)) > 255:
            raise UserError(
                f'{name!r:.60} is the name of a category, and cannot be that of a folder'
            )
    if len(set(names.values())) < len(names):
        raise UserError(f'two categories would share a folder: {sorted(names.values())}')
    return names


def refuse_other_classes(contents):
    """Raise a UserError if splits differ in classes, as each split numbers its folders itself."""
    classes = {s: set(folders_of_classes(content).values()) for s, content in contents.items()}
    for first, second in itertools.combinations(classes, 2):
        if alone := sorted(classes[first] ^ classes[second]):
            raise UserError(
                f'{first} and {second} have other categories ({", ".join(alone)[:80]} in one '
                'alone), and classes would have other numbers in them; give both files all '
                'categories'
            )


def cut(content, images_of_split, out, margin, min_size):
    """Write the objects of a split; returns their number, and the numbers left out by reason."""
    names = folders_of_classes(content)
    images = {image['id']: image for image in content['images']}
    for name in names.values():  # each class has a folder, even without objects
        (out / name).mkdir(parents=True)
    by_image = {}
    for box in content['annotations']:
        by_image.setdefault(box['image_id'], []).append(box)
    written, left_out = 0, Counter()
    for image_id, boxes in track(by_image.items(), 'cutting out'):
        path = images_of_split / images[image_id]['file_name']
        with name_file(str(path)):
            bits = path.read_bytes()
        if kind := decoding_loss(bits, 'color', 'cv2'):
            raise UserError(f'{path} is a {kind}; convert the images to 8 bits first')
        image = mmcv.imfrombytes(bits, 'color', backend='cv2') if bits else None
        if image is None:
            raise UserError(f'cannot read the image {path}; fetch it again')
        check_size(images[image_id] | {'img_path': path}, image.shape)
        for number, box in enumerate(boxes):
            x, y, width, height = box['bbox']
            if box.get('iscrowd'):
                left_out['crowds'] += 1
                continue
            if min(width, height) < min_size:
                left_out[f'smaller than {min_size} pixels (--min-size)'] += 1
                continue
            more = margin * max(width, height)
            top, left = max(int(y - more), 0), max(int(x - more), 0)
            part = image[top : int(y + height + more) + 1, left : int(x + width + more) + 1]
            name = f'{path.stem}_{number}.png'
            if not cv2.imwrite(str(out / names[box['category_id']] / name), part):
                raise UserError(f'{out} cannot be written')
            written += 1
    return written, left_out


def main():
    args = parse_args()
    if not 0 <= args.margin < float('inf'):
        raise UserError(f'--margin must be a number from 0, got {args.margin}')
    name_unreadable_images.apply()  # turns WebP by its EXIF orientation, too
    contents = {split: read(args.coco, split) for split in SPLITS}
    refuse_other_classes(contents)
    source = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    made = repr((str(args.coco.resolve()), source, args.margin, args.min_size))
    done = args.out / 'complete'
    if done.exists() and done.read_text() == made:
        print(f'{args.out} is there already')
        return
    for split in SPLITS:
        if not done.exists() and (args.out / split).exists():
            raise UserError(
                f'{args.out / split} exists and was not finished by this tool; remove it'
            )
    part = args.out / '.unfinished'  # existing output stays until all is written
    shutil.rmtree(part, ignore_errors=True)
    for split, content in contents.items():
        number, left_out = cut(content, args.coco / split, part / split, args.margin, args.min_size)
        told = ''.join(f'; left out: {count} {what}' for what, count in left_out.items())
        print(f'{split}: {number} objects{told}')
    done.unlink(missing_ok=True)
    for split in SPLITS:
        shutil.rmtree(args.out / split, ignore_errors=True)
        (part / split).rename(args.out / split)
    part.rmdir()
    done.write_text(made)


if __name__ == '__main__':
    with report_user_errors():
        main()
