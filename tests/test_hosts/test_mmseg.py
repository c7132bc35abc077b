"""Invalid label maps are refused by name, in every pipeline of mmseg's data sets."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS, METRICS, MODELS, TRANSFORMS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor, SegTTAModel
from mmseg.models.losses import cross_entropy_loss
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image
from torch import nn

from mmswinv2.engine.launch import run
from mmswinv2.errors import UserError
from mmswinv2.hosts import check_data, check_dataset, check_evaluator
from mmswinv2.hosts.mmcv import name_unreadable_images
from mmswinv2.hosts.mmseg import check_heads
from mmswinv2.hosts.mmseg_label_maps import SegMapGuard, guard_seg_maps
from mmswinv2.hosts.mmseg_patches import (
    draw_label_maps,
    find_endings_in_capitals,
    gather_at_one_size,
    keep_files,
    mend_losses,
    merge_probabilities,
    pack_sizes,
    place_names,
)
from mmswinv2.swap import read_config
from tests.test_tools.conftest import ROOT

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
TTA = dict(
    type='TestTimeAug',
    transforms=[
        [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (0.5, 1.0)],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ],
)


@pytest.fixture
def ade(tmp_path):
    """Two images with their label maps, in ADE20K's layout and values: 0 to 150."""
    for kind in ('images', 'annotations'):
        (tmp_path / kind / 'training').mkdir(parents=True)
    labels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30) % 151
    for name in ('a', 'b'):
        image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
        image.save(tmp_path / f'images/training/{name}.jpg')
        Image.fromarray(labels).save(tmp_path / f'annotations/training/{name}.png')
    return tmp_path


def build(root, pipeline=LOAD, **kwargs):
    init_default_scope('mmseg')
    prefix = dict(img_path='images/training', seg_map_path='annotations/training')
    return DATASETS.build(
        dict(type='ADE20KDataset', data_root=str(root), data_prefix=prefix, pipeline=pipeline)
        | kwargs
    )


def refusal(root, **kwargs):
    dataset = build(root, **kwargs)
    guard_seg_maps(dataset)
    with pytest.raises(UserError) as error:
        dataset[0]
    return str(error.value)


def save(root, labels, name='a'):
    path = root / f'annotations/training/{name}.png'
    Image.fromarray(labels).save(path)
    return str(path)


def test_a_good_map_is_loaded_as_ever(ade):
    dataset = build(ade)
    plain = dataset[0]['gt_seg_map']
    assert plain.max() == 255 and sorted(np.unique(plain))[-2] == 149
    check_dataset(ConcatDataset([dataset]), 'train_dataloader')
    check_dataset(dataset, 'train_dataloader')
    (guard,) = [t for t in dataset.pipeline.transforms if isinstance(t, SegMapGuard)]
    assert guard.num_classes == 150 and not isinstance(guard.load, SegMapGuard)
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], plain)


def test_maps_that_are_missing(ade):
    path = ade / 'annotations/training/b.png'
    path.unlink()
    with pytest.raises(UserError, match=f'train.*1 of 2 images have no label map.*{path}.*png'):
        check_dataset(build(ade), 'train_dataloader')
    load = dict(LOAD[1], backend_args=dict(backend='local'))  # stands for one of a data base
    check_dataset(build(ade, [LOAD[0], load]), 'train_dataloader')


def test_a_map_that_vanishes_later(ade):
    dataset = build(ade)
    check_dataset(dataset, 'train_dataloader')
    (ade / 'annotations/training/a.png').unlink()
    with pytest.raises(UserError, match='cannot read the label map .*a.png: FileNotFoundError'):
        dataset[0]


@pytest.mark.parametrize('shape', [(20, 31), (30, 20), (2, 2)])
def test_a_map_of_another_size(ade, shape):
    path = save(ade, np.ones(shape, np.uint8))
    said = refusal(ade)
    assert f'the label map {path}: the image ' in said
    assert f'a.jpg has 30x20 pixels, and its annotations are for {shape[1]}x{shape[0]}' in said


def test_labels_beyond_the_classes(ade):
    labels = np.zeros((20, 30), np.uint8)
    labels[3, 4] = 151
    path = save(ade, labels)
    said = refusal(ade)
    assert path in said and 'label 151, which reduce_zero_label makes class 150' in said
    assert '150 classes; labels in the file must be 1 to 150, or 0' in said


def test_zero_label_that_is_not_reduced(ade):
    labels = np.zeros((20, 30), np.uint8)
    labels[0] = 150
    path = save(ade, labels)
    said = refusal(ade, reduce_zero_label=False)
    assert path in said and 'label 150' in said and 'set reduce_zero_label=True' in said


def test_a_map_with_colors(ade):
    path = save(ade, np.zeros((20, 30, 3), np.uint8))
    assert f'{path} has the shape (20, 30, 3); (height, width) is' in refusal(ade)


def test_a_damaged_map(ade):
    path = ade / 'annotations/training/a.png'
    path.write_bytes(path.read_bytes()[:80])
    assert f'cannot read the label map {path}' in refusal(ade)
    path.write_bytes(b'')
    assert f'cannot read the label map {path}' in refusal(ade)


def test_guards_inside_test_time_augmentation(ade):
    dataset = build(ade, pipeline=[LOAD[0], TTA])
    assert len(guard_seg_maps(dataset)) == 2  # one for each view
    save(ade, np.full((20, 30), 151, np.uint8))
    with pytest.raises(UserError, match='label 151'):
        dataset[0]


def test_custom_classes_are_chosen_out_of_all(ade):
    dataset = build(ade, metainfo=dict(classes=('wall', 'sky')))
    check_dataset(dataset, 'train_dataloader')
    assert set(np.unique(dataset[0]['gt_seg_map'])) == {0, 1, 255}
    save(ade, np.full((20, 30), 151, np.uint8))
    with pytest.raises(UserError, match='label 151.* 150 classes; labels in the file must be 1 to'):
        dataset[0]


def test_labels_of_more_than_8_bits(ade):
    labels = np.zeros((20, 30), np.uint16)
    save(ade, labels + 150)
    assert build(ade)[0]['gt_seg_map'].max() == 149
    path = save(ade, labels + 300)
    assert f'{path} has the label 300; a label has 8 bits' in refusal(ade)


def test_another_label_for_none(ade):
    for name in ('a', 'b'):
        save(ade, np.full((20, 30), 200, np.uint8), name)
    options = dict(type='BaseSegDataset', metainfo=dict(classes=('a', 'b')), img_suffix='.jpg',
                   seg_map_suffix='.png')  # fmt: skip
    dataset = build(ade, ignore_index=200, **options)
    check_dataset(dataset, 'train_dataloader')
    assert (dataset[0]['gt_seg_map'] == 200).all()
    assert 'label 200' in refusal(ade, **options)


def test_data_without_names_of_classes(ade):
    dataset = build(ade, type='BaseSegDataset', img_suffix='.jpg', seg_map_suffix='.png')
    check_dataset(dataset, 'train_dataloader')
    assert dataset[0]['gt_seg_map'].max() == 150
    save(ade, np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match='annotations are for 2x2'):
        dataset[0]


@pytest.mark.parametrize('suffix', ['.jpg', '.JPG'])
def test_endings_in_capitals_are_those_of_images_too(ade, suffix):
    """In folders; an ending with a part of the name, and a list, mean what they say."""
    find_endings_in_capitals.apply()
    for kind, old, new in (('images', 'b.jpg', 'A2.JPG'), ('annotations', 'b.png', 'A2.png')):
        (ade / kind / f'training/{old}').rename(ade / kind / f'training/{new}')
    dataset = build(ade, type='BaseSegDataset', img_suffix=suffix, seg_map_suffix='.png')
    check_dataset(dataset, 'train_dataloader')
    names = [[path.split('/')[-1] for path in (info['img_path'], info['seg_map_path'])]
             for info in map(dataset.get_data_info, range(len(dataset)))]  # fmt: skip
    assert names == [['A2.JPG', 'A2.png'], ['a.jpg', 'a.png']]
    assert dataset.img_suffix == suffix and len(build(ade, img_suffix='2.JPG')) == 1
    (ade / 'list.txt').write_text('a\n')
    assert len(build(ade, ann_file='list.txt', img_suffix=suffix)) == 1


def test_endings_without_letters_are_listed_once(ade):
    find_endings_in_capitals.apply()
    for name in 'ab':
        (ade / f'images/training/{name}.jpg').rename(ade / f'images/training/{name}.001')
    dataset = build(ade, type='BaseSegDataset', img_suffix='.001', seg_map_suffix='.png')
    assert len(dataset) == 2


def test_several_endings_of_images_without_labels(ade):
    find_endings_in_capitals.apply()
    (ade / 'images/training/b.jpg').rename(ade / 'images/training/b.png')
    folder, meta = dict(img_path='images/training'), dict(classes=('wall',))
    options = dict(type='BaseSegDataset', data_prefix=folder, metainfo=meta, test_mode=True)
    assert len(build(ade, **options, img_suffix=('.jpg', '.png'))) == 2


def test_pipelines_that_load_no_map_want_none(ade):
    (ade / 'annotations/training/a.png').unlink()
    dataset = build(ade, pipeline=LOAD[:1])
    check_dataset(dataset, 'test_dataloader')
    assert dataset[0]['img'].shape == (20, 30, 3)


def test_pipelines_that_load_maps_of_no_folder(ade):
    dataset = build(ade, data_prefix=dict(img_path='images/training'))
    words = 'test_dataloader: the pipeline has LoadAnnotations, and data_prefix .* no seg_map_path'
    with pytest.raises(UserError, match=words):
        check_dataset(dataset, 'test_dataloader')


@pytest.mark.parametrize('inside', [False, True])
def test_scores_want_pipelines_that_load_maps(ade, inside):
    def evaluator(**options):
        return SimpleNamespace(metrics=[METRICS.build(dict(type='IoUMetric', **options))])

    data = [build(ade), build(ade, pipeline=[TTA])]
    for dataset in data:
        check_evaluator(evaluator(), dataset, 'val_evaluator')
        check_dataset(dataset, 'val_dataloader')
        check_evaluator(evaluator(), dataset, 'val_evaluator')
    dataset = build(ade, pipeline=LOAD[:1])
    dataset = ConcatDataset([dataset, dataset]) if inside else dataset
    words = (
        'IoUMetric of test_evaluator compares .*, and the pipeline of test_dataloader loads none'
    )
    with pytest.raises(UserError, match=words):
        check_evaluator(evaluator(), dataset, 'test_evaluator')
    writes = evaluator(format_only=True, output_dir=str(ade / 'out'))
    check_evaluator(writes, data[0], 'test_evaluator')


def test_scores_of_classes_without_names(ade):
    metric = METRICS.build(dict(type='IoUMetric', format_only=True, output_dir=str(ade)))
    dataset = build(ade, type='BaseSegDataset')
    with pytest.raises(UserError, match='IoUMetric of val_evaluator needs metainfo=dict'):
        check_evaluator(SimpleNamespace(metrics=[metric]), dataset, 'val_evaluator')


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_batches_of_images_of_several_sizes():
    init_default_scope('mmseg')
    preprocessor = MODELS.build(dict(type='SegDataPreProcessor'))
    batch = dict(inputs=[torch.zeros(3, 20, width) for width in (30, 31)])
    with pytest.raises(UserError, match='size in a batch .* Set batch_size=1 in val_dataloader'):
        run(lambda: preprocessor(batch), Config(), ('val',))


def test_scores_that_mmseg_does_not_know(ade):
    def check(*names):
        metric = METRICS.build(dict(type='IoUMetric', iou_metrics=list(names)))
        check_evaluator(SimpleNamespace(metrics=[metric]), dataset, 'val_evaluator')

    dataset = build(ade)
    check('mIoU', 'mDice', 'mFscore')
    with pytest.raises(UserError, match=r"val_evaluator has iou_metrics=\['mAP'\]; it takes"):
        check('mAP')


@pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|seg)')
@pytest.mark.parametrize(
    ('test_cfg', 'words'),
    [
        (dict(mode='slide', crop_size=(32, 32), stride=(32, 32)), None),
        (
            dict(mode='slide', crop_size=(32, 32), stride=(33, 32)),
            r'stride=\(33, 32\); both .*pixe',
        ),
        (dict(mode='slide', crop_size=(32, 32), stride=16), 'both are'),
        (dict(mode='slide'), 'crop_size=None and stride=None; both are'),
        (dict(mode='sliding'), "mode='sliding', which is 'whole' or 'slide'"),
        (None, None),
    ],
)
def test_pieces_that_do_not_cover_an_image(ade, test_cfg, words):
    cfg = Config.fromfile(ROOT / 'configs/segmentation/swinv2-nano_upernet_ade20k-128x128.py')
    dataset = build(ade)
    cfg.model.test_cfg = test_cfg
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_dataset(dataset, 'val_dataloader', MODELS.build(cfg.model))


@pytest.mark.parametrize('shape', [(1, 30), (20, 1)])
def test_maps_one_pixel_wide(ade, shape):
    for name in ('a', 'b'):
        image = Image.fromarray(np.zeros((*shape, 3), np.uint8))
        image.save(ade / f'images/training/{name}.jpg')
        save(ade, np.ones(shape, np.uint8), name)
    dataset = build(ade)
    check_dataset(dataset, 'train_dataloader')
    assert np.array_equal(dataset[0]['gt_seg_map'], np.zeros(shape))


def test_inside_repeated_data(ade):
    dataset = RepeatDataset(build(ade), 2)
    check_dataset(dataset, 'train_dataloader')
    save(ade, np.full((20, 30), 151, np.uint8))
    with pytest.raises(UserError, match='label 151'):
        dataset[2]


@pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|seg)')
@pytest.mark.parametrize('few', ['decode_head', 'auxiliary_head'])
def test_heads_with_fewer_classes(ade, few):
    cfg = Config.fromfile(ROOT / 'configs/segmentation/swinv2-nano_upernet_ade20k-128x128.py')
    dataset = build(ade)
    check_dataset(dataset, 'val_dataloader', MODELS.build(cfg.model))
    cfg.model[few].num_classes = 19
    words = f'model.{few} has num_classes=19, and the data set of val_dataloader has 150 classes'
    for tta in (False, True):
        cfg.model = dict(type='SegTTAModel', module=cfg.model) if tta else cfg.model
        with pytest.raises(UserError, match=words):
            check_dataset(dataset, 'val_dataloader', MODELS.build(cfg.model))


@pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|seg)')
def test_heads_that_have_fewer_classes_on_purpose():
    """STDC's boundary head, and heads with one channel for two classes."""
    init_default_scope('mmseg')
    cfg = read_config('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py')
    cfg.model.backbone.init_cfg = cfg.model.backbone.backbone_cfg.init_cfg = None
    stdc = MODELS.build(cfg.model)
    assert {head.num_classes for head in stdc.auxiliary_head} == {2, 19}
    check_heads(stdc, 19, 'train_dataloader')
    head = dict(type='FCNHead', in_channels=8, channels=8, num_classes=2, out_channels=1,
                loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))  # fmt: skip
    binary = nn.ModuleDict(dict(decode_head=MODELS.build(head | dict(num_classes=1))))
    binary.decode_head = binary['decode_head']
    check_heads(binary, 2, 'train_dataloader')


@pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|seg)')
def test_labels_that_heads_and_metrics_do_not_ignore(ade):
    for name in ('a', 'b'):  # all pixels are labelled
        save(ade, np.arange(20 * 30).reshape(20, 30).astype(np.uint8) % 150 + 1, name)
    dataset = build(ade, ignore_index=200)
    head = dict(type='FCNHead', in_channels=8, channels=8, num_classes=150)
    words = 'the data set of {} has ignore_index=200, and {} 255: .*; set ignore_index=200'
    for own, told in ((255, True), (200, False)):
        model = nn.Module()
        model.decode_head = MODELS.build(head | dict(ignore_index=own))
        metric = METRICS.build(dict(type='IoUMetric', ignore_index=own))
        evaluator = SimpleNamespace(metrics=[metric])
        if told:
            with pytest.raises(
                UserError, match=words.format('train_dataloader', 'model.decode_head')
            ):
                check_dataset(dataset, 'train_dataloader', model)
            with pytest.raises(
                UserError, match=words.format('val_dataloader', 'IoUMetric of val_evaluator')
            ):
                check_evaluator(evaluator, dataset, 'val_evaluator')
        else:
            check_dataset(dataset, 'train_dataloader', model)
            check_evaluator(evaluator, dataset, 'val_evaluator')
    # a head ignores labels in training alone, and who writes files scores none
    model.decode_head = MODELS.build(head)
    check_dataset(dataset, 'val_dataloader', model)
    writes = METRICS.build(dict(type='IoUMetric', format_only=True, output_dir=str(ade / 'out')))
    check_evaluator(SimpleNamespace(metrics=[writes]), dataset, 'test_evaluator')
    # a head may ignore a class, as those of HSI Drive do
    model.decode_head = MODELS.build(head | dict(ignore_index=0))
    check_dataset(build(ade), 'train_dataloader', model)


@pytest.mark.filterwarnings('ignore::UserWarning:mm(engine|seg)')
def test_unlabelled_pixels_where_another_label_is_ignored(ade, monkeypatch):
    model, head = nn.Module(), dict(type='FCNHead', in_channels=8, channels=8, num_classes=150)
    init_default_scope('mmseg')
    model.decode_head = MODELS.build(head | dict(ignore_index=0))
    dataset, seen = build(ade), []
    check_dataset(dataset, 'train_dataloader', model)
    save(ade, np.full((20, 30), 3, np.uint8))
    assert (dataset[0]['gt_seg_map'] == 2).all()
    words = r'/b.png has pixels .* \(255\), and model.decode_head ignores 0 alone; set its .*=255$'
    with pytest.raises(UserError, match=words):
        dataset[1]
    # what a step of the user's own makes of them is not known
    dataset = build(ade, pipeline=[*LOAD, lambda results: results])
    check_dataset(dataset, 'train_dataloader', model)
    assert (dataset[1]['gt_seg_map'] == 255).any()
    # scores are still of use
    monkeypatch.setattr('mmswinv2.hosts.mmseg.warn', seen.append)
    metric = METRICS.build(dict(type='IoUMetric', ignore_index=0))
    check_evaluator(SimpleNamespace(metrics=[metric]), dataset, 'val_evaluator')
    assert [text.split(':')[0] for text in seen] == ['IoUMetric of val_evaluator ignores 0 alone']


@pytest.mark.filterwarnings('ignore::UserWarning:mmengine')
def test_255_may_be_a_class():
    guard = SegMapGuard(TRANSFORMS.build(dict(type='LoadAnnotations')), 300, 65535)
    guard.ignores = 'a head ignores 65535 alone'
    guard._check_labels('a.png', np.full((2, 2), 255), {})
    guard.num_classes = 150
    with pytest.raises(UserError, match='set its ignore_index=255, and that of the data set too'):
        guard._check_labels('a.png', np.full((2, 2), 255), {})


@pytest.mark.filterwarnings('ignore::UserWarning:mmengine')
def test_label_maps_that_are_loaded_otherwise(ade):
    """By another transform, or from places that the data set itself gives."""

    class Load:
        def __call__(self, results):
            return results | dict(gt_seg_map=np.zeros((20, 30), np.uint8))

    init_default_scope('mmseg')
    evaluator = SimpleNamespace(metrics=[METRICS.build(dict(type='IoUMetric'))])
    check_evaluator(evaluator, build(ade, pipeline=[LOAD[0], Load()]), 'val_evaluator')
    dataset = build(ade, data_prefix=dict(img_path='images/training'))
    paths = [str(ade / f'annotations/training/{name}.png') for name in 'ab']
    with pytest.raises(UserError, match='data_prefix of the data set no seg_map_path'):
        check_dataset(dataset, 'train_dataloader')

    class Pairs(type(dataset)):
        def get_data_info(self, idx):
            return super().get_data_info(idx) | dict(seg_map_path=paths[idx])

    dataset.__class__ = Pairs
    check_dataset(dataset, 'train_dataloader')
    assert dataset[1]['gt_seg_map'].shape == (20, 30)


@pytest.mark.filterwarnings(
    'ignore:Default ``avg_non_ignore`` is False:UserWarning',
    'ignore:``build_loss`` would be deprecated:UserWarning',  # mmseg 1.2's own head calls it
)
@pytest.mark.parametrize('several', [False, True])
def test_weights_of_other_classes(several):
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 1.0, 1.0, 1.0])
    losses = [loss, dict(loss, loss_name='loss_b')] if several else loss
    head = dict(type='FCNHead', in_channels=8, channels=8, num_classes=3, loss_decode=losses)
    init_default_scope('mmseg')
    model = nn.Module()
    model.decode_head = MODELS.build(head)
    with pytest.raises(UserError, match='num_classes=3, and class_weight of .* 5 numbers; give'):
        check_heads(model, 3, 'train_dataloader')
    model.decode_head = MODELS.build(head | dict(num_classes=5))
    check_heads(model, 5, 'train_dataloader')


CE, FOCAL = dict(type='CrossEntropyLoss', avg_non_ignore=True), dict(type='FocalLoss')


def head_loss(loss, channels, logits, labels):
    """The loss of a head with these channels for one image, (C, H, W), and its gradient."""
    init_default_scope('mmseg')
    mend_losses.apply()
    settings = dict(in_channels=channels, channels=8, num_classes=max(channels, 2))
    head = dict(type='FCNHead', out_channels=channels, threshold=0.5, loss_decode=loss)
    head = MODELS.build(head | settings)
    logits = logits[None].requires_grad_()
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels[None]))
    (value,) = [v for k, v in head.loss_by_feat(logits, [sample]).items() if 'loss' in k]
    return value, torch.autograd.grad(value, logits)[0][0]


@pytest.mark.filterwarnings('ignore::UserWarning:mmseg')
@pytest.mark.parametrize('kind', [dict(type='DiceLoss'), FOCAL, CE | dict(use_sigmoid=True)],
                         ids=lambda kind: kind['type'])  # fmt: skip
def test_one_channel_learns_the_second_class(kind):
    labels = torch.tensor([[0, 1, 1, 0]])
    _, gradient = head_loss(kind, 1, torch.zeros(1, 1, 4), labels)
    assert ((gradient[0] < 0) == (labels == 1)).all()  # a step makes these scores larger


@pytest.mark.filterwarnings('ignore::UserWarning:mmseg')
@pytest.mark.parametrize('average', [False, True])
def test_weights_of_classes_beside_ignored_pixels(average):
    logits, weights = torch.randn(3, 4, 4), [1.0, 2.0, 5.0]
    labels = torch.arange(16).reshape(4, 4) % 3
    labels[0] = 255
    loss = CE | dict(avg_non_ignore=average, class_weight=weights)
    value, _ = head_loss(loss, 3, logits, labels)
    known = torch.nn.functional.cross_entropy(
        logits[None], labels[None], torch.tensor(weights), ignore_index=255
    )
    torch.testing.assert_close(value, known)


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_weights_of_a_single_channel():
    loss = CE | dict(use_sigmoid=True, class_weight=[5.0])
    settings = dict(type='FCNHead', in_channels=1, channels=1, num_classes=2, out_channels=1)
    init_default_scope('mmseg')
    model = nn.Module()
    model.decode_head = MODELS.build(settings | dict(loss_decode=loss))
    check_heads(model, 2, 'train_dataloader')
    model.decode_head = MODELS.build(settings | dict(loss_decode=loss | dict(class_weight=[1, 5])))
    with pytest.raises(UserError, match='class_weight of its loss_decode 2 .* that of the second'):
        check_heads(model, 2, 'train_dataloader')


@pytest.mark.filterwarnings('ignore::UserWarning:mmseg')
@pytest.mark.parametrize('channels', [1, 3])
def test_weights_beside_sigmoid(channels):
    weights, labels = [2.0, 3.0, 5.0][:channels], torch.tensor([[0, 1, 0], [1, 0, 255]])
    loss = CE | dict(use_sigmoid=True, class_weight=weights)
    value, _ = head_loss(loss, channels, torch.zeros(channels, 2, 3), labels)
    classes = torch.arange(channels) if channels > 1 else torch.tensor([1])
    hits = (labels.flatten()[:5] == classes[:, None]).float()
    known = (1 + hits * (torch.tensor(weights)[:, None] - 1)) * np.log(2)
    torch.testing.assert_close(value, known.mean())


@pytest.mark.filterwarnings('ignore::UserWarning:mmseg')
def test_images_without_a_label_beside_sigmoid():
    labels = torch.full((2, 4), 255)
    value, gradient = head_loss(CE | dict(use_sigmoid=True), 1, torch.ones(1, 2, 4), labels)
    assert value == 0 and not gradient.any()
    scores, label = torch.zeros(1, 2), torch.tensor([1])
    loss = cross_entropy_loss.binary_cross_entropy(scores, label, None, 'sum')
    torch.testing.assert_close(float(loss), 2 * math.log(2))


def test_names_stand_in_the_middle_of_the_first_of_the_longest_rows():
    place_names.apply()
    draw = np.random.default_rng(0)
    for _ in range(50):
        mask = (draw.random(draw.integers(1, 9, 2)) < draw.random()).astype(np.uint8)
        pixels = [(y, x) for y, x in np.ndindex(mask.shape) if mask[y, x]]
        if pixels:
            rows = [[x for y, x in pixels if y == row] for row in range(len(mask))]
            longest = max(range(len(mask)), key=lambda row: len(rows[row]))
            place = rows[longest][len(rows[longest]) // 2], longest
            assert tuple(SegLocalVisualizer()._get_center_loc(mask)) == place


def test_maps_of_numpy_are_drawn_too():
    draw_label_maps.apply()
    image = np.full((16, 16, 3), 200, np.uint8)
    for of in (np.full, torch.full):
        labels = PixelData(data=of((1, 16, 16), 255))
        assert (SegLocalVisualizer()._draw_sem_seg(image, labels, ['a'], [(0, 0, 9)]) == 200).all()


def test_ocr_takes_scores_of_another_size():
    from mmseg.models.decode_heads.ocr_head import SpatialGatherModule

    gather_at_one_size.apply()
    feats, scores = torch.rand(2, 8, 3, 5), torch.rand(2, 4, 6, 10)
    shares = torch.nn.functional.avg_pool2d(scores, 2).flatten(2).softmax(2)
    regions = torch.einsum('bkn,bcn->bck', shares, feats.flatten(2))[..., None]
    torch.testing.assert_close(SpatialGatherModule(1)(feats, scores), regions)


def test_merged_views_of_a_single_channel():
    head = SimpleNamespace(threshold=0.5)
    wrapper = SimpleNamespace(module=SimpleNamespace(out_channels=1, decode_head=head))
    merge_probabilities.apply()
    views = [
        SegDataSample(
            seg_logits=PixelData(data=torch.tensor([row])[..., None]), metainfo=dict(img_path='')
        )
        for row in ([0.1, 0.6, 0.8], [0.2, 0.1, 0.9])
    ]
    (merged,) = SegTTAModel.merge_preds(wrapper, [views])
    assert merged.pred_sem_seg.data.flatten().tolist() == [0, 0, 1]


def test_samples_have_what_a_prediction_needs_whatever_is_packed():
    """Without ``flip`` scores would stay flipped, without ``ori_shape`` they have no size."""
    pack_sizes.apply()
    pack = TRANSFORMS.build(dict(type='mmseg.PackSegInputs', meta_keys=('img_path',)))
    known = dict(ori_shape=(4, 6), img_shape=(4, 6), flip=True, flip_direction='horizontal')
    sample = pack(dict(img=np.zeros((4, 6, 3), np.uint8), img_path='a.png', **known))
    sample = sample['data_samples']
    assert sample.metainfo == dict(img_path='a.png', **known)
    scores = torch.eye(2)[None, :, :, None].expand(1, 2, 2, 6) * torch.arange(6)
    model = SimpleNamespace(align_corners=False)
    (found,) = BaseSegmentor.postprocess_result(model, scores, [sample])
    assert found.seg_logits.data[0, 0].tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.filterwarnings('ignore::UserWarning:mmseg')
@pytest.mark.parametrize('channels', [1, 3])
def test_focal_loss_on_a_cpu(channels):
    logits, labels = torch.randn(channels, 2, 4), torch.arange(8).reshape(2, 4) % max(channels, 2)
    labels[0, 0] = 255
    value, gradient = head_loss(FOCAL | dict(alpha=0.25), channels, logits, labels)
    classes = torch.arange(channels) if channels > 1 else torch.tensor([1])
    truth = (labels == classes[:, None, None]).float()
    right = torch.where(truth == 1, logits, -logits).sigmoid()
    known = -torch.where(truth == 1, 0.25, 0.75) * (1 - right) ** 2 * right.log()
    known[:, 0, 0] = 0
    torch.testing.assert_close(value, known.mean())
    assert not gradient[:, 0, 0].any()
    loss = MODELS.build(dict(type='FocalLoss', alpha=0.25))
    weighted = loss(logits[None].detach(), labels[None], torch.full((1, 2, 4), 2.0))
    torch.testing.assert_close(weighted, 2 * known.mean())


@pytest.mark.filterwarnings('ignore:`reduce_zero_label` will be deprecated:UserWarning')
def test_zero_labels_are_reduced_by_the_data_set(ade):
    step = dict(type='LoadAnnotations', reduce_zero_label=True)
    with pytest.raises(UserError, match='reduce_zero_label=True, and its data set False; set it'):
        guard_seg_maps(build(ade, [LOAD[0], step], reduce_zero_label=False))
    guard_seg_maps(build(ade, [LOAD[0], step], reduce_zero_label=True))


@pytest.mark.parametrize('held', [False, True])
def test_folders_that_cityscapes_scores_delete(tmp_path, monkeypatch, held):
    init_default_scope('mmseg')
    keep_files.apply()
    from mmseg.evaluation.metrics import citys_metric

    monkeypatch.setattr(citys_metric, 'CSEval', True)  # no cityscapesscripts are needed for this
    if held:
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out/best.pth').touch()
    metric = METRICS.build(dict(type='CityscapesMetric', output_dir=str(tmp_path / 'out')))
    assert metric.keep_results is held
    del metric
    assert (tmp_path / 'out').exists() is held


RESIZE = dict(type='Resize', scale=(60, 40))


@pytest.mark.parametrize('steps', [[RESIZE], [dict(RESIZE, scale=(30, 20))], []])
@pytest.mark.parametrize('inside', [0, 1, 2])
def test_label_maps_that_are_resized_before_scores(ade, steps, inside):
    *before, pack = [*LOAD, *steps, dict(type='PackSegInputs')]
    if inside:  # the steps of TestTimeAug
        lists = [[step] for step in (*before[inside:], pack)]
        before, pack = before[:inside], dict(type='TestTimeAug', transforms=lists)
    pipeline = [*before, pack]
    dataset = build(ade, pipeline=pipeline)
    evaluator = SimpleNamespace(metrics=[METRICS.build(dict(type='IoUMetric'))])
    check_dataset(dataset, 'val_dataloader')
    if steps == [RESIZE]:
        with pytest.raises(UserError, match='val_dataloader resizes these; put LoadAnnotations'):
            check_evaluator(evaluator, dataset, 'val_evaluator')
    else:
        check_evaluator(evaluator, dataset, 'val_evaluator')


def test_maps_that_are_loaded_before_their_images(ade):
    dataset = build(ade, pipeline=LOAD[::-1])
    guard_seg_maps(dataset)
    name_unreadable_images.apply()
    assert dataset[0]['gt_seg_map'].shape == (20, 30)
    save(ade, np.ones((20, 31), np.uint8))
    with pytest.raises(
        UserError, match='a.jpg has 30x20 pixels, and its annotations are for 31x20'
    ):
        dataset[0]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(data_prefix=dict(img='images')), 'img_path=..., seg_map_path=...'),
        (dict(data_prefix='images'), "data_prefix='images', and mmseg wants dict"),
        (
            dict(ann_file='blank.txt'),
            "blank.txt, line 2: a line is the name of an image .*, got ''",
        ),
        (dict(ann_file='mark.txt'), 'mark.txt begins with a byte order mark'),
        (dict(ann_file='wide.txt'), 'wide.txt, line 1: the byte 0xff is none of a text in UTF-8'),
        (dict(type='NYUDataset', data_prefix=dict(depth_map_path='annotations')), None),
        (dict(ann_file='good.txt'), None),
        (dict(img_suffix=('.jpg', '.png')), r"img_suffix=\('.jpg', '.png'\) is no text .*Concat"),
        (dict(seg_map_suffix=['.png']), 'seg_map_suffix'),
    ],
)
def test_settings_that_mmseg_cannot_read(ade, options, words):
    for name, content in dict(
        good=b'a\r\nb\n', blank=b'a\n\nb\n', mark=b'\xef\xbb\xbfa\n', wide='a\n'.encode('utf-16')
    ).items():
        (ade / f'{name}.txt').write_bytes(content)
    dataset = dict(type='BaseSegDataset', data_root=str(ade)) | options
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
    init_default_scope('mmseg')
    with pytest.raises(UserError, match=words) if words else nullcontext():
        check_data(cfg, ('train',))
