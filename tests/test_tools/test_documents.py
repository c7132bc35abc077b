"""Every block of code in the documents is executed: configs on real bases, commands up to the tool.

Blocks of commands run in bash, with stubs that record their arguments in place of
`python`, `make`, `pip` and `srun`; each tool then parses its recorded options. What
the tools do is tested elsewhere.
"""

import functools
import importlib
import os
import re
import runpy
import sys
from collections import Counter

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from mmswinv2 import hosts
from mmswinv2.cli import COMMANDS
from mmswinv2.core import SwinV2
from mmswinv2.hosts import find_config
from mmswinv2.hosts.configs import without_weights
from tests.test_docs import DOCUMENTS
from tests.test_tools.conftest import ROOT
from tests.test_tools.test_swap import decayed, pytestmark, train_a_step  # noqa: F401
from tests.tool_server import run_program

BLOCK = re.compile(r'^( *)```(\w+)\n(.*?)^ *```', re.MULTILINE | re.DOTALL)
NOT_CODE = {'bibtex'}


@functools.cache
def blocks(document, language):
    """The blocks of a document, in order."""
    found = BLOCK.findall((ROOT / document).read_text())
    assert {kind for _, kind, _ in found} <= {'python', 'sh', *NOT_CODE}
    return [text for _, kind, text in found if kind == language]


# --- configs -------------------------------------------------------------------------------------

TSN = 'recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb.py'
TSN_SWIN = (
    'recognition/tsn/custom_backbones/'
    'tsn_imagenet-pretrained-swin-transformer_32xb8-1x1x8-50e_kinetics400-rgb.py'
)
VIDEO_SWIN = 'recognition/swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb.py'
# document, numbers of its blocks that make one config, base; bases have old backbones of all kinds:
# 'depth' of a ResNet, BGR and std 1 of Caffe, 'embed_dims' and custom_keys of Swin
IN_A_CONFIG = 'docs/how_to/use_in_a_config.md'
CONFIGS = [
    (IN_A_CONFIG, (0, 1), 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
    (IN_A_CONFIG, (0, 1), 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py'),
    (IN_A_CONFIG, (0, 1), 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    (IN_A_CONFIG, (0, 1), 'mmdet::res2net/cascade-rcnn_res2net-101_fpn_20e_coco.py'),
    (IN_A_CONFIG, (0, 1), 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
    (IN_A_CONFIG, (0, 2), 'mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py'),
    (
        IN_A_CONFIG,
        (0, 2),
        'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    ),
    ('docs/data.md', (0, 1), 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'),
    (
        'docs/how_to/convert.md',
        (0,),
        'configs/detection/faster-rcnn_swinv2-t-w16_fpn_ms-3x_coco.py',
    ),
    ('docs/tutorials/segmentation.md', (0,), 'configs/segmentation/swinv2-nano_upernet_shapes.py'),
    ('docs/how_to/questions.md', (0,), 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'),
    ('docs/how_to/questions.md', (1,), 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'),
    ('docs/how_to/lora.md', (0,), 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'),
    ('docs/how_to/lora.md', (1,), 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'),
    ('configs/pretraining/README.md', (0,), 'configs/detection/mask-rcnn_swinv2-nano_shapes.py'),
    ('configs/video/README.md', (0,), f'mmaction::{TSN}'),
    ('configs/video/README.md', (0,), f'mmaction::{TSN_SWIN}'),
    ('configs/video/README.md', (1,), f'mmaction::{VIDEO_SWIN}'),
]
# executed in tests/test_pretrain, where mmpretrain is installed
OF_MMPRETRAIN = [
    ('configs/classification/README.md', (0,), 'mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    (
        'configs/classification/README.md',
        (0,),
        'mmpretrain::swin_transformer/swin-base_16xb64_in1k.py',
    ),
    (
        'configs/classification/README.md',
        (1,),
        'configs/classification/swinv2-base-w16_in22k-pre_16xb64_in1k-256px.py',
    ),
]
TRAINED = {'faster-rcnn_r50_fpn_1x_coco.py', 'upernet_r50_4xb2-40k_cityscapes-512x1024.py'}
SCRIPTS = [('docs/compatibility.md', 0), ('docs/how_to/questions.md', 2)]
# executed in tests/test_tools/test_trackers.py
TRACKERS = [('docs/how_to/trackers.md', number) for number in range(6)]
# executed in tests/test_cli, with a config and weights
PREDICTIONS = [('README.md', 0), ('docs/how_to/predict.md', 0)]


def test_every_block_of_python_is_executed():
    executed = {
        (document, number) for document, numbers, _ in CONFIGS + OF_MMPRETRAIN for number in numbers
    }
    written = {
        (name, number)
        for name in (str(path.relative_to(ROOT)) for path in DOCUMENTS)
        for number in range(len(blocks(name, 'python')))
    }
    assert executed | {*SCRIPTS, *TRACKERS, *PREDICTIONS} == written and len(written) >= 6


def config_of(document, numbers, base, folder):
    """Blocks of a document as one config, on a base, without weights."""
    path = folder / 'mine.py'
    text = ''.join(blocks(document, 'python')[number] for number in numbers)
    path.write_text(f'_base_ = {str(find_config(base).resolve())!r}\n{text}')
    cfg = Config.fromfile(path)
    cfg.model = without_weights(cfg.model)
    return cfg


@pytest.mark.parametrize(('document', 'numbers', 'base'), CONFIGS, ids=lambda v: str(v)[-60:])
def test_config(document, numbers, base, tmp_path):
    hosts.apply()
    cfg = config_of(document, numbers, base, tmp_path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        backbone = model.backbone
        assert isinstance(backbone, SwinV2)
        if document == 'configs/pretraining/README.md':
            return
        if document == 'docs/data.md':
            assert backbone(torch.zeros(1, 4, 64, 64, device='meta'))[0].shape[:2] == (1, 32)
            assert model.data_preprocessor.mean.shape == (4, 1, 1)
            assert TRANSFORMS.build(cfg.load).channels == 1
            return
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        assert type(wrapper.optimizer).__name__ == 'AdamW'
        assert not [n for n in decayed(backbone, wrapper) if re.search('norm|bias|cpb|scale', n)]
        if cfg.default_scope == 'mmaction':
            train_recognizer(MODELS.build(cfg.model))
            return
        maps = model.eval().extract_feat(torch.zeros(1, 3, 128, 128, device='meta'))
        for head in ('decode_head', 'auxiliary_head'):
            if hasattr(model, head):
                getattr(model, head)(maps)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53] and preprocessor.bgr_to_rgb
    assert preprocessor.std == [58.395, 57.12, 57.375] and not preprocessor.get('rgb_to_bgr')
    if base.rpartition('/')[2] in TRAINED:
        losses, before, trained, _ = train_a_step(cfg, 128)
        assert all(torch.isfinite(v).all() for v in losses.values())
        assert [n for n, p in trained.named_parameters() if p.grad is None] == []
        assert any(not torch.equal(p, before[n]) for n, p in trained.named_parameters())


def train_recognizer(model):
    """Run a training step and a prediction on two videos."""
    from mmaction.structures import ActionDataSample

    size = (8, 3, 64, 64) if type(model).__name__ == 'Recognizer2D' else (1, 3, 8, 64, 64)
    inputs = [torch.randint(256, size, dtype=torch.uint8) for _ in range(2)]
    data = dict(inputs=inputs, data_samples=[ActionDataSample().set_gt_label(i) for i in (0, 1)])
    loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    samples = model.eval()(**model.data_preprocessor(data), mode='predict')
    assert [len(sample.pred_score) for sample in samples] == [400, 400]


@pytest.mark.parametrize(('document', 'number'), SCRIPTS)
def test_script(document, number, run_code):
    run_code(blocks(document, 'python')[number]).succeeded()


# --- commands ------------------------------------------------------------------------------------

WITH_COMMANDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS if '```sh' in path.read_text()]
# records its name and arguments: ASCII's unit separator ends each, its record separator a command
STUB = """#!/bin/sh
printf '%s\\037' "${{0##*/}}" "$@" >>'{log}'
printf '\\036' >>'{log}'
"""
# least number of commands of each kind in the documents, so that none is overlooked
LEAST = {'python': 25, 'make': 9, 'pip': 4}
NUMBERS = {'GPUS': '2', 'EPOCHS': '3'}


def commands(document):
    """All shell blocks of a document joined, because later ones use functions of earlier ones."""
    return ''.join(blocks(document, 'sh'))


def called(text, folder):
    """The command lines in a text, as its programs receive them."""
    log = folder / 'log'
    log.write_text('')
    for name in ('python', 'make', 'pip', 'srun', 'pre-commit', 'mmswinv2'):
        stub = folder / name
        stub.write_text(STUB.format(log=log))
        stub.chmod(0o755)
    text = text.replace('.venv/bin/python', 'python')
    text = re.sub(r' {3,}(?=tools/)', '\n', text)  # splits two commands on one line
    text = re.sub('|'.join(NUMBERS), lambda match: NUMBERS[match[0]], text)
    run_program(
        ['bash', '-euo', 'pipefail', '-c', text],
        cwd=ROOT,
        env={'PATH': f'{folder}{os.pathsep}{os.environ["PATH"]}'},
    ).succeeded()
    return [record.split('\037')[:-1] for record in log.read_text().split('\036')[:-1]]


@functools.cache
def parser_of(script):
    """The function that reads the command line of a tool, by itself or as a command."""
    if command := re.search(r"^    run\('(\w+)'", (ROOT / script).read_text(), re.MULTILINE):
        parse = importlib.import_module(f'mmswinv2.cli.{command[1]}').parse_args
        return lambda: parse(sys.argv[1:])
    sys.path.insert(0, str((ROOT / script).parent))
    try:
        return runpy.run_path(str(ROOT / script), run_name='of_documents')['parse_args']
    finally:
        sys.path.pop(0)


def check_python(arguments, monkeypatch):
    """Let the called tool parse its options; for pytest, check that the tests exist."""
    if arguments[0] == '-c':  # dist_address.sh checks for a free port
        return
    if arguments[:2] == ['-m', 'pytest']:
        file, _, name = arguments[2:5]
        assert f'def {name}' in (ROOT / file).read_text()
        return
    if arguments[0].startswith('examples/'):  # run by tests/test_tools/test_export.py
        assert (ROOT / arguments[0]).is_file()
        return
    if arguments[:2] == ['-m', 'benchmarks.deploy']:
        monkeypatch.setattr(sys, 'argv', arguments[1:])
        importlib.import_module(arguments[1]).parse_args()
        return
    (place,) = [i for i, word in enumerate(arguments) if re.search(r'tools/.*\.py$', word)]
    script, *options = (word.strip('[]') for word in arguments[place:])
    monkeypatch.setattr(sys, 'argv', [script, *options])
    check_config(parser_of(script.removeprefix(f'{ROOT}/'))())


def check_command(command, options):
    """Let a command of mmswinv2 read its options."""
    assert command in COMMANDS
    check_config(importlib.import_module(f'mmswinv2.cli.{command}').parse_args(options))


def check_config(args):
    """A config that is named in a package is there."""
    if '::' in (getattr(args, 'config', None) or ''):
        find_config(args.config)


@pytest.mark.parametrize('document', WITH_COMMANDS)
def test_commands(document, tmp_path, monkeypatch):
    for program, *arguments in called(commands(document), tmp_path):
        if program == 'make':
            for target in arguments:
                assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.M), target
        elif program == 'pip':  # see tests/test_packaging.py
            assert arguments[0] == 'install'
        elif program == 'mmswinv2':
            command, *rest = arguments
            check_command(command, rest)
        elif program in ('python', 'srun'):
            check_python(arguments, monkeypatch)


def test_no_command_is_overlooked(tmp_path):
    text = ''.join(map(commands, WITH_COMMANDS))
    programs = Counter(program for program, *_ in called(text, tmp_path))
    assert all(programs[name] >= least for name, least in LEAST.items()), programs


@pytest.mark.parametrize(
    'text',
    [
        'python tools/train.py CONFIG --no-such-option',
        'tools/dist_test.sh CONFIG 2',
        'python tools/misc/no_such_tool.py',
        'maps() { python "$@"',
    ],
)
def test_wrong_commands_are_found(text, tmp_path, monkeypatch):
    with pytest.raises((SystemExit, OSError, AssertionError)):
        for _, *arguments in called(text, tmp_path):
            check_python(arguments, monkeypatch)
