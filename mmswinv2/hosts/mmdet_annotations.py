"""Annotations of detection data sets: rules that they are held to when mmdet reads them."""

import functools
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio

from ..errors import UserError
from ..files import read_json, turn_backslashes
from ..log import warn
from .configs import check_numbers, steps_in
from .label_maps import check_file, check_form, check_map_size, check_shape
from .mmcv import check_size, name_file, open_image
from .patching import is_installed, patch, replace

_NUMBER = re.compile(r'\s*[+-]?\d+\s*')  # as mmdet reads it


@patch('mmdet', '>=3')
def check_annotations() -> None:
    """COCO annotations are held to rules when they are read; labels go by the names of classes."""
    _check_coco()
    _check_lists()
    if is_installed('mmdet', '>=3.3'):
        _check_label_map()
    _check_xml()
    _check_maps()


def _check_coco() -> None:
    """COCO's format."""
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.evaluation.metrics import CocoMetric

    from ..datasets.coco import get_category_ids, read_coco

    written = set()  # files that CocoMetric made from other formats, without names of images

    @replace(CocoMetric, 'gt_to_coco_json')
    def write(original: Any, self: Any, *args: Any, **options: Any) -> str:
        path = original(self, *args, **options)
        _measure_masks(path)
        written.add(path)
        return path

    @replace(COCO, '__init__')
    def read(original: Any, self: Any, annotation_file: str | None = None) -> None:
        if annotation_file == '':
            raise UserError(
                'a data set or metric of COCO has no ann_file; set it to the file of its '
                "annotations, such as 'annotations/instances_train2017.json'"
            )
        # panoptic segmentation has a subclass of its own
        if annotation_file is None or type(self) is not COCO or annotation_file in written:
            written.discard(annotation_file)  # checked if read again
            original(self, annotation_file)
            return
        original(self)
        self.dataset, self.path = read_coco(annotation_file), annotation_file
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    @replace(COCO, 'get_cat_ids')
    def get_cat_ids(
        original: Any, self: Any, cat_names: Any = (), sup_names: Any = (), cat_ids: Any = ()
    ) -> list:
        if not isinstance(cat_names, (list, tuple)):
            raise UserError(
                f'classes must be a list or tuple of names, got {cat_names!r}; a tuple of one name '
                'needs a comma, a set has no order'
            )
        if not cat_names or sup_names or cat_ids:
            return original(self, cat_names or (), sup_names, cat_ids)
        path = getattr(self, 'path', 'the annotations')
        return get_category_ids(path, self.dataset['categories'], cat_names)


def _measure_masks(path: str) -> None:
    """Give the objects of a file the areas of their masks, by which COCO calls them small or large.

    mmdet gives them the areas of their boxes, which those keep whose mask cannot be used.
    """
    from ..datasets.coco_masks import check_masks

    content = read_json(path)
    size = {image['id']: (image['width'], image['height']) for image in content['images']}
    annotations = content.get('annotations', [])
    sizes = np.array([size[a['image_id']] for a in annotations]).reshape(-1, 2)
    try:
        areas = check_masks(path, annotations, sizes, None).tolist()
    except UserError:  # a metric of boxes does without masks
        return
    for annotation, area in zip(annotations, areas, strict=True):
        annotation['area'] = area or annotation['area']
    Path(path).write_text(json.dumps(content))


def _check_lists() -> None:
    """The list of images that any data set of mmdet makes."""
    from mmdet.datasets import BaseDetDataset, CrowdHumanDataset, LVISV05Dataset, OpenImagesDataset

    # without train or val in the name of a list there is no file to keep sizes of images in
    CrowdHumanDataset.extra_ann_file = ''

    @replace(CrowdHumanDataset, 'parse_data_info')
    def parse_entry(original: Any, self: Any, entry: dict) -> dict:
        if entry['ID'] not in self.extra_anns:  # the file of sizes is of another list
            self.extra_ann_exist = False
        return original(self, entry)

    @replace(OpenImagesDataset, 'load_data_list')
    def load_data_list(original: Any, self: Any) -> list[dict]:
        images = original(self)
        # with a single box the last image has the path of the one before
        name = f'{images[-1]["img_id"]}.jpg'
        images[-1]['img_path'] = os.path.join(self.data_prefix['img'], name)
        return images

    @replace(BaseDetDataset, '__init__')
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        self.load_data_list = functools.partial(load_checked, self)
        original(self, *args, **options)

    @replace(BaseDetDataset, 'load_proposals')
    def load_proposals(original: Any, self: Any) -> None:
        try:
            original(self)
            names = [type(step).__name__ for step in steps_in(self.pipeline)]
            infos = self.data_list if 'LoadProposals' in names else ()  # users' own take any form
            if any(info['proposals']['bboxes'].shape[1:] != (4,) for info in infos):
                raise TypeError('bboxes are not (n, 4)')
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError) as error:
            raise UserError(
                f'{self.proposal_file} does not fit the {len(self.data_list)} images '
                f'of {self.ann_file} ({error!r:.80}); it is a dict with folder and name of '
                "each, such as 'val2017/1.jpg', and for each a dict of arrays, bboxes (n, 4) and "
                'scores (n,), as DumpProposals writes it'
            ) from error

    @replace(LVISV05Dataset, 'parse_data_info')
    def parse_data_info(original: Any, self: Any, info: dict) -> dict:
        # the file is open while it is parsed, unless a class of the user's own reads it
        if hasattr(self, 'lvis') and not vars(self).setdefault('is_numbered', False):
            own = [self.lvis.cats[number]['name'] for number in self.cat_ids]
            check_numbers(self.ann_file, own, self.metainfo['classes'])
            self.is_numbered = True
        return original(self, info)


def _check_label_map() -> None:
    """The names of classes beside files of ODVG's format."""
    from mmdet.datasets import ODVGDataset

    @replace(ODVGDataset, '__init__')
    def init(
        original: Any, self: Any, *args: Any, data_root: str = '',
        label_map_file: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        if label_map_file:
            path = Path(data_root, label_map_file)
            names = read_json(path)
            if not isinstance(names, dict) or not all(map(str.isdecimal, names)):
                raise UserError(
                    f'{path} has {names!r:.60}; a label map of ODVGDataset is a JSON object with '
                    'the name of each label, such as {"0": "cat", "1": "dog"}'
                )
        original(self, *args, data_root=data_root, label_map_file=label_map_file, **options)


def _check_xml() -> None:
    """Pascal VOC's format."""
    from mmdet.datasets import WIDERFaceDataset, XMLDataset

    from ..datasets.labels.voc import is_difficult

    @replace((XMLDataset, WIDERFaceDataset), 'parse_data_info')
    def parse_data_info(original: Any, self: Any, info: dict) -> dict:
        try:
            image = original(self, info)
        except (OSError, SyntaxError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f'{self.ann_file} names {info["img_id"]!r}, whose annotations cannot be read '
                f'({error!s:.200}); a line is the name of an XML file without .xml, and an '
                'object has name and bndbox with xmin, ymin, xmax, ymax'
            ) from error
        if not image['height'] or not image['width']:  # some tools write 0
            from ..datasets.to_coco import image_size

            size = image_size(Path(image['img_path']), decode=False)
            image['width'], image['height'] = size or (0, 0)
        return image

    @replace(XMLDataset, '_parse_instance_info')
    def parse_instance_info(original: Any, self: Any, tree: Any, *args: Any, **kw: Any) -> list:
        for node in tree.findall('object/name'):  # files may be indented inside of it, too
            node.text = (node.text or '').strip()
        names = {node.findtext('name') for node in tree.findall('object')}
        others = vars(self).setdefault('names_of_no_class', set())
        others |= names - {None} - set(self._metainfo['classes'])
        for node in tree.findall('object/difficult'):  # mmdet takes a number alone
            if not _NUMBER.fullmatch(node.text or ''):
                node.text = str(int(is_difficult(node.text, 'an object')))
        return original(self, tree, *args, **kw)


def _check_maps() -> None:
    """Semantic maps, and panoptic ones."""
    from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations

    @replace(LoadAnnotations, '_load_seg_map')
    def load_seg_map(original: Any, self: Any, results: dict) -> None:
        if (path := results.get('seg_map_path')) is None:
            return
        with name_file(path, 'label map'):
            content = fileio.get(path, backend_args=self.backend_args)
            check_file(path, content, self.imdecode_backend)
            original(self, results)
        check_semantic_map(results, getattr(self, 'semantic_classes', None))

    @replace(LoadPanopticAnnotations, '_load_masks_and_semantic_segs')
    def load_panoptic_map(original: Any, self: Any, results: dict) -> None:
        if (path := results.get('seg_map_path')) is None:
            return
        with name_file(path, 'panoptic map'):
            content = fileio.get(path, backend_args=self.backend_args)
            with open_image(io.BytesIO(content)) as file:
                check_form(path, file, 'panoptic map')
                shape = file.height, file.width
            size = dict(img_path=results.get('img_path'), height=shape[0], width=shape[1])
            check_size(size, results.get('ori_shape') or shape, f'the panoptic map {path}: ')
            original(self, results)
        check_panoptic_map(results)


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
        dict(id=number, image_id=image['img_path'], segmentation=_plain(instance['mask']))
        for number, (image, instance) in enumerate(found)
    ]
    corners = np.array([instance['bbox'] for _, instance in found], float)
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    sizes = np.array([(image['width'], image['height']) for image, _ in found])
    coco_masks.check_masks(dataset.ann_file, annotations, sizes, boxes)
    for (_, instance), annotation in zip(found, annotations, strict=True):
        instance['mask'] = annotation['segmentation']


def _plain(value: Any) -> Any:
    """A mask as JSON has it: pickled ones may hold arrays, numbers of numpy, tuples and bytes."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return list(value) if {*map(type, value)} <= {int, float} else [*map(_plain, value)]
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
