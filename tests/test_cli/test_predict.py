"""The command `mmswinv2 predict`, and the function behind it, on real models and files."""

import json
import shutil
import sys

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import mmswinv2
from mmswinv2.cli.predict import main
from mmswinv2.datasets import open_video, write_video
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError
from mmswinv2.inference.predict import iterate
from mmswinv2.inference.results import ResultWriter
from mmswinv2.inference.sources import Item
from tests.test_tools.conftest import CONFIG, ROOT
from tests.test_tools.test_documents import PREDICTIONS, blocks
from tests.tool_server import run_program

SEGMENTOR = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
VIDEO = 'configs/video/video-swinv2-nano_motion.py'
CLASSES = ['circle', 'square', 'triangle', 'star']
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::DeprecationWarning')


def run(config, *args):
    return mmswinv2.predict(str(ROOT / config), *args)


def test_detector_on_a_folder(weights, photos, tmp_path):
    results = mmswinv2.predict(
        str(ROOT / CONFIG), weights(CONFIG), photos, tmp_path, score=0.0, batch_size=2
    )
    assert len(results) == 3
    assert {p.name for p in (tmp_path / 'vis').iterdir()} == {'a.jpg', 'a_2.jpg', 'b.jpg'}
    # small images are drawn up to 10 times as large
    for name, size in (('a', (480, 640)), ('b', (700, 500)), ('a_2', (400, 400))):
        assert cv2.imread(str(tmp_path / f'vis/{name}.jpg')).shape[:2] == size
    content = json.loads((tmp_path / 'preds/predictions.json').read_text())
    assert [c['name'] for c in content['categories']] == CLASSES
    sizes = {i['file_name']: (i['height'], i['width']) for i in content['images']}
    assert sizes[f'{photos}/b.png'] == (70, 50)
    found = results[0].pred_instances
    ours = [a for a in content['annotations'] if a['image_id'] == 1]
    assert len(ours) == len(found) > 0
    assert [a['score'] for a in ours] == pytest.approx(found.scores.tolist())
    assert [a['category_id'] for a in ours] == found.labels.tolist()
    import pycocotools.mask

    mask = pycocotools.mask.decode(ours[0]['segmentation'])
    assert (mask == found.masks[0].numpy()).all()
    assert [a['area'] for a in ours] == found.masks.sum(dim=(1, 2)).tolist()
    x, y, w, h = ours[0]['bbox']
    assert [x, y, x + w, y + h] == pytest.approx(found.bboxes[0].tolist())


def test_one_by_one_is_as_together(weights, photos):
    options = dict(score=0.0)
    alone = mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), [photos / 'a.jpg'], **options)
    path = [photos / 'a.jpg', photos / 'a.jpg']  # of one size, so nothing is padded
    both = mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), path, batch_size=2, **options)
    assert len(alone) == 1 and len(both) == 2
    scores = [r[0].pred_instances.scores[:5].tolist() for r in (alone, both)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize('config', [CONFIG, SEGMENTOR], ids=['detector', 'segmentor'])
def test_mirror_images_are_views(weights, tmp_path, config):
    """With both views, an image and its mirror image give mirrored results."""
    image = np.zeros((64, 96, 3), np.uint8)
    cv2.circle(image, (30, 30), 20, (10, 60, 200), -1)
    cv2.rectangle(image, (60, 10), (90, 40), (200, 90, 10), -1)
    for name, pixels in (('a.png', image), ('b.png', image[:, ::-1])):
        cv2.imwrite(str(tmp_path / name), pixels)
    files = [tmp_path / 'a.png', tmp_path / 'b.png']

    def unlike(**options):
        plain, mirrored = mmswinv2.predict(str(ROOT / config), weights(config), files, **options)
        assert plain.ori_shape == (64, 96)
        if config == SEGMENTOR:
            return (plain.pred_sem_seg.data != mirrored.pred_sem_seg.data.flip(-1)).float().mean()
        found, other = plain.pred_instances[:5], mirrored.pred_instances[:5]
        assert found.masks.shape[1:] == (64, 96)
        x1, y1, x2, y2 = other.bboxes.T
        return (found.bboxes - torch.stack([96 - x2, y1, 96 - x1, y2], 1)).abs().max()

    assert unlike(tta=True, out_dir=tmp_path / 'out') < 0.01 < unlike()
    assert len(list((tmp_path / 'out/vis').iterdir())) == 2


def test_views_of_videos_are_in_the_pipeline(weights, clip):
    with pytest.raises(UserError, match='--tta: the views of a video are those of the test pipel'):
        mmswinv2.predict(str(ROOT / VIDEO), weights(VIDEO), clip, tta=True)


def test_segmentor_on_a_video(weights, clip, tmp_path):
    results = run(SEGMENTOR, weights(SEGMENTOR), clip, tmp_path)
    assert len(results) == 6
    with av.open(str(tmp_path / 'vis/clip.mp4')) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6
        assert video.streams.video[0].average_rate == 10
    maps = sorted((tmp_path / 'preds/clip').iterdir())
    assert [m.name for m in maps] == [f'{i:06d}.png' for i in range(6)]
    assert not list(tmp_path.rglob('*.part*'))
    written = cv2.imread(str(maps[3]), cv2.IMREAD_UNCHANGED)
    assert (written == results[3].pred_sem_seg.data[0].numpy()).all()
    short = mmswinv2.predict(str(ROOT / SEGMENTOR), weights(SEGMENTOR), clip, max_frames=2)
    assert len(short) == 2


def test_frames_of_an_uneven_video_keep_their_times(weights, tmp_path):
    seconds = [0, 0.1, 0.2, 1.5]
    frames = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / 'uneven.mp4', frames, 2, times=seconds)
    run(SEGMENTOR, weights(SEGMENTOR), tmp_path / 'uneven.mp4', tmp_path / 'out')
    with av.open(str(tmp_path / 'out/vis/uneven.mp4')) as video:
        assert [frame.time for frame in video.decode(video=0)] == pytest.approx(seconds)


def test_frames_are_seen_as_images_are(weights, tmp_path):
    """A lossless video and a PNG of its frame give the same labels."""
    image = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(image, (30, 30), 20, (10, 60, 200), -1)  # OpenCV's order: B, G, R
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    with av.open(str(tmp_path / 'b.mkv'), 'w') as container:
        stream = container.add_stream('ffv1', rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = 'bgr0'
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='bgr24')))
        container.mux(stream.encode())
    files = [tmp_path / 'a.png', tmp_path / 'b.mkv']
    still, frame = run(SEGMENTOR, weights(SEGMENTOR), files)
    assert torch.equal(still.pred_sem_seg.data, frame.pred_sem_seg.data)
    assert len(still.pred_sem_seg.data.unique()) > 1 and not hasattr(still, 'seg_logits')


@pytest.mark.parametrize('turn', [3, 6])  # upside down, and on its side
@pytest.mark.parametrize('config', [CONFIG, SEGMENTOR], ids=['detector', 'segmentor'])
def test_images_are_drawn_on_as_they_are_loaded(weights, tmp_path, config, turn):
    """Also a photo with an EXIF orientation that is loaded as it is stored."""
    values = np.zeros((40, 80, 3), np.uint8)
    values[:10, :20] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    Image.fromarray(values).save(tmp_path / 'a.png', exif=exif)
    Image.fromarray(values).save(tmp_path / 'plain.png')
    load = {'test_dataloader.dataset.pipeline.0.color_type': 'color_ignore_orientation'}
    drawn = []
    for name in ('a', 'plain'):
        (result,) = mmswinv2.predict(
            str(ROOT / config), weights(config), tmp_path / f'{name}.png', tmp_path / 'out',
            cfg_options=load, score=1.0,
        )  # fmt: skip
        assert result.ori_shape == (40, 80)
        drawn.append(cv2.imread(str(tmp_path / f'out/vis/{name}.jpg')))
    assert np.array_equal(*drawn)


def test_a_long_picture_is_drawn_and_written(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((66000, 8, 3), np.uint8))
    writer = ResultWriter(tmp_path / 'out', config_with_options(str(ROOT / SEGMENTOR), None), {}, 0)
    writer.save(Item('a', str(tmp_path / 'a.png')), cv2.imread(str(tmp_path / 'a.png')))
    assert cv2.imread(str(tmp_path / 'out/vis/a.png')).shape == (66000, 8, 3)


def test_names_of_videos_with_a_colon(weights, clip, tmp_path, monkeypatch):
    """Cameras write such names; the part before the colon is no protocol."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, '2026-01-01T12:30:00.mp4')
    assert len(run(SEGMENTOR, weights(SEGMENTOR), '2026-01-01T12:30:00.mp4', 'out')) == 6
    assert len(open_video('out/vis/2026-01-01T12:30:00.mp4')) == 6


def test_a_part_of_a_clip_is_not_classified(weights, clip):
    with pytest.raises(UserError, match='classifies whole videos, of which max_frames cannot'):
        mmswinv2.predict(str(ROOT / VIDEO), weights(VIDEO), clip, max_frames=2)


def test_video_classifier(weights, clip, tmp_path, capsys):
    (result,) = run(VIDEO, weights(VIDEO), clip, tmp_path)
    (line,) = (tmp_path / 'preds/predictions.jsonl').read_text().splitlines()
    best = json.loads(line)['predictions'][0]
    assert best['label'] == int(result.pred_score.argmax())
    assert best['score'] == pytest.approx(float(result.pred_score.max()))
    assert f'clip.mp4: {best["name"]} ' in capsys.readouterr().out
    before, after = (open_video(str(path)) for path in (clip, tmp_path / 'vis/clip.mp4'))
    assert (len(after), after.fps) == (len(before), before.fps)
    changed = np.abs(after.read([3])[0].astype(int) - before.read([3])[0]).max(-1) > 100
    assert changed[: len(changed) // 2].any()  # the caption, in the upper corner
    assert not list(tmp_path.rglob('*.part*'))


@pytest.mark.parametrize('batch', [1, 4])
def test_bad_files_are_left_out_and_told_at_the_end(
    weights, photos, clip, tmp_path, batch, monkeypatch
):
    told = []
    monkeypatch.setattr('mmswinv2.inference.predict.warn', told.append)
    for name in ('bad.jpg', 'worse.png', 'bad.mp4'):
        (tmp_path / name).write_text('no image')
    bad = [tmp_path / name for name in ('bad.jpg', 'worse.png', 'bad.mp4')]
    files = [photos / 'a.jpg', bad[0], bad[2], photos / 'b.png', bad[1], clip]
    options = dict(batch_size=batch, max_frames=2)
    names = [f'{photos}/a.jpg', None, f'{photos}/b.png', None]
    frames = [f'{clip}, frame {i}' for i in range(2)]
    for out_dir in (tmp_path / 'out', None):
        found = mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), files, out_dir, **options)
        paths = [result and result.img_path for result in found]
        assert paths == [*names, None, *frames]  # pictures come first; the bad video has no frames
    for number, name in enumerate(('bad.jpg', 'worse.png', 'bad.mp4') * 2):  # pictures come first
        assert told[number].startswith('left out: cannot read the ') and name in told[number]
    content = json.loads((tmp_path / 'out/preds/predictions.json').read_text())
    assert [i['file_name'] for i in content['images']] == [*names[::2], *frames]
    written = sorted(path.name for path in (tmp_path / 'out/vis').iterdir())
    assert written == ['a.jpg', 'b.jpg', f'{clip.stem}.mp4']


def test_the_command_ends_with_an_error_where_files_are_left_out(weights, photos, tmp_path):
    (tmp_path / 'bad.jpg').write_text('no image')
    good, bad = f'{photos}/a.jpg', f'{tmp_path}/bad.jpg'
    with pytest.raises(UserError, match='^1 of the inputs could not be used'):
        main([f'{ROOT}/{CONFIG}', weights(CONFIG), bad, good, bad, '--out-dir', f'{tmp_path}/out'])
    assert [p.name for p in (tmp_path / 'out/vis').iterdir()] == ['a.jpg']


class OfFiles:
    """A step that fails for frames, as one does that looks for what a loader of files adds."""

    def __call__(self, results):
        if 'frame' in results['img_path']:
            raise KeyError('added')
        return results


def test_a_step_that_fails_for_every_frame_ends_the_command(weights, photos, clip, monkeypatch):
    told = []
    monkeypatch.setattr('mmswinv2.inference.predict.warn', told.append)
    cfg = config_with_options(str(ROOT / SEGMENTOR), None)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type=OfFiles))
    results = iterate(cfg, weights(SEGMENTOR), [photos / 'a.jpg', clip])
    assert next(results).img_path.endswith('a.jpg')
    with pytest.raises(UserError, match="needs 'added', which no step"):
        next(results)
    assert not told


@pytest.mark.parametrize(('bad', 'good'), [(1, 0), (3, 0), (5, 1)])
def test_files_that_may_be_wrong_by_the_config(weights, photos, tmp_path, bad, good):
    """The error of the first ends the command, if all or the first five cannot be read."""
    files = [tmp_path / f'bad_{i}.jpg' for i in range(bad)] + [photos / 'a.jpg'] * good
    for file in files[:bad]:
        file.write_text('no image')
    with pytest.raises(UserError, match=r'bad_0\.jpg'):
        mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), files, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_video_that_is_stopped_ends_with_the_frame_before(weights, clip, tmp_path):
    found = iterate(str(ROOT / SEGMENTOR), weights(SEGMENTOR), clip, tmp_path)
    for _ in range(3):
        next(found)
    found.close()
    with av.open(str(tmp_path / 'vis/clip.mp4')) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


WRONG = {
    'no such file': ('nothing.jpg', 'nothing.jpg is no file, folder, pattern or number'),
    'no match': ('*.xyz', r'\*.xyz is no file, folder, pattern or number'),
    'empty folder': ('empty', 'the folder empty has no image or video'),
    'folder named as an image': ('empty/a.jpg', r'the folder empty/a.jpg has no image or video'),
    'no image': ('notes.jpg', 'cannot read the image notes.jpg: .* cannot identify image file;'),
    'empty image': ('zero.jpg', 'cannot read the image zero.jpg: OSError: the file is empty;'),
    'no video': ('notes.mp4', 'cannot read the video .*notes.mp4'),
    'empty video': ('zero.mp4', 'cannot read the video .*zero.mp4'),
    'no frames': ('header.avi', 'cannot read the video header.avi: no frames'),
    'no camera': ('7', 'there is no camera 7'),
}


@pytest.mark.parametrize(('given', 'words'), WRONG.values(), ids=WRONG)
def test_inputs_that_cannot_be_used(weights, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty/a.jpg').mkdir(parents=True)
    for name in ('notes.jpg', 'notes.mp4'):
        (tmp_path / name).write_text('no image')
    for name in ('zero.jpg', 'zero.mp4'):
        (tmp_path / name).touch()
    with av.open('header.avi', 'w') as container:
        stream = container.add_stream('mpeg4', rate=10)
        stream.width, stream.height = 64, 48
        container.start_encoding()
    with pytest.raises(UserError, match=words):
        run(SEGMENTOR, weights(SEGMENTOR), given, tmp_path / 'new/out')
    assert not (tmp_path / 'new').exists()


def test_nothing_is_left_where_results_cannot_be_written(weights, photos, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/preds').write_text('a file')
    with pytest.raises(UserError, match='the folder .*/out/preds cannot be written'):
        run(SEGMENTOR, weights(SEGMENTOR), photos / 'a.jpg', tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['preds']


@pytest.mark.parametrize('given', ['a.jpg', '0', ''], ids=['picture', 'camera', 'folder'])
def test_pictures_for_a_video_classifier(weights, photos, given):
    path = given if given == '0' else photos / given
    with pytest.raises(UserError, match=r'is no video, and the config|has no video \(.mp4'):
        run(VIDEO, weights(VIDEO), path)


def test_names_of_classes(weights, photos, tmp_path):
    """Names come from the config, else from the data set's type if its number of classes fits."""

    def found(config, out, file=None, **options):
        settings = {f'test_dataloader.dataset.{key}': value for key, value in options.items()}
        file = file or weights(config)
        mmswinv2.predict(
            str(ROOT / config), file, photos / 'a.jpg', tmp_path / out, score=0.0,
            cfg_options={'visualizer': None, **settings},
        )  # fmt: skip
        drawn = cv2.imread(str(tmp_path / out / 'vis/a.jpg'))
        plain = cv2.resize(cv2.imread(str(photos / 'a.jpg')), drawn.shape[1::-1])
        assert np.abs(drawn.astype(int) - plain).mean() > 10
        return tmp_path / out / 'preds'

    several = {**torch.load(weights(CONFIG)), 'meta': dict(dataset_meta=[dict(classes=('a',)), {}])}
    torch.save(several, tmp_path / 'several.pth')  # meta of several data sets
    for file in (None, str(tmp_path / 'several.pth')):
        predictions = found(CONFIG, f'coco{file is None}', file, metainfo=None) / 'predictions.json'
        content = json.loads(predictions.read_text())
        # the type CocoDataset has 80 classes, but the model four
        assert [c['name'] for c in content['categories']] == ['0', '1', '2', '3']
    old = {**torch.load(weights(CONFIG)), 'meta': dict(CLASSES=('a', 'b', 'c', 'd'))}  # of mmdet 2
    torch.save(old, tmp_path / 'old.pth')
    (tmp_path / 'names.txt').write_text('nut\nbolt\nscrew\nring\n')
    for names, file in (('abcd', None), (['nut', 'bolt', 'screw', 'ring'], 'names.txt')):
        own = dict(metainfo=None) if file is None else {'metainfo.classes': str(tmp_path / file)}
        predictions = found(CONFIG, f'of {file}', str(tmp_path / 'old.pth'), **own)
        content = json.loads((predictions / 'predictions.json').read_text())
        assert [c['name'] for c in content['categories']] == list(names)
    with pytest.raises(UserError, match=r"metainfo.classes='gone.txt' of test_dataloader is no fi"):
        found(CONFIG, 'gone', **{'metainfo.classes': 'gone.txt'})
    with pytest.raises(UserError, match=r'class 3 was found in .*a.jpg, .* has 2 names'):
        found(CONFIG, 'few', **{'metainfo.classes': ('a', 'b')})
    assert not (tmp_path / 'few').exists()
    found(SEGMENTOR, 'none', type='BaseSegDataset', metainfo=None)
    found(SEGMENTOR, 'colorless', type='BaseSegDataset', **{'metainfo.palette': None})


KINDS = {
    'a.gif': 'RGB',
    'a.webp': 'RGB',
    'cmyk.jpg': 'CMYK',
    'gray.jpg': 'L',
    'rgba.png': 'RGBA',
    'palette.png': 'P',
    'several.mpo': 'RGB',
}


def test_pictures_of_all_kinds(weights, tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    for name, mode in KINDS.items():
        image.convert(mode).save(tmp_path / name)
    results = run(SEGMENTOR, weights(SEGMENTOR), tmp_path, tmp_path)
    assert [r.ori_shape for r in results] == [(40, 60)] * len(KINDS)
    assert len(list((tmp_path / 'vis').iterdir())) == len(KINDS)
    cv2.imwrite(str(tmp_path / 'deep.png'), np.zeros((40, 60, 3), np.uint16))
    with pytest.raises(UserError, match='deep.png is a PNG of 3 x 16 bits .* cuts to 8 bits'):
        run(SEGMENTOR, weights(SEGMENTOR), tmp_path / 'deep.png')
    (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(100))
    with pytest.raises(UserError, match='.*a.heic: .heic files need a loader .*; save it as JPEG'):
        run(SEGMENTOR, weights(SEGMENTOR), tmp_path / 'a.heic')


def test_folders_that_cannot_be_written(weights, photos, tmp_path):
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file', tmp_path / 'file/out', '/proc/out'):
        with pytest.raises(UserError, match='cannot be written .*; name another with --out-dir'):
            run(SEGMENTOR, weights(SEGMENTOR), photos / 'a.jpg', folder)
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_weights_and_configs_that_do_not_fit(weights, photos):
    with pytest.raises(UserError, match='does not fit the model .* Predict with the config that'):
        run(CONFIG, weights(SEGMENTOR), photos)
    with pytest.raises(UserError, match=r'weight \[5, 128\], here \[8, 128\]'):
        heads = {f'model.roi_head.{head}_head.num_classes': 7 for head in ('bbox', 'mask')}
        mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos, cfg_options=heads)
    with pytest.raises(UserError, match='is a folder; name the file in it'):
        run(CONFIG, photos, photos)
    with pytest.raises(UserError, match='does not exist'):
        run(CONFIG, 'nothing.pth', photos)
    for device in ('cuda:7', 'foo', '0', 'meta'):
        with pytest.raises(
            UserError, match=f'the device {device!r} cannot be used .*; name cpu or'
        ):
            mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos, device=device)
    with pytest.raises(UserError, match='max_frames must be at least 1, got 0'):
        mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos, max_frames=0)
    for score in (50, '0.5', float('nan')):
        with pytest.raises(UserError, match=f'score must be from 0 to 1, got {score!r}'):
            mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos, score=score)
    with pytest.raises(UserError, match='batch_size must be at least 1, got 2.5'):
        mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos, batch_size=2.5)
    image = np.zeros((8, 8, 3), np.uint8)
    for given in (image, [image]):
        with pytest.raises(UserError, match='inputs must be paths, .*, got ndarray; write'):
            mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), given)


@pytest.mark.parametrize(
    'load',
    [
        dict(type='LoadImageFromFile', color_type='grayscale'),
        dict(type='mmswinv2.LoadImage', channels=1, to_float32=True),  # as docs/data.md has it
    ],
)
def test_frames_in_gray_where_the_config_loads_gray(tmp_path, load):
    from mmengine.config import Config

    from mmswinv2.inference.pipeline import Pipeline
    from mmswinv2.inference.sources import Item

    dataset = dict(type='BaseDataset', pipeline=[load, dict(type='mmdet.PackDetInputs')])
    cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dataset)))
    frame = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    gray = np.rint(frame @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), gray)
    prepare = Pipeline(cfg)
    items = (Item('a', str(tmp_path / 'a.png')), Item('a/0', 'a.mp4', frame))
    of_file, of_frame = (prepare(item, 0)['inputs'] for item in items)
    assert of_frame.shape == of_file.shape == (1, 16, 24)
    assert of_frame.dtype == of_file.dtype
    assert (of_frame.int() - of_file.int()).abs().max() <= 1


def test_videos_with_the_longest_names(weights, tmp_path):
    source = tmp_path / f'{"v" * 251}.mp4'
    write_video(source, [np.full((64, 64, 3), 90, np.uint8)] * 2, 10)
    results = mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), source, tmp_path / 'out')
    assert len(results) == 2 and (tmp_path / 'out/vis' / source.name).exists()


def command(*args):
    return run_program([sys.executable, '-W', 'ignore', '-m', 'mmswinv2', *args], cwd=ROOT)


def test_the_command(weights, photos, tmp_path, capsys):
    (tmp_path / 'bad.jpg').write_text('no image')
    files = [str(photos / 'a.jpg'), str(tmp_path / 'bad.jpg')]
    options = ('--out-dir', str(tmp_path / 'out'))
    main([str(ROOT / CONFIG), weights(CONFIG), files[0], *options])
    assert f'1 predictions are in {tmp_path}/out' in capsys.readouterr().err
    with pytest.raises(UserError, match='1 of the inputs could not be used, see the warnings'):
        main([str(ROOT / CONFIG), weights(CONFIG), *files, *options])
    told = capsys.readouterr()
    assert f'1 predictions are in {tmp_path}/out' in told.err
    assert 'left out: ' in told.err and 'left out: ' not in told.out  # which may be in a file
    listed = command()
    assert listed.returncode == 0 and 'predict     predict on images' in listed.stdout
    wrong = command('pedict')
    assert wrong.returncode == 1
    assert "error: 'pedict' is no command of mmswinv2 (close to it: predict)" in wrong.stderr
    assert '--work-dir' in command('train', '--help').stdout
    failed = command('convert', tmp_path / 'none.pth', tmp_path / 'x.pth')
    assert failed.returncode == 1 and failed.stderr.strip().startswith('error: ')


@pytest.mark.parametrize(('document', 'number'), PREDICTIONS)
def test_the_code_of_the_documents(
    document, number, weights, photos, tmp_path, monkeypatch, capsys
):
    code = blocks(document, 'python')[number]
    monkeypatch.chdir(tmp_path)
    for name, given in (('CONFIG', ROOT / CONFIG), ('CHECKPOINT', weights(CONFIG))):
        assert f"'{name}'" in code
        code = code.replace(f"'{name}'", repr(str(given)))
    code = code.replace("'photos'", repr(str(photos))).replace('score=0.5', 'score=0.0')
    exec(code, {})
    assert 'tensor([' in capsys.readouterr().out
    assert (tmp_path / 'outputs/preds/predictions.json').exists()


@pytest.mark.parametrize('config', [CONFIG, SEGMENTOR])
def test_a_batch_of_images_of_many_sizes(config, weights, tmp_path):
    """Segmentors take no batch of mixed sizes; results equal those of single images."""
    rng = np.random.default_rng(0)
    for name, size in (('a', (96, 72)), ('b', (72, 96)), ('c', (72, 96)), ('d', (96, 72))):
        cv2.imwrite(str(tmp_path / f'{name}.png'), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    options = dict(score=0.0)
    alone = mmswinv2.predict(str(ROOT / config), weights(config), tmp_path, **options)
    found = mmswinv2.predict(str(ROOT / config), weights(config), tmp_path, batch_size=3, **options)
    assert len(found) == 4
    for one, other in zip(alone, found, strict=True):
        assert one.ori_shape == other.ori_shape
        if config == CONFIG:
            assert torch.allclose(one.pred_instances.scores, other.pred_instances.scores, atol=1e-4)
        else:
            assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)


def test_mixed_precision(weights, photos):
    """Boxes of a detector are near those of float32."""
    exact, near = (
        mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos / 'a.jpg', amp=amp, score=0.0)
        for amp in (False, True)
    )
    best, boxes = exact[0].pred_instances.bboxes[:3], near[0].pred_instances.bboxes
    assert boxes.dtype == torch.float32
    assert (boxes[None] - best[:, None]).abs().amax(-1).amin(-1).max() < 2


def test_an_empty_folder_name(weights, photos):
    with pytest.raises(UserError, match='--out-dir is empty'):
        mmswinv2.predict(str(ROOT / CONFIG), weights(CONFIG), photos, '')


def test_classes_in_another_order_than_the_weights(photos, tmp_path, weights):
    """Must fail: a model identifies classes by their indices."""
    saved = torch.load(weights(CONFIG))
    names = ['circle', 'square', 'triangle', 'star']
    torch.save({**saved, 'meta': dict(dataset_meta=dict(classes=names))}, tmp_path / 'own.pth')
    options = {'test_dataloader.dataset.metainfo.classes': names[::-1]}
    with pytest.raises(UserError, match="'star' is number 0 of test_dataloader and number 3 of"):
        mmswinv2.predict(
            str(ROOT / CONFIG), str(tmp_path / 'own.pth'), photos / 'a.jpg', cfg_options=options
        )
