"""Data sets of mmpretrain: pickles, which could run code; labels for heads and metrics."""

import json
import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, MODELS

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from tests.test_checkpoints.conftest import Evil

MULTI = {'type': 'mmpretrain.MultiLabelLinearClsHead'}


def cifar(folder, content):
    """A data set with the names of CIFAR-10, and one file without a check sum."""
    hosts.of(dict(default_scope='mmpretrain')).apply()
    from mmpretrain.datasets import CIFAR10

    class Cifar(CIFAR10):
        train_list, test_list = [('batch', None)], []

    (folder / Cifar.base_folder).mkdir()
    (folder / Cifar.base_folder / 'batch').write_bytes(content)
    return Cifar(data_root=str(folder), pipeline=[])


def by_python_2(images):
    """A pickle as those of CIFAR: text and arrays are strings of bytes."""
    data = images.tobytes()
    return (
        b'\x80\x02}(U\x06labels](K\x00K\x01eU\x04datacnumpy.core.multiarray\n_reconstruct\n'
        b'cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n'
        b'U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89'
        b'T' + len(data).to_bytes(4, 'little') + data + b'tbu.'
    )


@pytest.mark.parametrize('version', [2, 3])
def test_cifar_is_read_as_ever(version, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(2, 3072)).astype(np.uint8)
    content = pickle.dumps({'labels': [0, 1], 'data': images})
    found = cifar(tmp_path, by_python_2(images) if version == 2 else content)
    assert [found.get_data_info(i)['gt_label'] for i in range(2)] == [0, 1]
    assert (found.get_data_info(1)['img'] == images[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()


@pytest.mark.parametrize(
    ('text', 'labels'),
    [
        ('<name>cat</name><difficult>0</difficult>', ([1], [])),
        ('<name>cat</name><difficult>1</difficult>', ([], [1])),
        ('<name>\n  cat\n</name><difficult> 1 </difficult>', ([], [1])),
        ('<name>cat</name>', ([1], [])),
        ('<name>cat</name><difficult>Unspecified</difficult>', ([1], [])),
        ('<name>cow</name>', ([], [])),
    ],
)
def test_labels_of_pascal_voc(text, labels, tmp_path):
    hosts.of(dict(default_scope='mmpretrain')).apply()
    from mmpretrain.datasets import VOC

    for name in ('Annotations', 'ImageSets/Main'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/train.txt').write_text('1\n')
    (tmp_path / 'Annotations/1.xml').write_text(f'<a><object>{text}</object></a>')
    data = VOC(str(tmp_path), split='train', metainfo=dict(classes=('dog', 'cat')), pipeline=[])
    info = data.get_data_info(0)
    assert (info['gt_label'], info['gt_label_difficult']) == labels


@pytest.mark.parametrize('kind', ['CustomDataset', 'ImageNet'])
@pytest.mark.parametrize('with_label', [True, False])
def test_images_of_all_usual_endings_are_found(kind, with_label, tmp_path):
    """And of those alone that a user names."""
    hosts.of(dict(default_scope='mmpretrain')).apply()
    from mmpretrain import datasets

    usual = ('.jpg', '.JPEG', '.png', '.webp', '.WEBP', '.tif', '.tiff', '.jfif', '.jpe')
    for ending in (*usual, '.txt', '.npy', '.mp4'):
        for folder in 'ab':
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f'1{ending}').touch()
    options = dict(data_root=str(tmp_path), data_prefix='', with_label=with_label)
    if kind == 'ImageNet':
        options |= dict(classes=['a', 'b'])
    for given, wanted in (({}, usual), (dict(extensions=('.jpg', '.png')), ('.jpg', '.png'))):
        data = getattr(datasets, kind)(**options, **given)
        infos = [data.get_data_info(i) for i in range(len(data))]
        paths = sorted(
            str(tmp_path / folder / f'1{ending}') for folder in 'ab' for ending in wanted
        )
        assert sorted(info['img_path'] for info in infos) == paths
        if with_label:
            assert all('ab'[i['gt_label']] == i['img_path'].split('/')[-2] for i in infos)


def test_cifar_runs_no_code(tmp_path, capsys):
    with pytest.raises(UserError, match=r'class builtins\.print is not allowed'):
        cifar(tmp_path, pickle.dumps(Evil(print, 'ran')))
    assert 'ran' not in capsys.readouterr().out


def classifier(**head):
    """A classifier of 3 classes; its preprocessor keeps labels as numbers."""
    head = {'type': 'mmpretrain.LinearClsHead', 'num_classes': 3, 'in_channels': 8, **head}
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmswinv2.SwinTransformerV2', arch='nano'),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=head,
        )
    )


def labelled(folder, *labels):
    """A data set of images with several labels each."""
    from mmpretrain.datasets import MultiLabelDataset

    images = [dict(img_path=f'{i}.png', gt_label=label) for i, label in enumerate(labels)]
    (folder / 'list.json').write_text(json.dumps(dict(metainfo={}, data_list=images)))
    return MultiLabelDataset(ann_file=str(folder / 'list.json'), pipeline=[])


@pytest.mark.parametrize(
    ('labels', 'head', 'match'),
    [
        ([[0], [0, 1]], {}, r'1\.png has none or several labels, and model.head \(LinearClsHead\)'),
        ([[0], []], {}, r'1\.png has none or several labels'),
        ([[0], [1, 3]], MULTI, r'label 3 of 1\.png, but model.head has num_classes=3'),
        ([[0], [1, -1]], MULTI, '1 of 2 images have a label below 0'),
        ([[0], [1]], {**MULTI, 'topk': 5}, 'model.head has topk=5, and model.head num_classes=3'),
        ([[0], [1]], {'topk': (1, 5), 'cal_acc': True}, r'model.head has topk=\(1, 5\)'),
        ([[0], [1]], {'topk': (1, 5)}, None),  # which is not used
        ([[0], [1]], {}, None),
        ([[0], [], [1, 2]], MULTI, None),
        ([[], []], MULTI, None),
        ([0, 1], MULTI, None),
    ],
)
def test_labels_that_a_head_cannot_learn(labels, head, match, tmp_path):
    dataset, model = labelled(tmp_path, *labels), classifier(**head)
    for each in (model, SimpleNamespace(module=model)):  # as of test-time augmentation
        with pytest.raises(UserError, match=match) if match else nullcontext():
            hosts.check_dataset(dataset, 'train_dataloader', each)


@pytest.mark.parametrize(
    ('metric', 'labels', 'match'),
    [
        (dict(type='Accuracy', topk=(1, 5)), [[0], [1]], r'Accuracy of val_evaluator has topk=\(1'),
        (dict(type='MultiLabelMetric', topk=5), [[0], [1]], 'MultiLabelMetric of .* has topk=5'),
        (dict(type='Accuracy'), [[0], [1, 2]], r'one label, and 1\.png has none or several'),
        (dict(type='SingleLabelMetric'), [[0, 1]], r'one label, and 0\.png has none or several'),
        (dict(type='Accuracy', topk=(1, 3)), [[0], [1]], None),
        (dict(type='MultiLabelMetric'), [[0], [1, 2]], None),
        (dict(type='AveragePrecision'), [[0], [1, 2]], None),
    ],
)
def test_scores_that_cannot_be_computed(metric, labels, match, tmp_path):
    """mmpretrain finds out after an epoch of training."""
    import mmpretrain.evaluation  # noqa: F401  registers the metrics

    evaluator = Evaluator(METRICS.build({**metric, 'type': f'mmpretrain.{metric["type"]}'}))
    data, model = ConcatDataset([labelled(tmp_path, *labels)]), classifier()
    for each in (model, SimpleNamespace(module=model)):  # as of test-time augmentation
        with pytest.raises(UserError, match=match) if match else nullcontext():
            hosts.check_evaluator(evaluator, data, 'val_evaluator', each)


def test_heads_and_metrics_of_users_take_what_they_like(tmp_path):
    from mmpretrain.evaluation import Accuracy

    dataset, model = labelled(tmp_path, [0], [1, 2]), classifier()
    model.head.__class__ = type('Head', (type(model.head),), {})
    hosts.check_dataset(dataset, 'train_dataloader', model)
    evaluator = Evaluator(type('Own', (Accuracy,), {})(topk=(1, 5)))
    hosts.check_evaluator(evaluator, dataset, 'val_evaluator', model)


def test_one_hot_labels_of_an_unknown_number():
    model = classifier()
    model.data_preprocessor.to_onehot = True
    info = {}

    class Images(SimpleNamespace):
        def __len__(self):
            return 1

    dataset = Images(
        get_gt_labels=list,
        CLASSES=('a', 'b', 'c'),
        folder_to_idx={},
        get_data_info=lambda i: info,
    )
    with pytest.raises(UserError, match=r'data_preprocessor\.num_classes=None, and model\.head'):
        hosts.check_dataset(dataset, 'train_dataloader', model)
    info['gt_score'] = [0.5, 0.5, 0.0]  # soft labels need no number
    hosts.check_dataset(dataset, 'train_dataloader', model)


@pytest.mark.parametrize('where', ['train_dataloader', 'val_dataloader'])
def test_labels_of_queries_are_numbers_of_the_images_that_are_searched(where, tmp_path):
    hosts.of(dict(default_scope='mmpretrain')).apply()
    from mmpretrain.datasets import InShop

    (tmp_path / 'Eval').mkdir()
    parts = ['train', 'query', *['gallery'] * 3]
    lines = [f'{i}.jpg id_1 {part}' for i, part in enumerate(parts)]
    text = '\n'.join(['5', 'image_name item_id evaluation_status', *lines])
    (tmp_path / 'Eval/list_eval_partition.txt').write_text(text)
    queries = InShop(str(tmp_path), split='query', pipeline=[])
    assert queries.get_data_info(0)['gt_label'] == [0, 1, 2]
    head = dict(type='mmpretrain.ArcFaceClsHead', num_classes=2, in_channels=4)
    model = SimpleNamespace(head=MODELS.build(head), prototype='gallery.pth')
    refused = where == 'train_dataloader'  # with them, numbers are classes
    with pytest.raises(UserError, match='label 2 of .*1.jpg') if refused else nullcontext():
        hosts.check_dataset(queries, where, model)
