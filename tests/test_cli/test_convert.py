"""`mmswinv2 convert`: label files of data sets, and weights as before."""

import json

import pytest
import torch

from mmswinv2.cli import main
from mmswinv2.cli.convert import parse_args
from mmswinv2.errors import UserError
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
        f'  1  images without a label file, the first {tmp_path}/mine/b.jpg',
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


def test_a_misspelt_word(tmp_path):
    with pytest.raises(UserError, match=r"'dta' is no file of weights \(close to it: data\)"):
        parse_args(['dta', 'yolo', 'a', 'b.json'])
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
    torch.save(SwinTransformerV2(arch='nano').state_dict(), path)
    for windows in (['0'], ['8', '8', '8', '-1']):
        with pytest.raises(SystemExit, match='--pretrained-windows must be at least 1'):
            main(['convert', str(path), str(tmp_path / 'b.pth'), '--pretrained-windows', *windows])
    main(['convert', str(path), str(tmp_path / 'b.pth'), '--pretrained-windows', '6'])
    written = torch.load(tmp_path / 'b.pth', weights_only=True)['meta']
    assert written['pretrained_window_sizes'] == {stage: (6, 6) for stage in range(4)}


def test_weights_as_before(tmp_path, capsys):
    net = SwinTransformerV2(arch='nano', window_size=8)
    torch.save(dict(state_dict=net.state_dict()), tmp_path / 'a.pth')
    main(['convert', str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth')])
    assert 'format: authors' in capsys.readouterr().out
    written = torch.load(tmp_path / 'b.pth', weights_only=True)['state_dict']
    assert written.keys() == net.state_dict().keys()
