"""The command `mmswinv2 report` on a real training, and its page in a real browser."""

import html
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner

from mmswinv2.analysis.confusion import analyse_classes
from mmswinv2.analysis.untrusted import only_registered_types
from mmswinv2.cli.report import main, report, run_test
from mmswinv2.errors import UserError
from mmswinv2.options import command_line
from tests.test_tools.conftest import CONFIG, ROOT, made_once
from tests.tool_server import run_program

SEGMENTOR = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
VIDEO = 'configs/video/video-swinv2-nano_motion.py'
BY_EPOCH = {'default_hooks.logger.log_metric_by_epoch': True}  # mmengine's default
EVIL = '<script>document.title="taken"</script>&"\'$x_{'
TEXTS = {}  # of configs as mmengine writes them; formatting one takes longer than its report
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::DeprecationWarning')


@pytest.fixture(scope='session')
def resumed(train, tmp_path_factory):
    """The work dir of a training of two iterations that was resumed for two more."""

    def make(folder):
        options = ('default_hooks.logger.interval=1', 'train_cfg.val_interval=2')
        for args, iters in (((), 2), (('--resume',), 4)):
            train(folder, *args, iters=iters, options=options).succeeded()

    return made_once(tmp_path_factory, 'resumed_for_reports', make)


def work_dir(folder, config, entries=(), options=()):
    """A work dir with given log entries, and the whole config as mmengine writes it."""
    run = folder / '20260101_000000/vis_data'
    run.mkdir(parents=True)
    key = config, repr(options)
    if key not in TEXTS:
        cfg = Config.fromfile(ROOT / config)
        cfg.merge_from_dict(dict(options))
        TEXTS[key] = cfg.pretty_text
    for path in (run / 'config.py', folder / Path(config).name):
        path.write_text(TEXTS[key])
    entries = entries or [dict(lr=1e-3, loss=2.0, step=1), dict(lr=1e-4, loss=1.0, step=2)]
    (run / 'scalars.json').write_text(''.join(f'{json.dumps(entry)}\n' for entry in entries))
    return folder


def of_shapes(shapes, config=CONFIG):
    """Config options that set the data set."""
    ann_file = f'{shapes}/annotations/instances_val2017.json'
    root = dict.fromkeys(('data_root', 'test_dataloader.dataset.data_root'), f'{shapes}/')
    return root | ({'test_evaluator.ann_file': ann_file} if config == CONFIG else {})


class Page(HTMLParser):
    """Parses a page: the resources that it requests, and its text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.tags, self.words = [], [], []
        self.feed(path.read_text())
        self.text = re.sub(r'\s+', ' ', ' '.join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ('src', 'href', 'srcset', 'xlink:href')]

    def handle_data(self, data):
        if 'style' not in self.tags[-1:]:
            self.words.append(data)


def in_words(path):
    page = Page(path)
    outside = [link for link in page.links if not link.startswith(('data:image/', '#'))]
    assert outside == [] and not {'script', 'link', 'iframe', 'object'} & set(page.tags)
    return page.text


def look(browser, path, width):
    """Open a page; it must fit the window, load all pictures and log nothing to the console."""
    page = browser.new_page()
    page.set_viewport_size(dict(width=width, height=900))
    said = []
    page.on('console', lambda message: said.append(message.text))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('request', lambda request: said.append(request.url))
    page.goto(path.as_uri())
    said = [text for text in said if not text.startswith(('data:', path.as_uri()))]
    pictures = page.evaluate('[...document.images].map(i => i.complete && i.naturalWidth > 0)')
    assert said == [] and pictures and all(pictures)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    return page


CONTRAST = """() => {
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const below = node => {
    if (!node) return [255, 255, 255];
    const [r, g, b, a = 1] = numbers(getComputedStyle(node).backgroundColor);
    if (a == 1) return [r, g, b];
    return below(node.parentElement).map((c, i) => c * (1 - a) + [r, g, b][i] * a);
  };
  const texts = [...document.body.querySelectorAll('*')].filter(node => !node.closest('svg') &&
    [...node.childNodes].some(child => child.nodeType == 3 && child.data.trim()));
  return [light(below(document.body)), Math.min(...texts.map(node => {
    const pair = [light(numbers(getComputedStyle(node).color)), light(below(node))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  }))];
}"""


def check_contrast(page):
    """Text must be readable (WCAG, AA) in both color schemes; the background goes with them.

    Paper is light in both.
    """
    for scheme, medium, least, most in (
        ('light', 'screen', 0.8, 1), ('dark', 'screen', 0, 0.05), ('dark', 'print', 0.8, 1),
    ):  # fmt: skip
        page.emulate_media(color_scheme=scheme, media=medium)
        background, contrast = page.evaluate(CONTRAST)
        assert least <= background <= most and contrast >= 4.5, (scheme, medium, contrast)


# --- a whole training ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_that_was_resumed(resumed, browser, tmp_path, capfd):
    folder = shutil.copytree(resumed, tmp_path / 'run')
    configs = {path: path.read_bytes() for path in folder.glob('*.py')}
    main([str(folder), '--predict', '--config', str(ROOT / CONFIG), '--score', '0'])
    assert configs and all(path.read_bytes() == content for path, content in configs.items())
    out = folder / 'report.html'
    assert f'the report is {out}' in capfd.readouterr().out
    text = in_words(out)
    # logs
    assert 'The training was resumed: its parts are' in text and 'not finished' not in text
    assert 'iterations 4' in text and 'validation at iteration 4' in text and 'test of 2' in text
    # environment and command, from the log
    command = 'train.py configs/detection/mask-rcnn_swinv2-nano_shapes.py --work-dir'
    assert command in text and '--resume' in text and f'PyTorch {torch.__version__}' in text
    # config
    assert 'What this run has changed of mask-rcnn_swinv2-nano_shapes.py' in text
    assert 'train_cfg.max_iters 650 4' in text
    assert "model.backbone.arch 'tiny' 'nano'" in text
    # predictions
    assert '4 pictures with ' in text and 'box AP50' in text and 'localization' in text
    for width in (1200, 390):
        page = look(browser, out, width)
        assert page.locator('section').count() == 6 and page.locator('.example').count() == 4
        assert page.locator('.matrix tbody tr').count() == 5  # 4 classes, (extra)
        page.close()
    # the second report finds the predictions again, and nothing else has changed
    again = report(folder, tmp_path / 'again.html', score=0)
    assert '4 pictures with ' in in_words(again)
    assert not list(tmp_path.rglob('*.part*'))


def test_logs_alone(browser, tmp_path):
    entries = [
        {'lr': 1e-3, 'loss': 3.0 - i, 'loss_mask': 1.0, 'acc': 50.0, 'grad_norm': 1.0, 'step': i}
        for i in (1, 2)
    ]
    entries[1:1] = [{'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_l': -1, 'step': 0}]
    entries.append({'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_l': -1, 'step': 0})
    folder = work_dir(tmp_path / 'run', CONFIG, entries, BY_EPOCH)
    out = report(folder)
    text = in_words(out)
    assert f'mmswinv2 report {folder} --predict' in text and 'box AP50' not in text
    assert 'box AP 0.500' in text and 'validation at iteration 2 coco/bbox_mAP 0.500' in text
    assert 'bbox_mAP_l' not in text
    assert 'The log does not have it' in text
    assert "model.backbone.arch 'tiny' 'nano'" in text  # the package's config was found by name
    (folder / Path(CONFIG).name).rename(folder / 'another.py')
    assert f'mmswinv2 report {folder} --config FILE' in in_words(report(folder))
    page = look(browser, out, 390)
    assert page.locator('figcaption').all_inner_texts() == [
        'Training loss', 'Validation scores', 'Learning rate', 'Accuracy on training batches',
        'Norm of the gradient',
    ]  # fmt: skip


# --- text from files -----------------------------------------------------------------------------


def test_text_from_files_stays_text(shapes, browser, tmp_path):
    data = shutil.copytree(shapes, tmp_path / 'data')
    ann_file = data / 'annotations/instances_val2017.json'
    content = json.loads(ann_file.read_text())
    content['categories'][0]['name'] = EVIL
    name = '<img src=x onerror=alert(1)>.jpg'
    old = data / 'val2017' / content['images'][0]['file_name']
    old.rename(old.with_name(name))
    content['images'][0]['file_name'] = name
    ann_file.write_text(json.dumps(content))
    classes = (EVIL, 'square', 'triangle', 'star')
    options = of_shapes(data) | {'test_dataloader.dataset.metainfo.classes': classes}
    entries = [{'lr': 1.0, f'loss_{EVIL}': 1.0, 'step': 1}, {EVIL: 0.5, 'step': 1}]
    folder = work_dir(tmp_path / 'run', CONFIG, entries, options)
    (folder / '20260101_000000/20260101_000000.log').write_text(
        f'{"-" * 60}\nSystem environment:\n    GCC: {EVIL}\n{"-" * 60}\n'
        f'2026/01/01 00:00:00 - mmengine - INFO - command: {EVIL}\n'
    )
    samples = predictions_of_the_truth(content)
    samples[0]['pred_instances']['labels'][:] = 0
    samples[1]['pred_instances']['labels'][:] = 0
    out = report(folder, predictions=dump(samples, tmp_path), pictures=4)
    assert in_words(out).count(EVIL) > 8
    assert EVIL not in out.read_text() and html.escape(name, quote=False) in out.read_text()
    page = look(browser, out, 1200)
    assert page.evaluate('document.scripts.length') == 0 and 'report' in page.title()
    stroke = 'all => all.map(text => getComputedStyle(text).stroke)'  # behind the white names
    light = page.locator('svg text').evaluate_all(stroke)
    page.emulate_media(color_scheme='dark')
    assert page.locator('svg text').evaluate_all(stroke) == light and len(light) > 1


# --- detectors -----------------------------------------------------------------------------------


def predictions_of_the_truth(content):
    """Samples as mmdet dumps them, with boxes and masks of the ground truth at score 1."""
    import pycocotools.mask

    order = {c['id']: i for i, c in enumerate(content['categories'])}
    samples = []
    for image in content['images']:
        size = image['height'], image['width']
        own = [a for a in content['annotations'] if a['image_id'] == image['id']]
        boxes = torch.tensor([a['bbox'] for a in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        codes = [pycocotools.mask.frPyObjects(a['segmentation'], *size) for a in own]
        found = dict(
            bboxes=boxes,
            labels=torch.tensor([order[a['category_id']] for a in own]),
            scores=torch.linspace(0.99, 0.9, len(own)),
            masks=[pycocotools.mask.merge(code) for code in codes],
        )
        samples.append(dict(img_id=image['id'], ori_shape=size, pred_instances=found))
    return samples


def dump(samples, folder, name='predictions.pkl'):
    path = folder / name
    path.write_bytes(pickle.dumps(samples, protocol=2))  # protocol of mmengine
    return path


@pytest.fixture
def truth(shapes):
    return json.loads((shapes / 'annotations/instances_val2017.json').read_text())


@pytest.fixture
def find(shapes, tmp_path):
    """A function that compares samples with the shapes data set."""
    from mmswinv2.analysis.predictions import examine

    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.merge_from_dict(of_shapes(shapes))
    return lambda samples, score=0.3: examine(cfg, dump(samples, tmp_path), score, 4, tmp_path)


def test_perfect_predictions(truth, find):
    found = find(predictions_of_the_truth(truth))
    for name, objects, *scores in found.classes.rows:
        assert objects and scores == pytest.approx([1] * 5), name
    assert [row[1:3] for row in found.errors.rows] == [[0, 0]] * 6
    counts = found.matrix.counts
    assert counts.trace() == counts.sum() == len(truth['annotations'])
    assert found.examples == [] and all((p == 1).all() for p in found.precision.values())


def add(sample, box, label, score):
    found = sample['pred_instances']
    found['bboxes'] = torch.cat([found['bboxes'], torch.tensor([box])])
    found['labels'] = torch.cat([found['labels'], torch.tensor([label])])
    found['scores'] = torch.cat([found['scores'], torch.tensor([score])])
    found['masks'] = [*found['masks'], found['masks'][0]]


def one_object(truth):
    """The ground truth with one object in each picture, from 20 to 60 in both directions."""
    for image in truth['images']:
        image.update(width=96, height=96)
    truth['annotations'] = [
        dict(
            id=i + 1, image_id=image['id'], category_id=truth['categories'][i % 4]['id'],
            bbox=[20.0, 20.0, 40.0, 40.0], area=1600.0, iscrowd=0,
            segmentation=[[20, 20, 60, 20, 60, 60, 20, 60]],
        )
        for i, image in enumerate(truth['images'])
    ]  # fmt: skip
    return truth


BOX, MOVED, TOUCHING, AWAY = (
    [20.0, 20.0, 60.0, 60.0], [40.0, 20.0, 80.0, 60.0], [45.0, 20.0, 85.0, 60.0],
    [70.0, 70.0, 90.0, 90.0],
)  # fmt: skip
WRONG = {  # case: boxes of the first picture as (box, shift of the label, score), expected errors
    'class': ([(BOX, 1, 0.9)], {'class': 1}),
    'localization': ([(MOVED, 0, 0.9)], {'localization': 1}),
    'both': ([(TOUCHING, 1, 0.9)], {'both': 1, 'missed': 1}),
    'duplicate': ([(BOX, 0, 0.9), (BOX, 0, 0.8)], {'duplicate': 1}),
    'background': ([(BOX, 0, 0.9), (AWAY, 0, 0.8)], {'background': 1}),
    'missed': ([], {'missed': 1}),
    'unsure': ([(BOX, 0, 0.2)], {'missed': 1}),
}


def errors(shapes, folder, content, boxes):
    """Findings when the first picture has the given boxes, and the others those of the truth."""
    from mmswinv2.analysis.predictions import examine

    data = shutil.copytree(shapes, folder / 'data')
    for image in content['images']:
        cv2.imwrite(str(data / 'val2017' / image['file_name']), np.zeros((96, 96, 3), np.uint8))
    (data / 'annotations/instances_val2017.json').write_text(json.dumps(content))
    cfg = Config.fromfile(ROOT / CONFIG)
    cfg.merge_from_dict(of_shapes(data))
    samples = predictions_of_the_truth(content)
    first = samples[0]['pred_instances']
    label = int(first['labels'][0])
    first['masks'] = first['masks'] * len(boxes)
    first['bboxes'] = torch.tensor([box for box, _, _ in boxes]).reshape(-1, 4)
    first['labels'] = torch.tensor([(label + more) % 4 for _, more, _ in boxes], dtype=torch.int64)
    first['scores'] = torch.tensor([score for *_, score in boxes])
    for sample in samples[1:]:
        sample['pred_instances']['scores'][:] = 0.5
    return examine(cfg, dump(samples, folder), 0.3, 4, folder)


@pytest.mark.parametrize(('boxes', 'kinds'), WRONG.values(), ids=WRONG)
def test_kinds_of_errors(truth, tmp_path, shapes, boxes, kinds):
    content = one_object(truth)
    found = errors(shapes, tmp_path, content, boxes)
    counts = {row[0]: row[1] for row in found.errors.rows}
    assert {kind: count for kind, count in counts.items() if count} == kinds
    lost = {row[0]: row[2] for row in found.errors.rows}
    if kinds.keys() == {'class'}:  # of 4 classes, one lost its box, another has a false one
        assert lost['class'] == max(lost.values()) > 0.2
    if kinds.keys() == {'localization'} or (kinds.keys() == {'missed'} and not boxes):
        assert lost.pop(*kinds) == pytest.approx(0.25) and not any(lost.values())
    (example,) = found.examples
    assert Path(example.name).name == content['images'][0]['file_name']
    shown = [box.kind for box in example.panels[1].boxes]
    assert len(shown) == sum(score >= 0.3 for *_, score in boxes)


def test_outlines_are_those_of_masks():
    from mmswinv2.analysis.findings import outline

    mask = np.zeros((60, 90), bool)
    mask[10:50, 20:70], mask[20:30, 30:60], mask[2:5, 80:88] = True, False, True
    rings = [
        np.array([list(map(float, point.split())) for point in ring[:-1].split('L')])
        for ring in outline(mask).split('M')[1:]
    ]
    drawn = np.zeros((600, 900), np.uint8)
    cv2.fillPoly(drawn, [(ring * (900, 600)).astype(int) for ring in rings], 1)  # even-odd
    right = mask.repeat(10, 0).repeat(10, 1)
    assert len(rings) == 3 and drawn[right].mean() > 0.9 and drawn[~right].mean() < 0.05
    noise = np.random.default_rng(0).random((1500, 2000)) < 0.5
    assert len(outline(noise)) < 1e6  # no finer than the picture


def test_masks_of_the_worst_pictures(truth, shapes, browser, tmp_path):
    folder = work_dir(tmp_path / 'run', CONFIG, options=of_shapes(shapes))
    samples = predictions_of_the_truth(truth)
    for sample in samples:
        sample['pred_instances']['labels'] = (sample['pred_instances']['labels'] + 1) % 4
    out = report(folder, predictions=dump(samples, tmp_path), pictures=1)
    page = look(browser, out, 1200)
    check_contrast(page)
    sides = page.evaluate(
        """[...document.querySelectorAll('.example g')]
        .map(g => [...g.querySelectorAll('path, .box')]
        .map(shape => shape.getBoundingClientRect()).map(r => [r.x, r.y, r.right, r.bottom]))"""
    )
    assert len(sides) == 2 * max(map(len, (s['pred_instances']['labels'] for s in samples)))
    for mask, box in sides:
        assert mask == pytest.approx(box, abs=10)  # one pixel of the picture is 5 here
    page.close()
    for sample in samples:
        del sample['pred_instances']['masks']
    report(folder, predictions=dump(samples, tmp_path), pictures=1)
    assert 'path' not in Page(out).tags and 'rect' in Page(out).tags


@pytest.mark.parametrize(
    ('boxes', 'kind', 'count'),
    [
        ([(BOX, 0, 0.9), (MOVED, 0, 0.8)], 'localization', 1),
        ([(MOVED, 0, 0.9), (MOVED, 0, 0.8)], 'localization', 2),
        ([(BOX, 1, 0.9), (BOX, 2, 0.8)], 'class', 2),
    ],
)
def test_an_object_mends_one_box(truth, tmp_path, shapes, boxes, kind, count):
    """As in TIDE, a second one is removed; else it would rank above right boxes of its class."""
    content = one_object(truth)
    for annotation in content['annotations']:
        annotation['category_id'] = content['categories'][0]['id']
    found = errors(shapes, tmp_path, content, boxes)
    kinds = {row[0]: row[1:3] for row in found.errors.rows}
    assert kinds.pop(kind) == [count, pytest.approx(1 - found.classes.rows[0][3])]
    assert 0.3 < found.classes.rows[0][3] < 0.9 and all(lost == [0, 0] for lost in kinds.values())


def test_scores_are_those_of_mmdet(truth, find, shapes):
    """AP per class and over all classes, with boxes that are moved and change classes."""
    from mmdet.evaluation import CocoMetric

    samples = predictions_of_the_truth(truth)
    rng = np.random.default_rng(0)
    for sample in samples:
        found = sample['pred_instances']
        found['bboxes'] += torch.tensor(rng.normal(0, 2, found['bboxes'].shape)).float()
        wrong = torch.tensor(rng.random(len(found['labels'])) < 0.3)
        found['labels'][wrong] = (found['labels'][wrong] + 1) % 4
        found['scores'] = torch.tensor(rng.random(len(found['labels']))).float()
    ours = find(samples)
    metric = CocoMetric(
        ann_file=f'{shapes}/annotations/instances_val2017.json', metric=['bbox', 'segm'],
        classwise=True,
    )  # fmt: skip
    metric.dataset_meta = dict(classes=tuple(row[0] for row in ours.classes.rows))
    metric.process({}, samples)
    theirs = metric.evaluate(len(samples))
    assert 0.05 < theirs['coco/bbox_mAP'] < 0.95
    columns = list(zip(*ours.classes.rows, strict=True))
    for column, key in ((2, 'bbox_mAP'), (3, 'bbox_mAP_50'), (5, 'segm_mAP'), (6, 'segm_mAP_50')):
        assert np.mean(columns[column]) == pytest.approx(theirs[f'coco/{key}'], abs=1e-3)
    for row in ours.classes.rows:  # mmdet has one key for boxes and masks; masks are last
        assert row[5] == pytest.approx(theirs[f'coco/{row[0]}_precision'], abs=1e-3)


OTHER = {
    'fewer pictures': (lambda s: s[1:], '1 of its 4 pictures are missing'),
    'other pictures': (lambda s: [{**s[0], 'img_id': 77}, *s[1:]], 'image 77 is not in'),
    'other sizes': (lambda s: [{**s[0], 'ori_shape': (1, 2)}, *s[1:]], 'image 1 had 2x1 pixels'),
    'more classes': (
        lambda s: [add(s[0], AWAY, 4, 0.5), *s][1:],
        'it has a class 4, and the data set 4',
    ),
    'another task': (lambda s: [dict(a=1)], 'they are no boxes of a detector'),
    'nothing': (lambda s: [], 'they are no list of samples, or an empty one'),
    'arrays of mmdet 2': (lambda s: [[np.zeros((1, 5))]], 'they are no list of samples, or an'),
}


@pytest.mark.parametrize(('change', 'words'), OTHER.values(), ids=OTHER)
def test_predictions_of_another_data_set(shapes, truth, tmp_path, change, words):
    folder = work_dir(tmp_path / 'run', CONFIG, options=of_shapes(shapes))
    path = dump(change(predictions_of_the_truth(truth)), tmp_path)
    with pytest.raises(UserError, match=f'predictions of another data set .*{words}'):
        report(folder, predictions=path)
    assert not list(folder.glob('*.html'))


def test_panoptic_predictions(shapes, truth, tmp_path):
    """Their annotations have no boxes of objects; the rest of the page is written without them."""
    options = of_shapes(shapes)
    folder = work_dir(tmp_path / 'run', CONFIG, options=options)
    samples = predictions_of_the_truth(truth)
    path = dump([dict(sample, pred_panoptic_seg=dict(sem_seg=[])) for sample in samples], tmp_path)
    report(folder, predictions=path)  # of a model that predicts both, and boxes of objects
    options['test_dataloader.dataset.type'] = 'CocoPanopticDataset'
    folder = work_dir(tmp_path / 'panoptic', CONFIG, options=options)
    with pytest.raises(UserError, match='panoptic predictions, of which a report shows nothing'):
        report(folder, predictions=path)
    path.rename(folder / 'predictions.pkl')
    assert 'are left out: ' in in_words(report(folder))


# --- segmentors ----------------------------------------------------------------------------------


def test_segmentor(shapes, browser, tmp_path):
    from mmseg.evaluation import IoUMetric

    maps, areas = tmp_path / 'maps', []
    maps.mkdir()
    for i, path in enumerate(sorted((shapes / 'stuffthingmaps/val2017').iterdir())):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels = truth.copy()
        labels[: 5 * i] = 6 - labels[: 5 * i]  # makes the last picture the worst
        labels[9, :9] = 9  # no class of the data set, as of a head that has more
        cv2.imwrite(str(maps / path.name), labels)
        pair = map(torch.from_numpy, (labels, truth))
        areas.append(IoUMetric.intersect_and_union(*pair, 7, 255))
    theirs = IoUMetric.total_area_to_metrics(*(sum(a) for a in zip(*areas, strict=True)))
    folder = work_dir(tmp_path / 'run', SEGMENTOR, options=of_shapes(shapes, SEGMENTOR))
    out = report(folder, predictions=maps)
    text = in_words(out)
    for iou, recall in zip(theirs['IoU'], theirs['Acc'], strict=True):
        assert f'{iou:.3f} {recall:.3f}' in text
    assert f'mIoU {100 * np.mean(theirs["IoU"]):.1f}%' in text
    assert f'{theirs["aAcc"]:.1%} of the pixels right' in text and 'gradient (other)' in text
    page = look(browser, out, 390)
    assert page.locator('.example .name').first.inner_text().endswith('000000000004.jpg')
    check_contrast(page)
    page.close()
    # overwriting a map does not change the time of its folder
    torch.save(dict(state_dict={}), folder / 'iter_9.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_9.pth'))
    note = 'are older than the checkpoint iter_9.pth'
    for time, told in ((1, True), (2**33, False)):
        for path in maps.iterdir():
            os.utime(path, (time, time))
        os.utime(maps, (1, 1))
        assert (note in in_words(report(folder, predictions=maps))) == told
    config = folder / '20260101_000000/vis_data/config.py'
    cfg = Config.fromfile(config)
    single = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[single, single])
    cfg.dump(config)
    assert f'mIoU {100 * np.mean(theirs["IoU"]):.1f}%' in in_words(report(folder, predictions=maps))
    reduced = Config.fromfile(config)
    for dataset in reduced.test_dataloader.dataset.datasets:
        dataset.reduce_zero_label = True
    reduced.dump(config)
    with pytest.raises(UserError, match='has the label 0, and with reduce_zero_label maps of mmsw'):
        report(folder, predictions=maps)
    cfg.dump(config)
    other = shutil.copytree(shapes, tmp_path / 'other')
    second = Config.fromfile(config).test_dataloader.dataset.datasets[0]
    second.data_root = f'{other}/'
    cfg.test_dataloader.dataset.datasets[1] = second
    cfg.dump(config)
    with pytest.raises(
        UserError, match=r'test_dataloader: .*jpg. and .*other.*jpg. would both have'
    ):
        report(folder, predictions=maps)
    cfg.test_dataloader.dataset = single
    cfg.dump(config)
    (maps / '000000000002.png').unlink()
    with pytest.raises(UserError, match='another data set .* it has no 000000000002.png'):
        report(folder, predictions=maps)


# --- classifiers ---------------------------------------------------------------------------------


def test_video_classifier(clips, tmp_path):
    options = {'test_dataloader.dataset.data_root': f'{clips}/'}
    entries = [dict(lr=1.0, loss=1.0, step=1), {'acc/top1': 0.25, 'step': 1}]
    folder = work_dir(tmp_path / 'run', VIDEO, entries, options)
    lines = (clips / 'motion_val_list_videos.txt').read_text().split()
    labels = [int(label) for label in lines[1::2]]
    scores = torch.full((len(labels), 6), 0.1)
    found = [labels[0], *((label + 1) % 6 for label in labels[1:])]
    for i, label in enumerate(found):
        scores[i, label] = 0.5 + i / 100
    samples = [
        dict(pred_score=score, gt_label=torch.tensor([label]))
        for score, label in zip(scores, labels, strict=True)
    ]
    out = report(folder, predictions=dump(samples, tmp_path), pictures=2)
    text = in_words(out)
    assert '6 samples: 16.7% right (top-1)' in text and 'Video classifier' in text
    worst = f'is {labels[-1]} (0.10), taken for {found[-1]} (0.55)'
    assert (
        f'{worst} {clips}/videos_val/{lines[-2]} frame 0' in text and text.count('taken for') == 2
    )
    with pytest.raises(UserError, match='another data set .*: 5 samples, and it has 6'):
        report(folder, predictions=dump(samples[1:], tmp_path))
    samples[0]['gt_label'] = (samples[0]['gt_label'] + 1) % 6
    with pytest.raises(UserError, match='1 of its 6 labels are others'):
        report(folder, predictions=dump(samples, tmp_path))


def analyse_scores(labels, scores, most, **metainfo):
    """The analysis of these scores of a classifier."""

    class Data(list):
        def get_data_info(self, index):
            return dict(gt_label=self[index])

    data = Data(labels)
    data.metainfo = metainfo
    samples = [
        dict(pred_score=torch.tensor(score), gt_label=torch.tensor([label]))
        for score, label in zip(scores, labels, strict=True)
    ]
    return analyse_classes(data, samples, 'p.pkl', most)


@pytest.mark.parametrize('digits', [9, 1, 0])  # some are equal, and most
def test_labels_among_the_five_highest_scores(digits):
    draw = np.random.default_rng(0)
    scores, labels = draw.random((40, 9)).round(digits), draw.integers(0, 9, 40)
    best = [sorted(range(9), key=lambda i: -row[i])[:5] for row in scores]
    hits = np.mean([label in five for label, five in zip(labels, best, strict=True)])
    found = analyse_scores(labels.tolist(), scores.tolist(), 0)
    assert found.words.endswith(f'(top-1), {hits:.1%} among the best 5') and 0.2 < hits < 0.9


def test_scores_that_are_no_numbers_have_no_label_among_the_best():
    found = analyse_scores([0, 8], [[np.nan] * 9, [*[np.nan] * 5, 0.1, 0.2, 0.3, 0.4]], 0)
    assert ', 0.0% among the best 5' in found.words


def test_classes_of_one_name_are_confused():
    """ImageNet has the bird and the machine."""
    found = analyse_scores([0, 1], [[0.9, 0.1], [0.8, 0.2]], 0, classes=('crane', 'crane'))
    assert found.matrix.confusions() == [('crane (1)', 'crane (0)', 1, 1.0)]


def test_samples_without_a_label_are_left_out():
    """Such as the videos of a list without labels, whose label is -1."""
    scores, classes = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], ('cat', 'zebra')
    found = analyse_scores([0, -1, 1], scores, 3, classes=classes)
    assert found.words.startswith('2 samples: 100.0% right (top-1)')
    assert found.words.endswith('; 1 without a label are left out') and found.examples == []
    with pytest.raises(UserError, match='no sample of p.pkl has a label; leave --predictions out'):
        analyse_scores([-1] * 3, scores, 3, classes=classes)


@pytest.mark.parametrize('classes', [('a', 'b'), ('a', 'b', 'c'), ('a', 'b', 'c', 'd')])
def test_labels_that_the_model_has_no_score_for(classes):
    """As where a test set has more classes than the training had."""
    scores = [[-0.9, -2.0], [-0.4, -3.0], [-3.0, -2.0]]
    found = analyse_scores([0, 2, 1], scores, 3, classes=classes)
    assert found.words.startswith('3 samples: 66.7% right (top-1); the model has scores of the')
    side = max(3, len(classes))
    expected = np.zeros((side, side), int)
    expected[0, 0] = expected[1, 1] = expected[2, 0] = 1
    assert (found.matrix.counts == expected).all() and len(found.matrix.rows) == side
    (name,) = {'c', '2'} & set(found.matrix.rows)
    assert found.matrix.confusions() == [(name, 'a', 1, 1.0)]
    assert [row[2:] for row in found.classes.rows[:3]] == [[1.0, 0.5], [1.0, 1.0], [0.0, None]]
    assert [example.words for example in found.examples] == [
        f'is {name} (-inf), taken for a (-0.40)'
    ]


def test_a_label_far_beyond_the_classes():
    """It is one class more, not all numbers up to it."""
    scores = [[0.1, 0.9], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]]
    found = analyse_scores([10**6, 0, 7, 10**6], scores, 0)
    assert found.matrix.rows == ['0', '1', '7', '1000000']
    assert found.matrix.counts.tolist() == [[1, 0, 0, 0], [0] * 4, [1, 0, 0, 0], [1, 1, 0, 0]]


# --- bad input -----------------------------------------------------------------------------------


def test_work_dirs_without_logs(tmp_path):
    with pytest.raises(UserError, match='none does not exist'):
        report(tmp_path / 'none')
    with pytest.raises(UserError, match='has no logs of a training or test'):
        report(tmp_path)
    work_dir(tmp_path / 'runs/one', CONFIG)
    with pytest.raises(UserError, match='has no logs .*; there is .*/runs/one;'):
        report(tmp_path / 'runs')
    begun = tmp_path / 'begun/20260101_000000'  # it ended before the first line on its losses
    begun.mkdir(parents=True)
    (begun / f'{begun.name}.log').touch()
    with pytest.raises(UserError, match='no losses or scores so far; see .*/20260101_000000.log'):
        report(tmp_path / 'begun')
    (tmp_path / 'no_file/20260101_000000/vis_data/scalars.json').mkdir(parents=True)
    with pytest.raises(UserError, match='has no logs of a training or test'):
        report(tmp_path / 'no_file')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='the work dir .*file is a file'):
        report(tmp_path / 'file')
    assert not list(tmp_path.rglob('*.html'))


def test_a_training_that_was_killed(tmp_path):
    folder = work_dir(tmp_path / 'run', CONFIG)
    log = folder / '20260101_000000/vis_data/scalars.json'
    log.write_bytes(
        log.read_bytes() + b'[1]\n{"lr": 0.1, "step": "x"}\n'
        b'{"lr": NaN, "loss": Infinity, "step": 3}\n{"lr": 0.\xff'
    )
    text = in_words(report(folder))
    assert '2 lines of the logs are cut short and left out' in text
    assert (
        'The training is not finished, or was stopped: the logs end at iteration 3 of 650' in text
    )


@pytest.mark.parametrize(
    ('epoch', 'iteration', 'ended'),
    [(12, 100, 11), (12, 1000, None), (12, 996, None), (11, 1000, 11), (1, 10, 0)],
)
def test_an_epoch_counts_once_it_has_ended(epoch, iteration, ended, tmp_path):
    entries = [{'lr': 1, 'loss': 1.0, 'epoch': epoch, 'iter': iteration, 'step': iteration}]
    options = {'train_cfg.max_epochs': 12, 'default_hooks.logger.interval': 10}
    folder = work_dir(tmp_path / 'run', CONFIG, entries, options)
    (folder / '20260101_000000/20260101_000000.log').write_text(
        f'INFO - Epoch(train)   [1][   10/1000]  lr: 1\n'
        f'INFO - Epoch(train)  [{epoch}][{iteration:5}/1000]  lr: 1\n'
    )
    text = in_words(report(folder))
    assert ('not finished' in text) == (ended is not None)
    log = folder / '20260101_000000/20260101_000000.log'
    log.write_text(log.read_text() + 'a row of a table\n' * 9)
    log.write_text('INFO - Epoch(train)  [9][ 1000/1000]  lr: 1\n')  # of which the end is lost
    assert ('not finished' in in_words(report(folder))) == (epoch < 12)
    assert ended is None or f'the logs end at epoch {ended} of 12' in text


def test_a_training_whose_logger_is_in_custom_hooks(tmp_path):
    """mmengine leaves a default hook out that is None."""
    options = {'default_hooks.logger': None, 'custom_hooks': [dict(type='LoggerHook')]}
    text = in_words(report(work_dir(tmp_path / 'run', CONFIG, options=options)))
    assert 'the logs end at iteration 2 of 650' in text


def test_differences_in_lists_of_lists():
    from mmswinv2.analysis.work_dir import differences

    def config(scale):
        views = [[dict(type='Resize', scale=scale, keep_ratio=True)], [dict(type='Pack')]]
        return dict(
            pipeline=[dict(type='TestTimeAug', transforms=views)], empty=[], sizes=[[1], [2]]
        )

    sorted_keys = json.loads(json.dumps(config(2), sort_keys=True))
    assert differences(config(2), sorted_keys) == []
    place = 'pipeline.0.transforms.0.0.scale'
    assert differences(config(1), sorted_keys) == [(place, '1', '2')]


@pytest.mark.parametrize(('test', 'headline'), [('20260102', '0.500'), ('20260104', '0.100')])
def test_the_score_of_the_last_evaluation_comes_first(test, headline, tmp_path):
    """A test before the training went on is older than its validation."""
    name = 'coco/bbox_mAP'
    folder = work_dir(tmp_path / 'run', CONFIG, [dict(lr=1, loss=1.0, step=1), {name: 0.1}])
    resumed = shutil.copytree(folder / '20260101_000000', folder / '20260103_000000')
    cfg = Config.fromfile(resumed / 'vis_data/config.py')
    cfg.resume = True
    cfg.dump(resumed / 'vis_data/config.py')
    entries = [dict(lr=1, loss=1.0, step=2), {name: 0.5, 'step': 2}]
    log = ''.join(f'{json.dumps(entry)}\n' for entry in entries)
    (resumed / 'vis_data/scalars.json').write_text(log)
    (folder / f'{test}_000000').mkdir()
    (folder / f'{test}_000000/{test}_000000.json').write_text(json.dumps({name: 0.1}))
    text = in_words(report(folder))
    assert f'box AP {headline} iterations 2' in text and f'test of {test}_000000' in text


def test_what_curves_do_not_show_is_told(tmp_path):
    many = {f'd{i}.loss_cls': 0.1 for i in range(20)}
    entries = [dict(lr=1, step=i, loss=1.0 if i < 2 else float('nan'), **many) for i in range(4)]
    text = in_words(report(work_dir(tmp_path / 'nan', CONFIG, entries)))
    assert 'The loss is NaN or infinite, first at iteration 2.' in text
    assert 'Training loss, 18 of 21' in text
    text = in_words(report(work_dir(tmp_path / 'right', CONFIG)))
    assert 'NaN' not in text and 'Training loss loss' in text


def test_predictions_of_another_task_in_the_same_folder(shapes, tmp_path):
    folder = work_dir(tmp_path / 'run', SEGMENTOR, options=of_shapes(shapes, SEGMENTOR))
    shutil.copytree(shapes / 'stuffthingmaps/val2017', folder / 'predictions')
    dump([dict(img_id=1)], folder)  # of a detector that was trained here before
    assert 'mIoU 100.0%' in in_words(report(folder))


def test_predictions_of_an_earlier_checkpoint_name_it(shapes, tmp_path):
    maps = shutil.copytree(shapes / 'stuffthingmaps/val2017', tmp_path / 'run/predictions')
    folder = work_dir(tmp_path / 'run', SEGMENTOR, options=of_shapes(shapes, SEGMENTOR))
    torch.save(dict(state_dict={}), folder / 'iter_9.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_9.pth'))
    test = folder / '20260102_000000'
    (test / 'vis_data').mkdir(parents=True)
    (test / f'{test.name}.json').write_text('{"mIoU": 12.0}')
    cfg = Config.fromfile(folder / '20260101_000000/vis_data/config.py')
    cfg.test_evaluator.output_dir = str(maps)
    for name in ('iter_5.pth', 'iter_9.pth'):
        cfg.load_from = f'elsewhere/{name}'
        cfg.dump(test / 'vis_data/config.py')
        text = in_words(report(folder))
        note = f'The predictions are of {name}, and the last checkpoint is iter_9.pth'
        assert (note in text) == (name == 'iter_5.pth')
        assert f'test of {test.name}, {name}' in text


def test_a_report_without_the_data_of_kept_predictions(tmp_path):
    folder = work_dir(tmp_path / 'my run', CONFIG, options=of_shapes(tmp_path / 'moved'))
    (folder / 'predictions.pkl').write_bytes(pickle.dumps([dict(img_id=1)]))
    text = in_words(report(folder))
    assert 'predictions.pkl are left out: ' in text and 'does not exist' in text
    assert f"mmswinv2 report '{folder}' --predict" in text
    with pytest.raises(UserError, match='does not exist'):
        report(folder, predictions=folder / 'predictions.pkl')


def test_a_report_on_a_pre_training_offers_no_test(tmp_path):
    config = 'configs/pretraining/simmim_swinv2-nano_shapes.py'
    text = in_words(report(work_dir(tmp_path / 'run', config)))
    assert '--predict' not in text and 'Classes and errors' not in text
    assert 'of mmpretrain' in text and 'analyze_results' in text  # the host's tools


def test_a_new_start_replaces_what_was_there(tmp_path):
    from mmswinv2.analysis.work_dir import read_work_dir

    folder = work_dir(tmp_path / 'run', CONFIG)
    later = shutil.copytree(folder / '20260101_000000', folder / '20260102_000000')
    log = later / 'vis_data/scalars.json'
    log.write_text('{"lr": 1, "loss": 5.0, "step": 2}\n')
    assert read_work_dir(folder).curves()['loss'] == [(2, 5.0)]
    config = later / 'vis_data/config.py'
    config.write_text(config.read_text().replace('resume = False', 'resume = True'))
    assert read_work_dir(folder).curves()['loss'] == [(1, 2.0), (2, 5.0)]


def test_validations_before_the_first_loss_of_a_resumed_run(tmp_path):
    from mmswinv2.analysis.work_dir import read_work_dir

    folder = work_dir(tmp_path / 'run', CONFIG, options=BY_EPOCH)
    lines = [f'{{"lr": 1, "loss": {i}.0, "step": {i}}}\n' for i in (50, 100)]
    (folder / '20260101_000000/vis_data/scalars.json').write_text(''.join(lines))
    later = shutil.copytree(folder / '20260101_000000', folder / '20260102_000000')
    config = later / 'vis_data/config.py'
    config.write_text(config.read_text().replace('resume = False', 'resume = True'))
    log = later / 'vis_data/scalars.json'
    val = '{"acc": 0.25, "step": 3}\n'  # mmengine logs the epoch
    for text, losses, step in (
        (val + '{"lr": 1, "loss": 150.0, "step": 150}\n', [50, 100, 150], 100),
        (val + '{"lr": 1, "loss": 100.0, "step": 100}\n', [50, 100], 100),
        (val + '{"lr": 1, "loss": 75.0, "step": 75}\n', [50, 75], 75),
        (val, [50, 100], 100),
        ('{"acc": 0.25, "step": 109}\n', [50, 100], 109),
    ):
        log.write_text(text)
        work = read_work_dir(folder)
        assert work.curves()['loss'] == [(loss, float(loss)) for loss in losses]
        assert work.curves(validation=True)['acc'] == [(step, 0.25)]


def test_validations_of_a_run_that_went_past_its_checkpoint(tmp_path):
    """Stopped at 75, resumed at 60 with a validation, stopped at 65 and resumed there."""
    from mmswinv2.analysis.work_dir import read_work_dir

    folder = work_dir(tmp_path / 'run', CONFIG)
    runs = [
        [('loss', 20), ('acc', 30), ('loss', 40), ('loss', 60), ('acc', 60), ('loss', 70),
         ('acc', 75)],
        [('acc', 60)],
        [('loss', 80), ('acc', 90), ('loss', 100)],
    ]  # fmt: skip
    for number, entries in enumerate(runs):
        run = folder / f'2026010{number + 1}_000000'
        if number:
            shutil.copytree(folder / '20260101_000000', run)
            config = run / 'vis_data/config.py'
            config.write_text(config.read_text().replace('resume = False', 'resume = True'))
        lines = [
            json.dumps({key: number, 'step': step} | ({'lr': 1} if key == 'loss' else {}))
            for key, step in entries
        ]
        (run / 'vis_data/scalars.json').write_text('\n'.join(lines))
    work = read_work_dir(folder)
    assert work.curves()['loss'] == [(20, 0), (40, 0), (60, 0), (80, 2), (100, 2)]
    assert work.curves(validation=True)['acc'] == [(30, 0), (60, 1), (90, 2)]
    # resumed at 60 without a validation so far
    log = folder / '20260102_000000/vis_data/scalars.json'
    log.write_text('{"lr": 1, "loss": 1, "step": 65}')
    shutil.rmtree(folder / '20260103_000000')
    work = read_work_dir(folder)
    assert work.curves()['loss'] == [(20, 0), (40, 0), (60, 0), (65, 1)]
    assert work.curves(validation=True)['acc'] == [(30, 0), (60, 0)]
    assert work.final_scores() == [('validation at iteration 60', {'acc': 0.0})]


class Nothing(BaseModel):
    """A model with a loss, and predictions that `Zero` scores."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'predict':
            return inputs
        return {'loss': self.fc(torch.stack(inputs)).square().mean()}


class Zero(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'zero': 0.0}


@pytest.mark.parametrize('by_score', [True, False], ids=['epochs', 'iterations'])
def test_a_validation_is_at_the_end_of_its_epoch(by_score, tmp_path):
    """Epochs of seven iterations, of which the fifth is logged."""
    from mmswinv2.analysis.work_dir import read_work_dir

    loader = dict(
        batch_size=1,
        dataset=[{'inputs': torch.ones(1)}] * 7,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    logger = dict(type='LoggerHook', interval=5, log_metric_by_epoch=by_score)
    Runner(
        Nothing(),
        str(tmp_path),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
        val_cfg={},
        val_evaluator=[Zero()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=logger),
        experiment_name=f'validations {by_score}',
        cfg=Config(dict(default_hooks=dict(logger=logger))),
    ).train()
    work = read_work_dir(tmp_path)
    assert [step for step, _ in work.curves()['loss']] == [5, 12, 19]
    assert work.curves(validation=True)['zero'] == [(7, 0), (14, 0), (21, 0)]


def test_a_validation_after_a_training_is_none(tmp_path):
    from mmswinv2.analysis.work_dir import read_work_dir

    folder = work_dir(tmp_path / 'run', CONFIG)
    later = shutil.copytree(folder / '20260101_000000', folder / '20260102_000000')
    (later / 'vis_data/scalars.json').write_text('{"acc": 0.25, "step": 0}\n')
    work = read_work_dir(folder)
    assert [run.name for run in work.trainings] == ['20260101_000000'] and work.last_step
    assert work.curves()['loss']


def test_a_training_whose_log_has_scores_alone(tmp_path):
    """It is shorter than the interval at which losses are logged."""
    run = tmp_path / 'run/20260101_000000/vis_data'
    run.mkdir(parents=True)
    (run / 'scalars.json').write_text('{"acc/top1": 0.5, "step": 3}\n')
    test = tmp_path / 'run/20260101_000100'
    test.mkdir()
    (test / f'{test.name}.json').write_text('{"acc/top1": 0.25}')
    main([str(tmp_path / 'run')])
    text = in_words(tmp_path / 'run/report.html')
    assert 'only of tests' not in text and 'validation at iteration 3' in text


def test_a_work_dir_that_a_mac_has_copied(tmp_path):
    from mmswinv2.analysis.work_dir import WorkDir

    for name in ('mine.py', '._mine.py'):  # the second one is newer
        (tmp_path / name).touch()
    (tmp_path / 'lost.py').symlink_to('nowhere')
    work = WorkDir(tmp_path, [])
    assert work.config_name == 'mine.py' and work.config == tmp_path / 'mine.py'


def test_logs_and_configs_are_in_utf8_whatever_the_system_writes(tmp_path):
    folder = work_dir(tmp_path / 'run', CONFIG)
    log, config = (folder / f'20260101_000000/vis_data/{n}' for n in ('scalars.json', 'config.py'))
    log.write_text(log.read_text() + '{"Grün": 1.0, "step": 1}\n', 'utf-8')
    config.write_text("name = '猫'\n", 'utf-8')
    code = (
        'import sys; from mmswinv2.analysis.work_dir import read_literals, read_work_dir\n'
        'work = read_work_dir(sys.argv[1])\n'
        "print(ascii((*work.curves(True), read_literals(work.config)['name'])))"
    )
    out = run_program(
        [sys.executable, '-X', 'utf8=0', '-c', code, folder],
        env=dict(LC_ALL='C', PYTHONCOERCECLOCALE='0'),
    )
    assert out.stdout.splitlines()[-1] == ascii(('Grün', '猫')), out.stderr


def test_a_config_is_read_and_not_run(tmp_path):
    folder = work_dir(tmp_path / 'run', CONFIG)
    config = folder / '20260101_000000/vis_data/config.py'
    (tmp_path / 'evil.py').write_text('open("ran", "w")')
    codes = ['__import__("os").mkdir("ran")', 'open("ran", "w")', '[*range(3)]', 'f"{1}"']
    for code in (*codes, f'{{}}\n_base_ = ["{tmp_path}/evil.py"]'):
        config.write_text(f'resume = False\nmodel = {code}\n')
        assert 'is no config as mmengine writes it' in in_words(report(folder))
    with pytest.raises(UserError, match='has no config of the training to compare'):
        report(folder, predictions=dump([], tmp_path))
    assert not Path('ran').exists()


@pytest.mark.parametrize(
    ('dataset', 'words'),
    [
        (dict(type='os.mkdir', path='ran'), "type='os.mkdir' of test_dataloader"),
        (dict(type='mmengine.fileio.io.copyfile_to_local'), 'is not in the mmdet::dataset'),
        (dict(type='mmdet.apis.DetInferencer', model='evil.py'), 'is not in the mmdet::dataset'),
        (dict(type='evil'), 'evil is not in'),
        (dict(type='mmdet.evil'), 'evil is not in'),
        (
            dict(type='CocoDataset', pipeline=[dict(type='os.mkdir', path='ran')]),
            "type='os.mkdir' of test_dataloader",
        ),
        (dict(type='CocoDataset', _scope_='above.run'), 'is not in the mmengine::dataset'),
        (dict(type='above.run.evil.Evil'), 'is not in the mmdet::dataset'),
        (dict(type='open("ran","w")'), 'of test_dataloader in'),
        (
            dict(type='mmengine.runner.runner.Runner', model=dict(type='Nothing'), work_dir='ran'),
            'Runner is not in the mmdet::dataset',
        ),
        (
            dict(type=f'{torch.utils.data.__name__}.datapipes.iter.routeddecoder.'
                 'RoutedDecoderIterDataPipe', datapipe=[]),
            'DataPipe is not in the mmdet::dataset',
        ),
        (
            dict(type='CocoDataset', backend_args=dict(
                backend='memcached', server_list_cfg='', client_cfg='', sys_path='.'
            )),
            r'backend_args of test_dataloader in .* would run code .*\(sys_path\); take it out',
        ),
    ],
)  # fmt: skip
def test_types_of_a_work_dir_run_nothing(dataset, words, shapes, truth, tmp_path, monkeypatch):
    folder = work_dir(tmp_path / 'above/run', CONFIG, options=of_shapes(shapes))
    config = folder / '20260101_000000/vis_data/config.py'
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset = dataset
    if dataset['type'].startswith('above'):
        cfg.custom_imports = dict(imports=['above'])
    cfg.dump(config)
    for name in ('evil', 'registry'):
        (folder / f'{name}.py').write_text('open("ran", "w")')
    path = dump(predictions_of_the_truth(truth), tmp_path)
    monkeypatch.chdir(folder)
    for place in (folder, tmp_path):
        monkeypatch.syspath_prepend(place)
    with pytest.raises(Exception, match=words):
        report(folder, predictions=path)
    for name in ('evil', 'above.run.evil'):
        cfg.custom_imports = dict(imports=[name])
        cfg.dump(config)
        with pytest.raises(UserError, match=f'names {name}, which stands in the work dir'):
            report(folder, predictions=path)
        with pytest.raises(UserError, match=f'names {name}, which stands in the work dir'):
            report(folder, predict=str(path))
    assert not Path('ran').exists()


def test_types_of_a_package_of_ones_own_are_found(tmp_path, monkeypatch):
    """In registries of its own, which import its modules when a type is looked up."""
    package = tmp_path / 'with_types'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'registry.py').write_text(
        'from mmengine.registry import TRANSFORMS, Registry\n'
        "OWN = Registry('own', parent=TRANSFORMS, scope='with_types', "
        "locations=['with_types.steps'])\n"
    )
    (package / 'steps.py').write_text(
        'from with_types.registry import OWN\n@OWN.register_module()\nclass Step: pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(TRANSFORMS, '_children', dict(TRANSFORMS._children))
    with only_registered_types(tmp_path / 'run'):
        assert TRANSFORMS.get('with_types.Step') is None  # no custom_imports has named it
    importlib.import_module('with_types')
    with only_registered_types(package):
        assert TRANSFORMS.get('with_types.Step') is None
    with only_registered_types(tmp_path / 'run'):
        assert TRANSFORMS.get('with_types.Step').__module__ == 'with_types.steps'


@pytest.mark.parametrize('kind', ['os.mkdir', 'CameraMotionCompensation'])
@pytest.mark.parametrize('key', ['model', 'custom_hooks', 'test_evaluator'])
def test_a_config_that_would_run_code_is_not_tested(key, kind, tmp_path, monkeypatch):
    folder = work_dir(tmp_path / 'run', CONFIG)
    config = folder / '20260101_000000/vis_data/config.py'
    cfg = Config.fromfile(config)
    part = dict(type=kind, path='ran')
    cfg[key] = [part] if key == 'custom_hooks' else part
    cfg.dump(config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f'of the config in .*config.py .*{kind}|{kind}.* of the'):
        report(folder, predict='weights.pth')
    assert not Path('ran').exists()


def test_the_test_of_a_report_runs_no_config(shapes, tmp_path, monkeypatch):
    folder = work_dir(tmp_path / 'run', CONFIG, options=of_shapes(shapes))
    cfg = Config.fromfile(folder / Path(CONFIG).name)
    kind = 'mmengine.utils.package_utils.call_command'
    cfg.visualizer = dict(type=kind, cmd=['touch', 'ran'])
    cfg.notes = {'"a\': open("ran", "w"), \'b"': 1}
    torch.save({'a': torch.ones(1)}, tmp_path / 'weights.pth')
    copy = tmp_path / 'copy.py'
    cfg.dump(copy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['-c', str(copy), 'weights.pth', '--work-dir', str(tmp_path)])
    with pytest.raises(SystemExit, match=f'{kind}.* is not in the'):
        run_test()
    assert not Path('ran').exists()
    assert command_line() == f'mmswinv2 test {copy} weights.pth --work-dir {tmp_path}'
    cfg.custom_imports = dict(imports=['nowhere_at_all'])
    cfg.dump(copy)
    with pytest.raises(SystemExit, match='Failed to import nowhere_at_all .*; name a module'):
        monkeypatch.setattr(sys, 'argv', ['-c', str(copy), 'weights.pth'])
        run_test()


def test_links_in_a_work_dir_are_not_written_through(tmp_path):
    folder, other = work_dir(tmp_path / 'run', CONFIG), tmp_path / 'other'
    (tmp_path / 'a.pth').touch()
    other.write_text('kept')
    tested = dict(predict=f'{tmp_path}/a.pth')
    for name, options in (('report.html', {}), ('predictions.pkl', tested)):
        (folder / name).symlink_to(other)
        with pytest.raises(UserError, match=f'{name} is a link to'):
            report(folder, **options)
    segmentor = work_dir(tmp_path / 'segmentor', SEGMENTOR)
    (segmentor / 'predictions').mkdir()
    (segmentor / 'predictions/1.png').symlink_to(other)
    with pytest.raises(UserError, match=r'predictions/1.png is a link to'):
        report(segmentor, **tested)
    assert other.read_text() == 'kept'


def test_the_test_of_a_report_has_all_options(tmp_path, monkeypatch):
    """Also those that cannot be written on a command line; the config in the work dir stays.

    It imports what the report does, not what is in the present folder, as with ``python -m``.
    """
    folder = work_dir(tmp_path / 'run', CONFIG)
    before = {path: path.read_bytes() for path in folder.rglob('*.py')}
    (tmp_path / 'a.pth').touch()
    options = {'a': 'b,c', 'test_dataloader.dataset.metainfo': dict(classes=('x, y', 'z'))}
    tested, start = [], subprocess.run

    def run(command, check, env):
        assert env['PYTHONSAFEPATH']  # for processes that the test starts
        tested.append(Config.fromfile(command[3]))
        show = f'{command[2].rpartition("import ")[0]}print(sys.path)'
        done = start([*command[:2], show], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == repr(sys.path)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, 'run', run)
    with pytest.raises(UserError, match='the test failed'):
        report(folder, predict=f'{tmp_path}/a.pth', cfg_options=options)
    assert tested[0].a == 'b,c'
    assert tested[0].test_dataloader.dataset.metainfo.classes == ('x, y', 'z')
    assert {path: path.read_bytes() for path in folder.rglob('*.py')} == before


def test_arguments_that_cannot_be(tmp_path):
    folder = work_dir(tmp_path / 'run', CONFIG)
    wrong = {
        'score must be from 0 to 1, got 50': dict(score=50),
        'pictures must be at least 0, got -1': dict(pictures=-1),
        'not both': dict(predict='last', predictions='a.pkl'),
        'the predictions none.pkl do not exist': dict(predictions='none.pkl'),
        'the config none.py does not exist': dict(config='none.py', predict='last'),
        'has no checkpoint; name one with --predict': dict(predict='last'),
        'checkpoint none.pth does not exist': dict(predict='none.pth'),
        'is a folder; name a file, such as': dict(out=tmp_path),
        'cannot be written': dict(out=tmp_path / 'wrong.py/report.html'),
        'is a folder; the predictions of a Detector are a .pkl': dict(predictions=tmp_path),
        'is no config; a config is a .py': dict(config=folder / '20260101_000000/a.txt'),
        'or one of its bases, is no Python: line 1': dict(config=tmp_path / 'wrong.py'),
        'or one of its bases, cannot be read': dict(config=tmp_path / 'wrong.json'),
    }
    (tmp_path / 'wrong.py').write_text('model = (')
    (tmp_path / 'wrong.json').write_text('{"a": 1,}')
    (folder / '20260101_000000/a.txt').touch()
    for words, options in wrong.items():
        with pytest.raises(UserError, match=words):
            report(folder, **options)
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps([os.getcwd]))
    with pytest.raises(UserError, match='cannot be read without running code'):
        report(folder, predictions=tmp_path / 'evil.pkl')
    assert not list(tmp_path.rglob('*.html'))


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(['--help'])
    said = capsys.readouterr().out
    assert end.value.code == 0 and 'example: mmswinv2 report work_dirs/run --predict' in said
