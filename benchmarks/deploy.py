"""Files of `mmswinv2 export` beside PyTorch: size, time and metric.

``python -m benchmarks.deploy`` draws small sets and trains nano models on them for some steps, or
takes checkpoints (``--checkpoints detection=FILE segmentation=FILE``), and writes each as ONNX and
for OpenVINO, in float32 and in 8 bits. A time covers what `tools/test.py` does for one picture
after loading it: normalisation, network, boxes, and masks pasted into the picture.
The runtimes take turns, and the shortest run counts, as other jobs disturb it least.
"""

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate

from benchmarks.lora import call
from mmswinv2.cli.export import samples_of, write_all
from mmswinv2.deploy.graph import write_onnx
from mmswinv2.deploy.int8 import quantize
from mmswinv2.deploy.rules import about, graph_of
from mmswinv2.deploy.runtime import OnnxModel, OpenVinoModel
from mmswinv2.deploy.verify import metrics
from mmswinv2.engine.configs import config_with_options
from mmswinv2.inference.predictor import Predictor
from mmswinv2.options import ArgumentParser

SHAPES, MOTION = 'make_shapes.py', 'make_motion.py'
# name: model, config, data set, script that draws it, folder of its training files, metrics
MODELS = {
    'detection': (
        'Mask R-CNN', 'configs/detection/mask-rcnn_swinv2-nano_shapes.py', 'shapes', (SHAPES,),
        'train2017', {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP'},
    ),
    'segmentation': (
        'UperNet, slide', 'configs/segmentation/swinv2-nano_upernet_shapes.py', 'shapes-large',
        (SHAPES, '--large', '--size', '96'), 'train2017', {'mIoU': 'mIoU'},
    ),
    'video': (
        'Video-SwinV2', 'configs/video/video-swinv2-nano_motion.py', 'motion', (MOTION,),
        'videos_train', {'acc/top1': 'top-1'},
    ),
    'classification': (  # with mmpretrain: .venv-peers
        'classifier', 'configs/classification/swinv2-nano_shapes.py', 'shapes-cut', (SHAPES,),
        'train2017', {'accuracy/top1': 'top-1'},
    ),
}  # fmt: skip
HEAD = 'model', 'runtime', 'file', 'a picture', 'times as fast', 'metric'


def data(name: str, args: argparse.Namespace) -> Path:
    """The folder of the set, which is drawn if it is not there."""
    _, _, folder, (script, *options), _, _ = MODELS[name]
    numbers = f'{args.train}-{args.val}'
    root = Path(args.work_dir, f'{folder}-{numbers}').resolve()
    if root.exists():
        return root
    drawn = root.with_name(f'shapes-{numbers}') if name == 'classification' else root
    if not drawn.exists():
        counts = ('--train', str(args.train), '--val', str(args.val))
        call(f'dataset_converters/{script}', str(drawn), *counts, *options)
    if drawn != root:
        call('dataset_converters/coco_to_folders.py', str(drawn), str(root))
    return root


def trained(name: str, root: Path, args: argparse.Namespace) -> str:
    """A checkpoint: the one that was given, or one that is trained here."""
    if name in args.checkpoints:
        return str(args.checkpoints[name])
    work = Path(args.work_dir, name).resolve()
    call(
        'train.py', MODELS[name][1], '--work-dir', str(work), '--max-iters',
        str(args.steps), '--cfg-options', f'data_root={root}/', 'train_cfg.val_interval=99999',
    )  # fmt: skip
    return (work / 'last_checkpoint').read_text()


def rows(name: str, args: argparse.Namespace):
    """A row for each runtime."""
    title, config, _, _, folder, wanted = MODELS[name]
    root = data(name, args)
    cfg = config_with_options(config, {'data_root': f'{root}/'})
    predictor = Predictor(cfg, trained(name, root, args), 'cpu')
    model, graph = predictor.model, graph_of(predictor.model)
    facts = about(graph, cfg, predictor.meta)
    content = write_onnx(graph, graph.example(), graph.sizes(), list(graph.outputs), facts)
    files = sorted(str(path) for path in (root / folder).rglob('*.*'))
    files = files[:: max(1, len(files) // args.calibration)][: args.calibration]
    samples = samples_of(cfg, files, 'calibration')
    small = quantize(OnnxModel(content, model, graph.task), samples)
    models = {'PyTorch': model}
    for kind, label in ((OnnxModel, 'onnxruntime'), (OpenVinoModel, 'OpenVINO')):
        models[label] = kind(content, model, graph.task, args.threads)
        models[f'{label}, int8'] = kind(small, model, graph.task, args.threads)
    times = in_turns(models, samples, args.runs)
    for (label, one), found in zip(models.items(), metrics(cfg, models.values()), strict=True):
        yield (
            title, label, f'{size(one) / 1e6:.1f} MB', f'{1000 * times[label]:.1f} ms',
            f'{times["PyTorch"] / times[label]:.2f}',
            ', '.join(f'{words} {found[key]:.3f}' for key, words in wanted.items()),
        )  # fmt: skip


def in_turns(models, samples, runs: int) -> dict[str, float]:
    """Seconds of the shortest run; the first of each is not counted."""
    times = {label: [] for label in models}
    for i in range(runs + 1):
        batch = samples[i % len(samples)]
        for label, model in models.items():
            start = time.perf_counter()
            with torch.no_grad():
                model.test_step(pseudo_collate([batch]))
            times[label].append(time.perf_counter() - start)
    return {label: min(values[1:]) for label, values in times.items()}


def size(model) -> int:
    """Bytes of the file, or of a checkpoint with the weights alone."""
    if isinstance(model, torch.nn.Module):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        return file.tell()
    with tempfile.TemporaryDirectory() as folder:
        name = 'x.onnx' if isinstance(model, OnnxModel) else 'x.xml'
        return write_all(model, Path(folder, name))


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, as_written=True)
    parser.add_argument(
        '--models', nargs='+', choices=MODELS, default=['detection', 'segmentation', 'video'],
        help='those of the hosts in this environment (detection segmentation video)',
    )  # fmt: skip
    parser.add_argument('--checkpoints', nargs='+', default=(), metavar='MODEL=FILE')
    parser.add_argument('--steps', type=int, default=150, help='of a training (150)')
    parser.add_argument('--train', type=int, default=400, help='pictures to train on (400)')
    parser.add_argument('--val', type=int, default=60, help='pictures for the metric (60)')
    parser.add_argument('--calibration', type=int, default=16, help='pictures for int8 (16)')
    parser.add_argument('--runs', type=int, default=20, help='for a time (20)')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--work-dir', default='work_dirs/bench/deploy')
    args = parser.parse_args()
    for given in args.checkpoints:
        if given.partition('=')[0] not in MODELS or '=' not in given:
            parser.error(f'--checkpoints {given}: write MODEL=FILE, of {", ".join(MODELS)}')
    args.checkpoints = dict(given.split('=', 1) for given in args.checkpoints)
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    Path(args.work_dir).mkdir(parents=True, exist_ok=True)
    for line in HEAD, ('---',) * len(HEAD):
        print(f'| {" | ".join(line)} |', flush=True)
    for name in args.models:
        for row in rows(name, args):
            print(f'| {" | ".join(row)} |', flush=True)


if __name__ == '__main__':
    main()
