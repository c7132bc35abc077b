"""Where mmdet reads annotations and maps, which are held to rules there."""

import functools
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio

from ..errors import UserError
from ..files import read_json
from .configs import check_numbers, steps_in
from .label_maps import check_file, check_form
from .mmcv import check_size, name_file, open_image
from .mmdet_annotations import (
    as_in_json,
    check_panoptic_map,
    check_semantic_map,
    load_checked,
)
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
    from mmdet.evaluation.metrics import coco_metric

    from ..datasets.coco import get_category_ids, read_coco

    written = set()  # files that CocoMetric made from other formats, without names of images

    @replace(coco_metric, 'dump')
    def write(original: Any, content: Any, path: str) -> None:
        if isinstance(content, dict):  # predictions are a list
            _measure_masks(path, content)
            written.add(path)
        original(content, path)

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


def _measure_masks(path: str, content: dict[str, Any]) -> None:
    """Give objects the areas of their masks, by which COCO calls them small or large.

    mmdet gives them the areas of their boxes, which those keep whose mask cannot be used.
    """
    from ..datasets.coco_masks import check_masks

    size = {image['id']: (image['width'], image['height']) for image in content['images']}
    annotations = content.get('annotations', [])
    for annotation in annotations:
        if 'segmentation' in annotation:
            annotation['segmentation'] = as_in_json(annotation['segmentation'])
    sizes = np.array([size[a['image_id']] for a in annotations]).reshape(-1, 2)
    try:
        areas = check_masks(path, annotations, sizes, None).tolist()
    except UserError:  # a metric of boxes does without masks
        return
    for annotation, area in zip(annotations, areas, strict=True):
        annotation['area'] = area or annotation['area']


def _check_lists() -> None:
    """The list of images that any data set of mmdet makes."""
    from mmdet.datasets import BaseDetDataset, CrowdHumanDataset, LVISV05Dataset

    # without train or val in the name of a list there is no file to keep sizes of images in
    CrowdHumanDataset.extra_ann_file = ''

    @replace(CrowdHumanDataset, 'parse_data_info')
    def parse_entry(original: Any, self: Any, entry: dict) -> dict:
        if entry['ID'] not in self.extra_anns:  # the file of sizes is of another list
            self.extra_ann_exist = False
        return original(self, entry)

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
