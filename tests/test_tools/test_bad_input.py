"""Mistakes of users end in one sentence that names the mistake and a remedy."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from mmswinv2.engine.settings import set_out
from mmswinv2.errors import UserError
from mmswinv2.files import write_atomically
from tests.test_checkpoints.conftest import PRINTS
from tests.test_tools.conftest import CONFIG, ROOT


def sentence(run):
    assert run.returncode == 1, run.stderr[-2000:]
    lines = [line for line in run.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in run.stderr, run.stderr[-2000:]
    return lines[0]


@pytest.fixture
def damaged(shapes, tmp_path):
    """A copy of the data that a test may damage."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


def test_missing_data_folder(train, tmp_path):
    said = sentence(train(tmp_path / 'w', data_root=tmp_path / 'nowhere'))
    assert f'the folder {tmp_path}/nowhere/ does not exist' in said and 'data_root' in said


def test_annotations_that_are_not_json(train, damaged, tmp_path):
    path = damaged / 'annotations' / 'instances_train2017.json'
    path.write_text(path.read_text()[:-100])
    assert f'{path} is not JSON, or cut short' in sentence(train(tmp_path / 'w', data_root=damaged))
    path.unlink()
    assert f'{path} does not exist' in sentence(train(tmp_path / 'w', data_root=damaged))


@pytest.mark.parametrize(('damage', 'workers'), [('missing', 0), ('truncated', 1)])
def test_damaged_image(train, damaged, tmp_path, damage, workers):
    images = sorted((damaged / 'train2017').iterdir())
    for image in images:
        if damage == 'missing':
            image.unlink()
        else:
            image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    options = [f'train_dataloader.num_workers={workers}']
    said = sentence(train(tmp_path / 'w', data_root=damaged, options=options))
    assert 'cannot read the image' in said and f'{damaged}/train2017/0000' in said


def test_config_that_does_not_exist(train, tmp_path):
    said = sentence(train(tmp_path, config='configs/detection/mask-rcnn.py'))
    assert 'the config configs/detection/mask-rcnn.py does not exist' in said


def test_unknown_type(train, tmp_path):
    said = sentence(train(tmp_path, options=['model.backbone.type=mmswinv2.SwinTransformerv2']))
    assert (
        "'mmswinv2.SwinTransformerv2' is not in" in said
        and 'close to it: SwinTransformerV2' in said
    )


def test_checkpoints_that_cannot_be_used(tool, train, trained, shapes, tmp_path):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes((trained / 'iter_2.pth').read_bytes()[:100_000])
    options = ['--work-dir', tmp_path / 'w', '--cfg-options', f'data_root={shapes}']
    assert 'does not exist' in sentence(tool('test.py', CONFIG, tmp_path / 'no.pth', *options))
    assert 'cut.pth (100000 bytes) is truncated' in sentence(tool('test.py', CONFIG, cut, *options))
    assert 'is truncated' in sentence(train(tmp_path / 'w', '--resume', cut))
    pretrained = [f'model.backbone.init_cfg.{k}' for k in ('type=Pretrained', f'checkpoint={cut}')]
    said = sentence(train(tmp_path / 'w', options=pretrained))
    assert 'cut.pth (100000 bytes) is truncated' in said


def test_load_from_runs_no_code(train, tmp_path):
    torch.save({'state_dict': {}, 'meta': PRINTS}, tmp_path / 'evil.pth')
    run = train(tmp_path / 'w', options=[f'load_from={tmp_path}/evil.pth'])
    assert 'would run code from the file' in sentence(run)
    assert 'this must not be printed' not in run.stdout
    said = sentence(train(tmp_path / 'w', options=[f'load_from={tmp_path}/no.pth']))
    assert 'no.pth does not exist' in said


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ("_base_ = '{base}'\nmodel = dict(", 'line 2: '),
        ("_base_ = '{base}'\ndefault_scope = 'mmnothing'", 'needs mmnothing (its default_scope)'),
        ("_base_ = '{base}'\nmodel = dict(backbone=dict(arch='medium'))", "'medium' is unknown"),
        ("_base_ = '{base}'\nmodel = dict(backbone=dict(window_size=0))", 'window_size[0] must be'),
    ],
    ids=['syntax', 'scope', 'arch', 'window'],
)
def test_mistakes_in_a_config(train, tmp_path, text, words):
    config = tmp_path / 'config.py'
    config.write_text(text.format(base=ROOT / CONFIG))
    assert words in sentence(train(tmp_path / 'w', config=config))


def test_what_is_no_config(train, tmp_path):
    assert 'README.md is no config' in sentence(train(tmp_path, config='README.md'))


def test_resume_with_nothing_to_resume(train, tmp_path):
    said = sentence(train(tmp_path / 'w', '--resume'))
    assert f'{tmp_path}/w has no checkpoint to resume from' in said and '--work-dir' in said


def test_work_dir_that_cannot_be_written(train, tmp_path):
    (tmp_path / 'file').write_text('')
    said = sentence(train(tmp_path / 'file' / 'w'))
    assert f'the work dir {tmp_path}/file/w cannot be written' in said and '--work-dir' in said


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('model.backbone.window_size=(8,7', '( is not closed'),
        ('batch_size', "'batch_size' is no key=value"),
        ('=3', "'=3' is no key=value"),
        ('model.backbone.windows_size=8', "has no argument 'windows_size' (close to it: window_"),
        ('train_dataloader.batchsize=8', "DataLoader takes no argument 'batchsize' (close to it: "
         'batch_size'),
        ('train_cfg.max_iter=8', "IterBasedTrainLoop takes no argument 'max_iter' (close to it: m"),
        ('optim_wrapper.optimizer.lrr=8', "AdamW takes no argument 'lrr' (close to it: lr"),
        ('train_dataloader=5', 'train_dataloader=5 in the config must be a dict'),
        ('auto_scale_lr.enable=True', 'needs auto_scale_lr=dict(base_batch_size=...)'),
    ],
)  # fmt: skip
def test_options_that_are_none(train, tmp_path, option, words):
    assert words in sentence(train(tmp_path / 'w', options=[option]))


def test_launchers_that_have_not_launched(train, tmp_path):
    for name, variable in (('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID')):
        said = sentence(train(tmp_path / 'w', '--launcher', name))
        assert f'--launcher {name}: the environment variable {variable} is not set' in said


def test_mixed_precision_without_a_gpu(train, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU here, and --amp works')
    for options in (['--amp'], ['--amp-dtype', 'bfloat16']):
        assert '--amp needs a GPU' in sentence(train(tmp_path, *options))


@pytest.mark.parametrize(
    ('script', 'options', 'words'),
    [
        ('misc/swap_backbone.py', ('mmdet::fcos', '--lr', 'nan'), '--lr must be a number above 0'),
        ('misc/swap_backbone.py', ('mmdet::fcos', '--lr', 'inf'), '--lr must be a number above 0'),
        ('analysis_tools/estimate_memory.py', (CONFIG, '--card', 'nan'), '--card must be a number'),
        ('analysis_tools/estimate_memory.py', (CONFIG, '--card', '-5'), '--card must be a number'),
        (
            'analysis_tools/estimate_memory.py',
            (CONFIG, '--reserve', '-1'),
            '--reserve must be a nu',
        ),
    ],
)
def test_numbers_that_are_none(tool, script, options, words):
    run = tool(script, *options)
    assert run.returncode == 1 and words in run.stderr and 'Traceback' not in run.stderr


def test_files_that_tools_do_not_expect(tool, tmp_path):
    boxes = tmp_path / 'boxes.pkl'
    boxes.write_bytes(pickle.dumps([dict(pred_instances={})]))
    (tmp_path / 'run/1').mkdir(parents=True)
    (tmp_path / 'run/1/1.json').write_text('{"mIoU": 0.')
    (tmp_path / 'empty/1').mkdir(parents=True)
    (tmp_path / 'empty/1/1.json').write_text('{}')
    (tmp_path / 'file').touch()
    numbers = tmp_path / 'numbers.pkl'
    numbers.write_bytes(pickle.dumps([1, 2]))
    (tmp_path / 'a.png').touch()
    segmentor = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
    motion = 'configs/video/video-swinv2-nano_motion.py'
    none = ['train_dataloader=None', 'val_dataloader=None']
    for script, options, words in (
        ('misc/motion_scores.py', [f'a={boxes}'], 'samples must be predictions of a classifier'),
        ('misc/motion_scores.py', [f'a={numbers}'], 'samples must be predictions of a classifie'),
        ('misc/print_scores.py', [tmp_path / 'run'], '1.json is damaged'),
        ('misc/print_scores.py', [tmp_path / 'empty'], '1.json holds no scores'),
        ('misc/check_seg_maps.py', [segmentor, '--cfg-options', *none], 'has neither train_data'),
        (
            'misc/simmim_demo.py',
            [CONFIG, 'none.pth', tmp_path / 'a.png', '--out', tmp_path / 'file'],
            f'the folder {tmp_path}/file cannot be written',
        ),
        (
            'misc/simmim_demo.py',
            [CONFIG, 'none.pth', tmp_path / 'a.png', '--out', tmp_path / 'drawn'],
            'is no SimMIM with mmswinv2.NormalizedPixelLoss',
        ),
        (
            'misc/video_demo.py',
            ['a.mp4', motion, 'none.pth', '--out', tmp_path / 'file/a.mp4'],
            f'the folder {tmp_path}/file cannot be written',
        ),
    ):
        run = tool(script, *options)
        assert run.returncode == 1 and words in run.stderr, run.stderr
        assert 'Traceback' not in run.stderr


def test_scores_of_other_metrics_are_printed_as_they_are(tool, tmp_path):
    (tmp_path / '1').mkdir()
    (tmp_path / '1/1.json').write_text('{"pascal_voc/mAP": 0.25, "of_classes": [1.0, 2.0]}')
    assert tool('misc/print_scores.py', tmp_path).stdout == 'pascal_voc/mAP 0.250\n'


def test_devices_and_pipes_stay_what_they_are(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, lambda file: file.write(b'content'))
    assert os.read(reader, 99) == b'content' and pipe.is_fifo()
    os.close(reader)
    for name in ('n' * 250 + '.json', 'a.' + 'n' * 253):
        write_atomically(tmp_path / name, lambda file: file.write(b'{}'))
    assert {len(path.name) for path in tmp_path.iterdir()} == {4, 255}
    code = 'from mmswinv2.files import write_atomically as write\n'
    code += "write('/dev/stdout', lambda file: file.write(b'x'))"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, cwd=ROOT)
    assert run.stdout == b'x', run.stderr


def test_a_place_for_predictions_is_looked_at_before_the_test(tool, tmp_path):
    (tmp_path / 'file').touch()
    run = tool('test.py', CONFIG, tmp_path / 'none.pth', '--out', tmp_path / 'file/out.pkl')
    assert run.returncode == 1 and f'the folder {tmp_path}/file cannot be written' in run.stderr


def test_weights_are_not_converted_onto_themselves(tool, tmp_path):
    path = tmp_path / 'swin.pth'
    path.write_bytes(b'precious')
    run = tool('model_converters/convert_checkpoint.py', path, tmp_path / '.' / 'swin.pth')
    assert run.returncode == 1 and 'is the file to convert, which would be lost' in run.stderr
    assert path.read_bytes() == b'precious'


def test_predictions_of_several_metrics_and_test_sets(tmp_path):
    metric, out = dict(type='CocoMetric'), str(tmp_path / 'x.pkl')

    def evaluators(given, **scope):
        cfg = Config(dict(test_evaluator=given, **scope))
        set_out(cfg, out)
        return [kept['type'] for kept in cfg.test_evaluator]

    scope = dict(default_scope='mmdet')
    for given in (metric, [metric], dict(type='Evaluator', metrics=[metric])):
        assert evaluators(given, **scope) == ['CocoMetric', 'DumpDetResults']
    assert evaluators([], **scope) == ['DumpDetResults']
    model = dict(model=dict(type='mmdet.MaskRCNN'))
    assert evaluators(metric, **model) == ['CocoMetric', 'mmdet.DumpDetResults']
    several = dict(type='MultiDatasetsEvaluator', metrics=[metric] * 2, dataset_prefixes=['a', 'b'])
    with pytest.raises(UserError, match='--out is for one test set, and .*MultiDatas'):
        evaluators(several, **scope)
    with pytest.raises(UserError, match='--out: test_evaluator has no metric, which writes label'):
        evaluators([], default_scope='mmseg')
