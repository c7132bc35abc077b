"""Files, folders, patterns and cameras, and the names of their result files."""

import os
import shutil
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from PIL import Image

from mmswinv2.datasets import open_video, write_video
from mmswinv2.errors import UserError
from mmswinv2.inference import sources
from mmswinv2.inference.sources import divide, find_sources, frames_of, is_video


def test_patterns_and_names(tmp_path):
    for name in ('a.jpg', 'b.png', 'notes.txt'):
        (tmp_path / name).touch()
    found = list(find_sources([f'{tmp_path}/*.jpg', tmp_path / 'b.png', '0']))
    assert found == [f'{tmp_path}/a.jpg', f'{tmp_path}/b.png', '0']
    stills, films = divide([*found, 'x/clip.mp4'], clips=False)
    assert [s.name for s in stills] == ['a', 'b'] and [f[0] for f in films] == ['0', 'clip']


def test_patterns_in_folders_whose_names_could_be_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('in [1]/a.jpg', 'in [1]/b1/c.jpg', 'in 1/d.jpg', 'in2/e.jpg'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    wanted = {
        'in [1]/*.jpg': ['in [1]/a.jpg'],
        f'{tmp_path}/in [1]/b[0-9]/*': [f'{tmp_path}/in [1]/b1/c.jpg'],
        'in [1]/**': ['in [1]/a.jpg', 'in [1]/b1/c.jpg'],
        'in[0-9]/*.jpg': ['in2/e.jpg'],  # no folder of this name
        './in2/*': ['in2/e.jpg'],
        '*/*.jpg': ['in 1/d.jpg', 'in [1]/a.jpg', 'in2/e.jpg'],
    }
    for pattern, files in wanted.items():
        assert list(find_sources([pattern])) == files
    with pytest.raises(UserError, match='is no file, folder, pattern'):
        list(find_sources(['in2/*/']))  # folders alone, of which there is none


def test_a_pattern_of_which_no_folder_exists(monkeypatch):
    """Such as one on a drive of Windows that is gone."""
    monkeypatch.setattr(os.path, 'exists', lambda path: False)
    with pytest.raises(UserError, match=r'gone/\*\.jpg is no file, folder, pattern or number'):
        list(find_sources(['gone/*.jpg']))


def test_files_that_are_found_several_times(tmp_path):
    """Once where a folder or pattern brings them, as often as they are named."""
    for name in ('a.png', 'b.png'):
        (tmp_path / name).touch()
    one, two = f'{tmp_path}/a.png', f'{tmp_path}/b.png'
    assert list(find_sources([one, tmp_path, f'{tmp_path}/*.png'])) == [one, two]
    assert list(find_sources([one, two, one])) == [one, two, one]


def test_names_of_files_of_one_name(tmp_path):
    for folder in 'pq':
        (tmp_path / folder).mkdir()
    files = [tmp_path / name for name in ('p/a.png', 'p/a_2.png', 'q/a.png', 'q/a_2.png')]
    for file in files:
        file.touch()
    stills, _ = divide(list(map(str, files)), clips=False)
    assert [s.name for s in stills] == ['a', 'a_2', 'a_3', 'a_2_2']


def test_names_that_differ_in_case_alone_are_of_several_files():
    stills, _ = divide(['p/IMG.JPG', 'q/img.jpg', 'q/Img.png'], clips=False)
    assert [item.name for item in stills] == ['IMG', 'img_2', 'Img_3']


def test_long_names_leave_room_for_numbers_and_endings():
    given = [f'{folder}/{letter * 251}.jpg' for letter in 'x\u00fc' for folder in 'ab']
    names = [item.name for item in divide(given, clips=False)[0]]
    assert names[:2] == ['x' * 251, 'x' * 249 + '_2']
    assert names[2:] == ['ü' * 125, 'ü' * 124 + '_2']


def test_many_files_of_one_name(monkeypatch):
    """The number of names that are tried grows with theirs, not with its square."""
    tried, append = [], sources._append
    monkeypatch.setattr(sources, '_append', lambda *args: tried.append(args) or append(*args))
    stills, _ = divide([f'{i}/rgb.png' for i in range(1000)], clips=False)
    assert len({item.name for item in stills}) == 1000 and stills[-1].name == 'rgb_1000'
    assert len(tried) < 3 * 1000


def test_what_was_written_is_no_input(tmp_path):
    (tmp_path / 'outputs/vis').mkdir(parents=True)
    for name in ('a.png', 'outputs/vis/a.png'):
        (tmp_path / name).touch()
    for given in (tmp_path, f'{tmp_path}/**/*.png'):
        assert list(find_sources([given], tmp_path / 'outputs')) == [f'{tmp_path}/a.png']
    with pytest.raises(UserError, match='has nothing but results of .*outputs; name other files'):
        list(find_sources([f'{tmp_path}/outputs/*/*.png'], tmp_path / 'outputs'))


@pytest.mark.parametrize('out_dir', ['.', '..', 'photos'])
def test_only_results_are_left_out(tmp_path, monkeypatch, out_dir):
    """The folder of the results may hold the photos too."""
    for name in ('photos/a.png', 'photos/b/c.png', 'photos/vis/d.png', 'vis/e.png', 'preds/f.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    wanted = ['photos/a.png', 'photos/b/c.png', *['photos/vis/d.png'] * (out_dir != 'photos')]
    assert list(find_sources(['photos'], out_dir)) == wanted


def test_results_in_another_folder_are_left_out_unless_they_are_named(tmp_path, monkeypatch, log):
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'first/vis/a.png', 'first/preds/b.png', 'vis/c.png', 'first/d.png'):
        Path('photos', name).parent.mkdir(parents=True, exist_ok=True)
        Path('photos', name).touch()
    own = ['photos/a.png', 'photos/first/d.png', 'photos/vis/c.png']  # vis without preds
    assert list(find_sources(['photos'], 'second')) == own
    assert '2 files of photos are left out, as they are results of another --out-dir' in log()
    assert list(find_sources(['photos/**/*.png'], 'second')) == own
    for given in ('photos/first/vis', 'photos/first/vis/*.png'):
        assert list(find_sources([given], 'second')) == ['photos/first/vis/a.png']


def test_folders_of_data_may_have_the_names_of_results(tmp_path, monkeypatch, log):
    """Where they are all that there is, or an input names one; also runs inside that one."""
    monkeypatch.chdir(tmp_path)
    both = ['data/preds/b.png', 'data/vis/a.png']
    deep = [f'data/vis/run/{name}/c.png' for name in ('preds', 'vis')]
    for name in (*both, *deep, 'data/README.txt', 'data/preds/predictions.json'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for given in ('data', './data/', 'data/*/*.png'):
        assert set(both) <= set(find_sources([given], 'second'))
    assert list(find_sources(['data/vis'], 'second')) == ['data/vis/a.png', *deep]
    assert not log()


def test_folders_that_are_links_are_entered(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'real').mkdir()
    (tmp_path / 'real/a.png').touch()
    (tmp_path / 'photos/link').symlink_to('../real')
    (tmp_path / 'photos/loop').symlink_to('.')
    (tmp_path / 'photos/own').mkdir()
    (tmp_path / 'photos/own/b.png').touch()
    (tmp_path / 'photos/a link that is first').symlink_to('own')
    assert list(find_sources([tmp_path / 'photos'])) == [
        f'{tmp_path}/photos/link/a.png', f'{tmp_path}/photos/own/b.png'
    ]  # fmt: skip


def test_files_that_systems_write_are_left_out(tmp_path, monkeypatch):
    """Unless the user names them."""
    monkeypatch.chdir(tmp_path)
    for name in ('p/a.jpg', 'p/._a.jpg', 'p/@eaDir/a.jpg/THUMB.jpg', 'p/__MACOSX/._a.jpg'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for given in ('p', 'p/*.jpg', 'p/*a.jpg', 'p/**/*.jpg'):
        assert list(find_sources([given])) == ['p/a.jpg'], given
    for given in ('p/._a.jpg', 'p/@eaDir', 'p/@eaDir/*/*.jpg'):
        (found,) = find_sources([given])
        assert found.startswith(given[:5])


def test_names_stay_in_the_folder(tmp_path):
    names = ['...mp4', '..mp4', '.a.mp4']
    for name in names:
        (tmp_path / name).touch()
    _, films = divide([str(tmp_path / name) for name in names], clips=False)
    assert [name for name, _ in films] == ['unnamed', 'unnamed_2', 'a']


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(UserError, match=r'pipe\.jpg is no regular file'):
        list(find_sources([tmp_path / 'pipe.jpg']))


def test_videos_are_known_by_their_content_if_the_ending_is_not(tmp_path):
    frames = [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(4)]
    write_video(tmp_path / 'a.mp4', frames, 10)
    for name in ('a.3gp', 'a.MTS', 'a.dat', 'a'):
        shutil.copy(tmp_path / 'a.mp4', tmp_path / name)
    Image.fromarray(frames[0]).save(tmp_path / 'b.png')
    shutil.copy(tmp_path / 'b.png', tmp_path / 'b.dat')
    (tmp_path / 'c.dat').write_text('neither')
    for name in ('d.pam', 'd.hdr', 'd.pfm'):
        kind = np.uint8 if name == 'd.pam' else np.float32
        cv2.imwrite(str(tmp_path / name), frames[3].astype(kind))
    (tmp_path / 'e.jpg2').write_bytes(cv2.imencode('.jpg', frames[3])[1].tobytes()[:300])
    names = ('a.3gp', 'a.dat', 'a', 'b.dat', 'c.dat', 'd.pam', 'd.hdr', 'd.pfm', 'e.jpg2')
    given = [str(tmp_path / name) for name in names]
    stills, films = divide(given, clips=False)
    assert [source for _, source in films] == given[:3]
    assert [item.path for item in stills] == given[3:] and not any(item.clip for item in stills)
    assert [len(open_video(source)) for _, source in films] == [4, 4, 4]
    clips, none = divide(given[:3], clips=True)
    assert none == [] and all(item.clip for item in clips)
    found = [Path(path).name for path in find_sources([tmp_path])]
    assert found == ['a.3gp', 'a.MTS', 'a.mp4', 'b.png']


def test_what_is_left_out_of_a_folder_is_told(tmp_path):
    for name in ('a.jpg', 'b.gif', 'c.HEIC', 'd.heic', 'notes.txt'):
        (tmp_path / name).touch()
    with patch('mmswinv2.inference.sources.warn') as warn:
        found = list(find_sources([tmp_path]))
    assert found == [f'{tmp_path}/a.jpg', f'{tmp_path}/b.gif']
    assert warn.call_args.args[0].startswith(f'2 images of {tmp_path} are left out (.heic)')
    for name in ('a.jpg', 'b.gif'):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r'has no image .*; 2 images of .*\.heic\); save them as'):
        list(find_sources([tmp_path]))


def test_inputs_that_are_nothing(tmp_path):
    (tmp_path / 'link.jpg').symlink_to('nowhere')
    (tmp_path / 'a.jpg').mkdir()
    for given, words in (
        ('', 'an input is empty'),
        (f'{tmp_path}/*.jpg', 'is no file, folder'),
        (f'{tmp_path}/link.jpg', 'is no file, folder'),
        ('rtsp://camera/1', 'save what is at an address to a file first'),
        ('https://some.org/a.jpg', 'save what is at an address to a file first'),
    ):
        with pytest.raises(UserError, match=words):
            list(find_sources([given]))


@pytest.mark.parametrize('clips', [False, True])
def test_archives_and_documents_are_no_videos_of_their_pictures(tmp_path, clips):
    """FFmpeg finds the JPEGs in them, one after the other."""
    picture = Image.new('RGB', (32, 32))
    picture.save(tmp_path / 'a.jpg')
    picture.save(tmp_path / 'a.pdf')
    for kind in ('zip', 'tar'):
        shutil.make_archive(tmp_path / 'pictures', kind, tmp_path, 'a.jpg')
    assert len(open_video(str(tmp_path / 'pictures.tar'))) == 1
    for name, words in (
        ('pictures.zip', r'pictures\.zip is an archive; unpack it, and name the folder'),
        ('pictures.tar', r'pictures\.tar is an archive'),
        ('a.pdf', r'a\.pdf is a PDF; save its pages as images'),
    ):
        with pytest.raises(UserError, match=words):
            list(find_sources([tmp_path / name], clips=clips))
        with pytest.raises(UserError, match=words):
            list(find_sources([f'{tmp_path}/*{name[1:]}'], clips=clips))


def test_frames_that_cannot_be_decoded_are_counted(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr('mmswinv2.inference.sources.warn', told.append)
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    write_video(tmp_path / 'a.mp4', frames, 10)
    content = bytearray((tmp_path / 'a.mp4').read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = np.random.default_rng(1).bytes(4000)
    (tmp_path / 'a.mp4').write_bytes(content)
    items, _, number = frames_of('a', f'{tmp_path}/a.mp4', None)
    lost = number - len(list(items))
    assert number == 40 and 0 < lost < 20
    assert told[0].startswith(f'{tmp_path}/a.mp4 is damaged: {lost} of its 40 frames')
    assert len(list(frames_of('a', f'{tmp_path}/a.mp4', 5)[0])) == 5 and len(told) == 1


def test_files_that_are_gone_before_their_turn(tmp_path, monkeypatch):
    """Also a video whose name is a number is no camera then."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / 'a.mp4', [np.full((32, 32, 3), 90, np.uint8)] * 2, 10)
    shutil.copy('a.mp4', '0')
    sources = list(find_sources(['a.mp4', '0', '1']))
    _, films = divide(sources, clips=False)
    assert [source for _, source in films] == ['a.mp4', '0', '1']
    for _, source in films[:2]:
        os.remove(source)
        with pytest.raises(UserError, match=f'^{source} does not exist$'):
            frames_of('name', source, None)
    frames, _, _ = frames_of('name', films[2][1], None)
    with pytest.raises(UserError, match='there is no camera 1'):
        next(frames)
    stills, _ = divide(sources, clips=False)  # gone a little earlier
    assert [item.path for item in stills] == ['0']
    clips, _ = divide(sources[:2], clips=True)
    assert [item.path for item in clips] == ['a.mp4', '0']


@pytest.mark.parametrize(
    ('ending', 'durations', 'fps', 'times'),
    [
        ('gif', [100, 100, 300, 100], (4 / 0.6, 3 / 0.5), [0, 0.1, 0.2, 0.5]),
        ('gif', [0, 0, 0, 0], (10, 10), [None] * 4),  # as browsers show it
        ('webp', [40, 40, 40, 40], (25, 25), [None] * 4),
        ('webp', [40, 80, 120, 40], (4 / 0.28, 3 / 0.24), [0, 0.04, 0.12, 0.24]),
    ],
)
def test_animations_are_videos(tmp_path, ending, durations, fps, times):
    frames = [np.full((20, 30, 3), (50 * i, 200 - 50 * i, 90), np.uint8) for i in range(4)]
    first, *others = map(Image.fromarray, frames)
    path = tmp_path / f'a.{ending}'
    options = dict(lossless=True) if ending == 'webp' else {}
    first.save(path, save_all=True, append_images=others, duration=durations, **options)
    first.save(tmp_path / f'b.{ending}')
    stills, films = divide([str(path), f'{tmp_path}/b.{ending}'], clips=False)
    assert [item.name for item in stills] == ['b'] and films == [('a', str(path))]
    for most, number in ((None, 4), (3, 3), (9, 4)):
        items, rate, told = frames_of('a', str(path), most)
        items = list(items)
        assert told == len(items) == number and rate == pytest.approx(fps[number == 3])
        for item, frame, at in zip(items, frames, times, strict=False):
            assert (item.image == frame).all() and item.time == pytest.approx(at)


def test_an_animation_that_is_cut_short(tmp_path):
    pictures = [Image.effect_noise((40, 40), 90).convert('P') for _ in range(4)]
    pictures[0].save(tmp_path / 'a.gif', save_all=True, append_images=pictures[1:])
    content = (tmp_path / 'a.gif').read_bytes()
    (tmp_path / 'a.gif').write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match='cannot read the animation .*a.gif: image file is trunc'):
        frames_of('a', f'{tmp_path}/a.gif', None)
    items, _, number = frames_of('a', f'{tmp_path}/a.gif', 2)  # reads no more
    assert len(list(items)) == number == 2


@pytest.mark.parametrize('options', [{}, dict(lossless=True), dict(exif=b'Exif', icc_profile=b'x')])
def test_pictures_in_webp_are_known_by_their_first_bytes(options, tmp_path):
    """A folder may have a hundred thousand."""
    Image.new('RGBA', (40, 30)).save(tmp_path / 'a.webp', **options)
    with patch('mmswinv2.hosts.mmcv.open_image') as opened:
        assert not is_video(tmp_path / 'a.webp')
    assert not opened.called
