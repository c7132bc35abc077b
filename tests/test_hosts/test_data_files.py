"""Annotations, proposals and volumes in files that could run code, read through the hosts."""

import json
import pickle
import warnings
from typing import ClassVar

import cv2
import mmengine
import numpy as np
import pytest
import torch
from mmengine import Config, fileio
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

from mmswinv2 import hosts  # applies the patches of mmengine
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmdet_metrics import check_metric
from tests.test_checkpoints.conftest import Evil


def evil(path):
    """Write a pickle or YAML file that runs code, which prints a word."""
    if path.suffix == '.pkl':
        path.write_bytes(pickle.dumps({'metainfo': {}, 'data_list': [Evil(print, 'ran')]}))
    else:
        path.write_text("metainfo: {}\ndata_list: !!python/object/apply:print ['ran']\n")
    return str(path)


def poses(path):
    from mmaction.datasets import PoseDataset

    return PoseDataset(ann_file=path, pipeline=[])


def detections(path):
    from mmdet.datasets import BaseDetDataset

    return BaseDetDataset(ann_file=path, pipeline=[])


READERS = {
    'mmengine': mmengine.load,
    'fileio': fileio.load,
    'data set': lambda path: BaseDataset(ann_file=path),
    'poses': poses,
    'detections': detections,
}


@pytest.mark.parametrize(
    ('reader', 'ending'),
    [
        (name, end)
        for name in READERS
        for end in ('.pkl', '.yaml')
        if (name, end) != ('poses', '.yaml')
    ],
)
def test_data_files_run_no_code(reader, ending, tmp_path, capsys):
    path = evil(tmp_path / f'evil{ending}')
    with pytest.raises(UserError, match=f'evil{ending}: .*(class builtins.print|apply:print)'):
        READERS[reader](path)
    assert 'ran' not in capsys.readouterr().out


@pytest.mark.parametrize('reader', sorted(READERS.keys() - {'poses'}))
@pytest.mark.parametrize('name', ['list.json', 'list.yaml'])
def test_data_files_that_are_not_in_utf_8(reader, name, tmp_path):
    path = tmp_path / name
    path.write_bytes('{"Gr\u00f6\u00dfe": 1}'.encode('latin-1'))
    with pytest.raises(UserError, match=f'{name} is not in UTF-8 .*; save it as UTF-8'):
        READERS[reader](str(path))


def test_a_config_in_yaml_runs_no_code(tmp_path, capsys):
    with pytest.raises(Exception, match='apply:print'):
        Config.fromfile(evil(tmp_path / 'config.yaml'))
    assert 'ran' not in capsys.readouterr().out


def test_a_volume_runs_no_code(tmp_path, capsys):
    hosts.of(dict(default_scope='mmseg')).apply()
    from mmseg.datasets.transforms import LoadBiomedicalImageFromFile

    with pytest.raises(UserError, match='cannot be read without running code'):
        LoadBiomedicalImageFromFile('pickle')(dict(img_path=evil(tmp_path / 'volume.pkl')))
    assert 'ran' not in capsys.readouterr().out


def test_plain_data_is_read_as_ever(tmp_path):
    boxes = InstanceData(bboxes=np.ones((2, 4)), scores=torch.rand(2))
    data = {'proposals': boxes, 'names': ['a', 'b'], 'array': np.arange(3), 'none': None}
    mmengine.dump(data, tmp_path / 'good.pkl')
    found = mmengine.load(tmp_path / 'good.pkl')
    assert isinstance(found['proposals'], InstanceData) and len(found['proposals']) == 2
    assert torch.equal(found['proposals'].scores, boxes.scores)
    assert (found['array'] == data['array']).all() and found['names'] == data['names']
    settings = dict(window=(8, 7, 7), rates=[0.1, {'a': (1, (2, 3))}], text='x')
    mmengine.dump(settings, tmp_path / 'good.yaml')
    assert '!!python/tuple' in (tmp_path / 'good.yaml').read_text()
    assert mmengine.load(tmp_path / 'good.yaml') == settings
    with open(tmp_path / 'good.pkl', 'rb') as file:
        assert mmengine.load(file, file_format='pkl').keys() == data.keys()


@pytest.mark.parametrize('reader', ['mmengine', 'fileio', 'data set', 'detections'])
@pytest.mark.parametrize('content', ['{"metainfo": {}, "data_list": [', 'text', ''])
def test_a_file_that_is_not_json(reader, content, tmp_path):
    (tmp_path / 'list.json').write_text(content)
    with pytest.raises(UserError, match=f'{tmp_path}/list.json is not JSON, or cut short'):
        READERS[reader](str(tmp_path / 'list.json'))


def test_a_hierarchy_of_classes_runs_no_code(tmp_path, capsys):
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.datasets.openimages import OpenImagesChallengeDataset

    data = OpenImagesChallengeDataset.__new__(OpenImagesChallengeDataset)
    data.backend_args = None
    np.save(tmp_path / 'good.npy', np.arange(9).reshape(3, 3))
    assert data._get_relation_matrix(str(tmp_path / 'good.npy')).tolist() == [[4, 5], [7, 8]]
    np.save(tmp_path / 'evil.npy', np.array([Evil(print, 'ran')]), allow_pickle=True)
    with pytest.raises(UserError, match=f'{tmp_path}/evil.npy is no plain array'):
        data._get_relation_matrix(str(tmp_path / 'evil.npy'))
    assert 'ran' not in capsys.readouterr().out


def test_objects_of_the_challenge_of_open_images_are_scored(tmp_path):
    """A car, found; a group of dogs, in which two boxes are found; a cat that is found beside."""
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.datasets.openimages import OpenImagesChallengeDataset
    from mmdet.evaluation import OpenImagesMetric

    (tmp_path / 'labels.csv').write_text('/m/c,Car,1\n/m/d,Dog,2\n/m/k,Cat,3\n')
    lines = ['1 .1 .1 .5 .5 0', '2 .5 .5 .9 .9 1', '3 .5 .1 .9 .5 0']
    (tmp_path / 'boxes.txt').write_text('\n'.join(['a.jpg', '100 80', '3', *lines, '']))
    np.save(tmp_path / 'tree.npy', np.eye(4))
    mmengine.dump([dict(filename='a.jpg', ori_shape=(80, 100, 3))], tmp_path / 'sizes.pkl')
    data = OpenImagesChallengeDataset(
        ann_file='boxes.txt', data_root=str(tmp_path), data_prefix=dict(img=''),
        label_file='labels.csv', hierarchy_file='tree.npy', meta_file='sizes.pkl', pipeline=[],
    )  # fmt: skip
    found = InstanceData(
        bboxes=torch.tensor(
            [[10, 8, 50, 40], [50, 40, 70, 70], [60, 50, 88, 72], [0, 0, 30, 30]]
        ).float(),
        labels=torch.tensor([0, 1, 1, 2]),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6]),
    )
    metric = OpenImagesMetric()
    metric.dataset_meta = data.metainfo
    metric.process({}, [data[0] | dict(pred_instances=found)])
    assert metric.evaluate(1)['openimages/AP50'] == pytest.approx(2 / 3, abs=1e-3)


def open_images(folder, rows, sizes=(('a', (80, 100)), ('b', (80, 100)))):
    """Car and dog on images a and b, in the CSV files of Open Images."""
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.datasets import OpenImagesDataset

    (folder / 'labels.csv').write_text('/m/c,Car\n/m/d,Dog\n')
    (folder / 'boxes.csv').write_text('\n'.join(['ImageID,Source,...', *rows]))
    (folder / 'tree.json').write_text('{"LabelName": "/m/all"}')
    shapes = [dict(filename=f'{name}.jpg', ori_shape=(*size, 3)) for name, size in sizes]
    mmengine.dump(shapes, folder / 'sizes.pkl')
    return OpenImagesDataset(
        ann_file='boxes.csv', data_root=str(folder), data_prefix=dict(img='img'), pipeline=[],
        label_file='labels.csv', hierarchy_file='tree.json', meta_file='sizes.pkl',
    )  # fmt: skip


@pytest.mark.parametrize('last', [1, 2])
def test_boxes_of_open_images_are_on_their_image(last, tmp_path):
    """XMin, XMax, YMin, YMax in shares; the last image has one box or two."""
    rows = ['a,x,/m/d,1,.1,.5,.2,.6,0,0,0,0,0', *['b,x,/m/c,1,0,.5,0,.5,0,0,0,0,0'] * last]
    data = open_images(tmp_path, rows)
    found = [(info['img_path'], [o['bbox'] for o in info['instances']]) for info in data]
    first = f'{tmp_path}/img/a.jpg', [pytest.approx([10, 16, 50, 48])]
    assert found == [first, (f'{tmp_path}/img/b.jpg', [[0, 0, 50, 40]] * last)]
    with pytest.raises(UserError, match=r'boxes.csv is no file for OpenImagesDataset \(Assertion'):
        open_images(tmp_path, rows, [('a', (80, 100))])


@pytest.mark.parametrize('kept', [{}, {'1': [80, 100]}])  # sizes of another list
@pytest.mark.parametrize('name', ['annotation_val.odgt', 'people.odgt'])
def test_lists_of_crowd_human(name, kept, tmp_path):
    """A person, one to ignore and no person; then an image without persons."""
    if kept:
        (tmp_path / 'id_hw_val.json').write_text(json.dumps(kept))
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.datasets import CrowdHumanDataset
    from mmdet.evaluation import CrowdHumanMetric

    people = [
        dict(tag=tag, fbox=box, hbox=[9, 9, 9, 9], vbox=box, extra=dict(ignore=ignore))
        for tag, box, ignore in (
            ('person', [-5, 10, 40, 60], 0), ('person', [50, 10, 30, 60], 1),
            ('mask', [70, 10, 25, 25], 0),
        )
    ]  # fmt: skip
    entries = [dict(ID='1', gtboxes=people), dict(ID='2', gtboxes=[])]
    (tmp_path / name).write_text('\n'.join(map(json.dumps, entries)))
    for number in (1, 2):
        (tmp_path / f'{number}.jpg').write_bytes(png(np.zeros((80, 100, 3), np.uint8)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # that no file has the sizes
        data = CrowdHumanDataset(str(tmp_path), name, data_prefix=dict(img=''), test_mode=True)
    found = [[(o['bbox'], o['ignore_flag']) for o in info['instances']] for info in data]
    boxes = [([-5, 10, 35, 70], 0), ([50, 10, 80, 70], 1), ([70, 10, 95, 35], 1)]
    assert found == [boxes, []] and (data[0]['height'], data[0]['width']) == (80, 100)
    for right in (True, False):
        metric = CrowdHumanMetric(f'{tmp_path}/{name}', ['AP', 'MR'])
        for info in data:
            own = [o['bbox'] for o in info['instances'] if right and not o['ignore_flag']]
            boxes = torch.tensor(own).view(-1, 4).float()
            found = InstanceData(bboxes=boxes, scores=torch.ones(len(own)))
            sample = dict(img_id=info['img_id'], ori_shape=(80, 100), pred_instances=found)
            metric.process({}, [sample])
        with np.errstate(divide='ignore'):
            assert metric.evaluate(2)['crowd_human/mMR'] == 1 - right
    heads = CrowdHumanMetric(f'{tmp_path}/{name}', eval_mode=2)
    with pytest.raises(UserError, match='has eval_mode=2, which scores boxes of heads'):
        check_metric(heads, data, 'test_evaluator')


def of_list(folder, content, **settings):
    (folder / 'list.txt').write_bytes(content)
    dataset = dict(type='CustomDataset', data_root=str(folder), ann_file='list.txt', **settings)
    return Config(dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'a.png 0\nb.png,1\n', 'line 2: a line is "path number", .*, got \'b.png,1\''),
        (b'a.png 0\n\nb.png 1\n', 'line 2: .*, got'),
        (b'a.png 0\n\n', 'line 2: .*, got'),
        (b'a.png\n', 'line 1: .*, got'),
        (b'a.png cat\n', 'line 1: .*, got'),
        (b'', 'line 1: .*, got'),
        (b'\xef\xbb\xbfa.png 0\n', 'begins with a byte order mark; save it without one'),
    ],
)
def test_lists_of_images_that_would_be_misread(content, words, tmp_path):
    with pytest.raises(UserError, match=f'train_dataloader: {tmp_path}/list.txt.*{words}'):
        hosts.check_data(of_list(tmp_path, content), ('train',))
    hosts.check_data(of_list(tmp_path, content, with_label=False), ('train',))


@pytest.mark.parametrize('content', [b'a b.png 0\r\nb.png  -1 ', b'a.png 1\n'])
def test_lists_of_images_that_are_read(content, tmp_path):
    hosts.check_data(of_list(tmp_path, content), ('train',))


class Store(fileio.BaseStorageBackend):
    """Files in memory, as an LMDB has them in one file: by their names."""

    files: ClassVar[dict[str, bytes]] = {}

    def get(self, filepath):
        return self.files[str(filepath)]

    def get_text(self, filepath, encoding='utf-8'):
        raise NotImplementedError


def png(image):
    return cv2.imencode('.png', image)[1].tobytes()


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_images_that_are_not_on_this_disk(scope, tmp_path, monkeypatch):
    """The list of them is, and the step that loads them names their place."""
    monkeypatch.setitem(fileio.backends.registry_utils.backends, 'store', Store)
    image, labels = np.ones((20, 30, 3), np.uint8), np.eye(20, 30, dtype=np.uint8)
    files = {'img/a.png': png(image), 'map/a.png': png(labels)}
    monkeypatch.setattr(Store, 'files', files)
    place = dict(backend_args=dict(backend='store'))
    load = dict(type='LoadImageFromFile', **place)
    dataset = dict(pipeline=[load], metainfo=dict(classes=('a', 'b')))
    if scope == 'mmdet':
        image = dict(id=1, file_name='a.png', height=20, width=30)
        box = dict(id=1, image_id=1, category_id=1, bbox=[1, 2, 3, 4], area=12, iscrowd=0)
        categories = [dict(id=1, name='a'), dict(id=2, name='b')]
        content = dict(images=[image], annotations=[box], categories=categories)
        (tmp_path / 'list.json').write_text(json.dumps(content))
        dataset |= dict(type='CocoDataset', ann_file=f'{tmp_path}/list.json')
        dataset |= dict(data_prefix=dict(img='img/'))
    else:
        (tmp_path / 'list.txt').write_text('a\n')
        dataset['pipeline'].append(dict(type='LoadAnnotations', **place))
        dataset |= dict(type='BaseSegDataset', ann_file=f'{tmp_path}/list.txt', img_suffix='.png')
        dataset |= dict(data_prefix=dict(img_path='img', seg_map_path='map'))
    cfg = Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))
    hosts.check_data(cfg, ('train',))
    hosts.use_registries(cfg)
    built = DATASETS.build(cfg.train_dataloader.dataset)
    hosts.check_dataset(built, 'train_dataloader')
    assert built[0]['img'].shape == (20, 30, 3)
