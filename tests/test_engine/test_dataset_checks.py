from contextlib import nullcontext
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from mmdet.datasets import MultiImageMixDataset
from mmdet.engine.hooks import PipelineSwitchHook, YOLOXModeSwitchHook
from mmengine.dataset import BaseDataset, RepeatDataset, pseudo_collate
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, LoggerHook
from mmengine.optim import ReduceOnPlateauLR
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmswinv2.engine.dataset_checks import CheckDatasetHook, check_class_numbers
from mmswinv2.errors import UserError
from tests.test_engine.test_hooks import data, network


def test_classes_of_one_name_and_of_several_data_sets():
    """Names may repeat: ImageNet has a bird and a machine called crane."""
    crane = ['cock', 'crane', 'drake', 'crane']
    check_class_numbers([('train', crane), ('val', crane), ('the checkpoint', list(crane))])
    with pytest.raises(UserError, match="the class 'crane' is number 0 of val and number 1 of tr"):
        check_class_numbers([('train', crane), ('val', ['crane', 'cock'])])
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


class OneSample(BaseDataset):
    def load_data_list(self):
        return [{}]


def check_parts(*classes, model=None):
    """Run the hook's checks before a training on several data sets, joined by mmdet."""
    from mmdet.datasets.dataset_wrappers import ConcatDataset

    parts = [OneSample(metainfo=dict(classes=names)) for names in classes]
    loop = SimpleNamespace(dataloader=DataLoader(ConcatDataset(parts)))
    model = nn.Module() if model is None else model
    runner = SimpleNamespace(_train_loop=loop, _val_loop=None, _test_loop=None, _resume=False)
    runner.model = model
    CheckDatasetHook().before_run(runner)


def test_data_sets_that_are_joined_have_one_numbering(log):
    check_parts(['cat', 'dog'], ['cat', 'dog'], ['cat', 'dog', 'cow'])
    assert not log()
    with pytest.raises(UserError, match="the class 'dog' is number 0 of train_dataloader and numb"):
        check_parts(['cat', 'dog'], ['dog', 'cat'])
    check_parts(['cat', 'dog'], ['cow'])  # deliberately merged, perhaps
    assert "train_dataloader: label 0 is 'cat' and 'cow' in different data sets" in log()
    prompted = nn.Module()
    prompted.language_model = nn.Module()  # which is told the classes of each sample
    check_parts(['cat', 'dog'], ['dog', 'cat'], model=prompted)


def test_a_best_score_that_no_metric_gives():
    hooks = [LoggerHook(), CheckpointHook(save_best='a/accuracy')]
    runner = SimpleNamespace(hooks=hooks, param_schedulers=None)
    CheckDatasetHook().after_val_epoch(runner, {'a/accuracy': 0.5, 'b': 1.0})
    CheckDatasetHook().after_val_epoch(runner, {})
    with pytest.raises(UserError, match=r"save_best='a/accuracy' of CheckpointHook .*: b, c"):
        CheckDatasetHook().after_val_epoch(runner, {'b': 1.0, 'c': 0.5})
    runner.hooks = [EarlyStoppingHook('a/accuracy')]
    with pytest.raises(UserError, match=r"monitor='a/accuracy' of EarlyStoppingHook .*: b"):
        CheckDatasetHook().after_val_epoch(runner, {'b': 1.0})
    runner.hooks = [SimpleNamespace(monitor='loss')]  # of a user's hook it may be anything
    CheckDatasetHook().after_val_epoch(runner, {'b': 1.0})


@pytest.mark.parametrize('loop', ['val', 'test'])
@pytest.mark.parametrize('key', ['pred_score', 'seg_logits'])
def test_predictions_that_are_nan_are_told(key, loop, log):
    """argmax makes a class of them, so that metrics give a score as good as chance."""
    hook, runner = CheckDatasetHook(), SimpleNamespace(hooks=[], param_schedulers=None)
    bad = torch.tensor([0.5, float('nan')])
    for number in (2, 0):
        for i, scores in enumerate((torch.ones(2), bad, bad)[: number + 1]):
            value = SimpleNamespace(data=scores) if key == 'seg_logits' else scores
            outputs = [SimpleNamespace(**{key: value}), SimpleNamespace(pred_instances=1)]
            getattr(hook, f'after_{loop}_iter')(runner, i, outputs=outputs)
        for other in (None, bad, {'scores': bad}, 0.5):  # of models with a metric of their own
            getattr(hook, f'after_{loop}_iter')(runner, 0, outputs=other)
        getattr(hook, f'after_{loop}_epoch')(runner, {})
    assert log().count('predictions on 2 samples are NaN') == log().count('NaN') == 1


@pytest.mark.parametrize('several', [False, True])
def test_a_score_to_measure_that_no_metric_gives(several):
    weights = [nn.Parameter(torch.ones(1))]
    plateau = ReduceOnPlateauLR(torch.optim.SGD(weights, lr=0.1), monitor='a/accuracy')
    schedulers = {'generator': [plateau]} if several else [plateau]
    runner = SimpleNamespace(hooks=[], param_schedulers=schedulers)
    CheckDatasetHook().after_val_epoch(runner, {'a/accuracy': 0.5, 'b': 1.0})
    with pytest.raises(UserError, match="monitor='a/accuracy' of ReduceOnPlateau.* none .*: b"):
        CheckDatasetHook().after_val_epoch(runner, {'b': 1.0})


BATCHES = {  # settings of a run: (length of the data set, settings of the loader, by_epoch, words)
    'empty': (0, {}, False, 'val_dataloader: the data set has no samples'),
    'dropped': (
        3,
        dict(drop_last=True),
        True,
        'train_dataloader: there are fewer samples than a b',
    ),
    'dropped by iterations': (3, dict(drop_last=True), False, 'train_dataloader: .*batch_size=4'),
    'part of the scores': (6, dict(drop_last=True), False, 'val_dataloader: .* leaves 2 samples'),
    'endless': (8, dict(sampler=dict(type='InfiniteSampler')), True, 'InfiniteSampler has no end'),
    'endless validation': (
        8,
        dict(sampler=dict(type='InfiniteSampler')),
        True,
        'val_dataloader: InfiniteSampler has no end',
    ),
    'endless by iterations': (3, dict(sampler=dict(type='InfiniteSampler')), False, ''),
    'whole': (8, dict(drop_last=True), True, ''),
}


@pytest.mark.parametrize(('length', 'options', 'by_epoch', 'words'), BATCHES.values(), ids=BATCHES)
def test_batches_that_are_none_or_endless_or_leave_samples_out(
    length, options, by_epoch, words, tmp_path
):
    sampler = dict(type='DefaultSampler', shuffle=False)
    loader = dict(batch_size=4, dataset=[dict(inputs=torch.ones(2))] * length, sampler=sampler)
    train = {**loader, 'dataset': loader['dataset'] or data(())}
    val = {**loader, 'dataset': data(())}
    if words.startswith('val'):
        val = {**loader, **options}
    else:
        train |= options
    duration = dict(max_epochs=1) if by_epoch else dict(max_iters=1)
    it = Runner(
        network(),
        str(tmp_path),
        train_dataloader=train,
        val_dataloader=val,
        val_evaluator=dict(type='DumpResults', out_file_path=str(tmp_path / 'out.pkl')),
        val_cfg=dict(),
        train_cfg=dict(by_epoch=by_epoch, val_begin=9, **duration),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[CheckDatasetHook()],
        experiment_name=tmp_path.name,
    )
    with pytest.raises(UserError, match=words) if words else nullcontext():
        it.train()


def test_hooks_that_change_the_steps_of_a_data_set():
    """The one would change nothing, the other fail in the middle of the run."""

    def check(hook, dataset):
        loader = SimpleNamespace(dataset=dataset)
        runner = SimpleNamespace(
            hooks=[hook],
            train_dataloader=loader,
            cfg={},
            model=nn.Module(),
            param_schedulers=[SimpleNamespace(by_epoch=True)],  # of the user's own class
        )
        CheckDatasetHook().before_train(runner)

    one = OneSample(lazy_init=True, pipeline=[])
    switch, yolox = PipelineSwitchHook(1, []), YOLOXModeSwitchHook()
    with pytest.raises(UserError, match='needs pipeline of .* which RepeatDataset has not'):
        check(switch, RepeatDataset(one, 2, lazy_init=True))
    with pytest.raises(UserError, match='needs update_skip_type_keys of .* OneSample has not'):
        check(yolox, one)
    check(switch, one)
    check(yolox, MultiImageMixDataset(one, [], skip_type_keys=None))


class OfTwoSources:
    """Batches with a number of samples of each source, as one of mmdet's samplers has them."""

    batch_size, drop_last, sampler = [2, 1], True, range(4)

    def __iter__(self):
        return iter([[0, 1, 3]])

    def __len__(self):
        return 1


def test_batches_of_several_sources(tmp_path):
    loader = torch.utils.data.DataLoader(
        [dict(inputs=torch.ones(2))] * 4, batch_sampler=OfTwoSources(), collate_fn=pseudo_collate
    )
    it = Runner(
        network(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[CheckDatasetHook()],
        experiment_name=tmp_path.name,
    )
    it.train()
    assert it.iter == 1


@pytest.mark.parametrize(('end', 'warned'), [(7, True), (6, False), (None, False)])
def test_a_warm_up_that_is_longer_than_the_training(end, warned, tmp_path):
    warm_up = dict(type='LinearLR', start_factor=0.1, by_epoch=False)
    it = Runner(
        network(),
        str(tmp_path),
        train_dataloader=dict(
            batch_size=2, dataset=data([]), sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),  # of six iterations
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=[warm_up if end is None else dict(warm_up, end=end)],
        custom_hooks=[CheckDatasetHook()],
        experiment_name=f'{tmp_path.name}{end}',
    )
    with patch('mmswinv2.engine.dataset_checks.warn') as warn:
        it.train()
    told = [call.args[0] for call in warn.call_args_list if 'warm-up' in call.args[0]]
    assert len(told) == warned
    if warned:
        assert told[0].startswith('the warm-up takes 7 iterations, and the training has 6, ')
        assert told[0].endswith('param_scheduler.0.end=2')


class Split(Enum):
    TRAIN = 1


@pytest.mark.parametrize('value', [Split.TRAIN, lambda: 1, Decimal('1.5'), ('a', [1, 2])])
def test_metainfo_that_no_checkpoint_could_be_read_with(value):
    dataset = OneSample(metainfo=dict(classes=('a',)))
    dataset._metainfo['split'] = value
    loop = SimpleNamespace(dataloader=DataLoader(dataset))
    runner = SimpleNamespace(
        _train_loop=loop, _val_loop=None, _test_loop=None, _resume=False, model=torch.nn.Identity()
    )
    refused = pytest.raises(UserError, match=r'the metainfo of train_dataloader.*(Split|lambda)')
    with refused if isinstance(value, Enum) or callable(value) else nullcontext():
        CheckDatasetHook().before_run(runner)
