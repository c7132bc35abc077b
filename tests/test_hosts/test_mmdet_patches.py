import copy
import importlib
import itertools
import json
import random
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from mmswinv2 import hosts
from mmswinv2.checkpoints import read_checkpoint
from mmswinv2.errors import UserError
from mmswinv2.hosts.mmdet_metrics import check_scored
from tests.test_tools.conftest import ROOT


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
@pytest.mark.filterwarnings('ignore::UserWarning:mmdet')
@pytest.mark.parametrize('name', ['mask-rcnn_swinv2-nano_shapes', 'htc++_swinv2-nano_shapes'])
def test_detectors_in_bfloat16(name):
    """Losses and boxes are near those of float32; mmcv's NMS, soft-NMS and RoIAlign run."""
    cfg = Config.fromfile(ROOT / f'configs/detection/{name}.py')
    host = hosts.of(cfg)
    host.apply()
    with DefaultScope.overwrite_default_scope(host.name):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        batch = hosts.sample_batch(cfg, (160, 192), 1)

        def losses(half):
            torch.manual_seed(1)
            with torch.autocast('cpu', torch.bfloat16, enabled=half):
                data = model.data_preprocessor(copy.deepcopy(batch), True)
                loss, values = model.parse_losses(model(**data, mode='loss'))
            loss.backward()
            return {key: value.detach() for key, value in values.items()}

        exact, near = losses(False), losses(True)
        for key in ('loss_rpn_cls', 'loss_rpn_bbox'):  # losses before regions are sampled by score
            assert near[key].item() == pytest.approx(exact[key].item(), rel=0.02)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

        def boxes(half):
            with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=half):
                (found,) = model.eval().test_step(copy.deepcopy(batch))
            return found.pred_instances.bboxes

        exact, near = boxes(False), boxes(True)
        assert near.dtype == torch.float32 and len(exact) > 2
        distances = (near[None] - exact[:3, None]).abs().amax(-1).amin(-1)
        assert distances.max() < 2


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
def test_anchors_in_bfloat16():
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.models.task_modules import AnchorGenerator, MlvlPointGenerator

    for priors in (
        AnchorGenerator(strides=[4], ratios=[1.0], scales=[8]),
        MlvlPointGenerator(strides=[4]),
    ):
        exact, near = (
            priors.grid_priors([(200, 336)], dtype=dtype, device='cpu')[0]
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert torch.equal(exact, near)


@pytest.mark.parametrize('key', ['gt_masks', 'gt_seg_map'])
@pytest.mark.parametrize(
    'name', ['Mosaic', 'MixUp', 'RandomShift', 'RandomAffine', 'CachedMosaic', 'CachedMixUp']
)
def test_masks_that_stay_where_their_boxes_were(name, key):
    from mmdet.datasets import transforms

    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    transform = getattr(transforms, name)()
    if key == 'gt_masks' and 'Cached' in name:
        sample = dict(gt_masks=1, mix_results=[])  # is not refused
        assert transform(sample) is sample
        return
    with pytest.raises(UserError, match=f'{name} moves boxes and leaves {key} where they are'):
        transform({key: 1, 'mix_results': []})


def test_transforms_of_ones_own_around_those_of_mmdet():
    from mmdet.datasets import transforms

    hosts.of(Config(dict(default_scope='mmdet'))).apply()

    class MyCached(transforms.CachedMosaic):
        pass

    class MovesMasks(transforms.RandomShift):
        def transform(self, results):
            return super().transform(results)

    sample = dict(gt_masks=1, mix_results=[])
    assert MyCached()(sample) is sample
    assert MovesMasks(prob=0)(sample) is sample


@pytest.mark.parametrize('kind', ['BitmapMasks', 'PolygonMasks'])
@pytest.mark.parametrize('ratios', [(1, 1), (0.6, 0.9), (1.2, 1.5)])
def test_masks_of_mixed_images(kind, ratios):
    """A white object on a black image, mixed into black ones: its mask is what is not black."""
    from mmdet.datasets.transforms import CachedMixUp
    from mmdet.structures import mask
    from mmdet.structures.bbox import HorizontalBoxes

    hosts.of(Config(dict(default_scope='mmdet'))).apply()

    def sample(height, width, *box):
        image = np.zeros((height, width, 3), np.uint8)
        x1, y1, x2, y2 = box or (0, 0, 0, 0)
        image[y1:y2, x1:x2] = 255
        if kind == 'BitmapMasks':
            masks = mask.BitmapMasks(image[None, ..., 0][: len(box)] // 255, height, width)
        else:
            corners = [np.array([x1, y1, x2, y1, x2, y2, x1, y2], float)]
            masks = mask.PolygonMasks([corners][: len(box)], height, width)
        number = len(box) // 4
        boxes = HorizontalBoxes(torch.tensor(box).reshape(number, 4).float())
        return dict(img=image, gt_bboxes=boxes, gt_masks=masks, gt_bboxes_labels=np.ones(number),
                    gt_ignore_flags=np.zeros(number, bool))  # fmt: skip

    seen = 0
    for seed in range(30):
        np.random.seed(seed)
        random.seed(seed)
        mix = CachedMixUp((200, 160), ratios, pad_val=0, flip_ratio=0.5, prob=1.0)
        height, width = np.random.randint(120, 240, 2)
        mix(sample(height, width, 20, 30, 60, 80))
        for _ in range(4):
            mixed = mix(sample(150, 210))
            visible = mixed['img'][..., 0] > 60
            if not len(mixed['gt_bboxes']) or visible.sum() < 400:
                continue
            found = mixed['gt_masks'].to_ndarray()[0] > 0
            assert (visible & found).sum() > 0.7 * (visible | found).sum()
            seen += 1
    assert seen > 20


@pytest.mark.parametrize('kind', ['BitmapMasks', 'PolygonMasks'])
def test_masks_of_batches_of_random_size(kind):
    """White rectangles on black images: masks and maps are what is white in the resized batch."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmdet.structures import DetDataSample, mask
    from mmengine.structures import InstanceData, PixelData

    hosts.of(Config(dict(default_scope='mmdet'))).apply()

    def preprocessor():
        resize = dict(type='BatchSyncRandomResize', random_size_range=(32, 128), interval=2)
        with DefaultScope.overwrite_default_scope('mmdet'):
            return DetDataPreprocessor(
                pad_size_divisor=32, pad_mask=True, pad_seg=True, batch_augments=[resize]
            )

    def sample():
        left, top = np.random.randint(0, 30, 2)
        image = torch.zeros(3, 60, 90)
        image[:, top : top + 25, left : left + 40] = 1
        bitmap = image[:1].byte().numpy()
        masks = mask.BitmapMasks(bitmap, 60, 90)
        if kind == 'PolygonMasks':
            x, y = left, top
            corners = np.array([x, y, x + 40, y, x + 40, y + 25, x, y + 25], float)
            masks = mask.PolygonMasks([[corners]], 60, 90)
        made = DetDataSample(metainfo=dict(img_shape=(60, 90)))
        boxes = torch.tensor([[left, top, left + 40, top + 25]]).float()
        made.gt_instances = InstanceData(bboxes=boxes, masks=masks)
        made.gt_sem_seg = PixelData(sem_seg=image[:1].long())
        return dict(inputs=[image], data_samples=[made])

    sizes, state = [], None
    for number in range(12):
        if number % 3 == 0:  # as a new process that has resumed its message hub
            hub = MessageHub.get_instance(f'random-sizes-{kind}-{number}')
            if state:
                hub.load_state_dict(state)
            model = preprocessor()
        hub.update_info('iter', number)
        random.seed(number)
        batch = model(sample(), training=True)
        state = hub.state_dict()
        (found,) = batch['data_samples']
        sizes.append(tuple(batch['inputs'].shape[2:]))
        white = batch['inputs'][0, 0] > 0.5
        masks = torch.from_numpy(found.gt_instances.masks.to_ndarray()[0]) > 0
        assert masks.shape == white.shape == found.gt_sem_seg.sem_seg.shape[1:]
        for seen in (masks, found.gt_sem_seg.sem_seg[0] == 1):
            assert (seen & white).sum() > 0.85 * (seen | white).sum()
    assert sizes[::2] == sizes[1::2]  # drawn in every second iteration
    assert len(set(sizes)) == 3


def test_images_of_two_sizes_for_copy_paste():
    from mmdet.datasets.transforms import CopyPaste

    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    samples = [
        dict(img=np.zeros((size, 8, 3)), gt_bboxes=[1], gt_bboxes_labels=[1], gt_masks=[1])
        for size in (8, 9)
    ]
    with pytest.raises(UserError, match=r'images of one size, got \(8, 8\) and \(9, 8\)'):
        CopyPaste()._copy_paste(*samples)


def test_copy_paste_moves_semantic_maps():
    from mmdet.datasets.transforms import CopyPaste
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    hosts.of(Config(dict(default_scope='mmdet'))).apply()

    def sample(value, x):
        mask = np.zeros((1, 8, 8), np.uint8)
        mask[:, 2:6, x : x + 3] = 1
        return dict(
            img=np.full((8, 8, 3), value, np.uint8),
            gt_bboxes=HorizontalBoxes([[x, 2, x + 3, 6]]),
            gt_bboxes_labels=np.array([value]),
            gt_ignore_flags=np.zeros(1, bool),
            gt_masks=BitmapMasks(mask, 8, 8),
            gt_seg_map=np.full((8, 8), value, np.uint8),
        )

    found = CopyPaste(selected=False)(sample(3, 0) | dict(mix_results=[sample(7, 4)]))
    assert (found['gt_seg_map'] == found['img'][..., 0]).all()
    assert (found['gt_seg_map'] == 7).sum() == 12


@pytest.mark.parametrize('order', [(2, 5, 7), (5, 7, 2)])
@pytest.mark.parametrize('name', ['CocoMetric', 'FasterCocoMetric'])
def test_recalls_of_proposals(tmp_path, name, order):
    """Images have several numbers of objects; file, data set and predictions have own orders."""
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.evaluation import metrics

    if not hasattr(metrics, name):
        pytest.skip('of the maintained fork')
    objects = {7: [[0, 0, 10, 10], [20, 20, 10, 10]], 2: [[5, 5, 10, 10]], 5: []}
    boxes = [(image, box) for image, found in objects.items() for box in found]
    annotations = [
        dict(id=i, image_id=image, category_id=1, bbox=box, area=100, iscrowd=0)
        for i, (image, box) in enumerate(boxes, start=1)
    ]
    images = [dict(id=i, file_name=f'{i}.jpg', width=40, height=40) for i in objects]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='a')])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    metric = getattr(metrics, name)(
        ann_file=str(tmp_path / 'a.json'), metric='proposal_fast', proposal_nums=(1, 3)
    )
    metric.dataset_meta = dict(classes=('a',))
    infos = {i: dict(img_id=i, img_path=f'{i}.jpg') for i in (2, 5, 7)}
    check_scored(metric, infos, metric._coco_api, ('a',), 'val_evaluator')
    found = {2: [[0, 0, 9, 9], [5, 5, 15, 15]], 5: [[0, 0, 5, 5]], 7: [[0, 0, 10, 10]]}
    for image in order:
        proposed = torch.tensor(found[image], dtype=torch.float32)
        results = dict(bboxes=proposed, scores=torch.ones(len(proposed)).cumsum(0).flip(0))
        results['labels'] = torch.zeros(len(proposed), dtype=torch.long)
        metric.process({}, [dict(img_id=image, ori_shape=(40, 40), pred_instances=results)])
    scores = metric.evaluate(3)
    assert scores['coco/AR@1'] == pytest.approx(1 / 3)
    assert scores['coco/AR@3'] == pytest.approx(2 / 3)


def test_recalls_of_a_detector_are_of_the_boxes_of_all_classes():
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.evaluation import VOCMetric

    metric = VOCMetric(metric='recall', proposal_nums=(1, 2))
    metric.dataset_meta = dict(classes=('a', 'b'))
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    truth, found = (dict(bboxes=boxes, labels=torch.tensor([0, 1])) for _ in range(2))
    found['scores'] = torch.tensor([0.3, 0.9])
    ignored = dict(bboxes=boxes[:0], labels=truth['labels'][:0])
    sample = dict(gt_instances=truth, ignored_instances=ignored, pred_instances=found)
    metric.process({}, [sample])
    scores = metric.evaluate(1)
    assert scores['pascal_voc/recall@1@0.5'] == 0.5 and scores['pascal_voc/recall@2@0.5'] == 1


def test_scores_of_classes_that_a_detector_has_not_seen(tmp_path):
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.evaluation.metrics import OVCocoMetric

    box = dict(bbox=[1, 2, 30, 30], area=900, iscrowd=0, image_id=1)
    content = dict(
        images=[dict(id=1, file_name='1.png', width=96, height=64)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[box | dict(id=i, category_id=i) for i in (1, 2)],
    )
    (tmp_path / 'list.json').write_text(json.dumps(content))
    metric = OVCocoMetric(str(tmp_path / 'list.json'))
    parts = dict(base_classes=('cat',), novel_classes=('dog',))
    metric.dataset_meta = dict(classes=('cat', 'dog'), **parts)
    found = dict(bboxes=torch.tensor([[1.0, 2, 31, 32]]), labels=torch.tensor([1]))
    found['scores'] = torch.ones(1)
    metric.process({}, [dict(img_id=1, ori_shape=(64, 96), pred_instances=found)])
    scores = metric.evaluate(1)
    assert [scores[f'coco/{part}_ap50'] for part in ('base', 'novel')] == pytest.approx([0, 1])


@pytest.mark.parametrize('name', ['VOCMetric', 'OpenImagesMetric'])
def test_every_iou_threshold_has_a_score(name):
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.evaluation import metrics

    thresholds = [0.05, 0.57, 0.58, 0.585]
    options = dict(ioa_thrs=[0.5] * 4) if 'Open' in name else {}
    metric = getattr(metrics, name)(thresholds, **options)
    metric.dataset_meta = dict(classes=('cat',), dataset_type='oid_v6')
    # of the IoU 0.575, also with the width 99 + 1 of Pascal VOC
    truth = dict(bboxes=np.array([[0, 0, 99, 1e5]]), labels=np.array([0]))
    found = np.array([[0, 0, 99, 0.575e5, 0.9]])
    truth |= dict(bboxes_ignore=np.zeros((0, 4)), labels_ignore=np.zeros(0, int))
    truth['gt_is_group_ofs'] = np.array([False])
    scores = metric.compute_metrics([(truth, [found])])
    assert scores == {'mAP': 0.5, 'AP05': 1, 'AP57': 1, 'AP58': 0, 'AP58.5': 0}
    assert metric.iou_thrs == thresholds


@pytest.mark.filterwarnings('ignore:.(dropout|add_residual). is deprecated:DeprecationWarning')
@pytest.mark.parametrize('sigmoid', [True, False, None])
def test_detectors_with_few_queries(sigmoid):
    """All scores are there, in order, where ``max_per_img`` asks for more; else as many as it."""
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.models import DETRHead, MaskFormerFusionHead

    scores = torch.tensor([[1.0, 3], [2, 5]])
    for most in (1, 9):
        if sigmoid is None:
            head = MaskFormerFusionHead(1, 0, test_cfg=dict(max_per_image=most))
            masks = head.instance_postprocess(scores, torch.full((2, 4, 4), 99.0))
            found = masks.scores.sort(descending=True)[0]
            known = scores.softmax(1)[:, 0]
        else:
            loss = dict(type='FocalLoss' if sigmoid else 'CrossEntropyLoss', use_sigmoid=sigmoid)
            with DefaultScope.overwrite_default_scope('mmdet'):
                head = DETRHead(
                    2 if sigmoid else 1, loss_cls=loss, train_cfg=None,
                    test_cfg=ConfigDict(max_per_img=most),
                )  # fmt: skip
            boxes, meta = torch.rand(2, 4), dict(img_shape=(8, 8))
            found = head._predict_by_feat_single(scores, boxes, meta, False).scores
            known = scores.sigmoid() if sigmoid else scores.softmax(1)[:, 0]
        torch.testing.assert_close(found, known.flatten().sort(descending=True)[0][:most])
        assert list(head.test_cfg.values()) == [most]  # for images with more queries, as of DDQ


class Sizes(BaseDataset):
    """Images of some widths, all 10 high, without files."""

    def __init__(self, *widths):
        self.widths = widths
        super().__init__(serialize_data=False)

    def load_data_list(self):
        return [dict(width=width, height=10) for width in self.widths]


@pytest.mark.parametrize(
    ('kind', 'sources', 'batch_size', 'ratio', 'reason'),
    [
        ('MultiSourceSampler', [(5,), (20,)], 2, [4, 1], 'takes [2, 0] images'),
        ('MultiSourceSampler', [(5,), (20,)], 3, [1, 0], 'takes [3, 0] images'),
        ('MultiSourceSampler', [(5,), (20,)], 5, [4, 1], None),
        ('GroupMultiSourceSampler', [(5, 20), (20,)], 2, [1, 1], 'that are higher than wide'),
        ('GroupMultiSourceSampler', [(5,), (5, 10)], 2, [1, 1], 'at least as wide as high'),
        ('GroupMultiSourceSampler', [(5, 20), (20,)], 2, [2, 1], 'takes [2, 0] images'),
        ('GroupMultiSourceSampler', [(5, 20, 9), (10, 5)], 2, [1, 1], None),
        ('GroupMultiSourceSampler', [(5,), (5,)], 2, [1, 1], None),
    ],
)
def test_sources_that_give_no_images_are_refused(kind, sources, batch_size, ratio, reason):
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.datasets import samplers

    both = ConcatDataset([Sizes(*widths) for widths in sources])
    sampler_type = getattr(samplers, kind)
    if reason:
        with pytest.raises(UserError, match=re.escape(reason)):
            sampler_type(both, batch_size, ratio, seed=0)
        return
    batch = list(itertools.islice(sampler_type(both, batch_size, ratio, seed=0), batch_size))
    first = len(sources[0])
    assert sum(i < first for i in batch) == batch_size * ratio[0] // sum(ratio)
    if kind.startswith('Group'):
        assert len({both.get_data_info(i)['width'] < 10 for i in batch}) == 1


def test_classes_of_data_in_a_folder_of_pascal_voc_have_their_names(log):
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.datasets import VOCDataset
    from mmdet.evaluation import VOCMetric

    objects = dict(bboxes=torch.tensor([[0.0, 0, 9, 9]]), labels=torch.tensor([1]))
    none = {key: value[:0] for key, value in objects.items()}
    sample = dict(gt_instances=objects, ignored_instances=none)
    sample['pred_instances'] = objects | dict(scores=torch.ones(1))
    for classes in (('cat', 'dog'), VOCDataset.METAINFO['classes']):
        metric = VOCMetric()
        metric.dataset_meta = dict(classes=classes, dataset_type='VOC2007')
        metric.process({}, [sample])
        assert metric.evaluate(1)['pascal_voc/mAP'] == pytest.approx(1)
        assert metric.dataset_meta['dataset_type'] == 'VOC2007'
        row = re.search(r'\| (\w+) +\| 1 +\| 1 +\| 1.000', log().rpartition('iou_thr')[2])
        assert row[1] == classes[1]


@pytest.mark.parametrize('module', ['cityscapes_metric', 'mot_challenge_metric'])
def test_metrics_keep_what_is_in_their_folder(module, tmp_path, monkeypatch, log):
    hosts.of(dict(default_scope='mmdet')).apply()
    module = importlib.import_module(f'mmdet.evaluation.metrics.{module}')
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results/best.pth').touch()
    (tmp_path / 'results/gtInstances.json').touch()  # objects that a test of other images read
    if 'mot' in module.__name__:
        monkeypatch.setattr(module, 'trackeval', True)
        monkeypatch.chdir(tmp_path)  # where it makes temporary folders
        module.MOTChallengeMetric(outfile_prefix=str(tmp_path / 'results'))
    else:
        monkeypatch.setattr(module, 'HAS_CITYSCAPESAPI', True)
        module.CityScapesMetric(str(tmp_path), format_only=True)
    assert [path.name for path in (tmp_path / 'results').glob('*.*')] == ['best.pth']
    assert 'results (outfile_prefix) is kept' in log()


def test_masks_of_boxes_beside_their_image():
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    boxes = torch.tensor(
        [[10.0, 10, 40, 40], [120, 10, 150, 60], [60, 120, 90, 150], [-90, 0, -9, 9]]
    )
    with DefaultScope.overwrite_default_scope('mmdet'):  # a test before may have left another
        head = FCNMaskHead(num_classes=1)
    masks = head._predict_by_feat_single(
        torch.full((4, 1, 28, 28), 9.0),
        boxes,
        torch.zeros(4, dtype=torch.long),
        dict(ori_shape=(100, 80), scale_factor=(1.0, 1.0)),
        ConfigDict(mask_thr_binary=0.5),
        rescale=True,
    )
    assert masks.sum((1, 2)).tolist() == [900, 0, 0, 0]
    assert masks[0, 10:40, 10:40].all()


@pytest.mark.parametrize('options', [{}, dict(meta_keys=('img_id',))], ids=str)
def test_a_detector_without_resize(options):
    """Boxes are in the image where only the model pads."""
    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    hosts.of(cfg).apply()
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).eval()
        steps = [dict(type='Pad', size_divisor=32), dict(type='PackDetInputs', **options)]
        pad, pack = map(TRANSFORMS.build, steps)
    image = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    sample = dict(img=image, img_shape=(90, 70), ori_shape=(90, 70))
    results = []
    for factor in ({}, dict(scale_factor=(1.0, 1.0))):
        packed = pack({**sample, **factor})
        batch = {key: [value] for key, value in packed.items()}
        with torch.no_grad():
            results += model.test_step(batch)
    one, other = (result.pred_instances for result in results)
    assert len(one) and torch.equal(one.bboxes, other.bboxes)
    padded = pack(pad(dict(sample)))
    assert padded['inputs'].shape[1:] == (96, 96)
    assert padded['data_samples'].scale_factor == (1, 1)


def test_ddod_resumes_with_what_it_has_counted():
    from mmdet.models.dense_heads import DDODHead

    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    labels = [torch.zeros(3), *[torch.ones(3)] * 4]  # of one class: positives of the first level
    hub = MessageHub.get_instance('ddod-0')
    for number in range(1, 4):
        state, hub = hub.state_dict(), MessageHub.get_instance(f'ddod-{number}')
        hub.load_state_dict(state)
        with DefaultScope.overwrite_default_scope('mmdet'):
            head = DDODHead(1, 8, 1, feat_channels=8, norm_cfg=None, use_dcn=False)
        head.calc_reweight_factor(labels_list=labels)
        assert head.cls_num_pos_samples_per_level == [3 * number, 0, 0, 0, 0]


def test_sizes_of_batches_in_older_checkpoints_are_resumed_too():
    from mmdet.models.data_preprocessors import BatchSyncRandomResize

    hosts.of(Config(dict(default_scope='mmdet'))).apply()
    hub = MessageHub.get_instance('sizes-of-0.9.0')
    hub.update_info('batch_resize', (64, 96))
    hub.update_info('iter', 3)
    resize = BatchSyncRandomResize((32, 128), interval=10)
    images, _ = resize(torch.zeros(1, 3, 32, 32), [])
    assert images.shape == (1, 3, 64, 96)


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
@pytest.mark.filterwarnings('ignore::UserWarning:mmdet')
def test_dynamic_rcnn_resumes_with_what_it_has_measured(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    hosts.of(cfg).apply()
    dynamic = dict(
        iou_topk=6, beta_topk=5, update_iter_interval=3, initial_iou=0.01, initial_beta=9.0
    )
    cfg.model.roi_head.update(type='DynamicRoIHead', mask_head=None, mask_roi_extractor=None)
    cfg.model.roi_head.bbox_head.loss_bbox = dict(type='SmoothL1Loss')
    cfg.model.train_cfg.rcnn.dynamic_rcnn = dynamic
    cfg.model.backbone.drop_path_rate = 0.0

    def detector():
        with DefaultScope.overwrite_default_scope('mmdet'):
            torch.manual_seed(0)
            return MODELS.build(cfg.model)

    with DefaultScope.overwrite_default_scope('mmdet'):
        batches = [hosts.sample_batch(cfg, (96, 128), 1) for _ in range(8)]
    runs = []
    for starts in ([0], [0, 5]):  # in one go, and resumed after five batches
        losses = []
        for number, batch in enumerate(batches):
            if number in starts:
                hub = MessageHub.get_instance(f'dynamic-rcnn-{starts}-{number}')
                if number:
                    hub.load_state_dict(read_checkpoint(tmp_path / 'hub.pth')['hub'])
                model = detector()
            torch.manual_seed(number)
            with DefaultScope.overwrite_default_scope('mmdet'):
                data = model.data_preprocessor(copy.deepcopy(batch), True)
            (sample,) = data['data_samples']
            sample.gt_instances = sample.gt_instances[number : number + 3]
            losses.append(model(**data, mode='loss')['loss_bbox'].item())
            torch.save({'hub': hub.state_dict()}, tmp_path / 'hub.pth')
        head = model.roi_head
        measured = head.bbox_assigner.pos_iou_thr, head.bbox_head.loss_bbox.beta, *head.iou_history
        runs.append((*losses, *measured))
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
    assert 0.01 < measured[0] < 1 and measured[1] < 9.0 and len(measured) == 4


@pytest.mark.parametrize(
    ('name', 'written'),
    [
        ('1.png', '1.png'),
        ('1.JPE', '1.JPE'),
        ('1.ppm', '1.ppm'),
        ('1.npy', '1.npy.jpg'),
        ('1.jfif', '1.jfif.jpg'),
        ('v1.2', 'v1.2.jpg'),
        ('1', '1.jpg'),
    ],
)
def test_pictures_keep_the_endings_that_opencv_writes(name, written, tmp_path):
    hosts.of(dict(default_scope='mmdet')).apply()
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    sample, image = DetDataSample(), np.full((64, 64, 3), (200, 100, 50), np.uint8)
    visualizer = DetLocalVisualizer()
    visualizer.add_datasample('', image, sample, draw_gt=False, out_file=str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [written]
    assert np.abs(cv2.imread(str(tmp_path / written))[8, 8] - [50, 100, 200.0]).max() < 4
