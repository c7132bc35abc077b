"""All ways to load weights: those that fit are loaded with a report, others are refused."""

import copy
import importlib
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner, load_checkpoint
from torch import nn

from mmswinv2 import hosts
from mmswinv2.checkpoints import (
    PUBLISHED,
    CheckpointError,
    load_whole_model,
    write_checkpoint,
)
from mmswinv2.checkpoints.download import cache_path
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2
from tests.test_checkpoints.conftest import weights
from tests.test_checkpoints.test_load import under
from tests.test_tools.conftest import ROOT

DETECTOR = ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
RECOGNISER = ROOT / 'configs/video/video-swinv2-nano_motion.py'
SEGMENTOR = ROOT / 'configs/segmentation/swinv2-nano_upernet_shapes.py'


class Classifier(BaseModel):
    """A model of backbone and head, as in every host."""

    def __init__(self, classes=3, video=False, arch='nano'):
        super().__init__()
        self.backbone = (VideoSwinTransformerV2 if video else SwinTransformerV2)(arch)
        self.head = nn.Linear(256, classes)

    def forward(self, inputs, mode):
        maps = self.backbone(inputs)
        return dict(loss=self.head(maps[-1].mean((2, 3))).sum())


def built(config):
    cfg = Config.fromfile(config)
    host = hosts.of(cfg)
    host.apply()
    with DefaultScope.overwrite_default_scope(host.name):
        return MODELS.build(cfg.model)


def drawn(model):
    torch.manual_seed(1)
    return {
        key: torch.randn_like(value) if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }


def by_runner(kind):
    def load(model, path, tmp_path):
        runner = kind(
            model=model,
            work_dir=str(tmp_path),
            load_from=str(path),
            train_dataloader=dict(
                dataset=[dict(inputs=torch.zeros(3, 32, 32))] * 2,
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0)),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            experiment_name=tmp_path.name,
            default_scope='mmengine',
        )
        runner.train()

    return load


DOORS = {
    'load_checkpoint': lambda model, path, tmp_path: load_checkpoint(model, str(path)),
    'load_from': by_runner(Runner),
    'load_from with a strategy': by_runner(FlexibleRunner),
}


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: {'state_dict': s, 'meta': {}},
        lambda s: {'model': s, 'epoch': 3},
        lambda s: {'model_state_dict': under('module.', s)},
        lambda s: under('_orig_mod.', s),
        lambda s: {'model_ema': under('module._orig_mod.', s)},
        lambda s: {k.replace('s.0.', 's.0._fsdp_wrapped_module.'): v for k, v in s.items()},
        lambda s: {'n_averaged': torch.tensor(3), **under('module.', s)},
        lambda s: {'network': under('base_model.model.', s)},
    ],
    ids=['mmengine', 'model', 'module', 'compiled', 'averaged', 'FSDP', 'SWA', 'peft'],
)
def test_a_whole_model_in_any_wrapper(door, wrap, tmp_path):
    model = Classifier()
    state = drawn(model)
    torch.save(wrap(state), tmp_path / 'x.pth')
    DOORS[door](model, tmp_path / 'x.pth', tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def own(**changes):
    return lambda: {'state_dict': drawn(Classifier(**changes))}


BACKBONE = 'it holds a backbone alone'
REFUSED = [
    (dict(), lambda: {'model': weights()}, BACKBONE),
    (dict(), lambda: under('encoder.', weights()), BACKBONE),
    (dict(video=True), lambda: {'model': weights()}, 'set pretrained2d=True'),
    (dict(video=True), own(), r'patch_embed.proj.weight \[32, 3, 4, 4\].*set pretrained2d=True'),
    (dict(video=True), own(), r'set pretrained2d=True \(it is set\) and name the file in init_cfg'),
    (dict(), own(video=True), 'weights of a video network, and the backbone takes images'),
    (dict(), own(arch='tiny'), 'another shape: '),
    (dict(), lambda: {'state_dict': {'conv1.weight': torch.ones(4)}}, 'no SwinV2 in these 1'),
    (dict(), lambda: {'state_dict': {}}, 'no weights found'),
    (dict(), lambda: {}, 'no weights found'),
    (dict(), lambda: [drawn(Classifier())], 'no weights found'),
    (dict(), lambda: {'model': {'a': torch.ones(3).numpy()}}, 'no weights found'),
    (dict(), lambda: {'model': {**drawn(Classifier()), 5: torch.ones(1)}}, 'keys of weights must'),
    (dict(), lambda: {**drawn(Classifier()), 'head.bias': torch.eye(3).to_sparse()}, 'sparse'),
    (dict(), lambda: under('base_model.model.', {'a.lora_A.weight': torch.ones(1)}), 'of peft'),
    (dict(), lambda: {'state_dict': drawn(Classifier()), 'meta': 'x'}, 'meta must be a dict'),
]


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize(('model', 'content', 'words'), REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(door, model, content, words, tmp_path):
    net = Classifier(**model)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.save(content(), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=f'x.pth.*{words}'):
        DOORS[door](net, tmp_path / 'x.pth', tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_file_without_weights(tmp_path):
    torch.save({'epoch': 3}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='no weights found'):
        load_checkpoint(Classifier(), str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('door', DOORS)
def test_a_head_of_other_classes_is_left_and_reported(door, tmp_path, log):
    model, other = Classifier(classes=5), Classifier()
    state, head = drawn(other), model.head.weight.clone()
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    DOORS[door](model, tmp_path / 'x.pth', tmp_path)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.backbone.norm3.weight, state['backbone.norm3.weight'])
    text = log() + ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'Loaded x.pth' in text and 'mismatched 2;' in text
    assert 'head.weight [3, 256], here [5, 256]' in text


def test_windows_of_published_weights_count(tmp_path, monkeypatch):
    """Files need not record windows: the table of published weights does."""
    hosts.apply()
    name = 'swinv2_tiny_patch4_window16_256'
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    write_checkpoint({'model': weights()}, cache_path(PUBLISHED[name].url))
    for windows, fits in (([16, 16, 16, 8], True), (16, False)):
        model = nn.ModuleDict({'backbone': SwinTransformerV2('nano', window_size=windows)})
        model['head'] = nn.ModuleDict({'fc': nn.Linear(256, 10)})
        if fits:
            load_checkpoint(model, name)
            assert torch.equal(model['backbone'].norm3.weight, weights()['norm.weight'])
        else:
            with pytest.raises(CheckpointError, match=r'pretrained_window_sizes=\[16, 16, 16, 8\]'):
                load_checkpoint(model, name)


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_a_run_records_its_windows(kind, tmp_path):
    """So that a test with another window alone has the scale of the position bias of the run."""
    hosts.apply()
    torch.save(Classifier().state_dict(), tmp_path / 'x.pth')
    by_runner(kind)(Classifier(), tmp_path / 'x.pth', tmp_path)
    path = str(tmp_path / 'epoch_1.pth')
    for load in (load_checkpoint, load_whole_model):
        model = Classifier()
        model.backbone = SwinTransformerV2('nano', window_size=16)
        with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[8, 8, 8, 8\]'):
            load(model, path)
        model.backbone = SwinTransformerV2('nano', window_size=16, pretrained_window_sizes=8)
        load(model, path)


def test_models_of_others_take_a_twentieth(tmp_path):
    """The minimum of a twentieth of the entries applies to all models in a process."""
    hosts.apply()
    model = nn.ModuleDict({f'layer{i}': nn.Linear(1, 1) for i in range(20)})
    for count, enough in ((1, False), (2, True)):  # of 40 entries
        state = {f'layer{i}.weight': torch.full((1, 1), 7.0) for i in range(count)}
        torch.save(state, tmp_path / 'x.pth')
        if enough:
            load_checkpoint(model, str(tmp_path / 'x.pth'))
            assert model['layer1'].weight.item() == 7
        else:
            with pytest.raises(CheckpointError, match='only 1 of the 40 entries'):
                load_checkpoint(model, str(tmp_path / 'x.pth'))


def test_a_backbone_alone_is_loaded_as_by_its_init_cfg(tmp_path):
    path, state = str(tmp_path / 'x.pth'), weights(tables=[(8, 8)] * 4)
    moved = {re.sub(r'(\d)(?=\.down)', lambda m: str(int(m[1]) + 1), k): state[k] for k in state}
    for given in (state, moved):  # of the authors, of timm
        backbone = SwinTransformerV2('nano', window_size=8)
        torch.save({'model': given}, path)
        load_checkpoint(backbone, path)
        own = {**backbone.state_dict(), 'norm.bias': backbone.norm3.bias}
        assert all(torch.equal(own[k], state[k]) for k in own.keys() & state.keys())
    video = VideoSwinTransformerV2('nano', window_size=(2, 8, 8), pretrained2d=True)
    load_checkpoint(video, path)
    assert torch.equal(video.norm3.bias, state['norm.bias'])
    converted = {k: v for k, v in state.items() if 'relative' not in k}
    meta = {'pretrained_window_sizes': {i: [8, 8] for i in range(4)}}
    for content in ({'model': state}, {'model': converted, 'meta': meta}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[8, 8, 8, 8\]'):
            load_checkpoint(SwinTransformerV2('nano', window_size=12), path)
    adapted = SwinTransformerV2('nano', window_size=8, lora=dict(rank=2))
    load_checkpoint(adapted, path)
    torch.save({'state_dict': drawn(adapted)}, path)
    twin = SwinTransformerV2('nano', window_size=8, lora=dict(rank=2))
    load_checkpoint(twin, path)
    assert all(torch.equal(v, drawn(adapted)[k]) for k, v in twin.state_dict().items())


@pytest.mark.filterwarnings('ignore:.*torch.jit')
def test_a_backbone_alone_takes_its_own_keys_from_any_file(tmp_path):
    path, twin = str(tmp_path / 'x.pth'), SwinTransformerV2('nano')
    state = drawn(twin)
    others = {'teacher.x': torch.ones(1)}
    torch.save({**{f'student.backbone.{k}': v for k, v in state.items()}, **others}, path)
    twin.layers[1] = torch.compile(twin.layers[1])  # its keys have _orig_mod
    load_checkpoint(twin, path, revise_keys=[(r'^student\.backbone\.', '')])
    assert all(map(torch.equal, twin.state_dict().values(), state.values()))


@pytest.mark.parametrize(
    ('prefix', 'words'),
    [
        ('head', r"x.pth has no weights under prefix='head'; its keys begin backbone, neck"),
        ('backbone.', r'x.pth: only 0 of the 2 entries'),
    ],
)
def test_parts_of_a_file_are_told_by_its_name(prefix, words, tmp_path):
    hosts.apply()
    path, neck = str(tmp_path / 'x.pth'), nn.Linear(2, 1)
    state = {f'neck.{key}': torch.full_like(v, 7) for key, v in neck.state_dict().items()}
    torch.save({'state_dict': {**state, 'backbone.x': torch.ones(1)}}, path)
    PretrainedInit(path, prefix='neck')(neck)
    assert neck.weight.tolist() == [[7, 7]]
    with pytest.raises(CheckpointError, match=words):
        PretrainedInit(path, prefix=prefix)(neck)


def init(host, name):
    def load(config, path):
        module = importlib.import_module(f'{host}.apis')
        return getattr(module, name)(str(config), str(path), device='cpu')

    return load


def infer(config, path):
    from mmdet.apis import DetInferencer

    return DetInferencer(model=str(config), weights=str(path), device='cpu').model


@pytest.mark.filterwarnings('ignore::UserWarning')  # hosts warn: no class names, no folder
@pytest.mark.parametrize(
    ('config', 'load'),
    [
        (DETECTOR, init('mmdet', 'init_detector')),
        (DETECTOR, infer),
        (SEGMENTOR, init('mmseg', 'init_model')),
        (RECOGNISER, init('mmaction', 'init_recognizer')),
    ],
    ids=['init_detector', 'inferencer', 'init_model', 'init_recognizer'],
)
def test_doors_of_the_hosts(config, load, tmp_path):
    state = drawn(built(config))
    torch.save({'model': under('module.', state)}, tmp_path / 'x.pth')
    model = load(config, tmp_path / 'x.pth')
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    torch.save({'model': weights()}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='does not fit the model'):
        load(config, tmp_path / 'x.pth')


def test_models_that_rename_keys_themselves(tmp_path):
    """mmdet's semi-supervised detectors load the weights of a plain detector twice."""
    cfg = Config.fromfile(DETECTOR)
    hosts.of(cfg).apply()
    pair = dict(type='SemiBaseDetector', detector=cfg.model)
    pair['semi_train_cfg'] = dict(freeze_teacher=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(pair)
    state = drawn(model.student)
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    load_checkpoint(model, str(tmp_path / 'x.pth'))
    for part in (model.student, model.teacher):
        assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())
    torch.save({'state_dict': {'conv1.weight': torch.ones(4)}}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='only 0 of the'):
        load_checkpoint(model, str(tmp_path / 'x.pth'))


def test_copies_of_weights_know_their_file(tmp_path):
    """EMAHook loads a copy."""
    torch.save({'state_dict': drawn(Classifier())}, tmp_path / 'x.pth')
    state = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))['state_dict']
    twin = copy.deepcopy(state)
    assert twin._metadata.path == tmp_path / 'x.pth'
    torch.save(twin, tmp_path / 'y.pth')
    assert torch.load(tmp_path / 'y.pth', weights_only=True).keys() == state.keys()


def test_notes_of_another_form_beside_weights_are_none(tmp_path):
    state = Classifier().state_dict()
    state._metadata = 5
    torch.save(state, tmp_path / 'x.pth')
    load_checkpoint(Classifier(), str(tmp_path / 'x.pth'))


@pytest.mark.parametrize(
    ('classes', 'more'), [(5, {}), (3, {'more.weight': torch.ones(1)})], ids=['shape', 'key']
)
def test_strict_loading_is_refused_in_a_sentence(classes, more, tmp_path):
    torch.save({'state_dict': drawn(Classifier()) | more}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='x.pth does not fit the model of the config'):
        load_checkpoint(Classifier(classes=classes), str(tmp_path / 'x.pth'), strict=True)
