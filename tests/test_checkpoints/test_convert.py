"""Formats, prefixes and windows are detected; weights of image networks fit video networks."""

import json
import re

import pytest
import torch

from mmswinv2.checkpoints import (
    CheckpointError,
    convert,
    convert_file,
    describe,
    inflate,
    load_pretrained,
)
from mmswinv2.checkpoints.convert import pretrained_windows
from mmswinv2.core import SwinV2
from mmswinv2.core.attention import log_coordinates
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2
from tests.test_checkpoints.conftest import weights


@pytest.mark.parametrize('prefix', ['backbone.', 'encoder.', 'module.backbone.'])
def test_prefix_is_found_and_the_rest_reported(save, prefix):
    state = {prefix + k.replace('cpb_mlp', 'rpe_mlp'): v for k, v in weights().items()}
    path = save({'state_dict': {**state, 'decoder.0.weight': torch.zeros(1)}, 'meta': {}})
    report = load_pretrained(SwinV2('nano'), path)
    assert report.prefix == prefix
    assert report.unused == ['decoder.0.weight', f'{prefix}head.weight', f'{prefix}head.bias']


WRAPPED = {
    'FSDP': lambda s: {k.replace('layers.0.', 'layers.0._fsdp_wrapped_module.'): v for k, v in s},
    'FSDP of all': lambda s: {f'_fsdp_wrapped_module.{k}': v for k, v in s},
    'checkpointing': lambda s: {k.replace('s.0.', 's.0._checkpoint_wrapped_module.'): v
                                for k, v in s},
    'compiled': lambda s: {f'backbone._orig_mod.{k}': v for k, v in s},
    'several': lambda s: {f'module._orig_mod.backbone._fsdp_wrapped_module.{k}': v for k, v in s},
    'SWA': lambda s: {'n_averaged': torch.tensor(3), **{f'module.{k}': v for k, v in s}},
    'EMA': lambda s: {'ema_state_dict': {'steps': torch.tensor(3), **{f'module.{k}': v
                                                                       for k, v in s}}},
    'peft, merged': lambda s: {f'base_model.model.{k}': v for k, v in s},
}  # fmt: skip


@pytest.mark.parametrize('wrap', WRAPPED.values(), ids=WRAPPED)
def test_wrappers_of_modules_leave_nothing_in_keys(wrap, save):
    state = weights()
    report = load_pretrained(net := SwinV2('nano'), save(wrap(state.items())))
    own = net.state_dict()
    own['norm.weight'], own['norm.bias'] = own['norm3.weight'], own['norm3.bias']
    assert all(torch.equal(own[key], value) for key, value in state.items() if key in own)
    assert not report.unexpected and {key.split('.')[-2] for key in report.unused} == {'head'}


@pytest.mark.parametrize('stages', [2, 3, 5])
def test_networks_of_other_than_four_stages(stages, save):
    arch = dict(embed_dims=12, depths=[1] * stages, num_heads=[2] * stages)
    net = SwinV2(arch, window_size=4, out_indices=(stages - 1,))
    own = net.state_dict()
    timm = {
        re.sub(r'layers\.(\d)\.down', lambda m: f'layers.{int(m[1]) + 1}.down', k): v
        for k, v in own.items()
    }
    timm = {re.sub(rf'^norm{stages - 1}', 'norm', k): v for k, v in timm.items()}
    for state, format in ((own, 'authors'), (timm, 'timm')):
        other = SwinV2(arch, window_size=4, out_indices=(stages - 1,))
        assert load_pretrained(other, save(dict(state))).format == format
        assert all(torch.equal(v, own[k]) for k, v in other.state_dict().items())


SIMMIM = dict(  # the authors' release; "giant" is not the paper's G
    small='small',
    base='base',
    large='large',
    huge=dict(embed_dims=352, depths=(2, 2, 18, 2), num_heads=(11, 22, 44, 88)),
    giant=dict(embed_dims=448, depths=(2, 2, 18, 2), num_heads=(14, 28, 56, 112)),
)


@pytest.mark.filterwarnings('ignore:for .*copying from a non-meta parameter:UserWarning')
@pytest.mark.parametrize('size', SIMMIM)
def test_simmim_files_of_every_size(save, size):
    with torch.device('meta'):
        net = SwinV2(SIMMIM[size], window_size=12, out_indices=(3,))
    state = {
        # expanded zeros take no space in the file
        'encoder.' + k.replace('norm3.', 'norm.').replace('cpb_mlp', 'rpe_mlp'): torch.zeros(
            1
        ).expand(v.shape)
        for k, v in net.state_dict().items()
    }
    width = net.variant.embed_dims
    state |= {'encoder.mask_token': torch.zeros(1, 1, width), 'decoder.0.bias': torch.zeros(3072)}
    path = save({'model': state})
    report = load_pretrained(net, path)
    assert report.missing == [] and len(report.loaded) == len(net.state_dict())
    assert report.unused == ['decoder.0.bias', 'encoder.mask_token']
    with torch.device('meta'):
        other = SwinV2('giant', window_size=12)
    with pytest.raises(CheckpointError, match=f"'embed_dims': {width}.*asks for embed_dims=512"):
        load_pretrained(other, path)


def test_two_networks_need_a_prefix(save):
    state = {f'{p}.{k}': v for p in ('student', 'teacher') for k, v in weights().items()}
    path = save(state)
    with pytest.raises(CheckpointError, match=r"under \['student\.', 'teacher\.'\]"):
        load_pretrained(SwinV2('nano'), path)
    assert load_pretrained(SwinV2('nano'), path, prefix='teacher.').prefix == 'teacher.'
    with pytest.raises(CheckpointError, match=r"under the prefix 'x\.'"):
        load_pretrained(SwinV2('nano'), path, prefix='x.')


@pytest.mark.parametrize(
    ('tables', 'windows'),
    [
        ([(8, 8)] * 4, [8, 8, 8, 8]),
        ([(16, 16)] * 3 + [(8, 8)], [16, 16, 16, 8]),
        ([(16, 12)] * 3 + [(8, 6)], [12, 12, 12, 6]),
        ([(24, 12)] * 3 + [(12, 6)], [12, 12, 12, 6]),
    ],
    ids=str,
)
def test_windows_of_the_file_against_the_config(save, tables, windows):
    path = save({'model': weights(tables=tables)})
    right = SwinV2('nano', window_size=24, pretrained_window_sizes=windows)
    assert load_pretrained(right, path).windows == {i: (w, w) for i, w in enumerate(windows)}
    wrong = SwinV2('nano', window_size=windows[0], pretrained_window_sizes=7)
    before = wrong.layers[0].blocks[0].attn.proj.weight.clone()
    with pytest.raises(CheckpointError) as error:
        load_pretrained(wrong, path)
    assert f'set pretrained_window_sizes={windows}, it is [7, 7, 7, 7]' in str(error.value)
    assert torch.equal(before, wrong.layers[0].blocks[0].attn.proj.weight)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(('window', 'trained'), [(7, 7), (8, 8), (12, 12), (16, 16), (24, 12)])
def test_tables_of_another_type(dtype, window, trained):
    table = log_coordinates((window,) * 2, (trained,) * 2)[None].to(dtype)
    assert pretrained_windows({0: table}) == {0: (trained, trained)}


def test_table_that_is_not_log_spaced():
    table = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 15)] * 2, indexing='ij'), -1)
    with pytest.raises(CheckpointError, match='stage 2 is not log-spaced'):
        pretrained_windows({2: table[None]})


def test_a_window_of_one_says_nothing():
    sizes = {0: (8, 8), 2: (1, 8), 3: (1, 1)}
    tables = {stage: log_coordinates(size, (8, 8))[None] for stage, size in sizes.items()}
    assert pretrained_windows(tables) == {0: (8, 8)}


def test_meta_data_of_the_converter_counts_less_than_tables(save):
    meta = dict(pretrained_window_sizes={stage: (6, 6) for stage in range(4)})
    assert convert_file(save({'model': weights(), 'meta': meta})).windows[3] == (6, 6)
    both = save({'model': weights(tables=[(8, 8)] * 4), 'meta': meta})
    assert convert_file(both).windows[3] == (8, 8)
    assert convert_file(save({'model': weights(), 'meta': {'epoch': 1}})).windows == {}


def test_files_of_every_training_record_windows(save):
    """Another window must not change the bias of an offset; without its first window it would."""
    first = SwinV2('nano', window_size=4, pretrained_window_sizes=[4, 4, 4, 2])
    later = SwinV2('nano', window_size=6, pretrained_window_sizes=[4, 4, 4, 2])
    wrapped = torch.nn.DataParallel(torch.nn.ModuleDict({'backbone': first}))
    for content in (first.state_dict(), {'state_dict': wrapped.state_dict(), 'meta': {}}):
        path = save(content)
        assert convert_file(path).windows == {0: (4, 4), 1: (4, 4), 2: (4, 4), 3: (2, 2)}
        with pytest.raises(
            CheckpointError, match=r'set pretrained_window_sizes=\[4, 4, 4, 2\], it'
        ):
            load_pretrained(SwinV2('nano', window_size=6), path)
        load_pretrained(later, path)
    new, old = (net.layers[0].blocks[0].attn.cpb_mlp for net in (later, first))
    torch.testing.assert_close(new((6, 6))[:, 2:-2, 2:-2], old((4, 4)))
    clip = VideoSwinTransformerV2('nano', window_size=(2, 6, 6))
    with pytest.raises(
        CheckpointError, match=r'sizes=\[\(2, 4, 4\), \(2, 4, 4\), \(2, 4, 4\), 2\]'
    ):
        load_pretrained(clip, path, pretrained2d=True)


HUGGING_FACE = dict(model_type='swinv2', image_size=256, patch_size=4, window_size=16)
OF_12_TO_24 = 'swinv2_base_window12to24_192to384'


@pytest.mark.parametrize(
    ('config', 'windows'),
    [
        ({**HUGGING_FACE, 'pretrained_window_sizes': [0] * 4}, [16, 16, 16, 8]),
        ({**HUGGING_FACE, 'pretrained_window_sizes': [12, 12, 12, 6]}, [12, 12, 12, 6]),
        ({**HUGGING_FACE, 'image_size': [256, 256]}, []),
        ({**HUGGING_FACE, 'window_size': '16'}, []),
        ({**HUGGING_FACE, 'pretrained_window_sizes': [-1] * 4}, []),
        ({**HUGGING_FACE, 'model_type': 'swin'}, []),
        (dict(architecture='swinv2_tiny_window16_256'), [16, 16, 16, 8]),
        (dict(architecture='swinv2_base_window12_192_22k'), [12, 12, 12, 6]),
        (dict(architecture=OF_12_TO_24, model_args=dict(num_classes=5)), [12, 12, 12, 6]),
        (dict(architecture=OF_12_TO_24, model_args=dict(img_size=[384] * 2)), [12, 12, 12, 6]),
        (dict(architecture=OF_12_TO_24, model_args=dict(img_size=[512] * 2)), []),
        (dict(architecture=OF_12_TO_24, model_args=dict(window_size=20)), []),
        (dict(architecture='swinv2_cr_tiny_224'), []),
        ([], []),
        ('{', []),
        ('[' * 10**5, []),
    ],
)
def test_windows_in_a_config_beside_weights(config, windows, save, tmp_path):
    state = weights()
    state = {
        re.sub(r'layers\.(\d)(?=\.downsample)', lambda m: f'layers.{int(m[1]) + 1}', k): v
        for k, v in state.items()
    }  # as in timm
    path, other = save(state, 'pytorch_model.bin'), save(state, 'model_best.pth')
    (tmp_path / 'config.json').write_text(config if isinstance(config, str) else json.dumps(config))
    assert convert_file(path).windows == {i: (w, w) for i, w in enumerate(windows)}
    assert convert_file(other).windows == {}  # of no name that timm or transformers gives


@pytest.mark.parametrize('noted', [5, {'': 5}, {'': {'pretrained_window_sizes': [[4]]}}])
def test_windows_of_another_form_are_none(noted, save):
    state = SwinV2('nano').state_dict()
    state._metadata = noted
    assert convert_file(save(state)).windows == {}


def test_networks_of_a_file_may_differ_in_their_windows(save):
    nets = {'backbone': SwinV2('nano'), 'teacher': SwinV2('nano', window_size=7)}
    state = torch.nn.ModuleDict(nets).state_dict()
    assert convert_file(save(state), prefix='teacher.').windows[0] == (7, 7)
    state._metadata = {f'of another name.{k}': v for k, v in state._metadata.items()}
    assert convert_file(save(state), prefix='teacher.').windows == {}


def test_describe_counts_to_the_first_extra_norm():
    with torch.device('meta'):
        arch = describe(SwinV2('huge').state_dict())
    assert (arch['name'], arch['extra_norm_every']) == ('huge', 6)


def test_a_decoder_within_the_network_is_unknown():
    state = {f'backbone.{k}': v for k, v in weights().items()}
    convert(state | {'decoder.0.weight': torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"1 keys are unknown .*'decoder.0.weight'"):
        convert(state | {'backbone.decoder.0.weight': torch.ones(1)})


def test_wrappers_in_wrappers(save):
    assert convert_file(save({'module': {'state_dict': {'model': weights()}}})).format == 'authors'


def test_a_prefix_ends_with_a_dot():
    state = {f'{p}{k}': v for p in ('backbone.', 'old_') for k, v in weights().items()}
    converted = convert(state)
    assert converted.prefix == 'backbone.' and 'old_norm.bias' in converted.unknown


def test_tables_of_other_shapes_are_ignored():
    key = 'layers.0.blocks.0.attn.relative_coords_table'
    assert convert(weights() | {key: torch.ones(1, 3, 3, 3, 3)}).windows == {}
    assert convert(weights() | {key: torch.ones(9, 2)}).windows == {}


def test_formats_by_name(save):
    path = save(weights())
    assert convert_file(path, 'authors', '').format == 'authors'
    with pytest.raises(CheckpointError, match="format 'keras' is unknown; choose from authors, ti"):
        convert_file(path, 'keras')
    with pytest.raises(CheckpointError, match="no SwinV2 of format timm .* there is 'authors'"):
        convert_file(path, 'timm')


def test_describe_names_the_variant():
    state = SwinV2('nano').state_dict()
    assert describe(state) == dict(
        name='nano',
        embed_dims=32,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        extra_norm_every=0,
    )


def test_wrapped_weights_beside_other_tensors(save):
    path = save({'epoch': torch.tensor(3), 'state_dict': weights()})
    assert len(load_pretrained(SwinV2('nano'), path).loaded) > 100


def test_a_neck_may_be_of_another_kind(save):
    state = {f'backbone.{k}': v for k, v in weights().items()}
    path = save(state | {'neck.relative_position_bias_table': torch.zeros(1)})
    assert 'neck.relative_position_bias_table' in load_pretrained(SwinV2('nano'), path).unused


WINDOW, W_P = 5, 7


def image_net(**kwargs):
    """An image network with weights far from initialization, so that every part has an effect."""
    torch.manual_seed(0)
    net = SwinTransformerV2('nano', window_size=WINDOW, pretrained_window_sizes=W_P, **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def video_net(t=4, **kwargs):
    arguments = dict(
        window_size=(t, WINDOW, WINDOW),
        pretrained_window_sizes=(t, W_P, W_P),
        out_indices=(0, 1, 2, 3),
    )
    return VideoSwinTransformerV2('nano', **{**arguments, **kwargs}).eval()


@pytest.fixture
def path(tmp_path):
    torch.save({'state_dict': image_net().state_dict()}, tmp_path / '2d.pth')
    return tmp_path / '2d.pth'


@pytest.mark.parametrize('t', [1, 2, 3, 4])
def test_a_still_clip_gives_what_the_frame_gives(path, t):
    """Holds at each time step, whether temporal windows are whole, cut or shifted."""
    net = video_net(t)
    report = load_pretrained(net, path, pretrained2d=True)
    assert report.inflated and 'inflated from 2D' in str(report)
    frame = torch.rand(2, 3, 50, 61)
    with torch.no_grad():
        expected = image_net()(frame)
        outs = net(frame.unsqueeze(2).expand(-1, -1, 10, -1, -1))
    for out, wanted in zip(outs, expected, strict=True):
        assert out.shape[2] == 5
        scale = wanted.abs().max()
        for step in out.unbind(2):
            torch.testing.assert_close(step / scale, wanted / scale, atol=1e-5, rtol=0)


def test_the_order_of_frames_matters_once_it_is_learnt(path):
    """A bias that is odd in time makes the outputs of a clip and its reverse differ."""
    net = video_net()
    load_pretrained(net, path, pretrained2d=True)
    clip = torch.rand(1, 3, 8, 40, 40)

    def asymmetry():
        with torch.no_grad():
            out, back = net.eval()(clip)[2], net(clip.flip(2))[2].flip(2)
        return float((out - back).abs().max() / out.abs().max())

    assert asymmetry() < 1e-5
    with torch.no_grad():
        net.layers[2].blocks[0].attn.cpb_mlp[0].weight[:, 0] = torch.randn(512)
    assert asymmetry() > 1e-2


def test_what_becomes_of_each_weight():
    state = image_net().state_dict()
    inflated = inflate(state, 2)
    expected = video_net().state_dict()
    assert {k: v.shape for k, v in inflated.items()} == {k: v.shape for k, v in expected.items()}
    patches = inflated['patch_embed.proj.weight']
    torch.testing.assert_close(patches.sum(2), state['patch_embed.proj.weight'])
    assert torch.equal(patches[:, :, 0], patches[:, :, 1])
    changed = {k for k in state if inflated[k].shape != state[k].shape}
    assert len(changed) == 1 + 8 and all('cpb_mlp.0.weight' in k for k in changed if 'layers' in k)
    assert all(torch.equal(inflated[k], state[k]) for k in state.keys() - changed)
    with pytest.raises(CheckpointError, match='video network; there is nothing to inflate'):
        inflate(inflated, 2)


def test_any_format_inflates_and_windows_are_compared_in_space(tmp_path):
    torch.save({'model': weights(tables=[(8, 8)] * 3 + [(4, 4)])}, tmp_path / 'a.pth')
    windows = [(2, 8, 8)] * 3 + [(2, 4, 4)]
    right = video_net(window_size=(2, 6, 6), pretrained_window_sizes=windows)
    report = load_pretrained(right, tmp_path / 'a.pth', pretrained2d=True)
    assert report.windows == dict(enumerate(windows))
    with pytest.raises(CheckpointError) as error:
        load_pretrained(video_net(), tmp_path / 'a.pth', pretrained2d=True)
    wanted = [(4, 8, 8)] * 3 + [4]
    assert f'set pretrained_window_sizes={wanted}' in str(error.value)


def test_video_weights_load_as_they_are(path, tmp_path):
    net = video_net()
    load_pretrained(net, path, pretrained2d=True)
    torch.save({'state_dict': net.state_dict()}, tmp_path / '3d.pth')
    for pretrained2d in (True, False):
        other = video_net()
        report = load_pretrained(other, tmp_path / '3d.pth', pretrained2d=pretrained2d)
        assert not report.inflated and not report.missing
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in other.state_dict().items())


def test_the_wrong_kind_is_told(path, tmp_path):
    with pytest.raises(CheckpointError, match='image network.*set pretrained2d=True'):
        load_pretrained(video_net(), path)
    torch.save({'state_dict': video_net().state_dict()}, tmp_path / '3d.pth')
    with pytest.raises(CheckpointError, match='weights of a video network, and the backbone takes'):
        load_pretrained(image_net(), tmp_path / '3d.pth')


def test_an_image_network_of_more_stages_is_told(save):
    arch = dict(embed_dims=32, depths=(2, 2, 2), num_heads=(1, 2, 4))
    net = VideoSwinTransformerV2(arch, window_size=[(2, 8, 8)] * 3, out_indices=(2,))
    with pytest.raises(CheckpointError, match='does not fit the backbone'):
        load_pretrained(net, save(SwinV2('nano').state_dict()), pretrained2d=True)


PATCHES = 'patch_embed.proj.weight'
# input channels, and for each of them the weights of the R, G and B kernels
ADAPTED = [
    (1, [(1, 1, 1)]),
    (2, [(1.5, 0, 0), (0, 1.5, 0)]),
    (4, [(0.75, 0, 0), (0, 0.75, 0), (0, 0, 0.75), (0.75, 0, 0)]),
    (5, [(0.6, 0, 0), (0, 0.6, 0), (0, 0, 0.6), (0.6, 0, 0), (0, 0.6, 0)]),
    (6, [(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)] * 2),
]


@pytest.mark.parametrize('video', [False, True])
@pytest.mark.parametrize(('channels', 'shares'), ADAPTED, ids=lambda v: str(v)[:1])
def test_weights_for_rgb_are_adapted_to_other_channels(path, channels, shares, video):
    net = (video_net if video else image_net)(in_channels=channels)
    report = load_pretrained(net, path, pretrained2d=video)
    assert f'adapted from RGB to in_channels={channels}: kernels' in str(report)
    source = image_net().state_dict()
    if video:
        source = inflate(source, 2)
    expected = torch.einsum('nc,oc...->on...', torch.tensor(shares).float(), source[PATCHES])
    torch.testing.assert_close(net.state_dict()[PATCHES], expected, atol=1e-6, rtol=0)
    others = source.keys() - {PATCHES}
    assert others and all(torch.equal(net.state_dict()[k], source[k]) for k in others)


@pytest.mark.parametrize('channels', [1, 3, 6, 9])
def test_a_gray_image_gives_what_it_gave_in_rgb(path, channels):
    net = image_net(in_channels=channels)
    report = load_pretrained(net, path)
    assert ('adapted' in str(report)) == (channels != 3)
    gray = torch.rand(2, 1, 40, 33)
    with torch.no_grad():
        outs = net(gray.expand(-1, channels, -1, -1))
        expected = image_net()(gray.expand(-1, 3, -1, -1))
    for out, wanted in zip(outs, expected, strict=True):
        torch.testing.assert_close(
            out / wanted.abs().max(), wanted / wanted.abs().max(), atol=5e-6, rtol=0
        )


@pytest.mark.parametrize('channels', [1, 4])
def test_weights_for_other_channels_load_as_they_are_or_not_at_all(tmp_path, channels):
    source = image_net(in_channels=channels)
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'n.pth')
    net = SwinTransformerV2(
        'nano', window_size=WINDOW, pretrained_window_sizes=W_P, in_channels=channels
    )
    assert 'adapted' not in str(load_pretrained(net, tmp_path / 'n.pth'))
    assert torch.equal(net.state_dict()[PATCHES], source.state_dict()[PATCHES])
    for other in (2, 3):
        with pytest.raises(CheckpointError, match=rf'\[32, {channels}, 4, 4\], here \[32, {other}'):
            load_pretrained(image_net(in_channels=other), tmp_path / 'n.pth')


def scaled(factor):
    """Weights that can be told apart by their values."""
    return {key: value * factor for key, value in weights().items()}


ENTRIES = [
    # entries of a file in order, and the entry that is used if no key is given
    (('model', 'model_ema'), 'model'),
    (('model_ema', 'model'), 'model'),
    (('state_dict_ema', 'state_dict'), 'state_dict'),
    (('params', 'params_ema'), 'params'),
    (('ema_state_dict', 'model_state_dict'), 'model_state_dict'),
    (('student', 'teacher'), 'teacher'),
    (('params_ema',), 'params_ema'),
    (('model_state_dict',), 'model_state_dict'),
    *(((name,), name) for name in ('ema_model', 'network', 'weights', 'backbone', 'encoder')),
    (('model_state',), 'model_state'),
    (('ema_model', 'model'), 'model'),
    (('ema_model', 'teacher'), 'teacher'),
]


@pytest.mark.parametrize(('entries', 'taken'), ENTRIES, ids=str)
def test_entries_of_a_file(save, entries, taken):
    factors = {name: 2 + i for i, name in enumerate(entries)}
    path = save({name: scaled(factor) for name, factor in factors.items()} | {'epoch': 3})
    net, original = SwinV2('nano'), weights()['norm.weight']
    report = str(load_pretrained(net, path))
    assert torch.equal(net.norm3.weight, original * factors[taken])
    others = [name for name in entries if name != taken]
    assert ('key=' in report) == bool(others)
    assert all(f'took {taken!r}; the file also has [{name!r}]' in report for name in others)
    for name in entries:
        report = load_pretrained(net, path, key=name)
        assert torch.equal(net.norm3.weight, original * factors[name])
        assert not others or f'took {name!r}' in str(report)
    with pytest.raises(CheckpointError, match=f"key='raw' names no weights; .*'{taken}'"):
        load_pretrained(net, path, key='raw')


def test_entries_of_other_names_and_without_weights(save):
    """An entry may have any name; an entry of a usual name without weights is skipped."""
    path = save({'model': {'arch': 'nano'}, 'weights': weights(), 'state_dict_ema': scaled(2)})
    net = SwinV2('nano')
    load_pretrained(net, path)
    assert torch.equal(net.norm3.weight, 2 * weights()['norm.weight'])
    load_pretrained(net, path, key='weights')
    assert torch.equal(net.norm3.weight, weights()['norm.weight'])
    loop = {'x': torch.ones(1)}
    loop['model'] = loop
    with pytest.raises(CheckpointError, match='no SwinV2 in these 1 weights'):
        load_pretrained(net, save(loop))


def test_key_in_init_cfg(save, log):
    path = save({'state_dict': weights(), 'state_dict_ema': {'module': scaled(3)}})
    for key, factor in (('state_dict_ema', 3), (None, 1)):
        cfg = dict(type='Pretrained', checkpoint=str(path), **({'key': key} if key else {}))
        net = SwinTransformerV2('nano', init_cfg=cfg)
        net.init_weights()
        assert torch.equal(net.norm3.weight, weights()['norm.weight'] * factor)
    assert "took 'state_dict'; the file also has ['state_dict_ema']" in log()


def global_blocks(blocks, tables=((16, 12), (16, 12), (16, 12), (16, 6))):
    """A file of Plain-DETR: a bias table in all blocks except global ones, ``(stage, block)``."""
    state = weights()
    for stage, (m, w) in enumerate(tables):
        for block in range(2):
            if (stage, block) not in blocks:
                attn = f'layers.{stage}.blocks.{block}.attn.'
                state[attn + 'relative_coords_table'] = log_coordinates((m, m), (w, w))[None]
    return {'backbone.0.body.' + key: value for key, value in state.items()}


def test_blocks_without_a_coordinate_table_are_named(save):
    pretrained = [12, 12, 12, 6]
    net = SwinV2('nano', window_size=16, pretrained_window_sizes=pretrained)
    report = str(load_pretrained(net, save({'model': global_blocks({(3, 0), (3, 1)})})))
    assert (
        'WARNING: no coordinate table in stage 3, blocks 0, 1: they attend to the whole' in report
    )
    assert 'set window_size of stage 3 to the longer side of its map or more' in report
    report = str(load_pretrained(net, save({'model': global_blocks({(1, 1)})})))
    assert 'in stage 1, blocks 1: they attend' in report and 'outputs will differ' in report
    for none in (global_blocks(()), weights()):
        assert 'WARNING' not in str(load_pretrained(net, save({'model': none})))


@pytest.mark.parametrize('prefix', ['', 'encoder.model.', 'timm_model.', 'module.'])
def test_feature_extractors_of_timm(save, prefix):
    net = SwinV2('nano', out_indices=(3,))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = {}
    for key, value in before.items():
        new = re.sub(r'layers\.(\d)\.down', lambda m: f'layers.{int(m[1]) + 1}.down', key)
        if not key.startswith('norm'):
            state[prefix + re.sub(r'^layers\.', 'layers_', new)] = value + 1
    state['decoder.conv.weight'] = torch.ones(1)
    report = load_pretrained(net, save({'state_dict': state}))
    assert (report.format, report.prefix) == ('timm', prefix)
    assert report.missing == ['norm3.weight', 'norm3.bias']
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key] + (0 if key.startswith('norm') else 1)), key
