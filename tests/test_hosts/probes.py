"""Reproduces, without the patches of `mmswinv2.hosts`, the faults that they repair.

Prints JSON: name of the patch to whether its fault occurs; packages that are not installed are
left out.
"""

import builtins
import contextlib
import functools
import importlib
import importlib.util
import json
import logging
import os
import pickle
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

FOLDER = Path(tempfile.mkdtemp())
PROBES = {}


def probe(name, *packages):
    """Register a function that raises, or returns True, if the fault occurs."""

    def register(function):
        PROBES[name] = function, packages
        return function

    return register


class RunsCode:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return exec, (f'import builtins; builtins.{self.name}_has_run = True',)


@probe('Reading a checkpoint runs no code from the file', 'mmengine')
def code():
    from mmengine.runner import checkpoint

    torch.save({'a': RunsCode('code')}, FOLDER / 'code.pth')
    with contextlib.suppress(Exception):
        checkpoint._load_checkpoint(str(FOLDER / 'code.pth'), map_location='cpu')
    return hasattr(builtins, 'code_has_run')


@probe(
    'Reading a file or an address runs no code from it, nor the config that it holds', 'mmengine'
)
def addresses():
    from mmengine.runner import checkpoint

    os.environ['TORCH_HOME'] = str(FOLDER / 'hub')
    torch.save({'a': RunsCode('address')}, FOLDER / 'address.pth')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(FOLDER))
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/address.pth'
    with contextlib.suppress(Exception):
        checkpoint._load_checkpoint(url, map_location='cpu')
    server.shutdown()
    return hasattr(builtins, 'address_has_run')


@probe('Reading data from a pickle or a YAML file runs no code from it', 'mmengine')
def data_files():
    from mmengine import fileio

    (FOLDER / 'data.pkl').write_bytes(pickle.dumps(RunsCode('pickle')))
    text = "!!python/object/apply:exec ['import builtins; builtins.yaml_has_run = True']"
    (FOLDER / 'data.yaml').write_text(text)
    for name in ('data.pkl', 'data.yaml'):
        with contextlib.suppress(Exception):
            fileio.load(FOLDER / name)
    return hasattr(builtins, 'pickle_has_run') or hasattr(builtins, 'yaml_has_run')


@probe(
    'Folders that systems write, such as __MACOSX, are no classes, and their files no images',
    'mmengine',
)
def folders_of_systems():
    from mmengine import fileio

    names = ('cat/0.jpg', 'cat/.ipynb_checkpoints/0-checkpoint.jpg', '__MACOSX/0.jpg')
    for name in names:
        (FOLDER / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / 'images' / name).touch()
    found = fileio.list_dir_or_file(FOLDER / 'images', recursive=True)
    return sorted(found) != ['cat', 'cat/0.jpg']


@probe('An inferencer runs no config that stands in a file of weights', 'mmengine')
def configs():
    from mmengine.config import ConfigDict
    from mmengine.infer import BaseInferencer

    text = 'import builtins\nbuiltins.config_has_run = True\n'
    torch.save({'meta': {'cfg': text}}, FOLDER / 'config.pth')
    with contextlib.suppress(Exception):
        BaseInferencer._init_model(None, ConfigDict(), str(FOLDER / 'config.pth'))
    return hasattr(builtins, 'config_has_run')


@probe(
    'Weights of any format are loaded with one report, and refused if next to nothing fits',
    'mmengine',
)
def nothing_fits():
    from mmengine.runner import checkpoint

    torch.save({'model': {'weight': torch.ones(1, 1)}}, FOLDER / 'other.pth')
    layer = torch.nn.Linear(1, 1)
    checkpoint.load_checkpoint(layer, str(FOLDER / 'other.pth'))
    return bool(layer.weight != 1)


@probe(
    'Workers of a training by iterations start after hooks have checked their data set', 'mmengine'
)
def late_workers():
    from mmengine.runner.loops import _InfiniteDataloaderIterator

    class Loader:
        started = False

        def __iter__(self):
            self.started = True
            return iter(())

    loader = Loader()
    _InfiniteDataloaderIterator(loader)
    return loader.started


@probe('Errors for a data set without samples say where it looked for them', 'mmengine')
def no_samples():
    from mmengine.dataset import BaseDataset

    class Empty(BaseDataset):
        def load_data_list(self):
            return []

    try:
        Empty('list.json')
    except Exception as error:
        return 'list.json' not in str(error)
    return True


@probe(
    'Lists of files that were written on Windows, with backslashes, can be used elsewhere',
    'mmengine',
)
def lists_of_windows():
    from mmengine.dataset import BaseDataset

    content = dict(metainfo={}, data_list=[dict(img_path='a\\1.png')])
    (FOLDER / 'windows.json').write_text(json.dumps(content))
    return '/' not in BaseDataset(str(FOLDER / 'windows.json')).get_data_info(0)['img_path']


@probe(
    'Classes of joined data sets can be balanced, by ClassBalancedDataset around ConcatDataset',
    'mmengine',
)
def balanced():
    from mmengine.dataset import ConcatDataset

    return not hasattr(ConcatDataset, 'get_cat_ids')


@probe(
    'Labels by number are those of the classes in the file, whose order metainfo cannot change',
    'mmengine',
)
def numbers_of_classes():
    from mmengine.dataset import BaseDataset

    path = FOLDER / 'numbers.json'
    path.write_text('{"metainfo": {"classes": ["a", "b"]}, "data_list": [{"gt_label": 0}]}')
    return BaseDataset(str(path), dict(classes=('b', 'a'))).metainfo['classes'][0] == 'b'


@probe('Errors for samples that lack what a step of a pipeline needs name both', 'mmengine')
def steps_out_of_order():
    from mmcv.transforms import LoadImageFromFile
    from mmengine.dataset import Compose

    try:
        Compose([LoadImageFromFile()])({})
    except Exception as error:
        return 'LoadImageFromFile' not in str(error)


@probe('Images of any number of channels can be normalized by channel', 'mmengine')
def four_channels():
    from mmengine.model import ImgDataPreprocessor

    ImgDataPreprocessor([0, 0, 0, 0], [1, 1, 1, 1])


@probe('Images of any number of channels can be drawn on, as their first three or as gray', 'mmseg')
def draw_four_channels():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    visualizer = SegLocalVisualizer()
    visualizer.dataset_meta = dict(classes=('a',), palette=[(0, 0, 9)])
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.zeros(1, 8, 8, dtype=torch.long)))
    path = str(FOLDER / 'drawn.png')
    visualizer.add_datasample('a', np.zeros((8, 8, 4), np.uint8), sample, out_file=path)


@probe('Drawing a mask takes the time of its box, not of the whole image', 'mmengine')
def masks_drawn_in_whole_images():
    import cv2
    from mmengine.visualization import Visualizer

    sizes, blend = [], cv2.addWeighted
    cv2.addWeighted = lambda image, *args: sizes.append(image.shape) or blend(image, *args)
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 2:5, 3:9] = True
    Visualizer(image=np.zeros((32, 32, 3), np.uint8)).draw_binary_masks(mask, [(9, 9, 9)])
    cv2.addWeighted = blend
    return sizes != [(3, 6, 3)]


@probe('A config that is logged and written into every checkpoint is formatted once', 'mmengine')
def formatted_again():
    from mmengine.config import Config, config
    from yapf.yapflib import yapf_api

    calls = []
    # mmengine 0.10 imports it with the module, later ones when a config is formatted
    module = config if hasattr(config, 'FormatCode') else yapf_api
    original = module.FormatCode
    module.FormatCode = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    cfg = Config(dict(model=dict(type='A')))
    assert cfg.pretty_text == cfg.pretty_text
    module.FormatCode = original
    return len(calls) > 1


@probe(
    'Optimizers of DeepSpeed are registered without the one-bit ones, which are gone', 'deepspeed'
)
def one_bit():
    from mmengine._strategy.deepspeed import register_deepspeed_optimizers

    register_deepspeed_optimizers()


@probe('Errors for images that cannot be read name the file', 'mmcv')
def damaged_image():
    from mmcv.transforms import LoadImageFromFile

    path = FOLDER / 'damaged.png'
    path.write_bytes(b'\x89PNG')
    try:
        LoadImageFromFile(imdecode_backend='pillow')({'img_path': str(path)})
    except Exception as error:
        return str(path) not in str(error)
    return False


@probe('Strips keep a pixel of their shorter side when they are made smaller', 'mmcv')
def strips():
    from mmcv.transforms import Resize

    Resize((64, 64), keep_ratio=True)({'img': np.zeros((2, 700, 3), np.uint8)})


@probe(
    'MMSyncBN layers can be built in a single process, for which they are made BatchNorm then',
    'mmcv',
)
def sync_norms():
    if importlib.util.find_spec('mmcv._ext') is None:
        return  # mmcv-lite has no such layer

    from mmcv.ops import SyncBatchNorm

    SyncBatchNorm(4)


def coco_file(**annotation):
    path = FOLDER / 'coco.json'
    box = dict(id=1, image_id=1, category_id=5, bbox=[0, 0, 9, 9], area=81, iscrowd=0) | annotation
    images = [dict(id=1, file_name='1.jpg', height=10, width=10)]
    categories = [dict(id=5, name='a'), dict(id=3, name='b')]
    path.write_text(json.dumps(dict(images=images, annotations=[box], categories=categories)))
    return path


@probe(
    'COCO annotations are held to rules when they are read; labels go by the names of classes',
    'mmdet',
)
def annotations():
    from mmdet.datasets import CocoDataset

    options = dict(data_prefix=dict(img=''), pipeline=[], test_mode=True)
    data = CocoDataset(
        ann_file=str(coco_file()), metainfo=dict(classes=('b', 'a')), **options
    )  # "a" is first in the file
    return data.get_data_info(0)['instances'][0]['bbox_label'] != 1


@probe('COCO scores are computed by faster-coco-eval where it is installed', 'mmdet')
def slow_scores():
    from mmdet.evaluation.metrics import coco_metric

    installed = importlib.util.find_spec('faster_coco_eval') is not None
    return installed and coco_metric.COCOeval.__module__.startswith('pycocotools')


@probe(
    'Scores of single classes (classwise) go by their names, whatever the order of their ids',
    'mmdet',
)
def class_scores():
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(ann_file=str(coco_file()), metric='bbox', classwise=True)
    metric.dataset_meta = dict(classes=('a', 'b'))
    found = dict(bboxes=torch.tensor([[0.0, 0, 9, 9]]), labels=torch.tensor([0]))
    found['scores'] = torch.ones(1)
    metric.process({}, [dict(img_id=1, ori_shape=(10, 10), pred_instances=found)])
    return metric.evaluate(1)['coco/a_precision'] != 1


@probe('Semantic maps with more values than classes can be drawn', 'mmdet')
def semantic_maps():
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import PixelData

    labels = PixelData(sem_seg=torch.full((1, 8, 8), 5))
    DetLocalVisualizer()._draw_sem_seg(np.zeros((8, 8, 3), np.uint8), labels, ['a'], [(0, 0, 9)])


@probe('Pictures of images with one name in several folders get names of their own', 'mmdet')
def equal_names():
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    visualizer, image = DetLocalVisualizer(), np.zeros((8, 8, 3), np.uint8)
    path = FOLDER / 'equal/1.jpg'
    for name in ('a/1.jpg', 'b/1.jpg', 'a/1.jpg', 'a/1.npy', 'b/1.npy'):
        sample = DetDataSample(metainfo=dict(img_path=name))
        out = str(path.with_suffix(name[-4:]))
        visualizer.add_datasample('1', image, data_sample=sample, out_file=out)
    names = ['1.jpg', '1.npy.jpg', '1.npy_2.jpg', '1_2.jpg']
    return sorted(drawn.name for drawn in path.parent.iterdir()) != names


@probe(
    'Data sets can be joined if the first lacks a key of metainfo, as if another one does',
    'mmdet',
)
def joined_sets():
    from mmdet.datasets import BaseDetDataset, ConcatDataset

    # mmdet goes through a set of keys, whose order changes from process to process
    known = dict(a=1), dict(a=1, b=1)
    sets = [BaseDetDataset(metainfo=metainfo, lazy_init=True) for metainfo in known]
    ConcatDataset(sets, lazy_init=True)


@probe(
    'Transforms that leave masks or semantic maps behind when they move boxes are refused',
    'mmdet',
)
def masks_that_stay():
    from mmdet.datasets.transforms import RandomShift
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    masks = BitmapMasks(
        np.pad(np.ones((1, 20, 20), np.uint8), ((0, 0), (22, 22), (22, 22))), 64, 64
    )
    results = dict(img=np.zeros((64, 64, 3), np.uint8), gt_masks=masks)
    results['gt_bboxes'] = HorizontalBoxes(torch.tensor([[22.0, 22, 42, 42]]))
    results['gt_bboxes_labels'] = np.zeros(1, np.int64)
    np.random.seed(0)
    shifted = RandomShift(prob=1.0)(results)
    return not torch.equal(shifted['gt_bboxes'].tensor, masks.get_bboxes('hbox').tensor)


@probe('CachedMixUp moves the masks of an image as far as the image', 'mmdet')
def masks_cut_before_they_move():
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((1, 4, 8), np.uint8)
    masks[..., 6:] = 1
    return not BitmapMasks(masks, 4, 8).translate((4, 4), -4, 'horizontal').masks.any()


@probe(
    'BatchSyncRandomResize resizes masks and semantic maps too, and resumes with its size',
    'mmdet',
)
def masks_of_another_size():
    from mmdet.models.data_preprocessors import BatchSyncRandomResize
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.logging import MessageHub
    from mmengine.structures import InstanceData

    masks = BitmapMasks(np.ones((1, 8, 8), np.uint8), 8, 8)
    sample = DetDataSample(metainfo=dict(img_shape=(8, 8), pad_shape=(8, 8)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 8, 8]]), masks=masks)
    MessageHub.get_current_instance().update_info('iter', 0)
    resize = BatchSyncRandomResize((64, 64))
    resize._input_size = (64, 64)
    resize(torch.zeros(1, 3, 8, 8), [sample])
    return sample.gt_instances.masks.masks.shape != (1, 64, 64)


@probe('Dynamic R-CNN and DDOD resume with what they have measured for their losses', 'mmdet')
def measures():
    from mmdet.models.dense_heads import DDODHead

    for _ in range(2):  # the second as in a new process that has resumed the message hub
        head = DDODHead(1, 8, 1, feat_channels=8, norm_cfg=None, use_dcn=False)
        head.calc_reweight_factor([torch.zeros(3), *[torch.ones(3)] * 4])
    return head.cls_num_pos_samples_per_level[0] == 3


@probe('Recalls of proposals are measured, whatever the number of boxes on each image', 'mmdet')
def recalls():
    from mmdet.evaluation.metrics import coco_metric

    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 30]])
    coco_metric.eval_recalls([boxes[:1], boxes], [boxes, boxes[:1]], [10], [0.5])


@probe(
    'CityScapesMetric and MOTChallengeMetric delete no folder before they write into it', 'mmdet'
)
def deleted_results():
    from mmdet.evaluation.metrics import cityscapes_metric

    cityscapes_metric.HAS_CITYSCAPESAPI = True
    (FOLDER / 'held/results').mkdir(parents=True)
    (FOLDER / 'held/results/best.pth').touch()
    cityscapes_metric.CityScapesMetric(str(FOLDER / 'held'), format_only=True)
    return not (FOLDER / 'held/results/best.pth').exists()


@probe('Masks of boxes beside their image are empty on CPUs, as they are on GPUs', 'mmdet')
def masks_in_padding():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    _do_paste_mask(torch.ones(1, 1, 4, 4), torch.tensor([[40.0, 0, 50, 9]]), 20, 20)


@probe('One-stage detectors keep all boxes with max_per_img=-1, as others do', 'mmdet')
def last_boxes():
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9]])
    found = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.zeros(2))
    cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=-1)
    kept = BaseDenseHead._bbox_post_process(None, results=found, cfg=cfg)
    return len(kept) == 1


@probe(
    'Names of classes are drawn large enough to read, at small boxes and in large photos', 'mmdet'
)
def names_of_six_points():
    from mmdet.visualization import local_visualizer

    return local_visualizer._get_adaptive_scales(np.array([29000.0]))[0] == 0.5


@probe('Detectors predict on images that no step of the pipeline has resized', 'mmdet')
def unresized():
    from mmdet.datasets.transforms import PackDetInputs

    sample = PackDetInputs()(dict(img=np.zeros((8, 6, 3), np.uint8), ori_shape=(8, 6)))
    return 'scale_factor' not in sample['data_samples']


@probe('Boxes, regions and scores are computed in float32 where maps are in bfloat16', 'mmdet')
def coordinates():
    from mmdet.models.task_modules import AnchorGenerator

    anchors = AnchorGenerator(strides=[4], ratios=[1.0], scales=[8])
    (found,) = anchors.grid_priors([(336, 336)], dtype=torch.bfloat16, device='cpu')
    return float(found[-1, 0]) != 4 * 335 - 16


@probe('CrowdHumanMetric scores images without a person, and a model that finds nothing', 'mmdet')
def images_without_persons():
    from mmdet.evaluation.metrics.crowdhuman_metric import Image

    try:
        Image(0).load(dict(gtboxes=[]), 'box', None, ['background', 'person'], True)
    except ValueError:
        return True
    return False


@probe('Reading a hierarchy of classes of Open Images runs no code from it', 'mmdet')
def hierarchy():
    from mmdet.datasets.openimages import OpenImagesChallengeDataset

    np.save(FOLDER / 'tree.npy', np.array([RunsCode('hierarchy')]), allow_pickle=True)
    data = OpenImagesChallengeDataset.__new__(OpenImagesChallengeDataset)
    data.backend_args = None
    with contextlib.suppress(Exception):
        data._get_relation_matrix(str(FOLDER / 'tree.npy'))
    return hasattr(builtins, 'hierarchy_has_run')


@probe('The last image of Open Images is the one that its boxes are of', 'mmdet')
def last_image():
    import mmengine
    from mmdet.datasets import OpenImagesDataset

    box = 'xclick,/m/1,1,0.1,0.5,0.1,0.5,0,0,0,0,0'
    write = {'boxes.csv': f'ImageID\na,{box}\nb,{box}\n', 'names.csv': '/m/1,cat\n'}
    for name, text in (*write.items(), ('tree.json', '{"LabelName": "/m/0"}')):
        (FOLDER / name).write_text(text)
    metas = [dict(filename=f'{name}.jpg', ori_shape=(8, 8)) for name in 'ab']
    mmengine.dump(metas, FOLDER / 'metas.pkl')
    data = OpenImagesDataset(
        label_file='names.csv', meta_file='metas.pkl', hierarchy_file='tree.json',
        ann_file='boxes.csv', data_root=str(FOLDER), data_prefix=dict(img='images'),
        lazy_init=True,
    )  # fmt: skip
    return [Path(each['img_path']).name for each in data.load_data_list()] != ['a.jpg', 'b.jpg']


@probe(
    'SemSegMetric has aAcc over all pixels, and mFscore with classes that are never right', 'mmdet'
)
def semantic_scores():
    from mmdet.evaluation import SemSegMetric

    areas = zip(('intersect', 'union', 'pred_label', 'label'), torch.tensor([
        [2.0, 0.0], [4.0, 2.0], [4.0, 0.0], [2.0, 2.0],
    ]), strict=True)  # fmt: skip
    scores = SemSegMetric('mFscore').get_return_metrics([{f'area_{k}': v for k, v in areas}])
    return np.isnan(scores['Fscore']).any() and scores['aAcc'].size == 2


@probe('All pixels of a large image count in the mIoU of SemSegMetric', 'mmdet')
def large_semantic_map():
    from mmdet.evaluation import SemSegMetric

    labels = torch.zeros(4200, 4200, dtype=torch.uint8)
    found = SemSegMetric()._compute_pred_stats(labels, labels, 2, 255)
    return found['area_union'][0] != 4200**2


@probe('Images in a folder are found whose endings are in capitals, or img_suffix is', 'mmseg')
def endings_in_capitals():
    from mmseg.datasets import BaseSegDataset

    for name in ('a.jpg', 'b.JPG'):
        (FOLDER / 'endings').mkdir(exist_ok=True)
        (FOLDER / 'endings' / name).touch()
    folder = dict(img_path=str(FOLDER / 'endings'))
    return len(BaseSegDataset(data_prefix=folder, pipeline=[])) < 2


@probe('Reading a volume from a pickle runs no code from it', 'mmseg')
def volumes():
    from mmseg.datasets.transforms import LoadBiomedicalImageFromFile

    (FOLDER / 'volume.pkl').write_bytes(pickle.dumps(RunsCode('volume')))
    with contextlib.suppress(Exception):
        LoadBiomedicalImageFromFile('pickle')(dict(img_path=str(FOLDER / 'volume.pkl')))
    return hasattr(builtins, 'volume_has_run')


@probe(
    'Losses take one channel, ignored pixels beside weights of classes, and tensors on a CPU',
    'mmseg',
)
def losses():
    from mmseg.models.losses import DiceLoss

    object_found = torch.full((1, 1, 2, 2), 9.0)
    return bool(DiceLoss()(object_found, torch.ones(1, 2, 2, dtype=torch.long)) > 0.5)


@probe('OCRHead takes the scores of a head whose maps are larger or smaller than its own', 'mmseg')
def gathered():
    from mmseg.models.decode_heads.ocr_head import SpatialGatherModule

    SpatialGatherModule(1)(torch.ones(1, 8, 2, 2), torch.ones(1, 3, 4, 4))


@probe('Views of a segmentor with one channel are merged by their probabilities', 'mmseg')
def merged_probabilities():
    from mmengine.structures import PixelData
    from mmseg.models import SegTTAModel
    from mmseg.structures import SegDataSample

    head = SimpleNamespace(threshold=0.5)
    wrapper = SimpleNamespace(module=SimpleNamespace(out_channels=1, decode_head=head))
    view = SegDataSample(seg_logits=PixelData(data=torch.full((1, 2, 2), 0.4)))
    view.set_metainfo(dict(img_path=''))
    (merged,) = SegTTAModel.merge_preds(wrapper, [[view]])
    return bool(merged.pred_sem_seg.data.any())


@probe('CityscapesMetric deletes no folder that has held files before', 'mmseg')
def deleted_folder():
    from mmseg.evaluation.metrics import citys_metric

    citys_metric.CSEval = citys_metric.CSEval or True  # no cityscapesscripts are needed for this
    (FOLDER / 'mine').mkdir()
    (FOLDER / 'mine' / 'best.pth').touch()
    metric = citys_metric.CityscapesMetric(str(FOLDER / 'mine'))
    del metric
    return not (FOLDER / 'mine').exists()


@probe('Classes that a model never gets right count in mFscore and mPrecision, with 0', 'mmseg')
def classes_never_right():
    from mmseg.evaluation import IoUMetric

    areas = torch.tensor([[2.0, 0.0], [4.0, 2.0], [4.0, 0.0], [2.0, 2.0]])
    return np.isnan(IoUMetric.total_area_to_metrics(*areas, 'mFscore')['Fscore']).any()


@probe('All pixels of a large image count in its mIoU', 'mmseg')
def large_map():
    from mmseg.evaluation import IoUMetric

    labels = torch.zeros(4200, 4200, dtype=torch.uint8)
    return IoUMetric.intersect_and_union(labels, labels, 2, 255)[0][0] != 4200**2


@probe('Placing the name of a class on an image makes no list of all its pixels', 'mmseg')
def pixels_listed():
    import tracemalloc

    from mmseg.visualization import SegLocalVisualizer

    mask = np.ones((256, 256), np.uint8)
    visualizer = SegLocalVisualizer()
    tracemalloc.start()
    visualizer._get_center_loc(mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak > 8 * mask.size


@probe('Label maps are drawn on any image, whose pixels of no class keep their color', 'mmseg')
def label_maps():
    from mmengine.structures import PixelData
    from mmseg.visualization import SegLocalVisualizer

    image = np.full((3, 16, 16), 200, np.uint8).transpose(1, 2, 0)[..., [2, 1, 0]]
    labels = PixelData(data=torch.full((1, 16, 16), 255))
    return SegLocalVisualizer()._draw_sem_seg(image, labels, ['a'], [(0, 0, 9)]).max() < 200


@probe(
    'LVIS and YouTube-VIS can be scored with NumPy 1.24 and later, which has no np.float', 'mmdet'
)
def float_of_numpy():
    from mmdet.evaluation.functional.ytviseval import YTVISeval

    score_one_object(YTVISeval(), 'evalImgs', 'vidIds', 'catIds', 'dtScores dtMatches dtIgnore')
    with contextlib.suppress(ImportError):
        from lvis import LVISEval
        from lvis.eval import Params

        lvis = LVISEval.__new__(LVISEval)  # without files
        lvis.params, lvis.logger = Params('bbox'), logging.getLogger()
        names = 'dt_scores dt_matches dt_ignore'
        score_one_object(lvis, 'eval_imgs', 'img_ids', 'cat_ids', names)


def score_one_object(scorer, found, images, classes, names):
    scores, *matches = names.split()
    one = {scores: np.ones(1), **dict.fromkeys(matches, np.zeros((10, 1)))}
    one |= {'dt_ids': [1], 'gt_ignore': np.zeros(1), 'gtIgnore': np.zeros(1)}
    vars(scorer.params).update({images: [1], classes: [1]})
    scorer._paramsEval = scorer.params
    setattr(scorer, found, [one] * 99)
    scorer.accumulate()


@probe('The mean average precision of videos (MMIT) is over those that have a label', 'mmaction')
def mean_of_videos():
    from mmaction.evaluation.metrics import acc_metric

    with np.errstate(invalid='ignore'):
        scores, labels = np.array([[0.9, 0.1]] * 2), np.array([[1, 0], [0, 0]])
        return acc_metric.mmit_mean_average_precision(scores, labels) != 1


@probe(
    'AVAMetric leaves out excluded frames, and counts classes that are never predicted, with 0',
    'mmaction',
)
def actions():
    from mmaction.evaluation.metrics import ava_metric

    (FOLDER / 'truth.csv').write_text('a,1,0,0,.5,.5,1,0\na,1,.5,.5,1,1,2,0\n')
    (FOLDER / 'found.csv').write_text('a,1,0,0,.5,.5,1,0.9\n')
    items = (f'item {{\n  name: "n"\n  id: {i}\n}}\n' for i in (1, 2))
    (FOLDER / 'labels.txt').write_text(''.join(items))
    found, labels, truth = (str(FOLDER / f) for f in ('found.csv', 'labels.txt', 'truth.csv'))
    return ava_metric.ava_eval(found, 'mAP', labels, truth, None)['overall'] != 0.5


@probe('Skeletons can be cropped by PoseCompact with NumPy 2, which has no np.Inf', 'mmaction')
def poses():
    from mmaction.datasets.transforms import PoseCompact

    points = np.array([[[[10, 10], [30, 50]]]], np.float32)  # a person, a frame, two points
    results = PoseCompact(padding=0)(dict(keypoint=points, img_shape=(64, 64)))
    return results['img_shape'] != (40, 20)


@probe('Masks of several parts can be treated by InstaBoost', 'instaboostfast')
def outlines():
    from instaboostfast import affine_transform

    mask = np.zeros((20, 20), np.uint8)
    mask[2:5, 2:5] = mask[8:18, 9:17] = 1
    affine_transform.binary_mask_to_polygon(mask)


@probe('Configs of mmswinv2 can be a base by their prefix, as those of the hosts can', 'mmengine')
def own_configs():
    from mmengine.config import Config

    return Config.fromstring("_base_ = 'mmswinv2::_base_/default_runtime.py'", '.py').resume


@probe('Importing torchvision works without its compiled half', 'torchvision')
def torchvision():
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        raise


@probe(
    'Importing mmpretrain works beside transformers 5, without its multimodal models', 'mmpretrain'
)
def multimodal():
    from mmswinv2.hosts.mmpretrain import import_torchvision

    import_torchvision()
    from mmpretrain.utils import dependency

    wanted, dependency.WITH_MULTIMODAL = dependency.WITH_MULTIMODAL, False  # for other probes
    importlib.import_module('mmpretrain.models')
    if wanted:
        importlib.import_module('mmpretrain.models.multimodal.blip')


@probe('Errors for crops larger than their image say which and what to set', 'mmpretrain')
def crops():
    from mmswinv2.hosts.mmpretrain import import_torchvision

    import_torchvision()
    from mmpretrain.datasets.transforms import CenterCrop

    results = {'img': np.zeros((8, 8, 3), np.uint8), 'img_path': 'small.png'}
    try:
        CenterCrop(9)(results)
    except Exception as error:
        return 'small.png' not in str(error)
    return True


@probe(
    'Classes of merged views are those of the merged scores, not of the first view', 'mmpretrain'
)
def merged_views():
    from mmpretrain.models import AverageClsScoreTTA
    from mmpretrain.structures import DataSample

    views = [
        DataSample().set_pred_score(torch.tensor(scores)).set_pred_label(label)
        for scores, label in (([0.55, 0.45], 0), ([0.05, 0.95], 1))
    ]
    model = SimpleNamespace(module=torch.nn.Identity())
    return AverageClsScoreTTA._merge_single_sample(model, views).pred_label.item() != 1


@probe(
    'Averaged weights are loaded where the model is wrapped for test-time augmentation',
    'mmpretrain',
)
def averages_of_views():
    from mmpretrain.engine import EMAHook
    from mmpretrain.models import AverageClsScoreTTA

    trained, new = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    trained.test_step = new.test_step = None
    hook = EMAHook()
    runner = SimpleNamespace(model=AverageClsScoreTTA(new))
    hook.before_run(runner)
    names = {f'module.{name}': value for name, value in trained.state_dict().items()}
    checkpoint = dict(state_dict=trained.state_dict(), ema_state_dict=names)
    hook.after_load_checkpoint(runner, checkpoint)
    hook.before_test_epoch(runner)
    return not torch.equal(new.weight, trained.weight)


@probe('The mean average precision of classes is over those that some image has', 'mmpretrain')
def absent_classes():
    from mmpretrain.evaluation import AveragePrecision

    scores = dict(pred_score=torch.tensor([0.9, 0.1, 0.5]), gt_score=torch.tensor([1, 0, 0]))
    return AveragePrecision().compute_metrics([scores])['mAP'] != 100


@probe(
    'Mean precision, recall and F1 are over the classes that images or predictions have',
    'mmpretrain',
)
def classes_that_occur_nowhere():
    from mmpretrain.evaluation import SingleLabelMetric

    return SingleLabelMetric.calculate(torch.eye(3)[:2], [0, 1])[0][1] < 99


@probe(
    'Images in folders of classes are found whose names end in .webp, .tiff, .jfif or .jpe',
    'mmpretrain',
)
def images_of_other_endings():
    from mmswinv2.hosts.mmpretrain import import_torchvision

    import_torchvision()
    from mmpretrain.datasets import CustomDataset

    return not CustomDataset(data_root='.', lazy_init=True).is_valid_file('a.webp')


@probe(
    'Labels of Pascal VOC have no blanks around them, and may lack the word difficult', 'mmpretrain'
)
def labels_of_voc():
    from mmpretrain.datasets import VOC

    text = '<a><object><name> cat </name><difficult>0</difficult></object></a>'
    backend = SimpleNamespace(join_path=os.path.join, get=lambda path: text)
    own = SimpleNamespace(
        backend=backend, ann_prefix='', CLASSES=('cat',), class_to_idx=dict(cat=0)
    )
    return VOC._get_labels_from_xml(own, '1')[0] != [0]


@probe('Reading CIFAR or lists of tags (RAM) from pickles runs no code from them', 'mmpretrain')
def cifar():
    from mmpretrain.datasets import CIFAR10

    class Cifar(CIFAR10):
        train_list, test_list, meta = [('batch', None)], [], {}

    folder = FOLDER / Cifar.base_folder
    folder.mkdir()
    (folder / 'batch').write_bytes(pickle.dumps(RunsCode('cifar')))
    with contextlib.suppress(Exception):
        Cifar(data_root=str(FOLDER), pipeline=[]).full_init()
    return hasattr(builtins, 'cifar_has_run')


@probe(
    'The dtype of a transform of torchvision is looked up, and not evaluated as code', 'mmpretrain'
)
def dtypes():
    from mmpretrain.registry import TRANSFORMS

    code = 'float32, setattr(__import__("builtins"), "dtype_has_run", 1)'
    with contextlib.suppress(Exception):
        TRANSFORMS.build(dict(type='torchvision/ConvertImageDtype', dtype=code))
    return hasattr(builtins, 'dtype_has_run')


@probe(
    'Importing mmaction2 works beside mmcv 2.2 and newer, and without localizers.drn', 'mmaction'
)
def import_mmaction():
    try:
        import mmaction.models  # noqa: F401
    except BaseException:
        for name in [name for name in sys.modules if name.split('.')[0] == 'mmaction']:
            del sys.modules[name]
        raise


# mmaction2 can be imported from here on


@probe(
    'Scores in bfloat16, which NumPy does not know, can be taken by heads of mmaction2',
    'mmaction',
)
def bfloat16():
    import mmswinv2.hosts  # noqa: F401, I001
    from mmaction.models.heads import I3DHead
    from mmaction.structures import ActionDataSample

    scores = torch.zeros(2, 3, dtype=torch.bfloat16)
    samples = [ActionDataSample().set_gt_label(0) for _ in scores]
    I3DHead(num_classes=3, in_channels=4).loss_by_feat(scores, samples)


@probe('Videos can be written by mmaction2 without moviepy', 'mmaction')
def videos():
    from mmaction.visualization.video_backend import LocalVisBackend

    backend = LocalVisBackend(save_dir=str(FOLDER))
    backend.add_video('a', np.zeros((2, 16, 16, 3), np.uint8), fps=2, out_type='video')


@probe('A video that decord or PyAV cannot read is named', 'mmaction')
def unreadable_videos():
    from mmaction.datasets.transforms import PyAVInit

    (FOLDER / 'broken.mp4').write_text('no video')
    try:
        PyAVInit().transform(dict(filename=str(FOLDER / 'broken.mp4')))
    except Exception as error:
        return 'broken.mp4' not in str(error)


@probe('Frames in files of more than 8 bits are refused, as images are', 'mmaction')
def wide_frames():
    import cv2
    from mmaction.datasets.transforms import RawFrameDecode

    cv2.imwrite(str(FOLDER / '1.png'), np.full((8, 8), 1000, np.uint16))
    RawFrameDecode()(dict(
        frame_dir=str(FOLDER), filename_tmpl='{}.png', modality='RGB', frame_inds=np.array([1]),
    ))  # fmt: skip
    return True


@probe('Hues of clips can be turned either way by ColorJitter', 'mmaction')
def hues():
    from mmaction.datasets.transforms import ColorJitter

    ColorJitter.adjust_hue(np.zeros((2, 2, 3), np.float32), -0.1)


@probe(
    'The mean accuracy of classes is over those that have videos, whatever is predicted',
    'mmaction',
)
def classes_without_videos():
    from mmaction.evaluation.metrics.acc_metric import mean_class_accuracy

    return mean_class_accuracy([np.array([0, 1]), np.array([1, 0])], [0, 0]) != 0.5


@probe('Videos can be drawn in a test: all clips of a sample, one after another', 'mmaction')
def clips():
    from mmaction.engine.hooks import VisualizationHook
    from mmaction.structures import ActionDataSample
    from mmaction.visualization import ActionVisualizer

    ActionVisualizer.get_current_instance = lambda: ActionVisualizer(name='clips')
    hook = VisualizationHook(enable=True, interval=1, out_dir=str(FOLDER / 'clips'))
    inputs = [torch.zeros(1, 3, 2, 16, 16)]
    hook._draw_samples(0, dict(inputs=inputs), [ActionDataSample().set_gt_label(0)])


@probe('Labels of AVA that are no class of the data set are named', 'mmaction')
def unknown_actions():
    from mmaction.datasets import AVADataset

    record = dict(label=3, video_id='a', timestamp=902, entity_box=np.zeros(4), entity_id=0)
    data = SimpleNamespace(num_classes=3, multilabel=True, ann_file='a.csv')
    try:
        AVADataset.parse_img_record(data, [record])
    except ValueError as error:
        return 'a.csv' not in str(error)


@probe(
    'Detectors with few queries, as DETR and Mask2Former, may have a larger max_per_img', 'mmdet'
)
def few_queries():
    from mmdet.models import MaskFormerFusionHead

    head = MaskFormerFusionHead(num_things_classes=1, num_stuff_classes=0, test_cfg={})
    head.instance_postprocess(torch.zeros(2, 2), torch.ones(2, 4, 4))


@probe('Sampling from several sources says which of them gives no image', 'mmdet')
def empty_sources():
    from mmdet.datasets.samplers import MultiSourceSampler

    both = SimpleNamespace(cumulative_sizes=[4, 8], datasets=[range(4), range(4)])
    try:
        MultiSourceSampler(both, 3, [4, 1], seed=0)
    except ValueError:
        return False
    return True


@probe('Segmentors predict whatever meta_keys of PackSegInputs has', 'mmseg')
def meta_keys():
    from mmseg.datasets.transforms import PackSegInputs

    packed = PackSegInputs(meta_keys=('img_path',)).transform(
        dict(img=np.zeros((4, 4, 3), np.uint8), img_path='a', ori_shape=(4, 4), flip=True)
    )
    return 'flip' not in packed['data_samples'].metainfo


def main():
    torch.set_num_threads(1)  # with several, a count of pixels in float32 is right for longer
    found = {}
    for name, (function, packages) in PROBES.items():
        if any(importlib.util.find_spec(package) is None for package in packages):
            continue
        try:
            found[name] = bool(function())
        except Exception as error:
            print(f'{name}: {error!r}', file=sys.stderr)
            found[name] = True
    print(json.dumps(found))


if __name__ == '__main__':
    main()
