"""Video classifiers through the tools: training, scores, dumps, bad files, the demo's tools."""

import functools
import pickle
import re
import shutil

import av
import numpy as np
import pytest
import torch

from mmswinv2.checkpoints import read_checkpoint
from tests.test_tools.conftest import made_once, scores
from tests.test_tools.test_bad_input import sentence

MOTION = 'configs/video/video-swinv2-nano_motion.py'
SMALL = ('train_dataloader.dataset.pipeline.1.clip_len=4', 'default_hooks.logger.interval=1')


@pytest.fixture(scope='session')
def classifier(train, clips, tmp_path_factory):
    """The work dir of a run of two iterations."""

    def make(folder):
        run = train(folder, config=MOTION, data_root=clips, options=SMALL).succeeded()
        assert re.search(r'Iter\(train\) +\[2/2\].*loss_cls: \d', run.stdout)

    return made_once(tmp_path_factory, 'classifier', make)


@pytest.fixture(scope='session')
def evaluate(evaluate, classifier, clips):
    return functools.partial(evaluate, MOTION, classifier / 'iter_2.pth', data_root=clips)


def test_scores_and_dump(evaluate, tmp_path):
    evaluate(tmp_path, '--dump', tmp_path / 'scores.pkl').succeeded()
    found = scores(tmp_path)
    with (tmp_path / 'scores.pkl').open('rb') as file:
        dumped = pickle.load(file)
    hits = [int(d['pred_score'].argmax() == d['gt_label'].item()) for d in dumped]
    assert len(hits) == 6 and found['acc/top1'] == pytest.approx(np.mean(hits), abs=1e-4)
    assert found['acc/top5'] >= found['acc/top1']


def test_resume_goes_on(train, classifier, clips, tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(classifier / 'iter_2.pth'))
    run = train(tmp_path, '--resume', iters=3, config=MOTION, data_root=clips, options=SMALL)
    assert run.returncode == 0 and 'resumed epoch: 0, iter: 2' in run.stdout, run.stderr
    assert (tmp_path / 'iter_3.pth').exists()


def spoil(clips, folder, split):
    copy = shutil.copytree(clips, folder / 'motion')
    path = copy / f'videos_{split}/00001.mp4'
    path.write_bytes(path.read_bytes()[:900])
    return copy


def test_an_unreadable_clip_does_not_end_training(train, clips, tmp_path):
    copy = spoil(clips, tmp_path, 'train')
    (copy / 'motion_train_list_videos.txt').write_text('00000.mp4 0\n00001.mp4 1\n')
    options = [*SMALL, 'train_dataloader.num_workers=1']
    run = train(tmp_path / 'w', config=MOTION, data_root=copy, options=options, iters=3)
    assert run.returncode == 0 and 'Iter(train) [3/3]' in run.stdout, run.stderr
    assert f'cannot read the video {copy}/videos_train/00001.mp4: ' in run.stdout + run.stderr


def test_an_unreadable_clip_in_testing(evaluate, clips, tmp_path):
    copy = spoil(clips, tmp_path, 'val')
    said = sentence(evaluate(tmp_path / 'a', data_root=copy))
    assert f'cannot read the video {copy}/videos_val/00001.mp4: ' in said
    skip = ['test_dataloader.dataset.skip_unreadable=True']
    run = evaluate(tmp_path / 'b', data_root=copy, options=skip)
    assert run.returncode == 0 and 'acc/top1' in run.stdout, run.stderr
    assert '1 of 6 videos cannot be read' in run.stdout


def test_batches_of_videos_whose_views_are_tested_in_groups(evaluate, train, clips, tmp_path):
    options = ('model.test_cfg.max_testing_views=1', 'test_dataloader.batch_size=2')
    said = sentence(evaluate(tmp_path / 'a', data_root=clips, options=options))
    assert 'test_dataloader has batch_size=2, and model.test_cfg max_testing_views=1' in said
    options = (options[0], 'val_dataloader.batch_size=2')
    said = sentence(train(tmp_path / 'b', config=MOTION, data_root=clips, options=options))
    assert 'set val_dataloader.batch_size=1' in said


def test_bad_lists(train, evaluate, clips, tmp_path):
    copy = shutil.copytree(clips, tmp_path / 'motion')
    path = copy / 'motion_train_list_videos.txt'
    path.write_text('00000.mp4 0\n00001.mp4 6\n')
    said = sentence(train(tmp_path / 'w', config=MOTION, data_root=copy))
    assert f'{path}, line 2: label 6 of ' in said and 'num_classes=6' in said
    path.write_text('00000.mp4,0\n')
    said = sentence(train(tmp_path / 'w', config=MOTION, data_root=copy))
    assert f"{path}, line 1: '00000.mp4,0' is not" in said
    path = copy / 'motion_val_list_videos.txt'
    path.write_text('00000.mp4 0\n00001.mp4\t1\n')
    skip = ['test_dataloader.dataset.skip_unreadable=True']
    said = sentence(evaluate(tmp_path / 'w', data_root=copy, options=skip))
    assert f"{path}, line 2: '00001.mp4\\t1' is not" in said
    path.write_bytes('00000.mp4 0\n'.encode('utf-16'))
    assert f'{path}, line 1: the byte 0xff' in sentence(evaluate(tmp_path / 'w', data_root=copy))


def test_video_demo(tool, classifier, clips, tmp_path):
    (tmp_path / 'names.txt').write_text('left\nright\nup\ndown\ngrowing\nturning\n')
    source = clips / 'videos_val/00004.mp4'
    state = read_checkpoint(classifier / 'iter_2.pth')['state_dict']
    wrapped = {'model': {f'module.{key}': value for key, value in state.items()}}
    torch.save(wrapped, tmp_path / 'wrapped.pth')
    run = tool(
        'misc/video_demo.py', source, MOTION, tmp_path / 'wrapped.pth',
        '--labels', tmp_path / 'names.txt', '--topk', 3, '--out', tmp_path / 'out.mp4',
    ).succeeded()  # fmt: skip
    *lines, last = run.stdout.strip().splitlines()
    values = [float(re.fullmatch(r'(left|right|up|down|growing|turning): (0\.\d+)', line)[2])
              for line in lines[-3:]]  # fmt: skip
    assert values == sorted(values, reverse=True) and last == f'written to {tmp_path}/out.mp4'
    frames = []
    for path in (source, tmp_path / 'out.mp4'):
        with av.open(str(path)) as container:
            frames.append([f.to_ndarray(format='rgb24') for f in container.decode(video=0)])
    assert len(frames[0]) == len(frames[1]) == 16
    corner = [
        np.abs(b[:30, :40].astype(int) - a[:30, :40]).mean() for a, b in zip(*frames, strict=True)
    ]
    assert min(corner) > 5  # the text
    before = source.read_bytes()
    for out, words in ((source, 'is the video itself'), (tmp_path / 'o.xyz', 'must end in .mp4')):
        run = tool('misc/video_demo.py', source, MOTION, classifier / 'iter_2.pth', '--out', out)
        assert words in sentence(run)
    assert source.read_bytes() == before
    (tmp_path / 'bad.mp4').write_text('no video')
    run = tool('misc/video_demo.py', tmp_path / 'bad.mp4', MOTION, classifier / 'iter_2.pth')
    assert f'cannot read the video {tmp_path}/bad.mp4' in sentence(run)


def test_make_motion_keeps_what_is_there(tool, clips, tmp_path):
    make = 'dataset_converters/make_motion.py'
    assert 'complete already' in tool(make, clips, '--train=12', '--val=6').stdout
    said = sentence(tool(make, clips, '--train=13', '--val=6'))
    assert 'clips made otherwise (12 + 6 clips' in said and '--force' in said
    (tmp_path / 'mine.txt').write_text('')
    for force in ((), ('--force',)):
        assert 'holds other files' in sentence(tool(make, tmp_path, *force))
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


def test_make_motion_mends_and_replaces_its_own_files_alone(tool, clips, tmp_path):
    make = 'dataset_converters/make_motion.py'
    own = shutil.copytree(clips, tmp_path / 'motion')
    before = sorted(p for p in own.rglob('*') if p.is_file())
    (own / 'notes.txt').write_text('mine')
    shutil.rmtree(own / 'videos_train')
    assert 'made in' in tool(make, own, '--train=12', '--val=6').stdout
    assert sorted(p for p in own.rglob('*') if p.is_file()) == sorted([*before, own / 'notes.txt'])
    assert 'made in' in tool(make, own, '--train=13', '--val=6', '--force').stdout
    assert sorted(p.name for p in own.iterdir()) == sorted(
        ['notes.txt', *{p.relative_to(own).parts[0] for p in before}]
    )
