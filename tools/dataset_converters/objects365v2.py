"""Clean the annotations of Objects365 v2 for mmdet's Objects365V2Dataset.

    ROOT/annotations/zhiyuan_objv2_train.json, zhiyuan_objv2_val.json
    ROOT/train/patch0/objects365_v1_00000000.jpg ...
    ROOT/val/patch0/objects365_v1_00900001.jpg ...

are what it needs; mmdet looks for an image in the folder of its last parent, whatever stands before
that in the file's `file_name`. Beside each annotation file this writes

    zhiyuan_objv2_train_clean.json   without images that are not on the disk, and without
                                     annotations that mmdet cannot use
    zhiyuan_objv2_train_clean.txt    what was left out, a line each

The originals stay as they are. The whole file is held in memory: about 12 GB for the training
annotations, and for a moment the text of the file, twice, on top.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path

from mmswinv2.datasets.coco import read_fields
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.files import atomic_file
from mmswinv2.options import ArgumentParser
from mmswinv2.progress import track

ANNOTATIONS = 'annotations/zhiyuan_objv2_{}.json'


def check_layout(root, splits):
    """Raise a UserError that names everything that is not where it should be."""
    missing = []
    for split in splits:
        if not (root / ANNOTATIONS.format(split)).is_file():
            missing.append(str(root / ANNOTATIONS.format(split)))
        if not patches(root / split):
            missing.append(f'{root / split}/patch0, patch1, ...')
    if missing:
        raise UserError(f'not found: {"; ".join(missing)}. --help shows the layout')


def patches(folder):
    return [path for path in folder.glob('patch*') if path.is_dir()]


def images_on_disk(folder):
    """The images as 'patch0/name.jpg'."""
    return {f'{p.name}/{entry.name}' for p in patches(folder) for entry in os.scandir(p)}


def place(image):
    """Where mmdet looks for an image, below the folder of its split."""
    return '/'.join(image['file_name'].split('/')[-2:])


def fault(annotation, sizes, category_ids):
    """Why mmdet could not use an annotation, or None."""
    size = sizes.get(annotation['image_id'])
    if size is None:
        return 'its image is left out'
    if annotation['category_id'] not in category_ids:
        return 'its category is unknown'
    x, y, w, h = annotation['bbox']
    area = annotation.get('area')
    if type(area) not in (int, float) or not all(abs(n) < math.inf for n in (x, y, w, h, area)):
        return 'its box or area is no finite number'
    if area <= 0 or w < 1 or h < 1:
        return 'it has no area'
    if min(x + w, size[0]) <= max(x, 0) or min(y + h, size[1]) <= max(y, 0):
        return 'its box is outside the image'
    return None


def check_categories(path, categories):
    """Raise a UserError if a class of mmdet's is not in the file."""
    from mmdet.datasets import Objects365V2Dataset

    names = {category['name'] for category in categories}
    classes = Objects365V2Dataset.METAINFO['classes']
    if missing := [name for name in classes if name not in names]:
        raise UserError(
            f'{path} lacks {len(missing)} of the {len(classes)} classes of Objects365V2Dataset, '
            f'such as {missing[0]!r}; is it Objects365 v2, with the names as published?'
        )


def clean(content, on_disk, log):
    """Remove what mmdet cannot use, in place; returns the numbers left out by reason."""
    counts = Counter()
    kept = []
    for image in content['images']:
        image['file_name'] = image['file_name'].replace('\\', '/')  # as written on Windows
        if place(image) in on_disk:
            kept.append(image)
        else:
            counts['images that are not on the disk'] += 1
            log.write(f'image {place(image)}: it is not on the disk\n')
    content['images'] = kept
    sizes = {image['id']: (image['width'], image['height']) for image in kept}
    category_ids = {category['id'] for category in content['categories']}
    kept = []
    for annotation in track(content['annotations'], 'annotations'):
        why = fault(annotation, sizes, category_ids)
        if why is None:
            kept.append(annotation)
        else:
            counts[f'annotations: {why}'] += 1
            log.write(
                f'annotation {annotation.get("id")} of image {annotation["image_id"]}: {why}\n'
            )
    content['annotations'] = kept
    return counts


def write(path, content):
    """Write a JSON object entry by entry: the text as a whole would need gigabytes."""
    with path.open('w') as file:
        for n, (key, value) in enumerate(content.items()):
            file.write(f'{"," if n else "{"}\n{json.dumps(key)}: ')
            if isinstance(value, list):
                file.write('[')
                for i, item in enumerate(track(value, f'writing {key}')):
                    file.write(f'{"," if i else ""}\n{json.dumps(item)}')
                file.write(']')
            else:
                file.write(json.dumps(value))
        file.write('}\n')


def clean_split(root, split):
    """Write the clean annotations of one split and print a report."""
    source = root / ANNOTATIONS.format(split)
    target = source.with_name(f'{source.stem}_clean.json')
    log = target.with_suffix('.txt')
    on_disk = images_on_disk(root / split)
    content = read_fields(source)
    check_categories(source, content['categories'])
    images, annotations = content['images'], content['annotations']
    try:
        with atomic_file(target) as new_target, atomic_file(log) as new_log:
            with new_log.open('w', errors='backslashreplace') as file:
                counts = clean(content, on_disk, file)
            if images and not content['images']:
                raise UserError(
                    f'none of the images in {source} is there, such as '
                    f'{root / split / place(images[0])}; --help shows the layout'
                )
            write(new_target, content)
    except OSError as error:
        raise UserError(f'cannot write {target} ({error.strerror}); make room there') from error
    print(f'{target}:')
    print(f'  {len(content["images"])} of {len(images)} images kept')
    print(f'  {len(content["annotations"])} of {len(annotations)} annotations kept')
    for what, number in counts.items():
        print(f'  left out {number} {what}')


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument('root', type=Path, help='such as data/Objects365/Obj365_v2')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=['train', 'val'],
        default=['val', 'train'],
        help='which files to clean (both)',
    )
    return parser.parse_args()


def main():
    args = parse_args()
    check_layout(args.root, args.splits)
    for split in args.splits:
        clean_split(args.root, split)


if __name__ == '__main__':
    with report_user_errors():
        main()
