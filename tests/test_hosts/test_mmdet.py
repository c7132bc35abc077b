import json
import pickle
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from mmswinv2 import hosts
from mmswinv2.engine.settings import set_tta
from mmswinv2.errors import UserError
from mmswinv2.hosts import check_dataset
from mmswinv2.hosts.mmdet import check_heads
from tests.test_tools.conftest import ROOT


def coco(folder, names=('cat', 'dog'), **options):
    box = dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name='1.jpg', height=10, width=10)],
        annotations=[box | {'segmentation': [[0, 0, 9, 0, 9, 9]]}],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, start=1)],
    )
    path = folder / 'annotations.json'
    path.write_text(json.dumps(content))
    from mmdet.datasets import CocoDataset

    return CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cat', 'dog')),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[],
        **options,
    )


def test_a_matching_data_set_passes_inside_wrappers_too(tmp_path):
    from mmengine.dataset import ConcatDataset, RepeatDataset

    dataset = coco(tmp_path)
    for wrapped in (dataset, RepeatDataset(dataset, 2), ConcatDataset([dataset, dataset])):
        check_dataset(wrapped, 'train_dataloader')


def own_format(folder):
    """A set of two images with a dog each, in mmdet's own format."""
    from mmdet.datasets import BaseDetDataset

    path, meta = folder / 'own.json', dict(classes=('cat', 'dog'))
    item = dict(bbox=[0, 0, 5, 5], bbox_label=1, ignore_flag=0)
    images = [dict(img_path=f'{i}.jpg', height=9, width=9, instances=[item]) for i in range(2)]
    path.write_text(json.dumps(dict(metainfo=meta, data_list=images)))
    return BaseDetDataset(ann_file=str(path), data_prefix=dict(img_path=''), metainfo=meta)


@pytest.mark.parametrize('kind', ['mmdet.ConcatDataset', 'mmengine.ConcatDataset'])
def test_joined_sets_are_balanced(tmp_path, kind):
    """A cat in one of three images is shown sqrt(0.5 / (1/3)) times, rounded up."""
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    from mmengine.dataset import ClassBalancedDataset

    joined = dict(type=kind, datasets=[own_format(tmp_path), coco(tmp_path)], ignore_keys='palette')
    balanced = ClassBalancedDataset(joined, oversample_thr=0.5)
    check_dataset(balanced, 'train_dataloader')
    paths = [balanced.get_data_info(i)['img_path'] for i in range(len(balanced))]
    assert paths == ['0.jpg', '1.jpg', '1.jpg', '1.jpg']
    cats = [balanced.get_data_info(i)['instances'][0]['bbox_label'] for i in range(4)]
    assert cats == [1, 1, 0, 0]


@pytest.mark.parametrize('order', [1, -1])
def test_sets_are_joined_whichever_lacks_a_key_of_metainfo(tmp_path, order):
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    from mmdet.datasets import ConcatDataset

    both = [own_format(tmp_path), coco(tmp_path)][::order]  # the latter has a palette
    joined = pickle.loads(pickle.dumps(ConcatDataset(both)))
    check_dataset(joined, 'train_dataloader')
    paths = [joined.get_data_info(i)['img_path'] for i in range(3)]
    assert paths == [info['img_path'] for data in both for info in data]
    assert ['palette' in meta for meta in joined.metainfo] == [False, True][::order]
    assert ConcatDataset([both[0], both[0]]).metainfo['cumulative_sizes'] == [
        len(both[0]), 2 * len(both[0])
    ]  # fmt: skip


def test_a_set_that_is_not_read_yet_reaches_another_process(tmp_path):
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    dataset = pickle.loads(pickle.dumps(coco(tmp_path, lazy_init=True)))
    dataset.full_init()
    assert [info['img_path'] for info in dataset] == ['1.jpg']


@pytest.mark.parametrize('wrapped', [False, True])
def test_names_that_do_not_match(tmp_path, wrapped):
    from mmengine.dataset import ConcatDataset

    with pytest.raises(UserError, match=r"lacks 1 of the 2 classes \('dog'\); it has 'cat', 'Dog'"):
        dataset = coco(tmp_path, names=('cat', 'Dog'))  # raises here if mmdet is already patched
        check_dataset(ConcatDataset([dataset]) if wrapped else dataset, 'train')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images, in the layout of Pascal VOC."""
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    for name in ('JPEGImages', 'Annotations'):
        (tmp_path / name).mkdir()
    for number in (1, 2):
        Image.new('RGB', (96, 64)).save(tmp_path / f'JPEGImages/{number}.jpg')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def voc(
    names=('cat', 'dog'), box=(10, 10, 40, 40), size=(96, 64), lines='1\n2\n', more='', **options
):
    from mmdet.datasets import XMLDataset

    corners = zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=False)
    place = ''.join(f'<{key}>{n}</{key}>' for key, n in corners)
    for number, name in enumerate(names, start=1):
        Path(f'Annotations/{number}.xml').write_text(
            f'<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size><object>'
            f'<name>{name}</name><bndbox>{place}</bndbox>{more}</object></annotation>'
        )
    Path('list.txt').write_text(lines)
    return XMLDataset(
        ann_file='list.txt', metainfo=dict(classes=('cat', 'dog')), **dict(pipeline=[]) | options
    )


VOC = {  # case: (what is different, words of the error)
    'missing': (dict(lines='1\n7\n'), "list.txt names '7', whose .* No such file .*7.xml"),
    'with its suffix': (dict(lines='1.jpg\n'), 'the name of an XML file without .xml'),
    'no corners': (dict(box=()), 'an object has name and bndbox with xmin'),
    'no numbers': (dict(box='abcd'), 'names .1., .*could not convert'),
    'corners exchanged': (dict(box=(40, 40, 10, 10)), '2 of 2 annotations have a box of no or neg'),
    'outside': (dict(box=(400, 40, 430, 60)), '2 of 2 annotations have a box outside of .*1.jpg'),
    'difficult': (
        dict(more='<difficult>maybe</difficult>'),
        "names '1', .*difficult must be 0 or 1, got 'maybe'",
    ),
    'other names': (
        dict(names=('Cat', 'Dog')),
        r"2 images and 0 annotations .* of the classes \('cat', 'dog'\); its objects are 'Cat'",
    ),
}


@pytest.mark.parametrize(('change', 'words'), VOC.values(), ids=VOC)
@pytest.mark.parametrize('test_mode', [False, True])
def test_pascal_voc_that_is_refused(folder, change, words, test_mode):
    with pytest.raises(UserError, match=words):
        voc(**change, test_mode=test_mode)


def test_pascal_voc_that_is_used(folder, log):
    boxes = [i['instances'][0]['bbox'] for i in map(voc(size=(0, 0)).get_data_info, range(2))]
    assert boxes == [[9, 9, 39, 39]] * 2 and not log()
    assert voc(size=(0, 0), filter_cfg=dict(min_size=32)).get_data_info(0)['height'] == 64
    indented = map(voc(names=('\n  cat\n', ' dog ')).get_data_info, range(2))
    assert [[i['bbox_label'] for i in info['instances']] for info in indented] == [[0], [1]]
    assert len(voc(names=('cat', 'Dog'))) == 2
    assert "no object is of the classes 'dog', and objects of 'Dog' are left out" in log()


@pytest.mark.parametrize(
    ('text', 'flag'),
    [
        ('Unspecified', 0),
        ('', 0),
        ('false', 0),
        ('0', 0),
        ('1', 1),
        ('True', 1),
        ('2', 1),
        (' 1 ', 1),
    ],
)
def test_pascal_voc_with_words_for_difficult(folder, text, flag):
    """Unspecified is what makesense.ai writes for every object."""
    extra = '<attributes><difficult>rather</difficult></attributes>'  # which mmdet does not read
    data = voc(more=f'<difficult>{text}</difficult>{extra}', test_mode=True)
    flags = [data.get_data_info(i)['instances'][0]['ignore_flag'] for i in range(2)]
    assert flags == [flag, flag]


def test_pictures_of_other_formats_are_looked_at_before_the_run(folder):
    from mmcv.transforms import LoadImageFromFile

    data = voc()
    data.pipeline.transforms = [LoadImageFromFile()]
    check_dataset(data, 'val_dataloader')
    Path('JPEGImages/2.jpg').unlink()
    with pytest.raises(UserError, match=r'val_dataloader: cannot read .*2.jpg: it does not exist'):
        check_dataset(data, 'val_dataloader')


@pytest.mark.parametrize('kind', ['bbox', 'proposal'])
def test_pascal_voc_is_scored_as_coco(folder, kind):
    """Its images are known by the names of their files; several evaluations go one by one."""
    from mmdet.evaluation import CocoMetric

    data, metric = voc(), CocoMetric(metric=kind, classwise=True)
    metric.dataset_meta = data.metainfo
    for _ in range(2):
        for info in map(data.get_data_info, range(2)):
            boxes = torch.tensor([i['bbox'] for i in info['instances']])
            labels = torch.tensor([i['bbox_label'] for i in info['instances']])
            found = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(labels)))
            size = (info['height'], info['width'])
            known = dict(img_id=info['img_id'], ori_shape=size, instances=info['instances'])
            metric.process({}, [known | dict(pred_instances=found)])
        scores = metric.evaluate(2)
        assert scores['coco/bbox_mAP' if kind == 'bbox' else 'coco/AR@100'] == 1


@pytest.mark.parametrize(
    ('name', 'polygons'),
    [('CocoMetric', None), ('FasterCocoMetric', None), ('CocoMetric', [[0, 0, 20, 0, 20, 20]])],
)
def test_boxes_and_masks_without_a_file(folder, name, polygons):
    """An object is as large as its mask, and each class has scores of boxes and of masks."""
    from mmdet.evaluation import metrics
    from pycocotools.mask import encode

    kind = getattr(metrics, name, None) or pytest.skip(f'there is no {name}')
    metric = kind(metric=['bbox', 'segm'], classwise=True)
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    mask = np.eye(60, dtype='uint8').repeat(2, 0).repeat(2, 1)  # 240 of the 120 * 120 pixels
    code = encode(np.asfortranarray(mask))
    box = torch.tensor([[0.0, 0, 120, 120]])
    known = polygons and [*map(np.array, polygons)]  # as files of mmdet's own format may have them
    cat = dict(bbox=box[0].tolist(), bbox_label=0, ignore_flag=0, mask=known or code)
    truth = dict(bboxes=box, labels=torch.tensor([0]), masks=mask[None])
    found = dict(truth, scores=torch.ones(1), masks=torch.zeros(1, 120, 120, dtype=torch.bool))
    sample = dict(img_id=1, ori_shape=(120, 120), instances=[cat], gt_instances=truth)
    metric.process({}, [dict(sample, pred_instances=found)])
    scores = metric.evaluate(1)
    for part, right in (('bbox', 1), ('segm', 0)):
        assert [scores[f'coco/{part}_{item}'] for item in ('mAP_s', 'mAP_m')] == [right, -1]
        assert scores[f'coco/{part}_cat_precision'] == right
    assert metric.metrics == ['bbox', 'segm']


@pytest.mark.parametrize(
    ('mask', 'area'),
    [
        ([[0, 0, 30, 0, 30, 30, 0, 30]], 900),
        ([[0, 0, 0.5, 0, 0.5, 0.5]], 8000),  # in shares of the image
        (dict(size=[9, 9], counts=[0, 81]), 8000),  # of another image
        (None, 8000),
    ],
)
def test_boxes_are_scored_whatever_their_masks(folder, mask, area):
    from mmdet.evaluation import CocoMetric

    metric, box = CocoMetric(), torch.tensor([[0.0, 0, 80, 100]])
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    cat = dict(bbox=box[0].tolist(), bbox_label=0, mask=mask)
    found = dict(bboxes=box, labels=torch.tensor([0]), scores=torch.ones(1))
    sample = dict(img_id=1, ori_shape=(100, 100), instances=[cat], pred_instances=found)
    metric.process({}, [sample])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1
    assert metric._coco_api.anns[1]['area'] == area


def labelled(change=lambda content: None, classes=('cat', 'dog'), with_mask=False, **options):
    """A data set of mmdet's own format, whose labels are numbers."""
    from mmdet.datasets import BaseDetDataset
    from mmdet.datasets.transforms import LoadAnnotations

    instances = [dict(bbox=[60, 20, 90, 40], bbox_label=n, ignore_flag=0) for n in (0, 1)]
    images = [
        dict(img_id=i, img_path=f'{i}.jpg', width=96, height=64, instances=instances)
        for i in (1, 2)
    ]
    content = dict(metainfo=dict(classes=['cat', 'dog']), data_list=images)
    change(content)
    Path('list.json').write_text(json.dumps(content))
    return BaseDetDataset(
        ann_file='list.json',
        metainfo=dict(classes=classes) if classes else None,
        pipeline=[LoadAnnotations(with_mask=with_mask)],
        **options,
    )


def each(**values):
    return lambda content: [i.update(values) for i in content['data_list'][0]['instances']]


def drop(key):
    return lambda content: [i.pop(key) for i in content['data_list'][0]['instances']]


LABELLED = {  # case: (change, options, words of the error)
    'other order': (each(), dict(classes=('dog', 'cat')), "'dog' is number 1, and metainfo of the "
                    "data set has it as number 0; write classes as there, .'cat', 'dog'."),
    'fewer classes': (each(), dict(classes=('dog',)), "'dog' is number 1, and metainfo"),
    'label beyond': (each(bbox_label=2), {}, 'of 1.jpg has bbox_label=2, and the labels of 2'),
    'label a name': (each(bbox_label='cat'), {}, "has bbox_label='cat'"),
    'no label': (drop('bbox_label'), {}, 'has bbox_label=None'),
    'width and height': (each(bbox=[60, 20, 30, 20]), {}, '4 of 4 annotations have a box of no or'),
    'shares': (each(bbox=[0.1, 0.1, 0.4, 0.4]), {}, '4 of 4 .* smaller than a pixel'),
    'not finite': (each(bbox=[float('nan')] * 4), {}, 'not finite, .*1.jpg'),
    'three numbers': (each(bbox=[1, 2, 3]), {}, r'boxes that are not four numbers .*x1, y1'),
    'no box': (drop('bbox'), {}, 'not finite|not four numbers'),
    'no masks': (each(), dict(with_mask=True), 'has boxes and no masks'),
    'lines': (each(mask=[[60, 20, 90, 40]]), dict(with_mask=True), '4 of 4 .* less than three'),
    'mask afar': (each(mask=[[1, 1, 9, 1, 9, 9]]), dict(with_mask=True), '4 of 4 .* elsewhere'),
    'polygon of pairs': (each(mask=[[[60, 20], [90, 20], [90, 40]]]), dict(with_mask=True),
                         'holds ..60, 20.* a seg'),
    'run lengths of another size': (each(mask=dict(size=[9, 9], counts=[40, 41])),
                                    dict(with_mask=True), r'its image is 96x64 pixels'),
    'no list of instances': (lambda c: c['data_list'].append(3), {}, 'no file for BaseDetDataset'),
    'file of COCO': (lambda c: c.pop('data_list'), {}, "is one for type='CocoDataset'"),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'options', 'words'), LABELLED.values(), ids=LABELLED)
def test_labels_by_number_that_are_refused(folder, change, options, words):
    with pytest.raises(UserError, match=words) as error:
        labelled(change, **options)
    assert 'list.json' in str(error.value)


def test_labels_by_number_that_are_used(folder, log):
    for classes in (None, ('cat', 'dog'), ('Cat', 'Dog'), ('cat', 'dog', 'cow')):
        data = labelled(drop('ignore_flag'), classes)
        assert list(data.metainfo['classes']) == list(classes or ('cat', 'dog'))
        assert [i['bbox_label'] for i in data.get_data_info(1)['instances']] == [0, 1]
        assert data[0]['gt_ignore_flags'].tolist() == [False, False]
    assert not log()
    turned = labelled(lambda c: c['data_list'][0]['instances'][0].update(bbox=[9, 9, 5, 5]))
    assert [len(turned.get_data_info(i)['instances']) for i in (0, 1)] == [1, 1]
    assert re.search('2 of 4 annotations have a box of no or negative .* they are left out', log())


def test_a_flat_list_is_one_polygon(folder):
    data = labelled(each(mask=[60, 20, 90, 20, 90, 40]), with_mask=True)
    found = [instance['mask'] for instance in data.get_data_info(0)['instances']]
    assert found == [[[60, 20, 90, 20, 90, 40]]] * 2


def test_masks_of_two_points_are_ignored_with_a_warning(folder, log):
    def lines(content):
        content['data_list'][0]['instances'][0]['mask'] = [[60, 20, 90, 40]]
        content['data_list'][0]['instances'][1]['mask'] = [[60, 20, 90, 20, 90, 40, 60, 40]]

    data = labelled(lines, with_mask=True)
    assert [len(i['mask']) for i in data.get_data_info(0)['instances']] == [0, 1]
    assert 'list.json: 2 of 4 polygons have no area, less than three points' in log()


def test_masks_of_pickles_may_hold_arrays_and_tuples(folder):
    from mmdet.datasets import BaseDetDataset

    polygon = np.array([60, 20, 90, 20, 90, 40, 60, 40], np.float32)
    runs = np.array([60 * 64 + 20, *[20, 44] * 29, 20, 408])
    masks = (
        [polygon], [list(polygon)], [tuple(polygon.tolist())],
        dict(size=np.array([64, 96]), counts=runs), dict(size=(64, 96), counts=list(runs)),
    )  # fmt: skip
    box = dict(bbox=[60, 20, 90, 40], bbox_label=0, ignore_flag=0)
    image = dict(img_path='1.jpg', img_id=1, width=96, height=64)
    image['instances'] = [box | dict(mask=mask) for mask in masks]
    content = dict(metainfo=dict(classes=('cat', 'dog')), data_list=[image])
    Path('list.pkl').write_bytes(pickle.dumps(content))
    data = BaseDetDataset(
        ann_file='list.pkl',
        data_prefix=dict(img_path='JPEGImages'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    assert [mask.sum() for mask in data[0]['gt_masks'].masks] == [600] * 5


@pytest.mark.parametrize('counts', [{20, 44}, [None], {(1, 2): 3}], ids=str)
def test_masks_of_pickles_that_are_none_are_told(folder, counts):
    from mmdet.datasets import BaseDetDataset

    box = dict(bbox=[60, 20, 90, 40], bbox_label=0, ignore_flag=0)
    box['mask'] = dict(size=(64, 96), counts=counts)
    image = dict(img_path='1.jpg', img_id=1, width=96, height=64, instances=[box])
    content = dict(metainfo=dict(classes=('cat', 'dog')), data_list=[image])
    Path('list.pkl').write_bytes(pickle.dumps(content))
    steps = [dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)]
    with pytest.raises(UserError, match='list.pkl: the segmentation of annotation .* has counts='):
        BaseDetDataset(ann_file='list.pkl', pipeline=steps)


def grounding(folder, *lines, labels=None):
    """A data set of mmdet's ODVG format, with the classes cat and dog."""
    from mmdet.datasets import ODVGDataset

    labels = labels or {'0': 'cat', '1': 'dog'}
    Path('classes.json').write_text(json.dumps(labels))
    Path('lines.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return ODVGDataset(
        ann_file='lines.jsonl',
        label_map_file='classes.json',
        data_prefix=dict(img='JPEGImages'),
        return_classes=True,
        pipeline=[],
    )


def test_lines_of_grounding_data(folder):
    def line(label):
        detection = dict(instances=[dict(bbox=[10, 10, 40, 40], label=label)])
        return dict(filename='1.jpg', width=96, height=64, detection=detection)

    data = grounding(folder, line(1))
    assert [i['bbox_label'] for i in data.get_data_info(0)['instances']] == [1]
    with pytest.raises(UserError, match=r'lines.jsonl: .*1.jpg has bbox_label=2, and the labels'):
        grounding(folder, line(2))
    with pytest.raises(UserError, match=r'lines.jsonl is no file for ODVGDataset \(TypeError'):
        grounding(folder, [line(1)])
    for labels in ({'cat': 0, 'dog': 1}, ['cat', 'dog']):
        with pytest.raises(UserError, match=r'classes.json has .*; a label map of ODVGDataset is'):
            grounding(folder, line(1), labels=labels)


PANOPTIC = {  # case: (change of a category, metainfo, words of the error)
    'good': ({}, {}, None),
    'things of COCO left': ({}, dict(thing_classes=('person', 'car')), None),
    'stuff first': ({}, dict(classes=('sky', 'cat')), "classes=.'sky', 'cat'.*, then stuff_cl"),
    'another thing': (dict(isthing=1), {}, "and 'sky' is a thing there"),
    'no isthing': (dict(isthing=None), {}, r"CocoPanopticDataset \(KeyError: 'isthing'\)"),
}


@pytest.mark.parametrize(('change', 'meta', 'words'), PANOPTIC.values(), ids=PANOPTIC)
def test_things_of_panoptic_data_come_first(folder, change, meta, words):
    from mmdet.datasets import CocoPanopticDataset

    stuff = {k: v for k, v in (dict(id=2, name='sky', isthing=0) | change).items() if v is not None}
    segments = [dict(id=i, category_id=i, bbox=[0, 0, 9, 9], area=81, iscrowd=0) for i in (1, 2)]
    content = dict(
        images=[dict(id=1, file_name='1.jpg', width=96, height=64)],
        annotations=[dict(image_id=1, file_name='1.png', segments_info=segments)],
        categories=[dict(id=1, name='cat', isthing=1), stuff],
    )
    Path('panoptic.json').write_text(json.dumps(content))
    names = dict(classes=('cat', 'sky'), thing_classes=('cat',), stuff_classes=('sky',))
    options = dict(data_prefix=dict(img='JPEGImages', seg='maps'), pipeline=[])
    with nullcontext() if words is None else pytest.raises(UserError, match=words):
        data = CocoPanopticDataset('panoptic.json', metainfo=names | meta, **options)
        assert [i['bbox_label'] for i in data.get_data_info(0)['instances']] == [0]


def colors(number):
    return np.array([number % 256, number // 256 % 256, number // 65536 % 256], np.uint8)


MAPS = {  # case: (id of the segment, change of the colors (H, W, 3), words of the error)
    'right': (70000, lambda a: a, None),
    'whole': (70000.0, lambda a: a, None),
    'a part': (70000.5, lambda a: a, 'has id=70000.5; ids are whole numbers'),
    'palette': (70000, lambda a: Image.fromarray(a).quantize(4), None),
    'lossy': (70000, lambda a: a, 'the panoptic map .*1.png is a JPEG file'),
    'gray': (7, lambda a: a[..., 0], 'no pixel of 1 of the 1 classes of its segments_info'),
    'blue first': (70000, lambda a: a[..., ::-1], 'no pixel of 1 of the 1 classes'),
    'turned': (70000, lambda a: a.swapaxes(0, 1), 'map .*1.png: .*1.jpg has 96x64 pixels.*swapped'),
    'none': (0, lambda a: a, 'list.json: a segment of 1.jpg has id=0; ids are .* from 1'),
    'no color': (2**24, lambda a: a, 'has id=16777216'),
}


@pytest.mark.parametrize('case', MAPS)
def test_panoptic_maps_have_the_segments_of_their_image(folder, monkeypatch, case):
    def to_ids(image):  # as panopticapi has it
        return image.astype(int) @ [1, 256, 65536]

    utils = SimpleNamespace(rgb2id=to_ids)
    monkeypatch.setitem(sys.modules, 'panopticapi', SimpleNamespace(utils=utils))
    from mmdet.datasets import CocoPanopticDataset

    number, change, words = MAPS[case]
    image = np.zeros((64, 96, 3), np.uint8)
    image[10:20, 30:60] = colors(number)
    image = change(image)
    drawn = image if isinstance(image, Image.Image) else Image.fromarray(image.copy())
    drawn.save('1.png', 'JPEG' if case == 'lossy' else 'PNG')
    segment = dict(id=number, category_id=1, iscrowd=0, area=300, bbox=[30, 10, 30, 10])
    content = dict(
        images=[dict(id=1, file_name='1.jpg', width=96, height=64)],
        annotations=[dict(image_id=1, file_name='1.png', segments_info=[segment])],
        categories=[dict(id=1, name='cat', isthing=1)],
    )
    Path('list.json').write_text(json.dumps(content))
    Image.new('RGB', (96, 64)).save('1.jpg')
    steps = [dict(type='mmcv.LoadImageFromFile'), dict(type='mmdet.LoadPanopticAnnotations')]
    with nullcontext() if words is None else pytest.raises(UserError, match=words):
        data = CocoPanopticDataset(
            'list.json',
            metainfo=dict(classes=('cat',), thing_classes=('cat',), stuff_classes=()),
            data_prefix=dict(img='', seg='.'),
            pipeline=steps,
        )
        assert data[0]['gt_masks'].masks.sum() == 300


@pytest.mark.parametrize(
    ('classes', 'mapped', 'words'),
    [
        (('sky', 'road', 'tree'), False, None),
        (('tree', 'road', 'sky'), True, None),
        (('none', 'road'), False, None),
        (('tree', 'road', 'sky'), False, 'labels of Own are numbers of .*set use_label_map=True'),
        (('tree',), False, r"and metainfo has \['tree'\]"),
        (('tree', 'sky'), True, "that metainfo does not name become the first, 'tree'"),
    ],
)
def test_labels_of_semantic_maps_have_numbers_of_their_data_set(folder, classes, mapped, words):
    from mmdet.datasets.base_semseg_dataset import BaseSegDataset

    known = dict(classes=('sky', 'road', 'tree'), palette=[(0, 0, 0)] * 3)
    if classes[0] == 'none':  # of a class without classes of its own
        known = dict(palette=[(0, 0, 0)] * 2)
    Own = type('Own', (BaseSegDataset,), dict(METAINFO=known))
    prefix, meta = dict(img_path='JPEGImages', seg_map_path='.'), dict(classes=classes)
    data = Own(data_prefix=prefix, metainfo=meta, use_label_map=mapped, pipeline=[])
    with nullcontext() if words is None else pytest.raises(UserError, match=words):
        check_dataset(data, 'val_dataloader')


@pytest.mark.parametrize('ignored', [0, 255])
def test_pixels_that_are_ignored_do_not_count_in_scores(ignored):
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    from mmdet.evaluation import SemSegMetric

    truth = torch.tensor([[[ignored, 1], [1, 1]]])
    sample = dict(gt_sem_seg=dict(sem_seg=truth, ignore_index=ignored))
    sample['pred_sem_seg'] = dict(sem_seg=torch.ones(1, 2, 2, dtype=torch.long))
    metric = SemSegMetric()
    metric.dataset_meta = dict(classes=('sky', 'road'))
    metric.process({}, [sample])
    assert metric.evaluate(1)['mIoU'] == 100


@pytest.mark.parametrize(
    ('names', 'files', 'words'),
    [
        (('1.jpg', '2.jpg'), None, None),
        (('1_image.jpg', '2_image.jpg'), 'found', None),
        (('a/1.jpg', 'b/2.jpg'), None, 'the map of img/a/1.jpg at maps/1.png, where there is none'),
        (('a/1.jpg', 'b/2.jpg'), 'found', 'the map of img/b/2.jpg at maps/a/2.png, where'),
        (('a/1.jpg', 'b/1.jpg'), 'found', "'img/a/1.jpg' and 'img/b/1.jpg' would both have"),
    ],
)
def test_panoptic_maps_go_by_the_names_of_images(folder, names, files, words):
    pytest.importorskip('panopticapi')
    from mmdet.evaluation.metrics import CocoPanopticMetric

    infos = []
    for name in names:
        path = Path('maps', name.replace('_image', '')).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        infos.append(dict(img_path=f'img/{name}', seg_map_path=str(path)))
    evaluator = SimpleNamespace(
        metrics=[CocoPanopticMetric(seg_prefix='maps', outfile_prefix=files)]
    )

    class Data(list):
        def get_data_info(self, index):
            return self[index]

    with nullcontext() if words is None else pytest.raises(UserError, match=words):
        hosts.check_evaluator(evaluator, Data(infos), 'val_evaluator')
    evaluator.metrics[0].backend_args = dict(backend='petrel', path_mapping={'maps/': 's3://a/'})
    if len({Path(name).name for name in names}) == len(names):
        hosts.check_evaluator(evaluator, Data(infos), 'val_evaluator')


@pytest.mark.parametrize('files', [None, 'found'])
def test_panoptic_scores_of_classes_go_by_their_names(folder, log, files):
    pytest.importorskip('panopticapi')
    from mmdet.evaluation.metrics import CocoPanopticMetric

    categories = [dict(id=i, name=n, isthing=n == 'cat') for i, n in ((2, 'sky'), (5, 'cat'))]
    areas = [('cat', 5, 96 * 16), ('sky', 2, 96 * 48)]
    segments = [
        dict(id=i, category_id=category, iscrowd=0, area=area, bbox=[0, 0, 96, 64])
        for i, (_, category, area) in enumerate(areas, start=1)
    ]
    content = dict(
        images=[dict(id=1, file_name='1.jpg', width=96, height=64)],
        annotations=[dict(image_id=1, file_name='1.png', segments_info=segments)],
        categories=categories,
    )
    Path('panoptic.json').write_text(json.dumps(content))
    truth = np.repeat([1, 2], [16, 48])[:, None] * np.ones((1, 96), int)
    Image.fromarray(np.stack([truth, 0 * truth, 0 * truth], -1).astype('uint8')).save('1.png')
    found = np.where(np.arange(64) < 24, 0, 1)[:, None] * np.ones((1, 96), int)  # 8 rows more
    metric = CocoPanopticMetric(
        'panoptic.json', seg_prefix='.', classwise=True, outfile_prefix=files, nproc=1
    )
    metric.dataset_meta = dict(classes=('cat', 'sky'))
    sample = dict(img_id=1, img_path='1.jpg', ori_shape=(64, 96), segments_info=[])
    sample['pred_panoptic_seg'] = dict(sem_seg=torch.tensor(found)[None])
    metric.process({}, [sample])
    scores = metric.evaluate(1)
    assert scores['coco_panoptic/PQ_th'] == pytest.approx(100 * 16 / 24)
    assert scores['coco_panoptic/PQ_st'] == pytest.approx(100 * 40 / 48)
    table = ''.join(log().split('Classwise')[1].split())
    assert '|cat|66.667|66.667|100.000|sky|83.333|83.333|100.000|' in table


def test_metrics_of_ones_own_are_held_to_the_data_set(tmp_path):
    from mmdet.evaluation import CocoMetric

    data = coco(tmp_path)
    path = tmp_path / 'other.json'
    content = json.loads((tmp_path / 'annotations.json').read_text())
    content['images'][0]['file_name'] = '7.jpg'
    path.write_text(json.dumps(content))
    kind = type('MyMetric', (CocoMetric,), {})
    evaluator = type('Evaluator', (), dict(metrics=[kind(ann_file=str(path))]))
    with pytest.raises(UserError, match='image_id=1 is 7.jpg there and 1.jpg in the data set'):
        hosts.check_evaluator(evaluator, data, 'val_evaluator')
    metric = kind(ann_file=data.ann_file, metric_items=['mAP_95'])  # which it may compute itself
    evaluator = type('Evaluator', (), dict(metrics=[metric]))
    hosts.check_evaluator(evaluator, data, 'val_evaluator')


@pytest.mark.parametrize('negative, ap', [([], 1), ([2], 0.75)])
def test_lvis_is_scored_on_the_images_of_the_data_set(folder, log, negative, ap):
    pytest.importorskip('lvis')
    from mmdet.datasets import LVISV1Dataset
    from mmdet.evaluation.metrics import LVISMetric

    box, address = dict(bbox=[9, 9, 40, 40], area=1600), 'http://images.cocodataset.org/'
    content = dict(
        images=[
            dict(id=i, width=96, height=64, coco_url=f'{address}JPEGImages/{i}.jpg',
                 neg_category_ids=negative, not_exhaustive_category_ids=[])
            for i in (1, 2, 3)
        ],
        categories=[dict(id=i, name=name, frequency='f') for i, name in ((1, 'cat'), (2, 'dog'))],
        annotations=[
            box | dict(id=i, image_id=image, category_id=label, segmentation=[[9, 9, 49, 9, 9, 49]])
            for i, (image, label) in enumerate([(1, 1), (1, 2), (3, 1)], start=1)
        ],
    )  # fmt: skip
    Path('lvis.json').write_text(json.dumps(content))
    meta = dict(classes=('cat', 'dog'))
    dataset = LVISV1Dataset(
        ann_file='lvis.json', data_prefix=dict(img=''), metainfo=meta, test_mode=True, indices=2,
        pipeline=[],
    )  # fmt: skip
    for other in (('dog', 'cat'), ('dog',)):  # labels go by their place in the file
        with pytest.raises(UserError, match="lvis.json: .* where 'dog' is number 1, and metainfo"):
            LVISV1Dataset(ann_file='lvis.json', metainfo=dict(classes=other), pipeline=[])
    image = dict(img_id=1, file_name='1.jpg', width=96, height=64)
    entry = dict(raw_img_info=image, raw_ann_info=[])
    # a class of a user, without lvis
    Own = type('Own', (LVISV1Dataset,), dict(load_data_list=lambda _: []))
    own = Own(ann_file='', data_prefix=dict(img=''), metainfo=meta, lazy_init=True)
    assert own.parse_data_info(entry)['img_path'] == '1.jpg'
    metric = LVISMetric('lvis.json', metric=['bbox', 'segm'], classwise=True)
    metric.dataset_meta = meta
    hosts.check_evaluator(SimpleNamespace(metrics=[metric]), dataset, 'val_evaluator')
    assert 'ann_file has 1 images that the data set does not load' in log()
    for i, labels, score in ((1, [0, 1], 0.5), (2, [1], 0.9)):  # a false alarm on the second
        boxes = torch.tensor([[9.0, 9, 49, 49]] * len(labels))
        found = dict(bboxes=boxes, labels=torch.tensor(labels))
        found['scores'] = torch.full((len(labels),), score)
        found['masks'] = torch.zeros(len(labels), 64, 96, dtype=torch.bool)
        metric.process({}, [dict(img_id=i, ori_shape=(64, 96), pred_instances=found)])
    scores = metric.evaluate(2)
    assert scores['lvis/bbox_AP'] == ap and scores['lvis/segm_AP'] == 0
    assert [scores[f'lvis/{kind}_cat_precision'] for kind in ('bbox', 'segm')] == [1, 0]
    content['images'][0]['id'] = 7
    Path('other.json').write_text(json.dumps(content | dict(annotations=[])))
    metrics = [LVISMetric('other.json')]
    with pytest.raises(UserError, match='lacks 1 of the 2 images .* first of all image_id=1'):
        hosts.check_evaluator(SimpleNamespace(metrics=metrics), dataset, 'val_evaluator')


def test_data_sets_that_read_their_labels_themselves(folder):
    """A class that maps names to labels, and one whose reader is that of a second base class."""
    from mmdet.datasets import BaseDetDataset
    from mmengine.dataset import BaseDataset

    labelled()
    file = folder / 'list.json'
    file.write_text(re.sub('"bbox_label": [01]', '"bbox_label": "dog"', file.read_text()))

    class Named(BaseDetDataset):
        def parse_data_info(self, raw_data_info):
            for instance in raw_data_info['instances']:
                names = self.metainfo['classes']
                instance['bbox_label'] = names.index(instance['bbox_label'])
            return raw_data_info

    class Reader(BaseDataset):
        def load_data_list(self):
            pickle.dumps(self)  # workers of a pool get the data set
            instance = dict(bbox=[60, 20, 90, 40, 0.5], bbox_label=0, ignore_flag=0)
            return [dict(img_id=1, img_path='1.jpg', width=96, height=64, instances=[instance])]

    globals()['Turned'] = Turned = type('Turned', (BaseDetDataset, Reader), {})
    Turned.__module__, Turned.__qualname__ = __name__, 'Turned'
    options = dict(ann_file='list.json', pipeline=[])
    data = Named(metainfo=dict(classes=('dog', 'cat')), **options)
    assert [i['bbox_label'] for i in data.get_data_info(0)['instances']] == [0, 0]
    data = Turned(metainfo=dict(classes=('dog', 'cat')), **options)
    assert len(data.get_data_info(0)['instances'][0]['bbox']) == 5
    del globals()['Turned']


def test_images_of_other_classes_as_background(folder, log):
    data = voc(names=('Cat', 'Dog'), filter_cfg=dict(filter_empty_gt=False))
    assert len(data) == 2 and 'they are background' in log()


PROPOSALS = {  # case: (entry of an image, its name); the form of mmdet 2 is a list of arrays
    'right': (dict(bboxes=np.zeros((2, 4))), 'JPEGImages/{}.jpg'),
    'of other images': (dict(bboxes=np.zeros((2, 4))), '{}.jpg'),
    'arrays': (np.zeros((2, 5)), 'JPEGImages/{}.jpg'),
    'with scores inside': (dict(bboxes=np.zeros((2, 5))), 'JPEGImages/{}.jpg'),
    'of fewer images': (dict(bboxes=np.zeros((2, 4))), 'JPEGImages/1.jpg'),
}


@pytest.mark.parametrize(('entry', 'name'), PROPOSALS.values(), ids=PROPOSALS)
def test_proposals_are_of_the_images(folder, entry, name):
    Path('found.pkl').write_bytes(pickle.dumps({name.format(i): entry for i in (1, 2)}))
    right = name.startswith('JPEG') and '{}' in name and np.shape(entry) == ()
    right = right and entry['bboxes'].shape[1] == 4
    words = 'found.pkl does not fit the 2 images of list.txt .*DumpProposals'
    steps = [dict(type='mmdet.LoadProposals')]
    with nullcontext() if right else pytest.raises(UserError, match=words):
        dataset = voc(proposal_file='found.pkl', pipeline=steps)
        assert len(dataset.get_data_info(1)['proposals']['bboxes']) == 2


@pytest.mark.parametrize(
    ('name', 'load', 'prefix', 'words'),
    [
        ('mask-rcnn', {}, {}, 'has a mask_head, .* with_mask=True of LoadAnnotations, or'),
        ('mask-rcnn', dict(with_mask=True), {}, None),
        ('htc++', dict(with_mask=True), dict(seg='maps'), 'has a semantic_head, .* with_seg=True'),
        ('htc++', dict(with_mask=True, with_seg=True), {}, 'data_prefix .* has no seg; it'),
        ('htc++', dict(with_mask=True, with_seg=True), dict(seg='maps'), None),
    ],
)
def test_heads_get_what_they_learn(tmp_path, name, load, prefix, words):
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.registry import MODELS

    cfg = Config.fromfile(ROOT / f'configs/detection/{name}_swinv2-nano_shapes.py')
    hosts.use_registries(cfg)
    data = coco(tmp_path)
    data.data_prefix.update(prefix)
    data.pipeline.transforms = [LoadAnnotations(**load)]
    model = MODELS.build(cfg.model)
    for head in filter(lambda part: hasattr(part, 'num_classes'), model.roi_head.modules()):
        head.num_classes = 2
    with pytest.raises(UserError, match=f'train_dataloader: .*{words}') if words else nullcontext():
        check_dataset(data, 'train_dataloader', model)
    check_dataset(data, 'val_dataloader', model)


@pytest.mark.parametrize('line', ['2.jpg 1', '2.jpg -1', '', '2 a.jpg 1', '2.jpg'])
def test_lists_of_persons(folder, line):
    Path('list.txt').write_text(f'1.jpg 0\n{line}\n')
    dataset = dict(type='ReIDDataset', ann_file='list.txt')
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=dataset)))
    words = 'list.txt, line 2: a line is "path label"'
    with (
        nullcontext()
        if line.endswith('1') and 'a' not in line
        else pytest.raises(UserError, match=words)
    ):
        hosts.check_data(cfg, ('train',))


@pytest.mark.parametrize('packed', [True, False])
def test_a_metric_without_a_file_needs_the_objects_in_the_samples(folder, packed):
    """Before the training: mmdet ends in an AssertionError in the first validation."""
    from mmdet.datasets.transforms import PackDetInputs
    from mmdet.evaluation import CocoMetric

    data = voc()
    data.pipeline.transforms = [PackDetInputs(('img_id', 'ori_shape', *['instances'] * packed))]
    evaluator = type('Evaluator', (), dict(metrics=[CocoMetric()]))
    words = "val_evaluator: CocoMetric without ann_file .* lacks 'instances'; add it, or give ann_"
    with nullcontext() if packed else pytest.raises(UserError, match=words):
        hosts.check_evaluator(evaluator, data, 'val_evaluator')


FLIP, PAD = dict(type='RandomFlip', prob=1.0), dict(type='Pad', size_divisor=32)
VIEWS = {  # case: (steps of the pipeline with several views, whether boxes are flipped back right)
    'padded after': ([[FLIP], [PAD], [dict(FLIP, prob=0.0)]], True),
    'padded first': ([[PAD], [FLIP]], False),
    'in one step': ([[dict(type='Compose', transforms=[PAD, FLIP])]], False),
}


@pytest.mark.parametrize('before', [[], [PAD]], ids=['', 'padded before the views'])
@pytest.mark.parametrize(('views', 'right'), VIEWS.values(), ids=VIEWS)
def test_views_are_padded_after_the_flip(tmp_path, views, right, before):
    from mmdet.registry import TRANSFORMS

    data = coco(tmp_path)
    hosts.use_registries(dict(default_scope='mmdet'))
    steps = [*before, dict(type='TestTimeAug', transforms=views)]
    data.pipeline.transforms = [TRANSFORMS.build(step) for step in steps]
    words = 'test_dataloader: Pad stands before RandomFlip'
    with nullcontext() if right and not before else pytest.raises(UserError, match=words):
        check_dataset(data, 'test_dataloader')


@pytest.mark.parametrize('test_cfg', [dict(max_per_img=300), dict(rcnn=dict(max_per_img=300))])
def test_views_keep_as_many_boxes_as_the_detector(test_cfg):
    cfg = Config(dict(model=dict(type='RetinaNet', test_cfg=test_cfg)))
    assert hosts.HOSTS[-1].default_tta_model(cfg)['tta_cfg']['max_per_img'] == 300


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco', None),  # with a tta_model of its own
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco', 'DetTTAModel'),
        ('solo/solo_r50_fpn_1x_coco', None),
        ('retinanet/retinanet_r50_fpn_1x_coco', 'DetTTAModel'),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 'mmswinv2.InstanceSegTTAModel'),
    ],
)
def test_masks_are_merged_by_what_can(config, kind):
    cfg = Config.fromfile(hosts.find_config(f'mmdet::{config}.py'))
    words = '--tta: masks of .* cannot be merged by DetTTAModel'
    with nullcontext() if kind else pytest.raises(UserError, match=words):
        set_tta(cfg)
        assert cfg.model.type == kind


@pytest.mark.parametrize(('metrics', 'prefixes'), [(2, 2), (4, 2), (1, 1), (2, 3)])
def test_each_of_several_test_sets_has_its_metric(tmp_path, metrics, prefixes):
    from mmdet.datasets.dataset_wrappers import ConcatDataset
    from mmdet.evaluation import CocoMetric, MultiDatasetsEvaluator

    data = coco(tmp_path)
    metrics = [CocoMetric(ann_file=data.ann_file) for _ in range(metrics)]
    evaluator = MultiDatasetsEvaluator(metrics, list('abc'[:prefixes]))
    fits = len(metrics) == prefixes == 2
    with nullcontext() if fits else pytest.raises(UserError, match='takes one metric and one of d'):
        hosts.check_evaluator(evaluator, ConcatDataset([data, data]), 'val_evaluator')


@pytest.mark.parametrize(
    ('things', 'stuff', 'where', 'words'),
    [
        (2, 3, 'train_dataloader', None),
        (2, 4, 'train_dataloader', None),
        (2, 4, 'val_dataloader', r'head has num_stuff_classes=4, .* of val_dataloader has 3 stuff'),
        (
            3,
            2,
            'train_dataloader',
            r'has num_things_classes=3, .* 2 things; set num_things_classes',
        ),
        (2, 2, 'train_dataloader', r'model.semantic_head has num_stuff_classes=2, .* has 3 stuff'),
    ],
)
def test_panoptic_heads_have_the_things_and_stuff_of_the_data(things, stuff, where, words):
    from mmdet.models.seg_heads import PanopticFPNHead

    hosts.use_registries(dict(default_scope='mmdet'))
    model, loss = torch.nn.Module(), dict(type='CrossEntropyLoss')
    model.semantic_head = PanopticFPNHead(things, stuff, in_channels=32, loss_seg=loss)
    with nullcontext() if words is None else pytest.raises(UserError, match=words):
        check_heads(model, list('abcde'), list('ab'), where)


@pytest.mark.parametrize(
    ('size', 'box', 'points'), [((300, 400), 20, 6), ((300, 400), 100, 8), ((3000, 4000), 900, 52)]
)
def test_names_are_large_enough_to_read(size, box, points):
    """Of 13 points at 30,000 pixels, half at 800; four times that in a photo of 4000 pixels."""
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer()
    found = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 5 + box, 5 + box]]), labels=torch.tensor([0])
    )
    visualizer._draw_instances(np.zeros((*size, 3), np.uint8), found, ['a'], [(9, 9, 9)])
    (name,) = visualizer.ax_save.texts
    assert name.get_fontsize() == points
