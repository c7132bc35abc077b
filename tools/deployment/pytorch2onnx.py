"""Export the backbone and the neck of a config's model to ONNX, for maps of any size.

Input: images ``(B, 3, H, W)`` or clips ``(B, 3, T, H, W)`` as the data preprocessor leaves them;
outputs: the maps of the neck, or of the backbone where there is no neck. Batch and sizes stay open.
With --verify, onnxruntime runs the file at several sizes beside the model.
"""

import argparse
import contextlib
import logging
import signal
import sys
import warnings

import numpy as np
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.fx.experimental import _config as symbols

from mmswinv2 import hosts
from mmswinv2.analysis.model import ready
from mmswinv2.checkpoints import fetch, load_but
from mmswinv2.checkpoints.write import write_atomically
from mmswinv2.core import SwinV2
from mmswinv2.engine.launch import config_with_options
from mmswinv2.engine.settings import add_config_options
from mmswinv2.errors import UserError, report_user_errors

TOLERANCE = 1e-4  # of the largest value


class Features(nn.Module):
    """What `extract_feat` of the host packages' models does."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone
        self.neck = model.neck if getattr(model, 'with_neck', False) else nn.Identity()

    def forward(self, image):
        outs = self.neck(self.backbone(image))
        return tuple(outs) if isinstance(outs, (tuple, list)) else (outs,)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file path')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint; random weights without one')
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
        for p in model.parameters():  # a new block starts as the identity, which shows nothing
            nn.init.normal_(p, std=0.05)
        return Features(model).eval()
    print(load_but(model, fetch(checkpoint)))
    return Features(model).eval()


def example(features):
    """An input of which even the last map is more than two windows wide."""
    core = features.backbone
    strides, axes = core.patch_embed.patch_size, len(core.patch_embed.patch_size)
    merging = next((s.downsample.stride for s in core.layers if s.downsample), (1,) * axes)
    last = len(core.layers) - 1
    size = [
        2 * m * patch * stride**last + 1
        for m, patch, stride in zip(core.window_sizes[last], strides, merging, strict=True)
    ]
    return torch.rand(2, core.patch_embed.proj.in_channels, *size)


def export(features):
    """The example that was exported, and the content of the file.

    The example has several windows along each axis of each map, and torch is told to take no size
    of it for special, so that what it writes down holds for one window too.
    """
    image = example(features)
    names = 'BTHW' if image.ndim == 5 else 'BHW'
    axes = [0, *range(2, image.ndim)]
    open_ = {axis: torch.export.Dim(name) for axis, name in zip(axes, names, strict=True)}
    with torch.no_grad(), symbols.patch(backed_size_oblivious=True):
        program = torch.export.export(
            features, (image,), dynamic_shapes=(open_,), strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )  # fmt: skip
        outputs = [f'map{i}' for i in range(len(features(image)))]
        # torch prints the steps it takes, which nobody asked for
        with contextlib.redirect_stdout(None):
            exported = torch.onnx.export(
                program, (image,), dynamo=True, input_names=['image'], output_names=outputs
            )
    return image, exported.model_proto.SerializeToString()


def verify(features, graph, image):
    import onnxruntime

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
            worst = np.maximum(worst, difference)  # not a number stays
        print(f'{tuple(some.shape)}: {len(got)} maps, largest difference so far {worst:.1e}')
    if not worst < TOLERANCE:
        raise UserError(
            f'the graph differs from the model by {worst:.1e} of the largest value, more than '
            f'{TOLERANCE}; no file was written'
        )


def main():
    args = parse_args()
    cfg = config_with_options(args.config, args.cfg_options)
    features = build_features(cfg, args.checkpoint)
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch's own exporter
        image, graph = export(features)
        if args.verify:
            verify(features, graph, image)
    write_atomically(args.output_file, lambda file: file.write(graph))
    print(f'Successfully exported ONNX model: {args.output_file}')


if __name__ == '__main__':
    # so that what is half written goes
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with report_user_errors():
        main()
