import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmswinv2.checkpoints import load_whole_model
from mmswinv2.core import layer_id
from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2
from mmswinv2.paths import PATHS
from tests.test_tools.conftest import run_code, tool  # noqa: F401  fixtures

HOSTS = ('mmdet', 'mmseg', 'mmaction')
BUILD = """
import sys
for other in {others}:
    sys.modules[other] = None  # as if it were not installed
{before}
from {host}.registry import MODELS
backbone = MODELS.build(dict(type='mmswinv2.SwinTransformerV2', arch='nano', window_size=4))
import torch
print([tuple(x.shape) for x in backbone(torch.zeros(1, 3, 32, 48))])
"""


@pytest.mark.parametrize('host', HOSTS)
def test_found_by_its_prefix_alone_where_one_host_is_installed(host, run_code):  # noqa: F811
    # published mmaction2 refuses a current mmcv; our tools patch that before they import it
    before = 'from mmswinv2 import hosts; hosts.apply()' if host == 'mmaction' else ''
    code = BUILD.format(host=host, before=before, others=[h for h in HOSTS if h != host])
    run = run_code(code).succeeded()
    shapes = run.stdout.strip().splitlines()[-1]
    assert shapes == '[(1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3), (1, 256, 1, 2)]'


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (1, 3), (2,)], ids=str)
def test_out_indices_and_channels(out_indices):
    net = SwinTransformerV2('nano', in_channels=5, window_size=4, out_indices=out_indices)
    outs = net(torch.rand(1, 5, 40, 41))
    assert [o.shape[1] for o in outs] == [32 * 2**i for i in out_indices]


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3])
def test_frozen_stages(frozen):
    net = SwinTransformerV2('nano', frozen_stages=frozen, drop_rate=0.1, norm_eval=False).train()
    names = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert any(n.startswith('patch_embed') for n in names) == (frozen >= 0)
    for i in range(4):
        stage = {
            n for n, _ in net.named_parameters() if n.startswith((f'layers.{i}.', f'norm{i}.'))
        }
        assert stage <= names if i < frozen else not stage & names
        assert net.layers[i].training == (i >= frozen)
    assert net.pos_drop.training == (frozen < 0)


def test_stages_that_are_not_built_are_logged(log):
    SwinTransformerV2('nano', out_indices=(0, 1, 3))
    assert 'not built' not in log()
    net = SwinTransformerV2('nano', out_indices=(0, 1), frozen_stages=4)
    assert 'out_indices=(0, 1) needs no stage after 1; stages [2, 3] are not built' in log()
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize('key', ['layers.2.blocks.0.attn.q_bias', 'norm3.bias'])
def test_weights_of_stages_that_are_not_built_are_not_unexpected(tmp_path, key):
    source = SwinTransformerV2('nano').state_dict()
    torch.save({'model': source}, tmp_path / 'swin.pth')
    net = SwinTransformerV2('nano', out_indices=(0, 1))
    report = net._load(str(tmp_path / 'swin.pth'))
    assert report.missing == report.unexpected == report.mismatched == []
    assert key in report.unused and set(report.loaded) == set(net.state_dict())


def test_a_whole_model_passes_over_stages_that_are_not_built(tmp_path):
    class Model(torch.nn.Module):
        def __init__(self, **kwargs):
            super().__init__()
            self.student = torch.nn.ModuleDict({'backbone': SwinTransformerV2('nano', **kwargs)})

    torch.save({'state_dict': Model().state_dict()}, tmp_path / 'whole.pth')
    model = Model(out_indices=(0, 1))
    report = load_whole_model(model, tmp_path / 'whole.pth')
    assert (
        report.unexpected == [] and 'student.backbone.layers.3.blocks.1.norm2.bias' in report.unused
    )


def test_single_output():
    x = torch.rand(1, 3, 40, 41)
    net = SwinTransformerV2('nano', window_size=4, single_output=True).eval()
    assert net.out_indices == (3,) and net(x).shape == (1, 256, 2, 2)
    other = SwinTransformerV2('nano', window_size=4, single_output=True, out_indices=(1,))
    assert other(x).shape == (1, 64, 5, 6)
    for kwargs in dict(out_indices=(0, 1)), dict(single_output=1):
        with pytest.raises(UserError, match='single_output must be True or False, and True goes'):
            SwinTransformerV2('nano', **dict(single_output=True) | kwargs)


def test_of_mmpretrain_the_last_stage_is_returned_by_default():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert SwinTransformerV2('nano').out_indices == (3,)
        three = dict(embed_dims=32, depths=(1, 1, 1), num_heads=(1, 2, 4))
        assert SwinTransformerV2(three).out_indices == (2,)
        assert SwinTransformerV2('nano', out_indices=(0, 3)).out_indices == (0, 3)
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert SwinTransformerV2('nano').out_indices == (0, 1, 2, 3)


def test_layer_depth_as_mmpretrain_asks_for_it():
    net = SwinTransformerV2('nano')
    depths = {
        n: net.get_layer_depth(f'backbone.{n}', 'backbone.') for n, _ in net.named_parameters()
    }
    assert depths == {n: (layer_id(n, net.depths), 13) for n in depths}
    assert net.get_layer_depth('head.fc.weight', 'backbone.') == (12, 13)
    assert net.get_layer_depth('patch_embed.proj.bias') == (0, 13)


def test_pretrained_is_short_for_init_cfg(tmp_path):
    path = tmp_path / 'swin.pth'
    torch.save(SwinTransformerV2('nano').state_dict(), path)
    net = SwinTransformerV2('nano', pretrained=str(path))
    net.init_weights()
    assert torch.equal(net.patch_embed.proj.bias, torch.load(path)['patch_embed.proj.bias'])
    for none in (dict(pretrained=None), dict(init_cfg=None), dict(init_cfg=False)):
        assert SwinTransformerV2('nano', **none).init_cfg == []


BAD = [
    (dict(frozen_stages=5), r'frozen_stages must be from -1 \(none\) to 4, got 5'),
    (dict(frozen_stages=True), 'frozen_stages must be from -1 .* got True'),
    (dict(frozen_stages=1.0), 'frozen_stages must be from -1 .* got 1.0'),
    (dict(frozen_stages='1'), "frozen_stages must be from -1 .* got '1'"),
    (dict(norm_eval='yes'), "norm_eval must be True or False, got 'yes'"),
    (dict(path='fast'), "path must be one of 'auto', 'plain', 'chunked', 'padded', got 'fast'"),
    (dict(path=None), "path must be one of 'auto', .* got None"),
    (dict(path=['auto']), r"path must be one of 'auto', .* got \['auto'\]"),
    (dict(path=np.array([1, 2])), r"path must be one of 'auto', .* got array\(\[1, 2\]\)"),
    (dict(single_output=torch.ones(2)), r'single_output must be True or False.* got tensor'),
    (dict(init_cfg=np.array([1, 2])), r"init_cfg must be dict\(type='Pretrained'.* got array"),
    (dict(init_cfg=True), r"init_cfg must be dict\(type='Pretrained'.* got True"),
    (dict(init_cfg='weights.pth'), r"init_cfg must be dict\(type='Pretrained'.* got 'weights.pth'"),
    (dict(init_cfg=dict(checkpoint='a.pth')), 'init_cfg must be dict'),
    (dict(window=8), "SwinTransformerV2 has no argument 'window'"),
    (dict(drop_path=0.1), "no argument 'drop_path' .close to it: .*drop_path_rate"),
    (dict(pretrained_window_size=8), 'close to it: pretrained_window_sizes'),
    (dict(pretrained='a.pth', init_cfg=dict(type='Pretrained')), 'both say what to load'),
    (
        dict(depth=50, num_stages=4, style='pytorch'),
        r'no arguments depth, num_stages, style; .*_delete_=True',
    ),
    (dict(img_size=256), 'no argument .img_size.; leave it out, as images of any size'),
    (dict(merge_stride=(1, 1)), "SwinTransformerV2 has no argument 'merge_stride'"),
    (dict(patch_size=0), 'patch_size must be an int >= 1 or 2 of them'),
    (dict(patch_size=(4, 4, 4)), 'patch_size must be an int >= 1 or 2 of them'),
    (dict(patch_size=4.0), 'patch_size must be an int >= 1 or 2 of them'),
    (dict(drop_path_rate=1.0), 'drop_path_rate must be a number from 0 to below 1, got 1.0'),
]


@pytest.mark.parametrize(('kwargs', 'words'), BAD, ids=str)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises(UserError, match=words):
        SwinTransformerV2('nano', **kwargs)


def test_a_list_of_images_is_no_batch():
    """mmengine's models without a data_preprocessor hand over what the data loader gives."""
    images = [torch.zeros(3, 32, 32)] * 2
    with pytest.raises(UserError, match='got a list; set data_preprocessor'):
        SwinTransformerV2('nano')(images)


def test_patches_need_not_be_square():
    net = SwinTransformerV2('nano', patch_size=(4, 2), window_size=4)
    assert net(torch.rand(1, 3, 32, 32))[0].shape == (1, 32, 8, 16)


@pytest.mark.parametrize('path', PATHS)
def test_path_is_the_class_of_the_blocks(path):
    net = SwinTransformerV2('nano', path=path)
    assert {type(b) for stage in net.layers for b in stage.blocks} == {PATHS[path]}
    assert set(net.state_dict()) == set(SwinTransformerV2('nano').state_dict())


def test_norm_eval():
    net = SwinTransformerV2('nano', norm_eval=True).train()
    assert not net.norm0.training and net.layers[0].training


def test_pretrained_weights_are_loaded_and_reported(tmp_path, log):
    torch.manual_seed(0)
    source = SwinTransformerV2('nano', drop_path_rate=0.0)
    torch.nn.init.normal_(source.layers[0].blocks[0].norm1.weight)
    torch.save({'model': source.state_dict()}, tmp_path / 'swin.pth')
    net = SwinTransformerV2(
        'nano', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    )
    net.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key
    assert 'Loaded swin.pth: format authors' in log()


@pytest.mark.parametrize(
    ('init_cfg', 'words'),
    [
        (dict(checkpoint='no.pth'), 'no.pth does not exist'),
        (dict(checkpoint='torchvision://swin_v2_t'), 'only files, https'),
        (dict(checkpoint='no.pth', prefx='backbone'), 'may have prefix and format, got .*prefx'),
        (dict(), 'needs checkpoint'),
        (dict(checkpoint='no.pth', prefix=1), 'init_cfg: prefix must be text, got 1'),
        (dict(checkpoint='no.pth', format=['timm']), r"format must be text, got \['timm'\]"),
        (dict(checkpoint='no.pth', key={}), 'key must be text, got {}'),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    'kind', ['Pretrained', 'mmengine.Pretrained', 'mmengine.model.weight_init.PretrainedInit']
)
def test_pretrained_weights_that_cannot_be_had(kind, init_cfg, words):
    net = SwinTransformerV2('nano', init_cfg=dict(type=kind, **init_cfg))
    with pytest.raises(ValueError, match=words):
        net.init_weights()


def test_prefix_with_or_without_its_dot(tmp_path):
    state = {f'{p}.{k}': v for p in 'ab' for k, v in SwinTransformerV2('nano').state_dict().items()}
    torch.save(state, tmp_path / 'two.pth')
    for prefix in ('a', 'a.'):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'two.pth'), prefix=prefix)
        SwinTransformerV2('nano', init_cfg=init_cfg).init_weights()


def test_init_weights_keeps_the_authors_initialisation():
    net = SwinTransformerV2('nano')
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
