"""The code blocks of docs/how_to/trackers.md; those that need no account run in a training."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISBACKENDS

from tests.test_tools.conftest import CONFIG, ROOT
from tests.test_tools.test_documents import TRACKERS, blocks

TENSORBOARD, EMA, STOPPING, *OTHERS = (document_number[1] for document_number in TRACKERS)


def block(number):
    """Names and values that a block of the page defines."""
    values = {}
    exec(blocks(TRACKERS[0][0], 'python')[number], values)
    return {name: value for name, value in values.items() if not name.startswith('__')}


@pytest.mark.parametrize('number', OTHERS)
def test_the_other_trackers_take_these_arguments(number, tmp_path):
    local, other = block(number)['visualizer']['vis_backends']
    backend = VISBACKENDS.build(dict(other, save_dir=str(tmp_path)))
    assert type(backend).__name__ == other['type'] and local['type'] == 'LocalVisBackend'
    with pytest.raises(TypeError):
        VISBACKENDS.build(dict(other, save_dir=str(tmp_path), no_such_argument=1))


@pytest.mark.slow
def test_tensorboard_ema_and_early_stopping_in_one_training(tool, shapes, tmp_path):
    stopping = block(STOPPING)
    hook = dict(stopping['custom_hooks'][0], patience=1, min_delta=2.0)  # no score can improve by 2
    cfg = Config(
        dict(
            _base_=str(ROOT / CONFIG),
            **block(TENSORBOARD),
            custom_hooks=[*block(EMA)['custom_hooks'], hook],
            default_hooks=stopping['default_hooks'],
        )
    )
    file = tmp_path / 'tracked.py'
    file.write_text(f'_base_ = {str(ROOT / CONFIG)!r}\n' + ''.join(
        f'{key} = {value!r}\n' for key, value in cfg.to_dict().items() if key != '_base_'
    ))  # fmt: skip
    run = tool(
        'train.py', file, '--work-dir', tmp_path, '--cfg-options',
        f'data_root={shapes}/', f'train_dataloader.dataset.data_root={shapes}/',
        f'val_dataloader.dataset.data_root={shapes}/',
        f'val_evaluator.ann_file={shapes}/annotations/instances_val2017.json',
        'train_dataloader.batch_size=2', 'train_cfg.max_iters=8', 'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
    ).succeeded()  # fmt: skip
    assert list(tmp_path.glob('*/vis_data/events.out.tfevents*'))
    assert 'the monitored metric did not improve in the last 1 records' in run.stdout
    assert not (tmp_path / 'iter_8.pth').exists()
    content = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    assert any(
        not torch.equal(content['ema_state_dict'][f'module.{name}'], value)
        for name, value in content['state_dict'].items()
    )
    assert list(Path(tmp_path).glob('best_coco_bbox_mAP_*.pth'))
