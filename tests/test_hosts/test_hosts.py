"""The host of a config, and the modules that a config imports."""

import os
import sys

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2
from tests.test_tools.conftest import ROOT
from tests.tool_server import run_program

IMPORTS = """
import sys
import mmswinv2
assert not [name for name in sys.modules if name.startswith(('mmengine', 'torch'))]
import mmswinv2.registry
assert 'mmswinv2.hosts' not in sys.modules  # nothing is patched by defining registries
import mmswinv2.hosts
assert 'torch._dynamo' not in sys.modules  # a second of every command
loaded = {name.split('.')[0] for name in sys.modules}
assert not loaded & {'mmcv', 'mmdet', 'mmseg', 'mmaction', 'mmpretrain', 'torchvision'}, loaded
from mmengine.registry import MODELS
MODELS.build(dict(type='mmswinv2.SwinTransformerV2', arch='nano'))
loaded = {name.split('.')[0] for name in sys.modules}
assert not loaded & {'mmcv', 'mmdet', 'mmseg', 'mmaction', 'mmpretrain', 'torchvision'}, loaded
"""


def test_hosts_are_imported_by_those_who_need_them():
    run_program([sys.executable, '-W', 'ignore', '-c', IMPORTS]).succeeded()


@pytest.mark.parametrize('name', ['mmengine', 'mmdet', 'mmseg', 'mmaction', 'mmpretrain', 'mmx'])
def test_the_host_of_a_config(name):
    host = hosts.of(Config(dict(default_scope=name)))
    assert host.name == name
    assert (type(host) is hosts.Host) == (name == 'mmx')


@pytest.mark.parametrize(
    ('kind', 'own'),
    [
        ('mmswinv2.SwinTransformerV2', True),
        ('mmswinv2.SimMIMSwinTransformerV2', True),
        (SwinTransformerV2, True),
        ('mmpretrain.SwinTransformerV2', False),
        ('SwinTransformerV2', False),
        (torch.nn.Identity, False),
    ],
)
def test_backbones_of_this_package(kind, own):
    model = ConfigDict(backbone=dict(type=kind))
    assert hosts.own_backbone(model) is (model.backbone if own else None)


def test_more_batches_than_the_data_set_has():
    for asked, words in ((3, 'asks for 6 samples, and the data set has 4'), (2, '')):
        loader = dict(batch_size=2, dataset=[0] * 4, sampler=dict(type='DefaultSampler'))
        dataset = Runner.build_dataloader(loader | dict(num_batch_per_epoch=asked)).dataset
        if words:
            with pytest.raises(UserError, match=f'train_dataloader.num_batch_per_epoch {words}'):
                hosts.check_dataset(dataset, 'train_dataloader')
        else:
            hosts.check_dataset(dataset, 'train_dataloader')


def test_models_without_a_backbone_have_none_of_this_package():
    for model in ({}, dict(backbone=None), dict(backbone={})):
        assert hosts.own_backbone(model) is None


def test_configs_without_a_scope_are_mmengines():
    assert hosts.of({}).name == hosts.of(dict(default_scope=None)).name == 'mmengine'


def test_types_say_where_a_config_without_a_scope_is_from():
    """Such as configs of mmengine's new style, and configs with a prefix before each type."""
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.models import MaskRCNN

    loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type=CocoDataset)))
    for scope in ({}, dict(default_scope=None), dict(default_scope='mmengine')):
        for parts in (
            dict(model=dict(type=MaskRCNN)),
            dict(model=dict(type='mmdet.MaskRCNN')),
            dict(model=dict(type='torch.nn.Linear'), train_dataloader=loader),
        ):
            assert hosts.of(Config(scope | parts)).name == 'mmdet'
    for wrong in (
        dict(model='x'),
        dict(train_dataloader=[1]),
        dict(test_dataloader=dict(dataset=5)),
    ):
        assert hosts.of(Config(wrong)).name == 'mmengine'
    cfg = Config(dict(model=dict(type='mmdet.MaskRCNN')))
    with METRICS.switch_scope_and_registry('mmengine') as metrics:
        assert metrics.get(hosts.type_in(cfg, 'DumpDetResults')) is not None
    assert hosts.type_in(Config(dict(default_scope='mmdet')), 'DumpDetResults') == 'DumpDetResults'
    assert hosts.of(dict(default_scope='mmseg', model=dict(type='mmdet.MaskRCNN'))).name == 'mmseg'
    steps = [dict(type='LoadImageFromFile'), dict(type=LoadAnnotations, with_bbox=True)]
    assert hosts.without_annotations(steps) == steps[:1]


@pytest.fixture
def loader(tmp_path):
    """A config with one data set of two images, and its folder."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'list.json').write_text('{}')
    dataset = dict(
        type='CocoDataset', data_root=str(tmp_path), ann_file='list.json',
        data_prefix=dict(img='images'),
    )  # fmt: skip
    cfg = Config(
        dict(default_scope='mmdet', train_dataloader=dict(dataset=dict(datasets=[dataset])))
    )
    return cfg, cfg.train_dataloader.dataset.datasets[0], tmp_path


def test_files_that_are_there(loader):
    hosts.check_data(loader[0], ('train', 'val'))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(data_root='/none'), 'train_dataloader: the folder /none does not exist; put'),
        (dict(data_prefix=dict(img='pictures')), r'pictures \(img\) does not exist$'),
        (dict(data_prefix='pictures'), r'pictures \(data_prefix\) does not exist$'),
        (dict(data_prefix=dict(img='images', seg='maps')), r'maps \(seg\).*see docs/data.md for'),
        (dict(ann_file='none.json'), 'annotation file .*none.json does not exist'),
    ],
)
def test_files_that_are_not_there(loader, change, words):
    cfg, dataset, _ = loader
    dataset.update(change)
    with pytest.raises(UserError, match=words):
        hosts.check_data(cfg, ('train',))
    if 'data_prefix' in change:  # images alone are read by a step
        load = dict(type='LoadImageFromFile', backend_args=dict(backend='lmdb', db_path='a.lmdb'))
        dataset.pipeline = [dict(type='RandomChoice', transforms=[[load]])]
        hosts.check_data(cfg, ('train',))
        dataset.pop('pipeline')
    dataset.backend_args = dict(backend='petrel')  # not on this disk
    hosts.check_data(cfg, ('train',))


@pytest.mark.parametrize('content', ['{"images": [', 'text', '', '{"filename": "a.jpg"}\n{"file'])
def test_annotations_that_are_not_json(loader, content):
    """Readers of some hosts end in a traceback on them, which does not name the file."""
    (loader[2] / 'list.json').write_text(content)
    with pytest.raises(UserError, match='list.json is not JSON, or cut short'):
        hosts.check_data(loader[0], ('train',))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('content', [' {"a": 1}\n', '[]', '{"a": 1}\n{"a": 2}\n\n'])
def test_annotations_that_are_json(loader, content, encoding):
    """Annotation files for grounding have a JSON object on each line."""
    (loader[2] / 'list.json').write_text(content, encoding=encoding)
    hosts.check_data(loader[0], ('train',))


@pytest.mark.parametrize('name', ['list.json', 'list.txt'])
def test_annotations_from_a_pipe(loader, name):
    cfg, dataset, folder = loader
    (folder / 'list.json').unlink()
    os.mkfifo(folder / name)
    dataset.ann_file = name
    with pytest.raises(UserError, match=f'train_dataloader: the annotation file .*{name} is a pi'):
        hosts.check_data(cfg, ('train',))


def test_data_sets_of_nothing(tmp_path):
    from mmdet.datasets import CocoDataset
    from mmseg.datasets import ADE20KDataset, REFUGEDataset

    (tmp_path / 'list.json').write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}], "annotations": [], '
        '"categories": [{"id": 1, "name": "a"}]}'
    )
    filtered = dict(min_size=32)
    with pytest.raises(UserError, match=f"samples with ann_file='{tmp_path}/list.*{filtered}"):
        CocoDataset(
            ann_file='list.json', data_root=str(tmp_path), metainfo=dict(classes=('a',)),
            data_prefix=dict(img=''), filter_cfg=filtered, pipeline=[],
        )  # fmt: skip
    (tmp_path / 'images').mkdir()
    for kind, suffix in ((ADE20KDataset, '.jpg'), (REFUGEDataset, '.png')):
        with pytest.raises(UserError, match=f"{tmp_path}/images.*img_suffix='{suffix}'"):
            kind(data_root=str(tmp_path), data_prefix=dict(img_path='images'), pipeline=[])


@pytest.mark.parametrize(
    'name',
    [
        'detection/mask-rcnn_swinv2-nano_coco-320',
        'segmentation/swinv2-nano_upernet_ade20k-128x128',
    ],
)
def test_sample_batches_have_the_channels_of_the_backbone(name):
    rgb = Config.fromfile(ROOT / f'configs/{name}.py')
    four = Config.fromfile(ROOT / f'configs/{name}-4-channels.py')
    torch.manual_seed(0)
    (expected,) = hosts.sample_batch(rgb, (32, 64), 1)['inputs']
    torch.manual_seed(0)
    (image,) = hosts.sample_batch(four, (32, 64), 1)['inputs']
    assert expected.shape == (3, 32, 64) and image.shape == (4, 32, 64)
    assert image.dtype == expected.dtype
    if four.default_scope == 'mmseg':  # mmdet draws images from its own generator
        assert torch.equal(image, expected[[0, 1, 2, 0]])


@pytest.mark.parametrize('classes', [1, 4])
def test_sample_batches_have_masks_and_classes_as_data_sets_have(classes):
    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = classes
    objects = hosts.sample_batch(cfg, (32, 64), 2)['data_samples'][1].gt_instances
    assert objects.masks.masks.dtype == 'uint8' and objects.masks.masks.max() == 1
    assert objects.labels.min() >= 0 and objects.labels.max() == classes - 1
