import signal
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.test_tools.conftest import ROOT, SMALL_VIDEO
from tests.tool_server import run_program

DETECTION = 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'


# the demo's detector with fewer blocks, for a short export
SMALL = f"""
_base_ = '{ROOT}/{DETECTION}'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        arch=dict(embed_dims=32, depths=(1, 2, 1), num_heads=(1, 2, 4)),
        window_size=4,
        out_indices=(0, 1, 2),
    ),
    neck=dict(in_channels=[32, 64, 128]),
)
"""


@pytest.mark.slow
def test_onnx_file_gives_the_maps_of_a_checkpoint_at_any_size(tool, tmp_path):
    pytest.importorskip('onnxruntime', reason='onnxruntime has no wheel for this Python')
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    config = tmp_path / 'small.py'
    config.write_text(SMALL)
    init_default_scope('mmdet')
    model = MODELS.build(Config.fromfile(config).model)
    for p in model.parameters():  # new blocks are the identity and would hide errors
        torch.nn.init.normal_(p, std=0.05)
    state = {f'module.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(model=state), tmp_path / 'x.pth')  # format of distributed training
    run = tool(
        'deployment/pytorch2onnx.py', config, tmp_path / 'x.pth', '--output-file',
        tmp_path / 'x.onnx', '--verify',
    ).succeeded()  # fmt: skip
    assert '(1, 3, 29, 29): 5 maps, largest difference so far' in run.stdout
    initializer = onnx.load(tmp_path / 'x.onnx').graph.initializer
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in initializer}
    for name in ('backbone.patch_embed.proj.weight', 'backbone.layers.1.blocks.0.norm1.bias'):
        assert (stored[name] == model.state_dict()[name].numpy()).all()


@pytest.mark.slow
def test_onnx_file_of_a_video_backbone(tool, tmp_path):
    pytest.importorskip('onnxruntime', reason='onnxruntime has no wheel for this Python')
    path = tmp_path / 'x.onnx'
    config = tmp_path / 'small.py'
    config.write_text(SMALL_VIDEO)
    run = tool('deployment/pytorch2onnx.py', config, '--output-file', path, '--verify').succeeded()
    assert '(1, 3, 1, 13, 13): 1 maps, largest difference so far' in run.stdout
    assert path.stat().st_size > 100_000


def test_a_checkpoint_of_another_model_is_refused(tool, trained, tmp_path):
    path = tmp_path / 'x.onnx'
    config = 'configs/segmentation/swinv2-nano_upernet_shapes.py'
    run = tool('deployment/pytorch2onnx.py', config, trained / 'iter_2.pth', '--output-file', path)
    assert run.returncode != 0
    assert 'iter_2.pth does not fit the model (' in run.stderr
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


STOPPED_BEFORE_THE_END = """
import os, runpy, signal, sys

replace = os.replace
def stop(part, path):  # the whole content is written, under another name
    if not str(path).endswith('/x.onnx'):
        return replace(part, path)
    print(part, 'is written' if os.path.getsize(part) > 10_000 else 'is empty', flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
os.replace = stop
sys.argv[0] = 'tools/deployment/pytorch2onnx.py'
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.slow
def test_nothing_is_left_of_an_export_that_is_stopped(tmp_path):
    pytest.importorskip('onnxruntime', reason='onnxruntime has no wheel for this Python')
    config, folder = tmp_path / 'config.py', tmp_path / 'out'
    folder.mkdir()
    config.write_text(
        """
default_scope = 'mmdet'
model = dict(
    type='RetinaNet',
    backbone=dict(
        type='mmswinv2.SwinTransformerV2',
        arch=dict(embed_dims=8, depths=(1,), num_heads=(1,)),
        window_size=2,
        out_indices=(0,),
    ),
    neck=None,
    bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8),
)
"""
    )
    path = folder / 'x.onnx'
    command = [sys.executable, '-c', STOPPED_BEFORE_THE_END, config, '--output-file', path]
    run = run_program(command, cwd=ROOT, env={'PYTHONPATH': str(ROOT), 'PYTHONWARNINGS': 'ignore'})
    assert run.returncode == 128 + signal.SIGTERM, run.stderr
    assert 'is written' in run.stdout
    assert list(folder.iterdir()) == []
