import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmswinv2.engine.layer_decay import layer_id
from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2


class Detector(nn.Module):
    """A backbone with a neck and a head, under the names that hosts use."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(256, 8, 1)
        self.head = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))


def build(model, **paramwise):
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
            constructor='mmswinv2.SwinLayerDecayOptimWrapperConstructor',
            paramwise_cfg=paramwise,
        ),
    ).optimizer


def groups_by_name(model, optimizer):
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: group for group in optimizer.param_groups for p in group['params']}


@pytest.mark.parametrize(('merging', 'first', 'merged'), [(True, 16, 13), (False, 13, 11)])
def test_the_rate_of_the_patch_embedding(merging, first, merged):
    model = Detector(SwinTransformerV2('tiny'))
    optimizer = build(model, layer_decay_rate=0.75, merging_layers=merging)
    groups = groups_by_name(model, optimizer)
    rate = groups['backbone.patch_embed.proj.weight']['lr']
    assert rate == pytest.approx(0.75**first) == pytest.approx(0.0100 if merging else 0.0238, 0.01)
    rate = groups['backbone.layers.0.downsample.norm.weight']['lr']
    assert rate == pytest.approx(0.75**merged)


def test_decay_over_all_blocks_and_no_weight_decay_where_it_hurts():
    model = Detector(SwinTransformerV2('nano'))
    groups = groups_by_name(model, build(model, layer_decay_rate=0.5))
    assert set(groups) == {n for n, _ in model.named_parameters()}
    last = 1 + 3 + 3 + 3 + 2
    for name, group in groups.items():
        layer = last
        if name.startswith('backbone.'):
            layer = layer_id(name.removeprefix('backbone.'), (2, 2, 2, 2))
        assert group['lr'] == pytest.approx(0.5 ** (last - layer)), name
    free = {n for n, g in groups.items() if g['weight_decay'] == 0}
    assert 'backbone.layers.0.blocks.0.attn.cpb_mlp.0.weight' in free
    assert 'backbone.layers.0.blocks.0.attn.logit_scale' in free
    assert {n for n, p in model.named_parameters() if p.ndim == 1} <= free
    assert 'backbone.layers.3.blocks.1.mlp.fc2.weight' not in free
    assert 'neck.weight' not in free and 'neck.bias' in free
    assert all(g['weight_decay'] in (0, 0.5) for g in groups.values())


def test_a_backbone_by_itself_and_frozen_parameters():
    model = SwinTransformerV2('nano', frozen_stages=1)
    groups = groups_by_name(model, build(model, layer_decay_rate=0.5))
    assert 'patch_embed.proj.weight' not in groups
    assert groups['layers.1.blocks.0.mlp.fc1.weight']['lr'] == pytest.approx(0.5 ** (12 - 4))


def test_custom_keys_and_more_names_without_decay():
    model = Detector(SwinTransformerV2('nano'))
    keys = {'backbone': dict(lr_mult=0.1), 'backbone.norm3': dict(lr_mult=3, decay_mult=2)}
    groups = groups_by_name(model, build(model, custom_keys=keys, no_decay_names=('neck',)))
    assert groups['backbone.patch_embed.proj.weight']['lr'] == pytest.approx(0.1)
    assert groups['backbone.norm3.weight']['lr'] == 3
    assert groups['backbone.norm3.weight']['weight_decay'] == 1.0
    assert groups['backbone.norm2.weight']['weight_decay'] == 0
    assert (groups['head.0.weight']['lr'], groups['head.0.weight']['weight_decay']) == (1, 0.5)
    assert groups['neck.weight']['weight_decay'] == 0


@pytest.mark.parametrize('decay_mult', [1.0, 2.0, 0.5])
def test_a_key_of_a_whole_part_decays_nothing_that_has_no_decay(decay_mult):
    model = Detector(SwinTransformerV2('nano'))
    for key in ('backbone', 'backbone.layers.2', 'attn'):
        groups = groups_by_name(model, build(model, custom_keys={key: dict(decay_mult=decay_mult)}))
        for name, parameter in model.named_parameters():
            free = parameter.ndim == 1 or 'cpb_mlp' in name or 'logit_scale' in name
            want = 0 if free else 0.5 * (decay_mult if key in name else 1)
            assert groups[name]['weight_decay'] == want, name


def test_a_key_of_biases_alone_decays_them():
    model = Detector(SwinTransformerV2('nano'))
    keys = {'attn.cpb_mlp': dict(decay_mult=0.5), 'backbone': dict(lr_mult=0.1, decay_mult=1.0)}
    groups = groups_by_name(model, build(model, custom_keys=keys))
    assert groups['backbone.layers.0.blocks.0.attn.cpb_mlp.0.weight']['weight_decay'] == 0.25
    assert groups['backbone.layers.0.blocks.0.attn.logit_scale']['weight_decay'] == 0


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r'Linear has none'):
        build(nn.Linear(2, 2), layer_decay_rate=0.9)
    with pytest.raises(UserError, match=r"paramwise_cfg has \['decay_rate'\]"):
        build(SwinTransformerV2('nano'), decay_rate=0.9)
    with pytest.raises(UserError, match="no parameter has 'bakbone' in its name"):
        build(SwinTransformerV2('nano'), custom_keys={'bakbone': dict(lr_mult=0.1)})
    with pytest.raises(UserError, match=r"custom_keys\['norm'\] has \['lr_mul'\]"):
        build(SwinTransformerV2('nano'), custom_keys={'norm': dict(lr_mul=0.1)})
    with pytest.raises(UserError, match='at most 1, got 1.5'):
        build(SwinTransformerV2('nano'), layer_decay_rate=1.5)


@pytest.mark.parametrize(
    ('option', 'value', 'words'),
    [
        ('no_decay_names', 'mask_token', 'must be a list of parts of names, got .mask_token.'),
        ('no_decay_names', ['norm', ''], 'must be a list of parts of names'),
        ('no_decay_names', ['mask_tokken'], "no_decay_names: no parameter has 'mask_tokken' in"),
        ('layer_decay_rate', '0.9', "above 0 and at most 1, got '0.9'"),
        ('layer_decay_rate', None, 'above 0 and at most 1, got None'),
        ('merging_layers', 'no', "must be True or False, got 'no'"),
        ('custom_keys', ['head'], r"must be a dict of parts of names, got \['head'\]"),
        ('custom_keys', {'norm': 0.1}, r"custom_keys\['norm'\] must be a dict, got 0.1"),
        ('custom_keys', {'norm': {'lr_mult': '0.1'}}, "lr_mult must be a number from 0, got '0.1'"),
        ('custom_keys', {'norm': {'lr_mult': -1}}, 'lr_mult must be a number from 0, got -1'),
    ],
)
def test_values_that_cannot_be(option, value, words):
    with pytest.raises(UserError, match=words):
        build(SwinTransformerV2('nano'), **{option: value})


def test_groups_are_printed(log):
    model = Detector(SwinTransformerV2('nano'))
    build(model, layer_decay_rate=0.9)
    table = log()[log().index('group ') :].strip()
    assert 'layer 11 of backbone' in table and 'neck' in table and 'weight decay' in table
    total = sum(p.numel() for p in model.parameters())
    counts = [int(line.split()[-1].replace(',', '')) for line in table.splitlines()[1:]]
    assert sum(counts) == total


def test_the_rule_reaches_the_step():
    torch.manual_seed(0)
    model = SwinTransformerV2('nano')
    optimizer = build(model, layer_decay_rate=0.5)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = {n: float((before[n] - p.detach()).median()) for n, p in model.named_parameters()}
    assert moved['norm3.bias'] == pytest.approx(1, rel=1e-3)
    assert moved['layers.3.blocks.1.norm2.bias'] == pytest.approx(0.5, rel=1e-3)
