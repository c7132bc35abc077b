import pickle
import re
import subprocess
import sys

import pytest
import torch

from mmswinv2.checkpoints import CheckpointError, load_pretrained, read_checkpoint, write_checkpoint
from mmswinv2.checkpoints.load import describe
from mmswinv2.checkpoints.windows import pretrained_windows
from mmswinv2.core import SwinV2
from mmswinv2.core.attention import log_coordinates


def weights(window=8, tables=None, **kwargs):
    """State of a nano network as a file of the authors holds it."""
    torch.manual_seed(0)
    net = SwinV2('nano', window_size=window, out_indices=(3,), **kwargs)
    for p in net.parameters():
        torch.nn.init.normal_(p)
    state = {k.replace('norm3.', 'norm.'): v for k, v in net.state_dict().items()}
    state['head.weight'], state['head.bias'] = torch.zeros(10, 256), torch.zeros(10)
    for stage, (m, w) in enumerate(tables or []):
        attn = f'layers.{stage}.blocks.0.attn.'
        state[attn + 'relative_coords_table'] = log_coordinates((m, m), (w, w))[None]
        state[attn + 'relative_position_index'] = torch.zeros(m * m, m * m, dtype=torch.long)
        state[f'layers.{stage}.blocks.1.attn_mask'] = torch.zeros(4, m * m, m * m)
    return state


@pytest.fixture
def save(tmp_path):
    def save(obj, name='swin.pth'):
        torch.save(obj, tmp_path / name)
        return tmp_path / name

    return save


def test_classification_file_of_the_authors(save):
    path = save({'model': weights(tables=[(8, 8)] * 4)})
    net = SwinV2('nano', window_size=12, pretrained_window_sizes=8)
    report = load_pretrained(net, path)
    assert torch.equal(net.norm3.weight, weights()['norm.weight'])
    assert report.missing == [f'norm{i}.{p}' for i in range(3) for p in ('weight', 'bias')]
    assert len(report.dropped) == 2 + 4 * 3
    text = str(report)
    assert 'format authors' in text and 'stage 0: 8, stage 1: 8' in text and 'missing 6' in text


@pytest.mark.parametrize('prefix', ['backbone.', 'encoder.', 'module.backbone.'])
def test_prefix_is_found_and_the_rest_reported(save, prefix):
    state = {prefix + k.replace('cpb_mlp', 'rpe_mlp'): v for k, v in weights().items()}
    path = save({'state_dict': {**state, 'decoder.0.weight': torch.zeros(1)}, 'meta': {}})
    report = load_pretrained(SwinV2('nano'), path)
    assert (report.prefix, report.outside) == (prefix, ['decoder.0.weight'])


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
        # expanded, the zeros take no room in the file
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
    assert (report.outside, report.dropped) == (['decoder.0.bias'], ['mask_token'])
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


def test_table_that_is_not_log_spaced():
    table = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 15)] * 2, indexing='ij'), -1)
    with pytest.raises(CheckpointError, match='stage 2 is not log-spaced'):
        pretrained_windows({2: table[None]})


def test_describe_names_the_variant():
    state = SwinV2('nano').state_dict()
    assert describe(state) == dict(
        name='nano',
        embed_dims=32,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        extra_norm_every=0,
    )


def swin_v1(state):
    return {k.replace('logit_scale', 'relative_position_bias_table'): v for k, v in state.items()}


def renamed(old, new):
    return lambda state: {k.replace(old, new): v for k, v in state.items()}


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (swin_v1, 'they are a Swin V1'),
        (lambda s: {'conv1.weight': torch.zeros(64, 3, 7, 7)}, 'no SwinV2 in these 1 weights'),
        (renamed('cpb_mlp', 'meta_mlp'), 'swinv2_cr'),
        (renamed('mlp.fc1', 'mlp.fc3'), r"16 keys are unknown .*'layers.0.blocks.0.mlp.fc3"),
        (lambda s: {k: v for k, v in s.items() if 'q_bias' not in k}, 'missing in the file: 8'),
        (lambda s: {k: v[:16] for k, v in s.items()}, 'shape mismatch: '),
        (lambda s: s | {'layers.0.blocks.2.norm1.bias': torch.zeros(32)}, 'not in the model: 1'),
        (lambda s: s | {'layers.0.blocks.1.enorm.weight': torch.ones(32)}, "extra_norm_every': 2"),
        (lambda s: {k: v for k, v in s.items() if 'logit_scale' not in k}, 'missing in the file'),
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
        'list',
        'empty',
    ],
)
def test_what_does_not_fit_changes_nothing(save, change, words):
    path = save(change(weights()))
    net = SwinV2('nano')
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(net, path)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_wrong_size_names_both(save):
    with pytest.raises(CheckpointError, match=r"The file is {'name': 'nano'.*embed_dims=96"):
        load_pretrained(SwinV2('tiny'), save(weights()))


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in weights().items()}
    save_file(state, tmp_path / 'model.safetensors')
    assert len(load_pretrained(SwinV2('nano'), tmp_path / 'model.safetensors').loaded) > 100
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'model.safetensors').read_bytes()[:999])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(tmp_path / 'cut.safetensors')


def test_wrapped_weights_beside_other_tensors(save):
    path = save({'epoch': torch.tensor(3), 'state_dict': weights()})
    assert len(load_pretrained(SwinV2('nano'), path).loaded) > 100


def test_a_neck_may_be_of_another_kind(save):
    state = {f'backbone.{k}': v for k, v in weights().items()}
    path = save(state | {'neck.relative_position_bias_table': torch.zeros(1)})
    assert load_pretrained(SwinV2('nano'), path).outside == ['neck.relative_position_bias_table']


def test_windows_that_are_not_recorded_are_said_to_be_assumed(save):
    report = load_pretrained(SwinV2('nano', window_size=16), save(weights()))
    assert 'not recorded in the file, taken to be [16, 16, 16, 16]' in str(report)


class RunsCode:
    def __reduce__(self):
        return print, ('this must not be printed',)


def test_files_that_cannot_be_read(save, tmp_path, capsys):
    with pytest.raises(CheckpointError, match='does not exist'):
        read_checkpoint(tmp_path / 'no.pth')
    with pytest.raises(CheckpointError, match='is a folder'):
        read_checkpoint(tmp_path)
    path = save({'model': weights()})
    for size in (0, 10, 5000, path.stat().st_size - 100):
        (tmp_path / 'cut.pth').write_bytes(path.read_bytes()[:size])
        with pytest.raises(CheckpointError, match=rf'cut.pth \({size} bytes\) is truncated'):
            read_checkpoint(tmp_path / 'cut.pth')
    with pytest.raises(CheckpointError, match='would run code from the file'):
        read_checkpoint(save({'model': weights(), 'config': RunsCode()}))
    (tmp_path / 'old.pkl').write_bytes(pickle.dumps(RunsCode(), protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'old.pkl')
    assert capsys.readouterr().out == ''


def test_writing_never_leaves_a_part(tmp_path, monkeypatch):
    path = tmp_path / 'swin.pth'
    write_checkpoint({'a': torch.ones(3)}, path)

    def break_off(obj, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', break_off)
    with pytest.raises(CheckpointError, match='No space left'):
        write_checkpoint({'a': torch.zeros(3)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ['swin.pth']
    assert torch.equal(read_checkpoint(path)['a'], torch.ones(3))


def test_core_and_checkpoints_need_torch_alone():
    code = (
        'import sys, mmswinv2, mmswinv2.core, mmswinv2.checkpoints\n'
        'print([m for m in sys.modules if m.split(".")[0] in ("mmengine", "mmcv", "mmdet")])'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == '[]'
