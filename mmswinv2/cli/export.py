"""Write a whole model as ONNX or for OpenVINO, with its post-processing, and compare the two."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..options import ArgumentParser

FORMATS = {'onnx': '.onnx', 'openvino': '.xml'}


def export(
    config: str,
    checkpoint: str,
    out: str | Path,
    *,
    format: str = 'onnx',
    normalized: bool = False,
    int8: str | None = None,
    images: Sequence[str] = (),
    metric: bool = True,
    cfg_options: dict[str, Any] | None = None,
) -> None:
    """Write a file that gives a model's answers without PyTorch.

    Args:
        config: file of a config with a ``test_dataloader``.
        checkpoint: file, name or address of weights for the whole model.
        out: the file.
        format: ``'onnx'``, or ``'openvino'``, which writes a ``.bin`` beside an ``.xml``.
        normalized: see `mmswinv2.deploy.graph.Graph`.
        int8: folder of pictures; products are computed in 8 bits, whose ranges they tell.
        images: pictures and folders to compare file and model on.
        metric: whether to compare them on the validation set too.
        cfg_options: as ``--cfg-options``.

    Raises:
        UserError: if something cannot be used, or the file differs from the model.
    """
    from .. import hosts
    from ..checkpoints.write import write_atomically
    from ..deploy.graph import write_onnx
    from ..deploy.rules import about, graph_of
    from ..deploy.tensorrt import unsupported
    from ..engine.launch import config_with_options
    from .predict import IMAGES, VIDEOS, _build, _divide, _Pipeline, _sources

    out = Path(out)
    if format not in FORMATS:
        raise UserError(f'--format {format!r} is not known; {" and ".join(FORMATS)} are')
    if not out.parent.is_dir():
        raise UserError(f'the folder {out.parent} of the file does not exist')
    if format == 'openvino':
        _openvino()
    cfg = config_with_options(config, cfg_options)

    def samples(given: Sequence[str], option: str) -> list[Any]:
        host = hosts.of(cfg)
        host.apply()
        host.use_registries()
        prepare = _Pipeline(cfg)
        kinds, word = (VIDEOS, 'video') if prepare.of_clips else (IMAGES, 'picture')
        files, films = _divide(list(_sources(given)), clips=prepare.of_clips)
        for path in (*(path for _, path in films), *(item.path for item in files)):
            if Path(path).suffix.lower() not in kinds:
                raise UserError(f'{option}: {path} is no {word}; names end in {", ".join(kinds)}')
        return [prepare(item, number) for number, item in enumerate(files)]

    compared = samples(images, '--verify') if images else []
    ranges = samples([int8], '--int8') if int8 else []
    model, meta = _build(cfg, checkpoint, 'cpu')
    graph = graph_of(model, normalized)
    if normalized and (images or int8):
        raise UserError('--normalized: pictures of files are not, so that nothing can be compared')
    facts = about(graph, cfg, meta)
    content = write_onnx(graph, graph.example(), graph.sizes(), list(graph.outputs), facts)
    if missing := unsupported(content):
        print(f'TensorRT lacks {", ".join(missing)}')
    if images:
        _compare(cfg if metric else None, model, content, graph.task, compared)
    if ranges:
        content = _quantized(cfg if metric else None, model, content, graph.task, ranges)
    if format == 'onnx':
        write_atomically(out, lambda file: file.write(content))
    else:
        _write_openvino(content, out)
    print(f'{out}: {len(content) / 2**20:.1f} MB')


def _compare(cfg: Any, model: Any, content: bytes, task: str, samples: Sequence[Any]) -> None:
    """Print differences; raises `UserError` where they are more than rounding."""
    from ..deploy.runtime import OnnxModel
    from ..deploy.verify import TOLERANCE, differences, metrics, too_large
    from .predict import _run

    from mmengine.dataset import pseudo_collate  # isort: skip

    file = OnnxModel(content, model, task)
    worst: dict[str, float] = {}
    for sample in samples:
        (theirs,) = _run(model, [sample], amp=False)
        (ours,) = file.test_step(pseudo_collate([sample]))
        for key, value in differences(task, ours, theirs).items():
            old = worst.get(key, 0.0)
            worst[key] = value if not value <= old else old  # not a number stays
    print(f'{len(samples)} pictures, largest differences: {_words(worst)}')
    if wrong := too_large(worst):
        raise UserError(f'the file differs from the model: {_words(wrong)}; nothing was written')
    if cfg is None or not cfg.get('val_dataloader'):
        return
    of_model, of_file = metrics(cfg, (model, file))
    for key, value in of_model.items():
        print(f'{key}: PyTorch {value:.4f}, file {of_file[key]:.4f}')
    far = [key for key, value in of_model.items() if not abs(value - of_file[key]) <= _bound(key)]
    if far:
        raise UserError(
            f'{", ".join(far)} of the file differ by more than {TOLERANCE}; nothing was written'
        )


def _bound(key: str) -> float:
    """mmseg, mmpretrain and some more count in hundredths."""
    from ..deploy.verify import TOLERANCE

    return TOLERANCE * (100 if key in _PERCENT or key.startswith('accuracy/') else 1)


_PERCENT = ('aAcc', 'mIoU', 'mAcc')


def _words(numbers: dict[str, float]) -> str:
    return ', '.join(f'{key} {value:.1e}' for key, value in numbers.items())


def _quantized(cfg: Any, model: Any, content: bytes, task: str, samples: Sequence[Any]) -> bytes:
    from ..deploy.int8 import milliseconds, quantize
    from ..deploy.runtime import OnnxModel
    from ..deploy.verify import metrics

    small = quantize(content, samples, task)
    times = [milliseconds(OnnxModel(c, model, task), samples[0]) for c in (content, small)]
    print(f'int8: {times[0]:.1f} ms to {times[1]:.1f} ms a picture')
    if cfg is not None and cfg.get('val_dataloader'):
        before, after = metrics(cfg, (OnnxModel(c, model, task) for c in (content, small)))
        for key, value in before.items():
            print(f'int8: {key} {value:.4f} to {after[key]:.4f}')
    return small


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError('--format openvino: pip install openvino') from error
    return openvino


def _write_openvino(content: bytes, out: Path) -> None:
    """Convert and write both files, or none."""
    import tempfile

    openvino = _openvino()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}-') as folder:
        source = Path(folder) / 'model.onnx'
        source.write_bytes(content)
        written = Path(folder) / out.with_suffix('.xml').name
        openvino.save_model(openvino.convert_model(source), written, compress_to_fp16=False)
        for part in (written.with_suffix('.bin'), written):
            part.replace(out.parent / part.name)


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    from ..engine.settings import add_config_options

    parser = ArgumentParser(
        'mmswinv2 export',
        description=__doc__,
        epilog='example: mmswinv2 export config.py epoch_36.pth --out model.onnx --verify photos',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='weights of the whole model')
    parser.add_argument('--out', help='the file to write (model.onnx or model.xml)')
    parser.add_argument('--format', default='onnx', help='onnx or openvino (onnx)')
    parser.add_argument(
        '--normalized', action='store_true', help='pictures come with mean and deviation taken off'
    )
    parser.add_argument('--int8', metavar='DATA', help='8 bits, with ranges of these pictures')
    parser.add_argument(
        '--verify', nargs='+', metavar='IMAGE', default=(), help='compare with PyTorch on these'
    )
    parser.add_argument(
        '--no-metric', action='store_true', help='do not compare on the validation set'
    )
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 export``."""
    args = parse_args(arguments)
    export(
        args.config,
        args.checkpoint,
        args.out or f'model{FORMATS.get(args.format, "")}',
        format=args.format,
        normalized=args.normalized,
        int8=args.int8,
        images=args.verify,
        metric=not args.no_metric,
        cfg_options=args.cfg_options,
    )
    sys.stdout.flush()
