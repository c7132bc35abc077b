"""`mmswinv2 export`: exported files compared with their models, at several sizes each."""

import json
import math
import re
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image
from torch import nn

from mmswinv2 import hosts
from mmswinv2.cli import main
from mmswinv2.cli.export import export, samples_of
from mmswinv2.deploy.detectors import suppress
from mmswinv2.deploy.graph import AveragePool, Preprocessing, write_onnx
from mmswinv2.deploy.int8 import quantize
from mmswinv2.deploy.rules import about, graph_of
from mmswinv2.deploy.runtime import OnnxModel, OpenVinoModel
from mmswinv2.deploy.verify import differences, scores_differ, too_large
from mmswinv2.errors import UserError
from tests.test_tools.conftest import ROOT, SMALL_VIDEO, made_once
from tests.test_tools.tensorrt import unsupported
from tests.tool_server import run_program

pytest.importorskip('onnxruntime', reason='onnxruntime has no wheel for this Python')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')
pytest.importorskip('openvino', reason='openvino is not installed')
pytestmark = pytest.mark.filterwarnings(
    'ignore::UserWarning', 'ignore::DeprecationWarning', 'ignore::FutureWarning'
)

# two stages and three pyramid levels, for exports in seconds
BACKBONE = """
    backbone=dict(
        _delete_=True,
        type='mmswinv2.SwinTransformerV2',
        arch=dict(embed_dims=16, depths=(1, 2), num_heads=(1, 2)),
        window_size=4,
        out_indices=(0, 1),
    ),
"""
MASK = f"""
_base_ = '{ROOT}/configs/detection/mask-rcnn_swinv2-nano_shapes.py'
model = dict(
    {BACKBONE}
    neck=dict(in_channels=[16, 32], num_outs=3),
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8]),
        mask_roi_extractor=dict(featmap_strides=[4, 8]),
    ),
    test_cfg=dict(rpn=dict(nms_pre=60, max_per_img=40), rcnn=dict(score_thr=0.01)),
)
"""
FASTER = MASK.replace('model = dict(', "model = dict(type='FasterRCNN',").replace(
    'mask_roi_extractor=dict(featmap_strides=[4, 8])', 'mask_roi_extractor=None, mask_head=None'
)
RETINA = f"""
_base_ = '{ROOT}/configs/detection/retinanet_swinv2-t-w16_fpn_ms-3x_coco.py'
model = dict(
    {BACKBONE}
    neck=dict(in_channels=[16, 32], out_channels=32, num_outs=3, start_level=0),
    bbox_head=dict(
        num_classes=4,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        anchor_generator=dict(strides=[4, 8, 16]),
    ),
    test_cfg=dict(nms_pre=60),
)
"""
HTC = f"""
_base_ = '{ROOT}/configs/detection/htc++_swinv2-nano_shapes.py'
model = dict(
    {BACKBONE}
    neck=[
        dict(type='mmswinv2.GlobalSelfAttention', in_channels=32),
        dict(type='FPN', in_channels=[16, 32], out_channels=64, num_outs=3),
    ],
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8]),
        mask_roi_extractor=dict(featmap_strides=[4, 8]),
        semantic_head=dict(num_ins=3),
    ),
    test_cfg=dict(rpn=dict(nms_pre=60, max_per_img=40)),
)
"""
WITHOUT_SEMANTIC = HTC.replace(
    'semantic_head=dict(num_ins=3)', 'semantic_roi_extractor=None, semantic_head=None'
)
# a cascade with the narrow heads of HTC above
CASCADE = HTC.replace(
    HTC[HTC.index('    roi_head=') : HTC.index('    test_cfg=')],
    """
    type='CascadeRCNN',
    roi_head=dict(
        _delete_=True,
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=dict(_base_.model.roi_head.bbox_roi_extractor, featmap_strides=[4, 8]),
        bbox_head=[
            {**head, 'reg_class_agnostic': i == 1}
            for i, head in enumerate(_base_.model.roi_head.bbox_head[:2])
        ],
        mask_roi_extractor=dict(_base_.model.roi_head.mask_roi_extractor, featmap_strides=[4, 8]),
        mask_head=dict(
            type='FCNMaskHead', num_convs=1, in_channels=64, conv_out_channels=64, num_classes=4
        ),
    ),
    train_cfg=dict(rcnn=_base_.model.train_cfg.rcnn[:2]),
""",
)
SLIDE = f"""
_base_ = '{ROOT}/configs/segmentation/swinv2-nano_upernet_shapes.py'
model = dict(
    {BACKBONE}
    decode_head=dict(in_channels=[16, 32], in_index=[0, 1], channels=16, pool_scales=(1, 3)),
    auxiliary_head=dict(in_channels=32, in_index=1, channels=8),
    test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(40, 40)),
)
"""
WHOLE = SLIDE.replace("mode='slide', crop_size=(64, 64), stride=(40, 40)", "mode='whole'")
RUNTIMES = OnnxModel, OpenVinoModel


def build(text, folder):
    """A model of a config, with weights so large that its output varies over the image."""
    path = folder / 'config.py'
    path.write_text(text)
    cfg = Config.fromfile(path)
    host = hosts.of(cfg)
    host.apply()
    hosts.use_registries(cfg)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=1.2 / module.weight[0].numel() ** 0.5)
        elif isinstance(module, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)):
            nn.init.ones_(module.weight)
    torch.save(dict(state_dict=model.state_dict()), folder / 'x.pth')
    return model.eval()


def exported(model):
    graph = graph_of(model)
    example = graph.example()
    return graph, write_onnx(graph, example, graph.sizes(), list(graph.outputs), graph.about())


def answers(model, content, task, samples):
    """Data samples of the file and of the model for each ``(image, sample)``."""
    files = [runtime(content, model, task) for runtime in RUNTIMES]
    for image, sample in samples:
        batch = dict(inputs=[image], data_samples=[sample])
        with torch.no_grad():
            (theirs,) = model.test_step(batch)
        for file in files:
            yield file.test_step(batch)[0], theirs


def check_batch(content, shape, **more):
    """Check that a batch of two pictures gives the same results as each picture alone."""
    both = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.float32)
    for runtime in RUNTIMES:
        file = runtime(content, None, '')
        together = file.run(image=both, **more)
        for i in range(2):
            alone = file.run(image=both[i : i + 1], **more)
            own = together.get('picture', np.arange(2)) == i
            scores = 'labels' if more else 'scores'
            assert together[scores][own] == pytest.approx(alone[scores], abs=1e-3)


# --- operators -----------------------------------------------------------------------------------


class Suppress(nn.Module):
    def forward(self, boxes, scores):
        hard = torch.ops.mmswinv2.nms(boxes, scores, 0.5, 0.2, 10)
        return hard, *torch.ops.mmswinv2.soft_nms(boxes, scores, 0.5, 0.5, 1e-3, 'linear', 12)


def boxes(pictures, count):
    low = torch.rand(pictures, count, 2) * 50
    return torch.cat([low, low + torch.rand(pictures, count, 2) * 40], -1), torch.rand(
        pictures, count
    )


def session(module, example, sizes):
    import onnxruntime

    names = [f'out{i}' for i in range(len(module(*example.values())))]
    content = write_onnx(module, example, sizes, names)
    made = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    return lambda *given: made.run(
        None, {name: x.numpy() for name, x in zip(example, given, strict=True)}
    )


def test_suppression_in_onnx_is_that_of_mmcv():
    from mmcv.ops import batched_nms

    torch.manual_seed(0)
    dims = {0: torch.export.Dim('B'), 1: torch.export.Dim('N')}
    example = dict(zip(('boxes', 'scores'), boxes(2, 50), strict=True))
    of_onnx = session(Suppress(), example, dict(boxes=dims, scores=dims))
    for pictures, count in ((1, 200), (3, 7)):
        given = boxes(pictures, count)
        hard, soft, values = of_onnx(*given)
        for i in range(pictures):
            own = given[0][i], given[1][i], torch.zeros(count, dtype=torch.int64)
            valid = (own[1] > 0.2).nonzero()[:, 0]
            options = dict(type='nms', iou_threshold=0.5)
            _, keep = batched_nms(*(x[valid] for x in own), options)
            assert hard[hard[:, 0] == i, 1].tolist() == valid[keep][:10].tolist()
            options = dict(type='soft_nms', iou_threshold=0.5)
            dets, keep = batched_nms(*own, options)
            of_picture = soft[:, 0] == i
            assert soft[of_picture, 1].tolist() == keep[:12].tolist()
            assert values[of_picture] == pytest.approx(dets[:12, 4].numpy(), abs=1e-6)


class Regions(nn.Module):
    def forward(self, fine, coarse, rois):
        return (
            torch.ops.mmswinv2.roi_features(
                [fine, coarse], rois, [0.25, 0.125], [7, 5], 0, True, 20.0
            ),
        )


def test_regions_in_onnx_are_those_of_mmdet():
    torch.manual_seed(0)
    dim = torch.export.Dim
    maps = {f'm{i}': {0: dim('B'), 2: dim(f'h{i}'), 3: dim(f'w{i}')} for i in range(2)}

    def regions(pictures, side, count):
        low = torch.rand(count, 2) * side
        numbers = torch.randint(0, pictures, (count, 1)).float()
        rois = torch.cat([numbers, low, low + torch.rand(count, 2) * side], 1)
        return *(torch.rand(pictures, 4, side // s, side // s) for s in (4, 8)), rois

    example = dict(zip((*maps, 'rois'), regions(2, 128, 9), strict=True))
    of_onnx = session(Regions(), example, dict(maps, rois={0: dim('K')}))
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = dict(type='RoIAlign', output_size=(7, 5), sampling_ratio=0)
    of_mmdet = SingleRoIExtractor(layer, 4, [4, 8], finest_scale=20)
    for sizes in ((1, 96, 30), (2, 64, 0)):
        given = regions(*sizes)
        (got,) = of_onnx(*given)
        want = of_mmdet(given[:2], given[2])
        assert got.shape == tuple(want.shape)
        assert got == pytest.approx(want.numpy(), abs=1e-5)


def test_pooling_at_any_size_is_that_of_torch():
    x = torch.rand(2, 3, 13, 7)
    for size in (1, 2, 3, 6, (4, 5)):
        torch.testing.assert_close(AveragePool(size)(x), nn.AdaptiveAvgPool2d(size)(x))


# --- models --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    'text',
    [
        pytest.param(RETINA, id='retinanet'),
        pytest.param(FASTER, id='faster-rcnn'),
        pytest.param(CASCADE, id='cascade-mask-rcnn'),
        pytest.param(HTC, id='htc++'),
        pytest.param(WITHOUT_SEMANTIC, id='htc++-without-semantic'),
    ],
)
def test_detector_at_two_sizes(text, tmp_path):
    from mmdet.structures import DetDataSample

    model = build(text, tmp_path)
    graph, content = exported(model)

    def samples():
        for h, w in ((75, 131), (96, 41)):
            meta = dict(img_shape=(h, w), ori_shape=(h // 2, w), scale_factor=(1.0, 2.0))
            yield torch.randint(0, 256, (3, h, w), dtype=torch.uint8), DetDataSample(metainfo=meta)

    for ours, theirs in answers(model, content, 'detection', samples()):
        found = differences('detection', ours, theirs)
        assert len(theirs.pred_instances) > 3
        assert too_large(found) == {}
        assert found['score'] < 5e-4 and found['box'] < 0.05
        assert ('mask' in found) == ('masks' in graph.outputs)
    check_batch(content, (3, 70, 90))
    assert unsupported(content) == []


ALIGNED = WHOLE.replace('decode_head=dict(', 'decode_head=dict(align_corners=True, ')


@pytest.mark.slow
@pytest.mark.parametrize('text', [WHOLE, SLIDE, ALIGNED], ids=['whole', 'slide', 'align-corners'])
def test_segmentor_at_two_sizes(text, tmp_path):
    from mmseg.structures import SegDataSample

    model = build(text, tmp_path)
    _, content = exported(model)

    def samples():
        for (h, w), size in (((75, 131), (97, 150)), ((50, 64), (50, 64))):
            meta = dict(img_shape=(h, w), ori_shape=size, pad_shape=(h, w))
            yield torch.randint(0, 256, (3, h, w), dtype=torch.uint8), SegDataSample(metainfo=meta)

    for ours, theirs in answers(model, content, 'segmentation', samples()):
        assert ours.pred_sem_seg.shape == theirs.ori_shape
        assert len(theirs.pred_sem_seg.data.unique()) > 2
        assert differences('segmentation', ours, theirs)['label'] < 1e-3
    check_batch(content, (3, 70, 90), size=np.array((70, 90)))
    assert unsupported(content) == []


@pytest.mark.slow
def test_video_model_at_two_sizes(tmp_path):
    from mmaction.structures import ActionDataSample

    model = build(SMALL_VIDEO, tmp_path)
    _, content = exported(model)

    def samples():
        for shape in ((2, 3, 8, 37, 50), (1, 3, 5, 64, 33)):
            yield torch.randint(0, 256, shape, dtype=torch.uint8), ActionDataSample()

    for ours, theirs in answers(model, content, 'video classification', samples()):
        assert theirs.pred_score.max() > 0.2
        torch.testing.assert_close(ours.pred_score, theirs.pred_score, atol=1e-5, rtol=0)
    check_batch(content, (2, 3, 6, 35, 41))
    assert unsupported(content) == []


# --- the command ---------------------------------------------------------------------------------


def command(*arguments):
    """Run `mmswinv2 export` in its own process."""
    return run_program(
        [sys.executable, '-W', 'ignore', '-m', 'mmswinv2', 'export', *arguments],
        cwd=ROOT,
        env={'PYTHONPATH': str(ROOT)},
    )


def run_example(*arguments):
    """Run `examples/onnx_inference.py` with torch made unavailable."""
    blocked = (
        'import runpy, sys; sys.modules["torch"] = None; '
        'runpy.run_path(sys.argv.pop(1), run_name="__main__")'
    )
    process = run_program(
        [sys.executable, '-c', blocked, ROOT / 'examples/onnx_inference.py', *arguments]
    ).succeeded()
    return process.stdout.splitlines()


@pytest.fixture(scope='module')
def file(shapes, tmp_path_factory):
    """The folder of a Mask R-CNN with its exported file, and the output of the command."""

    def make(folder):
        folder.mkdir(parents=True)
        build(MASK, folder)
        process = command(
            folder / 'config.py', folder / 'x.pth', '--out', folder / 'x.onnx', '--verify',
            shapes / 'val2017', '--cfg-options', f'data_root={shapes}/',
        ).succeeded()  # fmt: skip
        (folder / 'told.txt').write_text(process.stdout)

    return made_once(tmp_path_factory, 'export', make)


@pytest.mark.slow
def test_command_compares_file_and_model(file):
    told = (file / 'told.txt').read_text()
    assert '4 pictures, largest differences: number 0.0e+00, box' in told
    assert 'coco/segm_mAP: PyTorch' in told
    assert unsupported((file / 'x.onnx').read_bytes()) == []


@pytest.mark.parametrize('name', ['none.onnx', 'text.onnx', 'text.xml', 'other.onnx'])
def test_example_says_what_is_no_model(name, tmp_path, monkeypatch):
    for text in ('text.onnx', 'text.xml'):
        (tmp_path / text).write_text('hello')
    import onnx
    from onnx import TensorProto, helper

    onnx.save(
        helper.make_model(
            helper.make_graph([helper.make_node('Relu', ['x'], ['y'])], 'g', *[
                [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1])] for n in 'xy'
            ]), ir_version=10, opset_imports=[helper.make_opsetid('', 17)],
        ), tmp_path / 'other.onnx',
    )  # fmt: skip
    monkeypatch.setattr(sys, 'argv', ['example', str(tmp_path / name), 'a.jpg'])
    with pytest.raises(SystemExit, match=f'{name} is no file of mmswinv2 export'):
        runpy.run_path(str(ROOT / 'examples/onnx_inference.py'), run_name='__main__')


def test_gray_pictures_for_several_channels_are_refused(tmp_path):
    model, cfg = build(WHOLE, tmp_path), Config.fromfile(tmp_path / 'config.py')
    loads = [dict(color_type='grayscale'), dict(type='mmswinv2.LoadImage', channels=1)]
    for load in loads:
        cfg.test_dataloader.dataset.pipeline[0].update(load)
        with pytest.raises(UserError, match='loads gray pictures, and the model takes 3 channels'):
            about(graph_of(model), cfg, {})


def test_files_tell_of_their_channels(tmp_path, monkeypatch):
    four = WHOLE.replace('window_size=4,', 'window_size=4, in_channels=4,')
    graph = graph_of(build(four, tmp_path))
    assert graph.about()['channels'] == 4
    main = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))['main']
    monkeypatch.setitem(main.__globals__, 'opened', lambda path: (None, json.dumps(graph.about())))
    monkeypatch.setattr(sys, 'argv', ['onnx_inference.py', 'x.onnx', 'a.png'])
    with pytest.raises(SystemExit, match='x.onnx is for 4 channels, and pictures have 3'):
        main()


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('norm', [{}, dict(mean=[9.0], std=[2.0])])
def test_the_order_of_channels_is_reversed_as_the_model_does(channels, norm):
    hosts.use_registries(Config(dict(default_scope='mmdet')))
    model = MODELS.build(dict(type='DetDataPreprocessor', bgr_to_rgb=True, **norm))
    image = torch.randint(0, 256, (channels, 8, 8), dtype=torch.uint8)
    theirs = model(dict(inputs=[image], data_samples=None))['inputs']
    ours = Preprocessing(model, channels, normalized=False)
    torch.testing.assert_close(ours(image[None].float()), theirs)
    assert ours.about()['reversed_channels'] == (channels == 3)


@pytest.mark.parametrize('kind', ['color', 'color_ignore_orientation'])
def test_files_tell_whether_photos_are_turned(kind, tmp_path, monkeypatch):
    graph = graph_of(build(WHOLE, tmp_path))
    cfg = Config.fromfile(tmp_path / 'config.py')
    cfg.test_dataloader.dataset.pipeline[0]['color_type'] = kind
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.jpg', exif=exif)
    (sample,) = samples_of(cfg, [str(tmp_path / 'a.jpg')], '--verify')
    seen = []

    def run(inputs):
        seen.append(inputs['image'].shape[1:])
        return dict(labels=np.zeros((1, *inputs['size']), np.uint8))

    main = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))['main']
    told = json.dumps(about(graph, cfg, {}))
    monkeypatch.setitem(main.__globals__, 'opened', lambda path: (run, told))
    given = ['example', 'x.onnx', str(tmp_path / 'a.jpg'), '--out-dir', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', given)
    main()
    assert seen == [tuple(sample['inputs'].shape)]


def test_example_keeps_a_pixel_of_strips():
    resized = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))['resized']
    step = dict(type='Resize', scale=[1333, 800], keep_ratio=True)
    assert resized(np.zeros((1, 5000, 3), np.uint8), [step]).shape == (1, 1333, 3)
    assert resized(np.zeros((5000, 1, 3), np.uint8), [step]).shape == (1333, 1, 3)


def test_example_says_what_cannot_be_written(tmp_path):
    example = runpy.run_path(str(ROOT / 'examples/onnx_inference.py'))
    with pytest.raises(SystemExit, match='none/a.png cannot be written'):
        example['write'](tmp_path / 'none/a.png', np.zeros((2, 2), np.uint8))


@pytest.mark.slow
def test_example_runs_without_torch(file, shapes, tmp_path):
    path = sorted((shapes / 'val2017').iterdir())[0]
    lines = run_example(file / 'x.onnx', path, '--out-dir', tmp_path, '--score', '0')
    import mmswinv2

    (theirs,) = mmswinv2.predict(str(file / 'config.py'), str(file / 'x.pth'), path)
    assert len(lines) == len(theirs.pred_instances) > 3
    score, *box = map(float, lines[0].rsplit(' ', 5)[1:])
    assert score == pytest.approx(theirs.pred_instances.scores[0].item(), abs=1e-3)
    assert box == pytest.approx(theirs.pred_instances.bboxes[0].tolist(), abs=0.1)
    assert cv2.imread(str(tmp_path / f'{path.stem}.png')).shape == cv2.imread(str(path)).shape


@pytest.mark.slow
def test_openvino_in_eight_bits_by_the_command(shapes, tmp_path):
    build(WHOLE, tmp_path)
    pictures = shapes / 'val2017'
    process = command(
        tmp_path / 'config.py', tmp_path / 'x.pth', '--format', 'openvino', '--out',
        tmp_path / 'x.xml', '--verify', pictures, '--int8', shapes / 'train2017', '--cfg-options',
        f'data_root={shapes}/',
    ).succeeded()  # fmt: skip
    told = process.stdout
    assert '4 pictures, largest differences: label' in told
    assert 'mIoU: PyTorch' in told
    assert re.search(r'int8: [\d.]+ ms to [\d.]+ ms a picture', told)
    assert re.search(r'int8: mIoU [\d.]+ to [\d.]+', told)
    assert {path.name for path in tmp_path.iterdir()} == {'config.py', 'x.pth', 'x.bin', 'x.xml'}
    assert 'FakeQuantize' in (tmp_path / 'x.xml').read_text()
    path = sorted(pictures.iterdir())[0]
    run_example(tmp_path / 'x.xml', path, '--out-dir', tmp_path / 'labels')
    import mmswinv2

    (theirs,) = mmswinv2.predict(str(tmp_path / 'config.py'), str(tmp_path / 'x.pth'), path)
    labels = cv2.imread(str(tmp_path / 'labels' / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
    assert (labels == theirs.pred_sem_seg.data[0].numpy()).mean() > 0.8


def test_the_first_picture_of_an_animation_is_a_sample(tmp_path):
    first, *others = (Image.new('RGB', (40, 30), (50 * i, 0, 0)) for i in range(3))
    for name in ('a.gif', 'b.webp'):
        first.save(tmp_path / name, save_all=True, append_images=others, lossless=True)
    first.save(tmp_path / 'c.png')
    cfg = Config.fromfile(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    samples = samples_of(cfg, [str(tmp_path)], '--verify')
    assert len(samples) == 3
    assert all(torch.equal(sample['inputs'], samples[2]['inputs']) for sample in samples)


@pytest.mark.slow
def test_eight_bits(file, shapes):
    import onnx

    cfg = Config.fromfile(file / 'config.py')
    samples = samples_of(cfg, [str(shapes / 'val2017')], '--int8')
    content = (file / 'x.onnx').read_bytes()
    small = quantize(OnnxModel(content, None, 'detection'), samples)
    assert len(small) < 0.6 * len(content)
    weights = {tensor.name for tensor in onnx.load_from_string(small).graph.initializer}
    assert 'model.backbone.patch_embed.proj.weight' in weights  # OpenVINO's int8 would be wrong
    image = samples[0]['inputs'][None].float().numpy()
    for runtime in RUNTIMES:
        before, after = (runtime(c, None, 'detection').run(image=image) for c in (content, small))
        assert after['scores'][0] == pytest.approx(before['scores'][0].item(), abs=0.2)
        # an uncalibrated mask head would give a constant
        assert after['masks'].std() == pytest.approx(before['masks'].std(), rel=0.3)

    class Blind(OnnxModel):
        def run(self, **inputs):
            return {name: value[:0] for name, value in super().run(**inputs).items()}

    with pytest.raises(UserError, match='finds nothing in the pictures for --int8'):
        quantize(Blind(content, None, 'detection'), samples)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Normalize', mean=[1, 2, 3], std=[1, 1, 1]),
        dict(type='mmdet.Pad', size_divisor=32),
        dict(type='ResizeShortestEdge', scale=64, max_size=96),
        dict(type='mmswinv2.LoadImage', scale=(0, 4095)),
    ],
    ids=lambda step: step['type'],
)
def test_steps_that_the_file_would_lose_are_refused(step, tmp_path):
    model = build(WHOLE, tmp_path)
    graph, cfg = graph_of(model), Config.fromfile(tmp_path / 'config.py')
    pipeline = cfg.test_dataloader.dataset.pipeline
    kinds = [kept['type'] for kept in about(graph, cfg, {})['sizes']]
    assert kinds == [s['type'] for s in pipeline if s['type'] == 'Resize']
    pipeline.insert(1, step)
    name = step['type'].split('.')[-1]
    with pytest.raises(UserError, match=f'{name} .*the test pipeline is not written into the fi'):
        about(graph, cfg, {})


def test_weights_that_no_file_holds():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(2**29, device='meta'))

    with pytest.raises(UserError, match=r'the weights take 2.0 GiB, and a file of ONNX holds less'):
        write_onnx(Large(), {}, {}, [])


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        ('max_num=5', 'without max_num have'),
        ('score_threshold=0.6, offset=1', 'without score_threshold, offset have'),
        ('max_num=-1, score_threshold=0.0, offset=0', ''),
    ],
)
def test_options_of_suppression_without_rule_are_refused(more, words, tmp_path):
    model = build(f"{RETINA}\nmodel['test_cfg']['nms'] = dict(type='nms', {more})\n", tmp_path)
    if words:
        with pytest.raises(UserError, match=f'has no export rule; nms and soft_nms {words}'):
            graph_of(model)
    else:
        graph_of(model)


def test_no_suppression_is_refused(tmp_path):
    model = build(f"{RETINA}\nmodel['test_cfg']['nms'] = None\n", tmp_path)
    with pytest.raises(UserError, match="nms={'type': None} has no export rule"):
        graph_of(model)


def test_a_least_size_of_boxes_in_the_stored_picture_is_refused(tmp_path):
    """mmdet holds it against boxes after they are scaled back, by a factor no file is given."""
    model = build(f"{RETINA}\nmodel['test_cfg']['min_bbox_size'] = 10\n", tmp_path)
    with pytest.raises(UserError, match='min_bbox_size=10 of RetinaHead has no export rule'):
        graph_of(model)


@pytest.mark.parametrize(
    ('config', 'part', 'head'), [(RETINA, '', 'RetinaHead'), (FASTER, "['rpn']", 'RPNHead')]
)
def test_any_number_of_boxes_is_refused(tmp_path, config, part, head):
    """A dense head of mmdet leaves out the last box then."""
    model = build(f"{config}\nmodel['test_cfg']{part}['max_per_img'] = -1\n", tmp_path)
    with pytest.raises(UserError, match=f'max_per_img=-1 of {head} has no export rule'):
        graph_of(model)


@pytest.mark.parametrize('key', ['iou_threshold', 'iou_thr'])
def test_an_overlap_threshold_of_zero(key):
    """Boxes that overlap at all are suppressed, as by mmcv."""
    given = torch.tensor([[[0.0, 0, 10, 10], [8, 0, 18, 10], [30, 0, 40, 10]]])
    cfg = dict(nms={'type': 'nms', key: 0.0}, max_per_img=10)
    kept, _ = suppress(given, torch.tensor([[0.9, 0.8, 0.7]]), torch.zeros(1, 3), cfg, 0.05)
    assert kept[:, 1].tolist() == [0, 2]


class Unsupported(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        height = x.shape[2]
        if self.way == 'number':
            return (x + int(height),)
        if self.way == 'scale':  # as mmseg's Upsample
            x = nn.functional.interpolate(x, [int(height * 1.5), 9], mode='bilinear')
            return (nn.functional.interpolate(x, (30, 9), mode='bilinear'),)
        if self.way == 'operator':
            return (torch.ops.mmswinv2_test.nothing(x),)
        rows = math.ceil(height / 3)  # as mmseg's ISAHead
        if rows * 3 > height:
            x = nn.functional.pad(x, (0, 0, 0, rows * 3 - height))
        return (x.reshape(1, 3, rows, 3, -1),)


@pytest.mark.parametrize(
    ('way', 'word'),
    [('number', 'needs'), ('operator', 'needs'), ('branch', 'fits'), ('scale', 'fits')],
)
def test_parts_that_no_graph_holds_are_refused(way, word):
    @torch.library.custom_op('mmswinv2_test::nothing', mutates_args=())
    def nothing(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    nothing.register_fake(torch.empty_like)
    sizes = dict(image={2: torch.export.Dim('H')})
    with pytest.raises(
        UserError, match=f'has no export rule: a part of it {word} pictures of one size'
    ):
        write_onnx(Unsupported(way), dict(image=torch.rand(1, 3, 30, 9)), sizes, ['x'])


@pytest.mark.parametrize('name', ['Mask2FormerHead', 'APCHead', 'DMHead'])
def test_decode_heads_without_rule_are_refused(name, tmp_path):
    model = build(WHOLE, tmp_path)
    model.decode_head.__class__ = type(name, (type(model.decode_head),), {})
    with pytest.raises(UserError, match=f'the decode head {name} has no export rule'):
        graph_of(model)


def test_extractors_without_rule_are_refused(tmp_path):
    from mmdet.models import GenericRoIExtractor

    model = build(MASK, tmp_path)
    model.roi_head.bbox_roi_extractor.__class__ = GenericRoIExtractor
    with pytest.raises(UserError, match='GenericRoIExtractor has no export rule; SingleRoIExtr'):
        graph_of(model)


@pytest.mark.parametrize(
    'loader', ['None', 'dict(_delete_=True, batch_size=1)', 'dict(dataset=dict(pipeline=None))']
)
def test_pictures_of_a_config_without_a_test_set(loader, tmp_path):
    (tmp_path / 'config.py').write_text(f'{WHOLE}\ntest_dataloader = {loader}\n')
    with pytest.raises(UserError, match='--verify: .*config.py has no test_dataloader, whose pipe'):
        export(str(tmp_path / 'config.py'), 'x.pth', tmp_path / 'x.onnx', images=[str(tmp_path)])


def test_a_validation_set_that_is_missing_is_told_before_the_work(tmp_path):
    options = {'val_dataloader.dataset.data_root': str(tmp_path / 'absent')}
    images = [str(ROOT / 'docs/demo.jpg')]
    (tmp_path / 'config.py').write_text(MASK)
    with pytest.raises(UserError, match='absent does not exist; .* out with --no-metric'):
        export(str(tmp_path / 'config.py'), 'x.pth', images=images, cfg_options=options)
    for more in (dict(metric=False), dict(cfg_options={**options, 'val_evaluator': None})):
        with pytest.raises(UserError, match='x.pth'):  # what comes next
            given = dict(images=images, cfg_options=options) | more
            export(str(tmp_path / 'config.py'), 'x.pth', **given)


def test_a_model_without_rule_is_refused():
    class Unknown(nn.Module):
        pass

    with pytest.raises(
        UserError, match='^Unknown has no export rule; ImageClassifier, Recognizer3D'
    ):
        graph_of(Unknown())


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(format='tflite'), "--format 'tflite' is not known; onnx and openvino are"),
        (dict(out='x.pb'), 'x.pb: names of files for --format onnx end in .onnx'),
        (dict(format='openvino', out='x.onnx'), 'for --format openvino end in .xml'),
        (dict(out='folder.onnx'), '{folder}/folder.onnx is a folder; name a file'),
        (dict(images='notes.txt'), '--verify: .*notes.txt is no picture; names end in .jpg'),
        (dict(images='broken.jpg'), 'broken.jpg'),
        (dict(images='missing.jpg'), 'missing.jpg is no file, folder'),
        (dict(int8='empty'), 'the folder {folder}/empty has no image or video'),
        (dict(int8='broken'), 'broken.jpg'),
    ],
    ids=lambda value: ' '.join(value.values()) if isinstance(value, dict) else '',
)
def test_bad_input(options, words, tmp_path):
    for name in ('empty', 'folder.onnx'):
        (tmp_path / name).mkdir()
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / 'broken').mkdir()
    for place in ('', 'broken/'):
        (tmp_path / f'{place}broken.jpg').write_text('no image')
    options = {
        key: value if key == 'format' else str(tmp_path / value) for key, value in options.items()
    }
    if 'images' in options:
        options['images'] = [options['images']]
    out = options.pop('out', tmp_path / 'x.onnx')
    config = ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(UserError, match=words.format(folder=tmp_path)):
        export(str(config), 'x.pth', out, **options)
    assert sorted(tmp_path.rglob('*')) == before


def test_the_folder_of_the_file_is_made_before_the_weights_are_read(tmp_path):
    config = ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'
    with pytest.raises(UserError, match='x.pth does not exist'):
        export(str(config), str(tmp_path / 'x.pth'), tmp_path / 'new' / 'x.onnx')
    assert (tmp_path / 'new').is_dir()


@pytest.mark.parametrize(
    ('key', 'a', 'b', 'far'),
    [
        ('coco/bbox_mAP', 0.5, 0.5009, False),
        ('coco/bbox_mAP', 0.5, 0.502, True),
        ('mDice', 50.0, 50.01, False),
        ('accuracy/top1', 50.0, 51.0, True),
        ('single-label/f1-score', 50.0, 50.05, False),
        ('mAcc', math.nan, math.nan, False),
        ('mAcc', math.nan, 50.0, True),
    ],
)
def test_scores_that_differ(key, a, b, far):
    assert scores_differ(key, a, b) is far


@pytest.mark.parametrize(('score', 'far'), [(0.5, False), (0.4, True)])
def test_equal_boxes_are_compared_by_their_scores(score, far):
    """Soft-NMS keeps boxes that are all clipped to the whole picture, with other scores."""
    from mmengine.structures import BaseDataElement, InstanceData

    def sample(scores, shifts):
        boxes = torch.tensor([0.0, 0, 64, 48]) + torch.tensor(shifts)[:, None]
        labels = torch.zeros(3, dtype=torch.long)
        found = InstanceData(bboxes=boxes, scores=torch.tensor(scores), labels=labels)
        return BaseDataElement(pred_instances=found)

    model = sample([0.9, 0.5, 0.2], [0.0, 1e-5, 2e-5])
    file = sample([0.9, score, 0.2], [2e-5, 1e-5, 0.0])
    assert ('score' in too_large(differences('detection', file, model))) is far


def test_a_mistake_is_one_sentence_of_the_command(tmp_path):
    (tmp_path / 'empty').mkdir()
    config = str(ROOT / 'configs/detection/mask-rcnn_swinv2-nano_shapes.py')
    given = ['x.pth', '--out', str(tmp_path / 'x.onnx'), '--int8', str(tmp_path / 'empty')]
    # SystemExit with a text prints it and exits with 1
    with pytest.raises(SystemExit, match='^error: the folder .*/empty has no image or video'):
        main(['export', config, *given])


def test_operators_of_other_domains_are_told():
    import onnx

    nodes = [
        onnx.helper.make_node('Relu', ['x'], ['y']),
        onnx.helper.make_node('Thing', ['y'], ['z'], domain='mine'),
    ]
    graph = onnx.helper.make_graph(nodes, 'g', [], [])
    domains = [onnx.helper.make_opsetid('', 20), onnx.helper.make_opsetid('mine', 1)]
    content = onnx.helper.make_model(graph, opset_imports=domains).SerializeToString()
    assert unsupported(content) == ['mine::Thing']


def test_inputs_that_tensorrt_lacks_are_told():
    from onnx import TensorProto, helper

    def value(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [
            helper.make_node('NonZero', ['flags'], ['places']),  # defined outside the branch
            helper.make_node('ReduceSum', ['places', 'axes'], ['y'], keepdims=0),
        ],
        'body', [], [value('y', TensorProto.INT64, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node('Clip', ['x'], ['z']),
        helper.make_node('ReduceSum', ['x', 'one'], ['s'], keepdims=0),
        helper.make_node('If', ['flag'], ['y'], then_branch=body, else_branch=body),
    ]
    given = [
        value('x', TensorProto.INT64, 3), value('axes', TensorProto.INT64, 1),
        value('flags', TensorProto.BOOL, 5), value('flag', TensorProto.BOOL),
    ]  # fmt: skip
    outputs = [value('y', TensorProto.INT64, None), value('z', TensorProto.INT64, 3)]
    one = helper.make_tensor('one', TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, 'g', given, outputs, [one])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)])
    assert unsupported(content.SerializeToString()) == [
        'Clip of INT64', 'NonZero of BOOL', 'ReduceSum with axes that are computed',
    ]  # fmt: skip
