"""tools/analysis_tools/: figures, logs, and samples after the data pipeline."""

import argparse
import json
import runpy

import cv2
import numpy as np
import pytest
import torch

from mmswinv2.errors import UserError
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2
from tests.test_tools.conftest import CONFIG, ROOT

VIDEO = 'configs/video/video-swinv2-nano_motion.py'
SEGMENTATION = 'configs/segmentation/swinv2-nano_upernet_shapes.py'


def save(net, path):
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in net.state_dict().items()}), path)


def colors(path):
    """Number of colors in a picture; an empty plot has few."""
    return len({tuple(c) for c in cv2.imread(str(path)).reshape(-1, 3)[::7].tolist()})


def test_position_bias(tool, tmp_path):
    save(SwinTransformerV2(arch='nano', window_size=8), tmp_path / 'net.pth')

    def draw(*args):
        return tool('analysis_tools/plot_position_bias.py', tmp_path / 'net.pth', *args)

    run = draw()
    assert run.returncode == 1 and 'give --pretrained-window' in run.stderr
    figure = tmp_path / 'bias.png'
    run = draw(
        '--pretrained-window', '8', '--stage', '1', '--block', '1', '--out', figure
    ).succeeded()
    assert 'pre-trained window (8, 8)' in run.stdout and colors(figure) > 50
    one = cv2.imread(str(figure)).shape
    run = draw(
        '--pretrained-window', '8', '--stage', '1', '--windows', '8', '--heads', '1', '--out',
        figure,
    )  # fmt: skip
    assert run.returncode == 0 and cv2.imread(str(figure)).shape != one
    run = draw('--pretrained-window', '8', '--heads', '1')
    assert run.returncode == 1 and 'there is no head 1; stage 0 has 1' in run.stderr
    run = draw('--pretrained-window', '8', '--windows', '0')
    assert run.returncode == 1 and 'at least 1 token along each axis, got 0' in run.stderr
    run = draw('--pretrained-window', '8', '--block', '2')
    assert run.returncode == 1 and 'no block 2 in stage 0' in run.stderr
    state = dict(state_dict=torch.load(tmp_path / 'net.pth')['state_dict'])
    state['meta'] = dict(
        source_format='authors', pretrained_window_sizes={i: (8, 8) for i in range(4)}
    )
    torch.save(state, tmp_path / 'net.pth')
    draw('--out', figure).succeeded()
    run = draw('--pretrained-window', '12')
    assert run.returncode == 1 and 'stage 0 was pre-trained with (8, 8); leave the' in run.stderr


def test_position_bias_of_video(tool, tmp_path):
    save(VideoSwinTransformerV2(arch='nano', window_size=(4, 4, 4)), tmp_path / 'net.pth')
    tool(
        'analysis_tools/plot_position_bias.py', tmp_path / 'net.pth', '--pretrained-window', '4',
        '--windows', '4', '--out', tmp_path / 'bias.png',
    ).succeeded()  # fmt: skip
    height, width, _ = cv2.imread(str(tmp_path / 'bias.png')).shape
    assert height > 2 * width  # four offsets in time, one head


@pytest.mark.parametrize('config', [CONFIG, SEGMENTATION, VIDEO])
def test_activations(tool, config, tmp_path):
    run = tool(
        'analysis_tools/plot_activations.py', config, '--out', tmp_path / 'a.png', '--shape',
        *(('8', '64', '64') if config == VIDEO else ('64', '96')),
    ).succeeded()  # fmt: skip
    rows = [line.split() for line in run.stdout.splitlines()]
    table = [list(map(float, row)) for row in rows if len(row) == 3 and row[0].isdigit()]
    assert [row[0] for row in table] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert table[0][1] == table[1][1]  # V2's blocks start as the identity
    assert table[0][2] != table[1][2]  # V1's add to the main branch
    assert colors(tmp_path / 'a.png') > 10


def test_activations_of_other_channels(tool, tmp_path):
    options = ('--out', tmp_path / 'a.png', '--shape', '64', '64')
    four = ('--cfg-options', 'model.backbone.in_channels=4')
    tool('analysis_tools/plot_activations.py', SEGMENTATION, *options, *four).succeeded()
    cv2.imwrite(str(tmp_path / 'b.png'), np.zeros((64, 64, 3), np.uint8))
    options += ('--image', tmp_path / 'b.png')
    run = tool('analysis_tools/plot_activations.py', SEGMENTATION, *options, *four)
    assert run.returncode == 1 and '--image has 3 channels, and the backbone of' in run.stderr


def test_activations_of_a_checkpoint(tool, tmp_path):
    net = SwinTransformerV2(arch='nano', window_size=8)
    for block in net.layers[0].blocks:
        torch.nn.init.constant_(block.norm1.weight, 3)
    save(net, tmp_path / 'net.pth')
    image = tmp_path / 'image.png'
    cv2.imwrite(str(image), (torch.rand(50, 70, 3) * 255).numpy())
    run = tool(
        'analysis_tools/plot_activations.py', CONFIG, '--checkpoint', tmp_path / 'net.pth',
        '--image', image, '--shape', '64', '64', '--out', tmp_path / 'a.png',
    ).succeeded()  # fmt: skip
    first = next(line.split() for line in run.stdout.splitlines() if line.split()[:1] == ['1'])
    assert float(first[1]) > 2.5
    run = tool(
        'analysis_tools/plot_activations.py', CONFIG, '--v1-checkpoint', tmp_path / 'net.pth'
    )
    assert run.returncode == 1 and 'weights of the Swin V1 of this size' in run.stderr


def test_logs(tool, trained, tmp_path):
    (log,) = trained.glob('*/vis_data/2*.json')

    def analyze(*args):
        return tool('analysis_tools/analyze_logs.py', *args)

    run = analyze(
        'plot_curve', log, '--keys', 'loss', 'lr', '--out', tmp_path / 'a.png'
    ).succeeded()
    assert 'save curve to' in run.stdout and colors(tmp_path / 'a.png') > 10
    run = analyze('plot_curve', log, '--keys', 'mIoU', '--out', tmp_path / 'b.png')
    assert run.returncode == 1 and 'has no mIoU; there is' in run.stderr
    run = analyze('cal_train_time', log, '--include-outliers')
    times = [json.loads(line)['time'] for line in log.read_text().splitlines()]
    times = times[:-1]  # the last entry is of the evaluation
    assert f'average iter time: {sum(times) / len(times):.4f} s/iter' in run.stdout, run.stderr
    run = analyze('cal_train_time', ROOT / 'README.md')
    assert run.returncode == 1 and 'is no log' in run.stderr


def test_scores_stand_at_the_iteration_of_the_losses_before(tmp_path, capsys):
    """mmengine gives the epoch as the step of validation."""
    tool = runpy.run_path(str(ROOT / 'tools/analysis_tools/analyze_logs.py'))
    log = tmp_path / 'log.json'
    entries = [dict(lr=1, loss=3.0, step=50), dict(mAP=0.1, step=1), dict(lr=1, loss=2.0, step=100)]
    entries += [dict(mAP=0.2, of_classes=[0.1, 0.3], step=2)]
    log.write_text(''.join(f'{json.dumps(entry)}\n' for entry in entries) + '{"lr": 1, "lo')
    found = tool['read_log'](log)
    assert list(tool['curve'](found, 'loss', log)) == [(50, 100), (3.0, 2.0)]
    assert list(tool['curve'](found, 'mAP', log)) == [(50, 100), (0.1, 0.2)]
    assert '1 lines are cut short' in capsys.readouterr().err
    with pytest.raises(UserError, match='has no of_classes; there is'):  # lists are no curves
        tool['curve'](found, 'of_classes', log)


def test_the_time_of_a_training_with_several_optimizers(tmp_path, capsys):
    tool = runpy.run_path(str(ROOT / 'tools/analysis_tools/analyze_logs.py'))
    entries = [{'a.lr': 1, 'time': 9.0}, {'a.lr': 1, 'time': 0.5}, {'mAP': 0.1, 'time': 3.0}]
    log = tmp_path / 'log.json'
    log.write_text(''.join(f'{json.dumps({**entry, "step": 1})}\n' for entry in entries))
    tool['cal_train_time'](argparse.Namespace(json_logs=[log], include_outliers=False))
    assert 'average iter time: 0.5000 s/iter' in capsys.readouterr().out


@pytest.mark.parametrize(
    'command',
    [
        ('analyze_logs.py', 'plot_curve', 'log.json'),
        ('plot_position_bias.py', 'net.pth'),
        ('plot_activations.py', SEGMENTATION),
    ],
    ids=lambda command: command[0],
)
def test_names_of_pictures_that_cannot_be_written(tool, tmp_path, command):
    run = tool('analysis_tools/' + command[0], *command[1:], '--out', tmp_path / 'x.xyz')
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert (
        f'--out {tmp_path}/x.xyz: names of pictures end in .' in run.stderr and '.jpg' in run.stderr
    )


def test_print_config(tool):
    run = tool(
        'analysis_tools/print_config.py', CONFIG, '--cfg-options', 'log_level=DEBUG'
    ).succeeded()
    assert "log_level = 'DEBUG'" in run.stdout and 'mmswinv2.SwinTransformerV2' in run.stdout


HTC = 'configs/detection/htc++_swinv2-nano_shapes.py'  # its maps have more than the classes


@pytest.mark.parametrize('config', [CONFIG, SEGMENTATION, HTC])
def test_browse_dataset(tool, config, shapes, tmp_path):
    option = f'train_dataloader.dataset.data_root={shapes}'
    tool(
        'analysis_tools/browse_dataset.py', config, '--output-dir', tmp_path, '--not-show',
        '--cfg-options', option,
    ).succeeded()  # fmt: skip
    assert len([p for p in tmp_path.rglob('*') if p.suffix in ('.jpg', '.png')]) == 8


def test_browse_clips(tool, clips, tmp_path):
    tool(
        'analysis_tools/browse_dataset.py', VIDEO, tmp_path, '-n', '2', '--cfg-options',
        f'train_dataloader.dataset.data_root={clips}',
    ).succeeded()  # fmt: skip
    assert len([p for p in tmp_path.rglob('*') if p.is_file()]) == 2


def test_browse_says_what_is_missing(tool):
    run = tool('analysis_tools/browse_dataset.py', 'configs/video/none.py')
    assert run.returncode == 1 and 'none.py does not exist' in run.stderr
    run = tool('analysis_tools/browse_dataset.py', 'configs/_base_/default_runtime.py')
    assert run.returncode == 1 and 'has no default_scope' in run.stderr
    run = tool('analysis_tools/browse_dataset.py', CONFIG, '--help')
    assert run.returncode == 0 and '--output-dir' in run.stdout
