"""This package's network and the published implementations, built from one description.

Each function of a published one returns the model with random weights, the modules at the end of
its stages, its last norm, and a function that runs it on a batch.
"""

import contextlib
import importlib.util

import torch

from mmswinv2.core import SwinV2

SIZES = {
    'tiny': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    'small': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    'base': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    'large': (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def import_torchvision():
    """Import torchvision as mmpretrain needs it; without mmengine, it needs no preparation."""
    if importlib.util.find_spec('torchvision') is None:
        return
    with contextlib.suppress(ModuleNotFoundError):
        from mmswinv2.hosts import mmpretrain

        mmpretrain.import_torchvision()


def randomise(model):
    """Move every parameter away from its initial value, so that each affects the output."""
    torch.manual_seed(0)
    for name, p in model.named_parameters():
        noise = torch.randn_like(p)
        if 'logit_scale' in name:
            p.data = 2.3 + 0.5 * noise
        elif 'norm' in name and name.endswith('weight'):
            p.data = 0.5 + 0.1 * noise
        else:
            p.data = 0.05 * noise if p.ndim > 1 else 0.1 * noise
    model.eval()
    return model


def ours(arch, size, window, **options):
    """`SwinV2` for images ``(H, W)`` or clips ``(T, H, W)``."""
    video = dict(patch_size=(2, 4, 4), merge_stride=(1, 2, 2)) if len(size) == 3 else {}
    return SwinV2(arch, window_size=window, **video, **options)


def timm(size, image, windows, pretrained):
    import_torchvision()
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    dim, depths, heads = SIZES[size]
    model = SwinTransformerV2(
        img_size=image,
        embed_dim=dim,
        depths=depths,
        num_heads=heads,
        window_size=windows[0],
        pretrained_window_sizes=pretrained,
        num_classes=7,
        drop_path_rate=0.0,
    )
    return randomise(model), list(model.layers), model.norm, lambda x: model.forward_features(x)


def transformers(size, image, windows, pretrained):
    import_torchvision()
    from transformers import Swinv2Config, Swinv2Model

    dim, depths, heads = SIZES[size]
    model = Swinv2Model(
        Swinv2Config(
            image_size=image,
            embed_dim=dim,
            depths=depths,
            num_heads=heads,
            window_size=windows[0],
            pretrained_window_sizes=pretrained,
            drop_path_rate=0.0,
        ),
        add_pooling_layer=False,
    )
    stages = [layer.blocks[-1] for layer in model.encoder.layers]
    return randomise(model), stages, model.layernorm, lambda x: model(pixel_values=x)


def torchvision(size, image, windows, pretrained):
    import_torchvision()
    from torchvision.models.swin_transformer import (
        PatchMergingV2,
        SwinTransformer,
        SwinTransformerBlockV2,
    )

    dim, depths, heads = SIZES[size]
    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=dim,
        depths=list(depths),
        num_heads=list(heads),
        window_size=[windows[0]] * 2,
        num_classes=7,
        stochastic_depth_prob=0.0,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )
    return randomise(model), list(model.features[1::2]), model.norm, lambda x: model(x)


def mmpretrain(size, image, windows, pretrained):
    import_torchvision()
    from mmswinv2.hosts.mmpretrain_patches import leave_out_multimodal_models

    leave_out_multimodal_models.apply()
    from mmpretrain.models import SwinTransformerV2

    side = image if isinstance(image, int) else min(image)
    maps = [side / 2 ** (stage + 2) for stage in range(4)]  # padded if smaller than the window
    model = SwinTransformerV2(
        arch=size,
        img_size=image,
        window_size=list(windows),
        drop_path_rate=0.0,
        pretrained_window_sizes=list(pretrained),
        pad_small_map=any(map_ < window for map_, window in zip(maps, windows, strict=True)),
    )
    stages = [stage.blocks[-1] for stage in model.stages]
    return randomise(model), stages, model.norm3, lambda x: model(x)
