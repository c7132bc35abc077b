"""Draw the amplitude of activations after every block, SwinV2 beside Swin V1 (paper, figure 2).

    plot_activations.py CONFIG --checkpoint V2.pth --v1-checkpoint V1.pth --image IMAGE

The amplitude is the root mean square of the main branch. V1 is the host package's, of the same
width and depth, and of the window of V2's first stage. Without checkpoints both are as they are
before training, where V2's blocks are the identity (their norms start at zero). Without an image
the input is noise.
"""

import copy
import re

import cv2
import torch
from mmengine.registry import MODELS

from mmswinv2 import hosts
from mmswinv2.analysis.figures import check_ending
from mmswinv2.checkpoints import fetch, read_checkpoint
from mmswinv2.checkpoints.entries import unwrap
from mmswinv2.core.block import Block
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.hosts import input_size
from mmswinv2.options import ArgumentParser, add_config, add_config_options, add_shape

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    add_config(parser)
    parser.add_argument(
        '--checkpoint', help='weights of SwinV2, of any format (those before training)'
    )
    parser.add_argument(
        '--v1-checkpoint', help="weights of Swin V1, in the host's format (those before training)"
    )
    parser.add_argument('--image', help='an image (noise)')
    add_shape(parser)
    parser.add_argument('--out', default='activations.png', help='file to write (activations.png)')
    add_config_options(parser)
    return parser.parse_args()


def twin_of_v1(host, v2):
    """The config of a Swin V1 of the same size, in the format of the host package."""
    variant, windows = v2.variant, v2.window_size[0]
    size = dict(depths=list(variant.depths), num_heads=list(variant.num_heads))
    if host == 'mmaction':
        return dict(
            type='SwinTransformer3D',
            arch=dict(embed_dims=variant.embed_dims, **size),
            window_size=windows,
            patch_size=v2.patch_embed.patch_size,
            in_channels=v2.in_channels,
            out_indices=(len(variant.depths) - 1,),
            pretrained2d=False,
        )
    if host == 'mmpretrain':
        return dict(
            type='SwinTransformer',
            arch=dict(embed_dims=variant.embed_dims, **size),
            stage_cfgs=dict(block_cfgs=dict(window_size=windows[0])),
            in_channels=v2.in_channels,
            pad_small_map=True,
        )
    return dict(
        type='SwinTransformer',
        embed_dims=variant.embed_dims,
        window_size=windows[0],
        in_channels=v2.in_channels,
        **size,
    )


def is_block(module):
    v1 = ('SwinBlock', 'SwinTransformerBlock3D')  # mmdet's, mmseg's, mmpretrain's; mmaction2's
    return isinstance(module, Block) or type(module).__name__ in v1


def amplitudes(net, x):
    """Root mean square after each block."""
    found = []

    def note(module, inputs, output):
        found.append(output.square().mean().sqrt().item())

    hooks = [m.register_forward_hook(note) for m in net.modules() if is_block(m)]
    with torch.no_grad():
        net.train(False)
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def make_input(args, channels, size):
    """Noise, or the image, repeated over time for a video network: (1, channels, *size)."""
    if args.image is None:
        return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    if channels != 3:
        raise UserError(f'--image has 3 channels, and the backbone of {args.config} {channels}')
    image = cv2.imread(args.image)
    if image is None:
        raise UserError(f'cannot read the image {args.image}')
    image = cv2.resize(image[..., ::-1], size[:-3:-1])
    x = (torch.from_numpy(image).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    x = x.permute(2, 0, 1)[None]
    return x if len(size) == 2 else x[:, :, None].expand(-1, -1, size[0], -1, -1).contiguous()


def main():
    args = parse_args()
    check_ending(args.out)
    cfg = config_with_options(args.config, args.cfg_options)
    host = hosts.of(cfg)
    hosts.use_registries(cfg)
    if hosts.own_backbone(cfg.model) is None:
        raise UserError(f'the model of {args.config} has no backbone of mmswinv2')
    config = copy.deepcopy(cfg.model.backbone)
    config.init_cfg = None
    if args.checkpoint:
        config.init_cfg = dict(type='Pretrained', checkpoint=args.checkpoint)
    torch.manual_seed(0)
    v2 = MODELS.build(config)
    v1 = MODELS.build(twin_of_v1(host.name, v2))
    for net in (v2, v1):
        net.init_weights()
    if args.v1_checkpoint:
        load_v1(v1, args.v1_checkpoint)
    x = make_input(args, v2.in_channels, input_size(cfg, args.shape))
    rows = {'Swin V2': amplitudes(v2, x), 'Swin V1': amplitudes(v1, x)}
    print('block  ' + '  '.join(f'{name:>10}' for name in rows))
    for number, values in enumerate(zip(*rows.values(), strict=True), start=1):
        print(f'{number:>5}  ' + '  '.join(f'{value:10.4f}' for value in values))

    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(layout='constrained')
    for name, values in rows.items():
        axes.semilogy(range(1, len(values) + 1), values, marker='.', label=name)
    axes.set(xlabel='block', ylabel='root mean square of the main branch')
    axes.legend()
    figure.savefig(args.out)
    print(f'wrote {args.out}')


def load_v1(net, path):
    """Load a file of the host's own format, with or without ``backbone.`` before its keys."""
    state = unwrap(read_checkpoint(fetch(path)))
    state = {k.removeprefix('backbone.'): v for k, v in state.items()}
    own = net.state_dict()
    wanted = {k: state[k] for k in own if k in state and state[k].shape == own[k].shape}
    # output norms are not in the main branch, so the file may lack them
    needed = [k for k, _ in net.named_parameters() if not re.match(r'norm\d*\.', k)]
    if missing := [k for k in needed if k not in wanted]:
        raise UserError(
            f'{path} lacks {len(missing)} weights of the Swin V1 of this size, e.g. {missing[0]}; '
            "it must be of the host package's own format, width, depth and window"
        )
    net.load_state_dict(wanted, strict=False)


if __name__ == '__main__':
    with report_user_errors():
        main()
