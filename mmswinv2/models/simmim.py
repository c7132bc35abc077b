"""SimMIM (https://arxiv.org/abs/2111.09886): the parts that mmpretrain lacks for SwinV2.

The algorithm, the decoder and the masks are mmpretrain's ``SimMIM``, ``SimMIMLinearDecoder`` and
``SimMIMMaskGenerator``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import is_count, want
from ..errors import UserError
from ..registry import MODELS
from .backbones import SwinTransformerV2


@MODELS.register_module()
class SimMIMSwinTransformerV2(SwinTransformerV2):
    """A SwinV2 that sees a learnt token in place of each masked patch.

    Its state-dict keys are those of `SwinTransformerV2` and ``mask_token``, so that its checkpoints
    load into any backbone.

    Args:
        out_indices: one stage, whose map the decoder takes.
        **kwargs: of `SwinTransformerV2`.

    Raises:
        UserError: if `out_indices` has several stages, or if `lora` is given.
    """

    def __init__(self, out_indices: Sequence[int] = (3,), **kwargs: Any) -> None:
        if kwargs.get('lora') is not None:
            raise UserError('SimMIM trains the whole backbone; leave lora out')
        super().__init__(out_indices=out_indices, **kwargs)
        want('out_indices', out_indices, 'one stage for SimMIM', len(self.out_indices) == 1)
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.num_features[0]))
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """``(B, C, H, W)`` to one map per output.

        Args:
            x: the images.
            mask: ``(B, H / patch, W / patch)``, 1 where a patch is masked; ``None``: none is.

        Raises:
            UserError: if the mask has another size than the map of patches.
        """
        if mask is None:
            return super().forward(x)
        tokens = self.patch_embed(x)
        if mask.shape != tokens.shape[:-1]:
            raise UserError(
                f'the mask is {tuple(mask.shape)}, and the images have {tuple(tokens.shape[:-1])} '
                'patches; give SimMIMMaskGenerator the input_size of the crops and the '
                "model_patch_size of the backbone's patches"
            )
        masked = mask.bool().unsqueeze(-1)
        return self.forward_tokens(torch.where(masked, self.mask_token.to(tokens.dtype), tokens))


@MODELS.register_module()
class NormalizedPixelLoss(nn.Module):
    """L1 loss between the reconstruction and the image, on masked pixels only.

    The image is normalised by mean and variance over the neighbourhood of each pixel (SwinV2's
    authors' ``models/simmim.py``; mmpretrain's ``PixelReconstructionLoss`` compares raw pixels).

    Args:
        patch_size: side of the neighbourhood, odd.
    """

    def __init__(self, patch_size: int = 47) -> None:
        super().__init__()
        odd = is_count(patch_size, minimum=3) and patch_size % 2 == 1
        want('patch_size', patch_size, 'odd and at least 3', odd)
        self.patch_size = patch_size

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean absolute difference.

        Args:
            pred: ``(B, C, H, W)``, the reconstruction.
            target: ``(B, C, H, W)``, the images.
            mask: ``(B, 1, H, W)``, 1 where a pixel is masked.
        """
        mean, deviation = local_statistics(target.float(), self.patch_size)
        difference = (pred - (target - mean) / deviation).abs()
        return (difference * mask).sum() / (mask.sum() + 1e-5) / target.shape[1]


def local_statistics(images: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (unbiased) inside the image around each pixel, per channel.

    `images` are ``(B, C, H, W)``, `patch_size` is the side of the neighbourhood, odd.
    """

    def share(x: Tensor) -> Tensor:
        """Sum over the neighbourhood inside the image, divided by its full size; axis by axis."""
        half = patch_size // 2
        x = F.avg_pool2d(x, (patch_size, 1), stride=1, padding=(half, 0))
        return F.avg_pool2d(x, (1, patch_size), stride=1, padding=(0, half))

    inside = share(torch.ones_like(images[:1, :1]))
    count = inside * patch_size**2
    mean = share(images) / inside
    variance = (share(images**2) / inside - mean**2) * (count / (count - 1).clamp(min=1))
    return mean, (variance.clamp(min=0) + 1e-6).sqrt()
