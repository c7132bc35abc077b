import numpy as np
import pytest

from mmswinv2.core import VARIANTS, SwinV2, get_variant
from mmswinv2.core.arguments import per_stage
from mmswinv2.errors import UserError

TINY = dict(embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4), extra_norm_every=2)
NAN = float('nan')


def test_variants_by_letter_and_by_dict():
    assert get_variant('b') is get_variant('BASE') or get_variant('b') == VARIANTS['base']
    mm = dict(embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
    assert get_variant(mm) == VARIANTS['tiny']
    assert get_variant(mm | dict(extra_norm_every_n_blocks=6)).extra_norm_every == 6


@pytest.mark.parametrize(
    ('value', 'num_stages', 'ndim', 'expected'),
    [
        (8, 2, 3, [(8, 8, 8)] * 2),
        ([8, 4, 2, 1], 4, 2, [(8, 8), (4, 4), (2, 2), (1, 1)]),
        ((8, 7, 7), 4, 3, [(8, 7, 7)] * 4),
        ([8, (4, 2)], 2, 2, [(8, 8), (4, 2)]),
        ([(8, 7, 7)] * 3, 3, 3, [(8, 7, 7)] * 3),
        ((8, 8, 8), 3, 3, [(8, 8, 8)] * 3),
    ],
    ids=str,
)
def test_one_tuple_per_stage(value, num_stages, ndim, expected):
    assert list(per_stage(value, num_stages, ndim, 'x')) == expected


def test_a_sequence_that_can_be_read_two_ways_is_refused():
    with pytest.raises(UserError) as info:
        per_stage((8, 7, 7), 3, 3, 'window_size')
    text = str(info.value)
    assert '[(8, 7, 7), (8, 7, 7), (8, 7, 7)] for one per axis' in text
    assert '[(8, 8, 8), (7, 7, 7), (7, 7, 7)] for one per stage' in text


def arch(**changes):
    return dict(arch=TINY | changes)


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(arch='medium'), "'medium' is unknown; choose from nano, tiny"),
        (dict(arch=5), 'arch must be a name or a dict with .*, got 5'),
        (dict(arch=None), 'arch must be a name or a dict'),
        (dict(arch=dict(embed_dims=8)), r"lacks \['depths', 'num_heads'\]"),
        (arch(width=3), r"unknown keys \['width'\]"),
        (arch(num_heads=(3, 3, 3)), '8 channels cannot be shared by 3 heads'),
        (arch(depths=(2.9, 2, 2)), r'depths must be a list of ints of at least 1.*2\.9'),
        (arch(depths='222'), "depths must be a list of ints.*got '222'"),
        (arch(depths=(2, 0, 2)), 'depths must be a list of ints of at least 1'),
        (arch(depths=(2, True, 2)), 'depths must be a list of ints of at least 1'),
        (arch(depths=()), 'depths must be a list of ints of at least 1'),
        (arch(depths=2), 'depths must be a list of ints'),
        (arch(num_heads=(1, 2)), 'must have one entry per stage'),
        (arch(num_heads=(1, 2, 0)), 'num_heads must be a list of ints of at least 1'),
        (arch(num_heads=(1, 2.0, 4)), 'num_heads must be a list of ints'),
        (arch(embed_dims=8.5), 'embed_dims must be an int of at least 1, got 8.5'),
        (arch(embed_dims=0), 'embed_dims must be an int of at least 1, got 0'),
        (arch(embed_dims='8'), "embed_dims must be an int of at least 1, got '8'"),
        (arch(extra_norm_every=True), 'must be a number of blocks, or 0 for none, got True'),
        (dict(in_channels=0), 'in_channels must be an int of at least 1, got 0'),
        (dict(in_channels='3'), "in_channels must be an int of at least 1, got '3'"),
        (dict(in_channels=True), 'in_channels must be an int of at least 1, got True'),
        (dict(window_size=(7, 7, 7)), 'window_size must be an int, 4 values'),
        (dict(window_size=0), r'window_size\[0\] must be an int >= 1'),
        (dict(window_size=-7), r'window_size\[0\] must be an int >= 1'),
        (dict(window_size=8.0), 'window_size'),
        (dict(window_size=True), 'window_size'),
        (dict(window_size='8'), 'window_size must be an int'),
        (dict(window_size='8888'), 'window_size must be an int'),
        (dict(window_size=None), 'window_size'),
        (dict(window_size=[8, 8, 8, (8, 8, 8)]), r'window_size\[3\] must be an int >= 1 or 2'),
        (dict(window_size=[8, 8, 8, True]), 'window_size'),
        (dict(pretrained_window_sizes=[0, 0, 0, 0]), r'got \[0, 0, 0, 0\]; mmpretrain .* is None'),
        (dict(pretrained_window_sizes=0), 'got 0; mmpretrain writes 0 .* here that is None'),
        (dict(pretrained_window_sizes=[8, 8]), None),
        (dict(pretrained_window_sizes=[8, 8, 8]), 'pretrained_window_sizes must be an int'),
        (dict(pretrained_window_sizes=np.array([8, 8])), r'got array\(\[8, 8\]\)'),
        (dict(pretrained_window_sizes=False), r'sizes\[0\] must be an int .* got False'),
        (dict(mlp_ratio=0), 'mlp_ratio must be a number that gives an MLP of at least 1'),
        (dict(mlp_ratio=0.01), 'mlp_ratio must be a number that gives an MLP of at least 1'),
        (dict(mlp_ratio='4'), 'mlp_ratio must be a number'),
        (dict(mlp_ratio=NAN), 'mlp_ratio must be a number'),
        (dict(mlp_ratio=float('inf')), 'mlp_ratio must be a number'),
        (dict(drop_rate=1.5), 'drop_rate must be a number from 0 to below 1, got 1.5'),
        (dict(drop_rate=-0.1), 'drop_rate must be a number from 0 to below 1, got -0.1'),
        (dict(drop_rate=None), 'drop_rate must be a number from 0 to below 1, got None'),
        (dict(attn_drop_rate='0.1'), "attn_drop_rate must be .*, got '0.1'"),
        (dict(attn_drop_rate=1), 'attn_drop_rate must be a number from 0 to below 1, got 1'),
        (dict(attn_drop_rate=NAN), 'attn_drop_rate must be a number from 0 to below 1, got nan'),
        (dict(drop_path_rate=1.0), 'drop_path_rate must be a number from 0 to below 1, got 1.0'),
        (dict(drop_path_rate=[0.1]), r'drop_path_rate must be .*, got \[0.1\]'),
        (dict(drop_path_rate=False), 'drop_path_rate must be .*, got False'),
        (dict(out_indices=(1, 4)), r'out_indices \[4\] are no stages'),
        (dict(out_indices=(-1,)), r'out_indices \[-1\] are no stages'),
        (dict(out_indices=()), 'out_indices must name at least one stage'),
        (dict(out_indices=3), r'out_indices must name at least one stage, as in \(3,\), got 3'),
        (dict(out_indices='3'), "out_indices must name at least one stage, .*, got '3'"),
        (dict(out_indices=(True, 2)), r'out_indices \[True\] are no stages'),
        (dict(out_indices=(0, 1.0)), r'out_indices \[1.0\] are no stages'),
        (dict(out_indices=(3, 2, 1, 0)), 'must be ascending, each stage once'),
        (dict(out_indices=(0, 0)), 'must be ascending, each stage once'),
        (dict(patch_size=(4,)), 'patch_size must have 2 or 3 entries'),
        (dict(patch_size=4), 'patch_size must have 2 or 3 entries, got 4'),
        (dict(patch_size=(4, 0)), 'patch_size must be an int >= 1 or 2 of them'),
        (dict(patch_size='44'), "patch_size must have 2 or 3 entries, got '44'"),
        (dict(merge_stride=(2, 2, 2)), 'merge_stride must be an int >= 1 or 2 of them'),
        (dict(with_cp=[True]), r'with_cp must be one value or 4 \(one per stage\), got \[True\]'),
        (dict(with_cp=3), 'with_cp must be True or False.*got 3; checkpoint_blocks=N takes'),
        (dict(with_cp=None), 'with_cp must be True or False.*got None'),
        (dict(with_cp='True'), 'with_cp must be'),
        (dict(with_cp=True, checkpoint_blocks=-1), 'numbers of blocks from 0, got -1'),
        (dict(with_cp=True, checkpoint_blocks=1.5), 'numbers of blocks from 0, got 1.5'),
        (dict(with_cp=True, checkpoint_blocks=True), 'numbers of blocks from 0, got True'),
        (dict(checkpoint_blocks=2), 'with_cp is False everywhere; set with_cp=True'),
        (dict(windows_at_once=0), 'windows_at_once must be at least 1, or None'),
        (dict(windows_at_once=2.5), 'windows_at_once must be at least 1, or None'),
        (dict(windows_at_once=[1, 2]), 'windows_at_once must be one value or 4'),
        (dict(windows_at_once='4444'), 'windows_at_once must be'),
        (dict(extra_norm_every_n_blocks=-6), 'must be a number of blocks, or 0 for none, got -6'),
        (dict(extra_norm_every_n_blocks='6'), "must be a number of blocks, .*, got '6'"),
        (dict(extra_norm_every_n_blocks=1.5), 'must be a number of blocks, .*, got 1.5'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(kwargs, words):
    if words is None:  # two ints mean one per axis
        assert SwinV2('nano', **kwargs).pretrained_window_sizes == ((8, 8),) * 4
        return
    with pytest.raises(UserError, match=words):
        SwinV2(**kwargs)
