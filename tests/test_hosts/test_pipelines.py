from contextlib import nullcontext

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from mmengine.model import BaseModel, ImgDataPreprocessor
from torch.utils.data import DataLoader

from mmswinv2 import hosts
from mmswinv2.errors import UserError
from mmswinv2.registry import TRANSFORMS

LOAD = dict(type='mmdet.LoadImageFromNDArray')
LABELS = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)
RESIZE = dict(type='mmdet.Resize', scale=(8, 8))
PACK = dict(type='mmdet.PackDetInputs')


@TRANSFORMS.register_module()
class NeedsNumber:
    """A step of a user's own, with a bug."""

    def __call__(self, results):
        return {'img': results['number']}


class Images(BaseDataset):
    def load_data_list(self):
        return [dict(img=np.zeros((8, 8 + i, 3), np.uint8), instances=[]) for i in range(2)]


def images(*steps):
    import mmdet.datasets.transforms  # noqa: F401
    import mmseg.datasets.transforms  # noqa: F401

    return Images(pipeline=list(steps))


@pytest.mark.parametrize(
    ('steps', 'words', 'workers'),
    [
        ([LABELS, PACK], "LoadAnnotations.* needs 'ori_shape'.* has img, instances, .*missing", 0),
        (
            [dict(type='mmcv.RandomChoice', transforms=[[LABELS]])],
            "Annotations.* needs 'ori_shape'",
            0,
        ),
        # torch waits five seconds for the end of a worker whose error is kept, as pytest does
        ([dict(type='mmswinv2.VideoDecode')], "VideoDecode.* needs 'frame_inds'", 1),
    ],
)
def test_steps_that_lack_a_key_of_the_sample_are_named(steps, words, workers):
    loader = DataLoader(images(*steps), num_workers=workers, collate_fn=pseudo_collate)
    with pytest.raises(UserError, match=words):
        list(loader)


def test_what_steps_assert():
    import mmaction.datasets.transforms  # noqa: F401

    sample = dict(imgs=[np.zeros((8, 8, 3))], filename='a.mp4', modality='RGB')
    crop = Compose([dict(type='mmaction.ThreeCrop', crop_size=9)])
    with pytest.raises(UserError, match="ThreeCrop, a step .* take a.mp4: 'assert crop_h == img_h"):
        crop(sample)
    with pytest.raises(AssertionError):  # which data sets may catch
        crop(sample)


def test_bugs_of_steps_stay_bugs(monkeypatch):
    own = dict(type='mmswinv2.NeedsNumber')
    for steps in ([own], [dict(type='mmcv.RandomChoice', transforms=[[own]])]):
        with pytest.raises(KeyError, match='number'):
            images(LOAD, *steps)[0]
    with pytest.raises(KeyError, match='antialias'):  # a wrong option
        images(LOAD, dict(type='mmcv.Resize', scale=(8, 8), interpolation='antialias'))[0]
    dataset = images(LOAD)
    step = type(dataset.pipeline.transforms[0])
    monkeypatch.setattr(step, 'transform', lambda self, results: {}['img'])
    with pytest.raises(KeyError, match='img'):  # which the sample has
        dataset[0]


FLIP = dict(type='mmdet.RandomFlip', prob=0.5)
MAPS = dict(type='mmseg.LoadAnnotations')


@pytest.mark.parametrize(
    'steps',
    [
        [RESIZE, dict(LABELS, with_mask=False)],
        [RESIZE, dict(LABELS, with_bbox=False)],
        [FLIP, LABELS],
        [FLIP, MAPS],
        [FLIP, RESIZE, MAPS],
    ],
)
def test_annotations_are_loaded_before_pixels_are_moved(steps):
    with pytest.raises(UserError, match=r'LoadAnnotations stands after (Resize|RandomFlip) in'):
        hosts.check_dataset(images(LOAD, *steps, PACK), 'train_dataloader')


def test_a_training_needs_annotations():
    for pack in (PACK, dict(type='mmseg.PackSegInputs')):
        with pytest.raises(UserError, match=r'loads no annotations \(LoadImageFromNDArray, Pack'):
            hosts.check_dataset(images(LOAD, pack), 'train_dataloader')
    hosts.check_dataset(images(LOAD, PACK), 'test_dataloader')
    # by a step of a user's own, in the samples already, or for a model of another kind
    for steps in ([LOAD, dict(type='mmswinv2.NeedsNumber'), PACK], [PACK], [LOAD]):
        hosts.check_dataset(images(*steps), 'train_dataloader')


@pytest.mark.parametrize(
    'steps',
    [
        [LABELS, RESIZE, FLIP],
        [dict(type='mmdet.RandomFlip', prob=0.0), LABELS],
        [RESIZE, MAPS],  # label maps of the size of the result
        [dict(type='mmcv.RandomChoice', transforms=[[LOAD, LABELS, FLIP], [LOAD, LABELS]])],
        [dict(type='mmcv.RandomApply', transforms=[LABELS], prob=1.0), FLIP],
    ],
)
def test_orders_that_are_right(steps):
    hosts.check_dataset(images(LOAD, *steps, PACK), 'train_dataloader')


def test_a_test_set_is_resized_before_its_annotations_are_loaded():
    hosts.check_dataset(images(LOAD, RESIZE, LABELS, PACK), 'val_dataloader')


class Model(BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


STATISTICS = dict(mean=[9.0] * 3, std=[2.0] * 3)
TWICE = {  # case: (of the step, of the model, whether both subtract a mean)
    'both': (STATISTICS, STATISTICS, True),
    'the step alone': (STATISTICS, {}, False),
    'the model by zeros': (STATISTICS, dict(mean=[0.0] * 3, std=[1.0] * 3), False),
    'scaled to 1 first': (dict(mean=[0.0] * 3, std=[255.0] * 3), STATISTICS, False),
}


@pytest.mark.parametrize('where', ['train_dataloader', 'test_dataloader'])
@pytest.mark.parametrize('step, model, twice', TWICE.values(), ids=TWICE)
def test_images_are_normalized_once(step, model, twice, where):
    """Pipelines of mmdet 2 and mmseg 0 did it, and later models do."""
    steps = [LOAD, LABELS, dict(RESIZE, type='mmcv.Resize'), dict(type='mmcv.Normalize', **step)]
    steps.append(PACK)
    model = Model(ImgDataPreprocessor(**model))
    words = f'{where}: images are normalized twice, by Normalize in the pipeline and by data_pre'
    with pytest.raises(UserError, match=words) if twice else nullcontext():
        hosts.check_dataset(images(*steps), where, model)
