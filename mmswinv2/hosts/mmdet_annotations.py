"""Annotations of detection data sets, and rules for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import turn_backslashes
from ..log import warn
from .configs import steps_in
from .label_maps import check_map_size, check_shape


def load_checked(dataset: Any) -> list[dict]:
    """Load the list of a data set, once, and check it, without the garbage collector."""
    from ..datasets.coco import without_collection

    with without_collection():  # as a decorator it would keep the data set from being pickled
        return _load_checked(dataset)


def _load_checked(dataset: Any) -> list[dict]:
    del dataset.load_data_list  # that of the class is called
    try:
        images = dataset.load_data_list()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if isinstance(error, UserError):
            raise
        if error.args == ('img',) and 'img' not in dataset.data_prefix:
            raise UserError(
                f'{dataset.ann_file}: data_prefix={dataset.data_prefix} of '
                f'{type(dataset).__name__} has no img, the folder of the images, such as '
                'dict(img="train2017/")'
            ) from error
        if not _is_read_by_mmdet(dataset):
            raise
        raise UserError(
            f'{dataset.ann_file} is no file for {type(dataset).__name__} '
            f"({type(error).__name__}: {error}); a file of COCO is one for type='CocoDataset'"
        ) from error
    if any('segments_info' in image for image in images):  # panoptic: masks come from maps
        check_segment_ids(dataset, images)
        check_things(dataset, images)
        return images
    turn_backslashes(images, addresses=True)
    is_checked = is_read_as_coco(dataset)
    if not is_checked:
        check_boxes(dataset, images)
    check_objects(dataset, images)
    loaders = [step for step in steps_in(dataset.pipeline) if getattr(step, 'with_mask', False)]
    if loaders:
        if not is_checked:
            check_mask_forms(dataset, images)
        check_masks_of_objects(
            dataset, images, all(getattr(step, 'poly2mask', True) for step in loaders)
        )
    return images


def is_read_as_coco(dataset: Any) -> bool:
    """Whether `read_coco` reads, and checks, the file of a data set."""
    from mmdet.datasets import CocoDataset, CocoPanopticDataset, LVISV05Dataset

    others = (CocoPanopticDataset, LVISV05Dataset)
    return isinstance(dataset, CocoDataset) and not isinstance(dataset, others)


def _is_read_by_mmdet(dataset: Any) -> bool:
    """Whether mmdet alone reads the file of a data set: errors of other readers may be bugs."""
    return not is_read_as_coco(dataset) and all(
        kind.__module__.startswith(('mmdet.', 'mmengine.'))
        for kind in type(dataset).__mro__
        if {'load_data_list', 'parse_data_info'} & vars(kind).keys()
    )


def check_boxes(dataset: Any, images: Sequence[dict]) -> None:
    """Leave out boxes of other formats than COCO's that cannot be used; refuse wrong labels."""
    from ..datasets.box_rules import check_corners

    classes = dataset.metainfo.get('classes') or getattr(dataset, 'label_map', None)  # of ODVG
    for image in images:
        for instance in image.setdefault('instances', []):
            instance.setdefault('ignore_flag', 0)
            if 'is_group_ofs' in instance:  # of the challenge, which OpenImagesMetric cannot read
                instance['is_group_of'] = instance.pop('is_group_ofs')
    if classes is None or not (found := [(i, o) for i in images for o in i['instances']]):
        return  # phrases in place of classes
    first = found[0][1]
    if np.size(first.get('bbox')) in (5, 8) or not {'bbox', 'bbox_label'} & first.keys():
        return  # turned boxes, lines
    labels = {*map(int, classes)} if isinstance(classes, dict) else {*range(len(classes))}
    for image, instance in found:
        label = instance.get('bbox_label')
        if not instance['ignore_flag'] and label not in labels:
            raise UserError(
                f'{dataset.ann_file}: an object of {image.get("img_path")} has bbox_label={label!r}'
                f', and the labels of {len(classes)} classes are {min(labels)} to {max(labels)}'
            )
    keep = check_corners(
        dataset.ann_file,
        [instance.get('bbox') for _, instance in found],
        [(image.get('width') or np.inf, image.get('height') or np.inf) for image, _ in found],
        lambda i: f'on {found[i][0].get("img_path")} with bbox={found[i][1]["bbox"]}',
    )
    used = iter(keep)
    for image in images:
        image['instances'] = [o for o in image['instances'] if next(used)]


def check_mask_forms(dataset: Any, images: Sequence[dict]) -> None:
    """Hold polygons and run lengths of other formats than COCO's to the rules for COCO's.

    Those of which no mask can be made are taken out of their instances.
    """
    from ..datasets import coco_masks

    found = [
        (image, instance)
        for image in images
        for instance in image['instances']
        if isinstance(instance.get('mask'), (list, dict))
        and np.size(instance.get('bbox')) == 4
        and image.get('width')
        and image.get('height')
    ]
    if not found:
        return
    annotations = [
        dict(id=number, image_id=image['img_path'], segmentation=as_in_json(instance['mask']))
        for number, (image, instance) in enumerate(found)
    ]
    corners = np.array([instance['bbox'] for _, instance in found], float)
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    sizes = np.array([(image['width'], image['height']) for image, _ in found])
    coco_masks.check_masks(dataset.ann_file, annotations, sizes, boxes)
    for (_, instance), annotation in zip(found, annotations, strict=True):
        instance['mask'] = annotation['segmentation']


def as_in_json(value: Any) -> Any:
    """A mask as JSON has it: pickled ones may hold arrays, numbers of numpy, tuples and bytes."""
    if isinstance(value, dict):
        return {key: as_in_json(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return list(value) if {*map(type, value)} <= {int, float} else [*map(as_in_json, value)]
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def check_segment_ids(dataset: Any, images: Sequence[dict]) -> None:
    """Raise `UserError` for ids of segments that no color of a panoptic map can be."""
    for image in images:
        for segment in image['segments_info']:
            number = segment['id']
            whole = isinstance(number, (int, float, np.integer)) and number % 1 == 0
            if not (whole and 0 < number < 2**24):
                raise UserError(
                    f'{dataset.ann_file}: a segment of {image["img_path"]} has id={number!r}; ids '
                    'are whole numbers from 1 to 2**24 - 1, as 0 marks the pixels of no segment'
                )


def check_things(dataset: Any, images: Sequence[dict]) -> None:
    """Raise `UserError` if things are not the first classes, as panoptic heads take them."""
    classes, things = (dataset.metainfo.get(key) or () for key in ('classes', 'thing_classes'))
    if not things or not set(things) <= set(classes):
        return  # none, or still those of COCO: loading does not use them
    segments = (segment for image in images for segment in image['segments_info'])
    others = {s['category'] for s in segments if s['is_thing'] and s['category'] >= len(things)}
    if others or set(classes[: len(things)]) != set(things):
        hint = ''.join(f', and {classes[i]!r} is a thing there (isthing=1)' for i in sorted(others))
        raise UserError(
            f'{dataset.ann_file}: metainfo of the data set has classes={classes!r:.200} and '
            f'thing_classes={things!r:.200}{hint:.200}; classes are thing_classes, then '
            'stuff_classes, as heads take the first labels for things'
        )


def check_objects(dataset: Any, images: Sequence[dict]) -> None:
    """Raise `UserError` if a training set has no object, and warn of classes that have none."""
    from ..datasets.coco import some

    instances = [instance for image in images for instance in image.get('instances', ())]
    classes = dataset.metainfo.get('classes')
    others = some(sorted(getattr(dataset, 'names_of_no_class', ())))
    if all(instance.get('ignore_flag') for instance in instances):
        if dataset.test_mode and not others:
            return
        problem = (
            f'{dataset.ann_file} has {len(images)} images and 0 annotations (crowds left aside) of '
            f'the classes {classes!r:.80}'
        )
        if others and (dataset.filter_cfg or {}).get('filter_empty_gt', True):
            raise UserError(
                f'{problem}; its objects are {others}: name these in metainfo, or set '
                'filter_cfg=dict(filter_empty_gt=False) if the images are to be background'
            )
        if (dataset.filter_cfg or {}).get('filter_empty_gt'):
            raise UserError(f'{problem}; training needs both')
        warn(f'{problem}: they are background')
    seen = {instance.get('bbox_label') for instance in instances}
    if others and (lacking := [name for i, name in enumerate(classes) if i not in seen]):
        warn(
            f'{dataset.ann_file}: no object is of the classes {some(lacking)}, and objects of '
            f'{others} are left out; classes in metainfo are the names in the label files'
        )


def check_masks_of_objects(dataset: Any, images: Sequence[dict], rasterized: bool) -> None:
    """Count instances without a mask, which mmdet ignores, in a warning.

    Raises `UserError` if no object has a mask that training can use; run lengths are none where
    masks are not `rasterized` (poly2mask=False).
    """
    instances = [instance for image in images for instance in image.get('instances', ())]
    objects = [instance for instance in instances if not instance.get('ignore_flag')]
    runs = sum(isinstance(instance.get('mask'), dict) for instance in objects)
    if runs and not dataset.test_mode and not rasterized:
        problem = (
            f'{dataset.ann_file}: {runs} of {len(objects)} masks are run lengths, and '
            'poly2mask=False of LoadAnnotations takes polygons alone'
        )
        if runs == len(objects):
            raise UserError(f'{problem}; leave it out: there is nothing to train with')
        warn(f'{problem}: their objects are ignored; leave it out to train with them')
    without = [instance for instance in instances if not instance.get('mask')]
    if objects and not any(instance.get('mask') for instance in objects):
        raise UserError(
            f'{dataset.ann_file} has boxes and no masks (segmentation), and the pipeline loads '
            'masks; take a config without masks, or set with_mask=False in LoadAnnotations'
        )
    for instance in without:
        instance['mask'] = []  # mmdet ignores it as damaged
    if without:
        warn(
            f'{dataset.ann_file}: {len(without)} of {len(instances)} annotations have no mask '
            '(segmentation); they are ignored in training and in scores of masks'
        )


def check_panoptic_map(results: dict) -> None:
    """Raise `UserError` if most classes of the segments of an image have no pixel in its map."""
    known = {segment['category'] for segment in results['segments_info']}
    if (labels := results.get('gt_seg_map')) is None:
        return
    absent = known.difference(np.flatnonzero(np.bincount(labels.ravel())).tolist())
    if len(absent) > len(known) / 2:
        raise UserError(
            f'the panoptic map {results["seg_map_path"]} has no pixel of {len(absent)} of the '
            f'{len(known)} classes of its segments_info; the color of a pixel is the id of its '
            'segment, red + 256 green + 65536 blue'
        )


def check_semantic_map(results: dict, num_classes: int | None) -> None:
    """Raise `UserError` if the semantic map of an image has another size, or bad values.

    Values are not checked without `num_classes`, those of the semantic head.
    """
    labels, path = results['gt_seg_map'], results['seg_map_path']
    check_shape(path, labels)
    check_map_size(results, results.get('ori_shape') or results.get('img_shape') or labels.shape)
    bad = labels[(labels != results.get('ignore_index', 255)) & (labels != 255)]
    if num_classes is not None and bad.size and (largest := int(bad.max())) >= num_classes:
        raise UserError(
            f'the semantic map {path} has the value {largest}, and the semantic head '
            f'num_classes={num_classes}, values 0 to {num_classes - 1}, or 255 for none'
        )
