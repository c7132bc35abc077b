import math
import os
import tempfile
import wave
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmengine.utils import digit_version

from mmswinv2 import hosts
from mmswinv2.datasets.video_files import UnreadableVideo, write_video
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmaction import MMAction
from tests.test_tools.conftest import ROOT, run_code, tool  # noqa: F401  fixtures

IMPORT_MMACTION = """
import sys
import mmswinv2.hosts
assert 'mmaction' not in sys.modules and 'mmcv' not in sys.modules
import importlib.resources, importlib.util
assert importlib.util.find_spec('mmaction') is not None  # a probe is no import
import mmcv
version = mmcv.__version__
import mmaction.models
assert mmcv.__version__ == version
assert not [f for f in sys.meta_path if type(f).__module__.startswith('mmswinv2')]
assert mmaction.__spec__.loader.__class__.__name__ == 'SourceFileLoader'
assert 'exec_module' not in vars(mmaction.__spec__.loader)
assert (importlib.resources.files('mmaction') / '__init__.py').is_file()
from mmaction.models.localizers import DRN
try:
    DRN()
except ImportError as error:
    print(error)
"""
# ways in which a script outside this package may import mmaction2
INFERENCE = """
import mmswinv2.hosts
from mmaction.apis import init_recognizer
model = init_recognizer('{config}', device='cpu')
print(type(model.backbone).__name__)
"""
REGISTRY = """
import mmswinv2.hosts
from mmaction.registry import MODELS
print(type(MODELS.build(dict(type='mmswinv2.VideoSwinTransformerV2', arch='nano'))).__name__)
"""
RUNNER = """
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile('{config}')
cfg.work_dir = '{folder}'
print(type(Runner.from_cfg(cfg).model.backbone).__name__)
"""
WITHOUT = 'from mmaction.apis import init_recognizer'


@pytest.fixture
def config(tmp_path):
    """A config of mmaction2 that imports the modules needed before mmaction2 by itself."""
    path = tmp_path / 'config.py'
    path.write_text(
        f"_base_ = '{ROOT}/configs/video/video-swinv2-nano_motion.py'\n"
        "custom_imports = dict(imports=['mmswinv2.hosts'])\n"
    )
    return path


def test_mmaction_can_be_imported_but_is_not_by_itself(run_code):  # noqa: F811
    done = run_code(IMPORT_MMACTION).succeeded()
    assert done.stdout.strip().endswith('DRN is missing from mmaction2 1.2.0 as published')


@pytest.mark.parametrize('code', [INFERENCE, REGISTRY, RUNNER], ids=['apis', 'registry', 'runner'])
def test_one_line_makes_mmaction_take_our_types(code, config, tmp_path, run_code):  # noqa: F811
    done = run_code(code.format(config=config, folder=tmp_path)).succeeded()
    assert done.stdout.strip().splitlines()[-1] == 'VideoSwinTransformerV2'


def test_without_it_mmaction_refuses_mmcv(run_code):  # noqa: F811
    if digit_version(mmcv.__version__) < digit_version('2.2.0'):
        pytest.skip('mmaction2 accepts this mmcv')
    done = run_code(WITHOUT)  # if this passes, docs/compatibility.md and README can drop the line
    assert done.returncode == 1 and 'is used but incompatible' in done.stderr


def test_files_of_clips_keep_their_names():
    class PackActionInputs:
        meta_keys = ('img_shape', 'filename')

    class Dataset:
        class pipeline:
            transforms = (PackActionInputs(),)

    MMAction().keep_file_names(Dataset)
    (pack,) = Dataset.pipeline.transforms
    assert pack.meta_keys == ('img_shape', 'filename', 'img_path', 'frame_dir')


def test_frames_of_more_than_8_bits(tmp_path):
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.datasets.transforms import RawFrameDecode

    sample = dict(
        frame_dir=str(tmp_path), filename_tmpl='{:03}.png', modality='RGB', offset=1,
        frame_inds=np.array([[0, 1]]),
    )  # fmt: skip
    for number, value in ((1, 4), (2, 117)):
        cv2.imwrite(str(tmp_path / f'{number:03}.png'), np.full((8, 8), value, np.uint8))
    frames = RawFrameDecode()(dict(sample))['imgs']
    assert [frame.mean() for frame in frames] == [4, 117]
    words = f'the frame {tmp_path}/003.png does not exist .total_frames=9, offset=1, filename_tmpl'
    with pytest.raises(UserError, match=words):
        RawFrameDecode()(dict(sample, total_frames=9, frame_inds=np.array([1, 2])))
    cv2.imwrite(str(tmp_path / '001.png'), np.full((8, 8), 1000, np.uint16))
    with pytest.raises(UserError, match=f'{tmp_path}/001.png is a .*16.*save the frames with 8'):
        RawFrameDecode()(dict(sample))


@pytest.mark.parametrize('factor', [-0.5, -0.1, 0.1, 0.5])
def test_hues_of_clips_are_turned(factor):
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.datasets.transforms import ColorJitter

    image = np.zeros((1, 179, 3), np.uint8)
    image[..., 0], image[..., 1:] = np.arange(179), 255
    rgb = cv2.cvtColor(image, cv2.COLOR_HSV2RGB).astype(np.float32)
    turned = ColorJitter.adjust_hue(rgb, factor)
    hues = cv2.cvtColor(turned.astype(np.uint8), cv2.COLOR_RGB2HSV)[..., 0].astype(int)
    # in whole degrees of two, and back from 8 bits
    away = (hues - image[..., 0] - int(factor * 255)) % 180
    assert turned.dtype == np.float32 and np.minimum(away, 180 - away).max() <= 1


def test_classes_without_videos_count_in_no_mean():
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.evaluation import AccMetric

    rng = np.random.default_rng(0)
    scores, labels = rng.random((60, 9)), rng.choice([0, 2, 5], 60)
    metric = AccMetric(metric_list='mean_class_accuracy')
    for score, label in zip(scores, labels, strict=True):
        sample = dict(pred_score=torch.tensor(score), gt_label=torch.tensor([label]))
        metric.process(None, [sample])
    of_class = [[s.argmax() == c for s, c in zip(scores, labels, strict=True) if c == one]
                for one in (0, 2, 5)]  # fmt: skip
    wanted = sum(sum(right) / len(right) for right in of_class) / 3
    assert 0 < wanted < 1 and set(scores.argmax(1)) == set(range(9))
    assert metric.evaluate(60)['acc/mean1'] == pytest.approx(wanted)


def test_videos_without_labels_count_in_no_mean():
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.evaluation import AccMetric

    scores = [[0.9, 0.6, 0.1], [0.2, 0.7, 0.4], [0.3, 0.2, 0.1]]
    some, none = [[1, 1, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 0]] * 3
    for labels, wanted in ((some, (1 + 1 / 2) / 2), (none, math.nan)):
        metric = AccMetric(metric_list='mmit_mean_average_precision')
        for score, label in zip(scores, labels, strict=True):
            sample = dict(pred_score=torch.tensor(score), gt_label=torch.tensor(label))
            metric.process(None, [sample])
        found = metric.evaluate(3)['acc/mmit_mean_average_precision']
        assert found == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize(
    'shape',
    [(2, 3, 2, 16, 24), (4, 3, 16, 24), (3, 4, 16, 24), (3, 3, 16, 24)],
    ids=['3-D', '2-D', 'AVA', 'AVA of 3 frames'],
)
def test_videos_of_a_test_are_drawn(shape, tmp_path, monkeypatch):
    hosts.of(dict(default_scope='mmaction')).apply()
    init_default_scope('mmaction')
    from mmaction.engine.hooks import VisualizationHook
    from mmaction.structures import ActionDataSample
    from mmaction.visualization import ActionVisualizer

    ActionVisualizer.get_instance(f'clips{shape}')  # the hook draws with the last one made
    hook = VisualizationHook(enable=True, interval=1, out_dir=str(tmp_path))
    sample = ActionDataSample(metainfo=dict(filename='a/b.mp4')).set_gt_label(0)
    sample.set_pred_label(1).set_pred_score(torch.tensor([0.25, 0.75]))
    texts = []
    draw = ActionVisualizer.draw_texts
    monkeypatch.setattr(
        ActionVisualizer,
        'draw_texts',
        lambda self, *a, **k: (texts.append(a[0]), draw(self, *a, **k)),
    )
    video = torch.full(shape, 200.0)
    if shape[0] == 3:
        sample.gt_instances = InstanceData()
        video[:, 1] = 0
    hook._draw_samples(0, dict(inputs=[video]), [sample])
    assert texts[0].endswith('Ground truth: 0\nPrediction: 1, 0.75')
    frames = sorted(tmp_path.rglob('*.png'))
    assert len(frames) == (4 if len(shape) > 4 else shape[1] if shape[0] == 3 else shape[0])
    assert 'b.mp4' in str(frames[0].relative_to(tmp_path))
    drawn = cv2.imread(str(frames[1]))
    assert drawn.shape == (16, 24, 3)
    assert shape[0] != 3 or drawn[-1].max() < 50  # the second frame of AVA, which is black


@pytest.mark.parametrize(
    ('library', 'ending', 'words'),
    [
        ('OpenCV', '.mp4', None),
        ('OpenCV', '.wav', 'it has no frames'),
        ('PyAV', '.mp4', None),
        ('PyAV', '.mkv', 'does not say how many'),
        ('PyAV', '.wav', 'out of range'),
    ],
)
def test_videos_without_a_number_of_frames_are_named(library, ending, words, tmp_path):
    """mmaction2 would take the first frame each time (Matroska), or find none."""
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.datasets import transforms

    path = tmp_path / f'a{ending}'
    if ending == '.wav':
        with wave.open(str(path), 'wb') as file:
            file.setparams((1, 2, 8000, 0, 'NONE', ''))
            file.writeframes(bytes(8000))
    else:
        write_video(path, [np.zeros((16, 32, 3), np.uint8)], 10)
    start = getattr(transforms, f'{library}Init')()
    with pytest.raises(UnreadableVideo, match=f'{path}: .*{words}') if words else nullcontext():
        assert start.transform(dict(filename=str(path)))['total_frames'] == 1


@pytest.mark.parametrize(('label', 'right'), [(0, True), (2, True), (3, False), (-1, False)])
def test_actions_that_are_no_class(label, right, tmp_path):
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.datasets import AVADataset

    (tmp_path / 'a.csv').write_text(f'x,902,0,0,1,1,{label},0\n')
    words = f'a.csv: label {label} of x at 902, .* num_classes=3, labels up to 2'
    with nullcontext() if right else pytest.raises(UserError, match=words):
        data = AVADataset(str(tmp_path / 'a.csv'), pipeline=[], num_classes=3)
        assert data[0]['gt_labels'].tolist() == [[float(i == label) for i in range(3)]]


@pytest.mark.parametrize('library', ['Decord', 'PyAV'])
def test_videos_that_cannot_be_read_are_named(library, tmp_path):
    hosts.of(dict(default_scope='mmaction')).apply()
    from av.error import InvalidDataError
    from decord import DECORDError
    from mmaction.datasets import transforms

    start, decode = (getattr(transforms, f'{library}{part}')() for part in ('Init', 'Decode'))
    path = tmp_path / 'a.mp4'
    path.write_text('no video')
    with pytest.raises(UnreadableVideo, match=f'{library}Init .* video {path}: .*VideoInit'):
        start.transform(dict(filename=str(path)))
    errors = dict(Decord=DECORDError('damaged'), PyAV=InvalidDataError(1, 'damaged'))
    reader = Mock()
    reader.get_batch.side_effect = reader.decode.side_effect = errors[library]
    opened = dict(video_reader=reader, frame_inds=np.arange(3), filename='a.mp4')
    with pytest.raises(UnreadableVideo, match='a.mp4: .*damaged'):
        decode.transform(dict(opened))
    reader.get_batch.side_effect = reader.decode.side_effect = TypeError('a bug')
    with pytest.raises(TypeError, match='a bug'):
        decode.transform(dict(opened))


@pytest.mark.parametrize(('form', 'written'), [('video', 'a.mp4'), ('img', 'a/frames_3/1.png')])
def test_videos_are_written_with_arguments_in_order(form, written, tmp_path):
    hosts.of(dict(default_scope='mmaction')).apply()
    from mmaction.visualization import LocalVisBackend

    frames = np.zeros((2, 16, 16, 3), np.uint8)
    LocalVisBackend(save_dir=str(tmp_path)).add_video('a', frames, 3, 2, form)
    assert (tmp_path / written).is_file()


def open_as_on_windows(path, mode='r'):
    """Refuse a temporary file that is open already."""
    opened = [os.path.realpath(link) for link in Path('/proc/self/fd').glob('*')]
    if path.startswith(tempfile.gettempdir()) and os.path.realpath(path) in opened:
        raise PermissionError(path)
    return open(path, mode)


# no class is of the other two kinds, and files are left to Python to close
@pytest.mark.filterwarnings('ignore::RuntimeWarning', 'ignore::ResourceWarning')
@pytest.mark.parametrize(
    ('found', 'excluded', 'mean'),
    [
        ([1, 2, 3], 'v,0903\n', 1),  # as the second object of class 3 is on an excluded frame
        ([1, 2, 3], '', (1 + 1 + 1 / 2) / 3),
        ([1, 3], 'v,0903\n', 2 / 3),
        ([1, 2, 3, 4], 'v,0903\n', 1),  # no object is of class 4
    ],
)
def test_scores_of_actions(found, excluded, mean, tmp_path, monkeypatch):
    MMAction().apply()
    from mmaction.evaluation import AVAMetric
    from mmaction.evaluation.functional import ava_utils

    pool = SimpleNamespace(map=lambda *args: [*map(*args)])  # mmaction2 starts 32 processes
    monkeypatch.setattr(ava_utils, 'multiprocessing', SimpleNamespace(Pool=lambda _: pool))
    monkeypatch.setattr(ava_utils, 'open', open_as_on_windows, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'excluded.csv').write_text(excluded)
    (tmp_path / 'labels.txt').write_text(
        ''.join(f'item {{\n  name: "{i}"\n  id: {i}\n}}\n' for i in (1, 2, 3, 4, 5))
    )
    objects = [('901', 5), ('902', 1), ('0902', 2), ('902', 3), ('903', 3)]
    rows = [f'v,{time},.1,.1,.5,.5,{label},0' for time, label in objects]
    (tmp_path / 'truth.csv').write_text('\n'.join(rows))
    classes = dict(num_classes=5, custom_classes=[1, 2, 3, 4])
    metric = AVAMetric('truth.csv', 'excluded.csv', 'labels.txt', **classes)
    scores = torch.tensor([[0.9 if label in found else 0 for label in range(5)]])
    boxes = dict(bboxes=torch.tensor([[0.1, 0.1, 0.5, 0.5]]), scores=scores)
    metric.process({}, [dict(video_id='v', timestamp=902, pred_instances=boxes)])
    assert metric.evaluate(1)['mAP/overall'] == pytest.approx(mean)
