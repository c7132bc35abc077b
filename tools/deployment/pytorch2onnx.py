"""Export the backbone and the neck of a config's model to ONNX, for maps of any size.

Input: images ``(B, 3, H, W)`` or clips ``(B, 3, T, H, W)`` as the data preprocessor leaves them;
outputs: the maps of the neck, or of the backbone where there is no neck. Batch and sizes stay open.
With --verify, onnxruntime runs the file at several sizes beside the model.
"""

import signal
import sys

import numpy as np
import torch
from mmengine.registry import MODELS
from torch import nn

from mmswinv2 import hosts
from mmswinv2.analysis.model import ready
from mmswinv2.checkpoints import fetch, load_whole_model
from mmswinv2.core import SwinV2
from mmswinv2.deploy.graph import picture_size, write_onnx
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError, needed, report_user_errors
from mmswinv2.files import write_atomically
from mmswinv2.options import ArgumentParser, add_config, add_config_options

TOLERANCE = 1e-4  # of the largest value


class Features(nn.Module):
    """Backbone and neck, as in `extract_feat` of the host packages' models."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone
        self.neck = model.neck if getattr(model, 'with_neck', False) else nn.Identity()

    def forward(self, image):
        outs = self.neck(self.backbone(image))
        return tuple(outs) if isinstance(outs, (tuple, list)) else (outs,)


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    add_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='weights (random ones)')
    parser.add_argument('--output-file', default='tmp.onnx', help='the file to write (tmp.onnx)')
    parser.add_argument('--verify', action='store_true', help='compare with onnxruntime')
    add_config_options(parser)
    return parser.parse_args()


def build_features(cfg, checkpoint):
    hosts.apply()
    model = MODELS.build(ready(cfg))
    if not isinstance(getattr(model, 'backbone', None), SwinV2):
        raise UserError(f'{cfg.model.type} has no backbone of mmswinv2 to export')
    if checkpoint is None:
        for p in model.parameters():  # new blocks are the identity, which tests nothing
            nn.init.normal_(p, std=0.05)
        return Features(model).eval()
    print(load_whole_model(model, fetch(checkpoint)))
    return Features(model).eval()


def export(features):
    """An image or clip whose last map is over two windows wide, and the content of the file."""
    core = features.backbone
    image = torch.rand(2, core.patch_embed.proj.in_channels, *picture_size(core))
    names = 'BTHW' if image.ndim == 5 else 'BHW'
    axes = [0, *range(2, image.ndim)]
    sizes = {axis: torch.export.Dim(name) for axis, name in zip(axes, names, strict=True)}
    with torch.no_grad():
        outputs = [f'map{i}' for i in range(len(features(image)))]
    return image, write_onnx(features, dict(image=image), dict(image=sizes), outputs)


def verify(features, graph, image):
    onnxruntime = needed('onnxruntime', '--verify')
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    worst = 0.0
    for numerator in (4, 5, 1):  # of the example's size; the last has a window or less
        size = [max(1, n * numerator // 4 - 3) for n in image.shape[2:]]
        some = torch.rand(1, image.shape[1], *size)
        with torch.no_grad():
            expected = features(some)
        got = session.run(None, {'image': some.numpy()})
        for ours, theirs in zip(expected, got, strict=True):
            difference = abs(ours.numpy() - theirs).max() / ours.abs().max().item()
            worst = np.maximum(worst, difference)  # keeps NaN, unlike max()
        print(f'{tuple(some.shape)}: {len(got)} maps, largest difference so far {worst:.1e}')
    if not worst < TOLERANCE:
        raise UserError(
            f'the graph differs from the model by {worst:.1e} of the largest value, more than '
            f'{TOLERANCE}; no file was written'
        )


def main():
    args = parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    if args.verify:  # before the export, not after
        needed('onnxruntime', '--verify')
    features = build_features(cfg, args.checkpoint)
    image, graph = export(features)
    if args.verify:
        verify(features, graph, image)
    write_atomically(args.output_file, lambda file: file.write(graph))
    print(f'Successfully exported ONNX model: {args.output_file}')


if __name__ == '__main__':
    # exit by an exception, so that partial files are removed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with report_user_errors():
        main()
