"""Loading into backbones and whole models, and the report on it."""

import pytest
import torch
from mmengine.runner import checkpoint, load_checkpoint
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from mmswinv2 import hosts  # noqa: F401  patches mmengine's reader
from mmswinv2.checkpoints import (
    PUBLISHED,
    CheckpointError,
    fetch,
    load_pretrained,
    load_whole_model,
    write_checkpoint,
)
from mmswinv2.checkpoints.download import cache_path
from mmswinv2.checkpoints.load import fit_weights
from mmswinv2.core import SwinV2
from mmswinv2.models import VideoSwinTransformerV2
from tests.test_checkpoints.conftest import weights


def test_classification_file_of_the_authors(save):
    path = save({'model': weights(tables=[(8, 8)] * 4)})
    net = SwinV2('nano', window_size=12, pretrained_window_sizes=8)
    report = load_pretrained(net, path)
    assert torch.equal(net.norm3.weight, weights()['norm.weight'])
    assert report.missing == [f'norm{i}.{p}' for i in range(3) for p in ('weight', 'bias')]
    assert report.unused == ['head.weight', 'head.bias']
    text = str(report)
    assert 'format authors' in text and 'stage 0: 8, stage 1: 8' in text and 'missing 6' in text


@pytest.mark.parametrize('depths', [(1,), (1, 1)])
def test_own_file_of_the_first_stage(save, depths):
    """It has no patch merging, which tells formats apart otherwise."""
    arch = dict(embed_dims=32, depths=depths, num_heads=(1, 2)[: len(depths)])
    nets = [SwinV2(arch, window_size=4, out_indices=(0,)) for _ in range(2)]
    report = load_pretrained(nets[1], save(nets[0].state_dict()))
    assert report.format == 'authors' and not (report.missing or report.unused)
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name])


def test_own_file_without_its_first_stage(save):
    net = SwinV2('nano')
    state = {k: v for k, v in net.state_dict().items() if not k.startswith('layers.0.')}
    with pytest.raises(CheckpointError, match=r'missing in the file: \d+, e\.g\. layers\.0\.'):
        load_pretrained(net, save(state))


FC1 = 'layers.0.blocks.0.mlp.fc1.weight'
FAULTY = r'\d+ of the \d+ numbers of layers.0.blocks.0.mlp.fc1.weight are NaN or infinite'


def swin_v1(state):
    return {k.replace('logit_scale', 'relative_position_bias_table'): v for k, v in state.items()}


def renamed(old, new):
    return lambda state: {k.replace(old, new): v for k, v in state.items()}


def test_parts_of_weights_are_no_weights(save, tmp_path):
    """A state dict of `fully_shard` holds the part of its rank."""
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/s', rank=0, world_size=1)
    try:
        mesh = init_device_mesh('cpu', (1,))
        state = {k: distribute_tensor(v, mesh, [Replicate()]) for k, v in weights().items()}
        path = save({'state_dict': state})
        with pytest.raises(CheckpointError, match=r'is .* a part of one \(DTensor'):
            load_pretrained(SwinV2('nano'), path)
        model = nn.Linear(2, 2)  # weights of a sharded model itself
        sharded = {
            k: distribute_tensor(v, mesh, [Replicate()]) for k, v in model.state_dict().items()
        }
        model.load_state_dict(sharded, assign=True)
        assert fit_weights(model, sharded)[1].loaded == ['weight', 'bias']
    finally:
        torch.distributed.destroy_process_group()


def test_a_sharded_model_keeps_weights_of_another_shape(tmp_path):
    """FSDPStrategy loads what fits, also if the file has a single number for a vector."""
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/s', rank=0, world_size=1)
    try:
        model, mesh = nn.Linear(2, 2), init_device_mesh('cpu', (1,))
        bias = model.bias.detach().clone()
        for name, value in list(model.named_parameters()):
            setattr(model, name, nn.Parameter(distribute_tensor(value.data, mesh, [Shard(0)])))
        checkpoint.load_state_dict(model, {'weight': torch.ones(2, 2), 'bias': torch.tensor(5.0)})
        assert torch.equal(model.weight.full_tensor(), torch.ones(2, 2))
        assert torch.equal(model.bias.full_tensor(), bias)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('prefix', ['', 'model.'])
def test_heads_of_any_build_are_not_used(prefix, save):
    state = {k: v for k, v in weights().items() if not k.startswith('head.')}
    state |= {'head.fc.1.weight': torch.ones(4, 256), 'head.0.running_mean': torch.ones(256)}
    report = load_pretrained(SwinV2('nano'), save({prefix + k: v for k, v in state.items()}))
    assert {f'{prefix}head.fc.1.weight', f'{prefix}head.0.running_mean'} <= set(report.unused)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (swin_v1, 'they are a Swin V1'),
        (lambda s: {'conv1.weight': torch.zeros(64, 3, 7, 7)}, 'no SwinV2 in these 1 weights'),
        (renamed('cpb_mlp', 'meta_mlp'), 'swinv2_cr'),
        (renamed('mlp.fc1', 'mlp.fc3'), r"16 keys are unknown .*'layers.0.blocks.0.mlp.fc3"),
        (lambda s: {k: v for k, v in s.items() if 'q_bias' not in k}, 'missing in the file: 8'),
        (lambda s: {k: v[:16] for k, v in s.items()}, 'another shape: '),
        (lambda s: s | {'layers.0.blocks.2.norm1.bias': torch.zeros(32)}, 'not in the model: 1'),
        (lambda s: s | {'layers.0.blocks.1.enorm.weight': torch.ones(32)}, "extra_norm_every': 2"),
        (lambda s: {k: v for k, v in s.items() if 'logit_scale' not in k}, 'missing in the file'),
        (lambda s: {**s, FC1: s[FC1].clone().index_fill_(0, torch.tensor(1), torch.nan)}, FAULTY),
        (lambda s: {**s, FC1: s[FC1] / 0}, 'of layers.0.blocks.0.mlp.fc1.weight are NaN'),
        (lambda s: {**s, FC1: s[FC1].to(torch.int8)}, 'has numbers of torch.int8'),
        (lambda s: {**s, FC1: s[FC1] > 0}, 'has numbers of torch.bool'),
        (lambda s: {**s, FC1: s[FC1].to(torch.cfloat)}, 'has numbers of torch.complex64'),
        (lambda s: {**s, FC1: s[FC1].to(torch.float8_e5m2)}, 'has numbers of torch.float8_e5m2'),
        (lambda s: {**s, FC1: s[FC1].double() * 1e300}, 'are NaN or infinite as torch.float32'),
        (lambda s: {**s, FC1: s[FC1].to_sparse()}, f'{FC1} is a nested or sparse tensor'),
        (lambda s: {**s, FC1: s[FC1].to_sparse_csr()}, f'{FC1} is a nested or sparse tensor'),
        (lambda s: {**s, FC1: s[FC1].to('meta')}, f'{FC1} is .* one without numbers'),
        (lambda s: {**s, FC1: torch.nested.nested_tensor([s[FC1][0], s[FC1][1]])}, 'is a nested'),
        (lambda s: {**s, 5: s[FC1]}, 'keys of weights must be text, as in a state_dict, got 5'),
        (lambda s: {'model': {('a', 'b'): s[FC1]}}, r"must be text.*got \('a', 'b'\)"),
        (lambda s: {'base_model.model.a.lora_A.weight': s[FC1]}, 'adapters of peft'),
        (lambda s: {'backbone': s, 'head': {'weight': s[FC1]}}, 'no weights found.* as the key'),
        (lambda s: [1, 2], 'no weights found'),
        (lambda s: {'epoch': 3}, 'no weights found'),
    ],
    ids=[
        'V1',
        'ResNet',
        'cr',
        'unknown',
        'missing',
        'shape',
        'deeper',
        'enorm',
        'no scale',
        'NaN',
        'infinite',
        'int8',
        'bool',
        'complex',
        'fp8',
        'too large',
        'sparse',
        'sparse rows',
        'meta',
        'nested',
        'numbers as keys',
        'tuples as keys',
        'peft',
        'two lone entries',
        'list',
        'empty',
    ],
)
@pytest.mark.filterwarnings('ignore:Sparse CSR', 'ignore:The PyTorch API of nested')
def test_what_does_not_fit_changes_nothing(save, change, words):
    path = save(change(weights()))
    net = SwinV2('nano')
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(net, path)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (
            dict(patch_size=(2, 2)),
            r'patch_size=\(4, 4\), and the config has patch_size=\(2, 2\)',
        ),
        (dict(mlp_ratio=2), r'The file is of mlp_ratio=4.0, and the config has mlp_ratio=2.0'),
        (dict(in_channels=4), 'The file is of in_channels=5, and the config has in_channels=4'),
    ],
)
def test_the_argument_that_differs_is_named(change, words, save):
    channels = 5 if 'in_channels' in change else 3
    path = save(weights(in_channels=channels))
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(SwinV2('nano', **change), path)


@pytest.mark.parametrize(
    ('table', 'words'),
    [
        (torch.ones(1, 15, 15, 2, dtype=torch.int8), 'is no coordinate table: torch.int8'),
        (torch.ones(1, 15, 15, 2).to(torch.float8_e4m3fn), 'is no coordinate table: torch.float8'),
        (torch.ones(1).expand(1, 9999, 9999, 2), r'no coordinate table: .*\[1, 9999, 9999, 2\]'),
        (torch.full((1, 15, 15, 2), torch.nan), 'is empty or has NaN or infinite numbers'),
        (torch.ones(1, 0, 0, 2), 'is empty or has NaN'),
    ],
    ids=['int8', 'float8', 'huge', 'NaN', 'empty'],
)
def test_tables_that_hold_no_coordinates(table, words, save):
    state = weights() | {'layers.1.blocks.0.attn.relative_coords_table': table}
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(SwinV2('nano'), save(state))


def test_a_table_of_next_to_nothing_records_no_window(save):
    table = torch.full((1, 15, 15, 2), 1e-30)
    state = weights() | {'layers.1.blocks.0.attn.relative_coords_table': table}
    assert load_pretrained(SwinV2('nano'), save(state)).windows == {}


def test_numbers_that_a_type_cannot_hold_are_not_blamed_on_the_training(save):
    state = weights()
    state[FC1] = state[FC1] * 1e30
    with pytest.raises(CheckpointError, match='infinite as torch.float16; those of the file are n'):
        load_pretrained(SwinV2('nano').half(), save(state))


def test_wrong_size_names_both(save):
    with pytest.raises(CheckpointError, match=r"The file is {'name': 'nano'.*embed_dims=96"):
        load_pretrained(SwinV2('tiny'), save(weights()))


def test_windows_that_are_not_recorded_are_said_to_be_assumed(save):
    report = load_pretrained(SwinV2('nano', window_size=16), save(weights()))
    assert 'not recorded in the file, taken to be [16, 16, 16, 16]' in str(report)


def model(width=4, classes=3, masks=False):
    torch.manual_seed(width + classes)
    parts = {'neck': nn.Linear(2, width), 'fc_cls': nn.Linear(width, classes)}
    return nn.ModuleDict(parts | ({'mask_head': nn.Linear(width, 1)} if masks else {}))


@pytest.fixture
def stage_1(tmp_path):
    path = tmp_path / 'iter_9.pth'
    write_checkpoint({'state_dict': model().state_dict(), 'meta': {}}, path)
    return path


def test_all_but_the_new_parts(stage_1):
    second = model(classes=5, masks=True)
    before = {key: value.clone() for key, value in second.state_dict().items()}
    report = load_whole_model(second, stage_1, new=['mask_head', 'fc_cls'])
    assert report.loaded == ['neck.weight', 'neck.bias']
    assert report.new == [
        'fc_cls.weight', 'fc_cls.bias', 'mask_head.weight', 'mask_head.bias',
    ]  # fmt: skip
    assert report.unused == ['fc_cls.weight', 'fc_cls.bias']
    assert torch.equal(second['neck'].weight, model()['neck'].weight)
    for key in report.new:
        assert torch.equal(second.state_dict()[key], before[key])
    text = str(report)
    assert 'loaded 2, missing 0, unexpected 0, mismatched 0; 4 new (fc_cls.bias, fc_cls' in text
    assert 'mask_head.weight), 2 of the file not used' in text


def test_a_new_backbone_may_have_other_windows(save):
    def model(window):
        heads = nn.Sequential(*[nn.Linear(1, 1) for _ in range(20)])
        return nn.ModuleDict({'backbone': SwinV2('nano', window_size=window), 'heads': heads})

    old, new = model(8), model(6)
    path = save(old.state_dict())
    with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[8, 8, 8, 8\]'):
        load_whole_model(new, path)
    load_whole_model(new, path, new=['backbone'])
    assert torch.equal(new['heads'][19].weight, old['heads'][19].weight)


def test_beside_a_new_backbone_another_may_keep_its_windows(save):
    def model(window):
        nets = dict(backbone=SwinV2('nano', window_size=window), teacher=SwinV2('nano'))
        return nn.ModuleDict(nets)

    path = save(model(8).state_dict())
    load_whole_model(model(6), path, new=['backbone'])
    with pytest.raises(CheckpointError, match='was trained with other windows'):
        load_whole_model(model(6), path, new=['teacher'])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(window_size=6), r'set pretrained_window_sizes=\[8, 8, 8, 8\]'),
        (dict(arch=dict(embed_dims=32, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8))),
         r'missing in the file: \d+, e\.g\. student\.backbone\.layers\.2\.blocks\.2\.'),
    ],
    ids=['windows', 'depths'],
)  # fmt: skip
@pytest.mark.parametrize('whole', [True, False])
def test_backbones_inside_of_a_model_fit_too(change, words, whole):
    """As those of a student and a teacher; a file may lack one of them as a whole."""

    def model(**options):
        parts = {
            name: nn.ModuleDict({'backbone': SwinV2(**{'arch': 'nano', **options})})
            for name in ('student', 'teacher')
        }
        return nn.ModuleDict(parts)

    state = model().state_dict()
    if not whole:
        for key in [key for key in state if key.startswith('teacher.')]:
            del state[key]
    with pytest.raises(CheckpointError, match=words):
        fit_weights(model(**change), state)
    _, report = fit_weights(model(), state)
    assert {key.split('.')[0] for key in report.missing} == ({'teacher'} - {whole and 'teacher'})


def test_backbones_inside_of_a_model_may_differ_in_their_windows(save):

    def model(teacher):
        return nn.ModuleDict(
            {'student': SwinV2('nano'), 'teacher': SwinV2('nano', window_size=teacher)}
        )

    path = save(model(6).state_dict())
    load_whole_model(model(6), path)
    with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[6, 6, 6, 6\]'):
        load_whole_model(model(8), path)


def test_windows_that_change_no_bias_may_differ(save):
    load_pretrained(SwinV2('nano', window_size=2), save(SwinV2('nano', window_size=1).state_dict()))
    path = save(SwinV2('nano', window_size=7).state_dict())
    load_pretrained(SwinV2('nano', window_size=[7, 7, 5, 5], out_indices=(1,)), path)
    with pytest.raises(CheckpointError, match='was trained with other windows'):
        load_pretrained(SwinV2('nano', window_size=[7, 7, 5, 5], out_indices=(2,)), path)


def test_windows_of_an_image_network_that_a_script_has_inflated(save):
    net = VideoSwinTransformerV2('nano', window_size=(2, 7, 7))
    state = net.state_dict()
    state._metadata = SwinV2('nano', window_size=7).state_dict()._metadata
    load_pretrained(net, save(state))


@pytest.mark.parametrize(
    ('arguments', 'new', 'words'),
    [
        (dict(width=8), [], r'another shape: 3, e.g. neck.weight \[4, 2\], here \[8, 2\]'),
        (dict(masks=True), [], 'missing in the file: 2, e.g. mask_head.weight'),
        (
            dict(classes=5),
            'fc_cls',
            "new must be a list of parts of names, none empty, got 'fc_cls'",
        ),
        (dict(classes=5), [''], r"none empty, got \[''\]"),
        (dict(classes=5), [1], r'none empty, got \[1\]'),
        (dict(classes=5), None, 'none empty, got None'),
        (dict(classes=5), ['mask'], "no parameter of the model has 'mask' in its name"),
    ],
)
def test_another_model_changes_nothing(stage_1, arguments, new, words):
    second = model(**arguments)
    before = {key: value.clone() for key, value in second.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_whole_model(second, stage_1, new)
    assert all(torch.equal(value, before[key]) for key, value in second.state_dict().items())


def test_what_the_model_lacks(tmp_path):
    write_checkpoint({'state_dict': model(masks=True).state_dict()}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='not in the model: 2, e.g. mask_head.weight'):
        load_whole_model(model(), tmp_path / 'a.pth')


@pytest.mark.parametrize(('kept', 'enough'), [(0, False), (4, False), (5, True)])
def test_next_to_nothing_is_not_enough(kept, enough, tmp_path):
    """For a model with 100 entries, the file must have at least 5."""
    names = [f'kept_{i}' if i < kept else f'fresh_{i}' for i in range(100)]
    net = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in names})
    state = {name: torch.ones(1) for name in [*names[:kept], 'fresh_99']}
    write_checkpoint({'state_dict': state}, tmp_path / 'a.pth')
    if enough:
        assert len(load_whole_model(net, tmp_path / 'a.pth', ['fresh']).loaded) == kept
    else:
        with pytest.raises(CheckpointError, match=f'only {kept} of the 100 .*{100 - kept} entries'):
            load_whole_model(net, tmp_path / 'a.pth', ['fresh'])
    assert sum(p.item() for p in net.values()) == (kept if enough else 0)


def test_published_windows_are_checked_where_the_file_records_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    path = cache_path(PUBLISHED['swinv2_tiny_patch4_window16_256'].url)
    write_checkpoint({'model': weights()}, path)
    assert fetch('swinv2_tiny_patch4_window16_256') == path
    with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[16, 16, 16, 8\]'):
        load_pretrained(SwinV2('nano', window_size=16), path)
    right = SwinV2('nano', window_size=24, pretrained_window_sizes=[16, 16, 16, 8])
    assert load_pretrained(right, path).windows[3] == (8, 8)
    write_checkpoint({'model': weights(tables=[(6, 6)] * 4)}, path)  # the file's record wins
    assert load_pretrained(SwinV2('nano', window_size=6), path).windows[3] == (6, 6)


def classifier(classes=10, **kwargs):
    torch.manual_seed(classes)
    head = nn.ModuleDict({'fc': nn.Linear(256, classes)})
    return nn.ModuleDict({'backbone': SwinV2('nano', out_indices=(3,), **kwargs), 'head': head})


def test_mask_token_where_the_backbone_has_one(save):
    state = {f'encoder.{k}': v for k, v in weights().items() if 'head' not in k}
    path = save(
        state | {'encoder.mask_token': torch.full((1, 1, 32), 7.0), 'decoder.0.bias': torch.ones(1)}
    )
    net = SwinV2('nano')
    assert load_pretrained(net, path).unused == ['decoder.0.bias', 'encoder.mask_token']
    net.mask_token = nn.Parameter(torch.zeros(1, 1, 32))
    report = load_pretrained(net, path)
    assert 'mask_token' in report.loaded and report.unused == ['decoder.0.bias']
    assert net.mask_token.unique().item() == 7


def test_classifier_of_the_authors(save):
    state = weights(tables=[(8, 8)] * 4) | {'head.bias': torch.arange(10.0)}
    path = save({'model': state})
    net = classifier()
    report = load_whole_model(net, path)
    assert (report.format, report.new, report.unused) == ('authors', [], [])
    assert 'stage 0: 8' in str(report)
    assert torch.equal(net['head']['fc'].bias, state['head.bias'])
    assert torch.equal(net['backbone'].norm3.weight, state['norm.weight'])
    small = classifier(3)
    load_whole_model(small, path, class_map=[4, 0, 9])
    assert small['head']['fc'].bias.tolist() == [4, 0, 9]
    with pytest.raises(CheckpointError, match='class_map names class 10, and the head .* has 10'):
        load_whole_model(small, path, class_map=[4, 0, 10])
    with pytest.raises(CheckpointError, match='has 10 classes, and model.head 3'):
        load_whole_model(classifier(3), path)
    assert load_whole_model(classifier(3), path, ['head.']).unused == [
        'head.fc.weight',
        'head.fc.bias',
    ]
    with pytest.raises(CheckpointError, match=r'set pretrained_window_sizes=\[8, 8, 8, 8\]'):
        load_whole_model(classifier(window_size=7), path)
    other = save({'model': {f'encoder.{k}': v for k, v in state.items()} | {'x.w': torch.ones(1)}})
    with pytest.raises(CheckpointError, match='not in the model: 1, e.g. x.w'):
        load_whole_model(net, other)


class Detector(nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = SwinV2('nano', **options)
        self.neck = nn.Linear(8, 8)


def changed_detector():
    other = Detector()
    for p in other.parameters():
        nn.init.normal_(p)
    return other


@pytest.mark.parametrize('prefix', ['', 'model.', 'module.', 'net.detector.', '_orig_mod.'])
@pytest.mark.parametrize('part', ['', 'backbone', 'all'], ids=['plain', 'backbone', 'whole'])
def test_a_whole_model_under_a_prefix_or_compiled(prefix, part):
    other = changed_detector()
    mine = Detector()
    if part == 'backbone':
        mine.backbone = torch.compile(mine.backbone, backend='eager')
    if part == 'all':
        mine = torch.compile(mine, backend='eager')
    state = {prefix + key: value for key, value in other.state_dict().items()}
    given, report = fit_weights(mine, {'state_dict': state})
    assert (report.missing, report.unexpected) == ([], [])
    mine.load_state_dict(given)
    assert torch.equal(mine.backbone.patch_embed.proj.bias, other.backbone.patch_embed.proj.bias)
    assert torch.equal(mine.neck.weight, other.neck.weight)
    taken = f'taken off its keys: the prefix {prefix!r}'
    assert (taken in report.notes) == (prefix in ('model.', 'net.detector.'))


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def test_keys_beside_a_prefix_do_not_keep_the_rest_from_loading():
    state = changed_detector().state_dict()
    found = {**under('model.', state), 'loss.weight': torch.ones(1)}
    given, report = fit_weights(Detector(), found)
    assert report.unexpected == ['loss.weight'] and report.missing == []
    assert torch.equal(given['neck.weight'], state['neck.weight'])


@pytest.mark.parametrize('prefix', ['model.backbone.', 'encoder.', ''])
def test_a_backbone_alone_is_no_whole_model(prefix):
    state = under(prefix, changed_detector().backbone.state_dict())
    with pytest.raises(CheckpointError, match='it holds a backbone alone, where a whole model'):
        fit_weights(Detector(), state)
    if prefix:
        words = 'backbone alone|nothing but its backbone fits, and proj.weight is unknown'
        with pytest.raises(CheckpointError, match=words):
            fit_weights(Detector(), {**state, 'proj.weight': torch.ones(2)})


@pytest.mark.parametrize('prefix', ['', 'model.', 'net.module.'])
def test_heads_may_differ_under_a_prefix(prefix):
    state = changed_detector().state_dict()
    other = {key.replace('neck.', 'decoder.'): value for key, value in state.items()}
    _, report = fit_weights(Detector(), under(prefix, other))
    assert report.missing == ['neck.weight', 'neck.bias'] and len(report.unexpected) == 2
    more = {f'teacher.{i}.weight': torch.ones(1) for i in range(400)}
    _, report = fit_weights(Detector(), under(prefix, {**state, **more}))
    assert report.missing == [] and len(report.unexpected) == 400


def test_a_head_beside_the_prefix_of_the_backbone():
    state = changed_detector().state_dict()
    found = {k if 'neck' in k else f'net.{k}': value for k, value in state.items()}
    given, report = fit_weights(Detector(), found)
    assert (report.missing, report.unexpected) == ([], [])
    assert torch.equal(given['neck.weight'], state['neck.weight'])


@pytest.mark.parametrize('first', [True, False])
def test_another_network_under_a_prefix_does_not_replace_keys_that_fit(first):
    state = changed_detector().state_dict()
    own = {key: value for key, value in state.items() if 'layers.0' not in key}
    other = under('teacher.', {key: torch.zeros_like(value) for key, value in state.items()})
    found = {**own, **other} if first else {**other, **own}
    with pytest.raises(CheckpointError, match='missing in the file'):
        fit_weights(Detector(), found)


def test_a_key_that_fits_beside_a_prefix():
    mine, state = Detector(), changed_detector().state_dict()
    mine.register_buffer('mean', torch.zeros(1))
    _, report = fit_weights(mine, {**under('model.', state), 'mean': torch.ones(1)})
    assert (report.missing, report.unexpected) == ([], [])


def test_two_networks_are_not_told_apart_by_their_prefix():
    state = changed_detector().state_dict()
    with pytest.raises(CheckpointError, match='several networks.* For a whole model'):
        fit_weights(Detector(), {**under('student.', state), **under('teacher.', state)})


@pytest.mark.parametrize('whole', [False, True])
def test_a_compiled_model_of_fewer_stages(whole):
    mine = Detector(out_indices=(0, 1))
    _, plain = fit_weights(mine, changed_detector().state_dict())
    if whole:
        mine = torch.compile(mine, backend='eager')
    else:
        mine.backbone = torch.compile(mine.backbone, backend='eager')
    _, report = fit_weights(mine, changed_detector().state_dict())
    assert (report.missing, report.unexpected) == ([], [])
    assert report.unused == plain.unused != []


def test_a_compiled_backbone_that_does_not_fit_is_refused():
    mine = Detector(patch_size=(2, 2))
    mine.backbone = torch.compile(mine.backbone, backend='eager')
    with pytest.raises(CheckpointError, match='not fit the model of the config .another shape'):
        fit_weights(mine, changed_detector().state_dict())


def test_a_compiled_backbone_alone_is_loaded_with_the_checks_of_one(save):
    """By mmengine's function, which takes a wrapper of torch's compiler too."""
    state = {f'backbone.{key}': value for key, value in weights(tables=[(8, 8)] * 4).items()}
    path = str(save({'state_dict': state}))

    def load(**arguments):
        net = SwinV2('nano', out_indices=(3,), **arguments)
        load_checkpoint(torch.compile(net, backend='eager'), path, 'cpu')
        return net

    bias = load(window_size=8).patch_embed.proj.bias
    assert torch.equal(bias, state['backbone.patch_embed.proj.bias'])
    with pytest.raises(CheckpointError, match='trained with other windows'):
        load(window_size=16)


def test_stages_that_no_output_needs_may_be_in_a_whole_model():
    mine = Detector(out_indices=(0, 1, 2))
    _, report = fit_weights(mine, changed_detector().state_dict())
    assert any(key.startswith('backbone.layers.3.') for key in report.unused)
    assert report.missing == []


def test_a_file_of_more_stages_does_not_fit_a_whole_model(save):
    """Also if the file records windows of stages that the model does not have."""
    state = weights(tables=[(8, 8)] * 4)
    more = {k.replace('layers.3.', 'layers.4.'): v for k, v in state.items() if 'layers.3.' in k}
    with pytest.raises(CheckpointError, match='does not fit the model .*not in the model'):
        load_whole_model(classifier(), save({'model': state | more}))
