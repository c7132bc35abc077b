"""The tables of formats; tests/test_parity applies them to weights of other implementations."""

import pytest
import torch

from mmswinv2.checkpoints import FORMATS, convert
from mmswinv2.core import SwinV2

# One key of each kind: in their format, and in ours.
RENAMED = {
    'authors': {
        'layers.1.blocks.0.attn.rpe_mlp.0.bias': 'layers.1.blocks.0.attn.cpb_mlp.0.bias',
        'layers.2.downsample.norm.bias': 'layers.2.downsample.norm.bias',
        'norm.weight': 'norm3.weight',
        'norm1.weight': 'norm1.weight',
        'layers.0.blocks.1.enorm.bias': 'layers.0.blocks.1.enorm.bias',
    },
    'timm': {
        'layers.1.downsample.reduction.weight': 'layers.0.downsample.reduction.weight',
        'layers.3.downsample.norm.weight': 'layers.2.downsample.norm.weight',
        'layers.3.blocks.1.mlp.fc2.bias': 'layers.3.blocks.1.mlp.fc2.bias',
    },
    'transformers': {
        'embeddings.norm.bias': 'patch_embed.norm.bias',
        'encoder.layers.1.blocks.0.attention.self.query.bias': 'layers.1.blocks.0.attn.q_bias',
        'encoder.layers.1.blocks.0.attention.self.value.bias': 'layers.1.blocks.0.attn.v_bias',
        'encoder.layers.1.blocks.0.attention.self.continuous_position_bias_mlp.2.weight': (
            'layers.1.blocks.0.attn.cpb_mlp.2.weight'
        ),
        'encoder.layers.1.blocks.0.attention.output.dense.bias': 'layers.1.blocks.0.attn.proj.bias',
        'encoder.layers.1.blocks.0.layernorm_before.bias': 'layers.1.blocks.0.norm1.bias',
        'encoder.layers.1.blocks.0.layernorm_after.bias': 'layers.1.blocks.0.norm2.bias',
        'encoder.layers.1.blocks.0.intermediate.dense.bias': 'layers.1.blocks.0.mlp.fc1.bias',
        'encoder.layers.1.blocks.0.output.dense.bias': 'layers.1.blocks.0.mlp.fc2.bias',
        'encoder.layers.2.downsample.norm.bias': 'layers.2.downsample.norm.bias',
        'layernorm.bias': 'norm3.bias',
    },
    'torchvision': {
        'features.0.2.bias': 'patch_embed.norm.bias',
        'features.2.norm.weight': 'layers.0.downsample.norm.weight',
        'features.6.reduction.weight': 'layers.2.downsample.reduction.weight',
        'features.5.4.mlp.0.bias': 'layers.2.blocks.4.mlp.fc1.bias',
        'features.7.1.mlp.3.bias': 'layers.3.blocks.1.mlp.fc2.bias',
        'features.7.1.norm2.bias': 'layers.3.blocks.1.norm2.bias',
        'features.7.1.attn.cpb_mlp.0.bias': 'layers.3.blocks.1.attn.cpb_mlp.0.bias',
    },
    'mmpretrain': {
        'stages.1.downsample.norm.bias': 'layers.0.downsample.norm.bias',
        'stages.3.blocks.1.attn.w_msa.cpb_mlp.2.weight': 'layers.3.blocks.1.attn.cpb_mlp.2.weight',
        'stages.3.blocks.1.attn.w_msa.q_bias': 'layers.3.blocks.1.attn.q_bias',
        'stages.3.blocks.1.ffn.layers.0.0.bias': 'layers.3.blocks.1.mlp.fc1.bias',
        'stages.3.blocks.1.ffn.layers.1.bias': 'layers.3.blocks.1.mlp.fc2.bias',
        'stages.2.blocks.5.norm3.bias': 'layers.2.blocks.5.enorm.bias',
        'norm2.bias': 'norm2.bias',
    },
}
# Keys needed to detect the format and the last stage.
NEEDED = {
    'authors': ['layers.0.downsample.reduction.weight', 'layers.3.blocks.0.norm1.weight'],
    'timm': ['layers.1.downsample.reduction.weight'],
    'transformers': [
        'encoder.layers.0.blocks.0.attention.self.logit_scale',
        'encoder.layers.3.blocks.0.layernorm_after.weight',
    ],
    'torchvision': ['features.1.0.attn.logit_scale'],
    'mmpretrain': ['stages.0.blocks.0.attn.w_msa.logit_scale'],
}
HEADS = {
    'authors': ('head.weight', 'mask_token'),
    'timm': ('head.fc.weight', None),
    'transformers': ('classifier.weight', 'embeddings.mask_token'),
    'torchvision': ('head.weight', None),
    'mmpretrain': ('head.fc.weight', None),
}


def test_every_format_is_looked_at():
    assert set(FORMATS) == set(RENAMED) == set(NEEDED) == set(HEADS)


@pytest.mark.parametrize('name', FORMATS)
def test_keys(name):
    keys = [FORMATS[name].anchor, *NEEDED[name], *RENAMED[name]]
    state = {key: torch.full((4, 4), float(i)) for i, key in enumerate(dict.fromkeys(keys))}
    head, token = HEADS[name]
    prefix = 'backbone.' if name == 'mmpretrain' else ''  # its files hold whole models
    heads = {head: torch.ones(1)} | ({token: torch.zeros(1)} if token else {})
    converted = convert({prefix + k: v for k, v in state.items()} | heads)
    assert (converted.format, converted.prefix) == (name, prefix)
    assert len(converted.state) == len(state)
    for theirs, ours in RENAMED[name].items():
        want = state[theirs].reshape(4, -1) if 'reduction' not in theirs else None
        if name != 'mmpretrain' or want is not None:
            assert torch.equal(converted.state[ours].reshape(4, -1), state[theirs].reshape(4, -1))
    assert set(converted.heads) == {'head.fc.weight'} | (
        {'backbone.mask_token'} if token else set()
    )
    assert (converted.left_out, converted.unknown) == (list(heads), [])


def test_query_key_and_value_are_joined():
    start = 'encoder.layers.0.blocks.0.attention.self.'
    parts = [torch.randn(4, 4) for _ in range(3)]
    state = {f'{start}{n}.weight': p for n, p in zip(('query', 'key', 'value'), parts, strict=True)}
    state = FORMATS['transformers'].prepare(state)
    assert list(state) == [f'{start}qkv.weight']
    assert torch.equal(state[f'{start}qkv.weight'], torch.cat(parts))


def test_the_bias_of_keys_is_dropped():
    state = FORMATS['torchvision'].prepare({'features.1.0.attn.qkv.bias': torch.arange(12.0)})
    assert {k: v.tolist() for k, v in state.items()} == {
        'features.1.0.attn.q_bias': [0, 1, 2, 3],
        'features.1.0.attn.v_bias': [8, 9, 10, 11],
    }


def test_patch_merging_of_unfold():
    """The same linear map of the four neighbors; `nn.Unfold` orders its channels differently."""
    merging = SwinV2('nano', window_size=4).layers[0].downsample
    theirs = torch.randn_like(merging.reduction.weight)
    key = 'stages.1.downsample.reduction.weight'
    merging.reduction.weight.data = FORMATS['mmpretrain'].prepare({key: theirs})[key]
    merging.norm = torch.nn.Identity()
    x = torch.randn(1, 6, 6, 32)
    unfolded = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2)
    want = (unfolded.transpose(1, 2) @ theirs.T).reshape(1, 3, 3, 64)
    torch.testing.assert_close(merging(x), want)
