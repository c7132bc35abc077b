"""Small images are enlarged before drawing; text is written on frames."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontEntry, fontManager
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData

from mmswinv2.inference import drawing
from mmswinv2.inference.drawing import LEAST_WIDTH, caption, enlarge, font_of


def sample(height, width):
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    found = InstanceData(
        bboxes=torch.tensor([[3.0, 2, 9, 5]]), scores=torch.ones(1), labels=torch.tensor([0])
    )
    found.masks = masks
    return DetDataSample(pred_instances=found)


def test_boxes_and_masks_grow_with_the_image():
    image = np.zeros((100, 160, 3), np.uint8)
    image[2:5, 3:9] = 255
    result = sample(100, 160)
    large, drawn = enlarge(image, result)
    assert large.shape == (400, 640, 3) and large.shape[1] >= LEAST_WIDTH
    (mask,) = drawn.pred_instances.masks
    assert drawn.pred_instances.bboxes.tolist() == [[12, 8, 36, 20]]
    rows, columns = np.nonzero(mask.numpy())
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [12, 8, 36, 20]
    assert large[14, 24].min() > 250 and large[30, 60].max() == 0
    # the given result is unchanged
    assert result.pred_instances.bboxes.tolist() == [[3, 2, 9, 5]]
    assert result.pred_instances.masks.shape == (1, 100, 160)


def test_panoptic_maps_grow_with_the_image():
    """They are drawn on it; maps of another size would end in an error of OpenCV."""
    small = torch.tensor([[[0, 1, 1002], [2, 2, 2]]])
    result = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=small))
    large, drawn = enlarge(np.zeros((2, 3, 3), np.uint8), result)
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=('a', 'b', 'c', 'd'), palette=None)
    visualizer.add_datasample('', large, drawn, draw_gt=False)
    assert visualizer.get_image().shape == large.shape == (20, 30, 3)
    assert (drawn.pred_panoptic_seg.sem_seg[0, ::10, ::10] == small).all()
    assert result.pred_panoptic_seg.sem_seg is small


def test_the_narrowest_pictures_of_the_demo_are_drawn_as_wide_as_others():
    large, _ = enlarge(np.zeros((80, 64, 3), np.uint8), sample(80, 64))
    assert large.shape == (800, LEAST_WIDTH, 3)


def test_wide_images_stay_as_they_are():
    image, result = np.zeros((20, 640, 3), np.uint8), sample(20, 640)
    assert enlarge(image, result) == (image, result)


def test_tiny_images_do_not_grow_for_ever():
    assert enlarge(np.zeros((16, 16, 3), np.uint8), sample(16, 16))[0].shape == (160, 160, 3)


@pytest.mark.parametrize(('height', 'wanted'), [(9000, 7), (25000, 2), (60000, 1), (70000, 1)])
def test_long_images_fit_a_jpeg(height, wanted):
    image = np.zeros((height, 80, 3), np.uint8)
    result = DetDataSample(pred_instances=InstanceData(bboxes=torch.zeros(0, 4)))
    assert enlarge(image, result)[0].shape == (height * wanted, 80 * wanted, 3)


def test_captions_of_more_than_ascii():
    """Letters outside ASCII are drawn; OpenCV's fonts would draw question marks."""
    black = np.zeros((120, 320, 3), np.uint8)
    shown = [next(caption([black], [text])) for text in ('Кошка', 'Мышка', '?????', 'ééééé')]
    for i, picture in enumerate(shown):
        assert picture.max() == 255 and picture.shape == black.shape
        assert all((picture != other).any() for other in shown[:i])
    assert black.max() == 0


def test_a_font_that_has_the_text():
    """DejaVu Sans lacks U+1D8A, which STIX has; both come with matplotlib."""
    drawing._font_with.cache_clear()
    with patch('mmswinv2.inference.drawing.warn') as warn:
        assert font_of('person\ndog').endswith('DejaVuSans.ttf')
        assert not font_of('dog \u1d8a').endswith('DejaVuSans.ttf')
        assert not warn.called
        font_of('\U0001fbf0\u0c6f')
        font_of('\u0c6f\U0001fbf0')  # is known by now
        assert warn.call_count == 1
    assert "no font here has '" in warn.call_args.args[0]


@pytest.mark.parametrize(
    ('name', 'taken'), [('Some Font', True), ('Last Resort High-Efficiency', False)]
)
def test_a_font_of_symbols_is_no_choice(name, taken, monkeypatch):
    """matplotlib 3.11 has one with a symbol for each script; here STIX stands for it."""
    fonts = {entry.fname.split('/')[-1]: entry for entry in fontManager.ttflist}
    path = fonts['STIXGeneral.ttf'].fname
    ours = [fonts['DejaVuSans.ttf'], FontEntry(path, name=name)]
    monkeypatch.setattr(fontManager, 'ttflist', ours)
    drawing._font_with.cache_clear()
    assert (font_of('dog \u1d8a') == path) == taken


def test_fonts_that_are_gone_are_no_choice(tmp_path, monkeypatch):
    """matplotlib keeps a list of the fonts that it has found once."""
    (tmp_path / 'damaged.ttf').write_bytes(b'no font')
    others = [FontEntry(str(tmp_path / f'{name}.ttf'), name=name) for name in ('damaged', 'gone')]
    monkeypatch.setattr(fontManager, 'ttflist', [*others, *fontManager.ttflist])
    drawing._font_with.cache_clear()
    assert not font_of('dog \u1d8a').startswith((str(tmp_path), font_of('dog')))
