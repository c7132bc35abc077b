import subprocess
import sys

import pytest
import torch

from mmswinv2.models import SwinTransformerV2

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
def test_found_by_its_prefix_alone_where_one_host_is_installed(host):
    # mmaction2 as published cannot be imported beside a current mmcv: our tools mend that first
    before = 'from mmswinv2 import hosts; hosts.apply()' if host == 'mmaction' else ''
    code = BUILD.format(host=host, before=before, others=[h for h in HOSTS if h != host])
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
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
    with pytest.raises(ValueError, match='frozen_stages must be from -1'):
        SwinTransformerV2('nano', frozen_stages=5)


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
        (dict(checkpoint='torchvision://swin_v2_t'), 'only files and http'),
        (dict(checkpoint='no.pth', prefx='backbone'), 'may have prefix and format, got .*prefx'),
        (dict(), 'needs checkpoint'),
    ],
    ids=str,
)
@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained'])
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
