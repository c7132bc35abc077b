"""Write a whole model as ONNX or for OpenVINO, with its post-processing, and compare the two."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, needed
from ..files import IMAGES, check_writable
from ..options import ArgumentParser, add_checkpoint, add_config, add_config_options
from ..progress import track


def export(
    config: str,
    checkpoint: str,
    out: str | Path | None = None,
    *,
    format: str = 'onnx',
    normalized: bool = False,
    int8: str | None = None,
    images: Sequence[str] = (),
    metric: bool = True,
    cfg_options: dict[str, Any] | None = None,
) -> None:
    """Export a model to a file that runs without PyTorch.

    Args:
        config: path of a config with a ``test_dataloader``.
        checkpoint: file, name or address of weights for the whole model.
        out: the file to write; ``None``: ``model.onnx`` or ``model.xml``.
        format: ``'onnx'``, or ``'openvino'``, which writes a ``.bin`` beside an ``.xml``.
        normalized: see `mmswinv2.deploy.graph.Graph`.
        int8: quantize to int8, calibrated on pictures of this folder.
        images: pictures and folders to compare file and model on.
        metric: whether to compare them on the validation set too.
        cfg_options: changes to the config, as for ``--cfg-options``.

    Raises:
        UserError: if an argument cannot be used, or the file differs from the model.
    """
    from .. import hosts
    from ..deploy.graph import write_onnx
    from ..deploy.rules import about, graph_of
    from ..engine.configs import config_with_options
    from ..inference.model import load_model

    if normalized and (images or int8):
        raise UserError('--normalized: pictures of files are not, so that nothing can be compared')
    out, runtime = _file_and_runtime(out, format, runs=bool(images))
    if int8:
        needed('onnxruntime', '--int8')
    cfg = config_with_options(config, cfg_options)
    compared = samples_of(cfg, images, '--verify') if images else []
    ranges = samples_of(cfg, [int8], '--int8') if int8 else []
    scored = metric and cfg.get('val_dataloader') and cfg.get('val_evaluator') and (images or int8)
    if scored:
        try:
            hosts.check_data(cfg, ('val',))
        except UserError as error:
            raise UserError(f'{error}; or leave the metric out with --no-metric') from error
    model, meta = load_model(cfg, checkpoint, 'cpu')
    graph = graph_of(model, normalized)
    facts = about(graph, cfg, meta)
    content = write_onnx(graph, graph.example(), graph.sizes(), list(graph.outputs), facts)
    file = runtime(content, model, graph.task)
    of_metric = cfg if scored else None
    scores = _compare(of_metric, model, file, compared) if images else None
    if ranges:
        file = _quantized(of_metric, file, ranges, scores)
    size = write_all(file, out)
    print(f'{out}: {size / 1e6:.1f} MB')


def samples_of(cfg: Any, given: Sequence[str], option: str) -> list[Any]:
    """Samples that a config's test pipeline makes from files, folders and patterns.

    Of an animation it is the first picture.

    Raises:
        UserError: if one cannot be used; the message names the `option` they were given with.
    """
    from .. import hosts
    from ..inference.pipeline import Pipeline
    from ..inference.sources import VIDEOS, Item, find_sources

    if not hosts.testing_pipeline(cfg):
        raise UserError(
            f'{option}: {cfg.filename} has no test_dataloader, whose pipeline is needed'
        )
    hosts.use_registries(cfg)
    prepare = Pipeline(cfg)
    kinds, word = (VIDEOS, 'video') if prepare.of_clips else (IMAGES, 'picture')
    sources = list(find_sources(given, clips=prepare.of_clips))
    for path in sources:
        if Path(path).suffix.lower() not in kinds:
            raise UserError(f'{option}: {path} is no {word}; names end in {", ".join(kinds)}')
    files = (Item(path, path, clip=prepare.of_clips) for path in sources)
    return [prepare(item, number) for number, item in enumerate(files)]


def _file_and_runtime(out: str | Path | None, format: str, runs: bool) -> tuple[Path, Any]:
    """The file to write, and the class that runs files of its format.

    Raises:
        UserError: before minutes of work, if it cannot be written, or not be run where it `runs`.
    """
    from ..deploy.runtime import FORMATS

    if format not in FORMATS:
        raise UserError(f'--format {format!r} is not known; {" and ".join(FORMATS)} are')
    ending, runtime = FORMATS[format]
    out = Path(out or f'model{ending}')
    if out.suffix != ending:
        raise UserError(f'--out {out}: names of files for --format {format} end in {ending}')
    for path in (out, out.with_suffix('.bin')):
        if path.is_dir():
            raise UserError(f'{path} is a folder; name a file with --out')
    check_writable(out.parent, 'folder')
    if format == 'openvino':
        needed('openvino', '--format openvino')
    elif runs:
        needed('onnxruntime', 'running the file')
    return out, runtime


def write_all(file: Any, out: Path) -> int:
    """Write all files of an export, moved into place when complete; returns their size in bytes."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}-') as folder:
        file.write(Path(folder, out.name))
        parts = sorted(Path(folder).iterdir())  # .bin before .xml
        size = sum(part.stat().st_size for part in parts)
        for part in parts:
            part.replace(out.with_name(part.name))
    return size


def _compare(cfg: Any, model: Any, file: Any, samples: Sequence[Any]) -> dict[str, float] | None:
    """Print differences; raises `UserError` if they exceed rounding errors.

    Returns:
        metrics of the file on the validation set of `cfg`; ``None`` without a config.
    """
    from ..deploy.verify import differences, metrics, scores_differ, too_large
    from ..inference.predictor import predict_batch

    from mmengine.dataset import pseudo_collate  # isort: skip

    worst: dict[str, float] = {}
    for sample in track(samples, 'comparing'):
        (theirs,) = predict_batch(model, [sample], amp=False)
        (ours,) = file.test_step(pseudo_collate([sample]))
        for key, value in differences(file.task, ours, theirs).items():
            old = worst.get(key, 0.0)
            worst[key] = value if not value <= old else old  # keeps NaN
    print(f'{len(samples)} pictures, largest differences: {_in_words(worst)}')
    if wrong := too_large(worst):
        raise UserError(f'the file differs from the model: {_in_words(wrong)}; nothing was written')
    if cfg is None:
        return None
    of_model, of_file = metrics(cfg, (model, file))
    for key, value in of_model.items():
        print(f'{key}: PyTorch {value:.4f}, file {of_file[key]:.4f}')
    far = [key for key, value in of_model.items() if scores_differ(key, value, of_file[key])]
    if far:
        raise UserError(
            f'{", ".join(far)} of the file differ from PyTorch, see above; nothing was written'
        )
    return of_file


def _in_words(numbers: dict[str, float]) -> str:
    return ', '.join(f'{key} {value:.1e}' for key, value in numbers.items())


def _quantized(cfg: Any, file: Any, samples: Sequence[Any], scores: dict[str, float] | None) -> Any:
    """Quantize a file to int8; prints time and metrics before (`scores`, if known) and after."""
    from ..deploy.int8 import milliseconds, quantize
    from ..deploy.verify import metrics

    small = type(file)(quantize(file, samples), file.host_model, file.task)
    before, after = (milliseconds(f, samples[0]) for f in (file, small))
    print(f'int8: {before:.1f} ms to {after:.1f} ms a picture')
    if cfg is not None:
        *first, of_small = metrics(cfg, (file, small) if scores is None else (small,))
        for key, value in (first[0] if scores is None else scores).items():
            print(f'int8: {key} {value:.4f} to {of_small[key]:.4f}')
    return small


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(
        'mmswinv2 export',
        description=__doc__,
        epilog='example: mmswinv2 export config.py epoch_36.pth --out model.onnx --verify photos',
    )
    add_config(parser)
    add_checkpoint(parser)
    parser.add_argument('--out', help='the file to write (model.onnx or model.xml)')
    parser.add_argument('--format', default='onnx', help='onnx or openvino (onnx)')
    parser.add_argument(
        '--normalized', action='store_true', help='the caller normalizes the inputs (the file does)'
    )
    parser.add_argument(
        '--int8',
        metavar='DATA',
        help='compute in 8 bits, calibrated on the images of this folder (float32)',
    )
    parser.add_argument(
        '--verify', dest='images', nargs='+', metavar='IMAGE', default=(),
        help='compare with PyTorch on these images (no comparison)',
    )  # fmt: skip
    parser.add_argument(
        '--no-metric', dest='metric', action='store_false',
        help='leave out the comparison on the validation set, which --verify and --int8 make',
    )  # fmt: skip
    add_config_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """The command ``mmswinv2 export``."""
    export(**vars(parse_args(arguments)))
