"""A resumed run uses the settings of its config."""

import itertools
import logging
from contextlib import nullcontext, suppress
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    DefaultSampler,
    InfiniteSampler,
    pseudo_collate,
)
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, Subset

from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.engine import LoadCheckpointHook, RepeatableHook, ScoresHook
from mmswinv2.engine import hooks as engine_hooks
from mmswinv2.engine.resume import _Changes, _leave_best_of_others, follow_config
from mmswinv2.engine.saved_states import check_shapes
from mmswinv2.engine.start import look_at_checkpoint
from mmswinv2.errors import UserError

NUMBERS = itertools.count()


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'predict':
            return [0] * len(inputs)
        return {'loss': self.fc(torch.stack(inputs)).square().mean()}


WARM = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)
COSINE = dict(type='CosineAnnealingLR', by_epoch=False, begin=3, T_max=9, end=12, eta_min=0.01)
CYCLE = dict(type='OneCycleLR', eta_max=1.0, total_steps=12, by_epoch=False)
STEPS = dict(type='MultiStepLR', by_epoch=True, milestones=[2, 3], gamma=0.1)


def train(
    folder,
    length,
    schedulers,
    by_epoch=False,
    lr=1.0,
    decay=0.1,
    resume=None,
    batch=2,
    kind='AdamW',
    hooks=(),
    runner_type=Runner,
    counts=1,
    **settings,
):
    """Train `length` iterations, or epochs of four; returns learning rates and warnings."""
    from mmengine.hooks import Hook

    seen = []

    class Look(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            (group,) = runner.optim_wrapper.param_groups
            seen.append((runner.iter, group['lr'], group['weight_decay']))

    unit = 'max_epochs' if by_epoch else 'max_iters'
    runner = runner_type(
        Model(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=batch,
            dataset=[{'inputs': torch.ones(2)}] * 8,
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=by_epoch, **{unit: length}),
        optim_wrapper=dict(
            optimizer=dict(type=kind, lr=lr, weight_decay=decay, **settings),
            accumulative_counts=counts,
        ),
        param_scheduler=schedulers,
        load_from=resume and str(resume),
        resume=bool(resume),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1)),
        custom_hooks=list(hooks),
        experiment_name=f'resume-{next(NUMBERS)}',
    )
    runner.register_hook(Look())
    runner.register_hook(RepeatableHook())
    follow_config(runner)
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    runner.train()
    return seen, '\n'.join(records)


@pytest.fixture
def whole(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'other').mkdir()
    return tmp_path / 'run', tmp_path / 'other'


def same(rates, others):
    assert [r[0] for r in rates] == [o[0] for o in others]
    for key in (1, 2):
        assert [r[key] for r in rates] == pytest.approx([o[key] for o in others], rel=1e-9)


LONGER = [WARM, COSINE | dict(T_max=17, end=20)]
CHANGES = {  # what changes: (settings of the first run, settings of the resumed run, words)
    'longer': (dict(length=12, schedulers=[WARM, COSINE]), dict(length=20, schedulers=LONGER),
               'param_scheduler.1.T_max=17 (checkpoint: 9)'),
    'learning rate': (dict(length=12, schedulers=[WARM, COSINE]),
                      dict(length=12, schedulers=[WARM, COSINE], lr=0.2),
                      'optimizer.initial_lr=0.2 (checkpoint: 1.0)'),
    'weight decay': (dict(length=12, schedulers=[WARM, COSINE]),
                     dict(length=12, schedulers=[WARM, COSINE], decay=0.5),
                     'optimizer.weight_decay=0.5 (checkpoint: 0.1)'),
    'warm-up': (dict(length=12, schedulers=[WARM, COSINE]),
                dict(length=12, schedulers=[WARM | dict(start_factor=0.5), COSINE]),
                'param_scheduler.0.start_factor=0.5 (checkpoint: 0.1)'),
    'learning rate without a schedule': (
        dict(length=12, schedulers=None), dict(length=12, schedulers=None, lr=0.2),
        'optimizer.lr=0.2 (checkpoint: 1.0)'),
    'another kind': (
        dict(length=12, schedulers=[WARM, COSINE]),
        dict(length=12, schedulers=[WARM, dict(type='PolyLR', power=2.0, by_epoch=False, begin=3,
                                               end=12)]), 'param_scheduler.1.power=2.0 (check'),
    'one cycle, higher': (
        dict(length=12, schedulers=[CYCLE]), dict(length=12, schedulers=[CYCLE | dict(eta_max=2)]),
        'optimizer.max_lr=2 (checkpoint: 1.0)'),
    'one cycle, later': (
        dict(length=12, schedulers=[CYCLE]),
        dict(length=12, schedulers=[CYCLE | dict(pct_start=0.5)]), '_schedule_phases='),
    'one more': (dict(length=12, schedulers=[WARM]), dict(length=12, schedulers=[WARM, COSINE]),
                 '2 schedulers (checkpoint: 1)'),
    'one less': (dict(length=12, schedulers=[WARM, COSINE]), dict(length=12, schedulers=[WARM]),
                 '1 schedulers (checkpoint: 2)'),
    'the first': (dict(length=12, schedulers=None), dict(length=12, schedulers=[WARM, COSINE]),
                  '2 schedulers (checkpoint: 0)'),
    'none': (dict(length=12, schedulers=[WARM, COSINE]), dict(length=12, schedulers=None),
             'optimizer.lr=1.0 (checkpoint: '),
    'milestones': (dict(length=3, schedulers=[WARM, STEPS], by_epoch=True),
                   dict(length=5, schedulers=[WARM, STEPS | dict(milestones=[1, 4])],
                        by_epoch=True), 'param_scheduler.1.milestones='),
}  # fmt: skip


SAME = {
    'cosine': [WARM, COSINE],
    'restarts': [dict(type='CosineRestartLR', periods=[4, 8], restart_weights=[1, 0.5], eta_min=0,
                      by_epoch=False)],
    'one cycle': [CYCLE],
    'plateau': [dict(type='ReduceOnPlateauLR', monitor='loss', by_epoch=True)],
    'weight decay': [dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', T_max=12,
                          by_epoch=False, eta_min=0.0)],
    'none': None,
}  # fmt: skip


@pytest.mark.parametrize('schedulers', SAME.values(), ids=SAME)
def test_nothing_is_told_and_nothing_changes_with_an_unchanged_config(whole, schedulers):
    run, _ = whole
    truth, _ = train(run, 12, schedulers)
    resumed, told = train(run, 12, schedulers, resume=run / 'iter_5.pth')
    same(resumed, truth[5:])
    assert 'takes from its config' not in told and 'batch size' not in told
    state = read_checkpoint(run / 'iter_12.pth')
    assert not any('load_state_dict' in s for s in state.get('param_schedulers', ()))


@pytest.mark.parametrize(('batch', 'length', 'updates'), [(1, 8, 9), (4, 2, 3)])
def test_epochs_of_another_length(whole, batch, length, updates):
    """Epochs of four iterations become longer or shorter; their number stays."""
    run, other = whole
    settings = dict(length=5, schedulers=[WARM, STEPS], by_epoch=True)
    train(run, **settings)
    changed = settings | dict(batch=batch, schedulers=[WARM, STEPS | dict(gamma=0.5)])
    resumed, told = train(run, **changed, resume=run / 'epoch_2.pth', counts=3)
    truth, _ = train(other, **changed)
    assert 'is finished' not in told
    same(resumed, truth[2 * length :])
    # accumulated gradients are used up at the end
    state = read_checkpoint(run / 'epoch_5.pth')['optimizer']['state'][0]
    assert int(state['step']) == 8 + updates


@pytest.mark.parametrize('start', [4, 5, 6])
def test_gradients_that_wait_for_an_update_are_resumed(whole, start):
    """Updates follow iterations 3, 6 and, with what is left, 7."""
    run, other = whole
    settings = dict(length=7, schedulers=[WARM], kind='SGD', lr=0.1, momentum=0.9, counts=3)
    train(run, **settings)
    train(other, **settings, resume=run / f'iter_{start}.pth')
    ends = [read_checkpoint(folder / 'iter_7.pth') for folder in whole]
    for key, value in ends[0]['state_dict'].items():
        assert torch.equal(value, ends[1]['state_dict'][key])
    before = read_checkpoint(run / f'iter_{start}.pth')
    assert bool(before['accumulated'][2]) == (start < 6)
    # gradients of the two batches before the fifth, of which each is a third of the update
    if start == 5:
        model = Model()
        model.load_state_dict(before['state_dict'])
        model([torch.ones(2)], mode='loss')['loss'].backward()
        expected = model.fc.weight.grad * 2 / 3
        torch.testing.assert_close(before['accumulated'][2]['fc.weight'], expected)
    # other numbers of batches begin anew
    resumed, _ = train(other, **{**settings, 'counts': 2}, resume=run / f'iter_{start}.pth')
    assert resumed[-1][0] == 6


class SavesToo(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.save_checkpoint(runner.work_dir, f'own_{runner.iter + 1}.pth', by_epoch=False)


def test_a_hook_saves_gradients_too_where_ddp_has_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(Model, 'no_sync', nullcontext, raising=False)  # as DDP has
    _, told = train(tmp_path, 4, [WARM], counts=3, hooks=[SavesToo()])
    assert 'without accumulated gradients' not in told
    for number in (1, 2):
        own, known = (
            read_checkpoint(tmp_path / f'{name}_{number}.pth')['accumulated'][2]
            for name in ('own', 'iter')
        )
        assert own
        torch.testing.assert_close(own, known, rtol=0, atol=0)


def test_scaled_gradients_are_not_resumed_without_their_scale(whole):
    """As in a run in float16 that goes on in float32."""
    run, other = whole
    settings = dict(length=7, schedulers=[WARM], kind='SGD', lr=0.1, momentum=0.9, counts=3)
    train(run, **settings)
    checkpoint = read_checkpoint(run / 'iter_5.pth')
    ends = []
    for number in (2.0**16, 0.0):
        count, place, gradients = checkpoint['accumulated']
        scaled = {name: gradient * number for name, gradient in gradients.items()}
        checkpoint['accumulated'] = (count, place, scaled) if number else None
        checkpoint['optimizer']['loss_scaler'] = {'scale': 2.0**16, '_growth_tracker': 2}
        torch.save(checkpoint, run / 'scaled.pth')
        train(other, **settings, resume=run / 'scaled.pth')
        ends.append(read_checkpoint(other / 'iter_7.pth')['state_dict']['fc.weight'])
    assert torch.equal(*ends)


def test_iterations_go_on_as_epochs(whole):
    """A checkpoint of a training by iterations knows no epochs, and its number stays."""
    run, _ = whole
    train(run, 6, [WARM])
    resumed, _ = train(run, 2, [WARM], by_epoch=True, resume=run / 'iter_6.pth')
    assert [seen[0] for seen in resumed][:2] == [6, 7]


def test_the_earlier_stage_is_not_loaded_again(whole, monkeypatch):
    """Also where a resumed run counts no iteration yet, as its epoch begins anew."""
    run, _ = whole
    loaded = []
    monkeypatch.setattr(engine_hooks, 'load_whole_model', lambda *args: loaded.append(args))
    monkeypatch.setattr(engine_hooks, 'fetch_together', lambda path: path)
    stage = LoadCheckpointHook('stage1.pth')
    train(run, 6, [WARM], hooks=[stage])
    assert len(loaded) == 1
    checkpoint = read_checkpoint(run / 'iter_6.pth')
    checkpoint['meta']['iter'] = 0
    torch.save(checkpoint, run / 'iter_0.pth')
    train(run, 6, [WARM], hooks=[LoadCheckpointHook('stage1.pth')], resume=run / 'iter_0.pth')
    assert len(loaded) == 1


def test_two_sources_of_weights_are_refused_before_either_is_loaded(tmp_path, monkeypatch):
    runner = Runner(
        Model(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=2,
            dataset=[{'inputs': torch.ones(2)}] * 4,
            sampler=dict(type='DefaultSampler'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[LoadCheckpointHook('stage1.pth')],
        load_from='other.pth',
        experiment_name=f'resume-{next(NUMBERS)}',
    )
    monkeypatch.setattr(runner, 'load_checkpoint', pytest.fail)
    with pytest.raises(UserError, match='load_from=.* and LoadCheckpointHook .*take one of them'):
        runner.train()


def test_weights_that_a_checkpoint_lacks(whole):
    """As if the norms of a head were of another kind, which have as many weights of other names."""
    run, other = whole
    train(run, 2, None)
    checkpoint = read_checkpoint(run / 'iter_2.pth')
    checkpoint['state_dict'] = {
        key.replace('bias', 'other'): value for key, value in checkpoint['state_dict'].items()
    }
    torch.save(checkpoint, run / 'renamed.pth')
    with pytest.raises(UserError, match='the checkpoint lacks 1 of the trained .* such as fc.bias'):
        train(other, 4, None, resume=run / 'renamed.pth')


@pytest.mark.parametrize(
    'wrap',
    [checkpoint_wrapper, lambda part: nn.ModuleDict({'_orig_mod': part})],
    ids=['checkpointed', 'compiled'],
)
def test_parts_may_be_wrapped_in_the_model_or_the_file_alone(wrap):
    plain, wrapped = (
        nn.ModuleDict({'backbone': nn.Sequential(nn.Linear(2, 2)), 'head': nn.Linear(2, 2)})
        for _ in range(2)
    )
    wrapped['backbone'] = wrap(wrapped['backbone'])
    for model, state in itertools.product((plain, wrapped), (plain, wrapped)):
        check_shapes(model, state.state_dict())
        other = {k: v for k, v in state.state_dict().items() if not k.startswith('backbone')}
        with pytest.raises(UserError, match='lacks 2 of the trained weights'):
            check_shapes(model, other)


def test_names_of_parts_in_wrappers_of_their_own():
    """As those of mmengine's MMSeparateDistributedDataParallel, which files do not have."""
    model = nn.ModuleDict({'student': nn.Linear(2, 2), 'teacher': nn.Linear(2, 2)})
    state = model.state_dict()
    model['teacher'].requires_grad_(False)
    model['student'] = nn.DataParallel(model['student'])
    check_shapes(model, state)


def test_states_of_another_optimizer(whole):
    run, _ = whole
    train(run, 6, [WARM])
    with pytest.raises(UserError, match='the checkpoint has the state of another optimizer'):
        train(run, 8, [WARM], resume=run / 'iter_6.pth', kind='SGD')


STATE = {0: {'step': torch.tensor(1.0), 'exp_avg': torch.ones(1)}}
MALFORMED = {  # the fault: (function that makes it, words of the error)
    'weights alone': (lambda c: [c.pop(k) for k in [*c] if k != 'state_dict'], 'meta must be'),
    'no meta': (lambda c: c.pop('meta'), 'meta must be a dict, there is none'),
    'meta': (lambda c: c.update(meta='x'), "meta must be a dict, got 'x'"),
    'no optimizer': (lambda c: c.pop('optimizer'), 'optimizer must be the state of an optimizer'),
    'no log': (lambda c: c.pop('message_hub'), 'message_hub must be the log'),
    'log': (lambda c: c.update(message_hub='x'), "must be the log of mmengine's runner, got 'x'"),
    'part of a log': (lambda c: c['message_hub'].pop('runtime_info'), 'must be the log'),
    'iteration': (lambda c: c['meta'].update(iter='abc'), 'meta.iter must be a whole number'),
    'negative': (lambda c: c['meta'].update(iter=-5), 'meta.iter must be a whole number, got -5'),
    'no epoch': (lambda c: c['meta'].pop('epoch'), 'meta.epoch must be a whole number'),
    'seed': (lambda c: c['meta'].update(seed='abc'), "must be a whole number, got 'abc'"),
    'large seed': (lambda c: c['meta'].update(seed=2**32), 'meta.seed must be a whole number'),
    'optimizer': (lambda c: c.update(optimizer=[1]), 'the state of an optimizer, got'),
    'groups': (lambda c: c['optimizer'].update(param_groups=[1]), 'the state of an optimizer, got'),
    'schedulers': (lambda c: c.update(param_schedulers='x'), 'the states of schedulers, got'),
    'a scheduler': (lambda c: c.update(param_schedulers=['x']), 'the states of schedulers, got'),
    'average': (lambda c: c.update(ema_state_dict=[1]), 'ema_state_dict must be a dict, got'),
    'NaN': (lambda c: c['optimizer']['state'][0]['exp_avg'].fill_(torch.nan),
            r'optimizer.state.0.exp_avg has numbers that are NaN .* from an earlier checkpoint'),
    'infinite average': (lambda c: c.update(ema_state_dict={'a': torch.ones(1) / 0}),
                         'ema_state_dict.a has numbers that are NaN or infinite'),
    'NaN that waits': (lambda c: c.update(accumulated=(2, 1, {'a': torch.ones(1) * torch.nan})),
                       'accumulated.a has numbers that are NaN or infinite'),
    'data set': (lambda c: c['meta'].update(dataset_meta='x'), 'meta.dataset_meta must be a dict'),
    # detected once the model is built
    'head': (lambda c: c['state_dict'].update({'fc.weight': torch.ones(3, 2)}),
             r'fc.weight has the shape \(3, 2\) in the checkpoint, and \(1, 2\) in the model'),
    'states': (lambda c: c['optimizer'].update(state=STATE),
               r'exp_avg of shape \(1,\) for a parameter of shape \(1, 2\)'),
    'fewer parameters': (lambda c: c['optimizer']['param_groups'][0].update(params=[0]),
                         'another optimizer .* for 1 parameters, here 1 of .* for 2'),
}  # fmt: skip


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    train(folder, 2, [WARM])
    return folder / 'iter_2.pth'


@pytest.mark.parametrize(('change', 'words'), MALFORMED.values(), ids=MALFORMED)
def test_what_cannot_be_resumed_from(checkpoint, tmp_path, change, words):
    content = read_checkpoint(checkpoint)
    change(content)
    torch.save(content, tmp_path / 'x.pth')
    before = (tmp_path / 'x.pth').read_bytes()
    with pytest.raises(UserError, match=words):
        look_at_checkpoint(Config(dict(resume=True)), tmp_path / 'x.pth')
        train(tmp_path, 4, [WARM], resume=tmp_path / 'x.pth')
    assert (tmp_path / 'x.pth').read_bytes() == before and len(list(tmp_path.glob('*.pth'))) == 1


@pytest.mark.parametrize('kind', ['AdamW', 'SGD', 'ASGD', 'RMSprop', 'Adagrad', 'Adadelta'])
def test_states_of_every_optimizer_are_resumed_from(tmp_path, kind):
    train(tmp_path, 2, [WARM], kind=kind)
    look_at_checkpoint(Config(dict(resume=True)), tmp_path / 'iter_2.pth')
    rates, _ = train(tmp_path, 4, [WARM], kind=kind, resume=tmp_path / 'iter_2.pth')
    assert [rate[0] for rate in rates] == [2, 3]


@pytest.mark.parametrize(
    ('kind', 'setting'),
    [('AdamW', 'amsgrad'), ('Adam', 'amsgrad'), ('RMSprop', 'centered'), ('RMSprop', 'momentum')],
)
def test_settings_whose_state_the_checkpoint_lacks(tmp_path, kind, setting):
    train(tmp_path, 2, [WARM], kind=kind)
    start = tmp_path / 'iter_2.pth'
    with pytest.raises(UserError, match=rf'optimizer.{setting}=1: the checkpoint has no state for'):
        train(tmp_path, 4, [WARM], kind=kind, resume=start, **{setting: 1})


class Counting(torch.optim.AdamW):
    """Keeps a state in its groups, as optimizers without schedules do."""

    def __init__(self, params, lr=1e-3, weight_decay=0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.defaults['steps_so_far'] = 0  # as Prodigy has it
        for group in self.param_groups:
            group['steps_so_far'] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group['steps_so_far'] += 1
        return super().step(closure)


class OfLayers(torch.optim.SGD):
    """Keeps one number for each tensor, as NovoGrad does."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group['params']:
                self.state[parameter]['exp_avg_sq'] = torch.tensor(1.0)
        return super().step(closure)


def test_the_state_that_an_optimizer_has_in_its_groups(tmp_path):
    train(tmp_path, 2, [WARM], kind=Counting)
    _, told = train(tmp_path, 4, [WARM], kind=Counting, decay=0.2, resume=tmp_path / 'iter_2.pth')
    (group,) = read_checkpoint(tmp_path / 'iter_4.pth')['optimizer']['param_groups']
    assert group['steps_so_far'] == 4 and group['weight_decay'] == 0.2
    assert 'weight_decay=0.2' in told and 'steps_so_far' not in told


class WithOptions(torch.optim.AdamW):
    """Takes its settings by name alone, as ZeroRedundancyOptimizer does."""

    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)


class OfMany(torch.optim.Optimizer):
    def __init__(self, params, **options):
        super().__init__(params, options)

    def step(self, closure=None):
        return None


@pytest.mark.parametrize('kind', [WithOptions, OfMany])
def test_settings_that_are_taken_by_name(tmp_path, kind):
    train(tmp_path, 2, [WARM], kind=kind)
    resumed, told = train(tmp_path, 4, [WARM], kind=kind, decay=0.2, resume=tmp_path / 'iter_2.pth')
    assert 'optimizer.weight_decay=0.2' in told and {row[2] for row in resumed} == {0.2}


def test_states_of_other_shapes_than_the_weights(tmp_path):
    train(tmp_path, 2, [WARM], kind=OfLayers)
    rates, _ = train(tmp_path, 4, [WARM], kind=OfLayers, resume=tmp_path / 'iter_2.pth')
    assert len(rates) == 2


def test_momentum_of_sgd_may_begin_later(tmp_path):
    train(tmp_path, 2, [WARM], kind='SGD')
    rates, told = train(tmp_path, 4, [], kind='SGD', resume=tmp_path / 'iter_2.pth', momentum=0.5)
    assert len(rates) == 2 and 'optimizer.momentum=0.5 (checkpoint: 0)' in told


@pytest.mark.parametrize(('old', 'new', 'words'), CHANGES.values(), ids=CHANGES)
def test_new_settings_are_those_of_a_run_that_had_them_all_along(whole, old, new, words):
    run, other = whole
    train(run, **old)
    truth, _ = train(other, **new)
    for stopped in (2, 1):
        name = f'epoch_{stopped}.pth' if old.get('by_epoch') else f'iter_{4 * stopped}.pth'
        resumed, told = train(run, **new, resume=run / name)
        same(resumed, truth[4 * stopped :])
        assert words in told and 'takes from its config' in told


@pytest.mark.parametrize('change', ['longer', 'one more', 'one less', 'the first', 'none'])
def test_strategies_follow_new_settings_too(whole, change):
    (run, other), (old, new, words) = whole, CHANGES[change]
    train(run, **old, runner_type=FlexibleRunner)
    resumed, told = train(run, **new, resume=run / 'iter_4.pth', runner_type=FlexibleRunner)
    truth, _ = train(other, **new, runner_type=FlexibleRunner)
    same(resumed, truth[4:])
    assert words in told and 'takes from its config' in told


def test_published_checkpoints_can_be_read(tmp_path):
    runner = Runner(
        Model(), str(tmp_path), train_cfg=dict(by_epoch=False, max_iters=1),
        train_dataloader=dict(batch_size=2, dataset=[{'inputs': torch.ones(2)}] * 2,
                              sampler=dict(type='InfiniteSampler')),
        optim_wrapper=dict(optimizer=dict(type='AdamW')),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1,
                                           published_keys=['meta', 'state_dict'])),
        experiment_name=f'published-{next(NUMBERS)}',
    )  # fmt: skip
    runner.train()
    (path,) = tmp_path.glob('iter_1-*.pth')
    state = torch.load(path, weights_only=True)['state_dict']
    assert torch.equal(state['fc.weight'], runner.model.fc.weight)
    assert read_checkpoint(path).keys() == {'meta', 'state_dict'}


def test_a_finished_run_says_so(whole):
    run, _ = whole
    train(run, 6, [WARM])
    resumed, told = train(run, 6, [WARM], resume=run / 'iter_6.pth')
    assert resumed == [] and 'is finished: 0 epochs, 6 iterations are done; --max-iters' in told


@pytest.mark.parametrize('resumed', [False, True])
def test_a_cycle_shorter_than_the_training_is_refused_before_it(whole, resumed):
    """mmengine's raises an error in mid-run."""
    run, _ = whole
    train(run, 12, [CYCLE])
    with pytest.raises(UserError, match='total_steps=12 of OneCycleLR is less than the 14 iter'):
        train(run, 14, [CYCLE], resume=run / 'iter_5.pth' if resumed else None)
    seen, _ = train(run, 14, [CYCLE | dict(end=12), WARM | dict(begin=12, end=14)])
    assert len(seen) == 14


def test_another_batch_size_is_told(whole):
    run, _ = whole
    train(run, 6, [WARM])
    assert 'the batch size was 2 and is 4 now' in train(
        run, 8, [WARM], resume=run / 'iter_6.pth', batch=4
    )[1]  # fmt: skip


def test_a_schedule_that_measures_cannot_be_computed_anew(whole):
    run, _ = whole
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss', by_epoch=True)
    train(run, 6, [WARM, plateau])
    with pytest.raises(UserError, match='goes by a measured value'):
        train(run, 8, [WARM | dict(end=5), plateau], resume=run / 'iter_6.pth')


def test_the_best_checkpoint_of_another_work_dir_stays(tmp_path):
    """mmengine alone would remove it, wherever it is, when a better one is saved."""
    old, new = tmp_path / 'old', tmp_path / 'new'
    old.mkdir()
    (old / 'best.pth').write_text('the best of another run')
    shared = SimpleNamespace(out_dir=str(tmp_path))  # mmengine adds the name of the work dir
    for folder, wanted, hooks in (
        (new, None, []), (new, None, [shared]), (old, str(old / 'best.pth'), []),
        (tmp_path / 'elsewhere/old', str(old / 'best.pth'), [shared]),
    ):  # fmt: skip
        hub = MessageHub.get_instance(f'best-{next(NUMBERS)}')
        hub.update_info('best_ckpt', str(old / 'best.pth'))
        hub.update_info('best_score', 0.5)
        _leave_best_of_others(SimpleNamespace(work_dir=str(folder), hooks=hooks, message_hub=hub))
        assert hub.runtime_info.get('best_ckpt') == wanted
        assert hub.get_info('best_score') == 0.5


def test_a_run_without_averages_goes_on_with_the_weights_they_are_of(whole):
    """EMAHook saves the averages in the place of the weights."""
    run, other = whole
    average = dict(type='EMAHook', momentum=0.5)
    train(run, 4, None, hooks=[average])
    saved = read_checkpoint(run / 'iter_3.pth')
    trained = saved['ema_state_dict']['module.fc.weight']
    assert not torch.equal(saved['state_dict']['fc.weight'], trained)
    for hooks, words in (([], 'averages no more'), ([average], '')):
        begun = []

        class Look(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None, begun=begun):
                begun.append(runner.model.fc.weight.detach().clone())

        _, told = train(other, 4, None, resume=run / 'iter_3.pth', hooks=[*hooks, Look()])
        assert torch.equal(begun[0], trained) and words in told


def test_float16_does_not_take_the_scale_of_bfloat16():
    loaded = []

    class Wrapper:
        def __init__(self, update):
            self.param_groups, self._scale_update_param = [], update

        def load_state_dict(self, state):
            loaded.append(state)

    for update, scale, kept in ((None, 1.0, False), (None, 2.0**16, True), (1.0, 1.0, True)):
        wrapper = Wrapper(update)
        changes = _Changes()
        changes.watch(wrapper, 'optimizer', set())
        wrapper.load_state_dict(dict(state={}, param_groups=[], loss_scaler=dict(scale=scale)))
        assert ('loss_scaler' in loaded[-1]) == kept == (not changes.differences)


class Steps(Hook):
    """Records the samples of every iteration, and the weights after it."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        batch = torch.stack(data_batch['inputs'])
        weight = runner.model.fc.weight.detach().clone()
        self.seen.append((runner.epoch, runner.iter, batch, weight))


LOADED = []


def noisy(results):
    LOADED.append(results['value'])
    return {'inputs': torch.rand(2) + results['value']}


class InBuckets(BatchSampler):
    """Even and odd samples apart, as mmdet's AspectRatioBatchSampler keeps wide and high images."""

    def __iter__(self):
        buckets = [], []
        for index in self.sampler:
            bucket = buckets[index % 2]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()


BUCKETS = dict(type=InBuckets, drop_last=False)


class OwnSampler(Sampler):
    """A sampler that is not mmengine's."""

    def __init__(self, dataset, shuffle=True, seed=0):
        self.dataset, self.epoch = dataset, 0

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(len(self), generator=generator).tolist())

    def set_epoch(self, epoch):
        self.epoch = epoch


class OfTorch(Dataset):
    """A data set that is not mmengine's."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        return noisy({'value': index})


class OfBatches(OfTorch):
    """Loads batches by itself, as data sets of Hugging Face."""

    def __getitems__(self, indices):
        return [noisy({'value': index}) for index in indices]


def constant(results):
    return {'inputs': torch.ones(2) * results['value']}


def train_by_epochs(
    folder, resume=None, wrapper=None, samples=8, kind=DefaultSampler, workers=0, hooked=True,
    length=MappingProxyType(dict(by_epoch=True, max_epochs=3)),
):  # fmt: skip
    """Three epochs of four iterations, with a checkpoint after each iteration."""
    step = constant if kind is OwnSampler else noisy  # whose samples get no seed
    dataset = BaseDataset(lazy_init=True, serialize_data=False, pipeline=[step])
    dataset.data_list, dataset._fully_initialized = [{'value': i} for i in range(samples)], True
    if wrapper == 'ClassBalancedDataset':
        dataset.get_cat_ids = lambda index: [int(index % 4 == 0)]
        dataset._metainfo = dict(classes=('a', 'b'))
        dataset = ClassBalancedDataset(dataset, oversample_thr=0.9)
        dataset.repeat_indices = dataset.repeat_indices[:8]
    if wrapper == 'of torch':
        dataset = OfTorch(samples)
    if wrapper == 'of batches':
        dataset = OfBatches(samples)
    if wrapper == 'subset':
        dataset = Subset(OfTorch(samples + 1), range(1, samples + 1))
    if wrapper == "subset of mmengine's":
        dataset = Subset(dataset, range(samples))
    folder.mkdir()
    sliced = {'num_batch_per_epoch': 4} if wrapper == 'num_batch_per_epoch' else {}
    runner = Runner(
        Model(), str(folder), train_cfg=dict(length),
        train_dataloader=sliced | dict(
            batch_size=2, dataset=dataset, sampler=dict(type=kind, shuffle=True),
            num_workers=workers, persistent_workers=bool(workers),
            batch_sampler=BUCKETS if wrapper == 'buckets' else None),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[STEPS | dict(milestones=[1, 2])], randomness=dict(seed=3),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        load_from=resume and str(resume), resume=bool(resume),
        experiment_name=f'epochs-{next(NUMBERS)}',
    )  # fmt: skip
    steps = Steps()
    runner.register_hook(steps)
    if hooked:
        runner.register_hook(RepeatableHook())
    follow_config(runner)
    runner.train()
    return steps.seen


@pytest.mark.parametrize(
    ('wrapper', 'kind'),
    [(None, DefaultSampler), ('ClassBalancedDataset', DefaultSampler), ('buckets', DefaultSampler),
     ('num_batch_per_epoch', DefaultSampler), (None, OwnSampler), ('of torch', DefaultSampler),
     ('of batches', DefaultSampler), ('subset', DefaultSampler),
     ("subset of mmengine's", DefaultSampler)],
    ids=['plain', 'ClassBalancedDataset', 'buckets', 'num_batch_per_epoch', 'own sampler', 'torch',
         'batches', 'subset', "subset of mmengine's"],
)  # fmt: skip
def test_a_run_by_epochs_goes_on_inside_of_one(wrapper, kind, tmp_path):
    whole = train_by_epochs(tmp_path / 'run', wrapper=wrapper, kind=kind)
    assert [step[:2] for step in whole] == [(i // 4, i) for i in range(12)]
    for at in (2, 4, 5):
        start = tmp_path / f'run/iter_{at}.pth'
        rest = train_by_epochs(tmp_path / f'from_{at}', start, wrapper, kind=kind)
        for mine, theirs in zip(rest, whole[at:], strict=True):
            assert mine[:2] == theirs[:2]
            assert torch.equal(mine[2], theirs[2]) and torch.equal(mine[3], theirs[3])


def test_epochs_may_be_shorter_than_their_length(tmp_path):
    """Buckets of three samples give one batch of two each, and say three batches in all."""
    options = dict(wrapper='buckets', samples=6)
    whole = train_by_epochs(tmp_path / 'run', **options)
    assert [step[:2] for step in whole] == [(i // 2, i) for i in range(6)]
    for at in range(1, 6):
        start = tmp_path / f'run/iter_{at}.pth'
        rest = train_by_epochs(tmp_path / f'from_{at}', start, **options)
        for mine, theirs in zip(rest, whole[at:], strict=True):
            assert mine[:2] == theirs[:2]
            assert torch.equal(mine[2], theirs[2]) and torch.equal(mine[3], theirs[3])


@pytest.mark.parametrize(
    ('wrapper', 'kind', 'workers', 'at'),
    [(None, InfiniteSampler, 0, 3), (None, InfiniteSampler, 1, 8), (None, DefaultSampler, 0, 10),
     ('buckets', InfiniteSampler, 0, 10), ('buckets', DefaultSampler, 1, 8),
     (None, OwnSampler, 0, 8), ('of torch', InfiniteSampler, 1, 8)],
)  # fmt: skip
def test_a_run_by_iterations_loads_nothing_twice(wrapper, kind, workers, at, tmp_path, monkeypatch):
    """Its data set has eight or, with buckets, seven samples in batches of two."""
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # two seconds before every pass
    samples = 7 if wrapper == 'buckets' else 8
    options = dict(wrapper=wrapper, kind=kind, workers=workers, samples=samples)
    options['length'] = dict(by_epoch=False, max_iters=12)
    whole = train_by_epochs(tmp_path / 'run', **options)
    LOADED.clear()
    rest = train_by_epochs(tmp_path / 'other', tmp_path / f'run/iter_{at}.pth', **options)
    assert [step[:2] for step in rest] == [(0, i) for i in range(at, 12)]
    for mine, theirs in zip(rest, whole[at:], strict=True):
        assert torch.equal(mine[2], theirs[2]) and torch.equal(mine[3], theirs[3])
    if kind is not OwnSampler and not workers:
        assert len(LOADED) == sum(len(step[2]) for step in rest)


class Stream(IterableDataset):
    """Samples without indices."""

    def __len__(self):
        return 100

    def __iter__(self):
        return ({'inputs': torch.full((2,), float(i))} for i in range(len(self)))


def test_data_without_indices_goes_on_where_it_was(tmp_path):
    def samples(name, **options):
        runner = Runner(
            Model(), str(tmp_path / name), train_cfg=dict(by_epoch=False, max_iters=6),
            train_dataloader=DataLoader(Stream(), 2, collate_fn=pseudo_collate),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            experiment_name=f'stream-{next(NUMBERS)}', **options,
        )  # fmt: skip
        steps = Steps()
        runner.register_hook(steps)
        runner.register_hook(RepeatableHook())
        runner.train()
        return [batch[:, 0].tolist() for _, _, batch, _ in steps.seen]

    whole = samples('whole')
    assert whole == [[2 * i, 2 * i + 1] for i in range(6)]
    last = str(tmp_path / 'whole/iter_4.pth')
    assert samples('rest', load_from=last, resume=True) == whole[4:]


@pytest.mark.parametrize(('at', 'iterations'), [(8, 3), (6, 6)])
def test_epochs_of_another_length_begin_anew(at, iterations, tmp_path):
    """A checkpoint at the end of an epoch is followed by a whole one."""
    train_by_epochs(tmp_path / 'run')
    rest = train_by_epochs(tmp_path / 'other', tmp_path / f'run/iter_{at}.pth', samples=6)
    assert len(rest) == iterations


def test_workers_go_on_inside_of_an_epoch_too(tmp_path):
    whole = train_by_epochs(tmp_path / 'run', workers=1)
    for at in (4, 6):
        start = tmp_path / f'run/iter_{at}.pth'
        rest = train_by_epochs(tmp_path / f'from_{at}', start, workers=1)
        for mine, theirs in zip(rest, whole[at:], strict=True):
            assert mine[:2] == theirs[:2] and torch.equal(mine[2], theirs[2])


def test_checkpoints_of_mmengine_alone_are_gone_on_with(tmp_path):
    train_by_epochs(tmp_path / 'run', hooked=False)
    for at in (4, 6):
        rest = train_by_epochs(tmp_path / f'from_{at}', tmp_path / f'run/iter_{at}.pth')
        assert [step[1] for step in rest] == list(range(at, 12))


@pytest.mark.parametrize('samples', [6, 8, 16])
def test_epochs_that_have_ended_are_followed_by_whole_ones(samples, tmp_path):
    """Also if the checkpoint does not say that its epoch has ended."""
    train_by_epochs(tmp_path / 'run', hooked=False)
    path = tmp_path / 'run/iter_8.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['epoch'] = 2  # as checkpoints by epochs have it
    torch.save(checkpoint, path)
    rest = train_by_epochs(tmp_path / 'other', path, samples=samples)
    assert len(rest) == samples // 2


def test_a_run_by_iterations_takes_no_part_in_it(whole):
    folder, other = whole
    train_by_epochs(folder / 'inside')
    seen, _ = train(other, 12, None, resume=folder / 'inside/iter_6.pth', kind='AdamW')
    assert [step[0] for step in seen] == list(range(6, 12))
    assert 'done_of_epoch' not in read_checkpoint(other / 'iter_12.pth')['meta']


def test_checkpoints_say_how_much_of_an_epoch_is_done(whole):
    folder, _ = whole
    train(folder, 2, None, by_epoch=True)
    for path in folder.glob('*.pth'):
        assert read_checkpoint(path)['meta']['done_of_epoch'] == (0, 4)
    train_by_epochs(folder / 'inside')
    found = {
        int(path.stem[5:]): read_checkpoint(path)['meta']['done_of_epoch']
        for path in (folder / 'inside').glob('iter_*.pth')
    }
    assert found == {i: ((i - 1) % 4 + 1, 4) for i in range(1, 13)}


SCORES = [1.0, 5.0, 3.0, 4.0, 2.0, 6.0]  # of each epoch; the rate is halved after the fourth


class Scripted(BaseMetric):
    epoch = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'score': SCORES[self.epoch]}


class Killed(Hook):
    """Ends a run before its validation or its next epoch; keeps the learning rate of each epoch."""

    def __init__(self, place, epoch):
        self.place, self.epoch, self.rates = place, epoch, {}

    def before_train_epoch(self, runner):
        self.end('train', runner)
        (self.rates[runner.epoch],) = runner.optim_wrapper.get_lr()['lr']

    def before_val_epoch(self, runner):
        self.end('val', runner)
        Scripted.epoch = runner.epoch - 1

    def end(self, place, runner):
        if (place, runner.epoch) == (self.place, self.epoch):
            raise InterruptedError


def train_by_scores(
    folder, place=None, epoch=None, resume=None, interval=1, best_alone=False, **stopping
):
    data = [{'inputs': torch.ones(2)}]
    loader = dict(batch_size=1, dataset=data, sampler=dict(type='DefaultSampler'))
    runner = Runner(
        Model(), str(folder), train_dataloader=loader, val_dataloader=loader,
        val_evaluator=[Scripted()], val_cfg={},
        train_cfg=dict(by_epoch=True, max_epochs=6, val_interval=interval),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0)),
        param_scheduler=None if best_alone else dict(
            type='ReduceOnPlateauLR', monitor='score', rule='greater', factor=0.5, patience=1),
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', interval=1, save_best='score', rule='greater')),
        custom_hooks=None if best_alone else [dict(
            type='EarlyStoppingHook', monitor='score', **(
                dict(rule='greater', patience=3) | stopping))],
        load_from=resume and str(resume), resume=bool(resume),
        experiment_name=f'scores-{next(NUMBERS)}',
    )  # fmt: skip
    killed = Killed(place, epoch)
    runner.register_hook(killed)
    runner.register_hook(RepeatableHook())
    runner.register_hook(ScoresHook())
    follow_config(runner)
    with suppress(InterruptedError):
        runner.train()
    best = sorted(path.name for path in folder.glob('best*'))
    return killed.rates, best, runner.train_loop.stop_training


# the fifth validation stops the training
@pytest.mark.parametrize(('place', 'epoch'), [
    ('val', 1), ('val', 2), ('val', 4), ('val', 5), ('train', 1), ('train', 2), ('train', 4),
])  # fmt: skip
def test_a_resumed_run_knows_the_scores_before(place, epoch, tmp_path):
    whole = train_by_scores(tmp_path / 'whole')
    rates = dict(enumerate([1.0, 1.0, 1.0, 1.0, 0.5]))
    assert whole == (rates, ['best_score_epoch_2.pth'], True)
    begun, *_ = train_by_scores(tmp_path / 'run', place, epoch)
    rest = train_by_scores(tmp_path / 'run', resume=tmp_path / f'run/epoch_{epoch}.pth')
    assert (begun | rest[0], *rest[1:]) == whole


def test_epochs_that_are_not_validated_are_not_when_resumed(tmp_path):
    """One score more, of the third epoch, would halve the rate after the fourth."""
    whole = train_by_scores(tmp_path / 'whole', interval=2)
    begun, *_ = train_by_scores(tmp_path / 'run', 'train', 3, interval=2)
    rest = train_by_scores(tmp_path / 'run', resume=tmp_path / 'run/epoch_3.pth', interval=2)
    assert (begun | rest[0], *rest[1:]) == whole and set(whole[0].values()) == {1.0}


@pytest.mark.parametrize('options', [dict(patience=9), dict(best_alone=True)], ids=str)
def test_the_last_validation_is_made_up_for(options, tmp_path):
    assert train_by_scores(tmp_path, 'val', 6, **options)[1] == ['best_score_epoch_2.pth']
    rest = train_by_scores(tmp_path, resume=tmp_path / 'epoch_6.pth', **options)
    assert rest == ({}, ['best_score_epoch_6.pth'], False)


def test_early_stopping_by_another_rule_begins_anew(tmp_path):
    train_by_scores(tmp_path, 'train', 2, rule='less', patience=1)
    rest = train_by_scores(tmp_path, resume=tmp_path / 'epoch_2.pth', patience=5)
    assert not rest[2] and max(rest[0]) == 5


def test_checkpoints_say_whether_they_have_their_scores(tmp_path):
    train_by_scores(tmp_path, 'train', 3)
    # mmengine writes that of the best epoch once more, behind the validation
    for name, before in (('best_score_epoch_2', False), ('epoch_2', False), ('epoch_3', True)):
        meta = read_checkpoint(tmp_path / f'{name}.pth')['meta']
        assert meta['lacks_scores'] == before
