"""`mmswinv2 convert`: label files of data sets, and weights as before."""

import json

import pytest
import torch

from mmswinv2.checkpoints import load_pretrained
from mmswinv2.cli import main
from mmswinv2.cli.convert import parse_args
from mmswinv2.core.attention import log_coordinates
from mmswinv2.errors import CheckpointError, UserError
from mmswinv2.models import SwinTransformerV2
from tests.test_datasets.test_to_coco import picture, write


def make(folder):
    picture(folder / 'a.jpg')
    picture(folder / 'b.jpg')
    write(folder / 'classes.txt', 'dog')
    write(folder / 'a.txt', '0 0.5 0.5 0.2 0.25')


def test_data(tmp_path, capsys):
    make(tmp_path / 'mine')
    out = tmp_path / 'new/train.json'
    main(['convert', 'data', 'yolo', str(tmp_path / 'mine'), str(out)])
    assert capsys.readouterr().out.splitlines() == [
        f'{out}: 1 images, 1 boxes, 0 masks, 1 classes: dog 1',
        'left out:',
        f'  1  images without a label file or line, the first {tmp_path}/mine/b.jpg',
    ]
    assert json.loads(out.read_text())['annotations'][0]['bbox'] == [40, 30, 20, 20]


def test_options():
    args = parse_args(
        ['data', 'voc', 'a', 'b.json', '--split', 'val', '--classes', 'x', 'y z', '--offset', '0',
         '--images', 'c', '--no-decode']
    )  # fmt: skip
    assert (args.split, args.classes, args.offset) == ('val', ['x', 'y z'], 0)
    assert (args.images, args.decode) == ('c', False)
    assert parse_args(['data', 'csv', 'a.csv', 'b.json']).decode


def test_a_missing_word_has_its_name_of_the_usage_line(capsys):
    with pytest.raises(SystemExit):
        parse_args(['a.pth'])
    assert capsys.readouterr().err.endswith('the following arguments are required: OUT\n')


def test_a_misspelt_or_missing_word(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"'dta' is no file of weights \(close to it: data\)"):
        parse_args(['dta', 'yolo', 'a', 'b.json'])
    with pytest.raises(UserError, match='mmswinv2 convert data yolo SOURCE OUT'):
        parse_args(['yolo', 'a', 'b.json'])
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'yolo').touch()
    assert parse_args(['yolo', 'b.pth']).src == 'yolo'
    for name in (str(tmp_path / 'date'), 'swinv2_tiny_window8_256'):
        assert parse_args([name, 'b.pth']).src == name


def test_the_script(tool, tmp_path):
    make(tmp_path / 'mine')
    out = tmp_path / 'train.json'
    run = tool('dataset_converters/to_coco.py', 'yolo', tmp_path / 'mine', out)
    assert run.returncode == 0 and '1 images, 1 boxes' in run.stdout and out.exists()
    write(tmp_path / 'mine/a.txt', '0 0.5')
    run = tool('dataset_converters/to_coco.py', 'yolo', tmp_path / 'mine', tmp_path / 'x.json')
    assert run.returncode == 1 and run.stderr.startswith('error: ')
    assert 'a.txt, line 1: ' in run.stderr and 'Traceback' not in run.stderr


def test_windows_that_are_stated(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(dict(SwinTransformerV2(arch='nano').state_dict()), path)  # without its windows
    for windows in (['0'], ['8', '8', '8', '-1']):
        with pytest.raises(SystemExit, match='--pretrained-windows must be at least 1'):
            main(['convert', str(path), str(tmp_path / 'b.pth'), '--pretrained-windows', *windows])
    main(['convert', str(path), str(tmp_path / 'b.pth'), '--pretrained-windows', '6'])
    written = torch.load(tmp_path / 'b.pth', weights_only=True)['meta']
    assert written['pretrained_window_sizes'] == {stage: (6, 6) for stage in range(4)}


def test_windows_of_the_stages_that_a_file_does_not_record(tmp_path):
    """Here a last stage of one token, whose table is of zeros."""
    state = SwinTransformerV2(arch='nano', window_size=8).state_dict()
    for stage in range(3):
        state[f'layers.{stage}.blocks.0.attn.relative_coords_table'] = log_coordinates(
            (8, 8), (8, 8)
        )[None]
    path, out = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(state, path)
    for windows in (['8', '8', '6', '4'], ['8', '8', '8'], ['4']):
        with pytest.raises(SystemExit, match='4 stages, and the file records'):
            main(['convert', str(path), str(out), '--pretrained-windows', *windows])
    main(['convert', str(path), str(out), '--pretrained-windows', '8', '8', '8', '4'])
    windows = torch.load(out, weights_only=True)['meta']['pretrained_window_sizes']
    assert windows == {0: (8, 8), 1: (8, 8), 2: (8, 8), 3: (4, 4)}


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('layers.0.blocks.0.attn.cpb_mlp.0.weight', None),
        ('patch_embed.proj.weight', torch.tensor(1.0)),
        ('layers.0.blocks.0.attn.logit_scale', torch.tensor(1.0)),
    ],
)
def test_weights_that_are_missing_or_numbers(name, value, tmp_path):
    state = SwinTransformerV2(arch='nano').state_dict() | {name: value}
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    path, out = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(state, path)
    main(['convert', str(path), str(out), '--pretrained-windows', '8'])
    assert torch.load(out, weights_only=True)['state_dict'].keys() == state.keys()
    with pytest.raises(CheckpointError, match='does not fit the backbone'):
        load_pretrained(SwinTransformerV2(arch='nano'), path)


def test_weights_as_before(tmp_path, capsys):
    net = SwinTransformerV2(arch='nano', window_size=8)
    torch.save(dict(state_dict=net.state_dict()), tmp_path / 'a.pth')
    main(['convert', str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')])
    assert 'format: authors' in capsys.readouterr().out
    written = torch.load(tmp_path / 'b.pth', weights_only=True)['state_dict']
    assert written.keys() == net.state_dict().keys()
