"""tools/ on classifiers and SimMIM, as a user runs them."""

import json
import pickle
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmswinv2 import hosts
from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.cli.report import report
from mmswinv2.cli.ui_page import Page
from mmswinv2.datasets import open_video, write_video
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmpretrain_patches import (
    average_classes_that_occur,
    average_classes_with_images,
    label_merged_views,
)
from mmswinv2.inference.predict import predict
from mmswinv2.inference.predictor import Predictor
from mmswinv2.inference.results import ResultWriter
from mmswinv2.inference.sources import Item
from mmswinv2.registry import DATASETS
from tests.test_cli.test_report import in_words
from tests.test_pretrain.conftest import CLASSIFIER, SIMMIM, build, draw
from tests.test_pretrain.test_whole import authors
from tests.test_tools.conftest import ROOT, made_once, scores

SMALL = ('train_dataloader.batch_size=4', 'train_cfg.val_interval=100')


@pytest.fixture(scope='session')
def train(tool, folders):
    def run(work_dir, *args, options=(), data_root=folders, config=CLASSIFIER):
        return tool(
            'train.py', config, '--work-dir', work_dir, *args, '--cfg-options',
            f'data_root={data_root}', 'train_cfg.max_iters=2', *SMALL, *options,
        )  # fmt: skip

    return run


@pytest.fixture(scope='session')
def trained(train, tmp_path_factory):
    def make(folder):
        train(folder, options=('default_hooks.logger.interval=1',)).succeeded()

    return made_once(tmp_path_factory, 'trained', make)


def test_classifier_is_tested(tool, trained, folders, tmp_path):
    tool(
        'test.py', CLASSIFIER, trained / 'iter_2.pth', '--work-dir', tmp_path, '--out',
        tmp_path / 'out.pkl', '--show-dir', tmp_path / 'shown', '--cfg-options',
        f'data_root={folders}',
    ).succeeded()  # fmt: skip
    metrics = scores(tmp_path)
    assert {'accuracy/top1', 'accuracy/top2'} <= set(metrics)
    assert (tmp_path / 'out.pkl').stat().st_size > 0 and list((tmp_path / 'shown').rglob('*.png'))
    said = tool('misc/print_scores.py', tmp_path)
    assert f'top-1 (%) {metrics["accuracy/top1"]:.3f}' in said.stdout, said.stderr


def test_released_file_is_tested(tool, trained, folders, tmp_path):
    """The same weights in the authors' format give the same scores."""
    model = build(CLASSIFIER)
    model.load_state_dict(read_checkpoint(trained / 'iter_2.pth')['state_dict'])
    torch.save(dict(model=authors(model, windows=(8, 8, 8, 8))), tmp_path / 'released.pth')
    found = []
    for name, file in (('ours', trained / 'iter_2.pth'), ('theirs', tmp_path / 'released.pth')):
        run = tool(
            'test.py', CLASSIFIER, file, '--work-dir', tmp_path / name, '--out',
            tmp_path / f'{name}.pkl', '--cfg-options', f'data_root={folders}',
        ).succeeded()  # fmt: skip
        predictions = pickle.loads((tmp_path / f'{name}.pkl').read_bytes())
        found.append([p['pred_score'] for p in predictions])
        assert ("format authors (the authors'" in run.stdout + run.stderr) == (name == 'theirs')
    torch.testing.assert_close(found[0], found[1])


def imagenet_v2(root, classes=12):
    for label in range(classes):
        for i in range(2):
            draw(root / str(label) / f'{i}.jpeg', label)
    return root


V2 = """
_base_ = '{base}'
model = dict(head=dict(num_classes=12))
test_dataloader = dict(dataset=dict(_delete_=True, type='mmswinv2.ImageNetV2', data_root='{root}',
    metainfo=dict(classes=[str(i) for i in range(12)]),
    pipeline={{{{_base_.test_pipeline}}}}))
"""


def load_v2(root):
    return DATASETS.build(dict(
        type='mmswinv2.ImageNetV2', data_root=str(root),
        metainfo=dict(classes=[str(i) for i in range(12)]),
        pipeline=[dict(type='mmpretrain.LoadImageFromFile')],
    ))  # fmt: skip


def test_folders_of_imagenet_v2_sort_as_numbers(tmp_path):
    root = imagenet_v2(tmp_path)
    (root / '@eaDir').mkdir()  # of a network drive, and no class
    assert sorted(map(str, range(12)))[2] == '10'  # sorting as text gives a wrong order
    dataset = load_v2(root)
    assert len(dataset) == 24
    for sample in dataset:
        assert round(sample['img'].mean() / 20) == sample['gt_label']


def test_imagenet_v2_is_tested(tool, tmp_path):
    """A head that always ranks class 10 first and class 2 second has known accuracies."""
    config, root = tmp_path / 'v2.py', imagenet_v2(tmp_path / 'v2')
    config.write_text(V2.format(base=ROOT / CLASSIFIER, root=root))
    state = build(CLASSIFIER, model__head__num_classes=12).state_dict()
    state['head.fc.weight'][:] = 0
    state['head.fc.bias'][:] = -1
    state['head.fc.bias'][[10, 2]] = torch.tensor([2.0, 1.0])
    torch.save(dict(state_dict=state), tmp_path / 'v2.pth')
    for label in range(12):  # makes the numbers of images differ by class
        if label not in (2, 10):
            (root / str(label) / '1.jpeg').unlink()
    (root / '2/1.jpeg').unlink()
    tool('test.py', config, tmp_path / 'v2.pth', '--work-dir', tmp_path / 'work').succeeded()
    metrics = scores(tmp_path / 'work')
    assert metrics['accuracy/top1'] == pytest.approx(100 * 2 / 13)
    assert metrics['accuracy/top2'] == pytest.approx(100 * 3 / 13)


@pytest.mark.parametrize(
    ('spoil', 'match'),
    [
        (lambda root: shutil.rmtree(root / '7'), r'lacks the folder 7 \(and 0 more\)'),
        (lambda root: draw(root / '12' / 'a.png', 1), r'has the folder 12 \(and 0 more\)'),
        (lambda root: [p.unlink() for p in (root / '5').iterdir()], '5 holds no image'),
    ],
)
def test_wrong_imagenet_v2(tmp_path, spoil, match):
    spoil(imagenet_v2(tmp_path))
    with pytest.raises(UserError, match=match):
        load_v2(tmp_path)


TUNE = """
_base_ = '{base}'
custom_hooks = [dict(type='mmswinv2.LoadCheckpointHook', checkpoint='{checkpoint}')]
"""


def test_class_map_on_the_command_line(train, tmp_path):
    torch.save(
        dict(model=authors(build(CLASSIFIER, model__head__num_classes=9))), tmp_path / 'big.pth'
    )
    config = tmp_path / 'tune.py'
    config.write_text(TUNE.format(base=ROOT / CLASSIFIER, checkpoint=tmp_path / 'big.pth'))
    (tmp_path / 'map.txt').write_text('8\n0\n4\n4\n')
    still = ('optim_wrapper.optimizer.lr=0.0', 'optim_wrapper.optimizer.weight_decay=0.0')
    train(
        tmp_path / 'a', '--class-map', tmp_path / 'map.txt', config=config, options=still
    ).succeeded()
    rows = read_checkpoint(tmp_path / 'a/iter_2.pth')['state_dict']['head.fc.weight']
    big = read_checkpoint(tmp_path / 'big.pth')['model']['head.weight']
    assert torch.equal(rows, big[[8, 0, 4, 4]])
    run = train(tmp_path / 'b', config=config)
    assert run.returncode == 1 and 'has 9 classes' in run.stderr
    run = train(tmp_path / 'c', '--class-map', tmp_path / 'map.txt')
    assert run.returncode == 1 and '--class-map needs a checkpoint' in run.stderr


def test_averaged_weights_are_the_ones_tested(tool, train, folders, tmp_path):
    hook = 'custom_hooks=[dict(type="EMAHook",momentum=0.5)]'
    config = tmp_path / 'ema.py'
    config.write_text(f"_base_ = '{ROOT / CLASSIFIER}'\n{hook}\n")
    train(
        tmp_path / 'work', config=config,
        options=('train_cfg.val_interval=2', 'optim_wrapper.optimizer.lr=0.01'),
    ).succeeded()  # fmt: skip
    found = []
    averaged = tmp_path / 'work/iter_2.pth'
    model = build(CLASSIFIER)
    model.load_state_dict(read_checkpoint(averaged)['state_dict'])
    torch.save(dict(model=authors(model)), tmp_path / 'released.pth')
    for name, file in (('ours', averaged), ('theirs', tmp_path / 'released.pth')):
        tool(
            'test.py', config, file, '--work-dir', tmp_path / name, '--out',
            tmp_path / f'{name}.pkl', '--cfg-options', f'data_root={folders}',
        ).succeeded()  # fmt: skip
        predictions = pickle.loads((tmp_path / f'{name}.pkl').read_bytes())
        found.append(torch.stack([p['pred_score'] for p in predictions]))
    plain = model.eval()
    image = cv2.imread(predictions[0]['img_path'])[..., ::-1]
    data = plain.data_preprocessor(
        dict(inputs=[torch.from_numpy(image.transpose(2, 0, 1)[::-1].copy())])
    )
    with torch.no_grad():
        wanted = plain(data['inputs']).softmax(1)[0]
    for scores_ in found:
        assert torch.allclose(scores_[0], wanted, atol=1e-5)


def test_nothing_to_test(tool, trained):
    run = tool('test.py', SIMMIM, trained / 'iter_2.pth')
    assert run.returncode == 1 and 'has nothing to test' in run.stderr


def test_page_of_a_classifier(trained, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((64, 64, 3), 90, np.uint8))
    cfg = Config.fromfile(ROOT / CLASSIFIER)
    page = Page(Predictor(cfg, str(trained / 'iter_2.pth'), 'cpu'), tmp_path)
    item, result = page.read(str(tmp_path / 'a.png'))
    shown = page.draw(item, result, 0.0, [])
    best = json.loads(Path(shown.results).read_text())['predictions']
    assert cv2.imread(shown.picture) is not None and best[0]['name'] in page.classes
    assert list(shown.scores) == [entry['name'] for entry in best]
    assert list(page.draw(item, result, 0.0, [1]).scores) == [page.classes[1]]


def test_names_in_letters_that_the_font_of_mmpretrain_lacks(tmp_path):
    """matplotlib warns of each that it draws as a box, which is an error in tests."""
    from mmpretrain.structures import DataSample

    cfg = Config(dict(default_scope='mmpretrain'))
    writer = ResultWriter(tmp_path, cfg, dict(classes=['\u1d8a']), 0.3)
    sample = DataSample().set_pred_score(torch.ones(1)).set_pred_label(0)
    drawn = writer.add(Item('a', 'a.jpg', np.zeros((640, 640, 3), np.uint8)), sample)
    assert drawn.any()


def test_flipped_views(tool, trained, folders, tmp_path):
    """They are predicted with the averaged weights, those that a test without views takes."""
    checkpoint = torch.load(trained / 'iter_2.pth', weights_only=False)
    checkpoint['ema_state_dict'] = {  # EMAHook writes the trained weights there
        f'module.{key}': torch.zeros_like(value) for key, value in checkpoint['state_dict'].items()
    }
    torch.save(checkpoint, tmp_path / 'both.pth')
    run = tool(
        'test.py', CLASSIFIER, tmp_path / 'both.pth', '--work-dir', tmp_path, '--tta', '--out',
        tmp_path / 'out.pkl', '--cfg-options', f'data_root={folders}',
        "custom_hooks=[dict(type='EMAHook')]",
    ).succeeded()  # fmt: skip
    assert 'AverageClsScoreTTA' in run.stdout and 'accuracy/top1' in scores(tmp_path)
    found = mmengine.load(tmp_path / 'out.pkl')
    files = [sample['img_path'] for sample in found]
    wanted = predict(str(ROOT / CLASSIFIER), str(trained / 'iter_2.pth'), files, tta=True)
    for sample, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(sample['pred_score'], expected.pred_score)


def test_views_of_a_picture(trained, tmp_path):
    """The scores of a picture and of its mirror image are averaged."""
    rng = np.random.default_rng(0)
    image = np.cumsum(rng.integers(0, 9, (64, 64, 3)), 1).astype(np.uint8)
    for name, pixels in (('a.png', image), ('b.png', image[:, ::-1])):
        cv2.imwrite(str(tmp_path / name), pixels)

    def scores_of(**options):
        files, weights = [tmp_path / 'a.png', tmp_path / 'b.png'], str(trained / 'iter_2.pth')
        return [r.pred_score for r in predict(str(ROOT / CLASSIFIER), weights, files, **options)]

    plain, both = scores_of(), scores_of(tta=True)
    assert not torch.allclose(*plain, rtol=0, atol=1e-6)
    for found in both:
        torch.testing.assert_close(found, sum(plain) / 2)


def test_classes_without_a_name(tmp_path):
    """A picture is drawn with the number of the class, a film too."""
    config, files = str(ROOT / CLASSIFIER), [tmp_path / 'a.png', tmp_path / 'b.mp4']
    draw(files[0], 3)
    write_video(files[1], [cv2.imread(str(files[0]))] * 3, 10)
    weights = build(CLASSIFIER).state_dict()
    weights['head.fc.bias'][3] = 99
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    options = {'test_dataloader.dataset.metainfo': dict(classes=('a', 'b'))}
    found = predict(config, tmp_path / 'weights.pth', files, tmp_path / 'out', cfg_options=options)
    assert [int(result.pred_label) for result in found] == [3] * 4
    lines = (tmp_path / 'out/preds/predictions.jsonl').read_text().splitlines()
    assert [json.loads(line)['predictions'][0]['name'] for line in lines] == ['3'] * 4
    assert len(open_video(str(tmp_path / 'out/vis/b.mp4'))) == 3
    small, drawn = (cv2.imread(str(path)).shape for path in (files[0], tmp_path / 'out/vis/a.jpg'))
    assert drawn == (10 * small[0], 10 * small[1], 3)  # or the words could not be read


@pytest.mark.parametrize(
    ('head', 'labels'),
    [
        (dict(type='ClsHead'), [1]),
        (dict(type='MultiLabelClsHead', thr=0.4), [0, 1]),
        (dict(type='MultiLabelClsHead', topk=1), [1]),
    ],
    ids=str,
)
def test_classes_of_merged_views(head, labels):
    """mmpretrain keeps the labels of the first view, which do not fit the merged scores."""
    from mmpretrain.models import AverageClsScoreTTA
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    views = []
    for score in ([0.75, 0.25, 0.0], [0.06, 0.94, 0.0]):
        views.append(DataSample().set_pred_score(torch.tensor(score)).set_pred_label(0))
    model = SimpleNamespace(module=SimpleNamespace(head=MODELS.build(head)))
    label_merged_views.apply()
    merged = AverageClsScoreTTA._merge_single_sample(model, views)
    assert merged.pred_label.tolist() == labels
    assert merged.pred_score.tolist() == pytest.approx([0.405, 0.595, 0])


@pytest.mark.parametrize('absent', [[], [0, 3], range(5)], ids=str)
def test_mean_average_precision_is_of_classes_that_images_have(absent):
    from mmpretrain.evaluation import AveragePrecision

    average_classes_with_images.apply()
    rng = np.random.default_rng(0)
    scores, labels = rng.random((30, 5)), rng.integers(-1, 2, (30, 5))  # -1: difficult
    labels[:, list(absent)] = 0
    precisions = np.zeros(5)
    for k in set(range(5)) - set(absent):
        pairs = sorted(zip(scores[:, k], labels[:, k], strict=True), reverse=True)
        right = [label == 1 for _, label in pairs if label > -1]
        at = [sum(right[: i + 1]) / (i + 1) for i, found in enumerate(right) if found]
        precisions[k] = 100 * np.mean(at)
    samples = [
        dict(pred_score=torch.tensor(s), gt_score=torch.tensor(label))
        for s, label in zip(scores, labels, strict=True)
    ]
    for average, want in (
        ('macro', precisions.sum() / max(5 - len(absent), 1)),
        (None, precisions),
    ):
        metric = AveragePrecision(average)
        metric.process(None, samples)
        assert next(iter(metric.evaluate(30).values())) == pytest.approx(want)


def test_mean_scores_copy_no_predictions():
    """Those of 50,000 images and 1,000 classes take 800 MB; mmpretrain changes them in place."""
    from mmpretrain.evaluation.metrics import multi_label

    average_classes_that_occur.apply()
    found, truth = torch.tensor([[1, 1, 0]]), torch.tensor([[1, -1, 0]])
    scores = multi_label._precision_recall_f1_support(found, truth, 'macro')
    assert list(map(float, scores)) == [100, 100, 100, 1]
    assert (found.tolist(), truth.tolist()) == ([[1, 0, 0]], [[1, 0, 0]])


@pytest.mark.parametrize('average', ['macro', 'micro', None])
@pytest.mark.parametrize('absent', [[], [1], [0, 3], [0, 1, 2, 3, 4]], ids=str)
def test_mean_scores_are_of_classes_that_occur(absent, average):
    """Against a count of true and false positives, class by class."""
    from mmpretrain.evaluation import MultiLabelMetric, SingleLabelMetric

    average_classes_that_occur.apply()
    rng = np.random.default_rng(0)
    scores, labels = rng.random((30, 6)), rng.integers(-1, 2, (30, 6))  # -1: difficult
    scores[:, absent], labels[:, absent] = 0, 0
    labels[:, 5], scores[0, 5] = 0, 1  # predicted alone
    single = rng.choice(
        sorted({0, 1, 2, 3, 4, 5} - {*absent, *([5] if len(absent) < 5 else [])}), 30
    )
    cases = (
        (MultiLabelMetric, labels, labels, scores >= 0.5),
        (SingleLabelMetric, single, np.eye(6)[single], np.eye(6)[scores.argmax(1)]),
    )
    for metric, target, truth, found in cases:
        right, extra, missed = (
            np.sum((truth == a) & (found == b), 0) for a, b in ((1, 1), (0, 1), (1, 0))
        )
        if average == 'micro':
            right, extra, missed = (np.array([count.sum()]) for count in (right, extra, missed))
        wanted = np.array([
            100 * right / np.maximum(right + extra, 1),
            100 * right / np.maximum(right + missed, 1),
            200 * right / np.maximum(2 * right + extra + missed, 1),
        ])  # fmt: skip
        if average:
            wanted = wanted[:, right + extra + missed > 0].mean(1)
        given = (list(torch.tensor(scores)), list(torch.tensor(target)))
        got = (
            metric.calculate(*given, average=average)
            if metric is MultiLabelMetric
            else (
                metric.calculate(torch.stack(given[0]), torch.stack(given[1]), average=average)[0]
            )
        )
        np.testing.assert_allclose(np.stack(got[:3]), wanted, rtol=1e-5)


def test_report_on_a_classifier(tool, trained, folders, tmp_path):
    folder = shutil.copytree(trained, tmp_path / 'run')
    tool(
        'test.py', CLASSIFIER, folder / 'iter_2.pth', '--work-dir', folder, '--out',
        folder / 'predictions.pkl', '--cfg-options', f'data_root={folders}',
    ).succeeded()  # fmt: skip
    out = report(folder, config=ROOT / CLASSIFIER, pictures=3)
    text, metrics = in_words(out), scores(folder)
    assert 'Image classifier' in text and 'iterations 2' in text and 'Learning rate' in text
    assert f'8 samples: {metrics["accuracy/top1"]:.1f}% right (top-1)' in text
    assert text.count(' 2 0.000 ') + text.count(' 2 0.500 ') + text.count(' 2 1.000 ') == 4
    wrong = round(8 * (1 - metrics['accuracy/top1'] / 100))
    assert text.count('/val2017/class') == text.count('taken for') == min(wrong, 3) > 0


@pytest.mark.parametrize('head', ['LinearClsHead', 'ArcFaceClsHead'])
def test_a_classifier_without_pooling(train, tmp_path, head):
    run = train(tmp_path, options=('model.neck=None', f'model.head.type={head}'))
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert "gives maps; set model.neck=dict(type='GlobalAveragePooling')" in run.stderr


def test_more_classes_than_the_head(train, tmp_path):
    run = train(tmp_path, options=('model.head.num_classes=3',))
    assert run.returncode == 1, run.stderr
    assert 'the data set has 4 classes, and model.head num_classes=3' in run.stderr
    config = tmp_path / 'mixup.py'
    config.write_text(
        f"_base_ = '{ROOT / CLASSIFIER}'\n"
        "model = dict(train_cfg=dict(_delete_=True, augments=dict(type='Mixup', alpha=0.8)))\n"
    )
    train(tmp_path / 'a', config=config).succeeded()
    run = train(tmp_path / 'b', config=config, options=('data_preprocessor.num_classes=7',))
    assert run.returncode == 1, run.stderr
    assert 'data_preprocessor.num_classes=7, and model.head.num_classes=4' in run.stderr


def test_several_labels_an_image_are_left_alone(tmp_path):
    from mmpretrain.datasets import MultiLabelDataset

    from mmswinv2.hosts.mmpretrain import check_image_labels

    content = dict(
        metainfo=dict(classes=['a', 'b', 'c']),
        data_list=[dict(img_path='a', gt_label=[0, 2]), dict(img_path='b', gt_label=[1])],
    )
    (tmp_path / 'list.json').write_text(json.dumps(content))
    dataset = MultiLabelDataset(ann_file=str(tmp_path / 'list.json'), pipeline=[])
    check_image_labels(dataset, 3, 'train_dataloader')
    with pytest.raises(UserError, match='3 classes, and model.head num_classes=2'):
        check_image_labels(dataset, 2, 'train_dataloader')


def test_images_with_a_label_below_0(tmp_path, warned):
    from mmpretrain.datasets import CustomDataset

    from mmswinv2.hosts.mmpretrain import check_image_labels

    (tmp_path / 'list.txt').write_text('a.png 0\nb.png -1\n')
    dataset = CustomDataset(ann_file=str(tmp_path / 'list.txt'), pipeline=[])
    with pytest.raises(UserError, match='1 of 2 images have a label below 0, which is no class'):
        check_image_labels(dataset, 2, 'train_dataloader')
    check_image_labels(dataset, 2, 'test_dataloader')
    (told,) = warned
    assert '1 of 2 images have a label below 0 and count as wrong in scores' in told


def test_folders_that_systems_write_are_no_classes(tmp_path):
    from mmpretrain.datasets import CustomDataset

    hosts.apply()
    names = ('cat/0.png', 'dog/a/0.png', 'dog/.ipynb_checkpoints/0-checkpoint.png')
    for name in (*names, '.ipynb_checkpoints/0-checkpoint.png', '__MACOSX/cat/0.png'):
        draw(tmp_path / name, label=1, size=1)
    dataset = CustomDataset(data_prefix=str(tmp_path), pipeline=[])
    assert dataset.CLASSES == ('cat', 'dog')
    found = [(info['img_path'], info['gt_label']) for info in dataset]
    assert found == [(str(tmp_path / name), label) for label, name in enumerate(names[:2])]


@pytest.mark.parametrize(
    ('classes', 'match'),
    [
        (None, None),
        (['cat', 'dog', 'eel'], None),
        (['Katze', 'Hund', 'Aal'], None),  # names of the user's own
        (['cat', 'Hund', 'Aal'], None),
        (
            ['dog', 'cat', 'eel'],
            r"folder 'cat' have label 0, which is 'dog' .*\['cat', 'dog', 'eel'",
        ),
        (['Katze', 'eel', 'dog'], "folder 'dog' have label 1, which is 'eel'"),
    ],
)
def test_classes_in_another_order_than_their_folders(classes, match, tmp_path):
    from mmpretrain.datasets import CustomDataset

    from mmswinv2.hosts.mmpretrain import check_image_labels

    for label, name in enumerate(['cat', 'dog', 'eel']):
        draw(tmp_path / name / '0.png', label, size=1)
    meta = None if classes is None else dict(classes=classes)
    dataset = CustomDataset(data_prefix=str(tmp_path), metainfo=meta, pipeline=[])
    with pytest.raises(UserError, match=match) if match else nullcontext():
        check_image_labels(dataset, 3, 'train_dataloader')


@pytest.mark.parametrize(
    ('folders', 'named', 'right'),
    [
        (range(1, 10), True, True),
        (range(12), False, True),  # classes are called as their folders
        (range(12), True, False),
        (range(1, 11), True, False),
        ([f'{i:02}' for i in range(12)], True, True),
    ],
)
def test_folders_that_are_numbers(folders, named, right, tmp_path, warned):
    from mmpretrain.datasets import CustomDataset

    from mmswinv2.hosts.mmpretrain import check_image_labels

    for name in map(str, folders):
        draw(tmp_path / name / '0.png', 0, size=1)
    meta = dict(classes=[f'class {i}' for i in range(len(folders))]) if named else None
    dataset = CustomDataset(data_prefix=str(tmp_path), metainfo=meta, pipeline=[])
    check_image_labels(dataset, len(folders), 'train_dataloader')
    words = "the folder '10' have label [12], which is 'class [12]'"
    assert bool(warned) != right and all(re.search(words, text) for text in warned)


def test_image_smaller_than_the_crop(tool, trained, folders, tmp_path):
    config = tmp_path / 'crop.py'
    config.write_text(
        f"_base_ = '{ROOT / CLASSIFIER}'\n"
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), "
        "dict(type='CenterCrop', crop_size=96), dict(type='PackInputs')]))\n"
    )
    run = tool(
        'test.py', config, trained / 'iter_2.pth', '--work-dir', tmp_path, '--cfg-options',
        f'data_root={folders}',
    )  # fmt: skip
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert 'is 64x64 where CenterCrop wants 96x96' in run.stderr


def test_masks_that_do_not_divide(train, tmp_path):
    run = train(tmp_path, config=SIMMIM, options=('train_pipeline.3.mask_patch_size=7',
        'train_dataloader.dataset.pipeline.3.mask_patch_size=7'))  # fmt: skip
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert "'assert self.input_size % self.mask_patch_size == 0' does not hold" in run.stderr


def test_simmim_trains_and_draws(tool, train, folders, tmp_path):
    train(tmp_path, config=SIMMIM, options=('default_hooks.logger.interval=1',)).succeeded()
    images = folders / 'val2017'
    tool(
        'misc/simmim_demo.py', SIMMIM, tmp_path / 'iter_2.pth', images, '--out', tmp_path / 'drawn',
        '--number', '1',
    ).succeeded()  # fmt: skip
    (file,) = (tmp_path / 'drawn').glob('*.png')
    assert file.name == '000_0.png'
    masked, shown, truth = np.split(cv2.imread(str(file)).astype(int), 3, axis=1)
    hidden = (masked != truth).any(-1)
    assert 0.5 < hidden.mean() < 0.7 and (shown != masked)[hidden].any()
    assert masked.shape == (96, 96, 3) and (shown[~hidden] == truth[~hidden]).all()
    again = tool('misc/simmim_demo.py', SIMMIM, tmp_path / 'iter_2.pth', tmp_path / 'none')
    assert again.returncode == 1 and 'holds no picture' in again.stderr


def test_browse_dataset(tool, folders, tmp_path):
    tool(
        'analysis_tools/browse_dataset.py', CLASSIFIER, '-o', tmp_path / 'seen', '-n', '2',
        '--cfg-options', f'train_dataloader.dataset.data_root={folders}',
    ).succeeded()  # fmt: skip
    assert len(list((tmp_path / 'seen').rglob('*.png'))) == 2


TINY = 'configs/classification/swinv2-tiny-w8_16xb64_in1k-256px.py'


@pytest.mark.parametrize(('config', 'shape'), [(TINY, '(256, 256)'), (SIMMIM, '(96, 96)')])
def test_costs(tool, config, shape):
    run = tool('analysis_tools/get_flops.py', config).succeeded()
    assert f'Input shape: {shape}' in run.stdout


def test_activations(tool, tmp_path):
    run = tool(
        'analysis_tools/plot_activations.py', CLASSIFIER, '--out', tmp_path / 'a.png'
    ).succeeded()
    assert len([line for line in run.stdout.splitlines() if len(line.split()) == 3]) >= 8
    assert (tmp_path / 'a.png').stat().st_size > 10_000
