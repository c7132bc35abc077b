"""Draw what SimMIM makes of pictures: masked input, reconstruction, truth, side by side.

    simmim_demo.py CONFIG CHECKPOINT IMAGES --out FOLDER

IMAGES is a file or a folder. The network predicts pixels normalized over their neighborhood. In the
picture, they are scaled back with the truth's mean and deviation, and shown where the mask is.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, default_collate
from mmengine.registry import MODELS

from mmswinv2 import hosts
from mmswinv2.checkpoints import fetch, load_whole_model
from mmswinv2.engine.configs import config_with_options
from mmswinv2.errors import UserError, report_user_errors
from mmswinv2.files import check_writable, walk
from mmswinv2.models.simmim import NormalizedPixelLoss, local_statistics
from mmswinv2.options import ArgumentParser, add_config, add_config_options

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')


def parse_args():
    parser = ArgumentParser(description=__doc__, as_written=True)
    add_config(parser)
    parser.add_argument('checkpoint', help="this package's or the authors'")
    parser.add_argument('images', type=Path, help='a picture, or a folder of pictures')
    parser.add_argument('--number', type=int, default=8, help='most images of a folder (8)')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('reconstructions'),
        help='folder to write (reconstructions)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of crops and masks (0)')
    add_config_options(parser)
    return parser.parse_args()


def reconstruct(model, batch):
    """Three pictures (H, W, 3) in [0, 255], BGR, and the loss."""
    data = model.data_preprocessor(batch)
    x = data['inputs'][0] if isinstance(data['inputs'], list) else data['inputs']
    mask = torch.stack([sample.mask for sample in data['data_samples']])
    with torch.no_grad():
        predicted = model.neck(model.backbone(x, mask)[0])
        loss = model.head.loss(predicted, x, mask)
    mean, deviation = local_statistics(x, model.head.loss_module.patch_size)
    scale = model.head.patch_size
    masked = mask.repeat_interleave(scale, 1).repeat_interleave(scale, 2)[:, None].bool()
    shown = torch.where(masked, predicted * deviation + mean, x)
    hidden = torch.where(masked, torch.zeros_like(x), x)
    preprocessor = model.data_preprocessor

    def picture(y):
        y = y * preprocessor.std + preprocessor.mean  # RGB
        return y[0].flip(0).permute(1, 2, 0).clamp(0, 255).byte().numpy()

    return [picture(hidden), picture(shown), picture(x)], loss.item()


def main():
    args = parse_args()
    if args.number < 1:
        raise UserError(f'--number must be at least 1, got {args.number}')
    if args.images.is_dir():
        found = sorted(p for p in walk(args.images) if p.suffix.lower() in SUFFIXES)
        files = found[: args.number]
    else:
        files = [args.images] if args.images.exists() else []
    if not files:
        raise UserError(f'{args.images} holds no picture ({", ".join(SUFFIXES)})')
    check_writable(args.out, 'folder', '--out')
    cfg = config_with_options(args.config, args.cfg_options)
    hosts.of(cfg).apply()
    hosts.use_registries(cfg)
    model = MODELS.build(cfg.model).eval()
    head = getattr(model, 'head', None)
    if not isinstance(getattr(head, 'loss_module', None), NormalizedPixelLoss):
        raise UserError(f'{args.config} is no SimMIM with mmswinv2.NormalizedPixelLoss')
    print(load_whole_model(model, fetch(args.checkpoint)))
    pipeline = Compose(hosts.training_pipeline(cfg))
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    losses = []
    for number, file in enumerate(files):
        pictures, loss = reconstruct(model, default_collate([pipeline(dict(img_path=str(file)))]))
        losses.append(loss)
        path = args.out / f'{number:03d}_{file.stem}.png'
        if not cv2.imwrite(str(path), np.concatenate(pictures, axis=1)):
            raise UserError(f'{path} cannot be written')
    print(f'{len(files)} pictures in {args.out}, mean loss {np.mean(losses):.4f}')


if __name__ == '__main__':
    with report_user_errors():
        main()
