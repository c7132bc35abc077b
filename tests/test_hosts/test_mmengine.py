import builtins
import copy
import json
import math
import pickle
import runpy
from collections import OrderedDict
from contextlib import nullcontext
from importlib import import_module
from pickle import UnpicklingError

import cv2
import numpy as np
import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine import fileio
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.infer import BaseInferencer
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import OneCycleLR
from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from mmswinv2 import hosts
from mmswinv2.analysis.work_dir import read_literals
from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.errors import UserError
from mmswinv2.hosts.host import Host
from tests.test_checkpoints.conftest import PRINTS
from tests.test_tools.conftest import ROOT


def test_scalars_of_mmengine_can_be_restored(tmp_path):
    path = tmp_path / 'run.pth'
    torch.save({'loss': HistoryBuffer([1.0, 2.0], [1, 1])}, path)
    hosts.apply()
    for _ in range(2):  # our own reader must not revoke the permission
        assert read_checkpoint(path)['loss'].mean() == 1.5
        restored = mmengine_checkpoint._load_checkpoint(str(path), map_location='cpu')
        assert restored['loss'].max() == 2


@pytest.mark.parametrize('suffix', [None, '.jpg'])
def test_folders_that_systems_write_are_not_listed(suffix, tmp_path):
    hosts.apply()
    names = ('a.jpg', 'b/c.jpg', 'b/d.txt', '.own/a.jpg')
    of_systems = ('.ipynb_checkpoints/a.jpg', 'b/.ipynb_checkpoints/c.jpg', '__MACOSX/b/c.jpg')
    for name in (*names, *of_systems):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = fileio.list_dir_or_file(tmp_path, list_dir=False, suffix=suffix, recursive=True)
    assert sorted(files) == sorted(name for name in names if name.endswith(suffix or ''))
    assert sorted(fileio.list_dir_or_file(tmp_path, list_file=False)) == ['.own', 'b']


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path', 'filename', 'frame_dir'])
@pytest.mark.parametrize('serialized', [True, False])
def test_paths_of_windows_are_read(key, serialized, tmp_path):
    """A file whose own name has a backslash keeps it; so do objects in stores, and other text."""
    hosts.apply()
    (tmp_path / 'b\\2.png').touch()
    names = [f'{tmp_path}/a\\x\\1.png', f'{tmp_path}/b\\2.png', 's3://bucket/c\\3.png']
    given = [{key: name, 'text': 'a\\b'} for name in names]
    (tmp_path / 'list.json').write_text(json.dumps(dict(metainfo={}, data_list=given)))
    data = BaseDataset(
        str(tmp_path / 'list.json'), data_prefix={key: ''}, serialize_data=serialized
    )
    for _ in range(2):
        infos = [data.get_data_info(i) for i in range(3)]
        assert [info[key] for info in infos] == [f'{tmp_path}/a/x/1.png', *names[1:]]
        assert infos[0]['text'] == 'a\\b'


@pytest.mark.parametrize(
    ('given', 'right'),
    [
        (None, True),
        (('cat', 'dog'), True),
        (('Katze', 'Hund'), True),
        (('cat', 'dog', 'cow'), True),
        (('dog', 'cat'), False),
        (('dog',), False),
        (('cow', 'dog', 'cat'), False),
    ],
)
def test_labels_are_numbers_of_the_classes_in_the_file(given, right, tmp_path):
    path, samples = tmp_path / 'list.json', [dict(img_path='1.jpg', gt_label=1)]
    path.write_text(json.dumps(dict(metainfo=dict(classes=['cat', 'dog']), data_list=samples)))
    words = r"list.json: labels are numbers of the classes in the file, where '(dog|cat)' is"
    with nullcontext() if right else pytest.raises(UserError, match=words):
        data = BaseDataset(str(path), dict(classes=given) if given else None)
        assert tuple(data.metainfo['classes']) == (given or ('cat', 'dog'))


def test_classes_of_users_may_number_labels_by_name(tmp_path):
    class Own(BaseDataset):
        def load_data_list(self):
            samples = super().load_data_list()
            for sample in samples:
                sample['gt_label'] = self.metainfo['classes'].index(sample.pop('name'))
            return samples

    content = dict(
        metainfo=dict(classes=['cat', 'dog']), data_list=[dict(img_path='1.jpg', name='dog')]
    )
    (tmp_path / 'list.json').write_text(json.dumps(content))
    assert Own(str(tmp_path / 'list.json'), dict(classes=('dog', 'cat')))[0]['gt_label'] == 0


@pytest.mark.parametrize('way', ['cos', 'linear'])
def test_states_of_one_cycle_can_be_restored(way, tmp_path):
    """They hold a function of the scheduler's."""

    def scheduler():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
        return OneCycleLR(optimizer, eta_max=1.0, total_steps=9, anneal_strategy=way)

    first, second = scheduler(), scheduler()
    first.optimizer.step()
    first.step()
    path = tmp_path / 'run.pth'
    torch.save({'model': torch.ones(1), 'param_schedulers': [first.state_dict()]}, path)
    second.load_state_dict(read_checkpoint(path)['param_schedulers'][0])
    assert second.anneal_func is first.anneal_func and second.last_step == first.last_step


def test_metainfo_of_a_config_can_be_restored(tmp_path):
    """A dict inside of it stays the config's in the data set, and so in every checkpoint."""
    given = ConfigDict(classes=('a', 'b'), sizes=dict(a=1, b=[dict(c=(2, 3))]))
    found = BaseDataset(metainfo=given, lazy_init=True).metainfo
    torch.save({'model': torch.ones(1), 'meta': {'dataset_meta': found}}, tmp_path / 'run.pth')
    assert read_checkpoint(tmp_path / 'run.pth')['meta']['dataset_meta'] == given


def test_mmengine_runs_no_code_of_a_checkpoint(tmp_path, capsys):
    torch.save({'a': PRINTS}, tmp_path / 'evil.pth')
    for _ in range(2):
        with pytest.raises((UserError, UnpicklingError), match='evil.pth'):
            mmengine_checkpoint._load_checkpoint(str(tmp_path / 'evil.pth'), map_location='cpu')
    assert 'this must' not in capsys.readouterr().out
    torch.save({'a': torch.ones(2)}, tmp_path / 'good.pth')
    assert mmengine_checkpoint._load_checkpoint(str(tmp_path / 'good.pth'))['a'].sum() == 2


CONFIG = 'import builtins\nbuiltins.config_has_run = True\ngpu_ids = [0]\n'


class Plain(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(inputs).sum())


@pytest.mark.parametrize('flexible', [False, True])
def test_resuming_runs_no_config_of_a_checkpoint(flexible, tmp_path):
    hosts.apply()
    kind = FlexibleRunner if flexible else Runner

    def runner(**more):
        data = dict(dataset=[torch.ones(1)] * 2, batch_size=1)
        data.update(
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        )
        optim = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
        return kind(
            model=Plain(),
            work_dir=str(tmp_path),
            train_dataloader=data,
            optim_wrapper=optim,
            train_cfg=dict(by_epoch=True, max_epochs=1 + bool(more)),
            experiment_name=f'{flexible}{len(more)}',
            default_scope='mmengine',
            **more,
        )

    runner().train()
    path = tmp_path / 'epoch_1.pth'
    saved = torch.load(path, weights_only=False)
    saved['meta']['config'] = CONFIG
    torch.save(saved, path)
    runner(resume=True).train()  # from last_checkpoint
    runner(resume=True, load_from=str(path)).train()
    assert (tmp_path / 'epoch_2.pth').exists()
    assert not hasattr(builtins, 'config_has_run')


def test_an_inferencer_runs_no_config_of_its_weights(tmp_path):
    hosts.apply()
    torch.save({'meta': {'cfg': CONFIG}}, tmp_path / 'evil.pth')
    with pytest.raises(
        UserError, match='evil.pth, which would run code from that file; give model'
    ):
        BaseInferencer._init_model(None, ConfigDict(), str(tmp_path / 'evil.pth'))
    assert not hasattr(builtins, 'config_has_run')


@pytest.mark.parametrize(
    'prefix', ['', 'torchvision://', 'modelzoo://', 'openmmlab://', 'mmcls://']
)
def test_no_prefix_runs_code(prefix, tmp_path, address, monkeypatch, capsys):
    hosts.apply()
    torch.save({'state_dict': PRINTS}, tmp_path / 'evil.pth')
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    urls = {'net': f'{address}/evil.pth'}
    for table in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(mmengine_checkpoint, table, lambda: urls)
    name = f'{prefix}net' if prefix else str(tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='would run code from the file'):
        mmengine_checkpoint._load_checkpoint(name, map_location='cpu')
    assert 'this must' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('openmmlab://resnt50', "mmengine knows no weights of the name 'resnt50'"),
        ('mmcls://resnt50', "mmengine knows no weights of the name 'resnt50'"),
        ('torchvision://resnet50', 'needs torchvision_, which is not installed'),
    ],
)
def test_names_without_weights(name, says, monkeypatch):
    hosts.apply()
    table = 'get_torchvision_models'  # torchvision may be installed here
    monkeypatch.setattr(mmengine_checkpoint, table, lambda: import_module('torchvision_'))
    with pytest.raises(UserError, match=says):
        mmengine_checkpoint._load_checkpoint(name, map_location='cpu')


def test_a_path_of_pathlib_is_read(tmp_path):
    hosts.apply()
    torch.save({'state_dict': {'w': torch.ones(1)}}, tmp_path / 'a.pth')
    found = mmengine_checkpoint.CheckpointLoader.load_checkpoint(tmp_path / 'a.pth')
    assert found['state_dict']['w'] == 1


class Getattr:
    def __reduce__(self):
        return getattr, (OrderedDict, 'fromkeys')


def test_getattr_is_for_statistics_alone(tmp_path):
    torch.save({'a': Getattr()}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='would run code'):
        read_checkpoint(tmp_path / 'evil.pth')
    with pytest.raises((UserError, UnpicklingError), match='would run code'):
        mmengine_checkpoint._load_checkpoint(str(tmp_path / 'evil.pth'), map_location='cpu')


def test_what_is_not_known_of_a_host():
    with pytest.raises(UserError, match='no inputs are known for the models of mmelse'):
        Host('mmelse').sample_batch({}, (8, 8), 1)
    tool = runpy.run_path(str(ROOT / 'tools/analysis_tools/browse_dataset.py'))
    with pytest.raises(UserError, match='mmengine brings no browse_dataset.py along'):
        tool['find_script']('mmengine')


def test_a_host_that_is_not_installed():
    with pytest.raises(UserError, match=r'config.py needs mmelse \(its default_scope\)'):
        Host('mmelse').require('config.py')


def test_visualizers_without_a_constructor_can_be_made():
    """mmengine inspects the signature of the constructor, and does not follow wrappers."""
    from mmengine.visualization import Visualizer

    class Mine(Visualizer):
        pass

    assert Mine.get_instance('mine').instance_name == 'mine'


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_images_are_drawn_on_where_they_are(channels):
    """Images of three channels are used in place; others are converted, contiguous for OpenCV."""
    from mmengine.visualization import Visualizer

    class Mine(Visualizer):
        def add_datasample(self, name, image):
            cv2.rectangle(image, (1, 1), (5, 5), (255, 0, 0))
            return image

    image = np.zeros((20, 30, channels), np.uint8)
    assert Mine().add_datasample(name='name', image=image).shape == (20, 30, 3)
    drawn = Mine().add_datasample('name', image)
    assert drawn.shape == (20, 30, 3) and drawn.max() == 255
    assert (drawn is image) == (channels == 3)


def test_masks_are_blended_as_mmengine_does():
    from mmengine.visualization import Visualizer

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    masks = np.zeros((4, 50, 70), bool)  # the last one is empty
    for mask, (y, x) in zip(masks, ((0, 0), (20, 35), (30, 10)), strict=False):
        mask[y : y + 20, x : x + 35] = rng.random((20, 35)) < 0.7
    colors = [tuple(color) for color in rng.integers(0, 256, (4, 3), dtype=np.uint8)]
    draw, drawn = Visualizer.draw_binary_masks, []
    for function in (draw, draw.__wrapped__):
        visualizer = Visualizer(image=image)
        function(visualizer, masks, colors, alphas=0.35)
        drawn.append(visualizer.get_image())
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != image).any()
    visualizer.draw_binary_masks(masks[0])  # other arguments are mmengine's own business
    assert (visualizer.get_image()[masks[0]] != drawn[1][masks[0]]).any()
    for wrong, given in (
        (masks[:, :40], colors),  # masks of a smaller image would be drawn elsewhere
        (masks.astype(np.uint8), colors),
        (masks, [(300, 0, 0)] * 4),
        (masks, [(9,)] * 4),
    ):
        with pytest.raises(AssertionError):
            visualizer.draw_binary_masks(wrong, given)


def test_a_config_is_formatted_once_until_it_changes(monkeypatch):
    from mmengine.config import config
    from yapf.yapflib import yapf_api

    formatted = []
    # mmengine 0.10 imports it with the module, later ones when a config is formatted
    module = config if hasattr(config, 'FormatCode') else yapf_api
    original = module.FormatCode

    def count(text, **options):
        formatted.append(text)
        return original(text, **options)

    monkeypatch.setattr(module, 'FormatCode', count)
    cfg = Config(dict(model=dict(type='A', depth=1)))
    keys = list(cfg)
    assert cfg.pretty_text == cfg.pretty_text == copy.deepcopy(cfg).pretty_text
    assert len(formatted) == 1 and list(cfg) == keys
    cfg.model.depth = True  # equal to 1
    assert "depth=True, type='A'" in cfg.pretty_text and len(formatted) == 2
    assert pickle.loads(pickle.dumps(cfg)).pretty_text == cfg.pretty_text


def test_texts_of_configs_are_python_whatever_their_keys_are(tmp_path):
    keys = "it's", 'a"b', 'c"d\'e', 'a\\b', 'a\nb', 'class', 'None', "'", "x': f(), 'y"
    for key in keys:
        for value in ({key: 1, 'b': {key: 2}}, [{key: 3}], ({key: ({key: 4},)},)):
            cfg = Config(dict(a=value))
            assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()
    numbers = [math.inf, (-math.inf, 1e30, 0.1), {'b': math.nan}]
    text = Config(dict(a=numbers, b=math.inf, c=dict(d=1e-9))).pretty_text
    wanted = dict(a=numbers, b=math.inf, c=dict(d=1e-9))
    assert repr(Config.fromstring(text, '.py').to_dict()) == repr(wanted)
    (tmp_path / 'dumped.py').write_text(text)
    assert repr(read_literals(tmp_path / 'dumped.py')) == repr(wanted)  # as reports do


def test_sync_norms_in_a_single_process():
    """mmengine makes them BatchNorm, with their weights, before a model is run."""
    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    norms = nn.Sequential(nn.Conv2d(3, 4, 1), build_norm_layer(dict(type='MMSyncBN'), 4)[1])
    assert norms[1].group_size == 1
    with torch.no_grad():
        norms[1].bias.uniform_()
    x, (weight, bias) = torch.randn(2, 3, 5, 5), norms[1].parameters()
    y = norms[0](x)
    centred = y - y.mean((0, 2, 3), keepdim=True)
    unit = centred / (centred.square().mean((0, 2, 3), keepdim=True) + norms[1].eps).sqrt()
    want = unit * weight[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(revert_sync_batchnorm(norms)(x), want)
