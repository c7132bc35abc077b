"""Real H.264 files: lists, files that cannot be read, and views; frames: test_video_files.py."""

import importlib.util
import shutil
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmswinv2 import hosts
from mmswinv2.datasets import FiveCrop, ShuffleFrames, VideoDecode, VideoInit, open_video
from mmswinv2.errors import UserError
from mmswinv2.hosts import check_dataset
from mmswinv2.hosts.mmaction import check_video_labels
from tests.test_tools.conftest import ROOT

pytestmark = [
    # from mmaction2 1.2.0 and its imports
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::UserWarning:mm(action|engine|cv)'),
]
FRAMES, SIZE = 16, 64
READ = [
    dict(type='mmswinv2.VideoInit'),
    dict(type='SampleFrames', clip_len=4, frame_interval=2, num_clips=1),
    dict(type='mmswinv2.VideoDecode'),
]


@pytest.fixture(scope='session')
def motion():
    """The module of tools/dataset_converters/make_motion.py."""
    folder = ROOT / 'tools/dataset_converters'
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location('make_motion', folder / 'make_motion.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.fixture(scope='session')
def clips(motion, tmp_path_factory):
    """Six + six clips of 16 frames."""
    root = tmp_path_factory.mktemp('clips') / 'motion'
    motion.make_motion(root, train=6, val=6, size=SIZE, frames=FRAMES)
    return root


@pytest.fixture
def copy(clips, tmp_path):
    return shutil.copytree(clips, tmp_path / 'motion')


def build(root, split='train', pipeline=READ, **kwargs):
    hosts.apply()
    import mmaction.datasets.transforms  # noqa: F401

    init_default_scope('mmaction')
    return DATASETS.build(
        dict(
            type='mmswinv2.VideoDataset',
            data_root=str(root),
            ann_file=f'motion_{split}_list_videos.txt',
            data_prefix=dict(video=f'videos_{split}'),
            pipeline=pipeline,
            test_mode=split == 'val',
        )
        | kwargs
    )


def cut(path, share=0.3):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_frames_are_those_that_were_encoded(motion, clips):
    path = str(clips / 'videos_val/00004.mp4')
    indices = np.array([15, 0, 7, 7])
    drawn = motion.draw('growing', SIZE, FRAMES, np.random.default_rng([0, 1, 4]))
    reader = open_video(path)
    assert (len(reader), reader.fps) == (FRAMES, 25)
    frames = reader.read(indices)
    assert frames.shape == (4, SIZE, SIZE, 3) and frames.dtype == np.uint8
    assert np.abs(frames - drawn[indices].astype(float)).mean() < 8  # lossy coding
    assert np.abs(frames[0].astype(float) - frames[1]).mean() > 5


def test_transforms(clips):
    results = VideoInit()(dict(filename=str(clips / 'videos_val/00004.mp4')))
    assert (results['total_frames'], results['avg_fps']) == (FRAMES, 25)
    shares = np.array([[0.25, 0.25, 0.5, 0.5]])
    results |= dict(gt_bboxes=shares, proposals=None)
    results = VideoDecode()(results | dict(frame_inds=np.array([[1, 3]])))
    height, width = results['img_shape']
    assert results['gt_bboxes'].dtype == np.float32 and results['proposals'] is None
    assert results['gt_bboxes'].tolist() == [[width / 4, height / 4, width / 2, height / 2]]
    assert [f.shape for f in results['imgs']] == [(SIZE, SIZE, 3)] * 2
    assert results['img_shape'] == results['original_shape'] == (SIZE, SIZE)
    assert results['frame_inds'].tolist() == [1, 3] and 'video_reader' not in results


def test_a_clip_shorter_than_asked_for_loops(clips):
    sample = dict(type='SampleFrames', clip_len=12, frame_interval=4, num_clips=1)
    dataset = build(clips, pipeline=[READ[0], sample, READ[2]])
    indices = dataset[0]['frame_inds']
    assert (indices == np.arange(12) * 4 % FRAMES).all() and len(dataset[0]['imgs']) == 12


def damages(copy, split):
    """Make files that are truncated, empty, no video, and missing; returns their paths."""
    folder = copy / f'videos_{split}'
    cut(folder / '00000.mp4')
    (folder / '00001.mp4').write_bytes(b'')
    (folder / '00002.mp4').write_text('this is no video')
    (folder / '00003.mp4').unlink()
    return [str(folder / f'0000{i}.mp4') for i in range(4)]


def test_training_draws_another(copy, warned):
    bad = damages(copy, 'train')
    dataset = build(copy)
    for _ in range(3):
        for i in range(4):
            assert dataset[i]['filename'] not in bad
    assert dataset.unreadable == set(bad)
    assert all(any(f'cannot read the video {path}' in text for text in warned) for path in bad)
    assert any('(4 so far)' in text for text in warned)


def test_training_stops_at_a_limit(copy):
    bad = damages(copy, 'train')
    dataset = build(copy, max_unreadable=1)
    with pytest.raises(UserError, match=r'more than 1 videos cannot be read \(max_unreadable'):
        for i in range(4):
            dataset[i]
    assert dataset.unreadable < set(bad)


def test_testing_names_the_file(copy):
    for i, path in enumerate(damages(copy, 'val')):
        with pytest.raises(UserError, match=f'cannot read the video {path}.*skip_unreadable=True'):
            build(copy, 'val')[i]


def test_testing_skips_if_asked_to(copy, warned):
    bad = damages(copy, 'val')
    dataset = build(copy, 'val', skip_unreadable=True)
    assert len(dataset) == 2
    assert {dataset[i]['filename'] for i in range(2)}.isdisjoint(bad)
    assert any('4 of 6 videos cannot be read; scores are those of the other 2' in t for t in warned)
    assert all(
        any(f'left out: cannot read the video {path}' in text for text in warned) for path in bad
    )


def test_names_with_spaces_and_videos_without_labels(copy, warned):
    shutil.copy(copy / 'videos_val/00000.mp4', copy / 'videos_val/arm wrestling.mp4')
    (copy / 'videos_train/00000.mp4').rename(copy / 'videos_train/arm wrestling.mp4')
    (copy / 'motion_train_list_videos.txt').write_text('arm wrestling.mp4 3\n')
    sample = build(copy)[0]
    assert sample['filename'].endswith('/videos_train/arm wrestling.mp4') and sample['label'] == 3
    assert build(copy, ann_file='motion_train_list_videos.txt', test_mode=True)[0]['label'] == 3
    (copy / 'motion_val_list_videos.txt').write_text('00000.mp4\narm wrestling.mp4\n')
    dataset = build(copy, 'val')
    assert [dataset.get_data_info(i)['label'] for i in range(2)] == [-1, -1]
    assert dataset.get_data_info(1)['filename'].endswith('/videos_val/arm wrestling.mp4')
    check_video_labels(dataset, 6, 'test_dataloader')
    assert any('2 of 2 videos have no label' in text for text in warned)


def test_absolute_paths_and_two_spaces(copy):
    path = copy / 'videos_val/00003.mp4'
    (copy / 'motion_train_list_videos.txt').write_text(f'{path} 1\n00002.mp4  2\n')
    dataset = build(copy)
    assert dataset[0]['filename'] == str(path)
    assert dataset[1]['filename'] == str(copy / 'videos_train/00002.mp4')


def test_no_video_that_can_be_read(copy):
    for split in ('train', 'val'):
        shutil.rmtree(copy / f'videos_{split}')
    dataset = build(copy)
    with pytest.raises(UserError, match='none of the 6 videos can be read'):
        dataset[0]
    assert len(dataset.unreadable) == 6
    with pytest.raises(UserError, match='none of the 6 videos can be read, the first: .*00000.mp4'):
        build(copy, 'val', skip_unreadable=True)


def test_several_labels_need_a_number_of_classes(copy):
    (copy / 'motion_train_list_videos.txt').write_text('00000.mp4 0 3\n')
    with pytest.raises(UserError, match='multi_class=True needs num_classes'):
        build(copy, multi_class=True)
    dataset = build(copy, multi_class=True, num_classes=6)
    assert dataset[0]['label'].tolist() == [1, 0, 0, 1, 0, 0]
    check_video_labels(dataset, 6, 'train_dataloader')
    with pytest.raises(UserError, match='num_classes=6, and model.cls_head 5'):
        check_video_labels(dataset, 5, 'train_dataloader')


def recognizer(**kwargs):
    cfg = Config.fromfile(ROOT / 'configs/video/video-swinv2-nano_motion.py')
    cfg.model.update(kwargs)
    torch.manual_seed(0)
    return MODELS.build(cfg.model).eval()


def test_labels_beyond_the_head(clips):
    dataset = build(clips)
    check_dataset(dataset, 'train_dataloader', recognizer())
    words = r'line 6: label 5 of .*00005.mp4, but model.cls_head has num_classes=5'
    head = dict(type='I3DHead', in_channels=256, num_classes=5)
    with pytest.raises(UserError, match=words):
        check_dataset(dataset, 'train_dataloader', recognizer(cls_head=head))


def test_five_crops_are_the_corners_and_the_centre():
    frames = [np.arange(7 * 9).reshape(7, 9) + 100 * t for t in range(2)]
    results = FiveCrop(4)(dict(imgs=frames))
    assert len(results['imgs']) == 10 and results['img_shape'] == (4, 4)
    corners = [int(crop[0, 0]) for crop in results['imgs']]
    assert corners == [0, 100, 5, 105, 27, 127, 32, 132, 9 + 2, 109 + 2]
    assert results['crop_bbox'].tolist()[4:6] == [[0, 3, 4, 7]] * 2
    assert FiveCrop((6, 3))(dict(imgs=frames))['imgs'][9].shape == (3, 6)
    with pytest.raises(UserError, match=r'crop_size \(8, 8\) is larger than .* a.mp4, 9x7'):
        FiveCrop(8)(dict(imgs=frames, filename='a.mp4'))
    for wrong in (0, None, 2.5, (4,), (4, None), '4'):
        with pytest.raises(UserError, match='crop_size must be'):
            FiveCrop(wrong)


def test_shuffled_frames_are_the_same_frames():
    indices = np.concatenate([np.arange(8), np.arange(8) + 100])
    results = dict(frame_inds=indices, clip_len=8, filename='a.mp4')
    first = ShuffleFrames()(dict(results))['frame_inds'].reshape(2, 8)
    assert sorted(first[0]) == list(range(8)) and (first[1] == first[0] + 100).all()
    assert (first[0] != np.arange(8)).any()
    assert (ShuffleFrames()(dict(results))['frame_inds'].reshape(2, 8) == first).all()


def test_scores_do_not_depend_on_how_views_are_grouped(clips):
    """4 clips x 5 crops, as the paper tests."""
    views = [
        READ[0],
        dict(type='SampleFrames', clip_len=4, frame_interval=1, num_clips=4, test_mode=True),
        READ[2],
        dict(type='mmswinv2.FiveCrop', crop_size=48),
        dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs'),
    ]
    sample = build(clips, 'val', pipeline=views)[0]
    assert sample['inputs'].shape == (20, 3, 4, 48, 48)
    batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    scores = []
    for group in (None, 1, 3, 20):
        model = recognizer(test_cfg=dict(max_testing_views=group) if group else None)
        with torch.no_grad():
            (found,) = model.test_step(batch)
        scores.append(found.pred_score)
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], atol=1e-6, rtol=1e-5)
