import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import BaseDataset, DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmswinv2.engine import CheckInvalidLossHook, RepeatableHook
from mmswinv2.engine.hooks import CheckDatasetHook, Draw, SeededInfo, _Numbered, check_places
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


def runner(bad, hook, work_dir):
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
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        experiment_name=work_dir.name,
    )


def test_stops_before_a_checkpoint_holds_it(tmp_path):
    with pytest.raises(UserError, match='loss_l2 is nan in iteration 3 of process 0'):
        runner([2], CheckInvalidLossHook(), tmp_path).train()
    assert {p.name for p in tmp_path.glob('*.pth')} == {'iter_1.pth', 'iter_2.pth'}


def test_passes_over_as_if_the_batch_were_not_there(tmp_path):
    model = runner([1, 4], CheckInvalidLossHook(max_skips=2), tmp_path / 'bad').train()
    clean = network()
    optimizer = torch.optim.SGD(clean.parameters(), lr=0.1)
    for batch in (0, 2, 3, 5):
        inputs = [sample['inputs'] for sample in data([])[2 * batch : 2 * batch + 2]]
        optimizer.zero_grad()
        clean(inputs, mode='loss')['loss_l2'].backward()
        optimizer.step()
    for key, value in model.state_dict().items():
        if 'num_batches' not in key:
            torch.testing.assert_close(value, clean.state_dict()[key], msg=key)


def test_gives_up_after_so_many(tmp_path):
    with pytest.raises(UserError, match='nan in iteration 5 .*passes over N such .*now 1'):
        runner([1, 4], CheckInvalidLossHook(max_skips=1), tmp_path).train()


def sampler(kind, rank, world_size, **kwargs):
    """A sampler of mmengine as seen by one of several processes."""
    made = kind(list(range(10)), shuffle=True, seed=3, **kwargs)
    if kind is InfiniteSampler:
        made.rank, made.world_size = rank, world_size
        made.indices = made._indices_of_rank()
    else:
        made.rank, made.world_size = rank, world_size
        made.num_samples, made.total_size = 10 // world_size, 10
    return made


def first(numbered, count):
    return [(int(i), i.seed) for i, _ in zip(numbered, range(count), strict=False)]


@pytest.mark.parametrize('kind', [InfiniteSampler, DefaultSampler])
def test_two_processes_draw_what_one_draws(kind):
    alone = first(_Numbered(sampler(kind, 0, 1), 7), 10)
    parts = [first(_Numbered(sampler(kind, rank, 2), 7), 5) for rank in (0, 1)]
    assert [pair for both in zip(*parts, strict=True) for pair in both] == alone
    assert len({seed for _, seed in alone}) == 10
    other = first(_Numbered(sampler(kind, 0, 1), 8), 10)
    assert not {seed for _, seed in other} & {seed for _, seed in alone}


def test_epochs_differ_and_repeat():
    inner = sampler(DefaultSampler, 0, 1)
    numbered = _Numbered(inner, 7)
    epochs = []
    for epoch in (0, 1, 0):
        numbered.set_epoch(epoch)
        epochs.append(list(map(tuple, first(numbered, 10))))
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(numbered) == 10


@pytest.mark.skipif(
    not hasattr(InfiniteSampler, 'skip'), reason='mmengine 0.10.7 draws what it passes over'
)
def test_passing_over_keeps_count():
    whole = first(_Numbered(sampler(InfiniteSampler, 0, 1), 7), 12)
    inner = sampler(InfiniteSampler, 0, 1)
    numbered = _Numbered(inner, 7)
    inner.skip = numbered.skip
    inner.skip(5)
    assert first(numbered, 7) == whole[5:]


def test_draws_survive_workers_and_wrappers():
    draw = pickle.loads(pickle.dumps(Draw(5, 99)))
    assert (draw, draw.seed) == (5, 99)
    for moved in (draw - 3, draw % 3):
        assert (moved, moved.seed) == (2, 99)


def test_a_sample_is_seeded():
    def numbers(index):
        assert type(SeededInfo(lambda idx: {'sample_idx': idx})(index)['sample_idx']) is int
        return random.random(), np.random.rand(), float(torch.rand(()))

    assert numbers(Draw(1, 11)) == numbers(Draw(2, 11)) != numbers(Draw(1, 12))
    assert numbers(3) != numbers(3)  # a plain index is not seeded


def noise(results):
    assert type(results['sample_idx']) is int
    return {'inputs': torch.rand(2), 'after': 0}


def other_noise(results):
    return {'inputs': torch.rand(2), 'after': 1}


@pytest.mark.parametrize('workers', [0, 1])
def test_samples_are_seeded_whatever_pipeline_they_have(tmp_path, workers):
    """Seeding must survive mmdet's PipelineSwitchHook, which replaces the pipeline in a run."""
    drawn = []
    for number in range(2):
        dataset = BaseDataset(lazy_init=True, serialize_data=False, pipeline=[noise])
        dataset.data_list, dataset._fully_initialized = [{} for _ in range(8)], True
        train = Runner(
            Regression(), str(tmp_path), train_cfg=dict(by_epoch=True, max_epochs=2),
            train_dataloader=dict(
                batch_size=2, dataset=dataset, num_workers=workers,
                persistent_workers=bool(workers),
                sampler=dict(type='DefaultSampler', shuffle=False)),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), randomness=dict(seed=3),
            experiment_name=f'switch-{workers}-{number}',
        )  # fmt: skip
        hook = RepeatableHook()
        hook.before_train(train)
        switch = PipelineSwitchHook(switch_epoch=1, switch_pipeline=[other_noise])
        loader, batches = train.train_loop.dataloader, []
        for epoch in (0, 1):
            train.train_loop._epoch = epoch
            switch.before_train_epoch(train)
            loader.batch_sampler.sampler.set_epoch(epoch)
            random.seed(number)
            torch.manual_seed(number)
            batches += list(loader)
        assert [batch['after'][0] for batch in batches] == 4 * [0] + 4 * [1]
        drawn.append(torch.stack([torch.stack(batch['inputs']) for batch in batches]))
    assert torch.equal(*drawn)
    assert drawn[0].unique().numel() == drawn[0].numel()  # each sample and epoch has its own noise


def test_classes_of_one_name_and_of_several_data_sets():
    """Names may repeat: ImageNet has a bird and a machine called crane."""
    crane = ['cock', 'crane', 'drake', 'crane']
    check_places([('train', crane), ('val', crane), ('the checkpoint', list(crane))])
    with pytest.raises(UserError, match="the class 'crane' is number 0 of val and number 1 of tr"):
        check_places([('train', crane), ('val', ['crane', 'cock'])])
    cat, dog = dict(classes=('cat',)), dict(classes=('dog', 'cat'))
    hook, runner = CheckDatasetHook(), SimpleNamespace(_resume=True)
    for meta, wanted in (
        ([cat, cat], ['cat']),
        ([cat, dog], []),
        (cat, ['cat']),
        (None, []),
        ([], []),
    ):
        hook.after_load_checkpoint(runner, dict(meta=dict(dataset_meta=meta)))
        assert list(hook.of_checkpoint) == wanted


@pytest.mark.parametrize('wrong', [-1, 2.0, True, 'all'])
def test_wrong_number_of_skips(wrong):
    with pytest.raises(UserError, match=f'max_skips must be a number of batches .* got {wrong!r}'):
        CheckInvalidLossHook(max_skips=wrong)


def test_a_best_score_that_no_metric_gives():
    runner = SimpleNamespace(hooks=[LoggerHook(), CheckpointHook(save_best='a/accuracy')])
    CheckDatasetHook().after_val_epoch(runner, {'a/accuracy': 0.5, 'b': 1.0})
    CheckDatasetHook().after_val_epoch(runner, {})
    with pytest.raises(UserError, match=r"save_best='a/accuracy' of CheckpointHook .*: b, c"):
        CheckDatasetHook().after_val_epoch(runner, {'b': 1.0, 'c': 0.5})
