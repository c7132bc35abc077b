import numpy as np
import pytest
from mmengine.dataset import BaseDataset, default_collate, pseudo_collate
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


def error_of(*steps, workers=0, batch_size=1, collate=pseudo_collate):
    loader = DataLoader(images(*steps), batch_size, num_workers=workers, collate_fn=collate)
    with pytest.raises((KeyError, RuntimeError)) as caught:
        list(loader)
    return hosts.explain_missing(caught.value)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    'steps, words',
    [
        ([LABELS, PACK], "LoadAnnotations.* needs 'ori_shape'.*from: LoadImageFromFile"),
        ([dict(type='mmswinv2.VideoDecode')], "VideoDecode.* needs 'frame_inds'"),
        ([dict(type='mmcv.RandomChoice', transforms=[[LABELS]])], "needs 'ori_shape'"),
    ],
)
def test_steps_that_lack_a_key_of_the_sample_are_named(steps, words, workers):
    with pytest.raises(UserError, match=words):
        raise error_of(*steps, workers=workers)


def test_a_step_that_adds_the_key_itself_lacks_what_it_works_on():
    from mmcv.transforms import Resize

    with pytest.raises(KeyError) as caught:
        {}['scale_factor']
    assert hosts.explain_missing(caught.value) is None  # no step has raised it
    assert 'img' in hosts.pipelines._documented(Resize, 'Required')
    with pytest.raises(KeyError) as caught:
        images()  # the registry of mmdet
        hosts.pipelines.TRANSFORMS.build(RESIZE)({})
    with pytest.raises(UserError, match="Resize.* needs 'img'"):
        raise hosts.explain_missing(caught.value)


def test_bugs_of_steps_of_the_users_own_stay_bugs():
    assert error_of(LOAD, dict(type='mmswinv2.NeedsNumber')) is None


def test_samples_that_are_not_packed():
    from mmdet.models import DetDataPreprocessor

    with pytest.raises(KeyError) as caught:
        DetDataPreprocessor()(dict(img=[]))
    with pytest.raises(UserError, match='last step of the pipeline must be PackDetInputs or'):
        raise hosts.explain_missing(caught.value)


def test_samples_of_several_sizes():
    with pytest.raises(UserError, match='several sizes.*keep_ratio=False'):
        raise error_of(
            LOAD, dict(type='mmseg.PackSegInputs'), batch_size=2, collate=default_collate
        )


def test_annotations_that_no_step_loads():
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmengine.structures import InstanceData

    head = FCNMaskHead()
    with pytest.raises(AttributeError) as caught:
        head.get_targets([InstanceData()], [], None)
    assert hosts.explain_missing(caught.value) is None  # what the model itself has made
    with pytest.raises(AttributeError) as caught:
        head.get_targets([], [InstanceData()], None)
    with pytest.raises(UserError, match='needs masks of the samples.*with_mask'):
        raise hosts.explain_missing(caught.value)


FLIP = dict(type='mmdet.RandomFlip', prob=0.5)
MAPS = dict(type='mmseg.LoadAnnotations')


@pytest.mark.parametrize(
    'steps', [[RESIZE, LABELS], [FLIP, LABELS], [FLIP, MAPS], [FLIP, RESIZE, MAPS]]
)
def test_annotations_are_loaded_before_pixels_are_moved(steps):
    with pytest.raises(UserError, match=r'LoadAnnotations stands behind (Resize|RandomFlip) in'):
        hosts.check_dataset(images(LOAD, *steps, PACK), 'train_dataloader')


@pytest.mark.parametrize(
    'steps',
    [
        [LABELS, RESIZE, FLIP],
        [dict(type='mmdet.RandomFlip', prob=0.0), LABELS],
        [RESIZE, MAPS],  # label maps of the size of the result
        [dict(type='mmcv.RandomChoice', transforms=[[LOAD, LABELS, FLIP], [LOAD, LABELS]])],
    ],
)
def test_orders_that_are_right(steps):
    hosts.check_dataset(images(LOAD, *steps, PACK), 'train_dataloader')


def test_a_test_set_is_resized_before_its_annotations_are_loaded():
    hosts.check_dataset(images(LOAD, RESIZE, LABELS, PACK), 'val_dataloader')
