import pytest
import torch

DETECTION = 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
VIDEO = 'configs/video/video-swinv2-nano_motion.py'


@pytest.mark.parametrize(
    ('config', 'maps', 'smallest'),
    [
        pytest.param(DETECTION, 5, '(1, 3, 125, 125)', id='Mask R-CNN with FPN'),
        pytest.param(VIDEO, 1, '(1, 3, 1, 125, 125)', id='video', marks=pytest.mark.slow),
    ],
)
def test_onnx_file_gives_the_same_maps_at_any_size(config, maps, smallest, tool, tmp_path):
    pytest.importorskip('onnxruntime', reason='onnxruntime has no wheel for this Python')
    run = tool(
        'deployment/pytorch2onnx.py', config, '--output-file', tmp_path / 'x.onnx', '--verify'
    )
    assert run.returncode == 0, run.stderr
    assert f'{smallest}: {maps} maps, largest difference so far' in run.stdout
    assert (tmp_path / 'x.onnx').stat().st_size > 100_000


def test_weights_of_a_checkpoint_are_exported(tool, trained, tmp_path):
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    path = tmp_path / 'x.onnx'
    run = tool(
        'deployment/pytorch2onnx.py', DETECTION, trained / 'iter_2.pth', '--output-file', path
    )
    assert run.returncode == 0, run.stderr
    state = torch.load(trained / 'iter_2.pth', weights_only=False)['state_dict']
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name in ('backbone.patch_embed.proj.weight', 'backbone.layers.1.blocks.0.norm1.bias'):
        assert (stored[name] == state[name].numpy()).all()


def test_a_checkpoint_of_another_model_is_refused(tool, trained, tmp_path):
    path = tmp_path / 'x.onnx'
    config = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
    run = tool('deployment/pytorch2onnx.py', config, trained / 'iter_2.pth', '--output-file', path)
    assert run.returncode != 0
    assert 'iter_2.pth is not of the model of this config; Missing key(s)' in run.stderr
    assert 'Traceback' not in run.stderr
    assert not path.exists()


def test_a_backbone_of_others_is_refused(tool, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    backbone=dict(type='ResNet', depth=18),
    neck=None,
    bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8),
)
"""
    )
    run = tool('deployment/pytorch2onnx.py', config, '--output-file', tmp_path / 'x.onnx')
    assert 'RetinaNet has no backbone of mmswinv2 to export' in run.stderr
    assert 'Traceback' not in run.stderr
