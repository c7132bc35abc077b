import json
import os
import pickle
import socket
import sys
from pathlib import Path

import pytest
import torch

from mmswinv2.checkpoints import load_pretrained, read_checkpoint
from mmswinv2.cli.ui import free_port
from mmswinv2.models import SwinTransformerV2, VideoSwinTransformerV2
from tests.test_checkpoints.conftest import weights
from tests.test_tools.conftest import CONFIG, ROOT, SMALL
from tests.tool_server import run_program


def test_training_leaves_what_openmmlab_users_expect(trained):
    names = {p.name for p in trained.iterdir()}
    assert {
        'iter_1.pth',
        'iter_2.pth',
        'last_checkpoint',
        'mask-rcnn_swinv2-nano_shapes.py',
    } <= names
    (log,) = trained.glob('*/*.log')
    assert 'Parameter groups:' in log.read_text()
    hidden = {p.name for p in trained.iterdir() if p.name.startswith('.')}
    assert hidden == {'.lock'}  # no partial files
    net = SwinTransformerV2('nano')
    assert load_pretrained(net, trained / 'iter_2.pth').prefix == 'backbone.'


def test_resume_goes_on_where_it_stopped(train, trained, tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(trained / 'iter_2.pth'))
    run = train(tmp_path, '--resume', iters=3).succeeded()
    assert 'resumed epoch: 0, iter: 2' in run.stdout
    assert not (tmp_path / 'iter_1.pth').exists() and (tmp_path / 'iter_3.pth').exists()
    steps = read_checkpoint(tmp_path / 'iter_3.pth')['optimizer']['state'][0]['step']
    assert int(steps) == 3


def test_evaluation_with_pictures_and_predictions(evaluate, tool, trained, shapes, tmp_path):
    options = '--show-dir', 'pictures', '--out', tmp_path / 'predictions.pkl'
    evaluate(CONFIG, trained / 'iter_2.pth', tmp_path, *options, data_root=shapes).succeeded()
    (metrics,) = tmp_path.glob('*/*.json')
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(json.loads(metrics.read_text()))
    assert len(list(metrics.parent.glob('pictures/*'))) == 4
    with (tmp_path / 'predictions.pkl').open('rb') as file:
        assert len(pickle.load(file)) == 4
    scores = tool('misc/print_scores.py', tmp_path)
    assert scores.stdout.startswith('box AP') and 'pictures' in scores.stdout


def test_evaluation_takes_wrapped_files(evaluate, trained, shapes, tmp_path):
    state = read_checkpoint(trained / 'iter_2.pth')['state_dict']
    wrapped = {'model_ema': {f'module.{key}': value for key, value in state.items()}}
    torch.save(wrapped, tmp_path / 'wrapped.pth')
    found = []
    for i, file in enumerate((trained / 'iter_2.pth', tmp_path / 'wrapped.pth')):
        out = tmp_path / f'{i}.pkl'
        evaluate(CONFIG, file, tmp_path / str(i), '--out', out, data_root=shapes).succeeded()
        with out.open('rb') as pickled:
            found.append([p['pred_instances']['scores'] for p in pickle.load(pickled)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ('resume', 'words'),
    [
        (False, 'x.pth does not fit the model of the config (it holds a backbone alone'),
        (True, 'x.pth cannot be resumed from: --resume needs a checkpoint of a training'),
    ],
)
def test_training_from_weights_that_do_not_fit_ends(train, resume, words, tmp_path):
    """Backbone weights without the key names of a whole model, so that no key would match."""
    path = tmp_path / 'x.pth'
    torch.save({'model': weights()}, path)
    arguments = ('--resume', path) if resume else ()
    options = () if resume else (f'load_from={path}',)
    run = train(tmp_path / 'w', *arguments, options=options)
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert words in run.stderr
    assert not list((tmp_path / 'w').glob('*.pth'))


def test_evaluation_wants_every_weight(evaluate, trained, shapes, tmp_path):
    checkpoint = read_checkpoint(trained / 'iter_2.pth')
    weights = checkpoint['state_dict']
    weights['backbone.stem.weight'] = weights.pop('backbone.patch_embed.proj.weight')
    torch.save(checkpoint, tmp_path / 'other.pth')
    run = evaluate(CONFIG, tmp_path / 'other.pth', tmp_path, data_root=shapes)
    assert run.returncode == 1
    assert 'error: ' in run.stderr and 'does not fit the model of the config' in run.stderr
    assert 'backbone.patch_embed.proj.weight' in run.stderr


def test_converted_checkpoint_serves_as_pretrained(tool, trained, tmp_path):
    run = tool(
        'model_converters/convert_checkpoint.py', trained / 'iter_2.pth', tmp_path / 'b.pth'
    ).succeeded()
    assert 'format: authors' in run.stdout and "'name': 'nano'" in run.stdout
    report = load_pretrained(SwinTransformerV2('nano'), tmp_path / 'b.pth')
    assert report.missing == [] and report.unused == []
    run = tool('model_converters/convert_checkpoint.py', trained / 'no.pth', tmp_path / 'c.pth')
    assert run.returncode == 1 and run.stderr.startswith('error: checkpoint')
    assert not (tmp_path / 'c.pth').exists()


@pytest.mark.slow
def test_compile_in_a_config(train, trained, tmp_path):
    """Uses torch's graph capture without code generation, which takes minutes."""
    run = train(tmp_path, options=['compile.backend=aot_eager']).succeeded()
    assert 'compiled, when first used: backbone and neck of the model' in run.stdout
    assert 'graph break' not in (run.stdout + run.stderr).lower()
    got, want = (read_checkpoint(d / 'iter_2.pth')['state_dict'] for d in (tmp_path, trained))
    assert got.keys() == want.keys()
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, atol=1e-3, rtol=1e-2)


def test_tensorboard_if_asked_for(train, tmp_path):
    train(tmp_path, options=['visualizer.vis_backends.0.type=TensorboardVisBackend']).succeeded()
    assert list(tmp_path.glob('*/vis_data/events.out.tfevents.*'))


def test_evaluation_of_averaged_weights(evaluate, train, shapes, tmp_path):
    config = tmp_path / 'ema.py'
    config.write_text(f"_base_ = '{ROOT}/{CONFIG}'\ncustom_hooks = [dict(type='EMAHook')]\n")
    train(tmp_path, config=config).succeeded()
    checkpoint = tmp_path / 'iter_2.pth'
    assert 'ema_state_dict' in read_checkpoint(checkpoint)
    keep_all = ['model.test_cfg.rcnn.score_thr=0.0']
    run = evaluate(config, checkpoint, tmp_path, data_root=shapes, options=keep_all).succeeded()
    assert 'coco/bbox_mAP' in run.stdout


def test_windows_stated_at_conversion(tool, trained, tmp_path):
    trained = read_checkpoint(trained / 'iter_2.pth')
    trained['state_dict'] = dict(trained['state_dict'])  # as before files recorded windows
    torch.save(trained, tmp_path / 'a.pth')
    convert = 'model_converters/convert_checkpoint.py', tmp_path / 'a.pth', tmp_path / 'b.pth'
    tool(*convert, '--pretrained-windows', 8, 8, 8, 4).succeeded()
    with pytest.raises(ValueError, match=r'set pretrained_window_sizes=\[8, 8, 8, 4\]'):
        load_pretrained(SwinTransformerV2('nano'), tmp_path / 'b.pth')
    torch.save(dict(VideoSwinTransformerV2('nano').state_dict()), tmp_path / 'video.pth')
    video = 'model_converters/convert_checkpoint.py', tmp_path / 'video.pth', tmp_path / 'v.pth'
    tool(*video, '--pretrained-windows', 8, 8, 8, 4).succeeded()
    options = dict(window_size=(8, 7, 7), pretrained_window_sizes=[8, 8, 8, 4])
    report = load_pretrained(VideoSwinTransformerV2('nano', **options), tmp_path / 'v.pth')
    assert report.missing == []
    run = tool(*convert, '--pretrained-windows', 8, 8)
    assert run.returncode == 1 and 'the network has 4 stages' in run.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_port_that_is_taken(script):
    with socket.create_server(('', 0)) as taken:
        port = str(taken.getsockname()[1])
        run = run_program(
            ['bash', f'tools/{script}', 'config.py', 'checkpoint.pth', '2'],
            cwd=ROOT,
            env={'PORT': port},
        )
    assert run.returncode == 1 and f'error: the port {port} is taken' in run.stderr


@pytest.mark.slow
def test_two_processes_without_a_gpu(trained, shapes, tmp_path):
    pretrained = (
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={trained}/iter_2.pth',
    )
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    options = ['--work-dir', tmp_path, '--cfg-options', f'data_root={shapes}']
    port = str(free_port('127.0.0.1', 0))
    for script, *arguments in (
        ('dist_train.sh', CONFIG, 2, *options, 'train_cfg.max_iters=2', *SMALL, *pretrained),
        ('dist_test.sh', CONFIG, tmp_path / 'iter_2.pth', 2, *options),
    ):
        env = dict(PATH=path, OMP_NUM_THREADS='1')
        if script == 'dist_test.sh':
            env['PORT'] = port
        run = run_program(
            ['bash', f'tools/{script}', *arguments], ROOT, env, timeout=600
        ).succeeded()
    assert 'coco/bbox_mAP' in run.stdout
