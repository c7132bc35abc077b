"""Lists of videos: each line is read correctly or named in an error, in training and testing."""

import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmcv.transforms import TRANSFORMS
from mmengine.config import Config
from mmengine.registry import METRICS, MODELS, init_default_scope

from mmswinv2.datasets.video_dataset import VideoDataset
from mmswinv2.errors import UserError
from mmswinv2.hosts import check_data, check_dataset, check_evaluator
from mmswinv2.hosts.mmaction import MMAction, check_video_labels
from tests.test_tools.conftest import ROOT

pytestmark = [
    # from mmaction2 1.2.0 and its imports
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::UserWarning:mm(action|engine|cv)'),
]
# the files that exist; their content is not read
FILES = ('a.mp4', 'b c.mp4', 'clip 7.mp4', 'clip 7', '视频.mp4', 'no ending', 'x,y.mp4', '12')


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / name).touch()
    return tmp_path


def build(folder, content, **options):
    path = folder / 'list.txt'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = dict(pipeline=[], data_prefix=dict(video=str(folder)), serialize_data=False)
    return VideoDataset(str(path), **(settings | options))


def read(folder, content, **options):
    """Names and labels of the videos of a list."""
    videos = build(folder, content, **options).data_list
    return [(video['filename'].removeprefix(f'{folder}/'), video['label']) for video in videos]


COMMA, TAB, SEVERAL = dict(delimiter=','), dict(delimiter='\t'), dict(multi_class=True)
GOOD = {
    'plain': ('a.mp4 1\n', {}, [('a.mp4', 1)]),
    'a mark at the start': ('\ufeffa.mp4 1\nb c.mp4 2\n', {}, [('a.mp4', 1), ('b c.mp4', 2)]),
    'two such lists in one': ('\ufeffa.mp4 1\n\ufeff12 2\n', {}, [('a.mp4', 1), ('12', 2)]),
    'CR LF, blank lines': ('a.mp4 1\r\n\r\n  \r\n12 2\r\n', {}, [('a.mp4', 1), ('12', 2)]),
    'CR': ('a.mp4 1\r12 2', {}, [('a.mp4', 1), ('12', 2)]),
    'other letters': ('视频.mp4 3\n', {}, [('视频.mp4', 3)]),
    'a name with a separator of lines': ('a\u2028b.mp4 1\n', {}, [('a\u2028b.mp4', 1)]),
    'paths of Windows': ('.\\a.mp4 1\n.\\12 2', {}, [('./a.mp4', 1), ('./12', 2)]),
    'spaces': ('b c.mp4 1\n', {}, [('b c.mp4', 1)]),
    'two spaces': ('a.mp4  1  \n', {}, [('a.mp4', 1)]),
    'a number in the name': ('clip 7.mp4 3\n', {}, [('clip 7.mp4', 3)]),
    'a number at the end of the name': ('clip 7 3\n', {}, [('clip 7', 3)]),
    'a name that is a number': ('12 3\n', {}, [('12', 3)]),
    'no ending': ('no ending 3\n', {}, [('no ending', 3)]),
    'zeros before': ('a.mp4 007\n', {}, [('a.mp4', 7)]),
    'a missing video': ('gone.mp4 1\n', {}, [('gone.mp4', 1)]),
    'a missing video with spaces': ('gone one.mp4 1\n', {}, [('gone one.mp4', 1)]),
    'a missing video without an ending': ('gone 1\n', {}, [('gone', 1)]),
    'commas': ('x,y.mp4,4\n', COMMA, [('x,y.mp4', 4)]),
    'commas and spaces': ('b c.mp4, 4\n', COMMA, [('b c.mp4', 4)]),
    'tabs': ('b c.mp4\t4\n', TAB, [('b c.mp4', 4)]),
    'several': ('a.mp4 1 3\n', SEVERAL, [('a.mp4', [1, 3])]),
    'several, spaces': ('b c.mp4 1 3 5\n', SEVERAL, [('b c.mp4', [1, 3, 5])]),
    'several, two spaces': ('b c.mp4  1  3\n', SEVERAL, [('b c.mp4', [1, 3])]),
    'several, a number at the end': ('clip 7 1 3\n', SEVERAL, [('clip 7', [1, 3])]),
    'several, commas': ('x,y.mp4,1,3\n', SEVERAL | COMMA, [('x,y.mp4', [1, 3])]),
    'several, of one': ('a.mp4 2\n', SEVERAL, [('a.mp4', [2])]),
    'another machine': ('my clip.mp4 2\n', dict(data_prefix=dict(video='s3://b')),
                        [('s3://b/my clip.mp4', 2)]),
}  # fmt: skip
# faulty lines 2, after a valid line 1
BAD = {
    'no label': ('gone.mp4', {}, "'gone.mp4' is not \"path label\", the path"),
    'no label, spaces': ('gone one.mp4', {}, 'is not "path label"'),
    'a label alone': ('3', {}, 'is not "path label"'),
    'a word': ('a.mp4 left', {}, 'is not "path label"'),
    'a word and a label': ('a.mp4 left 1', {}, "no file is called 'a.mp4 left'"),
    'several': ('a.mp4 1 2', {}, "no file is called 'a.mp4 1'; several labels need multi"),
    'point': ('a.mp4 1.0', {}, 'is not "path label"'),
    'bare point': ('a.mp4 1.', {}, 'is not "path label"'),
    'underscore': ('a.mp4 1_0', {}, 'is not "path label"'),
    'plus': ('a.mp4 +1', {}, 'is not "path label"'),
    'minus': ('a.mp4 -1', {}, 'is not "path label"'),
    'wide digit': ('a.mp4 １', {}, 'is not "path label"'),
    'long': ('a.mp4 ' + '9' * 20, {}, 'is not "path label"'),
    'exponent': ('a.mp4 1e0', {}, 'is not "path label"'),
    'tab': ('a.mp4\t1', {}, 'is not "path label"'),
    'tab, spaces': ('b c.mp4\t1', {}, 'is not "path label"'),
    'tab in the name': ('a.mp4\t1 2', {}, 'no file is called'),
    'comma': ('a.mp4,1', {}, 'is not "path label"'),
    'comma and space': ('a.mp4, left', {}, 'is not "path label"'),
    'semicolon': ('a.mp4;1', {}, 'is not "path label"'),
    'space for a comma': ('a.mp4 1', COMMA, 'is not "path,label"'),
    'an empty column': ('a.mp4,,1', COMMA, "no file is called 'a.mp4,'"),
    'no name': (',1', COMMA, 'is not "path,label"'),
    'a column after it': ('a.mp4,1,', COMMA, 'is not "path,label"'),
    'head of a table': ('video,label', COMMA, 'is not "path,label"'),
    'point, commas': ('a.mp4, 1.0', COMMA, 'is not "path,label"'),
    'beyond the classes': ('a.mp4 8', {}, 'label 8 of a.mp4 is no class; labels are from 0 to 7'),
    'several, a word': ('a.mp4 1 x 2', SEVERAL, "no file is called 'a.mp4 1 x'"),
    'several, beyond': ('a.mp4 1 8', SEVERAL, 'label 8 of a.mp4 is no class'),
    'several, none': ('gone one.mp4', SEVERAL, 'is not "path label"'),
    'several, point': ('a.mp4 1 2.0', SEVERAL, 'is not "path label"'),
    'a folder': ('.', {}, 'is not "path label"'),
    'blanks without end': ('a.mp4' + ' ' * 300000 + 'x', {}, 'is not "path label"'),
    'a name without end': ('a.' + 'b' * 300000 + '!  1', {}, None),
}  # fmt: skip


@pytest.mark.parametrize('test_mode', [False, True], ids=['train', 'test'])
@pytest.mark.parametrize('name', GOOD)
def test_lines_that_are_read(folder, name, test_mode):
    content, options, videos = GOOD[name]
    assert read(folder, content, test_mode=test_mode, num_classes=8, **options) == videos


@pytest.mark.parametrize('test_mode', [False, True], ids=['train', 'test'])
@pytest.mark.parametrize('name', BAD)
def test_lines_that_are_named(folder, name, test_mode):
    line, options, said = BAD[name]
    good = f'a.mp4{options.get("delimiter", " ")}1\n'
    settings = dict(test_mode=test_mode, skip_unreadable=test_mode, num_classes=8, **options)
    if said is None:
        assert read(folder, line, **(settings | dict(skip_unreadable=False)))[0][1] == 1
        return
    with pytest.raises(UserError) as error:
        build(folder, good + line + '\n', **settings)
    text = str(error.value)
    assert text.startswith(f'{folder}/list.txt, line 2: ') and said in text and len(text) < 600


def test_a_video_on_two_lines(folder):
    """With one label, training uses it twice and a test once; two different labels are refused."""
    content = 'a.mp4 1\n12 3\n./a.mp4 1\n'
    assert len(read(folder, content)) == 3
    assert read(folder, content, test_mode=True) == [('a.mp4', 1), ('12', 3)]
    for options, labels in ({}, '2'), (SEVERAL | dict(num_classes=8), '1 2'):
        for test_mode in False, True:
            with pytest.raises(UserError, match=r'line 2: .*a\.mp4 has the label .*line 1\)'):
                build(folder, f'a.mp4 1\na.mp4 {labels}\n', test_mode=test_mode, **options)


def test_videos_without_labels(folder):
    """Allowed only in testing, and only if such a file exists."""
    content = ''.join(f'{name}\n' for name in FILES)
    assert read(folder, content, test_mode=True) == [(name, -1) for name in FILES]
    several = read(folder, content, test_mode=True, multi_class=True, num_classes=8)
    assert several == [(name, []) for name in FILES]
    remote = dict(test_mode=True, data_prefix=dict(video='s3://b'))  # remote files are not checked
    assert read(folder, 'my clip.mp4\n', **remote) == [('s3://b/my clip.mp4', -1)]
    for name in FILES:
        with pytest.raises(UserError, match='line 1: .* is not "path label".* none test_mode=True'):
            build(folder, name)


def test_videos_without_labels_are_counted(folder, warned):
    for options in ({}, dict(multi_class=True, num_classes=8)):
        dataset = build(folder, 'a.mp4 1\nb c.mp4\n', test_mode=True, **options)
        check_video_labels(dataset, 8, 'test_dataloader')
    one, several = warned[-2:]
    assert '1 of 2 videos have no label and count as wrong' in one
    assert '1 of 2 videos have no label and are of no class' in several


@pytest.mark.parametrize('labels', ['0 3', '-1'])
def test_wrong_labels_among_several_of_raw_frames(tmp_path, labels):
    from mmaction.datasets import RawframeDataset

    (tmp_path / 'list.txt').write_text(f'a 20 0 2\nb 20 {labels}\n')
    dataset = RawframeDataset(
        str(tmp_path / 'list.txt'), pipeline=[], multi_class=True, num_classes=3
    )
    words = f'video 2: label {labels.split()[-1]} of b, but model.cls_head has num_classes=3'
    with pytest.raises(UserError, match=words):
        check_video_labels(dataset, 3, 'train_dataloader')


def test_videos_without_labels_teach_nothing(tmp_path):
    from mmaction.datasets import RawframeDataset

    (tmp_path / 'list.txt').write_text('a 20 0\nb 20\n')
    dataset = RawframeDataset(str(tmp_path / 'list.txt'), pipeline=[])
    check_video_labels(dataset, 3, 'val_dataloader')
    with pytest.raises(UserError, match='train_dataloader: 1 of 2 videos have no label; give'):
        check_video_labels(dataset, 3, 'train_dataloader')


INIT, DECODE = dict(type='mmswinv2.VideoInit'), dict(type='mmswinv2.VideoDecode')
DECODING = {
    'ours': ([INIT, DECODE], {}, None),
    "mmaction2's": ([dict(type='DecordInit'), dict(type='DecordDecode')], {}, None),
    'raw frames': ([dict(type='RawFrameDecode')], dict(start_index=1), None),
    'opened by another': ([dict(type='DecordInit'), DECODE], {}, 'has DecordInit, VideoDecode; '),
    'read by another': (
        [INIT, dict(type='DecordDecode')],
        {},
        'DecordDecode, VideoInit; take both',
    ),
    'opened twice': ([dict(type='PyAVInit'), INIT, DECODE], {}, 'PyAVInit, VideoDecode, VideoIn'),
    "opened by one's own step": ([dict(type='Fetch'), dict(type='PyAVDecode')], {}, None),
    'frames from 1': ([INIT, DECODE], dict(start_index=1), 'start_index=1, and frames of videos'),
    'frames of Decord from 1': (
        [dict(type='DecordInit'), dict(type='DecordDecode')],
        dict(start_index=1),
        'start_index=1, and frames of videos',
    ),
}


@pytest.mark.parametrize('name', DECODING)
def test_steps_that_open_and_read_videos(folder, monkeypatch, name):
    pipeline, options, words = DECODING[name]
    init_default_scope('mmaction')
    monkeypatch.setitem(TRANSFORMS.module_dict, 'Fetch', type('Fetch', (), {'__call__': id}))
    dataset = build(folder, 'a.mp4 1\n', pipeline=pipeline, **options)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_dataset(dataset, 'train_dataloader')


@pytest.mark.parametrize('scores', [None, ('mean_average_precision',)])
@pytest.mark.parametrize('several', [False, True])
def test_scores_of_several_labels(folder, scores, several):
    init_default_scope('mmaction')
    options = dict(metric_list=scores) if scores else {}
    metric = METRICS.build(dict(type='AccMetric', **options))
    dataset = build(folder, 'a.mp4 1\n', multi_class=several, num_classes=8)
    refused = several and scores is None
    words = (
        r"AccMetric of val_evaluator has mean_class_accuracy, top_k_accuracy.*set metric_list=\('"
    )
    with pytest.raises(UserError, match=words) if refused else nullcontext():
        check_evaluator(SimpleNamespace(metrics=[metric]), dataset, 'val_evaluator')


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('clips', [None, 'prob', 'score'])
def test_scores_of_views(folder, monkeypatch, clips, several):
    init_default_scope('mmaction')
    scores = ('mean_average_precision',) if several else ('top_k_accuracy',)
    evaluator = SimpleNamespace(metrics=[METRICS.build(dict(type='AccMetric', metric_list=scores))])
    dataset = build(folder, 'a.mp4 1\n', multi_class=several, num_classes=8)
    head = dict(type='I3DHead', num_classes=8, in_channels=4, average_clips=clips)
    model = SimpleNamespace(cls_head=MODELS.build(head))
    told = []
    monkeypatch.setattr('mmswinv2.hosts.mmaction.warn', told.append)
    words = f"average_clips=None keeps .* average_clips='{'score' if several else 'prob'}' in"
    with nullcontext() if clips else pytest.raises(UserError, match=words):
        check_evaluator(evaluator, dataset, 'val_evaluator', model)
    assert len(told) == (several and clips == 'prob')


@pytest.mark.parametrize('skip', [False, True])
def test_missing_videos_in_tests(folder, skip):
    model = SimpleNamespace(cls_head=SimpleNamespace(num_classes=8))
    dataset = build(folder, 'a.mp4 1\ngone.mp4 1\n')
    check_dataset(dataset, 'train_dataloader', model)  # which draws another
    dataset.skip_unreadable = skip
    words = r'1 of 2 videos do not exist, first of all .*gone.mp4; mend .*, or set skip_unreadable'
    with nullcontext() if skip else pytest.raises(UserError, match=words):
        check_dataset(dataset, 'val_dataloader', model)


def test_ids_of_skeletons_are_no_paths(tmp_path):
    from mmaction.datasets import PoseDataset

    sample = dict(frame_dir='S001', label=0, total_frames=9)
    (tmp_path / 'poses.pkl').write_bytes(pickle.dumps([sample]))
    dataset = PoseDataset(str(tmp_path / 'poses.pkl'), [])
    model = SimpleNamespace(cls_head=SimpleNamespace(num_classes=2))
    check_dataset(dataset, 'test_dataloader', model)


@pytest.mark.parametrize('backend', ['disk', 'petrel'])
def test_missing_frames_in_tests(tmp_path, backend):
    from mmaction.datasets import RawframeDataset

    init_default_scope('mmaction')
    (tmp_path / 'list.txt').write_text('a 20 0\nb 20 1\n')
    (tmp_path / 'a').mkdir()
    steps = [dict(type='RawFrameDecode', io_backend=backend)]
    options = dict(ann_file=str(tmp_path / 'list.txt'), data_prefix=dict(img=str(tmp_path)))
    dataset = RawframeDataset(pipeline=steps, **options)
    model = SimpleNamespace(cls_head=SimpleNamespace(num_classes=2))
    words = r'1 of 2 videos do not exist, first of all .*b; mend .*list.txt or data_prefix$'
    with pytest.raises(UserError, match=words) if backend == 'disk' else nullcontext():
        check_dataset(dataset, 'test_dataloader', model)


@pytest.mark.parametrize('frames', [0, -3])
@pytest.mark.parametrize('where', ['train_dataloader', 'test_dataloader'])
def test_folders_of_no_frames(tmp_path, frames, where):
    from mmaction.datasets import RawframeDataset

    init_default_scope('mmaction')
    (tmp_path / 'list.txt').write_text(f'. 20 0\n. {frames} 1\n')
    prefix = dict(img=str(tmp_path))
    dataset = RawframeDataset(str(tmp_path / 'list.txt'), [], data_prefix=prefix)
    model = SimpleNamespace(cls_head=SimpleNamespace(num_classes=2))
    with pytest.raises(UserError, match=f'list.txt, video 2: .* has {frames} frames'):
        check_dataset(dataset, where, model)


@pytest.mark.parametrize(
    ('changed', 'several', 'right'),
    [
        ({1: 2, 2: 1}, False, True),
        ({1: 2, 2: 1}, True, False),
        ({'left': 'right'}, False, False),
        ({'1': 2}, False, False),
        ({1: 8}, False, False),
    ],
)
def test_labels_of_flipped_videos(folder, changed, several, right):
    init_default_scope('mmaction')
    model = SimpleNamespace(cls_head=SimpleNamespace(num_classes=8))
    flip = dict(type='Flip', flip_label_map=changed)
    options = dict(multi_class=several, num_classes=8, pipeline=[flip])
    dataset = build(folder, 'a.mp4 1\n', **options)
    with nullcontext() if right else pytest.raises(UserError, match='Flip has flip_label_map=.*7'):
        check_dataset(dataset, 'train_dataloader', model)


# lists of mmaction2's own data sets: type, content, and words of the error
OF_MMACTION = {
    'frames': ('RawframeDataset', b'a 20 0\nb 20 1\n', None),
    'frames, more columns': ('RawframeDataset', b'a\t0 20  1 2\n', None),
    'frames without a label': ('RawframeDataset', b'a 20\n', None),
    'frames with a label of none': ('RawframeDataset', b'a 20 -1\n', None),
    'a blank line': ('RawframeDataset', b'a 20 0\n\nb 20 1\n', "line 2: a line is .*, got ''"),
    'a word': ('RawframeDataset', b'a 20 left\n', 'line 1: a line is "folder frames label"'),
    'commas': ('RawframeDataset', b'a,20,0\n', 'line 1: a line is "folder frames label"'),
    'a mark': ('RawframeDataset', b'\xef\xbb\xbfa 20 0\n', 'begins with a byte order mark'),
    'UTF-16': ('RawframeDataset', 'a 20 0\n'.encode('utf-16'), 'none of a text in UTF-8'),
    'videos': ('VideoDataset', b'a.mp4 1\n', None),
    'videos, a blank line': ('VideoDataset', b'a.mp4 1\n\n', "line 2: a line is .*, got ''"),
    'our own': ('mmswinv2.VideoDataset', b'\xef\xbb\xbfa.mp4 1\n\n', None),
}


@pytest.mark.parametrize('name', OF_MMACTION)
def test_lists_of_mmaction(folder, name):
    kind, content, words = OF_MMACTION[name]
    (folder / 'list.txt').write_bytes(content)
    dataset = dict(type=kind, ann_file=str(folder / 'list.txt'))
    cfg = Config(dict(default_scope='mmaction', val_dataloader=dict(dataset=dataset)))
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_data(cfg, ('val',))


# lists that are no text in UTF-8, and the line and byte in the error
ENCODED = {
    'UTF-16': ('a.mp4 1\n'.encode('utf-16'), 'line 1: the byte 0xff'),
    'UTF-16, big end first': (b'\xfe\xff' + 'a.mp4 1\n'.encode('utf-16-be'), '1: the byte 0xfe'),
    'UTF-16 without a mark': ('a.mp4 1\n'.encode('utf-16-le'), 'line 1: the byte 0x00'),
    'UTF-32': ('a.mp4 1\n'.encode('utf-32'), 'line 1: the byte 0xff'),
    'GBK': ('a.mp4 1\n视频.mp4 3\n'.encode('gbk'), 'line 2: the byte 0xca'),
    'Latin-1': ('a.mp4 1\na.mp4 2\ncafé.mp4 3\n'.encode('latin-1'), 'line 3: the byte 0xe9'),
    'zero byte': (b'a.mp4 1\na.mp4 2\0\n', 'line 2: the byte 0x00'),
    'a video': (b'\0\0\0 ftypisom\xff\xfe', 'line 1: the byte'),
}


@pytest.mark.parametrize('test_mode', [False, True], ids=['train', 'test'])
@pytest.mark.parametrize('name', ENCODED)
def test_lists_in_other_encodings(folder, name, test_mode):
    content, said = ENCODED[name]
    with pytest.raises(UserError) as error:
        build(folder, content, test_mode=test_mode)
    text = str(error.value)
    assert text.startswith(f'{folder}/list.txt, line ') and said in text
    assert f'iconv -f GBK -t UTF-8 {folder}/list.txt' in text
    assert (folder / 'list.txt').read_bytes() == content


@pytest.mark.parametrize('content', ['', '\n\n', '\ufeff', '\ufeff\r\n'])
def test_lists_of_nothing(folder, content):
    with pytest.raises(UserError, match='list.txt lists no videos'):
        build(folder, content)


def test_a_folder_for_a_list(folder):
    with pytest.raises(UserError, match=f'{folder} is no file; ann_file is to be a list'):
        VideoDataset(str(folder), pipeline=[])


def recognizer(kind='3', **test_cfg):
    cfg = Config.fromfile(ROOT / 'configs/video/video-swinv2-nano_motion.py')
    init_default_scope('mmaction')
    if kind == '2':
        cfg = Config(dict(model=dict(
            type='Recognizer2D', backbone=dict(type='ResNet', depth=18, pretrained=None),
            cls_head=dict(type='TSNHead', num_classes=2, in_channels=512),
        )))  # fmt: skip
    cfg.model.test_cfg = test_cfg or None
    return MODELS.build(cfg.model)


def test_views_in_groups_and_videos_in_batches():
    words = (
        'val_dataloader has batch_size=2, .*max_testing_views=4.*set val_dataloader.batch_size=1'
    )
    with pytest.raises(UserError, match=words):
        MMAction().check_batch(recognizer(max_testing_views=4), 2, 'val_dataloader')
    for kind, batch_size, test_cfg in (
        ('3', 1, dict(max_testing_views=4)),
        ('3', 2, {}),
        ('3', 2, dict(max_testing_views=None)),
        ('2', 2, dict(max_testing_views=4)),  # it splits them itself
    ):
        MMAction().check_batch(recognizer(kind, **test_cfg), batch_size, 'test_dataloader')


def test_what_is_refused_would_end_in_an_assertion():
    model = recognizer(max_testing_views=2).eval()
    with torch.no_grad():
        for batch_size in (1, 2):
            inputs = torch.zeros(batch_size, 4, 3, 4, 32, 32)
            if batch_size == 1:
                model.extract_feat(inputs, test_mode=True)
                continue
            with pytest.raises(AssertionError, match='batch_size == 1'):
                model.extract_feat(inputs, test_mode=True)


CLIPS = [dict(type='SampleFrames', clip_len=4, num_clips=3)]
CROPS = [CLIPS[0] | dict(num_clips=1), dict(type='mmswinv2.FiveCrop', crop_size=32)]


@pytest.mark.parametrize(
    ('kind', 'pipeline', 'words'),
    [
        ('Recognizer3D', CLIPS, 'SampleFrames with num_clips=3, several views of a video'),
        ('Recognizer3D', CROPS, 'has FiveCrop, several'),
        ('Recognizer3D', CROPS[:1], ''),
        ('Recognizer2D', CLIPS, ''),
    ],
)
def test_several_clips_in_training(folder, kind, pipeline, words):
    model = recognizer(kind[-2])
    dataset = build(folder, 'a.mp4 1\n', pipeline=pipeline)
    model.cls_head.num_classes = 2
    model.data_preprocessor = None
    check_dataset(dataset, 'val_dataloader', model)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_dataset(dataset, 'train_dataloader', model)


def to_one_hot(results):
    """A user's own step, which makes one label what a loss for several takes."""
    results['label'] = torch.eye(3)[results['label']]
    return results


def test_a_loss_for_several_labels(folder):
    init_default_scope('mmaction')
    head = dict(type='I3DHead', num_classes=3, in_channels=4)
    loss = dict(type='BCELossWithLogits')
    one = build(folder, 'a.mp4 1\n')
    one_hot = build(folder, 'a.mp4 1\n', pipeline=[to_one_hot])
    several = build(folder, 'a.mp4 0 1\n', multi_class=True, num_classes=3)

    def model(**options):
        return SimpleNamespace(cls_head=MODELS.build(head | options))

    with pytest.raises(UserError, match='BCELossWithLogits, for videos with several labels, and'):
        check_dataset(one, 'train_dataloader', model(loss_cls=loss))
    check_dataset(one_hot, 'train_dataloader', model(loss_cls=loss))
    check_dataset(one, 'train_dataloader', model(loss_cls=loss, label_smooth_eps=0.1))
    check_dataset(one, 'train_dataloader', model())
    check_dataset(several, 'train_dataloader', model(loss_cls=loss, multi_class=True))


def test_classes_of_blended_labels(folder):
    model = recognizer()
    model.data_preprocessor.blending = MODELS.build(dict(type='MixupBlending', num_classes=7))
    dataset = build(folder, 'a.mp4 1\n')
    with pytest.raises(UserError, match='blending has num_classes=7, and model.cls_head 6'):
        check_dataset(dataset, 'train_dataloader', model)
    model.data_preprocessor.blending.num_classes = 6
    check_dataset(dataset, 'train_dataloader', model)


@pytest.mark.parametrize(
    ('kind', 'wanted', 'given'), [('3', 'NCTHW', 'NCHW'), ('2', 'NCHW', 'NCTHW')]
)
def test_axes_of_the_pipeline_and_the_model(folder, kind, wanted, given):
    model = recognizer(kind)
    model.data_preprocessor = MODELS.build(
        dict(type='ActionDataPreprocessor', mean=[1], std=[1], format_shape=wanted)
    )
    steps = [dict(type='FormatShape', input_format=form) for form in (wanted, given)]
    check_dataset(build(folder, 'a.mp4 1\n', pipeline=steps[:1]), 'test_dataloader', model)
    dataset = build(folder, 'a.mp4 1\n', pipeline=steps[1:])
    words = f"input_format='{given}', and model.data_preprocessor format_shape='{wanted}'"
    with pytest.raises(UserError, match=words):
        check_dataset(dataset, 'test_dataloader', model)


def test_balanced_classes(folder):
    from mmengine.dataset import ClassBalancedDataset

    one = build(folder, 'a.mp4 1\n12 0\nclip 7 0\n')
    assert len(ClassBalancedDataset(one, oversample_thr=1.0)) > len(one)
    several = build(folder, 'a.mp4 0 2\n', multi_class=True, num_classes=3)
    assert several.get_cat_ids(0) == [0, 2]


def test_steps_for_videos_on_folders_of_frames(tmp_path):
    from mmaction.datasets import RawframeDataset

    (tmp_path / 'list.txt').write_text('a 20 0\n')
    init_default_scope('mmaction')
    for steps, start in (([INIT, DECODE], 1), ([INIT, DECODE], 0), ([INIT], 1)):
        dataset = RawframeDataset(str(tmp_path / 'list.txt'), steps, start_index=start)
        with pytest.raises(UserError, match='RawframeDataset lists folders of frames, .*RawFrameD'):
            check_dataset(dataset, 'val_dataloader')
