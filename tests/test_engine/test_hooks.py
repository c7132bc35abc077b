import math

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmswinv2.engine import CheckInvalidLossHook
from mmswinv2.errors import UserError


class Regression(BaseModel):
    """A model of a batch norm and a weight."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(inputs)
        return {'loss_l2': self.fc(self.norm(x)).square().mean(), 'beta': x.new_tensor(3.0)}


def network():
    torch.manual_seed(1)
    return Regression()


def data(bad):
    """Six batches of two, some of them with a NaN."""
    torch.manual_seed(0)
    samples = [{'inputs': torch.randn(2)} for _ in range(12)]
    for batch in bad:
        samples[2 * batch]['inputs'][0] = float('nan')
    return samples


def runner(bad, hook, work_dir, counts=1):
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=data(bad),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    return Runner(
        network(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=counts),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        experiment_name=work_dir.name,
    )


def test_stops_before_a_checkpoint_holds_it(tmp_path):
    with pytest.raises(UserError, match='loss_l2 is nan in iteration 3 of process 0'):
        runner([2], CheckInvalidLossHook(), tmp_path).train()
    assert {p.name for p in tmp_path.glob('*.pth')} == {'iter_1.pth', 'iter_2.pth'}


@pytest.mark.parametrize('max_skips', [0, 1])
def test_weights_that_an_update_has_spoilt_are_not_saved(tmp_path, max_skips):
    """The loss of that iteration is finite, and the last good checkpoint would go."""
    run = runner([], CheckInvalidLossHook(max_skips), tmp_path)
    run.model.fc.weight.register_hook(lambda gradient: gradient * float('nan'))
    with pytest.raises(UserError, match=r'fc.weight is nan in iteration 1 .*No checkpoint holds'):
        run.train()
    assert not list(tmp_path.glob('*.pth'))


def test_infinite_buffers_are_saved(tmp_path):
    run = runner([], CheckInvalidLossHook(), tmp_path)
    run.model.register_buffer('mask', torch.tensor(-math.inf))
    run.train()
    assert list(tmp_path.glob('*.pth'))


def assert_trained(model, groups):
    """The weights after updates from groups of batches, and the divisor of their losses."""
    clean = network()
    optimizer = torch.optim.SGD(clean.parameters(), lr=0.1)
    for group, divisor in groups:
        optimizer.zero_grad()
        for batch in group:
            inputs = [sample['inputs'] for sample in data([])[2 * batch : 2 * batch + 2]]
            (clean(inputs, mode='loss')['loss_l2'] / divisor).backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        if 'num_batches' not in key:
            torch.testing.assert_close(value, clean.state_dict()[key], msg=key)


GROUPS = {  # accumulated batches, bad ones: groups of good batches, and what they are divided by
    'each': (1, [1, 4], [([0], 1), ([2], 1), ([3], 1), ([5], 1)]),
    'in groups': (3, [1, 4], [([0, 2], 3), ([3, 5], 3)]),
    'last of a group': (2, [1, 3], [([0], 2), ([2], 2), ([4, 5], 2)]),
    'whole group': (2, [2, 3], [([0, 1], 2), ([4, 5], 2)]),
    'last of all': (4, [5], [([0, 1, 2, 3], 4), ([4], 2)]),
}


@pytest.mark.parametrize(('counts', 'bad', 'groups'), GROUPS.values(), ids=GROUPS)
def test_a_batch_that_is_passed_over_adds_no_gradients(counts, bad, groups, tmp_path):
    folder = tmp_path / f'{counts}_{bad}'
    model = runner(bad, CheckInvalidLossHook(max_skips=2), folder, counts).train()
    assert_trained(model, groups)


def test_gives_up_after_so_many(tmp_path):
    with pytest.raises(UserError, match='nan in iteration 5 .*passes over N such .*now 1'):
        runner([1, 4], CheckInvalidLossHook(max_skips=1), tmp_path).train()


@pytest.mark.parametrize('wrong', [-1, 2.0, True, 'all'])
def test_wrong_number_of_skips(wrong):
    with pytest.raises(UserError, match=f'max_skips must be a number of batches .* got {wrong!r}'):
        CheckInvalidLossHook(max_skips=wrong)
