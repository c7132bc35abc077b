"""Segmentors through the tools: scores, label maps, pictures, test-time augmentation, mistakes."""

import functools
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mmswinv2.checkpoints import read_checkpoint
from tests.test_tools.conftest import ROOT, made_once, scores
from tests.test_tools.test_bad_input import sentence

SHAPES = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
ADE = 'configs/segmentation/swinv2-nano_upernet_ade20k-128x128.py'
SPLITS = {'training': 3, 'validation': 2}


@pytest.fixture(scope='session')
def ade(tmp_path_factory):
    """Noise in ADE20K's layout; odd sizes, some smaller than a crop, labels 0 to 150."""
    root = tmp_path_factory.mktemp('data') / 'ADEChallengeData2016'
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            height, width = 61 + 70 * i, 97 + 30 * i
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / f'images/{split}/ADE_{i}.jpg')
            labels = rng.integers(0, 151, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
            labels = labels.repeat(8, 0).repeat(8, 1)[:height, :width]
            Image.fromarray(labels).save(root / f'annotations/{split}/ADE_{i}.png')
    return root


@pytest.fixture(scope='session')
def segmentor(train, ade, tmp_path_factory):
    """The work dir of a UperNet trained for two iterations on `ade`."""

    def make(folder):
        run = train(folder, config=ADE, data_root=ade).succeeded()
        assert re.search(r'Iter\(train\) \[2/2\].*decode.loss_ce: \d', run.stdout)

    return made_once(tmp_path_factory, 'segmentor', make)


@pytest.fixture(scope='session')
def evaluate(evaluate, segmentor, ade):
    return functools.partial(evaluate, ADE, segmentor / 'iter_2.pth', data_root=ade)


def maps(folder):
    """The images of a folder by name."""
    return {p.stem: np.array(Image.open(p)) for p in folder.iterdir()}


def test_scores_pictures_and_label_maps(evaluate, ade, tmp_path):
    out, pictures = tmp_path / 'maps', tmp_path / 'pictures'
    run = evaluate(tmp_path, '--out', out, '--show-dir', pictures).succeeded()
    found = scores(tmp_path)
    assert {'aAcc', 'mIoU', 'mAcc'} <= set(found) and 'per class results' in run.stdout
    predicted = maps(out)
    truth = maps(ade / 'annotations/validation')
    assert {k: (v.shape, v.dtype) for k, v in predicted.items()} == {
        k: (v.shape, v.dtype) for k, v in truth.items()
    }
    # values are 1 to 150 as in the annotations, which the benchmark server requires
    assert all(v.min() >= 1 and v.max() <= 150 for v in predicted.values())
    hits = sum(int((predicted[k] == truth[k]).sum()) for k in truth)
    labelled = sum(int((v > 0).sum()) for v in truth.values())
    assert found['aAcc'] == pytest.approx(100 * hits / labelled, abs=0.006)
    drawn = maps(pictures / 'vis_data/vis_image').values()
    side_by_side = sorted((v.shape[0], 2 * v.shape[1], 3) for v in truth.values())
    assert sorted(v.shape for v in drawn) == side_by_side


def test_images_without_annotations(evaluate, ade, tmp_path):
    shutil.copytree(ade / 'images/validation', tmp_path / 'images/testing')
    folder = 'test_dataloader.dataset.data_prefix.img_path=images/testing'
    (tmp_path / 'images/validation').mkdir()
    plain, tta = tmp_path / 'plain', tmp_path / 'tta'
    for out, *flags in ((plain,), (tta, '--tta')):
        run = evaluate(
            tmp_path / 'w', '--format-only', '--out', out, *flags,
            data_root=tmp_path, options=[folder],
        ).succeeded()  # fmt: skip
        assert 'per class results' not in run.stdout
        assert {k: v.shape for k, v in maps(out).items()} == {
            k: v.shape for k, v in maps(ade / 'annotations/validation').items()
        }
    assert '--out FOLDER' in sentence(evaluate(tmp_path / 'w', '--format-only'))


def test_six_scales_and_flipped(evaluate, tmp_path):
    out = tmp_path / 'maps'
    run = evaluate(tmp_path, '--tta', '--out', out).succeeded()
    assert 'SegTTAModel' in run.stdout and 'mIoU' in scores(tmp_path)
    assert all(v.min() >= 1 and v.max() <= 150 for v in maps(out).values())


@pytest.mark.slow
def test_a_larger_window_and_image_by_options_alone(tool, segmentor, ade, tmp_path):
    checkpoint = read_checkpoint(segmentor / 'iter_2.pth')
    for key, value in checkpoint['state_dict'].items():
        if re.search(r'blocks.*norm[12].weight', key):
            value.fill_(1.0)  # after two iterations, blocks are nearly 0
    torch.save(checkpoint, tmp_path / 'awake.pth')
    options = {
        'same': [],
        'window': ['model.backbone.window_size=11', 'model.backbone.pretrained_window_sizes=8'],
        'image': ['test_dataloader.dataset.pipeline.1.scale=(1056,264)'],
    }
    found = {}
    for name, changed in options.items():
        tool(
            'test.py', ADE, tmp_path / 'awake.pth', '--work-dir', tmp_path / name,
            '--out', tmp_path / name / 'maps', '--cfg-options', f'data_root={ade}', *changed,
        ).succeeded()  # fmt: skip
        assert 'mIoU' in scores(tmp_path / name)
        found[name] = maps(tmp_path / name / 'maps')
    for name in ('window', 'image'):
        assert any((v != found['same'][k]).any() for k, v in found[name].items())


@pytest.mark.slow
def test_pieces_and_whole_agree_where_they_should(evaluate, tmp_path):
    """Both resized images fit into a crop of 500, so sliding must equal whole inference there."""
    found = []
    for name, crop in (('whole', None), ('slide', 500), ('pieces', 64)):
        out = tmp_path / name / 'maps'
        slide = [f'crop_size=({crop},{crop})', 'stride=(42,42)', 'mode=slide'] if crop else []
        options = [f'model.test_cfg.{option}' for option in slide]
        evaluate(tmp_path / name, '--out', out, options=options).succeeded()
        found.append((scores(tmp_path / name)['aAcc'], maps(out)))
    assert found[0][0] == found[1][0]
    for stem, labels in found[0][1].items():
        np.testing.assert_array_equal(labels, found[1][1][stem])
    assert any((v != found[2][1][k]).any() for k, v in found[0][1].items())


@pytest.fixture
def damaged(ade, tmp_path):
    return shutil.copytree(ade, tmp_path / 'ade')


def test_labels_beyond_the_classes(train, damaged, tmp_path):
    for path in (damaged / 'annotations/training').iterdir():
        labels = np.array(Image.open(path))
        labels[0] = 151
        Image.fromarray(labels).save(path)
    options = ['train_dataloader.num_workers=1']  # whose error goes through another process
    run = train(tmp_path / 'w', config=ADE, data_root=damaged, options=options)
    said = sentence(run)
    assert f'the label map {damaged}/annotations/training/ADE_' in said and 'label 151' in said


def test_a_map_of_another_size_and_a_missing_one(train, evaluate, tool, damaged, tmp_path):
    path = damaged / 'annotations/validation/ADE_1.png'
    labels = np.array(Image.open(path))
    Image.fromarray(labels[:-1]).save(path)
    said = sentence(evaluate(tmp_path / 'w', data_root=damaged))
    assert f'the label map {path}: the image ' in said
    assert 'ADE_1.jpg has 127x131 pixels, and its annotations are for 127x130' in said

    missing = damaged / 'annotations/training/ADE_0.png'
    missing.unlink()
    said = sentence(train(tmp_path / 'w', config=ADE, data_root=damaged))
    assert 'train_dataloader: 1 of 3 images have no label map' in said and str(missing) in said

    run = tool('misc/check_seg_maps.py', ADE, '--cfg-options', f'data_root={damaged}')
    assert 'error: 2 of 5 images cannot be used' in run.stderr and run.returncode == 1
    told = run.stdout.splitlines()
    assert any(str(path) in line for line in told) and any(str(missing) in line for line in told)


def test_the_check_prints_no_control_characters(tool, damaged):
    (damaged / 'images/training/ADE_0.jpg').rename(damaged / 'images/training/\x1b.jpg')
    run = tool('misc/check_seg_maps.py', ADE, '--cfg-options', f'data_root={damaged}')
    assert r'\x1b' in run.stdout and '\x1b' not in run.stdout


def test_the_check_of_good_maps(tool, ade):
    run = tool('misc/check_seg_maps.py', ADE, '--cfg-options', f'data_root={ade}')
    assert run.returncode == 0 and 'all of the 5 images can be used' in run.stdout


def test_maps_without_a_label(tool, train, damaged, tmp_path):
    for path in (damaged / 'annotations/training').iterdir():
        Image.fromarray(np.zeros_like(Image.open(path))).save(path)
    words = (
        'train_dataloader: 150 of 150 classes occur in none of the 3 label maps looked at, of 3 '
        '(pixels: none; not labeled '
    )
    why = '; reduce_zero_label=True takes 0 in a file for not labeled, and 1 for wall'
    checked = tool('misc/check_seg_maps.py', ADE, '--cfg-options', f'data_root={damaged}')
    trained = train(tmp_path / 'w', iters=1, config=ADE, data_root=damaged)
    for run in (checked, trained):
        told = run.stdout + run.stderr
        assert run.returncode == 0 and told.count(words) == told.count(why) == 1, told


def test_folder_without_images(train, damaged, tmp_path):
    for image in (damaged / 'images/training').iterdir():
        image.rename(image.with_suffix('.png'))
    said = sentence(train(tmp_path / 'w', config=ADE, data_root=damaged))
    assert 'ADE20KDataset has no samples' in said and "img_suffix='.jpg'" in said
    assert f'{damaged}/images/training' in said


def test_heads_with_fewer_classes(train, ade, tmp_path):
    options = ['model.auxiliary_head.num_classes=19']
    said = sentence(train(tmp_path / 'w', config=ADE, data_root=ade, options=options))
    assert 'model.auxiliary_head has num_classes=19' in said and '150 classes' in said


def test_the_demo(tool, train, shapes, tmp_path):
    train(tmp_path, config=SHAPES).succeeded()
    tool(
        'test.py', SHAPES, tmp_path / 'iter_2.pth', '--work-dir', tmp_path,
        '--show-dir', tmp_path / 'pictures', '--cfg-options', f'data_root={shapes}',
    ).succeeded()  # fmt: skip
    assert len(list((tmp_path / 'pictures/vis_data/vis_image').iterdir())) == 4
    told = tool('misc/print_scores.py', tmp_path, '--pictures', tmp_path / 'pictures')
    assert re.fullmatch(rf'mIoU \d+\.\d+; .*: {tmp_path}/pictures\n', told.stdout)
    makefile = (ROOT / 'Makefile').read_text()
    assert f'DEMO_SEG := {SHAPES}' in makefile and '--train 800 --size 96 --large' in makefile
