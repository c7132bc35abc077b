"""Pictures, label maps and videos of predictions."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from mmswinv2 import hosts
from mmswinv2.datasets import video_files
from mmswinv2.errors import UserError
from mmswinv2.inference.results import ResultWriter
from mmswinv2.inference.sources import Item

CLASSES = dict(classes=('a', 'b'), palette=[[255, 0, 0], [0, 0, 255]])
FRAME = np.full((640, 640, 3), 90, np.uint8)


def writer(folder, scope='mmseg'):
    cfg = Config(dict(default_scope=scope))
    hosts.of(cfg).apply()
    return ResultWriter(folder, cfg, CLASSES, 0.3)


def label_map():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    data = torch.zeros(1, 640, 640, dtype=torch.long)
    return SegDataSample(pred_sem_seg=PixelData(data=data), ori_shape=(640, 640))


def fail(*_):
    raise OSError(errno.ENOSPC, 'No space left')


def test_label_maps_and_pictures_are_whole_or_not_there(tmp_path, monkeypatch):
    ours = writer(tmp_path)
    drawn = ours.add(Item('a', 'a.png', FRAME), label_map())
    ours.save(Item('a', 'a.png'), drawn)
    with (
        Image.open(tmp_path / 'preds/a.png') as labels,
        Image.open(tmp_path / 'vis/a.jpg') as shown,
    ):
        assert (labels.mode, labels.size, shown.size) == ('L', (640, 640), (640, 640))
        assert shown.getpixel((0, 0))[0] > shown.getpixel((0, 0))[2] + 50  # red, as class 0
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='preds/b.png'):
        ours.add(Item('b', 'b.png', FRAME), label_map())
    with pytest.raises(OSError, match='vis/b.jpg'):
        ours.save(Item('b', 'b.png'), drawn)
    assert {path.name for path in tmp_path.rglob('*.*')} == {'a.png', 'a.jpg'}


def test_pictures_are_those_that_hosts_draw(tmp_path):
    """To the pixel; mmengine's `get_image` moves some by one."""
    ours = writer(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (640, 640, 3), dtype=np.uint8)
    sample = label_map()
    sample.pred_sem_seg.data = torch.arange(640 * 640).reshape(1, 640, 640) % 3
    for image in (noise, noise[:, ::-1]):  # nothing of the first is left in the second
        drawn = ours.add(Item('a', 'a.png', image), sample)
        meta = ours.visualizer.dataset_meta
        wanted = ours.visualizer._draw_sem_seg(
            image, sample.pred_sem_seg, meta['classes'], meta['palette']
        )
        assert (drawn == wanted).all()


def test_pixels_of_no_class_keep_their_color(tmp_path):
    ours, sample = writer(tmp_path), label_map()
    sample.pred_sem_seg.data = torch.full((1, 640, 640), 255)
    sample.pred_sem_seg.data[:, 300:, 300:] = 1
    drawn = ours.add(Item('a', 'a.png', FRAME), sample)
    assert (drawn[:300] == FRAME[:300]).all() and (drawn[:, :300] == FRAME[:, :300]).all()
    assert (drawn[300:, 300:] != FRAME[300:, 300:]).any(-1).all()


def two_masks():
    from mmdet.structures import DetDataSample

    masks = torch.zeros(2, 640, 640, dtype=torch.bool)
    masks[:, 20:50, 10:30] = True
    boxes = torch.tensor([[0.0, 0, 0, 0], [1, 2, 30, 40]])
    found = InstanceData(
        bboxes=boxes, masks=masks, scores=torch.ones(2), labels=torch.zeros(2, dtype=torch.long)
    )
    return DetDataSample(pred_instances=found, metainfo=dict(ori_shape=(640, 640)))


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of mmdet's visualizer
def test_masks_have_the_same_colors_in_each_frame(tmp_path):
    ours = writer(tmp_path, 'mmdet')
    ours.visualizer.dataset_meta = {}
    frames = []
    for seed in (5, 6):
        np.random.seed(seed)
        frames.append(ours.add(Item('a', 'a.png', FRAME), two_masks()))
        after = np.random.rand()
        np.random.seed(seed)
        assert after == np.random.rand()  # the caller's numbers go on as without predictions
    assert (frames[0] == frames[1]).all() and (frames[0] != FRAME).any()


def test_an_error_of_drawing_leaves_random_numbers_as_they_were(tmp_path):
    ours = writer(tmp_path, 'mmdet')
    ours.visualizer.add_datasample = None
    before = np.random.get_state()[1].tolist()
    with pytest.raises(TypeError):
        ours._draw(Item('a', 'a.png', FRAME), two_masks(), {})
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of mmdet's visualizer
def test_masks_without_a_box(tmp_path):
    """As those of SOLO; readers of the file find the box of the mask."""
    ours = writer(tmp_path, 'mmdet')
    ours.visualizer.dataset_meta = {}
    ours.add(Item('a', 'a.png', FRAME), two_masks())
    assert [entry['bbox'] for entry in ours.found] == [[10, 20, 20, 30], [1, 2, 29, 38]]
    assert [entry['area'] for entry in ours.found] == [600, 600]


def test_scores_of_several_views_have_no_best_class(tmp_path):
    views = SimpleNamespace(pred_score=torch.rand(4, 6))
    with pytest.raises(UserError, match="average_clips='prob'"):
        writer(tmp_path).add(Item('a', 'a.mp4', clip=True), views)


def test_a_video_that_cannot_be_written_is_removed(tmp_path, monkeypatch):
    ours, numbers = writer(tmp_path), count()
    write = video_files.VideoWriter.write

    def write_two(self, frame, time):
        write(self, frame, time)
        if next(numbers):
            fail()

    monkeypatch.setattr(video_files.VideoWriter, 'write', write_two)
    frames = (Item(f'a/{i:06d}', 'a.mp4', FRAME) for i in range(4))
    outcomes = lambda items: ((item, label_map()) for item in items)  # noqa: E731
    with pytest.raises(OSError, match='No space left'):
        list(ours.film('a', frames, 10, outcomes))
    assert list(ours.pictures.iterdir()) == []


def test_writers_of_several_threads_share_nothing(tmp_path):
    for scope in ('mmseg', 'mmdet'):
        writer(tmp_path / scope, scope)  # imports it
    for round in range(5):
        together = threading.Barrier(4)

        def make(number, together=together):
            together.wait()
            return writer(tmp_path / str(number), ('mmseg', 'mmdet')[number % 2]).visualizer

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(make, range(4)))
        assert len(set(map(id, made))) == 4, round
        kinds = sorted(type(visualizer).__name__ for visualizer in made)
        assert kinds == ['DetLocalVisualizer'] * 2 + ['SegLocalVisualizer'] * 2


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # mmdet's, of NumPy
def test_names_of_classes_are_drawn_in_a_font_that_has_them(tmp_path, monkeypatch):
    """DejaVu Sans, matplotlib's own, draws a box for U+1D8A, and warns, which is an error here."""
    monkeypatch.setitem(CLASSES, 'classes', ('\u1d8a', '\u1d8a'))
    monkeypatch.setitem(CLASSES, 'palette', None)
    found = InstanceData(
        bboxes=torch.tensor([[100.0, 100, 500, 500]]), scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    from mmdet.structures import DetDataSample

    result = DetDataSample(pred_instances=found, ori_shape=(640, 640))
    drawn = writer(tmp_path, 'mmdet').add(Item('a', 'a.png', FRAME), result)
    assert (drawn != FRAME).any()
