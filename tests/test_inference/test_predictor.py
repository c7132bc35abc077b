"""Predictions from Python: configs that were read, wrong arguments, several threads."""

import copy
import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmswinv2
from mmswinv2 import hosts
from mmswinv2.errors import UserError
from mmswinv2.inference.pipeline import Pipeline
from mmswinv2.inference.predict import iterate
from mmswinv2.inference.predictor import Predictor
from mmswinv2.inference.sources import Item
from tests.test_cli.conftest import weights  # noqa: F401  a fixture
from tests.test_tools.conftest import CONFIG, ROOT

SEGMENTOR = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::DeprecationWarning')


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photo') / 'a.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    return path


def test_a_config_that_was_read(weights, photo, tmp_path):  # noqa: F811
    """As the functions of the hosts take it; it stays as it is, with test-time augmentation too."""
    cfg = Config.fromfile(ROOT / SEGMENTOR)
    before = copy.deepcopy(cfg)
    options = {'test_dataloader.batch_size': 2, 'data_root': str(tmp_path)}
    file, given = weights(SEGMENTOR), dict(options)
    (ours,) = mmswinv2.predict(cfg, file, photo, tmp_path, tta=True, cfg_options=options)
    (other,) = mmswinv2.predict(ROOT / SEGMENTOR, Path(file), os.fsencode(photo), tta=True)
    assert (ours.pred_sem_seg.data == other.pred_sem_seg.data).all()
    assert cfg.pretty_text == before.pretty_text and options == given
    assert (tmp_path / 'vis/a.jpg').exists()


def test_a_predictor_of_a_path_or_a_config(weights, photo):  # noqa: F811
    cfg = Config.fromfile(ROOT / SEGMENTOR)
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')  # where mmpretrain has it
    before, item = copy.deepcopy(cfg), Item('a', str(photo))
    maps = []
    for config in (cfg, ROOT / SEGMENTOR):
        predictor = Predictor(config, weights(SEGMENTOR), 'cpu')
        ((_, result),) = predictor.outcomes([item])
        maps.append(result.pred_sem_seg.data)
    assert (maps[0] == maps[1]).all() and cfg.pretty_text == before.pretty_text
    for number in (0, 1.5, None):
        with pytest.raises(UserError, match=f'batch_size must be at least 1, got {number}'):
            list(predictor.outcomes([item], batch_size=number))


def test_proposals_have_no_name_of_a_class(weights, photo, tmp_path):  # noqa: F811
    """RPN gives all of them the number 0, which is that of the first class, too."""
    cfg = Config.fromfile(ROOT / CONFIG)
    whole = cfg.model
    parts = {key: whole[key] for key in ('data_preprocessor', 'backbone', 'neck', 'rpn_head')}
    configs = {key: dict(rpn=whole[key].rpn) for key in ('train_cfg', 'test_cfg')}
    cfg.model = dict(type='RPN', **parts, **configs)
    cfg.model['train_cfg']['rpn_proposal'] = whole.train_cfg.rpn_proposal
    checkpoint = torch.load(weights(CONFIG), weights_only=False)
    state = checkpoint['state_dict']
    checkpoint['state_dict'] = {
        key.replace('rpn_head.', 'bbox_head.'): value
        for key, value in state.items()
        if not key.startswith('roi_head.')
    }
    torch.save(checkpoint, tmp_path / 'rpn.pth')
    (found,) = mmswinv2.predict(cfg, tmp_path / 'rpn.pth', photo, tmp_path / 'out', score=0)
    assert len(found.pred_instances) > 0 and set(found.pred_instances.labels.tolist()) == {0}
    content = json.loads((tmp_path / 'out/preds/predictions.json').read_text())
    assert content['categories'] == [dict(id=0, name='object')]
    assert {entry['category_id'] for entry in content['annotations']} == {0}
    assert (tmp_path / 'out/vis/a.jpg').exists()


def test_items_before_a_bad_one_in_its_batch_have_results(weights, photo, tmp_path):  # noqa: F811
    predictor = Predictor(ROOT / SEGMENTOR, weights(SEGMENTOR), 'cpu')
    items = [Item('a', str(photo)), Item('b', str(tmp_path / 'gone.png'))]
    results = predictor.outcomes(items, batch_size=2)
    item, _ = next(results)
    assert item.name == 'a'
    with pytest.raises(UserError, match='gone.png'):
        next(results)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(config=None), r"a config must be a path or mmengine's Config, got NoneType; write"),
        (
            dict(config={}),
            r"a config must be a path or mmengine's Config, got dict; write Config\(",
        ),
        (dict(checkpoint=None), 'a checkpoint must be a path, an address or .*, got None'),
        (dict(inputs=None), 'inputs must be paths, patterns or numbers of cameras, got NoneType'),
        (dict(inputs=b'/0'), '/0 is no file, folder, pattern or number of a camera'),
        (dict(inputs=[b'gone.jpg']), 'gone.jpg is no file'),
        (dict(inputs=b'\x89PNG\r\n\0'), 'inputs must be paths, .* got bytes; write an image to a'),
        (dict(inputs=io.BytesIO(b'a.jpg')), 'inputs must be paths, .*, got BytesIO'),
        (dict(cfg_options='a=1'), "cfg_options must be a dict such as .*, got 'a=1'"),
        (dict(cfg_options=['a=1']), r"cfg_options must be a dict such as .*, got \['a=1'\]"),
        (dict(out_dir=5), 'out_dir must be the path of a folder, got 5'),
        (dict(batch_size=None), 'batch_size must be at least 1, got None'),
    ],
)
def test_arguments_that_cannot_be(weights, photo, change, words):  # noqa: F811
    given = dict(config=str(ROOT / SEGMENTOR), checkpoint=weights(SEGMENTOR), inputs=photo)
    with pytest.raises(UserError, match=words):
        list(iterate(**{**given, **change}))


def test_what_a_file_alone_does_not_have(weights, photo):  # noqa: F811
    """Annotations of every kind are not loaded; other data is named."""
    cfg = Config.fromfile(ROOT / CONFIG)
    steps = cfg.test_dataloader.dataset.pipeline
    plain = [*steps[:1], dict(type='LoadTrackAnnotations'), *steps[1:]]
    cfg.test_dataloader.dataset.pipeline = plain
    assert len(mmswinv2.predict(cfg, weights(CONFIG), photo)) == 1
    cfg.test_dataloader.dataset.pipeline = [*steps[:1], dict(type='LoadProposals'), *steps[1:]]
    with pytest.raises(
        UserError, match="needs 'proposals', which no step before it adds; if it is what only"
    ):
        mmswinv2.predict(cfg, weights(CONFIG), photo)
    cfg.test_dataloader.dataset.pipeline = steps[:-1]
    with pytest.raises(UserError, match='does not end in a step that packs samples'):
        mmswinv2.predict(cfg, weights(CONFIG), photo)


def test_detectors_get_the_names_that_they_look_for(photo):
    cfg = Config.fromfile(ROOT / CONFIG)
    dataset = cfg.test_dataloader.dataset
    dataset.return_classes = True
    dataset.pipeline[-1].meta_keys = ('text', 'custom_entities')
    with hosts.building(cfg):
        prepare = Pipeline(cfg, ['cat', 'red car'])
    sample = prepare(Item('a', str(photo)), 0)['data_samples']
    assert sample.text == ('cat', 'red car') and sample.custom_entities


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ('glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py', 'set return_classes=True in'),
        ('mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py', 'follows objects through'),
    ],
)
def test_models_that_need_more_than_a_picture(photo, config, words):
    options = {'test_dataloader.dataset.return_classes': False}
    with pytest.raises(UserError, match=words):
        mmswinv2.predict(f'mmdet::{config}', 'none.pth', photo, cfg_options=options)


@pytest.mark.parametrize('config', [CONFIG, SEGMENTOR])
def test_names_of_classes_that_are_numbers(weights, photo, tmp_path, config):  # noqa: F811
    """As --cfg-options reads (3, 7)."""
    cfg = Config.fromfile(ROOT / config)
    names = tuple(range(10, 14 if config == CONFIG else 17))
    options = {'test_dataloader.dataset.metainfo.classes': names}
    found = mmswinv2.predict(cfg, weights(config), photo, tmp_path, score=0, cfg_options=options)
    assert len(found) == 1 and (tmp_path / 'vis/a.jpg').exists()


@pytest.mark.parametrize(
    ('colors', 'taken'),
    [([[255, 0, 0]] * 4, [(255, 0, 0)] * 4), ([(255, 0, 0)], None), ((9, 0, 0), (9, 0, 0))],
    ids=['lists', 'too few', 'one for all'],
)
def test_colors_that_visualizers_do_not_take(weights, photo, tmp_path, colors, taken):  # noqa: F811
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.test_dataloader.dataset.metainfo.palette = colors
    assert Predictor(cfg, weights(CONFIG), 'cpu').meta['palette'] == taken
    mmswinv2.predict(cfg, weights(CONFIG), photo, tmp_path, score=0)
    assert (tmp_path / 'vis/a.jpg').exists()


def test_classes_of_a_segmentor_without_a_name_are_painted(weights):  # noqa: F811
    cfg = Config.fromfile(ROOT / SEGMENTOR)
    cfg.test_dataloader.dataset.metainfo = dict(classes=('a',), palette=[[255, 0, 0]])
    predictor = Predictor(cfg, weights(SEGMENTOR), 'cpu')
    assert predictor.meta['classes'] == ['a', *'123456']
    assert len(predictor.meta['palette']) == 7


def test_a_detector_and_a_segmentor_in_threads(weights, photo, tmp_path):  # noqa: F811
    """mmengine has one default scope for all threads."""
    files, together = [weights(CONFIG), weights(SEGMENTOR)], threading.Barrier(4)

    def run(number):
        config = (CONFIG, SEGMENTOR)[number % 2]
        together.wait()
        out = tmp_path / str(number)
        return mmswinv2.predict(ROOT / config, files[number % 2], [photo] * 2, out)

    with ThreadPoolExecutor(4) as pool:
        assert [len(results) for results in pool.map(run, range(4))] == [2] * 4
    assert len(list(tmp_path.glob('*/vis/*.jpg'))) == 8
