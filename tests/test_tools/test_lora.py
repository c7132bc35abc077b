"""Adapters as used: trained, resumed, tested, merged, and trained by several processes."""

import json
import pickle
import re

import pytest
import torch
from torch import nn

from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.core.lora import is_adapter
from mmswinv2.models import SwinTransformerV2
from tests.test_tools.conftest import CONFIG, ROOT
from tests.test_tools.test_strategies import losses

ADAPTED = 'configs/detection/mask-rcnn_swinv2-nano-lora_shapes.py'
MERGE = 'model_converters/merge_lora.py'
DETECTOR = """
_base_ = '{root}/{config}'
model = dict(backbone=dict(with_cp=True, lora=dict(rank=2, drop_rate=0.1)))
custom_hooks = [dict(type='EMAHook')]
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
"""
VIDEO = """
_base_ = ['{root}/configs/video/video-swinv2-nano_motion.py'{strategy}]
custom_imports = dict(imports=['tests.test_tools.probe'])
custom_hooks = [dict(type='LossCurve', path='{folder}/losses.txt')]
randomness = dict(seed=7)
model = dict(
    backbone=dict(
        drop_path_rate=0.0,
        with_cp=[True, False, True, False],
        lora=dict(rank=4),
        init_cfg=dict(type='Pretrained', checkpoint='{weights}'),
    ),
    cls_head=dict(dropout_ratio=0.0),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = []
train_cfg = dict(max_iters=4, val_interval=100)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
"""


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file like published pre-trained weights of nano."""
    torch.manual_seed(0)
    net = SwinTransformerV2('nano')
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    path = tmp_path_factory.mktemp('published') / 'nano.pth'
    torch.save({'model': net.state_dict()}, path)
    return path


@pytest.fixture(scope='module')
def adapted(train, weights, tmp_path_factory):
    """The folder of a run of three iterations, with its config."""
    folder = tmp_path_factory.mktemp('adapted')
    config = folder / 'lora.py'
    config.write_text(DETECTOR.format(root=ROOT, config=ADAPTED))
    run = train(folder / 'w', iters=3, config=config, options=[given(weights)]).succeeded()
    assert re.search(r'LoRA: backbone: saved without \d+ weights of .*nano.pth', run.stdout)
    return folder


def given(weights):
    return f'model.backbone.init_cfg.checkpoint={weights}'


def predictions(tool, config, checkpoint, folder, *options):
    tool(
        'test.py', config, checkpoint, '--work-dir', folder, '--out', folder / 'p.pkl',
        '--cfg-options', *options,
    ).succeeded()  # fmt: skip
    with (folder / 'p.pkl').open('rb') as file:
        return [p['pred_instances'] for p in pickle.load(file)]


@pytest.mark.slow
def test_from_training_to_plain_weights(train, tool, shapes, adapted, weights, tmp_path):
    config, work = adapted / 'lora.py', adapted / 'w'
    last = read_checkpoint(work / 'iter_3.pth')
    base = {f'backbone.{k}' for k in read_checkpoint(weights)['model'] if 'norm' not in k}
    assert len(base) == 109 and not base & last['state_dict'].keys()
    assert sum(map(is_adapter, last['state_dict'])) == 64
    average = {k.removeprefix('module.') for k in last['ema_state_dict']} - {'steps'}
    assert average == set(last['state_dict'])
    assert any(v.any() for k, v in last['state_dict'].items() if 'lora_up' in k)

    # a resumed run ends like one without interruption
    (tmp_path / 'last_checkpoint').write_text(str(work / 'iter_1.pth'))
    again = train(
        tmp_path, '--resume', iters=3, config=config, options=[given(weights)]
    ).succeeded()
    assert 'resumed epoch: 0, iter: 1' in again.stdout
    other = read_checkpoint(tmp_path / 'iter_3.pth')
    for entry in ('state_dict', 'ema_state_dict'):
        assert last[entry].keys() == other[entry].keys()
        assert all(torch.equal(v, other[entry][k]) for k, v in last[entry].items())

    # tested with adapters, and without them after merging
    plain = tmp_path / 'plain.pth'
    merged = tool(
        MERGE, config, work / 'iter_3.pth', plain, '--cfg-options', given(weights)
    ).succeeded()
    keys = read_checkpoint(plain)['state_dict'].keys()
    assert keys == base | {k for k in last['state_dict'] if not is_adapter(k)}
    assert f'32 adapters merged; {len(keys)} tensors written to {plain}' in merged.stdout
    data = f'data_root={shapes}'
    first = predictions(tool, config, work / 'iter_3.pth', tmp_path / 'a', data, given(weights))
    second = predictions(tool, CONFIG, plain, tmp_path / 'b', data)
    assert len(first) == 4 and any(len(p['scores']) for p in first)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a['scores'], b['scores'], rtol=0, atol=1e-6)
        torch.testing.assert_close(a['bboxes'], b['bboxes'], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_mistakes_end_in_a_sentence(tool, train, shapes, adapted, weights, trained, tmp_path):
    config, file, out = adapted / 'lora.py', adapted / 'w/iter_3.pth', tmp_path / 'out.pth'
    plain, options = trained / 'iter_2.pth', ('--cfg-options', given(weights))
    for words, command in {
        'has no adapters: there is nothing to merge': (MERGE, config, plain, out, *options),
        'is the file to merge, which would be lost': (MERGE, config, plain, plain, *options),
        'has no model.backbone.lora; give the config of the training': (MERGE, CONFIG, file, out),
    }.items():
        run = tool(*command)
        assert run.returncode == 1 and 'Traceback' not in run.stderr and not out.exists()
        assert words in run.stderr, run.stderr
    run = tool(
        'test.py', CONFIG, file, '--work-dir', tmp_path, '--cfg-options', f'data_root={shapes}'
    )
    assert 'has adapters (LoRA) of rank 2, and the backbone of the config has none' in run.stderr
    run = train(tmp_path / 'w', config=config, options=['model.backbone.lora.rank=0'])
    assert run.returncode == 1 and 'error: lora: rank must be a whole number from 1' in run.stderr


@pytest.fixture(scope='module')
def written(tmp_path_factory, weights):
    """Write a config of a video classifier, with a strategy."""

    def write(strategy=None):
        folder = tmp_path_factory.mktemp(strategy or 'one')
        base = f", '{ROOT}/configs/_base_/strategies/{strategy}.py'" if strategy else ''
        path = folder / 'config.py'
        path.write_text(VIDEO.format(root=ROOT, folder=folder, strategy=base, weights=weights))
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['ddp', 'zero1', 'fsdp'])
def test_two_processes_adapt_as_one(strategy, alone, written, tool, two_processes, clips, tmp_path):
    path = written(strategy)
    work, data = path.parent / 'w', ['--cfg-options', f'data_root={clips}/']
    command = ['--work-dir', work, *data, 'train_dataloader.batch_size=1']
    parts = [([], 4)] if strategy == 'ddp' else [([], 2), (['--resume'], 4)]
    for resume, iters in parts:
        two_processes(path, *resume, *command, f'train_cfg.max_iters={iters}').succeeded()
    expected = losses(alone)
    assert len({round(loss, 4) for _, loss in expected}) == 4
    for (_, loss), (_, other) in zip(losses(path.parent), expected, strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
    end, other = (read_checkpoint(w / 'iter_4.pth')['state_dict'] for w in (alone / 'w', work))
    assert sum(map(is_adapter, end)) == 64 and 'backbone.patch_embed.proj.weight' not in end
    # a checkpoint folder of DeepSpeed has the frozen weights too
    frozen = {k for k in other if k not in end}
    assert set(end) <= set(other) and len(frozen) == (109 if strategy == 'zero1' else 0)
    if strategy == 'ddp':
        return
    tool(
        'test.py', path, work / 'iter_4.pth', '--work-dir', tmp_path, *data, PYTHONPATH=str(ROOT)
    ).succeeded()
    (found,) = [p for p in tmp_path.glob('*/*.json') if p.stem == p.parent.name]
    assert 'acc/top1' in json.loads(found.read_text())
